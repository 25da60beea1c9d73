"""How the kernels are compiled: one function, compiled twice, and a cache that notices every change.

Numba's own ``cache=True`` watches the file of the cached function alone, but a kernel is made of several modules that
are inlined into each other. Here the stamp covers all of them, so that compiled code is never older than its source.
Compiled code is kept in ``NUMBA_CACHE_DIR`` if that is set, else in ``__pycache__``, else in the user's cache folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

import numba
from numba.core import caching

#: Options of every compiled function. ``nogil`` lets Python threads compute side by side; the numpy error model leaves
#: out checks for divisions by zero; ``fastmath`` stays off, for it would make results depend on the compiler's mood.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}


class Kernel:
    """A kernel in its two forms, compiled from the same source when first called.

    ``serial`` runs in the calling thread; in ``parallel`` every ``prange`` is spread over Numba's threads. What they
    compute is the same to the bit, because a kernel's work is cut in the same way for both.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__ = function.__doc__
        self.name = function.__name__
        self.serial = _compiled(function)
        self.parallel = _compiled(_renamed(function, "_parallel"), parallel=True)

    def __repr__(self) -> str:
        return f"<Kernel {self.name}>"


#: Decorator for what kernels are made of: always inlined, so that vectors stay in registers.
device = numba.njit(inline="always", **_OPTIONS)


def routine(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a step that is too large to be inlined everywhere; called from kernels only.

    It allocates nothing, so it need not count who holds an array: that would lock the memory bus at every call.
    """
    return numba.njit(_nrt=False, **_OPTIONS)(function)


def _renamed(function: Any, suffix: str) -> FunctionType:
    """The same function under another name, so that both forms have cache files of their own."""
    twin = FunctionType(function.__code__, function.__globals__, function.__name__ + suffix, function.__defaults__)
    twin.__qualname__ = function.__qualname__ + suffix
    twin.__module__ = function.__module__
    return twin


def cache_folder() -> Path | None:
    """Where compiled kernels are kept, or None if no folder can be written and they are compiled in every process."""
    try:
        return Path(_Cache(_renamed).cache_path)
    except (RuntimeError, OSError):
        return None


def _compiled(function: Callable[..., Any], parallel: bool = False) -> Any:
    dispatcher = numba.njit(parallel=parallel, **_OPTIONS)(function)
    if dispatcher is not function:  # NUMBA_DISABLE_JIT leaves the function as it is
        with suppress(RuntimeError, OSError):  # no folder can be written: compile in every process
            dispatcher._cache = _Cache(function)
    return dispatcher


@cache
def _stamp() -> str:
    """A digest of every file that ends up in compiled code."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([root / "jit.py", *(root / "simd").glob("*.py"), *(root / "kernels").glob("*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class _Stamped:
    def get_source_stamp(self) -> str:
        return _stamp()


class _UserProvided(_Stamped, caching.UserProvidedCacheLocator): ...


class _InTree(_Stamped, caching.InTreeCacheLocator): ...


class _UserWide(_Stamped, caching.UserWideCacheLocator): ...


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes: ClassVar = [_UserProvided, _InTree, _UserWide]


class _Cache(caching.FunctionCache):
    """A cache that is never in the way: what can't be read is compiled again, what can't be written is not kept."""

    _impl_class = _CacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # cut short, or pickled by a version whose names are gone: anything may be raised
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:
            with suppress(OSError):
                self.flush()  # an index that can't be read can't be added to either
                super().save_overload(sig, data)
