"""Plans, without running them: tiles cover rows, taps meet pixels, and no offset leaves the memory that is declared."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import cache
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import (
    FORMS,
    INTERPRETED,
    WINOGRAD,
    Case,
    everything_in_parallel,
    forget_plans,
    only,
    random_cases,
    run_python,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from walks import CHECKS, assert_rows_cover, record

import numbaconv
from numbaconv import conv2d_output_size, simd
from numbaconv import plan as planning
from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels.correlation import correlate, correlate_three
from numbaconv.kernels.depthwise import PIXELS, correlate_depthwise
from numbaconv.kernels.images import correlate_images
from numbaconv.kernels.planes import correlate_planes
from numbaconv.kernels.tiles import HEIGHTS, TRAIL_HEIGHTS
from numbaconv.kernels.weight_depthwise import weight_gradient_depthwise
from numbaconv.kernels.weight_gradient import weight_gradient
from numbaconv.kernels.weight_images import weight_gradient_images
from numbaconv.kernels.weight_planes import weight_gradient_planes
from numbaconv.kernels.weight_winograd import weight_gradient_winograd
from numbaconv.kernels.winograd import correlate_winograd
from numbaconv.plan import (
    Plan,
    channels,
    depthwise,
    forward_plan,
    images,
    input_gradient_plan,
    normed_plans,
    planes,
    pooled_input_gradient_plan,
    pooled_plan,
    pooled_weight_gradient_plan,
    summed_plan,
    weight_gradient_plan,
    winograd,
)
from numbaconv.plan.axes import Axis, Correlation, backward_axes, forward_axis, products
from numbaconv.plan.channels import cover
from numbaconv.plan.common import BAND_BYTES, SLAB_BYTES, SOME_TASKS, TASKS, band, merged
from numbaconv.plan.depthwise import _tiles as cover_pixels
from numbaconv.plan.planes import rows_of as cover_channels

examples = settings(max_examples=100 if INTERPRETED else 400, deadline=None, derandomize=True)
FLOATS = [np.float32, np.float64]


def direct() -> planning.Forms:
    """The forms that are chosen from; ``only`` changes them."""
    return planning.FORMS["direct"]


#: What plans passes that have to do with pooling.
POOLED = {
    "forward": pooled_plan,
    "input gradient": pooled_input_gradient_plan,
    "weight gradient": pooled_weight_gradient_plan,
}

each_form = pytest.mark.parametrize("form", FORMS)

# --- tiles ------------------------------------------------------------------------------------------------------------

SETS = [HEIGHTS, *TRAIL_HEIGHTS.values(), (14, 8, 4), (6, 4, 2), (8,), (4,)]
COUNTS = [*range(1, 300), 500, 999, 1000, 1001, 12345]


def cost(height: int, vectors: int) -> int:
    """What the docstring of ``cover`` says a tile costs."""
    return max(height, 8 // vectors) + 2


@pytest.mark.parametrize("heights", SETS)
@pytest.mark.parametrize("vectors", [1, 2])
def test_tiles_cover_a_row_exactly(vectors: int, heights: tuple[int, ...]) -> None:
    for count in COUNTS:
        tiles = cover(count, vectors, heights)
        assert [start + p for start, _, exist in tiles for p in range(exist)] == list(range(count))
        assert all(height in heights and 1 <= exist <= height for _, height, exist in tiles)
        # a tile in the middle that is cut off would leave room that the next one starts in
        assert all(exist == height for _, height, exist in tiles[:-1])


@pytest.mark.parametrize("heights", SETS)
@pytest.mark.parametrize("vectors", [1, 2])
def test_no_other_tiles_cost_less(vectors: int, heights: tuple[int, ...]) -> None:
    @cache
    def least(count: int) -> int:
        return 0 if count <= 0 else min(cost(height, vectors) + least(count - height) for height in heights)

    for count in COUNTS[:-1]:  # in order, so that the recursion stays flat
        got = sum(cost(height, vectors) for _, height, _ in cover(count, vectors, heights))
        if count <= 300:
            assert got == least(count), f"{count} pixels"
        for height in heights:  # the obvious way: as many of one kind as it takes
            assert got <= -(-count // height) * cost(height, vectors), f"{count} pixels"


def test_a_long_row_has_many_tiles_and_is_planned_at_once() -> None:
    tiles = cover(1_000_000, 2)
    assert sum(exist for *_, exist in tiles) == 1_000_000
    assert len(tiles) < 2 + 1_000_000 / max(HEIGHTS) + max(HEIGHTS)


@pytest.mark.skipif(simd.VECTOR_REGISTERS < 32, reason="it pays where there are registers for the weights, too")
def test_taps_are_summed_together_where_they_reach_neighbours() -> None:
    def kernel(image: tuple[int, ...], weight: tuple[int, ...], *parameters: Any) -> Any:
        with only("channels"):
            g = Conv2dGeometry.forward(image, weight, *parameters, layout="NHWC")
            return forward_plan(g, np.dtype(np.float32), "NHWC", "NHWC", direct()).kernel

    lanes = simd.lanes(np.float32)
    image = 1, 9, 18, 8  # NHWC; a kernel of 3 x 3 makes 16 columns of it
    for filters in (lanes, 2 * lanes, 3 * lanes + 1):
        assert kernel(image, (filters, 3, 3, 8)) is correlate_three
    assert kernel(image, (3 * lanes, 3, 3, 8)) is correlate  # blocks of two widths
    for stride, padding, dilation in ((2, 1, 1), (1, 1, (1, 9))):  # no neighbours; and a phase of few pixels
        assert kernel(image, (lanes, 3, 3, 8), stride, padding, dilation) is correlate
    assert kernel(image, (lanes, 3, 3, 8), (2, 1), 0, (3, 1)) is correlate_three  # rows do not matter
    for dilation in (2, 4):  # pixels that lie as far apart as taps
        assert kernel((1, 9, 16 * dilation, 8), (lanes, 3, 3, 8), 1, dilation, dilation) is correlate_three
    for taps in ((1, 1), (3, 1), (3, 2), (5, 5)):
        assert kernel(image, (lanes, *taps, 8)) is correlate


def test_tiles_of_depthwise_rows_never_hang_over() -> None:
    for count, step, before in product([*range(1, 40), 1001], (1, 2, 3), (0, 1, 5)):
        columns = (count - 1) * step + 3 - before - 1
        tiles = cover_pixels(count, step, -before, 2, columns)
        heights = [exist or PIXELS for _, exist, _, _ in tiles]
        assert heights == [min(count, PIXELS)] * len(tiles)
        pixels = [start + p for (start, *_), height in zip(tiles, heights, strict=True) for p in range(height)]
        assert set(pixels) == set(range(count))
        assert len(tiles) == -(-count // PIXELS)  # so none is computed more often than it takes
        for start, exist, low, high in tiles:
            finds = [(start + p) * step + tap - before for p in range(PIXELS) for tap in range(3)]
            assert (low, high) == (before - start * step, columns + before - start * step)
            assert (exist == 0) == (exist in (0, PIXELS) and all(0 <= found < columns for found in finds))


def test_tiles_cover_the_output_channels_of_planes() -> None:
    for count in [*range(1, 100), 256, 1000, 2049]:
        assert_rows_cover(cover_channels(count), count)


def test_bands_are_as_few_as_fit_and_equal() -> None:
    small = Conv2dGeometry.forward((1, 1, 9, 9), (1, 1, 3, 3))
    a_quarter = SLAB_BYTES // 4  # of what a band may take, so that it has at most four rows
    for rows, height in ((1, 1), (3, 3), (4, 4), (5, 3), (8, 4), (9, 3), (10, 4), (13, 4), (0, 1)):
        assert band(small, rows, 1, 1, 1, a_quarter) == height, f"{rows} rows"
    assert band(small, 9, 1, 2, 2, a_quarter) == 2  # whose slab is twice as high: 2 rows read 4, and 3 read 6


# --- axes -------------------------------------------------------------------------------------------------------------


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    """Image, kernel, stride, padding before, dilation, output."""
    kernel, stride, dilation = (
        draw(st.integers(1, 6)),
        draw(st.integers(1, 7)),
        draw(st.sampled_from([1, 2, 3, 4, 6, 11])),
    )
    before, after = draw(st.integers(0, 14)), draw(st.integers(0, 14))
    smallest = max(1, dilation * (kernel - 1) + 1 - before - after)
    image = draw(st.integers(smallest, smallest + 20))
    padding = (0, 0), (before, after)
    return (
        image,
        kernel,
        stride,
        before,
        dilation,
        conv2d_output_size((1, image), (1, kernel), stride, padding, dilation)[1],
    )


def met(axis: Axis, stride: int, step: int, source: int) -> Iterator[tuple[int, int, int]]:
    """(target pixel, tap, source pixel) wherever a tap of ``axis`` finds a source pixel that exists."""
    for q in range(axis.pixels):
        for tap, offset in axis.taps:
            if 0 <= q * step + offset < source:
                yield axis.first + q * stride, tap, q * step + offset


@examples
@given(axes())
def test_forward_axis_meets_every_tap_once(numbers: tuple[int, ...]) -> None:
    image, kernel, stride, before, dilation, output = numbers
    wanted = [
        (o, k, o * stride + k * dilation - before)
        for o in range(output)
        for k in range(kernel)
        if 0 <= o * stride + k * dilation - before < image
    ]
    axis = forward_axis(*numbers)
    assert Counter(met(axis, 1, stride, image)) == Counter(wanted)
    assert products(axis, stride, image) == len(wanted)
    assert_in_order(axis)


@examples
@given(axes())
def test_backward_axes_meet_every_tap_once(numbers: tuple[int, ...]) -> None:
    image, kernel, stride, before, dilation, output = numbers
    wanted = [
        (o * stride + k * dilation - before, k, o)
        for o in range(output)
        for k in range(kernel)
        if 0 <= o * stride + k * dilation - before < image
    ]
    phases = backward_axes(*numbers)
    assert Counter(pair for axis in phases for pair in met(axis, stride, 1, output)) == Counter(wanted)
    assert sum(products(axis, 1, output) for axis in phases) == len(wanted)
    for axis in phases:
        assert_in_order(axis)
        # no phase reaches beyond the image, and none is there for nothing
        assert 0 <= axis.first < stride
        assert axis.first + (axis.pixels - 1) * stride < image <= axis.first + axis.pixels * stride
        assert {tap for _, tap, _ in met(axis, stride, 1, output)} == {tap for tap, _ in axis.taps}
    assert len({axis.first for axis in phases}) == len(phases)


def assert_in_order(axis: Axis) -> None:
    offsets = [offset for _, offset in axis.taps]
    assert offsets == sorted(offsets)
    assert len(set(axis.taps)) == len(axis.taps)


def test_taps_that_meet_nothing_are_left_out() -> None:
    # image, kernel, stride, padding, dilation, output: only the middle tap of three sees the image
    assert [tap for tap, _ in forward_axis(4, 3, 1, 100, 100, 4).taps] == [1]
    assert [tap for axis in backward_axes(4, 3, 1, 100, 100, 4) for tap, _ in axis.taps] == [1]


# --- plans ------------------------------------------------------------------------------------------------------------


def plans(case: Case) -> Iterator[tuple[str, Plan]]:
    """The plans of all passes, for arrays that lie in the case's layout and for mixed ones."""
    return ((name, plan) for name, plan, _ in walkable(case))


