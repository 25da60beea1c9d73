"""A linear layer of some rows: three products of matrices, none of which packs the weights.

=============  =============================  ==============  ====================  ===============
pass           result                         rows ``p``      lanes                 summed over
=============  =============================  ==============  ====================  ===============
forward        ``y[n, o]``, turned in the end outputs         rows of x, turned     features
grad input     ``grad_x[n, k]``               rows            features              outputs
grad weight    ``grad_w[o, k]``               outputs         features              rows
=============  =============================  ==============  ====================  ===============

Each is a sum of outer products of a column of one matrix, whose elements are broadcast wherever they lie, and a row of
the other, which is contiguous. Tiles cover the rows of the result without hanging over; a last vector of columns that
is not whole is read from a copy.
"""

from __future__ import annotations

from numbaconv.jit import device, kernel, routine, share
from numbaconv.kernels.packing import transpose_all
from numbaconv.kernels.tiles import MIDDLE, SHORT, TALL, extend
from numbaconv.simd import copy, fill, lanes_of, prefetch, put, rectify, store, zeros


@kernel(stages=2)
def forward(x, w, bias, y, scratch, tiles, sizes, stage, thread, threads):
    """``y[n, o] = bias[o] + sum(x[n, k] * w[o, k])``.

    Sizes are N, K, M, the number of outputs, 1 if 0 is to be written instead of everything below it, and threads that
    there is scratch memory for. That holds x, turned, and of every thread the results of a tile.

    Parameters
    ----------
    tiles : int array (tiles, 2)
        First row of the result, how many rows.
    """
    N, K, M, relu = sizes
    lanes = lanes_of(x)
    width = -(-N // lanes) * lanes
    if stage != 1:
        for block in share(-(-K // lanes), thread, threads):
            first = block * lanes
            transpose_all(scratch, first * width, width, x, first, K, N, min(lanes, K - first), lanes)
    if stage != 0:
        own = width * K + thread * TALL * 2 * lanes
        for tile in share(len(tiles), thread, threads):
            first, height = tiles[tile, 0], tiles[tile, 1]
            for n in range(0, width, 2 * lanes):
                vectors = min(2, (width - n) // lanes)
                _forward_tile(w, first * K, K, scratch, n, width, bias, first, own, height, vectors, relu)
                transpose_all(
                    y, n * M + first, M, scratch, own, 2 * lanes, height, min(2 * lanes, N - n), lanes
                )  # fmt: skip


@routine
def _forward_tile(w, i, K, scratch, j, width, bias, first, to, height, vectors, relu):
    """Sum a tile of some outputs (its rows) and rows of x (its lanes), and write it to the scratch memory."""
    if vectors == 2:
        if height == TALL:
            _turned(fill(TALL, 2, bias, first), w, i, K, scratch, j, width, to, relu)
        elif height == MIDDLE:
            _turned(fill(MIDDLE, 2, bias, first), w, i, K, scratch, j, width, to, relu)
        elif height == SHORT:
            _turned(fill(SHORT, 2, bias, first), w, i, K, scratch, j, width, to, relu)
        else:
            _turned(fill(1, 2, bias, first), w, i, K, scratch, j, width, to, relu)
    elif height == TALL:
        _turned(fill(TALL, 1, bias, first), w, i, K, scratch, j, width, to, relu)
    elif height == MIDDLE:
        _turned(fill(MIDDLE, 1, bias, first), w, i, K, scratch, j, width, to, relu)
    elif height == SHORT:
        _turned(fill(SHORT, 1, bias, first), w, i, K, scratch, j, width, to, relu)
    else:
        _turned(fill(1, 1, bias, first), w, i, K, scratch, j, width, to, relu)


@device
def _turned(tile, w, i, K, scratch, j, width, to, relu):
    lanes = lanes_of(scratch)
    tile = extend(tile, w, i, K, 1, scratch, j, lanes, width, K)
    if relu:
        tile = rectify(tile)
    store(tile, scratch, to, 2 * lanes, lanes)


@kernel(stages=2)
def multiply(a, b, c, scratch, tiles, sizes, stage, thread, threads):
    """``c[m, n] = sum(a[m * row + k * step] * b[k, n])``.

    Sizes are N, K, row and step. The scratch memory holds the last columns of b, where they do not fill a vector.

    Parameters
    ----------
    tiles : int array (tiles, 2)
        First row of the result, how many rows.
    """
    N, K, row, step = sizes
    lanes = lanes_of(b)
    whole = N // lanes * lanes
    if stage != 1 and whole < N:
        for k in share(K, thread, threads):
            copy(scratch, k * lanes, 1, b, k * N + whole, 1, N - whole)
    if stage != 0:
        for block in share(-(-N // (2 * lanes)), thread, threads):
            n = block * 2 * lanes
            after = n + 2 * lanes
            for k in range(K):  # what comes next lies far apart, where no core looks by itself
                prefetch(b, k * N + after, min(2 * lanes, N - after))
            for tile in range(len(tiles)):
                first, height = tiles[tile, 0], tiles[tile, 1]
                for m in range(first, first + height):
                    prefetch(c, m * N + n, min(2 * lanes, N - n))
                if n + 2 * lanes <= whole:
                    _tile(a, first * row, row, step, b, n, N, c, first * N + n, N, K, height, 2, lanes)
                else:
                    if n + lanes <= whole:
                        _tile(a, first * row, row, step, b, n, N, c, first * N + n, N, K, height, 1, lanes)
                    if whole < N:
                        _tile(
                            a, first * row, row, step, scratch, 0, lanes, c, first * N + whole, N, K, height, 1,
                            N - whole,
                        )  # fmt: skip


@routine
def _tile(a, i, row, step, b, j, pitch, c, to, c_row, K, height, vectors, exist):
    """Sum a tile, of one of the shapes that exist, and write of its last vector the lanes that exist."""
    if vectors == 2:
        if height == TALL:
            _sum(zeros(TALL, 2, b), a, i, row, step, b, j, pitch, c, to, c_row, K)
        elif height == MIDDLE:
            _sum(zeros(MIDDLE, 2, b), a, i, row, step, b, j, pitch, c, to, c_row, K)
        elif height == SHORT:
            _sum(zeros(SHORT, 2, b), a, i, row, step, b, j, pitch, c, to, c_row, K)
        else:
            _sum(zeros(1, 2, b), a, i, row, step, b, j, pitch, c, to, c_row, K)
    elif height == TALL:
        _sum_last(zeros(TALL, 1, b), a, i, row, step, b, j, pitch, c, to, c_row, K, height, exist)
    elif height == MIDDLE:
        _sum_last(zeros(MIDDLE, 1, b), a, i, row, step, b, j, pitch, c, to, c_row, K, height, exist)
    elif height == SHORT:
        _sum_last(zeros(SHORT, 1, b), a, i, row, step, b, j, pitch, c, to, c_row, K, height, exist)
    else:
        _sum_last(zeros(1, 1, b), a, i, row, step, b, j, pitch, c, to, c_row, K, height, exist)


@device
def _sum(tile, a, i, row, step, b, j, pitch, c, to, c_row, K):
    store(extend(tile, a, i, row, step, b, j, lanes_of(b), pitch, K), c, to, c_row, lanes_of(b))


@device
def _sum_last(tile, a, i, row, step, b, j, pitch, c, to, c_row, K, height, exist):
    put(extend(tile, a, i, row, step, b, j, lanes_of(b), pitch, K), c, to, c_row, height, 0, exist)
