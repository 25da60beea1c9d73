"""Small data sets in the formats that are read, for the tests."""

import io
import struct

import numpy as np

CIFAR_IMAGES = np.random.RandomState(1).randint(0, 256, (12, 3, 32, 32)).astype(np.uint8)
CIFAR_LABELS = np.arange(12) % 10
CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def idx_bytes(array, code=0x08, shape=None):
    """``array`` in idx format; ``shape`` makes the header lie."""
    shape = array.shape if shape is None else shape
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()


def cifar10_bin(images, labels):
    """A batch of the binary version."""
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def cifar100_bin(images, labels):
    """A batch of the binary version, the coarse label in front of the fine one."""
    return b"".join(bytes([label // 5, label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def text2(text):
    """A short string, as Python 2 pickled it."""
    return b"U" + bytes([len(text)]) + text.encode("ascii")


def list2(items):
    """A list, as Python 2 pickled it."""
    return b"]q\x05(" + b"".join(items) + b"e"


def array2(array):
    """A uint8 matrix, as the NumPy of 2009 pickled it under Python 2."""
    rows, columns = array.shape
    return (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85" + text2("b") + b"\x87Rq\x08("
        b"K\x01" + b"M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86"
        b"cnumpy\ndtype\nq\x09" + text2("u1") + b"K\x00K\x01\x87Rq\x0a(K\x03" + text2("|") + b"NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", array.size) + array.tobytes() + b"tb"
    )  # fmt: skip


def cifar10_batch(images, labels):
    """A batch of the version for Python: protocol 2, as cPickle wrote it."""
    return (
        b"\x80\x02}q\x01(" + text2("batch_label") + b"q\x02" + text2("training batch 1 of 5") + b"q\x03"
        + text2("labels") + b"q\x04" + list2(b"K" + bytes([label]) for label in labels)
        + text2("data") + array2(images.reshape(len(images), -1))
        + text2("filenames") + list2(text2(f"a_s_{n:06}.png") for n in range(len(images))) + b"u."
    )  # fmt: skip


def cifar10_meta():
    """Its ``batches.meta``."""
    return (
        b"\x80\x02}("
        + text2("num_vis")
        + b"M\x00\x0c"
        + text2("label_names")
        + list2(map(text2, CIFAR10_NAMES))
        + b"u."
    )


def write_cifar10(folder, version="py"):
    """CIFAR-10, with 12 images a batch; the images of batch i are those of batch 1 plus i - 1, modulo 256."""
    folder.mkdir(parents=True, exist_ok=True)
    suffix, batch = ("", cifar10_batch) if version == "py" else (".bin", cifar10_bin)
    for i in range(5):
        (folder / f"data_batch_{i + 1}{suffix}").write_bytes(batch(CIFAR_IMAGES + np.uint8(i), CIFAR_LABELS))
    (folder / f"test_batch{suffix}").write_bytes(batch(255 - CIFAR_IMAGES, CIFAR_LABELS[::-1]))
    if version == "py":
        (folder / "batches.meta").write_bytes(cifar10_meta())
    else:
        (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")
    return folder


def picture(array, format="PNG", **options):
    """The bytes of an image file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format, **options)
    return stream.getvalue()
