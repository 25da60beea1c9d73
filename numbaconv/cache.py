"""Compiled kernels are kept on disk, in a cache that notices every change.

Numba's own ``cache=True`` watches the file of the cached function alone, but a kernel is made of several modules that
are inlined into each other. Here the stamp covers all of them, so that compiled code is never older than its source.
Compiled code is kept in ``NUMBA_CACHE_DIR`` if that is set, else in ``__pycache__``, else in the user's cache folder.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from numba.core import caching


def keep(dispatcher: Any) -> None:
    """Let what Numba compiles for ``dispatcher`` be kept, and loaded by the next process."""
    with suppress(RuntimeError, OSError):  # no folder can be written: compile in every process
        dispatcher._cache = _Cache(dispatcher.py_func)


def folder() -> Path | None:
    """Where compiled kernels are kept, or None if no folder can be written and they are compiled in every process."""
    try:
        return Path(_Cache(keep).cache_path)
    except (RuntimeError, OSError):
        return None


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
