"""The sum of every channel of a batch of images: the gradient of a bias.

Each (image, channel) plane, or where channels are innermost each stretch of pixels, is summed by itself, side by side
in vectors; such partial sums are then added in a fixed order. So the result does not depend on the number of threads,
and many short sums are more exact than a long one.
"""

from __future__ import annotations

import numpy as np

from numbaconv.jit import device, kernel, share
from numbaconv.simd import add, lanes_of, pile, store, zeros

#: Pixels of a partial sum, where channels are innermost.
STRETCH = 256
#: Vectors that are summed side by side, for an addition waits for the one before it.
SIDE = 4


@kernel(allocates=True)
def sum_planes(z, sums, N, C, pixels, stage, thread, threads):
    """``sums[c]``, for ``z`` of ``(N, C, pixels)``."""
    lanes = lanes_of(z)
    parts = np.empty(SIDE * lanes, z.dtype)
    wide, whole = pixels // (SIDE * lanes) * SIDE * lanes, pixels // lanes * lanes
    for c in share(C, thread, threads):
        parts[:] = 0
        total = 0.0
        for n in range(N):
            start = (n * C + c) * pixels
            if wide > 0:
                tile = zeros(1, SIDE, z)
                for i in range(start, start + wide, SIDE * lanes):
                    tile = pile(tile, z, i, 0, lanes)
                add(tile, parts, 0, 0)
            if wide < whole:
                tile = zeros(1, 1, z)
                for i in range(start + wide, start + whole, lanes):
                    tile = pile(tile, z, i, 0, 0)
                add(tile, parts, 0, 0)
            for i in range(start + whole, start + pixels):
                total += z[i]
        for lane in range(len(parts)):
            total += parts[lane]
        sums[c] = total


@kernel(stages=2, allocates=True)
def sum_pixels(z, sums, parts, C, stage, thread, threads):
    """``sums[c]``, for ``z`` of ``(pixels, C)``; ``parts`` has room for a sum of every ``STRETCH`` pixels."""
    count, pixels, lanes = len(parts) // C, len(z) // C, lanes_of(z)
    if stage != 1:
        rows = np.empty(SIDE * lanes, z.dtype)
        for part in share(count, thread, threads):
            first, last = part * STRETCH, min((part + 1) * STRETCH, pixels)
            for c in range(0, C // lanes * lanes, lanes):
                tile = zeros(SIDE, 1, z)
                for pixel in range(first, last - SIDE + 1, SIDE):
                    tile = pile(tile, z, pixel * C + c, C, 0)
                store(tile, rows, 0, lanes, 0)
                tile = zeros(1, 1, z)
                for pixel in range(last - (last - first) % SIDE, last):
                    tile = pile(tile, z, pixel * C + c, 0, 0)
                for row in range(SIDE):
                    tile = pile(tile, rows, row * lanes, 0, 0)
                store(tile, parts, part * C + c, 0, 0)
            left = C // lanes * lanes
            to = parts[part * C + left : (part + 1) * C]
            to[:] = 0
            for pixel in range(first, last):
                source = z[pixel * C + left : (pixel + 1) * C]
                for c in range(len(to)):
                    to[c] += source[c]
    if stage != 0:
        _total(sums, parts, C, thread, threads)


@kernel(stages=2)
def sum_won(z, winner, sums, parts, C, nobody, stage, thread, threads):
    """The same for ``z`` of ``(windows, C)``, the gradient of a max pooling, but for those that ``nobody`` has won."""
    count, windows = len(parts) // C, len(z) // C
    if stage != 1:
        for part in share(count, thread, threads):
            to = parts[part * C : (part + 1) * C]
            to[:] = 0
            for window in range(part * STRETCH, min((part + 1) * STRETCH, windows)):
                source, won = z[window * C : (window + 1) * C], winner[window * C : (window + 1) * C]
                for c in range(C):
                    to[c] += source[c] if won[c] != nobody else 0
    if stage != 0:
        _total(sums, parts, C, thread, threads)


@device
def _total(sums, parts, C, thread, threads):
    """Add up the partial sums of one thread's share of the channels, in order."""
    for c in share(C, thread, threads):
        total = 0.0
        for part in range(len(parts) // C):
            total += parts[part * C + c]
        sums[c] = total
