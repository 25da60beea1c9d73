"""Winograd's algorithm: its matrices exactly, its kernels within their rounding errors, and who chooses it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cases import (
    FORMS,
    INTERPRETED,
    ORDERS,
    WINOGRAD,
    Case,
    assert_near,
    everything_in_parallel,
    expected,
    only,
    random_cases,
    run,
)
from walks import record

import numbaconv
from numbaconv import conv2d, conv2d_input, conv2d_weight, conv_transpose2d, memory, simd
from numbaconv import plan as planning
from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels.cook_toom import INNER, POINTS, input_matrix, output_matrix, tap_matrix
from numbaconv.plan import winograd

#: Of the largest output. What is promised is 2e-5; direct sums have up to 1e-6.
BOUND = {np.dtype(np.float32): 4e-6, np.dtype(np.float64): 2e-14}
SIZES = [(n, m, n + 1 - m) for n in POINTS for m in range(2, n)]


@pytest.mark.parametrize(("n", "m", "r"), SIZES)
def test_the_identity_holds_exactly(n: int, m: int, r: int) -> None:
    """For every pair of unit vectors, so for all: a correlation is linear in both of its operands."""
    a, g, b = output_matrix(m, n), tap_matrix(n, r), input_matrix(n)
    for i in range(n):
        for k in range(r):
            products = [g[p][k] * b[p][i] for p in range(n)]
            got = [sum((a[y][p] * products[p] for p in range(n)), Fraction(0)) for y in range(m)]
            assert got == [Fraction(int(y + k == i)) for y in range(m)]


@pytest.mark.parametrize(("m", "r"), [(2, 3), (3, 2)])
def test_some_of_the_points_serve_a_smaller_tile(m: int, r: int) -> None:
    a, g, b = output_matrix(m, 6), tap_matrix(6, r), input_matrix(6, INNER)
    for i in range(4):
        for k in range(r):
            products = [g[p][k] * b[row][i] for row, p in enumerate(INNER)]
            got = [sum((a[y][p] * products[row] for row, p in enumerate(INNER)), Fraction(0)) for y in range(m)]
            assert got == [Fraction(int(y + k == i)) for y in range(m)]


def test_matrices_that_must_be_exact_are() -> None:
    small = input_matrix(6, INNER)
    assert all(Fraction(float(np.float32(float(value)))) == value for row in small for value in row)
    for n in POINTS:
        for matrix in (input_matrix(n), output_matrix(n - 2, n)):
            assert all(Fraction(float(np.float32(float(value)))) == value for row in matrix for value in row)


def geometries(count: int) -> Iterator[tuple[Conv2dGeometry, np.dtype]]:
    rng = np.random.default_rng(7)
    while count:
        layout: Any = str(rng.choice(["NCHW", "NHWC"]))
        groups = int(rng.choice([1, 1, 2, 3]))
        n, ic, oc, h, w = (
            int(rng.integers(1, most)) for most in ((3, 8, 9, 12, 12) if INTERPRETED else (5, 40, 70, 34, 34))
        )
        if count % 9 == 0 and not INTERPRETED:
            h, w = 5, 260  # more tiles than are transformed together
        side = int(rng.choice([3, 3, 5]))
        padding = tuple((int(rng.integers(0, side + 1)), int(rng.integers(0, side + 1))) for _ in range(2))
        if h + sum(padding[0]) < side or w + sum(padding[1]) < side:
            continue
        image, filters = (n, ic * groups, h, w), (oc * groups, ic, side, side)
        if layout == "NHWC":
            image, filters = (n, h, w, ic * groups), (oc * groups, side, side, ic)
        count -= 1
        dtype = np.dtype(rng.choice([np.float32, np.float64]))
        yield Conv2dGeometry.forward(image, filters, 1, padding, 1, groups, layout), dtype


def passes(g: Conv2dGeometry, x: Any, w: Any, z: Any, b: Any, c: Any, algorithm: Any) -> list[np.ndarray]:
    how: Any = {
        "padding": ((g.PT, g.PB), (g.PL, g.PR)), "groups": g.G, "layout": g.layout, "algorithm": algorithm,
    }  # fmt: skip
    return [
        conv2d(x, w, b, **how),
        conv2d(x, w, **how),
        conv2d_input(g.input_shape, w, z, **how),
        conv2d_weight(x, g.weight_shape, z, **how),
        conv_transpose2d(z, w, c, **how),
    ]


def exactly(dtype: np.dtype, size: int) -> np.ndarray:
    """Scratch memory of exactly the size that was asked for: interpreted kernels check every index."""
    return np.full(size, np.nan, dtype)


def test_all_passes_agree_in_both_orders_of_work_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numbaconv.execution.scratch", exactly)
    monkeypatch.setattr("numbaconv.plan.common.SERIAL_FLOPS", 0)
    monkeypatch.setattr("numbaconv.plan.common.TEAM_FLOPS", 0)
    assert memory.scratch is not exactly
    rng = np.random.default_rng(1)
    threads = numbaconv.get_num_threads()
    for g, dtype in geometries(12 if INTERPRETED else 70):
        shapes = g.input_shape, g.weight_shape, g.output_shape, (g.OC,), (g.IC,)
        arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        exact = passes(g, *(array.astype(np.float64) for array in arrays), "direct")
        results = []
        for form in WINOGRAD:
            monkeypatch.setitem(planning.FORMS, "winograd", FORMS[form])
            numbaconv.set_num_threads(1)
            results.append(passes(g, *arrays, "winograd"))
            numbaconv.set_num_threads(threads)
            for got, same, want in zip(passes(g, *arrays, "winograd"), results[-1], exact, strict=True):
                np.testing.assert_array_equal(got, same, err_msg=f"{form}, {g}")
                assert got.dtype == dtype
                assert abs(got - want).max() <= BOUND[dtype] * abs(want).max(), f"{form}, {g}"
        # Sums over channels are the same sums. Only those of a weight gradient are cut in other places.
        for k in (0, 1, 2, 4):
            np.testing.assert_array_equal(results[0][k], results[1][k], err_msg=f"{g}")


@pytest.mark.parametrize("form", WINOGRAD)
@pytest.mark.parametrize("groups", [1, 2])
def test_more_tiles_than_are_transformed_together(groups: int, form: str) -> None:
    channels = 2 * simd.lanes(np.float32) + 3
    shapes = (3, 3 * groups, 41, 30), (channels * groups, 3, 3, 3)
    case = Case(Conv2dGeometry.forward(*shapes, padding=1, groups=groups), np.dtype(np.float32))
    for make in (planning.forward_plan, planning.weight_gradient_plan):
        n = record(make(case.geometry, case.dtype, "NCHW", "NCHW", FORMS[form]))
        assert n.by_blocks == (form == "winograd by blocks")
        assert n.units > 2 * n.batch
        assert n.units % n.batch
    arrays = case.arrays()
    with only(form):
        assert_near(run(numbaconv, case, arrays), expected(case, arrays), arrays, case)


@pytest.mark.parametrize("form", WINOGRAD)
def test_whole_numbers_in_any_memory_order(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numbaconv.execution.scratch", exactly)
    rng = np.random.default_rng(2)
    with only(form), everything_in_parallel():
        for case in random_cases(13, 8 if INTERPRETED else 120, 5_000 if INTERPRETED else 300_000, form=form):
            plain = case.arrays()
            arrays = type(plain)(*(ORDERS[str(rng.choice(sorted(ORDERS)))](array) for array in plain))
            assert_near(run(numbaconv, case, arrays), expected(case, plain), plain, case)


@pytest.mark.compiled
@pytest.mark.parametrize("channels", [1, 8, 64, 512])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e12])
@pytest.mark.parametrize("side", [3, 5])
def test_the_error_that_auto_promises(side: int, channels: int, scale: float) -> None:
    """At most 2e-5 of the largest output, with room to spare."""
    rng = np.random.default_rng(channels)
    x = (rng.standard_normal((2, channels, 17, 18)) * scale).astype(np.float32)
    w = rng.standard_normal((24, channels, side, side)).astype(np.float32)
    z = rng.standard_normal((2, 24, 17, 18)).astype(np.float32)
    g = Conv2dGeometry.forward(x.shape, w.shape, 1, side // 2)
    nothing = None, None
    exact = passes(g, x.astype(np.float64), w.astype(np.float64), z.astype(np.float64), *nothing, "direct")
    for got, want in zip(passes(g, x, w, z, *nothing, "winograd"), exact, strict=True):
        assert abs(got - want).max() <= 5e-6 * abs(want).max()


def test_auto_chooses_it_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Conv2dGeometry.forward((4, 64, 16, 16), (64, 64, 3, 3), 1, 1)
    wider = Conv2dGeometry.forward((4, 64, 16, 16), (64, 64, 5, 5), 1, 2)
    oblong = Conv2dGeometry.forward((4, 64, 16, 16), (64, 64, 3, 5), 1, (1, 2))
    thin = Conv2dGeometry.forward((4, 1, 16, 16), (2, 1, 3, 3), 1, 1)
    strided = Conv2dGeometry.forward((4, 64, 16, 16), (64, 64, 3, 3), 2, 1)
    for make in (planning.forward_plan, planning.input_gradient_plan, planning.weight_gradient_plan):
        kernels = [
            make(g, np.dtype(np.float32), "NCHW", "NCHW", planning.FORMS["auto"]).kernel.name
            for g in (wide, wider, oblong, thin, strided)
        ]
        assert ["winograd" in name for name in kernels] == [True, True, False, False, False]


def test_set_algorithm_is_what_auto_means() -> None:
    x, w = np.ones((4, 64, 16, 16), np.float32), np.ones((64, 64, 3, 3), np.float32)
    try:
        asked: list[Any] = []
        planning.FORMS["auto"], before = (Noted(asked),), planning.FORMS["auto"]
        numbaconv.set_algorithm("direct")
        conv2d(x, w)
        assert numbaconv.get_algorithm() == "direct"
        assert not asked
        numbaconv.set_algorithm("auto")
        conv2d(x, w)
        assert numbaconv.get_algorithm() == "auto"
        assert asked
        for bad in ("winograd", "fft", None, 1):
            with pytest.raises(ValueError, match="can't be the default"):
                numbaconv.set_algorithm(bad)  # type: ignore[arg-type]
        assert numbaconv.get_algorithm() == "auto"
    finally:
        planning.FORMS["auto"] = before
        numbaconv.set_algorithm("direct")


class Noted:
    """Winograd's plans, and a note of each that was made."""

    def __init__(self, asked: list[Any]) -> None:
        self.asked = asked

    def cost(self, work: Any) -> float:
        self.asked.append(work)
        return winograd.cost(work)

    def plan(self, work: Any) -> Any:
        return winograd.plan(work)
