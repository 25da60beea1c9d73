"""Winograd's transforms, of vectors of channels: the matrices of :mod:`numbaconv.kernels.cook_toom`, as compiled words.

A transform of two dimensions applies one matrix to both sides of a square of vectors: to its columns, and, turned, to
what were its rows. 36 vectors would not fit into the registers. So where there are as many results, only some rows of
them are made at a time, from vectors that are loaded again for each: that is cheaper than to put vectors aside, for a
core loads two at a time but stores one. Rows whose points differ in their signs share their work, and come together.
"""

from __future__ import annotations

from numbaconv.jit import device, routine
from numbaconv.kernels.cook_toom import INNER, Matrix, input_matrix, output_matrix, tap_matrix
from numbaconv.simd import lanes_of, lift, linear, load, rectify, store, trim, turn

#: How six points are numbered here: those of small tiles first. Then come 0, a pair, infinity, and the other pair.
_ORDER = (0, 1, 2, 5, 3, 4)


def _rows(matrix: Matrix, first: int = 0, last: int = 6) -> Matrix:
    """Some rows of a matrix that has one for each of six points."""
    return tuple(matrix[k] for k in _ORDER[first:last])


def _outputs(m: int) -> Matrix:
    """The matrix that gives ``m`` outputs from six products."""
    return tuple(tuple(row[k] for k in _ORDER) for row in output_matrix(m, 6))


_INPUT_4, _INPUT_6 = linear(input_matrix(4)), linear(_rows(input_matrix(6)))
_INPUT_ROW_0, _INPUT_ROWS_1, _INPUT_ROW_3, _INPUT_ROWS_4 = (
    linear(_rows(input_matrix(6), first, last)) for first, last in ((0, 1), (1, 3), (3, 4), (4, 6))
)
_TAPS_2_4, _TAPS_3_4 = linear(tap_matrix(4, 2)), linear(tap_matrix(4, 3))
_TAPS_2_6, _TAPS_3_6, _TAPS_4_6, _TAPS_5_6 = (linear(_rows(tap_matrix(6, r))) for r in (2, 3, 4, 5))
_TAPS_ROW_0, _TAPS_ROWS_1, _TAPS_ROW_3, _TAPS_ROWS_4 = (
    linear(_rows(tap_matrix(6, 4), first, last)) for first, last in ((0, 1), (1, 3), (3, 4), (4, 6))
)
_OUTPUT_2_4, _OUTPUT_3_4 = linear(output_matrix(2, 4)), linear(output_matrix(3, 4))
_OUTPUT_2_6, _OUTPUT_3_6, _OUTPUT_4_6, _OUTPUT_5_6 = (linear(_outputs(m)) for m in (2, 3, 4, 5))
# Those of small tiles, which take the first four points of six.
_SMALL_UPPER, _SMALL_LOWER = linear(input_matrix(6, INNER)[:2]), linear(input_matrix(6, INNER)[2:])
_SMALL_TAPS = linear(_rows(tap_matrix(6, 2), 0, 4))
_SMALL_OUTPUT = linear(tuple(row[:4] for row in _outputs(2)))


@device
def transform_input(n, x, at, row, column, to, there, point):
    """``B.T`` on both sides of ``n`` x ``n`` vectors, ``row`` and ``column`` elements apart.

    The results are written to ``to[there]`` on, ``point`` elements from one to the next.
    """
    line = n * point
    if n == 6:
        _transform(_INPUT_ROW_0, _INPUT_6, load(6, 6, x, at, row, column), to, there, line, point)
        _transform(_INPUT_ROWS_1, _INPUT_6, load(6, 6, x, at, row, column), to, there + line, line, point)
        _transform(_INPUT_ROW_3, _INPUT_6, load(6, 6, x, at, row, column), to, there + 3 * line, line, point)
        _transform(_INPUT_ROWS_4, _INPUT_6, load(6, 6, x, at, row, column), to, there + 4 * line, line, point)
    else:
        _transform(_INPUT_4, _INPUT_4, load(4, 4, x, at, row, column), to, there, line, point)


