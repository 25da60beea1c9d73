"""The sum of every channel of a batch of images: the gradient of a bias.

Each (image, channel) plane, or where channels are innermost each stretch of pixels, is summed by itself, side by side
in vectors; such partial sums are then added in a fixed order. So the result does not depend on the number of threads,
and many short sums are more exact than a long one.
"""

from __future__ import annotations

import numba
import numpy as np

from numbaconv.jit import Kernel
from numbaconv.simd import add, lanes_of, load

#: Pixels of a partial sum, where channels are innermost.
STRETCH = 256


@Kernel
def sum_planes(z, sums, N, C, pixels, workers):
    """``sums[c]``, for ``z`` of ``(N, C, pixels)``."""
    lanes = lanes_of(z)
    for worker in numba.prange(workers):
        parts = np.empty(lanes, z.dtype)
        for c in range(worker * C // workers, (worker + 1) * C // workers):
            total = 0.0
            for n in range(N):
                start, whole = (n * C + c) * pixels, pixels // lanes * lanes
                parts[:] = 0
                for i in range(start, start + whole, lanes):
                    add(load(1, z, i, 0), parts, 0, 0)
                for lane in range(lanes):
                    total += parts[lane]
                for i in range(start + whole, start + pixels):
                    total += z[i]
            sums[c] = total


@Kernel
def sum_pixels(z, sums, parts, C, workers):
    """``sums[c]``, for ``z`` of ``(pixels, C)``; ``parts`` has room for a sum of every ``STRETCH`` pixels."""
    count, pixels = len(parts) // C, len(z) // C
    for worker in numba.prange(workers):
        for part in range(worker * count // workers, (worker + 1) * count // workers):
            to = parts[part * C : (part + 1) * C]
            to[:] = 0
            for pixel in range(part * STRETCH, min((part + 1) * STRETCH, pixels)):
                source = z[pixel * C : (pixel + 1) * C]
                for c in range(len(to)):
                    to[c] += source[c]
    for c in range(C):
        total = 0.0
        for part in range(count):
            total += parts[part * C + c]
        sums[c] = total
