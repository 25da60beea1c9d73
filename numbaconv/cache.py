"""Compiled kernels are kept on disk, one file for each, in a cache that notices every change.

Numba's own ``cache=True`` watches the file of the cached function alone, but a kernel is made of several modules that
are inlined into each other; it runs whatever bytes it finds; and its index can be torn by two processes that start at
once. Here a file says what its code was compiled from, by what and for what CPU (its *build*), and holds a checksum of
all that. It is loaded only if every bit of it is as expected; else the kernel is compiled again. There is no index:
the name of the file follows from the kernel and the types of its arguments, and a newer build takes the place of an
older one.

Files are in ``NUMBA_CACHE_DIR`` if that is set, else in the package's own ``__pycache__``, else in the user's cache
folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import stat
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np
from numba.core import caching
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature
from numba.misc.appdirs import AppDirs

ROOT = Path(__file__).parent
#: What files begin with; the number is that of their format.
MAGIC = b"numbaconv kernel 1\n"
_UNSAFE = re.compile(r"[^\w.]")
_FILE = re.compile(r"[\w.]+-[0-9a-f]{32}\.nbc(\.[0-9a-f]{32}\.tmp)?")
#: Seconds after which a file that was never finished is taken for what a killed process left behind.
_ABANDONED = 3600
#: Numba's settings, in the environment or at run time, that change the code it makes.
_SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "USING_SVML")

#: Is called, where it is set, with the name of a kernel and the seconds that it took to compile; None: it was loaded.
listener: Callable[[str, float | None], None] | None = None
#: Why kernels could not be kept or loaded, in this process.
failures: list[str] = []


# --- what compiled code is made of ------------------------------------------------------------------------------------


def sources() -> list[Path]:
    """The modules that can end up in compiled code. What they import of the package is among them."""
    modules = *(ROOT / "simd").glob("*.py"), *(ROOT / "kernels").glob("*.py")
    return sorted([ROOT / "jit.py", ROOT / "linking.py", ROOT / "team.py", *modules])


def _read_sources() -> str:
    """A digest of the bytecode that Python runs for them; "" where it can't be had, as in a zip archive.

    The bytecode, for a file's text and what Python runs may differ: a ``.pyc`` is trusted by time and size alone.
    """
    digest = hashlib.sha256()
    try:
        for path in sources():
            name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
            digest.update(name.encode())
            _add(digest, SourceFileLoader(name, str(path)).get_code(name))
    except (OSError, ImportError, SyntaxError):
        return ""
    return digest.hexdigest()


def _add(digest: Any, code: Any) -> None:
    """Add all that a function or module computes to a digest, but not where its lines stand."""
    digest.update(code.co_code + code.co_exceptiontable)
    names = code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    digest.update(repr((names, code.co_flags, code.co_argcount, code.co_kwonlyargcount)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add(digest, constant)
        else:  # the members of a set have another order in every process
            shown = sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
            digest.update(repr((type(constant), shown)).encode())


#: Read before the modules are imported: by the time that something is compiled, an upgrade may have changed the files.
_SOURCES = _read_sources()


@cache
def _target(*settings: Any) -> dict[str, str]:
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    return {
        "Python": f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}",
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "numpy": np.__version__,
        "CPU": cpu,
        "target": triple,
        "features": hashlib.sha256(features.encode()).hexdigest()[:16],
        "settings": " ".join(map(str, settings)),
    }


def build() -> dict[str, str]:
    """What the code depends on that this process compiles; code of any other build is not loaded."""
    return {"sources": _SOURCES} | _target(*(getattr(numba.config, name, None) for name in _SETTINGS))


# --- where it is kept -------------------------------------------------------------------------------------------------


def folders() -> list[Path]:
    """The folders that are read, in this order. Files are written to the first that takes them."""
    return _folders(numba.config.CACHE_DIR)


@cache
def _folders(chosen: str) -> list[Path]:
    """Every installation has a folder of its own in one that it shares."""
    own = f"numbaconv_{hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]}"
    if chosen:
        return [Path(chosen).absolute() / own]
    return [ROOT / "__pycache__", Path(AppDirs("numba", appauthor=False).user_cache_dir) / own]


def folder() -> Path | None:
    """Where compiled kernels are kept, or None if no folder can be written and they are compiled in every process."""
    for path in folders():
        with suppress(OSError):
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
            return path
    return None


class Entry(NamedTuple):
    """A file of the cache."""

    path: Path
    size: int  #: bytes
    header: dict[str, Any] | None  #: what it says of itself; None if it is damaged
    stale: bool  #: it will not be loaded: of another build, damaged, or not to be trusted


def entries() -> Iterator[Entry]:
    """All files of the cache; those that are just being written are left out."""
    for place in folders():
        with suppress(OSError):  # it is not there
            for name in sorted(os.listdir(place)):
                with suppress(OSError):  # it is not there any more
                    yield from _entry(place / name)


def _entry(path: Path) -> Iterator[Entry]:
    match, status = _FILE.fullmatch(path.name), path.lstat()
    if not match or not stat.S_ISREG(status.st_mode):
        return
    unfinished = match[1] is not None
    if unfinished and time.time() - status.st_mtime < _ABANDONED:
        return
    header = None if unfinished else _header(path)
    stale = header is None or header.get("build") != build() or not _trusted(status)
    yield Entry(path, status.st_size, header, stale)


def clear(stale_only: bool = False) -> list[Entry]:
    """Remove files of the cache, and nothing else; those that were removed."""
    removed = []
    for entry in entries():
        if entry.stale or not stale_only:
            entry.path.unlink(missing_ok=True)
            removed.append(entry)
    for place in folders():
        if place.name != "__pycache__":
            with suppress(OSError):  # it is not there, or not empty
                place.rmdir()
    return removed


# --- files ------------------------------------------------------------------------------------------------------------


def _content(rest: bytes) -> bytes:
    """What a file holds: header and payload behind a checksum of them."""
    return MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def _checked(content: bytes) -> bytes:
    """Header and payload, if every bit is as it was written; else nothing."""
    rest = content[len(_content(b"")) :]
    return rest if content == _content(rest) else b""


def _header(path: Path) -> dict[str, Any] | None:
    """What a file says of itself; None if it is damaged."""
    try:
        header = json.loads(_checked(path.read_bytes()).partition(b"\n")[0])
    except ValueError:
        return None
    return header if isinstance(header, dict) else None


def _trusted(status: os.stat_result) -> bool:
    """Whether those who could have written a file could do as they like anyway.

    They are this user, the system's administrator, and whoever owns the package.
    """
    if not hasattr(os, "geteuid"):
        return True
    package = Path(__file__).stat()
    anybody = status.st_mode & stat.S_IWOTH and not package.st_mode & stat.S_IWOTH
    return status.st_uid in (os.geteuid(), 0, package.st_uid) and not anybody


def _read(path: Path) -> bytes:
    """The content of a file of the cache; nothing if there is none."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            if _trusted(os.fstat(file.fileno())):
                return _checked(file.read())
    except OSError:
        return b""
    _warn(f"{path} is not loaded: it belongs to another user, or anybody may write to it")
    return b""


