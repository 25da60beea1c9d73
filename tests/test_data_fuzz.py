"""Damaged files of every format: each is read, or is an error of one line, and takes no more memory than it should.

``NUMBACONV_FUZZ=4000 pytest tests/test_data_fuzz.py`` tries so many of every format, 100,000 in all.
"""

import contextlib
import copy
import gzip
import io
import json
import math
import os
import pickle
import sys
import tracemalloc
import warnings
import zipfile

import numba
import numpy as np
import pytest
from data_files import CIFAR_IMAGES, CIFAR_LABELS, cifar10_batch, cifar10_bin, cifar10_meta, idx_bytes, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numbaconv import data, nn
from numbaconv.cli.errors import UsageError
from numbaconv.cli.predict import Predictor
from numbaconv.nn.files import read_arrays, write_arrays
from numbaconv.study.report import show
from numbaconv.study.results import Cell, Study, Timing

EXAMPLES = int(os.environ.get("NUMBACONV_FUZZ", "60"))
MOST_MEMORY = 24 << 20

IMAGES = np.random.RandomState(0).randint(0, 256, (6, 5, 4)).astype(np.uint8)
LABELS = np.array([0, 1, 0, 1, 0, 1], np.uint8)


def saved(save, *arrays, **named):
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


def image_formats():
    """Of images, whose reader may be missing."""
    pytest.importorskip("PIL")
    colour = np.dstack([IMAGES[0], IMAGES[1], IMAGES[2]])
    return {
        "png": ("a.png", picture(colour)),
        "png-grey": ("a.png", picture(np.kron(IMAGES[0], np.ones((9, 9), np.uint8)))),
        "png-palette": (
            "a.png",
            picture(IMAGES[0] > 9, exif=b"Exif\0\0II*\0\10\0\0\0\1\0\22\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"),
        ),
        "jpeg": ("a.jpg", picture(np.kron(IMAGES[0], np.ones((9, 9), np.uint8)), "JPEG")),
        "jpeg-progressive": ("a.jpg", picture(colour, "JPEG", progressive=True, exif=b"Exif\0\0II*\0\10\0\0\0\0\0")),
    }


#: By name: the file that is damaged and what it holds; what lies beside it, if anything.
FORMATS = {
    "idx": ("train-images-idx3-ubyte", idx_bytes(IMAGES)),
    "idx-labels": ("train-labels-idx1-ubyte", idx_bytes(LABELS)),
    "idx.gz": ("train-images-idx3-ubyte", gzip.compress(idx_bytes(IMAGES))),
    "idx-float": ("train-images-idx3-ubyte", idx_bytes((IMAGES / 255).astype(">f4"), 0x0D)),
    "npz": ("a.npz", saved(np.savez, images=IMAGES, labels=LABELS)),
    "npz-compressed": ("a.npz", saved(np.savez_compressed, x_train=IMAGES, y_train=LABELS, x_test=IMAGES)),
    "npy": ("a.npy", saved(np.save, IMAGES)),
    "npy-float": ("a.npy", saved(np.save, IMAGES / 255)),
    "cifar-bin": ("data_batch_1.bin", cifar10_bin(CIFAR_IMAGES[:2], CIFAR_LABELS[:2])),
    "cifar-python": ("data_batch_1", cifar10_batch(CIFAR_IMAGES[:2], CIFAR_LABELS[:2])),
    "cifar-python-4": (
        "data_batch_1",
        pickle.dumps({"labels": [3, 1], "data": CIFAR_IMAGES[:2].reshape(2, -1)}, 4),
    ),
    "cifar-meta": ("batches.meta", cifar10_meta()),
}  # fmt: skip
IMAGE_FORMATS = ("png", "png-grey", "png-palette", "jpeg", "jpeg-progressive")


def beside(name):
    """The other files that make a data set of this one."""
    if "idx" in name:
        return {
            "train-images-idx3-ubyte": idx_bytes(IMAGES),
            "train-labels-idx1-ubyte": idx_bytes(LABELS),
        }
    if name == "data_batch_1.bin":
        names = [f"data_batch_{i}.bin" for i in range(2, 6)] + ["test_batch.bin"]
        return dict.fromkeys(names, cifar10_bin(CIFAR_IMAGES[:2], CIFAR_LABELS[:2]))
    if name in ("data_batch_1", "batches.meta"):
        names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        return dict.fromkeys(names, cifar10_batch(CIFAR_IMAGES[:2], CIFAR_LABELS[:2]))
    return {}


