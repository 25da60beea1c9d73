"""Damaged files of every format: each is read, or is an error of one line, and takes no more memory than it should.

``NUMBACONV_FUZZ=20000 pytest tests/test_data_fuzz.py`` tries so many of every format.
"""

import gzip
import io
import os
import pickle
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from data_files import CIFAR_IMAGES, CIFAR_LABELS, cifar10_batch, cifar10_bin, cifar10_meta, idx_bytes, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numbaconv import data

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


def check(path):
    """What is at ``path`` is read whole, or is an error that a user can be shown."""
    tracemalloc.start()
    try:
        source = data.open_source(path)
        for part in (source.train, source.test):
            assert part is None or part.images.dtype in (np.uint8, np.float32)
        if source.train is not None and source.train.labels is not None:
            data.Dataset.from_source(source)
    except (ValueError, OSError) as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert str(path) in message or path.name in message, message
        assert len(message) < 600, message
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MOST_MEMORY


def most_resident():
    """The most bytes of memory that this process has had."""
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("format", [*FORMATS, *IMAGE_FORMATS])
def test_damaged_files(tmp_path, format):
    name, content = FORMATS[format] if format in FORMATS else image_formats()[format]
    folder = tmp_path / "it"
    folder.mkdir()
    for other, whole in beside(name).items():
        (folder / other).write_bytes(whole)
    path = folder if beside(name) else folder / name
    (folder / name).write_bytes(content)
    data.open_source(path)  # undamaged, it is read

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(damaged(content))
    def run(content):
        (folder / name).write_bytes(content)
        check(path)

    resident = most_resident()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a line more
        run()
    assert most_resident() - resident < 8 * MOST_MEMORY  # with what Python does not count
