"""The arguments of a convolution, one by one: their types, how each is read, and the errors if it is none.

How they fit each other is the business of :mod:`numbaconv.geometry`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

Layout: TypeAlias = Literal["NCHW", "NHWC"]
IntOrPair: TypeAlias = int | Sequence[int]
Padding: TypeAlias = int | Sequence[int] | Sequence[Sequence[int]] | Literal["valid", "same"]
Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]
#: ``((top, bottom), (left, right))``
Pads: TypeAlias = tuple[Pair, Pair]

LAYOUTS = ("NCHW", "NHWC")
#: The largest stride, padding or dilation that is taken: offsets made of them must fit into 64 bits.
LARGEST_PARAMETER = 2**31 - 1
_PADDINGS = 'an int, (PH, PW), ((top, bottom), (left, right)), "valid" or "same"'


def integer(value: Any, name: str, smallest: int) -> int:
    """``value`` as an int of at least ``smallest``; floats and bools are not taken for integers."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if not smallest <= value <= LARGEST_PARAMETER:
        raise ValueError(f"{name} must be from {smallest} to {LARGEST_PARAMETER}, got {value}")
    return int(value)


def pair(value: Any, name: str, smallest: int) -> Pair:
    """``value``, an integer or a sequence of two, as ``(height, width)``."""
    if isinstance(value, int | np.integer):
        one = integer(value, name, smallest)
        return one, one
    first, second = _two(value, name, "an integer or a pair of them")
    return integer(first, name, smallest), integer(second, name, smallest)


def pads(padding: Any, image: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Pads:
    """``padding`` in any of its forms as ``((top, bottom), (left, right))``."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding == "same":
            return _same(image[0], kernel[0], stride[0], dilation[0]), _same(
                image[1], kernel[1], stride[1], dilation[1]
            )
        raise ValueError(f"padding={padding!r} is unknown: give {_PADDINGS}")
    if isinstance(padding, int | np.integer):
        one = integer(padding, "padding", 0)
        return (one, one), (one, one)
    rows, columns = _two(padding, "padding", _PADDINGS)
    if _is_sequence(rows) != _is_sequence(columns):
        raise TypeError(f"padding must be {_PADDINGS}, got {padding!r}")
    return pair(rows, "padding", 0), pair(columns, "padding", 0)


def check_layout(layout: Any) -> Layout:
    """``layout`` itself; a ValueError unless it is one of the two that exist."""
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f'layout={layout!r} is unknown: it is "NCHW" or "NHWC"')
    return layout  # type: ignore[return-value]


def check_output_mask(output_mask: Any) -> tuple[bool, bool, bool]:
    """``output_mask`` as three Python bools; integers are not taken for bools."""
    rule = "output_mask must be three bools, for the gradients of input, weight and bias"
    if not _is_sequence(output_mask):
        raise TypeError(f"{rule}, got {output_mask!r} ({type(output_mask).__name__})")
    wants = list(output_mask)
    if len(wants) != 3:
        raise ValueError(f"{rule}, got {len(wants)} values: {output_mask!r}")
    if not all(isinstance(want, bool | np.bool_) for want in wants):
        raise TypeError(f"{rule}, got {output_mask!r}")
    return bool(wants[0]), bool(wants[1]), bool(wants[2])


def shape_of(shape: Any, name: str) -> Shape:
    """A 4-D shape as a tuple of ints, its entries not yet checked for their range."""
    if not _is_sequence(shape):
        raise TypeError(f"the shape of {name} must be four integers, got {shape!r} ({type(shape).__name__})")
    if len(shape) != 4:
        raise ValueError(f"{name} must have 4 dimensions, got {len(shape)}: {tuple(shape)}")
    sizes = tuple(shape)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int | np.integer):
            raise TypeError(f"the shape of {name} must be four integers, got {sizes}")
    return tuple(int(size) for size in sizes)


def check_bytes(name: str, shape: Shape, itemsize: int) -> None:
    """Raise a ValueError where an array of ``shape`` is beyond what an address can reach."""
    total = itemsize
    for size in shape:
        total *= max(1, size)  # NumPy refuses too large an array even if it is empty
    if total > sys.maxsize:
        raise ValueError(f"{name} of shape {shape} would take {total} bytes; at most {sys.maxsize} can be addressed")


def are_plain(values: tuple[Any, ...]) -> bool:
    """Whether equal values are the same to us: True equals 1, and 1.0 too, but neither is taken for an integer."""
    for value in values:
        kind = type(value)
        if kind is not int and kind is not str and not (kind is tuple and are_plain(value)):
            return False
    return True


def _is_sequence(value: Any) -> bool:
    """A list, a tuple, a one-dimensional array, but no text."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def _two(value: Any, name: str, rule: str) -> tuple[Any, Any]:
    if not _is_sequence(value):
        raise TypeError(f"{name} must be {rule}, got {value!r} ({type(value).__name__})")
    if len(value) != 2:
        raise ValueError(f"{name} must be {rule}, got {len(value)} values: {value!r}")
    return value[0], value[1]


def _same(image: int, kernel: int, stride: int, dilation: int) -> Pair:
    """TensorFlow's and JAX's SAME: the output is ceil(image / stride), the odd pixel of padding goes to the end."""
    output = -(-image // stride)
    total = max(0, (output - 1) * stride + dilation * (kernel - 1) + 1 - image)
    return total // 2, total - total // 2
