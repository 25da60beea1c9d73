"""Winograd's transforms, of vectors of channels: the matrices of :mod:`numbaconv.kernels.cook_toom`, as compiled words.

A transform of two dimensions applies one matrix to both sides of a square of vectors: to its columns, and, turned, to
what were its rows. 36 vectors would not fit into the registers. So where there are as many results, only some rows of
them are made at a time, from vectors that are loaded again for each: that is cheaper than to put vectors aside, for a
core loads two at a time but stores one. Rows whose points differ in their signs share their work, and come together.
"""

from __future__ import annotations

from numbaconv.jit import device
from numbaconv.kernels.cook_toom import input_matrix, output_matrix, tap_matrix
from numbaconv.simd import lanes_of, lift, linear, load, rectify, store, trim, turn

_INPUT_4, _INPUT_6 = linear(input_matrix(4)), linear(input_matrix(6))
_TAPS_2_4, _TAPS_3_4 = linear(tap_matrix(4, 2)), linear(tap_matrix(4, 3))
_TAPS_2_6, _TAPS_3_6 = linear(tap_matrix(6, 2)), linear(tap_matrix(6, 3))
_TAPS_4_6, _TAPS_5_6 = linear(tap_matrix(6, 4)), linear(tap_matrix(6, 5))
_OUTPUT_2_4, _OUTPUT_3_4 = linear(output_matrix(2, 4)), linear(output_matrix(3, 4))
_OUTPUT_2_6, _OUTPUT_3_6 = linear(output_matrix(2, 6)), linear(output_matrix(3, 6))
_OUTPUT_4_6, _OUTPUT_5_6 = linear(output_matrix(4, 6)), linear(output_matrix(5, 6))
# Of six points, the first is 0 and the last is infinity; those between are two pairs.
_INPUT_ROW_0, _INPUT_ROWS_1, _INPUT_ROWS_3, _INPUT_ROW_5 = (
    linear(input_matrix(6)[first:last]) for first, last in ((0, 1), (1, 3), (3, 5), (5, 6))
)
_TAPS_ROW_0, _TAPS_ROWS_1, _TAPS_ROWS_3, _TAPS_ROW_5 = (
    linear(tap_matrix(6, 4)[first:last]) for first, last in ((0, 1), (1, 3), (3, 5), (5, 6))
)


@device
def transform_input(n, x, at, row, column, to, there, point):
    """``B.T`` on both sides of ``n`` x ``n`` vectors, ``row`` and ``column`` elements apart.

    The results are written to ``to[there]`` on, ``point`` elements from one to the next.
    """
    if n == 6:
        line = 6 * point
        _transform(_INPUT_ROW_0, _INPUT_6, load(6, 6, x, at, row, column), to, there, line, point)
        _transform(_INPUT_ROWS_1, _INPUT_6, load(6, 6, x, at, row, column), to, there + line, line, point)
        _transform(_INPUT_ROWS_3, _INPUT_6, load(6, 6, x, at, row, column), to, there + 3 * line, line, point)
        _transform(_INPUT_ROW_5, _INPUT_6, load(6, 6, x, at, row, column), to, there + 5 * line, line, point)
    else:
        _transform(_INPUT_4, _INPUT_4, load(4, 4, x, at, row, column), to, there, 4 * point, point)


@device
def transform_taps(n, r, x, at, row, column, to, there, point):
    """``G`` on both sides of ``r`` x ``r`` vectors."""
    line = n * point
    if n == 6 and r == 4:
        _transform(_TAPS_ROW_0, _TAPS_4_6, load(4, 4, x, at, row, column), to, there, line, point)
        _transform(_TAPS_ROWS_1, _TAPS_4_6, load(4, 4, x, at, row, column), to, there + line, line, point)
        _transform(_TAPS_ROWS_3, _TAPS_4_6, load(4, 4, x, at, row, column), to, there + 3 * line, line, point)
        _transform(_TAPS_ROW_5, _TAPS_4_6, load(4, 4, x, at, row, column), to, there + 5 * line, line, point)
    elif n == 6 and r == 3:
        _transform(_TAPS_3_6, _TAPS_3_6, load(3, 3, x, at, row, column), to, there, line, point)
    elif n == 6 and r == 5:
        _transform(_TAPS_5_6, _TAPS_5_6, load(5, 5, x, at, row, column), to, there, line, point)
    elif n == 6:
        _transform(_TAPS_2_6, _TAPS_2_6, load(2, 2, x, at, row, column), to, there, line, point)
    elif r == 3:
        _transform(_TAPS_3_4, _TAPS_3_4, load(3, 3, x, at, row, column), to, there, line, point)
    else:
        _transform(_TAPS_2_4, _TAPS_2_4, load(2, 2, x, at, row, column), to, there, line, point)


@device
def transform_output(m, n, x, at, point, to, there, row, column):
    """``A.T`` on both sides of ``n`` x ``n`` vectors that lie ``point`` apart: ``m`` x ``m`` of them."""
    if n == 6 and m == 5:
        _transform(_OUTPUT_5_6, _OUTPUT_5_6, load(6, 6, x, at, 6 * point, point), to, there, row, column)
    elif n == 6:
        _transform(_OUTPUT_3_6, _OUTPUT_3_6, load(6, 6, x, at, 6 * point, point), to, there, row, column)
    else:
        _transform(_OUTPUT_3_4, _OUTPUT_3_4, load(4, 4, x, at, 4 * point, point), to, there, row, column)


@device
def transform_sums(m, n, x, at, point, to, there, row, column, rows, columns, channels, bias, first, relu):
    """The same, plus ``bias[first]`` on, for those rows, columns and channels of the result that exist.

    With ``relu``, 0 is written instead of everything below it.
    """
    if m == 4:
        tile = turn(_OUTPUT_4_6(turn(_OUTPUT_4_6(load(6, 6, x, at, 6 * point, point)))))
        _write(lift(tile, bias, first), m, to, there, row, column, rows, columns, channels, relu)
    elif n == 6:
        tile = turn(_OUTPUT_2_6(turn(_OUTPUT_2_6(load(6, 6, x, at, 6 * point, point)))))
        _write(lift(tile, bias, first), m, to, there, row, column, rows, columns, channels, relu)
    else:
        tile = turn(_OUTPUT_2_4(turn(_OUTPUT_2_4(load(4, 4, x, at, 4 * point, point)))))
        _write(lift(tile, bias, first), m, to, there, row, column, rows, columns, channels, relu)


@device
def _transform(some, whole, tile, to, there, row, column):
    """Write some rows of a matrix times a tile times the matrix, turned."""
    store(turn(whole(turn(some(tile)))), to, there, row, column)


@device
def _write(tile, m, to, there, row, column, rows, columns, channels, relu):
    """Write what exists of a tile."""
    if relu:
        tile = rectify(tile)
    if rows == m and columns == m and channels >= lanes_of(to):
        store(tile, to, there, row, column)
    else:
        trim(tile, to, there, row, column, rows, columns, channels)
