"""The vector vocabulary: what every word means, and that it compiles to what it means, on several kinds of CPU.

A word is called from a small function. As Python (``py_func``) the function does what the words say they mean; compiled
it does what they were lowered to. Buffers are larger than what the words should touch, and compared whole.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any

import numba
import numpy as np
import pytest
from cases import INTERPRETED, run_python

from numbaconv import nn, simd
from numbaconv.kernels.depthwise import PIXELS, SHARED
from numbaconv.kernels.tiles import HEIGHTS, PLANE_TILES, THREE
from numbaconv.kernels.tiles import TRAIL_HEIGHTS as TRAILS
from numbaconv.kernels.weight_depthwise import WINDOW_SIZES
from numbaconv.simd import (
    add,
    clear,
    copy,
    deal,
    dot,
    fill,
    hadamard,
    lanes,
    lanes_of,
    lift,
    linear,
    load,
    move,
    narrow,
    outer,
    peak,
    pile,
    prefetch,
    put,
    rectify,
    restore,
    slide,
    slide_within,
    spread,
    stencil,
    stencil_within,
    store,
    sweep,
    trail,
    transpose,
    trim,
    turn,
    widen,
    zeros,
)

DTYPES = [np.float32, np.float64]
SHAPES = sorted({(rows, vectors) for rows in (1, *HEIGHTS) for vectors in (1, 2)} | set(PLANE_TILES.items()))
SIZE = 2000
NOTHING = -99.0  # what a buffer holds where nothing was written
each_tile = pytest.mark.parametrize(("rows", "vectors"), SHAPES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@cache
def words(rows: int, vectors: int) -> tuple[Callable, ...]:
    """A function for each word that makes or changes a tile; tiles are stored, for they can't be returned.

    The arguments are two arrays to read, where in them, how far apart rows lie, and vectors; and an array to write to,
    where in it, and how far apart rows and vectors lie there.
    """

    @numba.njit
    def by_zeros(a, i, pitch, b, j, apart, to, start, step, gap):
        store(zeros(rows, vectors, a), to, start, step, gap)

    @numba.njit
    def by_spread(a, i, pitch, b, j, apart, to, start, step, gap):
        store(spread(rows, vectors, b, j), to, start, step, gap)

    @numba.njit
    def by_fill(a, i, pitch, b, j, apart, to, start, step, gap):
        store(fill(rows, vectors, a, i), to, start, step, gap)

    @numba.njit
    def by_outer(a, i, pitch, b, j, apart, to, start, step, gap):
        store(outer(spread(rows, vectors, b, 7), a, i, pitch, b, j, apart), to, start, step, gap)

    @numba.njit
    def by_hadamard(a, i, pitch, b, j, apart, to, start, step, gap):
        store(hadamard(spread(rows, vectors, b, 7), a, i, pitch, b, j), to, start, step, gap)

    @numba.njit
    def by_dot(a, i, pitch, b, j, apart, to, start, step, gap):
        store(dot(spread(rows, vectors, b, 7), a, i, pitch, b, j, apart), to, start, step, gap)

    @numba.njit
    def by_add(a, i, pitch, b, j, apart, to, start, step, gap):
        add(outer(zeros(rows, vectors, a), a, i, pitch, b, j, apart), to, start, step)

    @numba.njit
    def by_load(a, i, pitch, b, j, apart, to, start, step, gap):
        store(load(rows, vectors, a, i, pitch, apart), to, start, step, gap)

    @numba.njit
    def by_lift(a, i, pitch, b, j, apart, to, start, step, gap):
        store(lift(spread(rows, vectors, b, 7), a, i), to, start, step, gap)

    @numba.njit
    def by_pile(a, i, pitch, b, j, apart, to, start, step, gap):
        store(pile(spread(rows, vectors, b, 7), a, i, pitch, apart), to, start, step, gap)

    @numba.njit
    def by_turn(a, i, pitch, b, j, apart, to, start, step, gap):
        store(turn(load(vectors, rows, a, i, apart, pitch)), to, start, step, gap)

    @numba.njit
    def by_rectify(a, i, pitch, b, j, apart, to, start, step, gap):
        store(rectify(lift(spread(rows, vectors, b, 7), a, i)), to, start, step, gap)

    made = by_zeros, by_spread, by_fill, by_load
    return *made, by_outer, by_hadamard, by_dot, by_add, by_lift, by_pile, by_turn, by_rectify


NAMES = ["zeros", "spread", "fill", "load", "outer", "hadamard", "dot", "add", "lift", "pile", "turn", "rectify"]
ZEROS, SPREAD, FILL, LOAD, OUTER, HADAMARD, DOT, ADD, LIFT, PILE, TURN, RECTIFY = range(len(NAMES))
each_word = pytest.mark.parametrize("word", range(len(NAMES)), ids=NAMES)


def meaning(word: int, rows: int, width: int, size: int, numbers: tuple[int, ...], a: Any, b: Any, to: Any) -> Any:
    """The same, element by element: what ``to`` holds then. ``size`` is the number of lanes."""
    i, pitch, j, apart, start, step, gap = numbers
    to = to.copy()
    for p in range(rows):
        for k in range(width):
            v, lane = divmod(k, size)
            here = start + p * step + (k if word == ADD else v * gap + lane)
            far = j + v * apart + lane
            to[here] = {
                ZEROS: lambda p, k, lane, far, here: 0,
                SPREAD: lambda p, k, lane, far, here: b[j + k],
                FILL: lambda p, k, lane, far, here: a[i + p],
                OUTER: lambda p, k, lane, far, here: b[7 + k] + a[i + p * pitch] * b[far],
                HADAMARD: lambda p, k, lane, far, here: b[7 + k] + a[i + p * pitch + k] * b[j + k],
                DOT: lambda p, k, lane, far, here: b[7 + k] + a[i + p * pitch + lane] * b[far],
                ADD: lambda p, k, lane, far, here: to[here] + a[i + p * pitch] * b[far],
                LOAD: lambda p, k, lane, far, here: a[i + p * pitch + far - j],
                LIFT: lambda p, k, lane, far, here: b[7 + k] + a[i + lane],
                PILE: lambda p, k, lane, far, here: b[7 + k] + a[i + p * pitch + far - j],
                TURN: lambda p, k, lane, far, here: a[i + p * pitch + far - j],
                RECTIFY: lambda p, k, lane, far, here: max(b[7 + k] + a[i + lane], 0),
            }[word](p, k, lane, far, here)
    return to


def places(rows: int, vectors: int, size: int) -> list[tuple[int, ...]]:
    """Where to read and write: neither aligned nor contiguous, rows and vectors that are the same or run backwards."""
    width = vectors * size
    return [
        (0, 1, 0, size, 0, width, size),
        (3, 5, 11, size + 9, 1, width + 3, size),
        (40, 0, 1, 1, 13, size, rows * size),  # vectors from rows of an image below each other
        (60, -2, 0, 0, 5, vectors * (size + 3), size + 3),
        (60, 1, 300, -5, 900, width, -size),
    ]


def buffers(dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two arrays of whole numbers to read, and one to write to."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 10, SIZE).astype(dtype) for _ in range(2))
    return a, b, np.full(SIZE, NOTHING, dtype)


def as_python(function: Any) -> Callable:
    """The function that a compiled one is made of."""
    return getattr(function, "py_func", function)


def as_compiled(function: Any) -> Callable:
    return function


each_way = pytest.mark.parametrize(
    "way", [as_python, pytest.param(as_compiled, marks=pytest.mark.compiled)], ids=["as Python", "compiled"]
)


@each_dtype
@each_tile
@each_word
def test_words_mean_what_they_say(word: int, rows: int, vectors: int, dtype: Any) -> None:
    a, b, to = buffers(dtype)
    size = lanes(dtype)
    for numbers in places(rows, vectors, size):
        i, pitch, j, apart, *where = numbers
        got = to.copy()
        as_python(words(rows, vectors)[word])(a, i, pitch, b, j, apart, got, *where)
        np.testing.assert_array_equal(got, meaning(word, rows, vectors * size, size, numbers, a, b, to))


@pytest.mark.compiled
@each_tile
@each_word
def test_words_compile_to_what_they_mean(word: int, rows: int, vectors: int) -> None:
    function = words(rows, vectors)[word]
    for dtype in DTYPES:
        a, b, to = buffers(dtype)
        size = lanes(dtype)
        # rows and vectors that overlap when written, too: the last one stays
        for numbers in [*places(rows, vectors, size), (0, 1, 0, size, 8, 1, size), (0, 1, 0, size, 8, size, 1)]:
            i, pitch, j, apart, *where = numbers
            compiled, meant = to.copy(), to.copy()
            function(a, i, pitch, b, j, apart, compiled, *where)
            as_python(function)(a, i, pitch, b, j, apart, meant, *where)
            np.testing.assert_array_equal(compiled, meant)


#: What kernels slide: rows of the tile, taps, and rows and taps in vectors. Some pixels over the taps of a kernel row,
#: or a window of taps over four pixels; and a few that nobody needs yet.
@numba.njit
def rectified(a, to):
    store(rectify(load(1, 1, a, 0, 0, 0)), to, 0, 0, 0)


@pytest.mark.parametrize("function", [as_python(rectified), pytest.param(rectified, marks=pytest.mark.compiled)])
@each_dtype
def test_rectify_as_a_relu_does(dtype: Any, function: Any) -> None:
    a = np.resize(np.array([np.nan, -np.nan, -0.0, 0.0, -np.inf, np.inf, -1e-45, 1e-38], dtype), lanes(dtype))
    to = np.ones_like(a)
    function(a, to)
    assert to.tobytes() == nn.ReLU()(a).tobytes()


SLIDES = [
    *((pixels, taps, step, 1) for pixels in (PIXELS, 1) for taps in SHARED for step in (1, 2)),
    *((taps, 4, 1, step) for taps in WINDOW_SIZES for step in (1, 2)),
    (1, 1, 1, 1),
    (4, 3, 3, 2),  # there are vectors that no row and no tap meets
    (2, 3, 5, 1),
    (3, 2, 2, 4),
]


@cache
def sliding(height: int, taps: int, rows: int, along: int) -> Callable:
    """A function that slides ``taps`` vectors of ``b`` along ``a``, on top of a tile that is not zero."""

    @numba.njit
    def by_slide(a, i, pitch, b, j, b_pitch, to):
        tile = slide(load(height, 1, b, 7, 3, 0), a, i, pitch, b, j, b_pitch, taps, rows, along)
        store(tile, to, 0, lanes_of(to), 0)

    return by_slide


@each_dtype
@pytest.mark.parametrize("literals", SLIDES)
@each_way
def test_slide_means_what_it_says(way: Callable, literals: tuple[int, ...], dtype: Any) -> None:
    a, b, to = buffers(dtype)
    height, taps, rows, along = literals
    size = lanes(dtype)
    lane = np.arange(size)
    # as kernels have it, unaligned, all vectors the same, backwards
    for i, pitch, j, b_pitch in ((0, size, 0, size), (3, size + 5, 11, size + 9), (5, 0, 2, 0), (1500, -size, 900, -3)):
        wanted, got = to.copy(), to.copy()
        for p in range(height):
            products = [a[i + (p * rows + k * along) * pitch + lane] * b[j + k * b_pitch + lane] for k in range(taps)]
            wanted[p * size + lane] = b[7 + 3 * p + lane] + sum(products)
        way(sliding(*literals))(a, i, pitch, b, j, b_pitch, got)
        np.testing.assert_array_equal(got, wanted)


@cache
def sliding_within(height: int, taps: int, rows: int, along: int) -> Callable:
    """The same for vectors of which some do not exist."""

    @numba.njit
    def by_slide(a, i, pitch, b, j, b_pitch, low, high, count, to):
        tile = load(height, 1, b, 7, 3, 0)
        tile = slide_within(tile, a, i, pitch, b, j, b_pitch, taps, rows, along, low, high, count, b, len(b) - 64)
        store(tile, to, 0, lanes_of(to), 0)

    return by_slide


@each_dtype
@pytest.mark.parametrize("literals", SLIDES)
@each_way
def test_slide_within_reads_zeros_where_nothing_exists(way: Callable, literals: tuple[int, ...], dtype: Any) -> None:
    a, b, to = buffers(dtype)
    b[-64:] = 0
    height, taps, rows, along = literals
    size = lanes(dtype)
    lane = np.arange(size)
    for low, high, count in ((-99, 9999, 9), (size, 9999, 9), (0, 3 * size + 1, 2), (1, 2, 1), (0, 9999, 0), (5, 5, 3)):
        wanted, got = to.copy(), to.copy()
        for p in range(height):
            wanted[p * size + lane] = b[7 + 3 * p + lane]
            for k in range(min(taps, count)):
                offset = (p * rows + k * along) * (size + 5)
                if low <= offset < high:
                    wanted[p * size + lane] += a[3 + offset + lane] * b[11 + k * size + lane]
        way(sliding_within(*literals))(a, 3, size + 5, b, 11, size, low, high, count, got)
        np.testing.assert_array_equal(got, wanted)


@cache
def stencils(height: int, shared: int, apart: int) -> Callable:
    """A function that takes the taps of a kernel; where ``low`` is less than ``high``, not all vectors exist."""

    @numba.njit
    def by_stencil(a, i, across, tap, line, b, j, b_tap, b_line, lines, taps, low, high, to):
        tile = load(height, 1, b, 7, 3, 0)
        if low < high:
            tile = stencil_within(
                tile, a, i, across, tap, line, b, j, b_tap, b_line, lines, taps, shared, apart, low, high, len(b) - 64
            )
        else:
            tile = stencil(tile, a, i, across, tap, line, b, j, b_tap, b_line, lines, taps, shared, apart)
        store(tile, to, 0, lanes_of(to), 0)

    return by_stencil


@each_dtype
@pytest.mark.parametrize(("shared", "apart"), [(0, 1), *product(SHARED, (1, 2))])
@each_way
def test_stencils_mean_what_they_say(way: Callable, shared: int, apart: int, dtype: Any) -> None:
    a, b, to = buffers(dtype)
    b[-64:] = 0
    size = lanes(dtype)
    lane = np.arange(size)
    for lines, tap, low, high in ((3, size, 0, 0), (2, size + 1, -5, 3 * size), (1, size, size, 9999), (2, 0, 1, 2)):
        taps, across = shared or 4, (apart if shared else 3) * tap
        wanted, got = to.copy(), to.copy()
        for p, r, k in product(range(PIXELS), range(lines), range(taps)):
            if r == k == 0:
                wanted[p * size + lane] = b[7 + 3 * p + lane]
            offset = p * across + k * tap
            if low >= high or low <= offset < high:
                wanted[p * size + lane] += a[3 + r * 150 + offset + lane] * b[11 + r * 77 + k * size + lane]
        function = way(stencils(PIXELS, shared, apart))
        function(a, 3, across, tap, 150, b, 11, size, 77, lines, taps, low, high, got)
        np.testing.assert_array_equal(got, wanted)


@cache
def sweeping(height: int, taps: int) -> Callable:
    """A function that sweeps ``taps`` scalars of ``b`` over ``a``, on top of a tile that is not zero."""

    @numba.njit
    def by_sweep(a, i, pitch, b, j, b_pitch, to):
        tile = sweep(load(height, 1, b, 7, 3, 0), a, i, pitch, b, j, b_pitch, taps)
        store(tile, to, 0, lanes_of(to), 0)

    return by_sweep


@each_dtype
@pytest.mark.parametrize("height", [1, 3, 8])
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
@each_way
def test_sweep_means_what_it_says(way: Callable, taps: int, height: int, dtype: Any) -> None:
    a, b, to = buffers(dtype)
    size = lanes(dtype)
    lane = np.arange(size)
    for i, pitch, j, b_pitch in ((0, size, 0, 1), (3, size + 5, 11, 4), (5, 0, 2, 0), (1500, -size, 900, -3)):
        wanted, got = to.copy(), to.copy()
        for p in range(height):
            products = [a[i + (p + k) * pitch + lane] * b[j + k * b_pitch] for k in range(taps)]
            wanted[p * size + lane] = b[7 + 3 * p + lane] + sum(products)
        way(sweeping(height, taps))(a, i, pitch, b, j, b_pitch, got)
        np.testing.assert_array_equal(got, wanted)


@cache
def trailing(height: int, vectors: int, taps: int) -> Callable:
    """A function that adds an outer product for each of ``taps``, on top of a tile that is not zero."""
    joined = (1,) * taps

    @numba.njit
    def by_trail(a, i, pitch, b, j, b_pitch, apart, to):
        tile = trail(spread(height, vectors, b, 7), a, i, pitch, b, j, b_pitch, apart, joined)
        store(tile, to, 0, vectors * lanes_of(to), lanes_of(to))

    return by_trail


@each_dtype
@pytest.mark.parametrize(("height", "vectors"), [(1, 2), (2, 1), (5, 1), *((h, v) for v in (1, 2) for h in TRAILS[v])])
@pytest.mark.parametrize("taps", [1, 2, len(THREE)])
@each_way
def test_trail_means_what_it_says(way: Callable, taps: int, height: int, vectors: int, dtype: Any) -> None:
    a, b, to = buffers(dtype)
    size = lanes(dtype)
    lane = np.arange(size)
    for i, pitch, j, b_pitch, apart in (
        (0, 1, 0, size, size),
        (3, 7, 11, 90, size + 5),
        (9, 0, 2, 0, 0),
        (500, -9, 900, -3, -8),
    ):
        wanted, got = to.copy(), to.copy()
        for p, v in product(range(height), range(vectors)):
            products = [a[i + (p + k) * pitch] * b[j + k * b_pitch + v * apart + lane] for k in range(taps)]
            wanted[(p * vectors + v) * size + lane] = b[7 + v * size + lane] + sum(products)
        way(trailing(height, vectors, taps))(a, i, pitch, b, j, b_pitch, apart, got)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.compiled
@pytest.mark.parametrize(("height", "vectors"), [(TRAILS[1][0], 1), (TRAILS[2][0], 2)])
def test_trail_adds_tap_after_tap(height: int, vectors: int) -> None:
    # Rounding shows the order of a sum: the same for every row, so that it does not matter which tile a pixel is in.
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(SIZE).astype(np.float32) for _ in range(2))
    size = lanes(np.float32)
    one, other = np.zeros((2, height * vectors * size), np.float32)
    trailing(height, vectors, 3)(a, 5, 3, b, 9, 100, size, one)

    @numba.njit
    def by_outer(to):
        tile = spread(height, vectors, b, 7)
        for k in range(3):
            tile = outer(tile, a, 5 + k * 3, 3, b, 9 + k * 100, lanes_of(to))
        store(tile, to, 0, vectors * lanes_of(to), lanes_of(to))

    by_outer(other)
    np.testing.assert_array_equal(one, other)


@pytest.mark.compiled
@each_dtype
@pytest.mark.parametrize("literals", SLIDES)
def test_slide_adds_tap_after_tap(literals: tuple[int, ...], dtype: Any) -> None:
    # Rounding shows the order of a sum: it is that of the taps, as it is where they share nothing.
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(SIZE).astype(dtype) for _ in range(2))
    height, taps, rows, along = literals
    size, pitch = lanes(dtype), lanes(dtype) + 3
    one, other = np.zeros((2, height * size), dtype)
    sliding(*literals)(a, 5, pitch, b, 9, size, one)

    @numba.njit
    def by_hadamard(to):
        tile = load(height, 1, b, 7, 3, 0)
        for k in range(taps):
            tile = hadamard(tile, a, 5 + k * along * pitch, rows * pitch, b, 9 + k * size)
        store(tile, to, 0, lanes_of(to), 0)

    by_hadamard(other)
    np.testing.assert_array_equal(one, other)


@cache
def putting(rows: int, vectors: int) -> Callable:
    """A function that puts a part of the tile ``tile[p, k] = a[p] + b[k]``."""

    @numba.njit
    def by_put(a, b, ones, to, start, pitch, count, first, last):
        tile = outer(spread(rows, vectors, b, 0), a, 0, 1, ones, 0, 0)
        put(tile, to, start, pitch, count, first, last)

    return by_put


def putting_arrays(dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``a``, ``b`` and ``ones``: no two elements of the tile are the same."""
    b = np.arange(8 * lanes(dtype), dtype=dtype)
    return np.arange(1, 33, dtype=dtype) * b.size, b, np.ones_like(b)


