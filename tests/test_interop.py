"""Weights that come from PyTorch and go back; those that do not fit."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from numbaconv import nn

ROOT = Path(__file__).parent.parent
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "interop.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


# -- the four models as one would write them with torch ----------------------------------------------------------------


def digits_cnn(t):
    return t.Sequential(
        t.Conv2d(1, 8, 3, padding=1), t.ReLU(),
        t.Conv2d(8, 16, 3, stride=2, padding=1), t.ReLU(),
        t.Flatten(), t.Linear(256, 10),
    )  # fmt: skip


def lenet5(t):
    return t.Sequential(
        t.Conv2d(1, 6, 5, padding=2), t.ReLU(), t.MaxPool2d(2),
        t.Conv2d(6, 16, 5), t.ReLU(), t.MaxPool2d(2),
        t.Flatten(), t.Linear(400, 120), t.ReLU(), t.Linear(120, 84), t.ReLU(), t.Linear(84, 10),
    )  # fmt: skip


def mnist_cnn(t):
    return t.Sequential(
        t.Conv2d(1, 32, 3, padding=1), t.ReLU(), t.MaxPool2d(2),
        t.Conv2d(32, 64, 3, padding=1), t.ReLU(), t.MaxPool2d(2),
        t.Flatten(), t.Linear(3136, 128), t.ReLU(), t.Linear(128, 10),
    )  # fmt: skip


def resnet20(t):
    class Residual(t.Module):
        def __init__(self, channels_in, channels, stride):
            super().__init__()
            self.main = t.Sequential(
                t.Conv2d(channels_in, channels, 3, stride, 1, bias=False), t.BatchNorm2d(channels), t.ReLU(),
                t.Conv2d(channels, channels, 3, 1, 1, bias=False), t.BatchNorm2d(channels),
            )  # fmt: skip
            self.shortcut = t.Identity()
            if stride != 1:
                convolution = t.Conv2d(channels_in, channels, 1, stride, bias=False)
                self.shortcut = t.Sequential(convolution, t.BatchNorm2d(channels))

        def forward(self, x):
            return self.main(x) + self.shortcut(x)

    layers = [t.Conv2d(3, 16, 3, 1, 1, bias=False), t.BatchNorm2d(16), t.ReLU()]
    for channels_in, channels, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
        layers += [Residual(channels_in, channels, stride), t.ReLU()]
        for _ in range(2):
            layers += [Residual(channels, channels, 1), t.ReLU()]
    pooling = t.Sequential(t.AdaptiveAvgPool2d(1), t.Flatten())  # one layer of ours: nested, so that the numbers agree
    return t.Sequential(*layers, pooling, t.Linear(64, 10))


MODELS = [(digits_cnn, (1, 8, 8)), (lenet5, (1, 28, 28)), (mnist_cnn, (1, 28, 28)), (resnet20, (3, 32, 32))]


def assert_close(ours, theirs, tolerance: float, name: str = "") -> None:
    """Equal up to ``tolerance`` times the largest value."""
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max(), err_msg=name)


@pytest.mark.parametrize("memory_format", ["contiguous_format", "channels_last"])
@pytest.mark.parametrize(("build", "shape"), MODELS, ids=[build.__name__ for build, _ in MODELS])
class TestModels:
    """The same names, logits both ways, and the same state after steps of training."""

    def test_logits_of_torch(self, torch, build, shape, memory_format) -> None:
        memory_format = getattr(torch, memory_format)
        x = np.random.default_rng(0).standard_normal((4, *shape), np.float32)
        tx = torch.from_numpy(x).to(memory_format=memory_format)
        torch.manual_seed(0)
        theirs, ours = build(torch.nn).to(memory_format=memory_format), nn.models.MODELS[build.__name__](rng=1)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        with torch.no_grad():
            theirs(tx)  # running statistics of their own
            assert nn.load_torch_state_dict(ours, theirs.state_dict()) == ([], [])
            assert_close(ours.eval()(x), theirs.eval()(tx), 1e-5)
            theirs = build(torch.nn).to(memory_format=memory_format)  # with other weights
            theirs.load_state_dict(nn.to_torch_state_dict(ours))
            assert_close(ours(x), theirs.eval()(tx), 1e-5)

    def test_training_as_torch(self, torch, build, shape, memory_format) -> None:
        """In float64: in float32 the rounding alone, torch's too, changes resnet20 by 1e-3 within two steps."""
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((4, *shape)), rng.integers(0, 10, 4)
        tx, ty = torch.from_numpy(x).to(memory_format=getattr(torch, memory_format)), torch.from_numpy(y)
        torch.manual_seed(0)
        theirs = build(torch.nn).to(torch.float64, memory_format=getattr(torch, memory_format))
        ours = nn.models.MODELS[build.__name__](rng=1, dtype=np.float64)
        nn.load_torch_state_dict(ours, theirs.state_dict())
        trainer = nn.Trainer(ours, nn.SGD(lr=0.01, momentum=0.9))
        optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
        for _ in range(2):  # in the second, the momentum counts
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(theirs(tx), ty)
            loss.backward()
            optimizer.step()
            assert trainer.step(x, y) == pytest.approx(loss.item(), rel=1e-10)
        for name, value in theirs.state_dict().items():
            assert_close(ours.state_dict()[name], value, 1e-10, name)  # running statistics are among them


