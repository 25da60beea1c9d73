"""The vector vocabulary: what every word means, and that it compiles to what it means, on several kinds of CPU.

A word is called from a small function. As Python (``py_func``) the function does what the words say they mean; compiled
it does what they were lowered to. Buffers are larger than what the words should touch, and compared whole.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import pytest
from cases import INTERPRETED, run_python

from numbaconv import simd
from numbaconv.kernels.tiles import HEIGHTS
from numbaconv.simd import add, clear, copy, hadamard, lanes, outer, spread, store, transpose, zeros

DTYPES = [np.float32, np.float64]
SHAPES = [(rows, vectors) for rows in (1, *sorted(HEIGHTS)) for vectors in (1, 2)]
SIZE = 2000
NOTHING = -99.0  # what a buffer holds where nothing was written
each_tile = pytest.mark.parametrize(("rows", "vectors"), SHAPES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@cache
def words(rows: int, vectors: int) -> tuple[Callable, ...]:
    """A function for each word that makes or changes a tile; tiles are stored, for they can't be returned.

    The arguments are two arrays to read, where in them, how far apart rows lie, and an array to write to.
    """

    @numba.njit
    def by_zeros(a, i, pitch, b, j, to, start, step):
        store(zeros(rows, vectors, a), to, start, step)

    @numba.njit
    def by_spread(a, i, pitch, b, j, to, start, step):
        store(spread(rows, vectors, b, j), to, start, step)

    @numba.njit
    def by_outer(a, i, pitch, b, j, to, start, step):
        store(outer(spread(rows, vectors, b, 7), a, i, pitch, b, j), to, start, step)

    @numba.njit
    def by_hadamard(a, i, pitch, b, j, to, start, step):
        store(hadamard(spread(rows, vectors, b, 7), a, i, pitch, b, j), to, start, step)

    @numba.njit
    def by_add(a, i, pitch, b, j, to, start, step):
        add(outer(zeros(rows, vectors, a), a, i, pitch, b, j), to, start, step)

    return by_zeros, by_spread, by_outer, by_hadamard, by_add


ZEROS, SPREAD, OUTER, HADAMARD, ADD = range(5)


def meaning(
    word: int, rows: int, width: int, a: Any, i: int, pitch: int, b: Any, j: int, to: Any, start: int, step: int
):
    """The same, element by element: what ``to`` holds then."""
    to = to.copy()
    for p in range(rows):
        for lane in range(width):
            here = start + p * step + lane
            to[here] = {
                ZEROS: lambda p, lane, here: 0,
                SPREAD: lambda p, lane, here: b[j + lane],
                OUTER: lambda p, lane, here: b[7 + lane] + a[i + p * pitch] * b[j + lane],
                HADAMARD: lambda p, lane, here: b[7 + lane] + a[i + p * pitch + lane] * b[j + lane],
                ADD: lambda p, lane, here: to[here] + a[i + p * pitch] * b[j + lane],
            }[word](p, lane, here)
    return to


def buffers(dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two arrays of whole numbers to read, and one to write to."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 10, SIZE).astype(dtype) for _ in range(2))
    return a, b, np.full(SIZE, NOTHING, dtype)


def as_python(function: Any) -> Callable:
    """The function that a compiled one is made of."""
    return getattr(function, "py_func", function)


@each_dtype
@each_tile
@pytest.mark.parametrize("word", range(5), ids=["zeros", "spread", "outer", "hadamard", "add"])
def test_words_mean_what_they_say(word: int, rows: int, vectors: int, dtype: Any) -> None:
    a, b, to = buffers(dtype)
    width = vectors * lanes(dtype)
    for i, pitch, j, start, step in (
        (0, 1, 0, 0, width),
        (3, 5, 11, 1, width + 3),
        (40, 0, 1, 13, width),
        (60, -2, 0, 5, 40),
    ):
        wanted = meaning(word, rows, width, a, i, pitch, b, j, to, start, step)
        got = to.copy()
        as_python(words(rows, vectors)[word])(a, i, pitch, b, j, got, start, step)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.compiled
@each_tile
@pytest.mark.parametrize("word", range(5), ids=["zeros", "spread", "outer", "hadamard", "add"])
def test_words_compile_to_what_they_mean(word: int, rows: int, vectors: int) -> None:
    function = words(rows, vectors)[word]
    for dtype in DTYPES:
        a, b, to = buffers(dtype)
        width = vectors * lanes(dtype)
        # neither aligned nor contiguous, rows that are the same or run backwards, and rows that overlap when written
        for numbers in (
            (0, 1, 0, 0, width),
            (3, 5, 11, 1, width + 3),
            (40, 0, 1, 13, width),
            (60, -2, 0, 5, 40),
            (0, 1, 0, 8, 1),
        ):
            i, pitch, j, start, step = numbers
            compiled, meant = to.copy(), to.copy()
            function(a, i, pitch, b, j, compiled, start, step)
            as_python(function)(a, i, pitch, b, j, meant, start, step)
            np.testing.assert_array_equal(compiled, meant)


@numba.njit
def copied(to, i, i_step, source, j, j_step, count):
    copy(to, i, i_step, source, j, j_step, count)


@numba.njit
def cleared(to, start, count):
    clear(to, start, count)


COPIES = [
    (i, i_step, j, j_step, count)
    for i, i_step in ((0, 1), (5, 1), (3, 4), (700, -2))
    for j, j_step in ((0, 1), (9, 1), (2, 7), (900, -3))
    for count in (0, 1, 2, 7, 16, 33, 200, -1, -5)
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
    tile = np.ones((4, lanes(dtype)), dtype)
    for call in (
        lambda: spread(1, 1, array, 100 - lanes(dtype) + 1),
        lambda: spread(1, 1, array, -1),
        lambda: outer(tile, array, 0, 1, array, 100 - lanes(dtype) + 1),
        lambda: outer(tile, array, 97, 1, array, 0),
        lambda: hadamard(tile, array, 101 - lanes(dtype), 0, array, 0),
        lambda: store(tile, array, 0, 34),
        lambda: add(tile, array, -1, 0),
        lambda: copy(array, 99, 1, array, 0, 1, 2),
        lambda: copy(array, 0, 1, array, 0, -1, 2),
        lambda: clear(array, 99, 2),
        lambda: transpose(array, 90, 2, array, 0, 2, 2, 6),
        lambda: transpose(array, 0, 2, array, 94, 2, 4, 2),
        lambda: transpose(array, 0, 1, array, 0, 1, lanes(dtype) + 1, 1),
    ):
        with pytest.raises(IndexError):
            call()


@pytest.mark.compiled
@each_dtype
def test_products_are_fused_where_the_cpu_can(dtype: Any) -> None:
    if "fma" not in simd._FUSED or simd._FUSED == "llvm.fmuladd":
        pytest.skip("no such instruction")
    # (1 + e)(1 - e) - 1 = -e * e: rounded after the product, it would be 0
    e = dtype(np.finfo(dtype).eps)
    a, b, to = np.full(SIZE, 1 + e, dtype), np.full(SIZE, 1 - e, dtype), np.zeros(SIZE, dtype)
    b[7 : 7 + lanes(dtype)] = -1  # what the tile starts from
    words(1, 1)[OUTER](a, 0, 0, b, 100, to, 0, 0)
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


HASWELL = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2,+popcnt,+f16c,+lzcnt,+movbe"
OTHERS = [
    ("haswell", {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": HASWELL}, (32, 16, "llvm.fma")),
    ("generic", {"NUMBA_CPU_NAME": "generic"}, (16, 16, "llvm.fmuladd")),
]
SMALL = """
import sys
import numpy as np
from cases import assert_equal, expected, random_cases, run
import numbaconv
from numbaconv import reference, simd
print(simd.VECTOR_BYTES, simd.VECTOR_REGISTERS, simd._FUSED)
if len(sys.argv) > 1:
    numbaconv.set_num_threads(1)
    for number, case in enumerate(random_cases(5, 60, 8_000, [np.float32])):
        arrays = case.arrays()
        got = run(numbaconv, case, arrays)
        assert_equal(got, expected(case, arrays), case)
        if number < 12:
            assert_equal(got, run(reference, case, arrays), case)
"""


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="these are x86 CPUs")
@pytest.mark.parametrize(("variables", "wanted"), [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_kernels_follow_the_cpu_that_numba_compiles_for(variables: dict[str, str], wanted: tuple[Any, ...]) -> None:
    if INTERPRETED:
        variables = {**variables, "NUMBA_DISABLE_JIT": "1"}
    elif "haswell" in variables.values() and simd.VECTOR_BYTES < 32:
        pytest.skip("this CPU could not run it")
    result = run_python("-c", SMALL, *([] if INTERPRETED else ["run"]), timeout=600, **variables)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split() == [str(value) for value in wanted]
