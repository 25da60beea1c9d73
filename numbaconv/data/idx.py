"""The idx format of MNIST and its family (Fashion-MNIST, KMNIST, EMNIST), plain or compressed with gzip.

An idx file is a magic number (two zero bytes, a code for the dtype, the number of dimensions), the sizes as big-endian
32-bit integers, and the values: http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np

from numbaconv.data.dataset import Dataset
from numbaconv.data.source import DEFLATE_LIMIT, Samples, Source, regular_file
from numbaconv.values import as_path, one_line

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK = 1 << 20
_NAME = re.compile(
    r"(?P<prefix>.*?)(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx(?P<dims>\d)-ubyte(?:\.gz)?", re.IGNORECASE
)


def load_idx_folder(path: str | os.PathLike[str]) -> Dataset:
    """A folder of idx files, as MNIST and its family come.

    Parameters
    ----------
    path : path
        A folder that holds ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, and for the test part
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte`` (or ``test-…``); where there is no test part, 20% of
        the images of every class are split off. The names may end with ``.gz``, have a dot before ``idx``, and begin
        with the name of the data set (``emnist-letters-train-…``), the same one for all.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        There is no such folder, or a file is missing in it.
    ValueError
        A file is damaged, or the files do not fit each other.
    """
    return Dataset.from_source(read_idx_folder(as_path(path)))


def read_idx_folder(path: Path) -> Source:
    """The parts that a folder of idx files holds; labels may be missing."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such folder")
    if not path.is_dir():
        raise ValueError(f"{path}: is not a folder")
    files = _find(path)
    train, test = _part(files, "train"), _part(files, "test")
    if train is None and test is None:
        raise FileNotFoundError(f"{path}: there are no idx files (train-images-idx3-ubyte or .gz, ...) in this folder")
    return Source(path.resolve().name or str(path), train, test)


def holds_idx(folder: Path) -> bool:
    """Whether a folder has idx files."""
    return any(_NAME.fullmatch(file.name) and file.is_file() for file in folder.iterdir())


def read_idx_images(path: Path) -> Source:
    """The images in one idx file, with the labels from the file of the fitting name beside it, if it is there."""
    labels = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    return Source(path.name, _samples(path, labels if labels != path and labels.is_file() else None))


def read_idx(path: Path) -> np.ndarray:
    """The array in one idx file, in native byte order.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is not an idx file, or its size is not what its header says. No more memory is taken than the header says,
        and none before the header was found to fit the size of the file.
    """
    regular_file(path)
    size = path.stat().st_size
    with path.open("rb") as raw:
        if raw.read(2) != b"\x1f\x8b":
            raw.seek(0)
            return _read(raw, size, path, exact=True)
        raw.seek(0)
        try:
            with gzip.open(raw) as unpacked:
                return _read(unpacked, size * DEFLATE_LIMIT, path, exact=False)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: is damaged: {one_line(error)}") from None


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _read(stream: _Readable, size: int, path: Path, exact: bool) -> np.ndarray:
    """Read header and values from a stream of ``size`` bytes, or of at most as many."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or not 1 <= magic[3] <= 4:
        raise ValueError(
            f"{path}: is not an idx file: it begins with {magic.hex(' ') or 'nothing'}, but must with 00 00, "
            "a dtype code (08, 09, 0b to 0e) and 01 to 04 dimensions"
        )
    dtype, dims = np.dtype(DTYPES[magic[2]]), magic[3]
    sizes = stream.read(4 * dims)
    if len(sizes) < 4 * dims:
        raise ValueError(f"{path}: is damaged: it ends within its header")
    shape = tuple(int.from_bytes(sizes[4 * d : 4 * d + 4], "big") for d in range(dims))
    promised, room = math.prod(shape) * dtype.itemsize, size - 4 - 4 * dims
    if promised > room or (exact and promised != room):
        found = f"but {room:,} follow" if exact else "more than the compressed file can hold"
        raise ValueError(f"{path}: is damaged: its header says {shape} of {dtype.name}, {promised:,} bytes, {found}")
    values = bytearray()
    while len(values) < promised:
        chunk = stream.read(min(_CHUNK, promised - len(values)))
        if not chunk:
            raise ValueError(
                f"{path}: is damaged: its header says {shape}, {promised:,} bytes, but {len(values):,} follow"
            )
        values += chunk
    if stream.read(1):
        raise ValueError(f"{path}: is damaged: more follows than the {promised:,} bytes that its header says: {shape}")
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _find(folder: Path) -> dict[tuple[str, str], Path]:
    """The idx files of a folder by part and content; of a plain and a compressed file, the plain one."""
    files: dict[tuple[str, str], Path] = {}
    prefixes = set()
    for file in sorted(folder.iterdir(), key=lambda file: file.name, reverse=True):  # "x" comes after "x.gz" here
        match = _NAME.fullmatch(file.name)
        if match and file.is_file():
            part = "train" if match["part"].lower() == "train" else "test"
            files[part, match["what"].lower()] = file
            prefixes.add(match["prefix"])
    if len(prefixes) > 1:
        names = ", ".join(sorted(prefix + "*" for prefix in prefixes)[:6])
        raise ValueError(f"{folder}: holds several data sets ({names}): give each its own folder")
    return files


def _part(files: dict[tuple[str, str], Path], part: str) -> Samples | None:
    images, labels = files.get((part, "images")), files.get((part, "labels"))
    if images is None:
        if labels is not None:
            wanted = labels.name.replace("labels", "images").replace("idx1", "idx3")
            raise FileNotFoundError(f"{labels.parent / wanted}: is missing beside {labels.name}")
        return None
    return _samples(images, labels)


def _samples(images: Path, labels: Path | None) -> Samples:
    if labels is None:
        return Samples.checked(read_idx(images), None, str(images))
    return Samples.checked(read_idx(images), read_idx(labels), str(images), str(labels))
