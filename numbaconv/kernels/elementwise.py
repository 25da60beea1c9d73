"""What is done to every element by itself: the threads share the elements."""

from __future__ import annotations

import numpy as np

from numbaconv.jit import Kernel, device, kernel
from numbaconv.simd import clear


@device
def part(array, thread, threads):
    """One thread's part of a flat array. Loops over it start at 0, which spares the question of negative indices."""
    return array[thread * len(array) // threads : (thread + 1) * len(array) // threads]


@Kernel
def zero(y, stage, thread, threads):
    """``y = 0``."""
    to = part(y, thread, threads)
    clear(to, 0, len(to))


@Kernel
def copy(x, y, stage, thread, threads):
    """``y = x``."""
    source, to = part(x, thread, threads), part(y, thread, threads)
    for i in range(len(source)):
        to[i] = source[i]


@Kernel
def fill_rows(values, rows, length, stage, thread, threads):
    """Rows of so many ``values`` each, filled up by zeros to the length of ``rows``."""
    for row in range(len(rows)):
        for i in range(rows.shape[1]):
            rows[row, i] = values[row * length + i] if i < length else 0


@Kernel
def relu(x, y, stage, thread, threads):
    """``y = max(x, 0)``; NaN stays NaN."""
    zero = y.dtype.type(0)
    source, to = part(x, thread, threads), part(y, thread, threads)
    for i in range(len(source)):
        value = source[i]
        to[i] = value if (value > 0) | (value != value) else zero


@Kernel
def relu_backward(grad_y, y, grad_x, stage, thread, threads):
    """The gradient where ``y`` is above 0, else 0."""
    zero = y.dtype.type(0)
    source, output, to = (
        part(grad_y, thread, threads),
        part(y, thread, threads),
        part(grad_x, thread, threads),
    )
    for i in range(len(source)):
        to[i] = source[i] if output[i] > 0 else zero


@Kernel
def multiply(a, b, y, stage, thread, threads):
    """``y = a * b``."""
    left, right, to = part(a, thread, threads), part(b, thread, threads), part(y, thread, threads)
    for i in range(len(to)):
        to[i] = left[i] * right[i]


@Kernel
def add(a, b, y, stage, thread, threads):
    """``y = a + b``."""
    left, right, to = part(a, thread, threads), part(b, thread, threads), part(y, thread, threads)
    for i in range(len(to)):
        to[i] = left[i] + right[i]


@Kernel
def add_relu(a, b, y, stage, thread, threads):
    """``y = max(a + b, 0)``; NaN stays NaN."""
    zero = y.dtype.type(0)
    left, right, to = part(a, thread, threads), part(b, thread, threads), part(y, thread, threads)
    for i in range(len(to)):
        value = left[i] + right[i]
        to[i] = value if (value > 0) | (value != value) else zero


#: Numbers of an array that are digested side by side, and what their digests are multiplied by: odd, so that no two
#: become the same.
_SIDE_BY_SIDE, _FACTOR = 128, np.uint32(0x9E3779B1)


@kernel(allocates=True)
def digest(bits, found, stage, thread, threads):
    """A number that tells whether flat 32-bit integers have changed: another one if one of them has.

    Where several have, the chance that it is the same is one in 2**32, and less where they are far apart.
    """
    lanes = np.full(_SIDE_BY_SIDE, _FACTOR, np.uint32)
    whole = len(bits) // _SIDE_BY_SIDE * _SIDE_BY_SIDE
    for start in range(0, whole, _SIDE_BY_SIDE):
        lanes ^= bits[start : start + _SIDE_BY_SIDE]
        lanes *= _FACTOR
    lanes[: len(bits) - whole] ^= bits[whole:]
    total = 0
    for lane in range(_SIDE_BY_SIDE):
        total += int(lanes[lane]) * (2 * lane + 1)
    found[0] = total
