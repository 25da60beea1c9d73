"""What is done to every element by itself: the workers share the elements."""

from __future__ import annotations

import numba

from numbaconv.jit import Kernel, device


@device
def share(array, worker, workers):
    """One worker's share of a flat array. Loops over it start at 0, which spares the question of negative indices."""
    return array[worker * len(array) // workers : (worker + 1) * len(array) // workers]


@Kernel
def relu(x, y, workers):
    """``y = max(x, 0)``; NaN stays NaN."""
    zero = y.dtype.type(0)
    for worker in numba.prange(workers):
        source, to = share(x, worker, workers), share(y, worker, workers)
        for i in range(len(source)):
            value = source[i]
            to[i] = value if (value > 0) | (value != value) else zero


@Kernel
def relu_backward(grad_y, y, grad_x, workers):
    """The gradient where ``y`` is above 0, else 0."""
    zero = y.dtype.type(0)
    for worker in numba.prange(workers):
        source, output, to = (
            share(grad_y, worker, workers),
            share(y, worker, workers),
            share(grad_x, worker, workers),
        )
        for i in range(len(source)):
            to[i] = source[i] if output[i] > 0 else zero


@Kernel
def add(a, b, y, workers):
    """``y = a + b``."""
    for worker in numba.prange(workers):
        left, right, to = share(a, worker, workers), share(b, worker, workers), share(y, worker, workers)
        for i in range(len(to)):
            to[i] = left[i] + right[i]


@Kernel
def add_relu(a, b, y, workers):
    """``y = max(a + b, 0)``; NaN stays NaN."""
    zero = y.dtype.type(0)
    for worker in numba.prange(workers):
        left, right, to = share(a, worker, workers), share(b, worker, workers), share(y, worker, workers)
        for i in range(len(to)):
            value = left[i] + right[i]
            to[i] = value if (value > 0) | (value != value) else zero