def walkable(case: Case, layouts: Iterable[Any] | None = None) -> Iterator[tuple[str, Plan, Conv2dGeometry]]:
    """The same, and the geometry that each of them computes."""
    g, dtype = case.geometry, np.dtype(case.dtype)
    for source, target in layouts or product(("NCHW", "NHWC"), ("NCHW", g.layout)):
        one_run = source == target == "NHWC"
        whole = merged(g, dtype, one_run)
        yield "forward", forward_plan(g, dtype, source, target, direct()), whole
        yield "input gradient", input_gradient_plan(g, dtype, source, target, direct()), whole
        whole = merged(g, dtype, one_run, BAND_BYTES if one_run else SLAB_BYTES)
        yield "weight gradient", weight_gradient_plan(g, dtype, source, target, direct()), whole


def upright(seed: int, count: int, dtypes: Sequence[Any] = FLOATS) -> Iterator[Case]:
    """Convolutions whose taps lie in one column, most of which are taken for those of a row."""
    choose, lanes = random.Random(seed), simd.lanes(np.float32)
    for _ in range(count):
        kernel, dilation, width = choose.randint(2, 7), choose.choice([1, 1, 2, 3]), choose.choice([1, 1, 2, 5, 9, 17])
        height, pad = choose.randint(1, 30) + dilation * (kernel - 1), choose.choice([0, (3, 1), (9, 0)])
        groups, few, many = choose.choice([1, 1, 2, 5]), choose.randint(1, 5), choose.choice([1, 3, lanes, lanes + 3])
        shape, weight = (choose.randint(1, 9), groups * few, height, width), (groups * many, few, kernel, 1)
        stride, layout = choose.choice([1, 1, 1, 2, 3]), choose.choice(["NCHW", "NHWC"])
        if layout == "NHWC":
            shape, weight = (shape[0], *shape[2:], shape[1]), (weight[0], kernel, 1, few)
        pads = ((pad, pad) if isinstance(pad, int) else pad, (0, 0))
        g = Conv2dGeometry.forward(shape, weight, (stride, 1), pads, (dilation, 1), groups, layout)  # type: ignore[arg-type]
        yield Case(g, np.dtype(choose.choice(dtypes)))


