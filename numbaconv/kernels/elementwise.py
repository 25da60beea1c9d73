"""What is done to every element by itself: the threads share the elements."""

from __future__ import annotations

from numbaconv.jit import Kernel, compiled, device
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


@compiled
def alike(some, others):
    """Whether two tuples of flat arrays of integers, of the same lengths, hold the same."""
    difference = some[0].dtype.type(0)
    for k in range(len(some)):
        one, other = some[k], others[k]
        for i in range(len(one)):
            difference |= one[i] ^ other[i]
    return difference == 0