INTERESTING = [
    b"\0",
    b"\1",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"9" * 9,
    b".",
]


@st.composite
def damaged(draw, content):
    """``content`` with a few bytes changed, put in, left out or repeated; more often in front, where headers are."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 5))):
        reach = draw(st.sampled_from([16, 80, len(result)]))
        position = draw(st.integers(0, max(0, min(reach, len(result)) - 1)))
        if draw(st.booleans()) and reach < len(result):
            position = len(result) - 1 - position  # archives have their headers at the end
        new = draw(st.one_of(st.sampled_from(INTERESTING), st.binary(min_size=1, max_size=8)))
        match draw(st.integers(0, 5)):
            case 0 | 1 | 2:
                result[position : position + len(new)] = new
            case 3:
                result[position:position] = new
            case 4:
                del result[position : position + draw(st.integers(1, 40))]
            case 5:
                length = draw(st.integers(1, 60))
                result[position:position] = result[position : position + length]
    if draw(st.integers(0, 9)) == 0:
        del result[draw(st.integers(0, len(result))) :]
    return bytes(result)


def read_data(path):
    """A data set."""
    source = data.open_source(path)
    for part in (source.train, source.test):
        assert part is None or part.images.dtype in (np.uint8, np.float32)
    if source.train is not None and source.train.labels is not None:
        data.Dataset.from_source(source)


def check(path, read):
    """What is at ``path`` is read whole, or is an error that a user can be shown."""
    tracemalloc.start()
    try:
        read(path)
    except (ValueError, OSError, UsageError) as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert str(path) in message or path.name in message, message
        assert len(message) < 600, message
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MOST_MEMORY


@pytest.fixture(autouse=True, scope="module")
def compiler():
    """What Numba compiles with is imported once, and takes as much memory as a file may: here, it is no file's."""
    numba.njit(lambda: None)()


@contextlib.contextmanager
def little_memory():
    """Also of what Python does not count: that of Pillow, and of safetensors."""
    resource = pytest.importorskip("resource")

    def most():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    before = most()
    yield
    assert most() - before < 8 * MOST_MEMORY


def try_many(strategy, write, path, read):
    """Write what the strategy makes, and read it."""

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(content):
        write(content)
        check(path, read)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a line more
        run()


@pytest.mark.parametrize("format", [*FORMATS, *IMAGE_FORMATS])
def test_damaged_files(tmp_path, format):
    name, content = FORMATS[format] if format in FORMATS else image_formats()[format]
    folder = tmp_path / "it"
    folder.mkdir()
    for other, whole in beside(name).items():
        (folder / other).write_bytes(whole)
    (folder / name).write_bytes(content)
    path = folder if beside(name) else folder / name
    data.open_source(path)  # undamaged, it is read
    with little_memory():
        try_many(damaged(content), (folder / name).write_bytes, path, read_data)


# -- models, checkpoints, studies --------------------------------------------------------------------------------------

X, Y = np.random.RandomState(0).standard_normal((20, 3)).astype(np.float32), np.arange(20) % 2


def train(**options):
    """With everything that a checkpoint can hold; from it, where there is one to go on from."""
    model = nn.Sequential(nn.Dropout(0.1, rng=0), nn.Linear(3, 2, rng=1))
    trainer = nn.Trainer(model, nn.SGD(lr=0.1, momentum=0.9))
    before = {name: array.copy() for name, array in model.state_dict().items()}
    try:
        trainer.fit(X, Y, validation=(X, Y), early_stopping=nn.EarlyStopping(9), batch_size=8, seed=0, **options)
    except ValueError:
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, before[name])
        raise


class Enough(Exception):
    """A training has begun."""


def stop(progress):
    raise Enough


def resume(path):
    """Go on from a checkpoint, for a batch at most."""
    with contextlib.suppress(Enough, FloatingPointError):  # weights and rates may be any numbers
        train(epochs=3, resume=path, on_batch=stop)


def write_checkpoint(path):
    class Stop:
        left = 5

        def __call__(self, progress):
            self.left -= 1
            if not self.left:
                raise nn.StopTraining

    train(epochs=3, checkpoint=path, on_batch=Stop())