@routine
def transform_small_input(thin, x, at, row, column, to, there, point, channels, lanes):
    """The same for all channels of a small tile of six points: two output pixels high instead of four.

    So two rows less are read, and two less of points made. One that is ``thin`` is two pixels wide instead, the same
    the other way round. Not in the loop of the others, which would be compiled to slower code.
    """
    line = 6 * point
    if thin:
        row, column, line, point = column, row, point, line
    for channel in range(0, channels, lanes):
        here, target = at + channel, there + channel
        _transform(_SMALL_UPPER, _INPUT_6, load(4, 6, x, here, row, column), to, target, line, point)
        _transform(_SMALL_LOWER, _INPUT_6, load(4, 6, x, here, row, column), to, target + 2 * line, line, point)


@device
def transform_taps(n, r, x, at, row, column, to, there, point):
    """``G`` on both sides of ``r`` x ``r`` vectors."""
    line = n * point
    if n == 6 and r == 3:
        _transform(_TAPS_3_6, _TAPS_3_6, load(3, 3, x, at, row, column), to, there, line, point)
    elif n == 6:
        _transform(_TAPS_5_6, _TAPS_5_6, load(5, 5, x, at, row, column), to, there, line, point)
    else:
        _transform(_TAPS_3_4, _TAPS_3_4, load(3, 3, x, at, row, column), to, there, line, point)


@device
def transform_gradient(n, r, x, at, row, column, to, there, point):
    """The same for ``r`` x ``r`` gradients of a tile, which are the taps of a weight gradient."""
    line = n * point
    if r == 4:
        _transform(_TAPS_ROW_0, _TAPS_4_6, load(4, 4, x, at, row, column), to, there, line, point)
        _transform(_TAPS_ROWS_1, _TAPS_4_6, load(4, 4, x, at, row, column), to, there + line, line, point)
        _transform(_TAPS_ROW_3, _TAPS_4_6, load(4, 4, x, at, row, column), to, there + 3 * line, line, point)
        _transform(_TAPS_ROWS_4, _TAPS_4_6, load(4, 4, x, at, row, column), to, there + 4 * line, line, point)
    elif n == 6:
        _transform(_TAPS_2_6, _TAPS_2_6, load(2, 2, x, at, row, column), to, there, line, point)
    else:
        _transform(_TAPS_2_4, _TAPS_2_4, load(2, 2, x, at, row, column), to, there, line, point)


@routine
def transform_small_gradient(thin, x, at, row, column, to, there, point, channels, lanes):
    """The same for all channels of a small tile of six points."""
    line = 6 * point
    if thin:
        row, column, line, point = column, row, point, line
    for channel in range(0, channels, lanes):
        here, target = at + channel, there + channel
        _transform(_SMALL_TAPS, _TAPS_4_6, load(2, 4, x, here, row, column), to, target, line, point)


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
    line = n * point
    if m == 4:
        tile = turn(_OUTPUT_4_6(turn(_OUTPUT_4_6(load(6, 6, x, at, line, point)))))
        _write(lift(tile, bias, first), 4, 4, to, there, row, column, rows, columns, channels, relu)
    elif n == 6:
        tile = turn(_OUTPUT_2_6(turn(_OUTPUT_2_6(load(6, 6, x, at, line, point)))))
        _write(lift(tile, bias, first), 2, 2, to, there, row, column, rows, columns, channels, relu)
    else:
        tile = turn(_OUTPUT_2_4(turn(_OUTPUT_2_4(load(4, 4, x, at, line, point)))))
        _write(lift(tile, bias, first), 2, 2, to, there, row, column, rows, columns, channels, relu)


@routine
def transform_small_sums(
    thin, x, at, point, to, there, row, column, rows, columns, channels, lanes, bias, first, relu
):  # fmt: skip
    """The same for all channels of a small tile of six points."""
    line = 6 * point
    if thin:
        row, column, rows, columns, line, point = column, row, columns, rows, point, line
    for lane in range(0, channels, lanes):
        tile = lift(turn(_OUTPUT_4_6(turn(_SMALL_OUTPUT(load(4, 6, x, at + lane, line, point))))), bias, first + lane)
        _write(tile, 2, 4, to, there + lane, row, column, rows, columns, channels - lane, relu)


@device
def _transform(some, whole, tile, to, there, row, column):
    """Write some rows of a matrix times a tile times the matrix, turned."""
    store(turn(whole(turn(some(tile)))), to, there, row, column)


@device
def _write(tile, height, width, to, there, row, column, rows, columns, channels, relu):
    """Write what exists of a tile."""
    if relu:
        tile = rectify(tile)
    if rows == height and columns == width and channels >= lanes_of(to):
        store(tile, to, there, row, column)
    else:
        trim(tile, to, there, row, column, rows, columns, channels)