def _write(path: Path, content: bytes) -> None:
    """Write under another name, then rename. What a crash of the system leaves behind, the checksum finds out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        # Others may read it, but never write to it.
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o664)) as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _warn(reason: str) -> None:
    """Say once in a process why kernels are compiled again in every one."""
    failures.append(reason)
    if len(failures) == 1:
        # No line of the program is at fault, so none is shown: this is farther up than any.
        message = f"compiled kernels are not kept, so every process compiles them again: {reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=1000)


# --- what Numba asks --------------------------------------------------------------------------------------------------


def keep(dispatcher: Any) -> Any:
    """``dispatcher``, whose compiled code is kept from now on, and loaded by the next process.

    Of the package, the function may call what is in :func:`sources`, and nothing else.
    """
    if not numba.config.DISABLE_JIT:  # else it is but the function
        dispatcher._cache = _Cache(dispatcher)
    return dispatcher


class _Cache(caching.NullCache):
    """The cache of one function. It is never in the way: whatever fails, the function is compiled."""

    def __init__(self, dispatcher: Any) -> None:
        function = dispatcher.py_func
        self.name = f"{function.__module__}.{function.__qualname__}".removeprefix("numbaconv.kernels.")
        self.options = repr(sorted(dispatcher.targetoptions.items()))
        digest = hashlib.sha256()
        _add(digest, function.__code__)
        self.function = digest.hexdigest()
        self.since = 0.0

    @property
    def cache_path(self) -> Any:
        return folders()[0]

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)  # what code is linked with
        name, header = self._file(sig)
        for place in folders() if _SOURCES else []:
            rest = _read(place / name)
            if rest.startswith(header):
                with suppress(Exception):  # whatever the names and shapes of Numba's objects have become
                    result = CompileResult._rebuild(target_context, *pickle.loads(rest[len(header) :]))
                    self._tell(None)
                    return result
        self.since = time.perf_counter()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        self._tell(time.perf_counter() - self.since)
        if not _SOURCES:
            return _warn(f"the modules in {ROOT} can't be read to tell whether compiled code is still theirs")
        if data.lifted or data.library.has_dynamic_globals:  # it is of no use to another process
            return None
        name, header = self._file(sig)
        try:
            content = _content(header + dumps(data._reduce()))
        except Exception as error:  # anything may be raised here too
            return _warn(f"{self.name}: {error}")
        reasons = []
        for place in folders():
            try:
                return _write(place / name, content)
            except OSError as error:
                reasons.append(f"{place}: {error.strerror or error}")
        return _warn("; ".join(reasons))

    def _file(self, sig: Any) -> tuple[str, bytes]:
        """The name of a file and the line that its content begins with, which says what it is.

        Sources have no part in the name: when they change, the new file takes the place of the old one.
        """
        types = ", ".join(map(str, normalize_signature(sig)[0]))
        made = build()
        kernel = {"kernel": self.name, "options": self.options, "types": types}
        header = kernel | {"function": self.function, "build": made}
        place = kernel | {"build": made | {"sources": ""}}
        digest = hashlib.sha256(json.dumps(place).encode()).hexdigest()
        return f"{_UNSAFE.sub('_', self.name)}-{digest[:32]}.nbc", json.dumps(header).encode() + b"\n"

    def _tell(self, seconds: float | None) -> None:
        if listener:
            listener(self.name, seconds)
