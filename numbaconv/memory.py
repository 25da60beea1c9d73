"""Arrays as the kernels take them: flat, contiguous, of the computed dtype; and the scratch memory of a thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from sys import getrefcount
from typing import Any

import numpy as np

from numbaconv.arrays import empty, new
from numbaconv.parameters import Layout

#: Scratch memory of up to this many bytes is kept for the next call of the same Python thread.
KEPT_BYTES = 64 * 1024 * 1024

_OTHER: dict[Layout, tuple[Layout, tuple[int, int, int, int]]] = {
    "NCHW": ("NHWC", (0, 2, 3, 1)),
    "NHWC": ("NCHW", (0, 3, 1, 2)),
}
_BYTE = np.dtype(np.uint8)
_kept, _current = threading.local(), threading.local()


def flat(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A one-dimensional array of the elements of ``array`` in order: of itself where possible, else of a copy."""
    if array.flags.carray and array.dtype == dtype:
        return array.reshape(-1)
    if array.dtype != dtype or not array.flags.c_contiguous or not array.flags.aligned:
        copy = empty(array.shape, dtype, "a contiguous copy of an argument")
        with np.errstate(all="ignore"):  # numbers of all kinds are taken; NumPy complains about signalling NaN
            copy[...] = array
        return copy.reshape(-1)
    return _writable(array).reshape(-1)


def flat_image(array: np.ndarray, dtype: np.dtype, layout: Layout) -> tuple[np.ndarray, Layout]:
    """The same for a batch of images, which may lie in memory in either layout: which of them is said as well.

    An NCHW array that is a transposed NHWC array ("channels last") is not copied.
    """
    flags = array.flags
    if flags.carray and array.dtype == dtype:
        return array.reshape(-1), layout
    if not flags.c_contiguous:
        other, order = _OTHER[layout]
        view = array.transpose(order)
        if view.flags.c_contiguous:
            return flat(view, dtype), other
    return flat(array, dtype), layout


def flat_view(array: np.ndarray, dtype: np.dtype, layout: Layout) -> tuple[np.ndarray, Layout] | None:
    """The same for images that are to be written, never of a copy: None where that would be needed."""
    if array.dtype != dtype:
        return None
    if array.flags.carray:
        return array.reshape(-1), layout
    other, order = _OTHER[layout]
    view = array.transpose(order)
    return (view.reshape(-1), other) if view.flags.carray else None


def empty_like(array: np.ndarray, dtype: np.dtype, layout: Layout) -> np.ndarray:
    """A new array of the shape of ``array``: images that lie in memory as those do, if they do in either layout."""
    other, order = _OTHER[layout]
    if array.flags.c_contiguous or not array.transpose(order).flags.c_contiguous:
        return empty(array.shape, dtype, "the result")
    return empty(array.transpose(order).shape, dtype, "the result").transpose(_OTHER[other][1])


def scratch(dtype: np.dtype, size: int) -> np.ndarray:
    """At least ``size`` elements of memory that starts at a cache line: zeros, or what calls have left in it.

    Valid until the same Python thread asks again. A tile may hang over the end of what its kernel has written, and what
    it computes there is dropped; but if that were bytes that never were numbers of this kind, many of them would be
    denormal, and a processor may take a hundred times as long for these.
    """
    arrays: dict[str, np.ndarray] = _kept.__dict__
    array = arrays.get(dtype.char)
    if array is None or array.size < size:
        array = aligned(dtype, size, "scratch memory")
        array.fill(0)
        if array.nbytes <= KEPT_BYTES:
            arrays[dtype.char] = array
    return array


def aligned(dtype: np.dtype, size: int, what: str) -> np.ndarray:
    """``size`` elements of new memory that starts at a cache line, with anything in it."""
    return empty((size,), dtype, what, least=0)


class Pool(threading.local):
    """Memory of arrays that nobody holds any more, for the next arrays of the same size.

    An operating system hands out memory page by page, when it is first touched, and takes it back when much of it is
    free: where the same large arrays are made again and again, that takes a tenth of the time. Each Python thread has a
    pool of its own.
    """

    #: Arrays of fewer bytes than this are as quickly had from the operating system's allocator.
    least = 64 * 1024

    def __init__(self) -> None:
        self._pieces: dict[int, list[np.ndarray]] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A new array with anything in it."""
        size = dtype.itemsize * math.prod(shape)
        if size < self.least:
            return np.empty(shape, dtype)
        pieces = self._pieces.setdefault(size, [])
        for piece in pieces:
            if getrefcount(piece.base) == _NOBODY:
                break
        else:
            piece = self._piece(size)
            pieces.append(piece)
        return piece.view(dtype).reshape(shape)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is an empty one."""
        return Pool, ()

    def clear(self) -> None:
        """Give back all memory that nobody holds."""
        self.take_free()

    def take_free(self) -> dict[int, list[np.ndarray]]:
        """All memory that nobody holds, by its size, which the pool gives away."""
        free: dict[int, list[np.ndarray]] = {}
        for size, pieces in self._pieces.items():
            free[size] = [piece for piece in pieces if getrefcount(piece.base) == _NOBODY]
            pieces[:] = [piece for piece in pieces if getrefcount(piece.base) != _NOBODY]
        return free

    def _piece(self, size: int) -> np.ndarray:
        """New memory; where there is none left, after what nobody holds has been given back."""
        try:
            return aligned(_BYTE, size, "what is kept between layers")
        except MemoryError:
            self.clear()
            return aligned(_BYTE, size, "what is kept between layers")


_LONELY = aligned(_BYTE, 1, "a byte")
#: How many hold the memory of a piece, every view and every view of a view being one, where nobody does but the piece.
_NOBODY = getrefcount(_LONELY.base)


@contextmanager
def recycling(pool: Pool) -> Iterator[None]:
    """Within this context, :func:`fresh` takes memory from a pool, in the calling thread."""
    before = getattr(_current, "pool", None)
    _current.pool = pool
    try:
        yield
    finally:
        _current.pool = before


@contextmanager
def recycling_here(pool: Pool) -> Iterator[None]:
    """The same, unless there is a pool already."""
    if getattr(_current, "pool", None) is None:
        with recycling(pool):
            yield
    else:
        yield


def fresh(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new array with anything in it."""
    pool: Pool | None = getattr(_current, "pool", None)
    return new(shape, dtype) if pool is None else pool.empty(shape, dtype)


class _Memory:
    """What NumPy needs to make a writable array of a read-only one's memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.owner = array
        self.__array_interface__: dict[str, Any] = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _writable(array: np.ndarray) -> np.ndarray:
    """The memory of a read-only array as a writable one.

    Kernels never write to it, but to Numba read-only is a type of its own.
    """
    return np.asarray(_Memory(array))