@each_dtype
@each_tile
@each_way
def test_put_writes_a_part_of_a_tile(way: Callable, rows: int, vectors: int, dtype: Any) -> None:
    a, b, ones = putting_arrays(dtype)
    size, to = lanes(dtype), buffers(dtype)[2]
    width = vectors * size
    tile = a[:rows, None] + b[:width]
    ranges = {
        (0, width), (0, 1), (0, size - 1), (0, size), (width - 1, width), (1, width - 1),
        (size // 2, width - size // 2), (size // 2, size // 2 + 1), (size - 1, size + 1), (size, size + 3),
        (width // 2 - 1, width // 2 + 1), (-5, 3), (-5, width + 7), (size // 2, width + 1), (width, width + 9),
        (-9, 0), (-9, -2), (width + 3, width + 9), (3, 3), (size, size), (5, 2), (width, 0), (-2**40, 2**40),
    }  # fmt: skip
    for first, last in sorted(ranges):
        for count in {0, 1, rows - 1, rows, rows + 3}:
            for start, pitch in ((0, width), (9, width + 3), (16 * size, -size)):
                wanted, got = to.copy(), to.copy()
                for p in range(min(count, rows)):
                    part = tile[p, max(0, first) : max(0, last)]
                    at = start + p * pitch + max(0, first)
                    wanted[at : at + part.size] = part
                way(putting(rows, vectors))(a, b, ones, got, start, pitch, count, first, last)
                np.testing.assert_array_equal(got, wanted, err_msg=f"{count} rows, {first} to {last}")


@each_dtype
@each_tile
@each_way
def test_put_may_reach_both_ends_of_an_array(way: Callable, rows: int, vectors: int, dtype: Any) -> None:
    a, b, ones = putting_arrays(dtype)
    size = lanes(dtype)
    width = vectors * size
    tile = a[:rows, None] + b[:width]
    for first, last in ((0, 1), (0, size - 1), (1, size), (size // 2, width - 1), (width - 1, width), (1, width)):
        kept = last - first
        memory = np.full(rows * kept + 2 * width, np.nan, dtype)
        to = memory[width:-width]
        # the tile itself would begin before the array, and end behind it
        way(putting(rows, vectors))(a, b, ones, to, -first, kept, rows, first, last)
        np.testing.assert_array_equal(to, tile[:, first:last].ravel())
        assert np.isnan(memory[:width]).all()
        assert np.isnan(memory[-width:]).all()


@cache
def trimming(rows: int, vectors: int) -> Callable:
    """A function that writes a part of the tile ``tile[p, k] = a[p] + b[k]``, by vectors."""

    @numba.njit
    def by_trim(a, b, ones, to, start, pitch, apart, count, columns, last):
        tile = outer(spread(rows, vectors, b, 0), a, 0, 1, ones, 0, 0)
        trim(tile, to, start, pitch, apart, count, columns, last)

    return by_trim


@each_dtype
@pytest.mark.parametrize(("rows", "vectors"), [(4, 4), (2, 2), (1, 3)])
@each_way
def test_trim_writes_a_part_of_a_tile(way: Callable, rows: int, vectors: int, dtype: Any) -> None:
    a, b, ones = putting_arrays(dtype)
    size = lanes(dtype)
    tile = (a[:rows, None] + b[: vectors * size]).reshape(rows, vectors, size)
    for count, columns, last in product(
        (-1, 0, 1, rows, rows + 2), (-1, 0, 1, vectors, vectors + 2), (-3, 1, size, 99)
    ):
        for start, pitch, apart in ((0, vectors * size, size), (7, 3 * size, 14 * size + 1), (9 * size, -size, 40)):
            wanted, got = (np.full(SIZE, NOTHING, dtype) for _ in range(2))
            for p, v in product(range(min(count, rows)), range(min(columns, vectors))):
                part = tile[p, v, : max(0, last)]
                at = start + p * pitch + v * apart
                wanted[at : at + part.size] = part
            way(trimming(rows, vectors))(a, b, ones, got, start, pitch, apart, count, columns, last)
            np.testing.assert_array_equal(got, wanted, err_msg=f"{count} rows, {columns} vectors, {last} lanes")


@each_dtype
@each_way
def test_trim_may_reach_the_end_of_an_array(way: Callable, dtype: Any) -> None:
    a, b, ones = putting_arrays(dtype)
    size = lanes(dtype)
    memory = np.full(4 * size, np.nan, dtype)
    to = memory[: size + 1]
    way(trimming(4, 4))(a, b, ones, to, 0, size + 1, size, 1, 2, 1)
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(memory)), [0, size])


#: Rows that share their work, for they differ in signs; a row of zeros; one that is a single element.
MATRIX = tuple(tuple(map(Fraction, row)) for row in (["1/2", 1, 2], ["1/2", -1, 2], [0, 0, 0], [0, 0, -3], [1, 1, 1]))
by_matrix = linear(MATRIX)


@numba.njit
def multiplied(a, to):
    store(by_matrix(load(3, 2, a, 0, 2 * lanes_of(a), lanes_of(a))), to, 0, 2 * lanes_of(a), lanes_of(a))


@each_dtype
@each_way
def test_linear_multiplies_by_a_matrix(way: Callable, dtype: Any) -> None:
    width = 2 * lanes(dtype)
    a = np.random.default_rng(0).integers(-9, 10, 3 * width).astype(dtype)
    to = np.full(5 * width, NOTHING, dtype)
    way(multiplied)(a, to)
    wanted = [
        [sum(f * Fraction(float(x)) for f, x in zip(row, column, strict=True)) for column in a.reshape(3, -1).T]
        for row in MATRIX
    ]
    np.testing.assert_array_equal(to.reshape(5, -1), np.array(wanted, dtype))


@numba.njit
def copied(to, i, i_step, source, j, j_step, count):
    copy(to, i, i_step, source, j, j_step, count)


@numba.njit
def dealt(to, i, i_pitch, source, j, j_pitch, marks, mark, rows, count):
    deal(to, i, i_pitch, source, j, j_pitch, marks, mark, rows, count)


@each_dtype
@pytest.mark.parametrize("kind", [np.uint8, np.int64])
@each_way
def test_deal_adds_what_is_marked(way: Callable, kind: Any, dtype: Any) -> None:
    a, b, _ = buffers(dtype)
    marks = np.random.default_rng(1).choice(np.array([0, 3, 200], kind), SIZE)
    for rows, count in product((-1, 0, 1, 4), (-2, 0, 1, 3, 4, 7, 8, 15, 16, 17, 32, 45)):
        for i, i_pitch, j, j_pitch, mark in (
            (0, 45, 0, 45, 0),
            (7, 90, 3, 50, 3),
            (700, -60, 200, 0, 200),
            (9, 1, 5, 60, 3),
        ):
            wanted, got = a.copy(), a.copy()
            for r in range(rows):
                for k in range(count):
                    here = j + r * j_pitch + k
                    wanted[i + r * i_pitch + k] += b[here] if marks[here] == mark else 0
            if i_pitch == 1 and count > 1:
                continue  # rows that overlap: in which order, nobody has to know
            way(dealt)(got, i, i_pitch, b, j, j_pitch, marks, mark, rows, count)
            np.testing.assert_array_equal(got, wanted)


@each_dtype
@pytest.mark.parametrize("kind", [np.uint8, np.int64])
@each_way
def test_deal_touches_nothing_but_what_is_marked(way: Callable, kind: Any, dtype: Any) -> None:
    for count in (1, 5, lanes(dtype), 2 * lanes(dtype) - 1):
        memory = np.full((2, 4 * lanes(dtype)), np.nan, dtype)
        to, source = memory[:, lanes(dtype) : lanes(dtype) + count]
        to[:], source[:] = 1, 2
        source[-1] = np.nan
        marks = np.ones(count, kind)
        marks[-1] = 0
        way(dealt)(to, 0, 0, source, 0, 0, marks, 1, 1, count)
        np.testing.assert_array_equal(to, [3] * (count - 1) + [1])
        assert np.isnan(np.delete(memory, range(lanes(dtype), lanes(dtype) + count), axis=1)).all()


@numba.njit
def peaked(to, marks, i, i_pitch, source, j, j_pitch, window, windows, count, nobody):
    rows, row_pitch, columns, column_pitch, mark, mark_pitch = window
    peak(
        to, marks, i, i_pitch, source, j, j_pitch, rows, row_pitch, columns, column_pitch, mark, mark_pitch, windows,
        count, nobody,
    )  # fmt: skip


@numba.njit
def restored(to, i, i_pitch, window, source, marks, j, j_pitch, windows, count):
    rows, row_pitch, columns, column_pitch = window
    restore(
        to, i, i_pitch, rows, row_pitch, columns, column_pitch, source, marks, j, j_pitch, windows, count
    )  # fmt: skip


WINDOWS = [
    # rows, row_pitch, columns, column_pitch, mark, mark_pitch
    (2, 200, 2, 20, 0, 2),
    (3, 150, 1, 0, 4, 3),
    (1, 0, 5, 7, 0, 5),
    (2, -40, 3, 60, 100, 10),
]


@each_dtype
@pytest.mark.parametrize("kind", [np.uint8, np.int64])
@pytest.mark.parametrize("window", WINDOWS)
@each_way
def test_peak_finds_the_largest(way: Callable, window: tuple[int, ...], kind: Any, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    source = rng.choice(
        np.array([-np.inf, -2, -1, 0, 1, 1, 2, np.inf, np.nan], dtype), SIZE, p=[0.1] + [0.125] * 6 + [0.1, 0.05]
    )
    rows, row_pitch, columns, column_pitch, mark, mark_pitch = window
    for windows, count, nobody in product((-1, 0, 1, 3), (-2, 0, 1, 4, 7, 16, 17, 33), (-1, 200)):
        got, marks = np.full(SIZE, NOTHING, dtype), np.full(SIZE, 77, kind)
        wanted, wanted_marks = got.copy(), marks.copy()
        for w, k in product(range(windows), range(count)):
            values = [
                (source[100 + w * 35 + k + r * row_pitch + c * column_pitch], mark + r * mark_pitch + c)
                for r in range(rows)
                for c in range(columns)
            ]
            numbers = [value for value, _ in values if value == value]
            nans = [place for value, place in values if value != value]
            best = np.nan if nans else max(numbers)
            place = nans[-1] if nans else next(place for value, place in values if value == best)
            if nobody >= 0:
                place = place if best > 0 else nobody
                best = 0 if best <= 0 else best
            wanted[5 + w * 40 + k], wanted_marks[5 + w * 40 + k] = best, place
        way(peaked)(got, marks, 5, 40, source, 100, 35, window, windows, count, nobody)
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(marks, wanted_marks)


@each_dtype
@pytest.mark.parametrize("kind", [np.uint8, np.int64])
@each_way
def test_restore_fills_windows(way: Callable, kind: Any, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    source, marks = rng.integers(1, 9, SIZE).astype(dtype), rng.integers(0, 8, SIZE).astype(kind)
    for rows, columns, windows, count in product((1, 2), (1, 3), (-1, 0, 1, 2), (-2, 0, 1, 5, 8, 16, 19)):
        got = np.full(SIZE, NOTHING, dtype)
        wanted = got.copy()
        for w, k, r, c in product(range(windows), range(count), range(rows), range(columns)):
            here = 3 + w * 21 + k
            place = 50 + w * 70 + k + r * 300 + c * 22
            wanted[place] = source[here] if marks[here] == r * columns + c else 0
        way(restored)(got, 50, 70, (rows, 300, columns, 22), source, marks, 3, 21, windows, count)
        np.testing.assert_array_equal(got, wanted)


@numba.njit
def cleared(to, start, count):
    clear(to, start, count)


COPIES = [
    (i, i_step, j, j_step, count)
    for i, i_step in ((0, 1), (5, 1), (3, 4), (700, -2), (1, 2))
    for j, j_step in ((0, 1), (9, 1), (2, 7), (900, -3), (11, 2))
    for count in (0, 1, 2, 7, 15, 16, 17, 33, 200, -1, -5)
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_means_what_it_says(dtype: Any) -> None:
    source, _, to = buffers(dtype)
    for i, i_step, j, j_step, count in COPIES:
        wanted, got = to.copy(), to.copy()
        for k in range(count):
            wanted[i + k * i_step] = source[j + k * j_step]
        as_python(copied)(got, i, i_step, source, j, j_step, count)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_compiles_to_what_it_means(dtype: Any) -> None:
    source, _, to = buffers(dtype)
    for i, i_step, j, j_step, count in COPIES:
        compiled, meant = to.copy(), to.copy()
        copied(compiled, i, i_step, source, j, j_step, count)
        as_python(copied)(meant, i, i_step, source, j, j_step, count)
        np.testing.assert_array_equal(compiled, meant)


@pytest.mark.parametrize("function", [as_python(cleared), pytest.param(cleared, marks=pytest.mark.compiled)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_clear(dtype: Any, function: Any) -> None:
    for start, count in ((0, 0), (0, 1), (5, 16), (3, 33), (0, SIZE), (SIZE - 1, 1), (SIZE, 0), (0, -1), (20, -3)):
        to = buffers(dtype)[2]
        function(to, start, count)
        np.testing.assert_array_equal(np.flatnonzero(to == 0), np.arange(start, start + max(0, count)))


@numba.njit
def prefetched(array, start, count):
    prefetch(array, start, count)


@pytest.mark.parametrize("function", [as_python(prefetched), pytest.param(prefetched, marks=pytest.mark.compiled)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_prefetch_changes_nothing_and_may_miss(dtype: Any, function: Any) -> None:
    array = buffers(dtype)[2]
    before = array.copy()
    for start, count in ((0, 0), (0, 1), (3, 100), (0, SIZE), (SIZE, 0), (SIZE, 10_000), (-5000, 100), (7, -1)):
        function(array, start, count)
    np.testing.assert_array_equal(array, before)


@pytest.mark.compiled
@pytest.mark.skipif(platform.machine() != "x86_64", reason="looks for an instruction of x86")
def test_prefetch_is_an_instruction() -> None:
    prefetched(np.zeros(1, np.float32), 0, 1)
    code = "".join(prefetched.inspect_asm().values())
    assert "prefetcht1" in code


@numba.njit
def moved(to, i, i_pitch, source, j, j_pitch, rows, count):
    move(to, i, i_pitch, source, j, j_pitch, rows, count)


@numba.njit
def narrowed(to, i, i_pitch, source, j, j_pitch, rows, count):
    narrow(to, i, i_pitch, source, j, j_pitch, rows, count)


@numba.njit
def widened(to, i, i_pitch, source, j, j_pitch, rows, count):
    widen(to, i, i_pitch, source, j, j_pitch, rows, count)


#: A function, and how far apart its elements lie in the target and in the source.
each_move = pytest.mark.parametrize(
    ("function", "i_step", "j_step"), [(moved, 1, 1), (narrowed, 1, 2), (widened, 2, 1)]
)


def counts(size: int) -> list[int]:
    """Around multiples of the lanes, and fewer than none."""
    around = {n * size + more for n in range(4) for more in (-1, 0, 1)}
    return sorted({*around, 2, size // 2, -2, -size, -size - 3, -2 * size})


@each_dtype
@each_way
@each_move
def test_move_of_every_size(way: Callable, dtype: Any, function: Any, i_step: int, j_step: int) -> None:
    source, _, to = buffers(dtype)
    source[:] = np.arange(SIZE)
    size = lanes(dtype)
    for count in counts(size):
        for rows in (0, 1, 2, 5, -1):
            width = 2 * max(0, count)
            # contiguous, with gaps, one row again and again, backwards
            for i, i_pitch, j, j_pitch in (
                (0, width, 0, width),
                (5, width + 3, 7, width + 9),
                (1, width, 3, 0),
                (900, -width - 1, 800, -width),
            ):
                wanted, got = to.copy(), to.copy()
                for r in range(rows):
                    for k in range(count):
                        wanted[i + r * i_pitch + k * i_step] = source[j + r * j_pitch + k * j_step]
                way(function)(got, i, i_pitch, source, j, j_pitch, rows, count)
                np.testing.assert_array_equal(got, wanted, err_msg=f"{rows} rows of {count}")


@each_dtype
@each_way
@each_move
def test_move_may_reach_both_ends_of_an_array(
    way: Callable, dtype: Any, function: Any, i_step: int, j_step: int
) -> None:
    # The last vector of a row would reach beyond it, and vectors lie over what is between every second element.
    size = lanes(dtype)
    for count in counts(size):
        for rows in (1, 3):
            if count < 1:
                continue
            i_pitch, j_pitch = i_step * count, j_step * count
            source = np.full(rows * j_pitch - j_step + 1, np.nan, dtype)
            memory = np.full(rows * i_pitch - i_step + 1 + 2 * size, np.nan, dtype)
            source[::j_step] = np.arange(rows * count)
            way(function)(memory[size:-size], 0, i_pitch, source, 0, j_pitch, rows, count)
            np.testing.assert_array_equal(np.flatnonzero(~np.isnan(memory)), size + i_step * np.arange(rows * count))
            np.testing.assert_array_equal(memory[size:-size:i_step], np.arange(rows * count))


@numba.njit
def transposed(to, i, i_pitch, source, j, j_pitch, rows, columns):
    transpose(to, i, i_pitch, source, j, j_pitch, rows, columns)


@each_dtype
@pytest.mark.parametrize("function", [as_python(transposed), pytest.param(transposed, marks=pytest.mark.compiled)])
def test_transpose_of_every_size(function: Any, dtype: Any) -> None:
    source, _, to = buffers(dtype)
    source[:] = np.arange(SIZE)
    most = lanes(dtype)
    for rows in range(most + 1):
        for columns in range(most + 1):
            for i, i_pitch, j, j_pitch in ((0, most, 0, most), (5, rows, 3, columns), (7, most + 5, 1, 2 * most + 3)):
                wanted, got = to.copy(), to.copy()
                for r in range(rows):
                    for c in range(columns):
                        wanted[i + c * i_pitch + r] = source[j + r * j_pitch + c]
                function(got, i, i_pitch, source, j, j_pitch, rows, columns)
                np.testing.assert_array_equal(got, wanted, err_msg=f"{rows} x {columns}")


@each_dtype
@pytest.mark.parametrize("function", [as_python(transposed), pytest.param(transposed, marks=pytest.mark.compiled)])
def test_transpose_may_reach_the_end_of_an_array(function: Any, dtype: Any) -> None:
    # Whole vectors would reach beyond it: memory there must be neither read into the result nor written.
    most = lanes(dtype)
    for rows, columns in ((1, 1), (most, 1), (1, most), (most, most), (3, 2), (most - 1, most // 2)):
        memory = np.full((2, rows * columns + 2 * most), np.nan, dtype)
        source, to = memory[:, most:-most]
        source[:] = np.arange(rows * columns)
        function(to, 0, rows, source, 0, columns, rows, columns)
        np.testing.assert_array_equal(to, source.reshape(rows, columns).T.ravel())
        assert np.isnan(memory[:, :most]).all()
        assert np.isnan(memory[:, -most:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_python_refuses_to_leave_an_array(dtype: Any) -> None:
    # That is what runs under NUMBA_DISABLE_JIT=1 are for: compiled code would not notice.
    array = np.zeros(100, dtype)
    size = lanes(dtype)
    tile, wide, nothing = np.ones((4, size), dtype), np.ones((4, 2 * size), dtype), np.zeros(100, np.uint8)
    for call in (
        lambda: spread(1, 1, array, 101 - size),
        lambda: spread(1, 1, array, -1),
        lambda: fill(4, 1, array, 97),
        lambda: fill(1, 1, array, -1),
        lambda: outer(tile, array, 0, 1, array, 101 - size, size),
        lambda: outer(tile, array, 97, 1, array, 0, size),
        lambda: outer(wide, array, 0, 1, array, 0, 101 - size),
        lambda: outer(wide, array, 0, 1, array, 0, -1),
        lambda: dot(tile, array, 101 - size, 0, array, 0, size),
        lambda: dot(tile, array, 0, 34, array, 0, size),
        lambda: dot(wide, array, 0, 0, array, 0, 101 - size),
        lambda: dot(wide, array, 0, 0, array, 0, -1),
        lambda: hadamard(tile, array, 101 - size, 0, array, 0),
        lambda: slide(tile, array, 101 - 6 * size, size, array, 0, size, 3, 1, 1),
        lambda: slide(tile, array, -1, size, array, 0, 0, 1, 1, 1),
        lambda: slide(tile, array, 0, 1, array, 99 - size, 1, 3, 1, 1),
        lambda: slide(tile, array, 0, 17, array, 0, 0, 3, 1, 2),
        lambda: slide(tile, array, 0, 15, array, 0, 0, 3, 2, 1),
        lambda: store(tile, array, 0, 34, size),
        lambda: store(wide, array, 0, 0, 101 - size),
        lambda: store(wide, array, 0, 0, -1),
        lambda: put(tile, array, 101 - size, 0, 1, 0, size),
        lambda: put(tile, array, 0, 34, 4, 0, 1),
        lambda: put(tile, array, -1, 1, 4, 0, 1),
        lambda: put(wide, array, 101 - 2 * size, 0, 1, 0, 2 * size),
        lambda: add(tile, array, -1, 0),
        lambda: load(4, 1, array, 0, 34, 0),
        lambda: load(1, 2, array, 0, 0, 101 - size),
        lambda: lift(wide, array, 101 - size),
        lambda: pile(tile, array, 0, 34, 0),
        lambda: pile(wide, array, 0, 0, 101 - size),
        lambda: trim(tile, array, 0, 34, size, 4, 1, size),
        lambda: trim(wide, array, 0, 0, 100, 1, 2, 1),
        lambda: trim(wide, array, -1, 1, size, 1, 2, 1),
        lambda: copy(array, 99, 1, array, 0, 1, 2),
        lambda: copy(array, 0, 1, array, 0, -1, 2),
        lambda: move(array, 99, 1, array, 0, 1, 1, 2),
        lambda: move(array, 0, 1, array, 98, 1, 2, 2),
        lambda: move(array, 0, 34, array, 0, 1, 4, 1),
        lambda: move(array, 0, 1, array, 0, -1, 2, 1),
        lambda: clear(array, 99, 2),
        lambda: deal(array, 99, 1, array, 0, 1, nothing, 0, 2, 1),
        lambda: deal(array, 0, 1, array, 0, 50, nothing, 0, 3, 1),
        lambda: deal(array, 0, 1, array[:50], 50, 1, nothing, 0, 1, 1),
        lambda: deal(array, 0, 1, array, 50, 1, nothing[:50], 0, 1, 1),
        lambda: peak(array, nothing, 99, 1, array, 0, 1, 1, 1, 1, 1, 0, 1, 2, 1, -1),
        lambda: peak(array, nothing, 0, 1, array, 98, 1, 2, 1, 2, 1, 0, 2, 1, 1, -1),
        lambda: peak(array, nothing[:50], 0, 50, array, 0, 1, 1, 1, 1, 1, 0, 1, 2, 1, -1),
        lambda: restore(array, 98, 1, 2, 1, 2, 1, array, nothing, 0, 1, 1, 1),
        lambda: restore(array, 0, 1, 1, 1, 1, 1, array, nothing[:50], 50, 1, 1, 1),
        lambda: transpose(array, 90, 2, array, 0, 2, 2, 6),
        lambda: transpose(array, 0, 2, array, 94, 2, 4, 2),
        lambda: transpose(array, 0, 1, array, 0, 1, size + 1, 1),
    ):
        with pytest.raises(IndexError):
            call()


@pytest.mark.compiled
@each_dtype
def test_products_are_fused_where_the_cpu_can(dtype: Any) -> None:
    if "fma" not in simd.cpu.FUSED or simd.cpu.FUSED == "llvm.fmuladd":
        pytest.skip("no such instruction")
    # (1 + e)(1 - e) - 1 = -e * e: rounded after the product, it would be 0
    e = dtype(np.finfo(dtype).eps)
    a, b, to = np.full(SIZE, 1 + e, dtype), np.full(SIZE, 1 - e, dtype), np.zeros(SIZE, dtype)
    b[7 : 7 + lanes(dtype)] = -1  # what the tile starts from
    for word in (OUTER, DOT):
        words(1, 1)[word](a, 0, 0, b, 100, 0, to, 0, 0, 0)
        np.testing.assert_array_equal(to[: lanes(dtype)], -e * e)


# --- which CPU --------------------------------------------------------------------------------------------------------


def test_lanes_fill_a_vector() -> None:
    assert simd.VECTOR_BYTES in (16, 32, 64)
    assert simd.VECTOR_REGISTERS in (16, 32)
    for dtype in DTYPES:
        assert lanes(dtype) * np.dtype(dtype).itemsize == simd.VECTOR_BYTES
        assert lanes(np.dtype(dtype)) == lanes(dtype)
    for height in HEIGHTS:  # two vectors a row, the two that they are multiplied with, and a broadcast
        assert height * 2 + 3 <= simd.VECTOR_REGISTERS
    for vectors, heights in TRAILS.items():  # the vectors of three taps
        assert max(heights) * vectors + len(THREE) * vectors + 1 <= simd.VECTOR_REGISTERS


HASWELL = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2,+popcnt,+f16c,+lzcnt,+movbe"
OTHERS = [
    ("haswell", {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": HASWELL}, (32, 16, "llvm.fma")),
    ("generic", {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": None}, (16, 16, "llvm.fmuladd")),
]
SMALL = """
import sys
import numpy as np
from cases import FORMS, assert_equal, assert_right, expected, only, random_cases, run
import numbaconv
from numbaconv import reference, simd
print(simd.VECTOR_BYTES, simd.VECTOR_REGISTERS, simd.cpu.FUSED)
if len(sys.argv) > 1:
    numbaconv.set_num_threads(1)
    for form in (form for form in FORMS if form != "cheapest"):
        for number, case in enumerate(random_cases(5, 40, 8_000, [np.float32], form=form)):
            arrays = case.arrays()
            wanted = expected(case, arrays)
            with only(form):
                assert_right(form, run(numbaconv, case, arrays), wanted, arrays, case)
            if number < 3:
                assert_equal(wanted, run(reference, case, arrays), case)
"""


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="these are x86 CPUs")
@pytest.mark.parametrize(("variables", "wanted"), [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_kernels_follow_the_cpu_that_numba_compiles_for(variables: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    if INTERPRETED:
        variables = {**variables, "NUMBA_DISABLE_JIT": "1"}
    elif "haswell" in variables.values() and simd.VECTOR_BYTES < 32:
        pytest.skip("this CPU could not run it")
    result = run_python("-c", SMALL, *([] if INTERPRETED else ["run"]), timeout=600, **variables)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split() == [str(value) for value in wanted]
