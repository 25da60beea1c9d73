"""Arrays as the kernels take them: flat, contiguous, of the computed dtype; and the scratch memory of a thread."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from numbaconv.geometry import Layout

#: Scratch memory of up to this many bytes is kept for the next call of the same Python thread.
KEPT_BYTES = 64 * 1024 * 1024
#: Vectors that do not cross a cache line load faster.
CACHE_LINE = 64

_OTHER: dict[Layout, tuple[Layout, tuple[int, int, int, int]]] = {
    "NCHW": ("NHWC", (0, 2, 3, 1)),
    "NHWC": ("NCHW", (0, 3, 1, 2)),
}
_kept = threading.local()


def flat(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A one-dimensional array of the elements of ``array`` in order: of itself where possible, else of a copy."""
    if array.dtype != dtype or not array.flags.c_contiguous or not array.flags.aligned:
        array = np.array(array, dtype, order="C")
    return (array if array.flags.writeable else _writable(array)).reshape(-1)


def flat_image(array: np.ndarray, dtype: np.dtype, layout: Layout) -> tuple[np.ndarray, Layout]:
    """The same for a batch of images, which may lie in memory in either layout: which of them is said as well.

    An NCHW array that is a transposed NHWC array ("channels last") is not copied.
    """
    if not array.flags.c_contiguous:
        other, order = _OTHER[layout]
        view = array.transpose(order)
        if view.flags.c_contiguous:
            return flat(view, dtype), other
    return flat(array, dtype), layout


def is_flat(array: np.ndarray, layout: Layout) -> bool:
    """Whether :func:`flat_image` gives the memory of the array itself rather than of a copy."""
    dense = array.flags.c_contiguous or array.transpose(_OTHER[layout][1]).flags.c_contiguous
    return dense and array.flags.aligned


def empty_like(array: np.ndarray, dtype: np.dtype, layout: Layout) -> np.ndarray:
    """A new array of the shape of ``array``, images that lie in memory as those do."""
    return np.empty_like(array, dtype, subok=False) if is_flat(array, layout) else np.empty(array.shape, dtype)


def scratch(dtype: np.dtype, size: int) -> np.ndarray:
    """At least ``size`` elements of memory that starts at a cache line, with anything in it.

    Valid until the same Python thread asks again.
    """
    arrays: dict[str, np.ndarray] = _kept.__dict__
    array = arrays.get(dtype.char)
    if array is None or array.size < size:
        memory = np.empty(size * dtype.itemsize + CACHE_LINE, np.uint8)
        first = -memory.ctypes.data % CACHE_LINE
        array = memory[first : first + size * dtype.itemsize].view(dtype)
        if memory.nbytes <= KEPT_BYTES:
            arrays[dtype.char] = array
    return array


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
