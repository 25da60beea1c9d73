"""Files of arrays with a header of JSON: safetensors, or NumPy's ``.npz`` where that package is not installed.

Models and checkpoints are such files. They are written so that they are never half there, and reading one executes
nothing that is in it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import stat
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from numbaconv.values import one_line

Arrays: TypeAlias = dict[str, np.ndarray]
Metadata: TypeAlias = dict[str, Any]

VERSION = 1
#: The name of the entry in an .npz that is none of the arrays.
_HEADER = "__metadata__"
#: What files are called while they are written, and the seconds after which one is abandoned that nobody holds.
_PREFIX, _SUFFIX = ".numbaconv-", ".tmp"
_TEMPORARY = re.compile(rf"{re.escape(_PREFIX)}[a-z0-9_]{{8}}{re.escape(_SUFFIX)}")
_ABANDONED = 60


def write_arrays(path: Path, kind: str, arrays: Arrays, metadata: Mapping[str, Any]) -> None:
    """Write arrays and metadata to a file, whose header says of what ``kind`` it is."""
    header = {"format": kind, "version": str(VERSION), "metadata": json.dumps(metadata)}
    if check_path(path) == ".safetensors":
        content = _ordered(_safetensors().save(arrays, metadata=header))
    else:
        buffer = io.BytesIO()
        np.savez(buffer, **{_HEADER: np.array(json.dumps(header))}, **arrays)  # type: ignore[arg-type]
        content = buffer.getvalue()
    write_file(path, content)


def read_arrays(path: Path, kind: str) -> tuple[Arrays, Metadata]:
    """What :func:`write_arrays` wrote; a ValueError for a file that is damaged, or of another kind."""
    if check_path(path) == ".safetensors":
        library, read = _safetensors(), _read_safetensors
    else:
        library, read = np, _read_npz
    content = path.read_bytes()
    try:
        arrays, header = read(content, library)
    except Exception as error:  # all it does is take bytes in memory apart: whatever fails, the bytes are wrong
        raise ValueError(f"{path} is damaged, or no {path.suffix} file: {one_line(error)}") from error
    found = header.get("format")
    if found != kind:
        known = isinstance(found, str) and found.startswith("numbaconv-")
        what = f"it is a {one_line(found)}" if known else "it was not written by numbaconv"
        raise ValueError(f"{path} is no {kind}: {what}")
    if header.get("version") != str(VERSION):
        raise ValueError(
            f"{path} has version {one_line(header.get('version'))} of the format, "
            f"but this numbaconv reads version {VERSION}"
        )
    try:
        metadata = json.loads(header["metadata"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its metadata cannot be read ({one_line(error)})") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is damaged: its metadata are no mapping")
    return arrays, metadata


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is complete or as it was before: under another name, forced to the disk, then renamed."""
    _remove_abandoned(path.parent)
    try:
        _write_and_rename(path, content)
    except OSError as error:  # its message shall name the file that was asked for
        error.filename, error.filename2 = str(path), None
        raise
    with contextlib.suppress(OSError):  # not every system can force a folder to the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_and_rename(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=path.parent)
    try:
        with _held(descriptor):
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def _held(descriptor: int) -> Iterator[None]:
    """Hold a lock on an open file, which the system takes back when this process dies, whatever it dies of."""
    if sys.platform == "win32":
        yield
        return
    lock = os.dup(descriptor)
    try:
        _lock(lock)
        yield
    finally:
        os.close(lock)


def _lock(descriptor: int) -> bool:
    """Whether nobody else holds a file; where there are no such locks, nobody knows."""
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes left in a folder that were killed as they wrote."""
    with contextlib.suppress(OSError):
        for name in filter(_TEMPORARY.fullmatch, os.listdir(folder)):
            with contextlib.suppress(OSError):  # another process may remove it at the same time
                if _is_abandoned(folder / name):
                    os.unlink(folder / name)


def _is_abandoned(path: Path) -> bool:
    """Whether a file is none that is being written: an old one, for it is held only shortly after it was made."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or time.time() - status.st_mtime < _ABANDONED:
        return False
    descriptor = os.open(path, os.O_RDWR)
    try:
        return _lock(descriptor)
    finally:
        os.close(descriptor)


def check_path(path: Path) -> str:
    """The suffix of a file of arrays; a ValueError or ModuleNotFoundError if such a file cannot be written."""
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{path} must end in .safetensors or .npz, which says how it is stored")
    if suffix == ".safetensors":
        _safetensors()
    return suffix


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'a .safetensors file needs the package safetensors: pip install "numbaconv[cli]" (or use .npz)'
        ) from error
    return safetensors.numpy


def _ordered(content: bytes) -> bytes:
    """The same file with its metadata in order: the library writes them in another one each time."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[_HEADER] = dict(sorted(header[_HEADER].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # what follows is aligned
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _read_safetensors(content: bytes, library: Any) -> tuple[Arrays, Mapping[str, str]]:
    arrays = library.load(content)
    # The file begins with the length of its header, which is JSON, and now known to be well formed.
    length = int.from_bytes(content[:8], "little")
    return arrays, json.loads(content[8 : 8 + length]).get(_HEADER, {})


def _read_npz(content: bytes, library: Any) -> tuple[Arrays, Mapping[str, str]]:
    if not content.startswith(b"PK"):
        raise ValueError("it is no zip archive")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed")  # so that nothing in it is larger than the file itself
    with library.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("it holds something that is no array")
    header = json.loads(str(arrays.pop(_HEADER, "{}")))
    return arrays, header if isinstance(header, dict) else {}


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