def test_torch_files(torch, tmp_path) -> None:
    """Files of safetensors.torch are read here, and ours there."""
    safetensors = pytest.importorskip("safetensors.torch")
    theirs = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)).train()
    theirs(torch.randn(2, 2, 5, 5))
    ours = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        theirs.to(dtype)
        safetensors.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
        state = nn.load_safetensors(tmp_path / "theirs.safetensors")
        assert list(state) == sorted(theirs.state_dict())
        nn.load_torch_state_dict(ours, state)
        for name, value in theirs.state_dict().items():
            np.testing.assert_array_equal(ours.state_dict()[name], value.float(), err_msg=name)
    nn.save_model(tmp_path / "ours.safetensors", ours)
    found, expected = safetensors.load_file(tmp_path / "ours.safetensors"), nn.to_torch_state_dict(ours)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    theirs.float().load_state_dict(found)
    safetensors.save_file({"weight": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "eight.safetensors")
    with pytest.raises(ValueError, match="holds arrays of F8_E4M3"):
        nn.load_safetensors(tmp_path / "eight.safetensors")


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "float8_e4m3fn"])
def test_torch_dtypes(torch, dtype) -> None:
    """Values of other precisions are those of the model, as near as it has them."""
    values = torch.linspace(-2, 2, 6).reshape(2, 3).to(getattr(torch, dtype))
    layer = nn.Linear(3, 2, bias=False)
    nn.load_torch_state_dict(layer, {"weight": values})
    np.testing.assert_array_equal(layer.weight.data, values.float())
    nn.load_torch_state_dict(layer.astype(np.float64), {"weight": values})
    np.testing.assert_array_equal(layer.weight.data, values.double())


def test_torch_tensors_of_any_kind(torch) -> None:
    layer = nn.Conv2d(2, 3, 3, bias=False)
    weight = torch.randn(3, 2, 3, 3)
    for value in (torch.nn.Parameter(weight), weight.to(memory_format=torch.channels_last), weight.numpy()):
        nn.load_torch_state_dict(layer, {"weight": value})
        np.testing.assert_array_equal(layer.weight.data, weight)
    for value in (weight.to("meta"), weight.to_sparse()):
        with pytest.raises(TypeError, match="'weight' cannot be converted"):
            nn.load_torch_state_dict(layer, {"weight": value})
    np.testing.assert_array_equal(layer.weight.data, weight)


def test_what_goes_to_torch_is_a_copy(torch) -> None:
    layer = nn.Linear(3, 2, rng=0)
    before = layer.weight.data.copy()
    nn.to_torch_state_dict(layer)["weight"].zero_()
    np.testing.assert_array_equal(layer.weight.data, before)


class OnDevice:
    """What a tensor on another device is: an array only after detach() and cpu()."""

    def __init__(self, data, steps=()) -> None:
        self.data, self.steps = data, steps

    def detach(self):
        return OnDevice(self.data, (*self.steps, "detach"))

    def cpu(self):
        return OnDevice(self.data, (*self.steps, "cpu"))

    def __array__(self, dtype=None, copy=None):
        assert self.steps == ("detach", "cpu")
        return self.data


def test_other_devices() -> None:
    layer, weight = nn.Linear(3, 2, bias=False), np.arange(6.0).reshape(2, 3)
    nn.load_torch_state_dict(layer, {"weight": OnDevice(weight)})
    np.testing.assert_array_equal(layer.weight.data, weight)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.BatchNorm2d(2))


def test_batches_tracked_may_be_missing() -> None:
    ours = model()
    ours(np.random.default_rng(0).random((2, 1, 4, 4), np.float32))
    state = model().state_dict()
    del state["1.num_batches_tracked"]
    assert nn.load_torch_state_dict(ours, state) == ([], [])
    assert ours[1].num_batches_tracked == 1
    np.testing.assert_array_equal(ours[1].running_mean, 0)


