"""What the words mean, in NumPy: this is what runs under ``NUMBA_DISABLE_JIT=1``, and it checks every position."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from numbaconv.simd.cpu import lanes

#: How many taps there are, as a tuple of so many elements: its length is part of its type, wherever it is handed on.
Taps = tuple[int, ...]
#: A tile may hang over what there is to compute, and sum whatever its memory held before; nothing of that is kept.
silent = np.errstate(over="ignore", invalid="ignore")


def zeros(rows: int, vectors: int, like: np.ndarray) -> Any:
    """A tile of zeros, of the dtype of the array ``like``. ``rows`` and ``vectors`` are compile-time constants."""
    return np.zeros((rows, vectors * lanes(like.dtype)), like.dtype)


def spread(rows: int, vectors: int, array: np.ndarray, start: int) -> Any:
    """A tile whose rows all hold the elements of ``array`` from ``start`` on."""
    return np.tile(cut(array, start, vectors * lanes(array.dtype)), (rows, 1))


def load(rows: int, vectors: int, array: np.ndarray, start: int, pitch: int, apart: int) -> Any:
    """A tile of what lies in memory: ``tile[p, v, lane] = array[start + p * pitch + v * apart + lane]``."""
    size = lanes(array.dtype)
    places = ((cut(array, start + p * pitch + v * apart, size) for v in range(vectors)) for p in range(rows))
    return np.stack([np.concatenate(list(row)) for row in places])


def fill(rows: int, vectors: int, array: np.ndarray, start: int) -> Any:
    """A tile whose row ``p`` is filled with ``array[start + p]``."""
    return np.tile(cut(array, start, rows)[:, None], (1, vectors * lanes(array.dtype)))


@silent
def outer(tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int, apart: int) -> Any:
    """Add an outer product of scalars that lie ``pitch`` apart and vectors that lie ``apart``.

    ``tile[p, v, lane] += a[i + p * pitch] * b[j + v * apart + lane]``
    """
    rows, width = tile.shape
    size = lanes(b.dtype)
    row = np.concatenate([cut(b, j + v * apart, size) for v in range(width // size)])
    return tile + np.outer([a[i + p * pitch] for p in range(rows)], row)


@silent
def trail(
    tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int, b_pitch: int, apart: int, taps: Taps
) -> Any:
    """Add an outer product for each of some taps, broadcasting those scalars that neighbouring rows share but once.

    ``tile[p, v, lane] += a[i + (p + k) * pitch] * b[j + k * b_pitch + v * apart + lane]`` for each ``k`` below
    ``len(taps)``.
    """
    for k in range(len(taps)):
        tile = outer(tile, a, i + k * pitch, pitch, b, j + k * b_pitch, apart)
    return tile


@silent
def hadamard(tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int) -> Any:
    """Add products lane by lane: ``tile[p, lane] += a[i + p * pitch + lane] * b[j + lane]``."""
    rows, width = tile.shape
    return tile + np.stack([cut(a, i + p * pitch, width) for p in range(rows)]) * cut(b, j, width)


@silent
def slide(
    tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int, b_pitch: int, taps: int, rows: int, along: int
) -> Any:
    """Add products lane by lane, of ``taps`` vectors each, loading those that neighbouring rows share but once.

    ``tile[p, lane] += a[i + (p * rows + k * along) * pitch + lane] * b[j + k * b_pitch + lane]`` for each ``k`` below
    ``taps``. The last three arguments are compile-time constants.
    """
    for k in range(taps):
        tile = hadamard(tile, a, i + k * along * pitch, rows * pitch, b, j + k * b_pitch)
    return tile


@silent
def stencil(
    tile: Any, a: np.ndarray, i: int, across: int, tap: int, line: int, b: np.ndarray, j: int, b_tap: int, b_line: int,
    lines: int, taps: int, shared: int, apart: int,
) -> Any:  # fmt: skip
    """Add products lane by lane, of so many ``lines`` of a kernel with so many ``taps`` each.

    ``tile[p, lane] += a[i + r * line + p * across + k * tap + lane] * b[j + r * b_line + k * b_tap + lane]`` for each
    ``r`` below ``lines`` and ``k`` below ``taps``. The last two arguments are compile-time constants. If ``shared`` is
    not 0, it has to be ``taps``, and ``across`` has to be ``apart * tap``: vectors that rows share are loaded but once.
    """
    if shared and (shared != taps or across != apart * tap):
        raise ValueError(f"{taps} taps, {tap} apart, of rows {across} apart, are not {shared} and {apart} times as far")
    for r in range(lines):
        for k in range(taps):
            tile = hadamard(tile, a, i + r * line + k * tap, across, b, j + r * b_line + k * b_tap)
    return tile


@silent
def slide_within(
    tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int, b_pitch: int, taps: int, rows: int, along: int,
    low: int, high: int, count: int, zero: np.ndarray, nothing: int,
) -> Any:  # fmt: skip
    """:func:`slide`, where some vectors do not exist: instead of those, the zeros from ``zero[nothing]`` on are read.

    There are the vectors of ``a`` that begin at least ``low`` and less than ``high`` elements after ``i``, and the
    first ``count`` of ``b``.
    """
    for k in range(taps):
        vector = zero, nothing
        if k < count:
            vector = b, j + k * b_pitch
        offsets = [(p * rows + k * along) * pitch for p in range(len(tile))]
        tile = _rows_within(tile, a, i, offsets, low, high, zero, nothing, *vector)
    return tile


@silent
def stencil_within(
    tile: Any, a: np.ndarray, i: int, across: int, tap: int, line: int, b: np.ndarray, j: int, b_tap: int, b_line: int,
    lines: int, taps: int, shared: int, apart: int, low: int, high: int, nothing: int,
) -> Any:  # fmt: skip
    """:func:`stencil`, where some vectors of ``a`` do not exist: zeros are read instead, from ``b[nothing]`` on.

    In each line there are those that begin at least ``low`` and less than ``high`` elements after the first.
    """
    for r in range(lines):
        for k in range(taps):
            offsets = [p * across + k * tap for p in range(len(tile))]
            vector = b, j + r * b_line + k * b_tap
            tile = _rows_within(tile, a, i + r * line, offsets, low, high, b, nothing, *vector)
    return tile


def _rows_within(
    tile: Any, a: np.ndarray, i: int, offsets: list[int], low: int, high: int, zero: np.ndarray, nothing: int,
    b: np.ndarray, j: int,
) -> Any:  # fmt: skip
    width = tile.shape[1]
    found = [(a, i + offset) if low <= offset < high else (zero, nothing) for offset in offsets]
    return tile + np.stack([cut(*place, width) for place in found]) * cut(b, j, width)


@silent
def sweep(tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int, b_pitch: int, taps: int) -> Any:
    """Add products of vectors and scalars, loading those vectors that neighbouring rows share but once.

    ``tile[p, lane] += a[i + (p + k) * pitch + lane] * b[j + k * b_pitch]`` for each ``k`` below ``taps``, which is a
    compile-time constant.
    """
    rows, width = tile.shape
    for k in range(taps):
        vectors = [cut(a, i + (p + k) * pitch, width) for p in range(rows)]
        tile = tile + np.stack(vectors) * cut(b, j + k * b_pitch, 1)
    return tile


@silent
def dot(tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int, apart: int) -> Any:
    """Add a step of the dot products of all rows and vectors.

    ``tile[p, v, lane] += a[i + p * pitch + lane] * b[j + v * apart + lane]``
    """
    rows, width = tile.shape
    size = lanes(b.dtype)
    left = [cut(a, i + p * pitch, size) for p in range(rows)]
    right = [cut(b, j + v * apart, size) for v in range(width // size)]
    return tile + np.array([np.concatenate([row * vector for vector in right]) for row in left])


def turn(tile: Any) -> Any:
    """A tile's rows as columns of vectors, and its columns as rows: ``result[v, p, lane] = tile[p, v, lane]``."""
    rows, width = tile.shape
    size = lanes(tile.dtype)
    return tile.reshape(rows, width // size, size).swapaxes(0, 1).reshape(-1, rows * size)


@silent
def lift(tile: Any, array: np.ndarray, start: int) -> Any:
    """Add a vector to all vectors of a tile: ``tile[p, v, lane] += array[start + lane]``."""
    size = lanes(tile.dtype)
    return tile + np.tile(cut(array, start, size), tile.shape[1] // size)


@silent
def pile(tile: Any, array: np.ndarray, start: int, pitch: int, apart: int) -> Any:
    """Add what lies in memory: ``tile[p, v, lane] += array[start + p * pitch + v * apart + lane]``."""
    rows, width = tile.shape
    return tile + load(rows, width // lanes(tile.dtype), array, start, pitch, apart)


def rectify(tile: Any) -> Any:
    """A tile with 0 instead of every element below it; NaN stays NaN."""
    return np.where((tile > 0) | (tile != tile), tile, tile.dtype.type(0))


def store(tile: Any, array: np.ndarray, start: int, pitch: int, apart: int) -> None:
    """Write the vectors of a tile: ``array[start + p * pitch + v * apart + lane] = tile[p, v, lane]``."""
    size = lanes(array.dtype)
    for p, row in enumerate(tile):
        for v in range(row.size // size):
            cut(array, start + p * pitch + v * apart, size)[:] = row[v * size : (v + 1) * size]


def put(tile: Any, array: np.ndarray, start: int, pitch: int, rows: int, first: int, last: int) -> None:
    """Write a part of a tile: ``array[start + p * pitch + k] = tile[p, k]``.

    For ``p`` below ``rows``, and ``k``, which counts the lanes of all vectors, from ``first`` to below ``last``.
    """
    for p, row in enumerate(tile[: max(0, rows)]):
        for k in range(max(0, first), min(last, row.size)):
            cut(array, start + p * pitch + k, 1)[:] = row[k]


def trim(tile: Any, array: np.ndarray, start: int, pitch: int, apart: int, rows: int, vectors: int, last: int) -> None:
    """Write a part of a tile: ``array[start + p * pitch + v * apart + lane] = tile[p, v, lane]``.

    For ``p`` below ``rows``, ``v`` below ``vectors``, and lanes below ``last``.
    """
    size = lanes(array.dtype)
    for p, row in enumerate(tile[: max(0, rows)]):
        for v in range(min(vectors, row.size // size)):
            count = max(0, min(last, size))
            cut(array, start + p * pitch + v * apart, count)[:] = row[v * size : v * size + count]


def add(tile: Any, array: np.ndarray, start: int, pitch: int) -> None:
    """Add the rows of a tile to what is there: ``array[start + p * pitch + lane] += tile[p, lane]``."""
    for p, row in enumerate(tile):
        cut(array, start + p * pitch, row.size)[:] += row


def copy(to: np.ndarray, i: int, i_step: int, source: np.ndarray, j: int, j_step: int, count: int) -> None:
    """Copy elements that lie some steps apart: ``to[i + k * i_step] = source[j + k * j_step]``, ``count`` of them."""
    for k in range(count):
        cut(to, i + k * i_step, 1)[:] = cut(source, j + k * j_step, 1)


def move(to: np.ndarray, i: int, i_pitch: int, source: np.ndarray, j: int, j_pitch: int, rows: int, count: int) -> None:
    """Copy a block of memory: ``to[i + r * i_pitch + k] = source[j + r * j_pitch + k]``, for ``k`` below ``count``."""
    for r in range(rows):
        copy(to, i + r * i_pitch, 1, source, j + r * j_pitch, 1, count)


def narrow(
    to: np.ndarray, i: int, i_pitch: int, source: np.ndarray, j: int, j_pitch: int, rows: int, count: int
) -> None:
    """Copy every second element: ``to[i + r * i_pitch + k] = source[j + r * j_pitch + 2 * k]``."""
    for r in range(rows):
        copy(to, i + r * i_pitch, 1, source, j + r * j_pitch, 2, count)


def widen(
    to: np.ndarray, i: int, i_pitch: int, source: np.ndarray, j: int, j_pitch: int, rows: int, count: int
) -> None:
    """Copy to every second element: ``to[i + r * i_pitch + 2 * k] = source[j + r * j_pitch + k]``."""
    for r in range(rows):
        copy(to, i + r * i_pitch, 2, source, j + r * j_pitch, 1, count)


def deal(
    to: np.ndarray, i: int, i_pitch: int, source: np.ndarray, j: int, j_pitch: int, marks: np.ndarray, mark: int,
    rows: int, count: int,
) -> None:  # fmt: skip
    """Add what is marked of a block to another: ``to[i + r * i_pitch + k] += source[here]`` if ``marks[here] == mark``.

    ``here`` is ``j + r * j_pitch + k``, for ``r`` below ``rows`` and ``k`` below ``count``.
    """
    for r in range(rows):
        for k in range(count):
            if cut(marks, j + r * j_pitch + k, 1)[0] == mark:
                cut(to, i + r * i_pitch + k, 1)[:] += cut(source, j + r * j_pitch + k, 1)


def peak(
    to: np.ndarray, marks: np.ndarray, i: int, i_pitch: int, source: np.ndarray, j: int, j_pitch: int,
    rows: int, row_pitch: int, columns: int, column_pitch: int, mark: int, mark_pitch: int, windows: int, count: int,
    nobody: int,
) -> None:  # fmt: skip
    """The largest element of each window, and which it is; NaN is larger than any number, and a later one than another.

    For ``w`` below ``windows`` and ``k`` below ``count``, ``to[i + w * i_pitch + k]`` is the largest of
    ``source[j + w * j_pitch + k + r * row_pitch + c * column_pitch]``, ``r`` being below ``rows`` and ``c`` below
    ``columns``; and in the same place, ``marks`` is ``mark + r * mark_pitch + c`` of the first that is.

    If ``nobody`` is not negative, 0 stands for whatever is below it, and ``nobody`` is marked where nothing is above 0.
    """
    for w, k in product(range(windows), range(count)):
        best, tap = -np.inf, mark
        for r, c in product(range(rows), range(columns)):
            value = cut(source, j + w * j_pitch + k + r * row_pitch + c * column_pitch, 1)[0]
            if value > best or value != value:
                best, tap = value, mark + r * mark_pitch + c
        if nobody >= 0:
            best, tap = (0 if best <= 0 else best), (tap if best > 0 else nobody)
        cut(to, i + w * i_pitch + k, 1)[:] = best
        cut(marks, i + w * i_pitch + k, 1)[:] = tap


def restore(
    to: np.ndarray, i: int, i_pitch: int, rows: int, row_pitch: int, columns: int, column_pitch: int,
    source: np.ndarray, marks: np.ndarray, j: int, j_pitch: int, windows: int, count: int,
) -> None:  # fmt: skip
    """Fill windows with zeros, but for one element each, which :func:`peak` has marked.

    For ``w`` below ``windows``, ``k`` below ``count``, ``to[i + w * i_pitch + k + r * row_pitch + c * column_pitch]``
    is ``source[j + w * j_pitch + k]`` where ``marks`` there is ``r * columns + c``, and else 0.
    """
    for w, k in product(range(windows), range(count)):
        here = j + w * j_pitch + k
        for r, c in product(range(rows), range(columns)):
            chosen = cut(marks, here, 1)[0] == r * columns + c
            place = cut(to, i + w * i_pitch + k + r * row_pitch + c * column_pitch, 1)
            place[:] = cut(source, here, 1) if chosen else 0


def transpose(
    to: np.ndarray, i: int, i_pitch: int, source: np.ndarray, j: int, j_pitch: int, rows: int, columns: int
) -> None:
    """Copy a block the other way round: ``to[i + c * i_pitch + r] = source[j + r * j_pitch + c]``.

    For ``r`` below ``rows`` and ``c`` below ``columns``, neither of which is above the number of lanes.
    """
    if max(rows, columns) > lanes(source.dtype):
        raise IndexError(f"a block of {rows} x {columns} elements is larger than {lanes(source.dtype)} vectors")
    for r in range(rows):
        for c in range(columns):
            cut(to, i + c * i_pitch + r, 1)[:] = cut(source, j + r * j_pitch + c, 1)


def prefetch(array: np.ndarray, start: int, count: int) -> None:
    """Say that ``count`` elements will be read or written soon, so that they are brought into the L2 cache by then.

    A hint: nothing happens where they are not all inside the array, or not in memory.
    """


def clear(to: np.ndarray, start: int, count: int) -> None:
    """Set ``count`` elements to zero; none if that is negative."""
    cut(to, start, max(0, count))[:] = 0


def cut(array: np.ndarray, start: int, count: int) -> np.ndarray:
    """A slice that must lie inside the array: compiled code would not notice if it did not."""
    if start < 0 or start + count > array.size:
        raise IndexError(f"elements {start} to {start + count} of an array of {array.size}")
    return array[start : start + count]
