"""The sum of every channel of a batch of images: the gradient of a bias.

Each (image, channel) plane, or where channels are innermost each stretch of pixels, is summed by itself, side by side
in vectors; such partial sums are then added in a fixed order. So the result does not depend on the number of threads,
and many short sums are more exact than a long one.
"""

from __future__ import annotations

import numpy as np

from numbaconv.jit import Kernel, kernel, share
from numbaconv.simd import add, lanes_of, load

#: Pixels of a partial sum, where channels are innermost.
STRETCH = 256


@Kernel
def sum_planes(z, sums, N, C, pixels, stage, thread, threads):
    """``sums[c]``, for ``z`` of ``(N, C, pixels)``."""
    lanes = lanes_of(z)
    parts = np.empty(lanes, z.dtype)
    for c in share(C, thread, threads):
        total = 0.0
        for n in range(N):
            start, whole = (n * C + c) * pixels, pixels // lanes * lanes
            parts[:] = 0
            for i in range(start, start + whole, lanes):
                add(load(1, 1, z, i, 0, 0), parts, 0, 0)
            for lane in range(lanes):
                total += parts[lane]
            for i in range(start + whole, start + pixels):
                total += z[i]
        sums[c] = total


@kernel(stages=2)
def sum_pixels(z, sums, parts, C, stage, thread, threads):
    """``sums[c]``, for ``z`` of ``(pixels, C)``; ``parts`` has room for a sum of every ``STRETCH`` pixels."""
    count, pixels = len(parts) // C, len(z) // C
    if stage != 1:
        for part in share(count, thread, threads):
            to = parts[part * C : (part + 1) * C]
            to[:] = 0
            for pixel in range(part * STRETCH, min((part + 1) * STRETCH, pixels)):
                source = z[pixel * C : (pixel + 1) * C]
                for c in range(len(to)):
                    to[c] += source[c]
    if stage != 0:
        for c in share(C, thread, threads):
            total = 0.0
            for part in range(count):
                total += parts[part * C + c]
            sums[c] = total
