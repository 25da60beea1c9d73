"""Models in files: round trips, and files that are not what they should be."""

from __future__ import annotations

import contextlib
import json
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from numbaconv import nn

RECIPE = {"model": "resnet20", "arguments": {"num_classes": 4, "in_channels": 1}}


@pytest.fixture(params=[".npz", ".safetensors"])
def path(request, tmp_path):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"model{request.param}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip(path, dtype) -> None:
    model = nn.models.resnet20(4, 1, rng=0, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(dtype)
    model(x)  # running statistics of its own
    metadata = RECIPE | {"input_shape": [1, 8, 8], "mean": 0.5, "classes": ["null", "eins", "zwei", "drei"]}
    nn.save_model(path, model, metadata)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    again, found = nn.load_model(str(path))
    assert found == metadata
    assert not again.training
    np.testing.assert_array_equal(again(x), model.eval()(x))
    state, found = nn.load_state(path)
    assert found == metadata
    assert state.keys() == model.state_dict().keys()


def test_model_of_ones_own(path) -> None:
    model = nn.Sequential(nn.Linear(3, 2, rng=0))
    nn.save_model(path, model)
    with pytest.raises(ValueError, match="does not say which model"):
        nn.load_model(path)
    other = nn.Sequential(nn.Linear(3, 2, rng=1))
    other.load_state_dict(nn.load_state(path)[0])
    np.testing.assert_array_equal(other[0].weight.data, model[0].weight.data)


def test_permissions_and_overwriting(path) -> None:
    path.write_bytes(b"old")
    nn.save_model(path, nn.Linear(3, 2))
    nn.load_state(path)
    plain = path.with_suffix(".plain")
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(path, share) -> None:
    nn.save_model(path, nn.models.digits_cnn(rng=0), {"model": "digits_cnn"})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match="is damaged, or no"):
        nn.load_model(path)


def test_flipped_bits(path) -> None:
    """Whatever a file holds: it is read, or refused with a ValueError."""
    nn.save_model(path, nn.Linear(3, 2, rng=0))
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            broken[position] ^= 1 << rng.integers(0, 8)
        path.write_bytes(broken)
        with contextlib.suppress(ValueError):
            nn.load_state(path)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"PK\x03\x04" + bytes(100), b"\xff" * 64, bytes(1000)])
def test_garbage(path, content) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged, or no"):
        nn.load_state(path)


def test_foreign_files(tmp_path) -> None:
    path = tmp_path / "model.npz"
    np.savez(path, weight=np.zeros(3))
    with pytest.raises(ValueError, match="not written by numbaconv"):
        nn.load_state(path)
    np.savez(path, weight=np.array([{}], object))
    with pytest.raises(ValueError, match="is damaged"):  # never unpickled
        nn.load_state(path)
    np.savez_compressed(path, weight=np.zeros(10**7))  # 10 kB that would become 80 MB
    with pytest.raises(ValueError, match="compressed"):
        nn.load_state(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="no array"):
        nn.load_state(path)
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="not written by numbaconv"):
        nn.load_state(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": "numbaconv-model", "version": "2", "metadata": "{}"}, "version 2"),
        ({"format": "numbaconv-model", "version": "1"}, "metadata"),
        ({"format": "numbaconv-model", "version": "1", "metadata": "["}, "metadata"),
        ({"format": "numbaconv-model", "version": "1", "metadata": "[]"}, "mapping"),
        ({"format": "numbaconv-model", "version": "1", "metadata": '{"model": "vgg"}'}, "'vgg' is unknown"),
        ({"format": "numbaconv-model", "version": "1", "metadata": '{"model": [1]}'}, "unknown"),
        ([1], "not written by numbaconv"),
    ],
)
def test_headers(tmp_path, header, message) -> None:
    path = tmp_path / "model.npz"
    np.savez(path, __metadata__=np.array(json.dumps(header)), weight=np.zeros(3))
    with pytest.raises(ValueError, match=message):
        nn.load_model(path)


@pytest.mark.parametrize("arguments", [{"num_classes": 5}, {"num_classes": "a"}, {"image_size": [8, 9]}])
def test_state_and_recipe_that_do_not_fit(path, arguments) -> None:
    nn.save_model(path, nn.models.digits_cnn(rng=0), {"model": "digits_cnn", "arguments": arguments})
    with pytest.raises(ValueError, match=path.name):
        nn.load_model(path)


@pytest.mark.parametrize("arguments", [{"num_classes": 10**9}, {"image_size": [4096, 4096]}, {"in_channels": 10**7}])
def test_a_model_that_would_be_larger_than_its_file(path, arguments) -> None:
    nn.save_model(path, nn.models.digits_cnn(rng=0), {"model": "digits_cnn", "arguments": arguments})
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"model\..*would have more than 3,818 numbers"):
        nn.load_model(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("arguments", [{"colour": 1}, [1]])
def test_bad_recipes(path, arguments) -> None:
    with pytest.raises(ValueError, match="must be among"):
        nn.save_model(path, nn.models.digits_cnn(rng=0), {"model": "digits_cnn", "arguments": arguments})


def test_bad_calls(tmp_path, monkeypatch) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"must end in .safetensors or .npz"):
        nn.save_model(tmp_path / "model.pt", model)
    with pytest.raises(ValueError, match="'vgg' is unknown"):
        nn.save_model(tmp_path / "model.npz", model, {"model": "vgg"})
    with pytest.raises(TypeError, match=r"nn.Module, got 3"):
        nn.save_model(tmp_path / "model.npz", 3)
    with pytest.raises(TypeError, match="JSON"):
        nn.save_model(tmp_path / "model.npz", model, {"mean": np.float32(1)})
    with pytest.raises(FileNotFoundError):
        nn.load_model(tmp_path / "nowhere.npz")
    with pytest.raises(FileNotFoundError):
        nn.save_model(tmp_path / "nowhere" / "model.npz", model)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (
        lambda: nn.save_model(tmp_path / "m.safetensors", model),
        lambda: nn.load_state(tmp_path / "m.safetensors"),
    ):
        with pytest.raises(ModuleNotFoundError, match=r"pip install \"numbaconv\[cli\]\""):
            call()
    assert list(tmp_path.iterdir()) == []
