"""How images lie in memory between layers.

Their shape is ``(N, C, H, W)`` everywhere. But the channels of a pixel may lie next to each other in memory (NHWC,
torch's ``channels_last``), which is what a convolution of many channels likes best. So a convolution chooses for its
output, and every other layer takes both layouts, and returns the one that it was given.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from numbaconv.kernels.transpose import transpose_images
from numbaconv.memory import fresh
from numbaconv.parameters import Layout, Shape
from numbaconv.simd import lanes
from numbaconv.threads import launch_light

FEW_PIXELS = 64
_CHANNELS_LAST = (0, 2, 3, 1)
_CHANNELS_FIRST = (0, 3, 1, 2)


class Form(NamedTuple):
    """What an array is like: what a layer remembers of its output, to make sure that the gradient is like it."""

    shape: Shape
    dtype: np.dtype
    layout: Layout

    @classmethod
    def of(cls, array: np.ndarray) -> Self:
        """The form of a dense array."""
        return cls(array.shape, array.dtype, layout_of(array))

    def empty(self) -> np.ndarray:
        """A new array of this form."""
        return empty(*self)


def layout_of(array: np.ndarray) -> Layout:
    """ "NHWC" for dense images whose channels lie next to each other, "NCHW" for all other dense arrays."""
    return "NCHW" if array.flags.c_contiguous else "NHWC"


def is_dense(array: np.ndarray) -> bool:
    """Whether an array is aligned, writeable, and contiguous in one of the two layouts."""
    return array.flags.carray or (array.ndim == 4 and array.transpose(_CHANNELS_LAST).flags.carray)


def empty(shape: Shape, dtype: np.dtype, layout: Layout) -> np.ndarray:
    """A new array of ``shape``, that lies in memory in ``layout``."""
    if layout == "NCHW":
        return fresh(shape, dtype)
    N, C, H, W = shape
    return fresh((N, H, W, C), dtype).transpose(_CHANNELS_FIRST)


def empty_like(array: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """A new array of the shape and layout of a dense one."""
    return empty(array.shape, array.dtype if dtype is None else dtype, layout_of(array))


def flat(array: np.ndarray) -> np.ndarray:
    """The elements of a dense array in the order of memory."""
    return array.reshape(-1) if array.flags.c_contiguous else array.transpose(_CHANNELS_LAST).reshape(-1)


def in_layout(array: np.ndarray, layout: Layout) -> np.ndarray:
    """A dense array that lies in memory in ``layout``: the array itself where it does, or a copy."""
    if layout_of(array) == layout or (layout == "NHWC" and array.transpose(_CHANNELS_LAST).flags.c_contiguous):
        return array
    N, C, H, W = array.shape
    copy = empty(array.shape, array.dtype, layout)
    rows, columns = (C, H * W) if layout == "NHWC" else (H * W, C)
    launch_light(transpose_images, N, array.size, flat(array), flat(copy), (N, rows, columns))
    return copy


def preferred(in_channels: int, out: Shape, dtype: np.dtype) -> Layout:
    """How a convolution should write its output, of shape ``out``: channels that fill vectors should lie in them.

    But a single vector of them, made of few input channels, does not pay for a few pixels: those are soon flattened.
    """
    width, (_, C, H, W) = lanes(dtype), out
    pays = in_channels >= width or width < C or H * W >= FEW_PIXELS
    return "NHWC" if C % width == 0 and pays else "NCHW"