def write_model(path):
    arguments = {"num_classes": 2, "in_channels": 1, "image_size": [4, 4]}
    metadata = {"model": "digits_cnn", "arguments": arguments, "scale": 16.0, "mean": [0.1], "std": [0.2]}
    metadata |= {"class_names": ["a", "b"], "data": "digits", "test_accuracy": 0.5, "numbaconv": "0.1.0"}
    nn.save_model(path, nn.models.digits_cnn(2, 1, 4, rng=0), metadata)


def read_model(path):
    Predictor.load(str(path))


def write_study(path):
    timings = {"numbaconv": Timing(seconds=[1e-3, 2e-3]), "torch": Timing(seconds=[2e-3, 2e-3], threads=2)}
    timings |= {"jax": Timing("failed", "no")}
    cell = Cell("resnet20-16", "n32 c16 h32 k16 r3 p1", "forward", "NCHW", 2, 10**6, 32, timings)
    step = Cell("lenet5", "batch 64", "training step", "best", 1, 0, 64, timings)
    versions, missing, peak = {"torch": "2"}, {"ncnn": "not installed"}, {"2": 500.0}
    Study({"CPU": "x"}, versions, {"rounds": 2, "date": "2026-01-01"}, missing, peak, [cell, step]).save(path)


def read_study(path):
    console = pytest.importorskip("rich.console").Console(file=io.StringIO())
    show(Study.load(path), console)


#: By name: what it is called, what writes it, what reads it.
FILES = {
    "model.npz": (write_model, read_model),
    "model.safetensors": (write_model, read_model),
    "weights.safetensors": (write_model, nn.load_safetensors),
    "checkpoint.npz": (write_checkpoint, resume),
    "checkpoint.safetensors": (write_checkpoint, resume),
    "study.json": (write_study, read_study),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_results(tmp_path, name):
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    path, (write, read) = tmp_path / name, FILES[name]
    write(path)
    read(path)
    with little_memory():
        try_many(damaged(path.read_bytes()), path.write_bytes, path, read)


#: What may stand in JSON instead of what should.
ANYTHING = [
    None, True, 0, 1, -1, 7, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, math.inf, math.nan, "", "x", "1", [], [1], ["x"],
    [[]], {}, {"x": 1}, "PCG64", "digits_cnn", "resnet20", [2**31, 2**31], list(range(100)),
]  # fmt: skip


@st.composite
def altered(draw, value):
    """JSON of which a few parts are others, or missing."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        part = value
        while isinstance(part, dict | list) and part:
            key = draw(st.sampled_from(list(part)) if isinstance(part, dict) else st.integers(0, len(part) - 1))
            if isinstance(part[key], dict | list) and part[key] and draw(st.integers(0, 3)):
                part = part[key]
                continue
            if draw(st.integers(0, 5)) == 0:
                del part[key]
            else:
                new = st.one_of(st.sampled_from(ANYTHING), st.text(max_size=9), st.floats(), st.integers())
                part[key] = copy.deepcopy(draw(new))
            break
    return value


@pytest.mark.parametrize("name", ["model.npz", "checkpoint.npz"])
def test_files_that_say_anything(tmp_path, name):
    """Whole files, whose metadata are not what they should be."""
    path, (write, read) = tmp_path / name, FILES[name]
    write(path)
    read(path)
    kind = f"numbaconv-{path.stem}"
    arrays, metadata = read_arrays(path, kind)
    try_many(altered(metadata), lambda metadata: write_arrays(path, kind, arrays, metadata), path, read)


def test_studies_that_say_anything(tmp_path):
    path = tmp_path / "study.json"
    write_study(path)
    read_study(path)
    study = json.loads(path.read_text())
    try_many(altered(study), lambda study: path.write_text(json.dumps(study)), path, read_study)


def test_paths_in_archives_are_not_followed(tmp_path):
    """Nothing is unpacked, so there is nowhere that a path could lead to."""
    (tmp_path / "images.npy").write_bytes(FORMATS["npy"][1])
    folder = tmp_path / "it"
    folder.mkdir()
    path = folder / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../evil.npy", f"{tmp_path}/evil.npy", "../images.npy", "images.npy"):
            archive.writestr(name, FORMATS["npy"][1])
        link = zipfile.ZipInfo("labels.npy")
        link.external_attr = 0o120777 << 16  # a symbolic link, it says
        archive.writestr(link, "../images.npy")
    for read in (data.open_source, nn.load_model):
        with pytest.raises(ValueError, match=r"a\.npz"):
            read(path)
    assert {file.name for file in tmp_path.rglob("*")} == {"it", "a.npz", "images.npy"}