def pointwise(seed: int, count: int, dtypes: Sequence[Any] = FLOATS) -> Iterator[Case]:
    """Convolutions of 1 x 1, most of which take every pixel, of several images."""
    choose, lanes = random.Random(seed), simd.lanes(np.float32)
    counts = (1, 3, lanes - 1, lanes, lanes + 1, 2 * lanes, 3 * lanes + 2)
    for _ in range(count):
        shape = choose.randint(1, 6), choose.choice(counts), choose.randint(1, 17), choose.randint(1, 17)
        stride, pad = choose.choice([1, 1, 1, 1, (1, 2), 2]), choose.choice([0, 0, 0, 0, ((0, 1), (0, 0))])
        groups = choose.choice([1, 1, 1, 1, 3]) if shape[1] % 3 == 0 else 1
        filters = choose.choice(counts) * groups
        weight, layout = (filters, shape[1] // groups, 1, 1), choose.choice(["NCHW", "NHWC"])
        if layout == "NHWC":
            shape, weight = (shape[0], *shape[2:], shape[1]), (weight[0], 1, 1, weight[1])  # type: ignore[assignment]
        g = Conv2dGeometry.forward(shape, weight, stride, pad, groups=groups, layout=layout)
        yield Case(g, np.dtype(choose.choice(dtypes)))


def equal(a: Plan, b: Plan) -> bool:
    for field in fields(Plan):
        left, right = getattr(a, field.name), getattr(b, field.name)
        same = all(map(np.array_equal, left, right)) if isinstance(left, tuple) else np.array_equal(left, right)
        if not same and left is not right:
            return False
    return True


@each_form
@pytest.mark.parametrize("large", [False, True])
def test_plans_do_not_depend_on_the_number_of_threads(large: bool, form: str) -> None:
    cases = list(random_cases(3, 40, 10_000_000 if large else 20_000, FLOATS, form=form))
    found = []
    for threads in {1, numbaconv.get_num_threads()}:
        numbaconv.set_num_threads(threads)
        with only(form):
            found.append([plan for case in cases for _, plan in plans(case)])
    assert all(equal(a, b) for others in found for a, b in zip(found[0], others, strict=True))


class Priced:
    """A form of plan that remembers what it was asked for last, and what it said that costs."""

    def __init__(self, form: ModuleType) -> None:
        self.form, self.plan, self.weight_plan = form, form.plan, form.weight_plan
        self.asked: list[tuple[Correlation, float]] = []

    def cost(self, work: Correlation) -> float:
        self.asked.append((work, self.form.cost(work)))
        return self.asked[-1][1]

    def weight_cost(self, work: Correlation) -> float:
        self.asked.append((work, self.form.weight_cost(work)))
        return self.asked[-1][1]


#: The forms, and their kernels: of correlations, and of weight gradients.
KERNELS = {
    channels: (correlate, weight_gradient),
    planes: (correlate_planes, weight_gradient_planes),
    images: (correlate_images, weight_gradient_images),
    depthwise: (correlate_depthwise, weight_gradient_depthwise),
    winograd: (correlate_winograd, weight_gradient_winograd),
}


def kernels(form: Any, name: str) -> tuple[Any, ...]:
    """The kernels of a form for a pass of this name."""
    correlation, gradient = KERNELS[form]
    if name == "weight gradient":
        return (gradient,)
    return (correlation, correlate_three) if form is channels else (correlation,)


@pytest.mark.parametrize("algorithm", ["direct", "auto"])
def test_the_form_that_costs_less_is_taken(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = [Priced(form) for form in planning.FORMS[algorithm] if form in KERNELS]
    assert len(forms) == (4 if algorithm == "direct" else 5)
    monkeypatch.setitem(planning.FORMS, "direct", tuple(forms))
    taken: Counter[tuple[str, str]] = Counter()
    forget_plans()
    chosen = (case for form in FORMS for case in random_cases(8, 40, 4_000_000, FLOATS, form=form))
    many = ((2, 64, 16, 16), (64, 64, 3, 3)), ((64, 8, 8, 8), (8, 8, 3, 3))  # more channels, and images
    for case in (*chosen, *(Case(Conv2dGeometry.forward(*shapes, 1, 1), np.dtype(np.float32)) for shapes in many)):
        for name, plan in plans(case):
            forget_plans()
            asked = [form.asked.pop() for form in forms]
            work, costs = asked[0][0], [cost for _, cost in asked]
            said = f"{name} of {case} costs {costs}"
            assert not any(math.isnan(cost) for cost in costs), said
            assert 0 <= min(costs) < math.inf, said
            if any(axis.taps for axis in work.rows) and any(axis.taps for axis in work.columns):
                assert min(costs) > 0, said
            g = case.geometry
            if not g.G == g.IC == g.OC > 1:
                assert costs[3] == math.inf, said
            if (g.KH, g.KW) not in ((3, 3), (5, 5)) or (g.SH, g.SW) != (1, 1) or max(g.DH, g.DW) > 4:
                assert set(costs[4:]) <= {math.inf}, said
            best = forms[costs.index(min(costs))].form  # the first of equals
            assert plan.kernel in kernels(best, name), said
            taken[best.__name__, name] += 1
    assert len(taken) == 3 * len(forms), f"some form is never the cheapest one: {taken}"


@pytest.mark.parametrize("make", [forward_plan, input_gradient_plan])
def test_forms_of_depthwise_layers_pay_alike_for_reading_planes(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    g, dtype = Conv2dGeometry.forward((8, 64, 28, 28), (64, 1, 3, 3), 1, 1, groups=64), np.dtype("f4")
    forms = Priced(planes), Priced(depthwise)

    def prices() -> np.ndarray:
        forget_plans()
        make(g, dtype, "NCHW", "NCHW", forms)
        return np.array([form.asked.pop()[1] for form in forms])

    before = prices()
    monkeypatch.setattr(planning.common, "READ_COST", planning.common.READ_COST + 1000)
    assert (prices() - before).tolist() == [1000 * 8 * 64 * 28 * 28 / simd.lanes(dtype)] * 2


@pytest.mark.parametrize("form", [form for form in FORMS if form != "cheapest"])
def test_a_form_can_be_forced(form: str) -> None:
    module = winograd if form in WINOGRAD else FORMS[form][0]
    with only(form):
        for case in random_cases(9, 20, 20_000, FLOATS, form=form):
            assert all(plan.kernel in kernels(module, name) for name, plan in plans(case))


@pytest.mark.parametrize("form", WINOGRAD)
def test_the_order_of_work_can_be_forced(form: str) -> None:
    found: Counter[tuple[str, int]] = Counter()
    with only(form):
        for case in random_cases(9, 40, 200_000, FLOATS, form=form):
            for name, plan in plans(case):
                found[name, int(record(plan).by_blocks)] += 1
    wanted = 1 if form == "winograd by blocks" else 0
    assert all(found[name, wanted] > 20 for name in ("forward", "input gradient", "weight gradient")), found
    if not wanted:
        assert all(order == 0 for _, order in found)


def test_the_order_of_work_follows_the_larger_operand() -> None:
    few = Conv2dGeometry.forward((1, 256, 7, 7), (256, 256, 3, 3), 1, 1)
    many = Conv2dGeometry.forward((8, 64, 56, 56), (64, 64, 3, 3), 1, 1)
    for make in (forward_plan, input_gradient_plan, weight_gradient_plan):
        few_tiles, many_tiles = (
            make(g, np.dtype(np.float32), "NCHW", "NCHW", planning.FORMS["winograd"]) for g in (few, many)
        )
        assert (record(few_tiles).by_blocks, record(many_tiles).by_blocks) == (1, 0)
        assert min(few_tiles.threads, many_tiles.threads) >= 4


CHOICES = """
import hashlib
from cases import random_cases
from test_plan import plans
for case in random_cases(11, 60, 200_000):
    for name, plan in plans(case):
        digest = hashlib.sha256(b"".join(table.tobytes() for table in plan.tables))
        print(name, plan.kernel.name, plan.shared, plan.own, plan.threads, plan.numbers.tolist(), digest.hexdigest())
"""


def test_plans_are_the_same_in_every_process() -> None:
    one, two = (run_python("-c", CHOICES, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert one.returncode == 0, one.stderr
    assert one.stdout.splitlines() == two.stdout.splitlines()
    assert len(one.stdout.splitlines()) > 100


def test_a_plan_is_made_once() -> None:
    g = Conv2dGeometry.forward((2, 3, 9, 9), (4, 3, 3, 3))
    again = Conv2dGeometry.forward([2, 3, 9, 9], (4, 3, 3, 3), [1, 1], "valid")
    for make in (forward_plan, input_gradient_plan, weight_gradient_plan):
        assert make(g, np.dtype("f4"), "NCHW", "NCHW", direct()) is make(
            again, np.dtype(np.float32), "NCHW", "NCHW", direct()
        )
        assert make(g, np.dtype("f4"), "NCHW", "NCHW", direct()) is not make(
            g, np.dtype("f8"), "NCHW", "NCHW", direct()
        )


def walk(name: str, plan: Plan, g: Conv2dGeometry, case: Case) -> None:
    """Go through all that a plan does, offset by offset; where something is wrong, say of which case."""
    try:
        CHECKS[plan.kernel](plan, g, name)
    except AssertionError as error:
        raise AssertionError(f"{name} of {case}") from error


@each_form
@pytest.mark.parametrize(("seed", "products"), [(0, 20_000), (1, 20_000), (2, 1_000_000)])
@pytest.mark.parametrize("finely", [False, True])
def test_offsets_stay_inside_what_is_declared(seed: int, products: int, finely: bool, form: str) -> None:
    with only(form), everything_in_parallel() if finely else nullcontext():
        for case in random_cases(seed, 30 if INTERPRETED else 70, products, FLOATS, form=form):
            for name, plan, g in walkable(case):
                walk(name, plan, g, case)


@pytest.mark.parametrize("form", ["channels", "planes", "images", "cheapest"])
@pytest.mark.parametrize("finely", [False, True])
def test_offsets_of_pointwise_convolutions_stay_inside(finely: bool, form: str) -> None:
    found = Counter[str]()
    with only(form), everything_in_parallel() if finely else nullcontext():
        for case in pointwise(int(finely), 15 if form == "images" else 60 if INTERPRETED else 150):
            for name, plan, g in walkable(case, product(("NCHW", "NHWC"), repeat=2)):
                walk(name, plan, g, case)
                found[f"{name}, one run"] += g.N < case.geometry.N
                found["swapped"] += plan.swapped
                if plan.swapped:
                    n = record(plan)
                    assert (plan.kernel, n.ICG, n.OCG) == (weight_gradient, case.geometry.OC, case.geometry.IC)
                    assert n.ICG < n.OCG
                    assert (name, case.geometry.G, case.geometry.SH, case.geometry.SW) == ("weight gradient", 1, 1, 1)
    assert all(found[f"{name}, one run"] > (1 if form == "images" else 10) for name in POOLED), found
    assert (found["swapped"] > 10) == (form in ("channels", "cheapest")), found


@pytest.mark.parametrize("form", ["channels", "planes", "images", "cheapest"])
def test_offsets_of_upright_convolutions_stay_inside(form: str) -> None:
    found = 0
    with only(form):
        for case in upright(0, 15 if form == "images" else 60 if INTERPRETED else 150):
            for name, plan, g in walkable(case, product(("NCHW", "NHWC"), repeat=2)):
                walk(name, plan, g, case)
                found += g.IH < case.geometry.IH
    assert found > 60


def test_weight_gradients_are_swapped_where_the_input_has_more_channels() -> None:
    def swapped(IC: int, OC: int, kernel: int = 1, **how: Any) -> bool:
        g = Conv2dGeometry.forward(
            (2, 6, 6, IC), (OC, kernel, kernel, IC // how.get("groups", 1)), layout="NHWC", **how
        )
        with only("channels"):
            plan = weight_gradient_plan(g, np.dtype(np.float32), "NHWC", "NHWC", direct())
        x, z = np.zeros(1), np.ones(1)
        assert plan.factors(x, z) == ((z, x) if plan.swapped else (x, z))
        return bool(plan.swapped)

    assert swapped(64, 16)
    assert swapped(17, 16)
    assert not swapped(16, 16)
    assert not swapped(16, 64)
    for how in ({"kernel": 3}, {"stride": 2}, {"stride": (1, 2)}, {"padding": 1}, {"groups": 2}):
        assert not swapped(64, 16, **how)


@pytest.mark.parametrize("form", WINOGRAD)
@pytest.mark.parametrize("finely", [False, True])
def test_offsets_of_what_is_summed_stay_inside(finely: bool, form: str) -> None:
    found = Counter[str]()
    with only(form), everything_in_parallel() if finely else nullcontext():
        for case, x in product(random_cases(15, 150, 200_000, FLOATS, form=form), ("NCHW", "NHWC")):
            arguments: Any = (case.geometry, case.dtype, x, direct(), form != "winograd by blocks", finely)
            plan = summed_plan(*arguments)
            found["no plan"] += plan is None
            if plan is not None:
                n = record(plan)
                assert n.sum_relu == finely
                found[f"{int(n.strips > 1)}"] += 1
                found["dilation"] += n.phases > 1
                walk("forward", plan, case.geometry, case)
    assert found["no plan"] > 20  # of groups
    assert found["1"] > 5, found
    if form == "winograd by tiles":
        assert min(found["0"], found["dilation"]) > 5, found


def test_what_is_summed_is_planned_as_it_is_without() -> None:
    """But for the ReLU, so that the bits of the summand are the same."""
    dtype, forms = np.dtype(np.float32), planning.FORMS["winograd"]
    for N, C, OC, H, relu in ((2, 16, 16, 16, True), (64, 64, 64, 8, False), (3, 32, 48, 17, True)):
        g = Conv2dGeometry.forward((N, C, H, H), (OC, C, 3, 3), 1, 1)
        plan, other = (
            summed_plan(g, dtype, "NHWC", forms, True, relu),
            forward_plan(g, dtype, "NHWC", "NHWC", forms, True),
        )
        assert plan is not None
        differs = [name for name in record(plan).dtype.names if record(plan)[name] != record(other)[name]]
        assert differs == (["sum_relu"] if relu else [])
        assert all(map(np.array_equal, plan.tables, other.tables))
        assert (plan.shared, plan.own, plan.threads) == (other.shared, other.own, other.threads)
        assert plan.kernel.name == f"{other.kernel.name}_summed"
        assert summed_plan(g, dtype, "NHWC", planning.FORMS["direct"], True, relu) is None


@pytest.mark.parametrize("form", ["channels", *WINOGRAD])
@pytest.mark.parametrize("finely", [False, True])
def test_offsets_of_what_is_pooled_stay_inside(finely: bool, form: str) -> None:
    found = Counter[str]()
    with only(form), everything_in_parallel() if finely else nullcontext():
        for case in random_cases(7, 300, 100_000, FLOATS, form=form):
            g = case.geometry
            divisors = [[n for n in (1, 2, 3, 4) if size % n == 0] for size in (g.OH, g.OW)]
            if g.layout == "NHWC":
                continue
            for windows, x in product(product(*divisors), ("NCHW", "NHWC")):
                arguments: Any = (g, case.dtype, x, windows, direct())
                for name, make in POOLED.items():
                    plan = make(*arguments)
                    if plan is not None:
                        found[name] += 1
                        CHECKS[plan.kernel](plan, g, name, windows[0])
    assert set(found) == (set(POOLED) if form in WINOGRAD else {"forward", "weight gradient"})
    assert min(found.values()) > 20


@pytest.mark.parametrize("form", WINOGRAD)
@pytest.mark.parametrize("finely", [False, True])
def test_offsets_of_what_is_normed_stay_inside(finely: bool, form: str) -> None:
    found = Counter[str]()
    with only(form), everything_in_parallel() if finely else nullcontext():
        for case in random_cases(12, 300, 200_000, FLOATS, form=form):
            made = normed_plans(case.geometry, case.dtype, finely, direct())
            found["no plans"] += made is None
            for name, plan in zip(("forward", "weight gradient"), made or (), strict=False):
                found[f"{name}, {int(record(plan).strips > 1)}"] += 1
                assert record(plan).rectified == finely
                walk(name, plan, case.geometry, case)
    assert found["no plans"] > 20  # of groups
    wanted = (0, 1) if form == "winograd by tiles" else (1,)  # the other order, where there is but one strip in a row
    assert all(found[f"{name}, {strips}"] > 5 for name in ("forward", "weight gradient") for strips in wanted), found


def test_what_is_normed_is_planned_as_it_is_without() -> None:
    """But for who normalises, so that the bits of the results are the same."""
    dtype, forms = np.dtype(np.float32), planning.FORMS["winograd"]
    for N, C, OC, H in ((2, 16, 16, 16), (64, 64, 64, 8), (3, 32, 48, 17)):
        g = Conv2dGeometry.forward((N, C, H, H), (OC, C, 3, 3), 1, 1)
        made = normed_plans(g, dtype, True, forms)
        assert made is not None
        alone = forward_plan(g, dtype, "NHWC", "NHWC", forms), weight_gradient_plan(g, dtype, "NHWC", "NHWC", forms)
        for plan, other in zip(made, alone, strict=True):
            assert CHECKS[plan.kernel] is CHECKS[other.kernel]
            differs = [name for name in record(plan).dtype.names if record(plan)[name] != record(other)[name]]
            assert differs == ["rectified"]
            assert all(map(np.array_equal, plan.tables, other.tables))
            assert (plan.shared, plan.own, plan.threads) == (other.shared, other.own, other.threads)


@pytest.mark.parametrize("algorithm", ["auto", "direct"])
def test_only_winograds_form_normalises(algorithm: str) -> None:
    found = Counter[bool]()
    chosen = [case for form in FORMS for case in random_cases(13, 30, 4_000_000, FLOATS, form=form)]
    for C, H, dtype in product((16, 32, 64), (32, 16, 8), FLOATS):  # as in a residual network
        chosen.append(Case(Conv2dGeometry.forward((64, C, H, H), (C, C, 3, 3), 1, 1), np.dtype(dtype)))
    for case in chosen:
        forms = planning.FORMS[algorithm]
        for rectified in (False, True):
            made = normed_plans(case.geometry, case.dtype, rectified, forms)
            found[made is not None] += 1
            alone = (
                forward_plan(case.geometry, case.dtype, "NHWC", "NHWC", forms).kernel,
                weight_gradient_plan(case.geometry, case.dtype, "NHWC", "NHWC", forms).kernel,
            )
            if made is not None:
                assert [plan.kernel.name for plan in made] == [f"{kernel.name}_normed" for kernel in alone]
                for plan in made:
                    CHECKS[plan.kernel](plan, case.geometry, "forward")
    assert found[True] > 5 if algorithm == "auto" else not found[True], found


def test_nothing_is_normed_where_one_of_two_passes_has_no_kernel_for_it() -> None:
    g, dtype = Conv2dGeometry.forward((4, 16, 32, 32), (16, 16, 3, 3), 1, 1), np.dtype(np.float32)
    for never in ("cost", "weight_cost"):
        form = Priced(winograd)
        form.norms = winograd.norms  # type: ignore[attr-defined]
        assert normed_plans(g, dtype, True, (form,)) is not None  # type: ignore[arg-type]
        setattr(form, never, lambda work: math.inf)
        forget_plans()
        assert normed_plans(g, dtype, True, (form, channels)) is None  # type: ignore[arg-type]
    many = Conv2dGeometry.forward((4, 80, 16, 16), (64, 80, 3, 3), 1, 1)  # whose weight gradient goes by blocks
    made = forward_plan(many, dtype, "NHWC", "NHWC", (winograd,)), weight_gradient_plan(
        many, dtype, "NHWC", "NHWC", (winograd,)
    )  # fmt: skip
    assert [int(record(plan).by_blocks) for plan in made] == [0, 1]
    assert normed_plans(many, dtype, True, (winograd,)) is None


@pytest.mark.parametrize("form", ["channels", "depthwise", "cheapest"])
def test_work_of_a_large_case_is_shared_and_of_a_small_one_is_not(form: str) -> None:
    groups, few = (256, 3) if form == "depthwise" else (1, 1)
    channels = max(64, groups)
    large = Conv2dGeometry.forward((1, channels, 56, 56), (channels, channels // groups, 3, 3), groups=groups)
    small = Conv2dGeometry.forward((1, 3, 8, 8), (3, 3 // few, 3, 3), groups=few)
    with only(form):
        assert all(min(plan.threads, plan.team) >= 8 for _, plan in plans(Case(large, np.dtype(np.float32))))
        assert all(plan.threads == plan.team == 1 for _, plan in plans(Case(small, np.dtype(np.float32))))


def test_a_team_shares_work_for_which_threads_are_not_called() -> None:
    g = Conv2dGeometry.forward((1, 16, 32, 32), (32, 16, 3, 3), 2, 1)
    with only("channels"):
        assert all(plan.threads == 1 < 2 <= plan.team for _, plan in plans(Case(g, np.dtype(np.float32))))


def test_what_reaches_far_is_not_computed_along_images() -> None:
    # A row is turned with the padding at its ends; every pixel of an axis has an entry in a table.
    far = 100_000_000
    padded = Conv2dGeometry.forward((32, 3, 5, 5), (3, 3, 3, 3), stride=far, padding=far)
    long = Conv2dGeometry.forward((32, 1, 1, 1000), (8, 1, 1, 3))
    usual = Conv2dGeometry.forward((32, 3, 5, 5), (3, 3, 3, 3), padding=1)
    for g, finite in ((padded, False), (long, False), (usual, True)):
        work = planning._forward(g, np.dtype(np.float32), "NCHW", "NCHW")
        assert math.isfinite(images.weight_cost(work)) is finite
        assert math.isfinite(images.cost(work)) is finite


#: Passes whose kernels write what no tap reaches.
FILLS = {"depthwise": weight_gradient_plan, "images": input_gradient_plan}
NOTHING: dict[str, Any] = {"padding": 1, "dilation": 2}


@pytest.mark.parametrize("form", [form for form in FORMS if form not in WINOGRAD])
def test_what_is_never_reached_has_no_work(form: str) -> None:
    groups = 2 if form == "depthwise" else 1
    nothing = Conv2dGeometry.forward((1, groups, 1, 1), (2, 1, 2, 2), groups=groups, **NOTHING)
    with only(form):
        for make in (forward_plan, input_gradient_plan, weight_gradient_plan):
            plan = make(nothing, np.dtype(np.float32), "NCHW", "NCHW", direct())
            if make is not forward_plan and make is not FILLS.get(form):
                assert plan.fill  # a forward pass has its bias to write, and sums of no products are zeros
            assert plan.shared + plan.own < 10_000


def test_rows_are_merged_where_they_do_not_matter() -> None:
    def rows(image: tuple[int, ...], kernel: int = 1, one_run: bool = False, **how: Any) -> tuple[int, int]:
        g = Conv2dGeometry.forward(image, (64, image[1], kernel, kernel), **how)
        found = merged(g, np.dtype(np.float32), one_run)
        assert found.N * found.IH * found.IW == g.N * g.IH * g.IW
        assert found.N * found.OH * found.OW == g.N * g.OH * g.OW
        assert (1 if one_run and found != g else g.N) == found.N
        assert (found.IH, found.IW) == (found.OH, found.OW) or found == g
        return found.IH, found.IW

    assert rows((32, 64, 16, 16)) == (1, 256)
    assert rows((1, 4, 7, 9)) == (1, 63)  # too little work for two threads
    assert rows((1, 64, 56, 56)) == (56, 56)  # each of many threads should have some
    assert rows((4, 64, 56, 56)) == (8, 392)
    assert rows((TASKS, 512, 56, 56))[1] * 512 * 4 <= SLAB_BYTES
    assert rows((32, 64, 17, 16), stride=2) == (17, 16)
    assert rows((32, 64, 17, 16), padding=1) == (17, 16)
    assert rows((32, 64, 17, 16), padding=((0, 1), (0, 0))) == (17, 16)
    assert rows((32, 64, 17, 16), kernel=3, padding=1) == (17, 16)
    for how in ({"stride": 2}, {"padding": 1}, {"kernel": 3, "padding": 1}):
        assert rows((32, 64, 17, 16), one_run=True, **how) == (17, 16)
    laid_down = {"padding": (1, 0)}
    upright = [((8, 64, 17, 16), (3, 1)), ((1, 4, 9, 17), (3, 1)), ((1, 64, 500, 1), (3, 1)), ((8, 64, 17, 16), (3, 3)),
               ((1, 64, 56, 17), (3, 1)), ((8, 64, 56, 56), (3, 1)), ((8, 64, 17, 200), (3, 1))]  # fmt: skip
    found = []
    for image, kernel in upright:
        g = merged(Conv2dGeometry.forward(image, (64, image[1], *kernel), **laid_down), np.dtype(np.float32))
        found.append(
            (g.IH, g.KH, g.OH) == (1, 1, 1) and (image[2] * image[3], image[3], image[3]) == (g.IW, g.PL, g.DW)
        )
    assert found == [True] * 3 + [False] * 4
    high, wide = rows((32, 64, 7, 7), one_run=True)  # a single image of as many pixels
    assert high * wide == 32 * 7 * 7
    assert high >= SOME_TASKS
    assert wide > 7
