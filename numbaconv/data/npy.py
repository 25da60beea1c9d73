"""NumPy's ``.npy`` format, read with distrust: sizes are checked against the file before memory is taken."""

from __future__ import annotations

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from numbaconv.values import one_line

#: What the readers of damaged files and archives raise.
DAMAGED = (
    ValueError, TypeError, EOFError, OSError, RuntimeError, SyntaxError, KeyError, IndexError, MemoryError,
    OverflowError, NotImplementedError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_npy_file(path: Path) -> np.ndarray:
    """The array in a ``.npy`` file; a ValueError of one line if it is damaged or holds Python objects."""
    with path.open("rb") as stream:
        return read_npy(stream, path.stat().st_size, str(path))


def read_npy(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    """The array in a seekable stream of ``size`` bytes in ``.npy`` format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # NumPy's advice to write again what Python 2 wrote
        return _read(stream, size, where)


def _read(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    try:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version[0]}.{version[1]} of the .npy format is not read")
        shape, _, dtype = readers[version](stream)
        header = stream.tell()
    except DAMAGED as error:
        raise ValueError(f"{where}: is not an array in .npy format: {one_line(error)}") from None
    if dtype.kind not in "iuf":
        raise ValueError(f"{where}: must hold integers or floats, got {dtype}")
    if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize != size - header:
        raise ValueError(
            f"{where}: is damaged: its header says {shape} of {dtype}, {math.prod(shape) * dtype.itemsize:,} bytes, "
            f"but {size - header:,} bytes follow"
        )
    try:
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    except MemoryError:
        raise ValueError(f"{where}: an array of {size:,} bytes does not fit into memory") from None
    except DAMAGED as error:
        raise ValueError(f"{where}: is damaged: {one_line(error)}") from None
