"""A linear layer for few rows: weights are read where they are, for to pack them would take longer than to use them."""

from __future__ import annotations

import numpy as np

from numbaconv.jit import device, kernel, share
from numbaconv.simd import dot, lanes_of, store, zeros

#: Outputs that are summed at once, and rows.
OUTPUTS, ROWS = 8, 2


@kernel(allocates=True)
def multiply_rows(x, weight, bias, y, sizes, stage, thread, threads):
    """``y[n, o] = bias[o] + sum(x[n, k] * weight[o, k])``, where ``bias`` may be empty.

    Sizes are N, K, M, and 1 if 0 is to be written instead of everything below it. A vector is as many products of one
    sum; they are added up in the end.
    """
    N, K, M, relu = sizes
    sums = np.empty(OUTPUTS * ROWS * lanes_of(x), x.dtype)
    blocks = -(-M // OUTPUTS)
    for block in share(blocks, thread, threads):
        o = block * OUTPUTS
        for n in range(0, N, ROWS):
            _block(x, weight, bias, y, sums, n, min(ROWS, N - n), o, min(OUTPUTS, M - o), K, M, relu)


@device
def _block(x, weight, bias, y, sums, n, rows, o, outputs, K, M, relu):
    """The sums of some rows and outputs."""
    lanes = lanes_of(x)
    whole = K // lanes * lanes
    if rows == 2 and outputs == 8:
        tile = zeros(8, 2, x)
        for k in range(0, whole, lanes):
            tile = dot(tile, weight, o * K + k, K, x, n * K + k, K)
        store(tile, sums, 0, 2 * lanes, lanes)
    elif outputs == 8:
        tile = zeros(8, 1, x)
        for k in range(0, whole, lanes):
            tile = dot(tile, weight, o * K + k, K, x, n * K + k, K)
        store(tile, sums, 0, 2 * lanes, lanes)
    else:
        for p in range(outputs):
            for v in range(rows):
                tile = zeros(1, 1, x)
                for k in range(0, whole, lanes):
                    tile = dot(tile, weight, (o + p) * K + k, K, x, (n + v) * K + k, K)
                store(tile, sums, (2 * p + v) * lanes, 0, 0)
    for p in range(outputs):
        for v in range(rows):
            total = 0.0
            for lane in range(lanes):
                total += sums[(2 * p + v) * lanes + lane]
            for k in range(whole, K):
                total += weight[(o + p) * K + k] * x[(n + v) * K + k]
            total += bias[o + p] if len(bias) > 0 else 0
            y[(n + v) * M + o + p] = 0 if relu and total <= 0 else total