def test_not_strict() -> None:
    ours, before = model(), model().state_dict()
    state = {"0.bias": np.array([7.0, 8.0]), "2.weight": np.zeros(3)}
    keys = nn.load_torch_state_dict(ours, state, strict=False)
    assert keys.missing_keys == ["0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"]
    assert keys.unexpected_keys == ["2.weight"]
    for name, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, [7, 8] if name == "0.bias" else before[name])


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("change", "error", "messages"),
    [
        (
            {"0.weight": np.zeros((2, 1, 5, 5))},
            ValueError,
            [r"'0.weight' has shape \(2, 1, 5, 5\), but \(2, 1, 3, 3\)"],
        ),
        (
            {"0.bias": np.zeros(3), "1.weight": np.zeros((2, 1)), "1.running_var": np.zeros(2, complex)},
            ValueError,
            ["'0.bias' has shape", "'1.weight' has shape", "'1.running_var' has dtype complex128, but float32"],
        ),
        ({"1.num_batches_tracked": np.float32(2)}, ValueError, ["dtype float32, but int64"]),
        ({"1.bias": None}, TypeError, ["'1.bias' must be a tensor"]),
        ({"1.bias": "zero"}, TypeError, ["'1.bias' must be a tensor .* got str"]),
        ({"1.bias": [[1], [2, 3]]}, TypeError, ["'1.bias' cannot be converted"]),
        ({"model": {}, "epoch": 3}, TypeError, [r"give the one of the model \(state_dict\['model'\]\)"]),
    ],
    ids=str,
)
def test_states_that_do_not_fit(change, error, messages, strict) -> None:
    """Everything that is wrong is named, and nothing is changed."""
    ours, before = model(), model().state_dict()
    state = {name: value + 1 for name, value in before.items()} | change
    with pytest.raises(error) as caught:
        nn.load_torch_state_dict(ours, state, strict)
    for message in messages:
        assert re.search(message, str(caught.value))
    for name, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_strict_names_all_that_is_missing_or_unexpected() -> None:
    state = {f"module.{name}": value for name, value in model().state_dict().items()}
    with pytest.raises(ValueError) as caught:
        nn.load_torch_state_dict(model(), state)
    for name in model().state_dict():
        assert ("missing '" + name in str(caught.value)) == (name != "1.num_batches_tracked")
        assert f"unexpected 'module.{name}'" in str(caught.value)


@pytest.mark.parametrize("call", [lambda: nn.load_torch_state_dict({}, {}), lambda: nn.to_torch_state_dict(3)])
def test_no_module(call) -> None:
    with pytest.raises(TypeError, match="model must be an instance of nn"):
        call()


@pytest.mark.parametrize("state", [None, [("weight", 1)], "model.pt"])
def test_no_mapping(state) -> None:
    with pytest.raises(TypeError, match="must be a mapping"):
        nn.load_torch_state_dict(model(), state)


def test_bad_files(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    nn.save_model(path, model())
    content = path.read_bytes()
    for broken in (b"", b"garbage" * 9, content[:-1], content + b"\0", b"\xff" * 8 + content[8:], content[:40]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="is damaged, or no safetensors file"):
            nn.load_safetensors(path)
    path.write_bytes(content.replace(b'"I64"', b'"C64"'))
    with pytest.raises(ValueError, match=r"damaged|C64"):
        nn.load_safetensors(path)
    with pytest.raises(FileNotFoundError):
        nn.load_safetensors(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("module", "call", "message"),
    [
        ("torch", lambda: nn.to_torch_state_dict(model()), "pip install torch"),
        ("safetensors", lambda: nn.load_safetensors("model.safetensors"), r'pip install "numbaconv\[cli\]"'),
    ],
)
def test_what_is_not_installed_is_named(module, call, message, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=message):
        call()


@pytest.mark.parametrize("code", EXAMPLES, ids=[code.splitlines()[-1] for code in EXAMPLES])
def test_examples_of_the_documentation(code, tmp_path, monkeypatch) -> None:
    if "import torch" in code:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    exec(code, {})


def test_torch_example(torch, capsys) -> None:
    runpy.run_path(str(ROOT / "examples" / "torch_weights.py"))
    accuracies = re.findall(r"accuracy ([\d.]+)%", capsys.readouterr().out)
    assert len(accuracies) == 2
    assert min(map(float, accuracies)) > 96
