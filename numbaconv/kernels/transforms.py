"""Winograd's transforms, of vectors of channels: the matrices of :mod:`numbaconv.kernels.cook_toom`, as compiled words.

A transform of two dimensions applies one matrix to the columns of a tile of pixels, and another to its rows. What lies
between goes through a little memory, for 36 vectors would not fit into the registers.
"""

from __future__ import annotations

from numbaconv.jit import device, routine
from numbaconv.kernels.cook_toom import input_matrix, output_matrix, tap_matrix
from numbaconv.simd import lanes_of, linear, load, plus, put, spread, store

_INPUT_4, _INPUT_6 = linear(input_matrix(4)), linear(input_matrix(6))
_TAPS_2_4, _TAPS_3_4 = linear(tap_matrix(4, 2)), linear(tap_matrix(4, 3))
_TAPS_3_6, _TAPS_4_6 = linear(tap_matrix(6, 3)), linear(tap_matrix(6, 4))
_OUTPUT_2_4, _OUTPUT_3_4 = linear(output_matrix(2, 4)), linear(output_matrix(3, 4))
_OUTPUT_3_6, _OUTPUT_4_6 = linear(output_matrix(3, 6)), linear(output_matrix(4, 6))


@device
def transform_input(n, x, at, row, column, temp, here, to, there, point):
    """``B.T`` on both sides of ``n`` x ``n`` vectors, ``row`` and ``column`` elements apart.

    The results are written to ``to[there]`` on, ``point`` elements from one to the next.
    """
    lanes = lanes_of(temp)
    _input(n, n, x, at, row, column, temp, here, n * lanes, lanes)
    _input(n, n, temp, here, lanes, n * lanes, to, there, point, n * point)


@device
def transform_taps(n, r, x, at, row, column, temp, here, to, there, point):
    """``G`` on both sides of ``r`` x ``r`` vectors."""
    lanes = lanes_of(temp)
    _taps(n, r, r, x, at, row, column, temp, here, r * lanes, lanes)
    _taps(n, r, n, temp, here, lanes, r * lanes, to, there, point, n * point)


@device
def transform_output(m, n, x, at, point, temp, here, to, there, row, column):
    """``A.T`` on both sides of ``n`` x ``n`` vectors that lie ``point`` apart: ``m`` x ``m`` of them."""
    lanes = lanes_of(temp)
    _output(m, n, n, x, at, n * point, point, temp, here, n * lanes, lanes)
    _output(m, n, m, temp, here, lanes, n * lanes, to, there, column, row)


@device
def transform_sums(
    m, n, x, at, point, temp, here, to, there, row, column, rows, columns, channels, bias
):  # fmt: skip
    """The same, plus a bias (of the array ``x``), for those rows, columns and channels of the result that exist."""
    lanes = lanes_of(temp)
    _output(m, n, n, x, at, n * point, point, temp, here, n * lanes, lanes)
    if m == 4:
        for k in range(rows):
            tile = plus(_OUTPUT_4_6(load(6, temp, here + k * n * lanes, lanes)), spread(4, 1, x, bias))
            _write(tile, to, there + k * row, column, columns == m, columns, channels, lanes)
    else:
        for k in range(rows):
            tile = plus(_OUTPUT_2_4(load(4, temp, here + k * n * lanes, lanes)), spread(2, 1, x, bias))
            _write(tile, to, there + k * row, column, columns == m, columns, channels, lanes)


@device
def _write(tile, to, start, pitch, whole, rows, channels, lanes):
    """Write a tile, or what exists of it."""
    if whole and channels >= lanes:
        store(tile, to, start, pitch, 0)
    else:
        put(tile, to, start, pitch, rows, 0, channels)


@routine
def _input(n, count, x, i, pitch, apart, to, j, to_pitch, to_apart):
    """Apply ``B.T`` to ``count`` columns of ``n`` vectors."""
    if n == 6:
        for k in range(count):
            store(_INPUT_6(load(6, x, i + k * apart, pitch)), to, j + k * to_apart, to_pitch, 0)
    else:
        for k in range(count):
            store(_INPUT_4(load(4, x, i + k * apart, pitch)), to, j + k * to_apart, to_pitch, 0)


@routine
def _taps(n, r, count, x, i, pitch, apart, to, j, to_pitch, to_apart):
    """Apply ``G`` to ``count`` columns of ``r`` vectors."""
    if n == 6 and r == 3:
        for k in range(count):
            store(_TAPS_3_6(load(3, x, i + k * apart, pitch)), to, j + k * to_apart, to_pitch, 0)
    elif n == 6:
        for k in range(count):
            store(_TAPS_4_6(load(4, x, i + k * apart, pitch)), to, j + k * to_apart, to_pitch, 0)
    elif r == 3:
        for k in range(count):
            store(_TAPS_3_4(load(3, x, i + k * apart, pitch)), to, j + k * to_apart, to_pitch, 0)
    else:
        for k in range(count):
            store(_TAPS_2_4(load(2, x, i + k * apart, pitch)), to, j + k * to_apart, to_pitch, 0)


@routine
def _output(m, n, count, x, i, pitch, apart, to, j, to_pitch, to_apart):
    """Apply ``A.T`` to ``count`` columns of ``n`` vectors."""
    if n == 6 and m == 4:
        for k in range(count):
            store(_OUTPUT_4_6(load(6, x, i + k * apart, pitch)), to, j + k * to_apart, to_pitch, 0)
    elif n == 6:
        for k in range(count):
            store(_OUTPUT_3_6(load(6, x, i + k * apart, pitch)), to, j + k * to_apart, to_pitch, 0)
    elif m == 2:
        for k in range(count):
            store(_OUTPUT_2_4(load(4, x, i + k * apart, pitch)), to, j + k * to_apart, to_pitch, 0)
    else:
        for k in range(count):
            store(_OUTPUT_3_4(load(4, x, i + k * apart, pitch)), to, j + k * to_apart, to_pitch, 0)
