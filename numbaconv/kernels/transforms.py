"""Winograd's transforms, of vectors of channels: the matrices of :mod:`numbaconv.kernels.cook_toom`, as compiled words.

A transform of two dimensions applies one matrix to the columns of a tile of pixels, and another to its rows. What lies
between goes through a little memory, for 36 vectors would not fit into the registers.
"""

from __future__ import annotations

from numbaconv.jit import device, routine
from numbaconv.kernels.cook_toom import input_matrix, output_matrix, tap_matrix
from numbaconv.kernels.tiles import write
from numbaconv.simd import lanes_of, linear, load, plus, spread, store

_INPUT_4, _INPUT_6 = linear(input_matrix(4)), linear(input_matrix(6))
_TAPS_2_4, _TAPS_3_4 = linear(tap_matrix(4, 2)), linear(tap_matrix(4, 3))
_TAPS_2_6, _TAPS_3_6 = linear(tap_matrix(6, 2)), linear(tap_matrix(6, 3))
_TAPS_4_6, _TAPS_5_6 = linear(tap_matrix(6, 4)), linear(tap_matrix(6, 5))
_OUTPUT_2_4, _OUTPUT_3_4 = linear(output_matrix(2, 4)), linear(output_matrix(3, 4))
_OUTPUT_2_6, _OUTPUT_3_6 = linear(output_matrix(2, 6)), linear(output_matrix(3, 6))
_OUTPUT_4_6, _OUTPUT_5_6 = linear(output_matrix(4, 6)), linear(output_matrix(5, 6))


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
    m, n, x, at, point, temp, here, to, there, row, column, rows, columns, channels, bias, first
):  # fmt: skip
    """The same, plus ``bias[first]`` on, for those rows, columns and channels of the result that exist."""
    lanes = lanes_of(temp)
    _output(m, n, n, x, at, n * point, point, temp, here, n * lanes, lanes)
    if m == 4:
        for k in range(rows):
            tile = plus(_OUTPUT_4_6(load(6, temp, here + k * n * lanes, lanes)), spread(4, 1, bias, first))
            write(tile, to, there + k * row, column, columns == m, columns, channels, lanes)
    elif n == 6:
        for k in range(rows):
            tile = plus(_OUTPUT_2_6(load(6, temp, here + k * n * lanes, lanes)), spread(2, 1, bias, first))
            write(tile, to, there + k * row, column, columns == m, columns, channels, lanes)
    else:
        for k in range(rows):
            tile = plus(_OUTPUT_2_4(load(4, temp, here + k * n * lanes, lanes)), spread(2, 1, bias, first))
            write(tile, to, there + k * row, column, columns == m, columns, channels, lanes)


@routine
def _input(n, count, x, i, pitch, apart, to, j, to_pitch, to_apart):
    """Apply ``B.T`` to ``count`` columns of ``n`` vectors."""
    if n == 6:
        _columns(_INPUT_6, 6, count, x, i, pitch, apart, to, j, to_pitch, to_apart)
    else:
        _columns(_INPUT_4, 4, count, x, i, pitch, apart, to, j, to_pitch, to_apart)


@routine
def _taps(n, r, count, x, i, pitch, apart, to, j, to_pitch, to_apart):
    """Apply ``G`` to ``count`` columns of ``r`` vectors."""
    if n == 6 and r == 3:
        _columns(_TAPS_3_6, 3, count, x, i, pitch, apart, to, j, to_pitch, to_apart)
    elif n == 6 and r == 4:
        _columns(_TAPS_4_6, 4, count, x, i, pitch, apart, to, j, to_pitch, to_apart)
    elif n == 6 and r == 5:
        _columns(_TAPS_5_6, 5, count, x, i, pitch, apart, to, j, to_pitch, to_apart)
    elif n == 6:
        _columns(_TAPS_2_6, 2, count, x, i, pitch, apart, to, j, to_pitch, to_apart)
    elif r == 3:
        _columns(_TAPS_3_4, 3, count, x, i, pitch, apart, to, j, to_pitch, to_apart)
    else:
        _columns(_TAPS_2_4, 2, count, x, i, pitch, apart, to, j, to_pitch, to_apart)


@routine
def _output(m, n, count, x, i, pitch, apart, to, j, to_pitch, to_apart):
    """Apply ``A.T`` to ``count`` columns of ``n`` vectors."""
    if n == 6 and m == 4:
        _columns(_OUTPUT_4_6, 6, count, x, i, pitch, apart, to, j, to_pitch, to_apart)
    elif n == 6 and m == 2:
        _columns(_OUTPUT_2_6, 6, count, x, i, pitch, apart, to, j, to_pitch, to_apart)
    elif n == 6 and m == 5:
        _columns(_OUTPUT_5_6, 6, count, x, i, pitch, apart, to, j, to_pitch, to_apart)
    elif n == 6:
        _columns(_OUTPUT_3_6, 6, count, x, i, pitch, apart, to, j, to_pitch, to_apart)
    elif m == 2:
        _columns(_OUTPUT_2_4, 4, count, x, i, pitch, apart, to, j, to_pitch, to_apart)
    else:
        _columns(_OUTPUT_3_4, 4, count, x, i, pitch, apart, to, j, to_pitch, to_apart)


@device
def _columns(matrix, rows, count, x, i, pitch, apart, to, j, to_pitch, to_apart):
    """Apply a matrix to ``count`` columns of so many vectors."""
    for k in range(count):
        store(matrix(load(rows, x, i + k * apart, pitch)), to, j + k * to_apart, to_pitch, 0)
