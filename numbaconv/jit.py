"""How the kernels are compiled: one function, compiled twice, and kept by :mod:`numbaconv.cache`."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba

from numbaconv import cache

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


def _compiled(function: Callable[..., Any], parallel: bool = False) -> Any:
    return cache.keep(numba.njit(parallel=parallel, **_OPTIONS)(function))
