"""Plans, without running them: tiles cover rows, taps meet pixels, and no offset leaves the memory that is declared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import FORMS, INTERPRETED, Case, everything_in_parallel, forget_plans, only, random_cases, run_python
from hypothesis import given, settings
from hypothesis import strategies as st

import numbaconv
from numbaconv import conv2d_output_size
from numbaconv import plan as planning
from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels.correlation import CORRELATION, correlate
from numbaconv.kernels.planes import PLANES, correlate_planes
from numbaconv.kernels.tiles import HEIGHTS, PLANE_TILES
from numbaconv.kernels.weight_gradient import WEIGHT_GRADIENT, weight_gradient
from numbaconv.kernels.weight_planes import WEIGHT_PLANES, weight_gradient_planes
from numbaconv.plan import Plan, forward_plan, input_gradient_plan, weight_gradient_plan
from numbaconv.plan.axes import Axis, Correlation, backward_axes, forward_axis
from numbaconv.plan.channels import cover
from numbaconv.plan.planes import _rows as cover_channels

examples = settings(max_examples=100 if INTERPRETED else 400, deadline=None, derandomize=True)
FLOATS = [np.float32, np.float64]


def direct() -> planning.Forms:
    """The forms that are chosen from; ``only`` changes them."""
    return planning.FORMS["direct"]


each_form = pytest.mark.parametrize("form", FORMS)

# --- tiles ------------------------------------------------------------------------------------------------------------

SETS = [HEIGHTS, (14, 8, 4), (6, 4, 2), (8,), (4,)]
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


def test_tiles_cover_the_output_channels_of_planes() -> None:
    for count in [*range(1, 100), 256, 1000, 2049]:
        assert_rows_cover(cover_channels(count), count)


def assert_rows_cover(rows: Any, channels: int) -> None:
    """Every channel is in one tile, tiles are packed one after the other, and only the last one may hang over."""
    assert [first + p for first, _, exist in rows for p in range(exist)] == list(range(channels))
    assert [first for first, *_ in rows] == [sum(row[1] for row in rows[:k]) for k in range(len(rows))]
    assert all(height in PLANE_TILES and 1 <= exist <= height for _, height, exist in rows)


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
    dtype = np.dtype(case.dtype)
    for source in ("NCHW", "NHWC"):
        for target in ("NCHW", case.geometry.layout):
            yield "forward", forward_plan(case.geometry, dtype, source, target, direct())
            yield "input gradient", input_gradient_plan(case.geometry, dtype, source, target, direct())
            yield "weight gradient", weight_gradient_plan(case.geometry, dtype, source, target, direct())


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
    cases = list(random_cases(3, 40, 10_000_000 if large else 20_000, FLOATS))
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


KERNELS = {
    "channels": {"forward": correlate, "input gradient": correlate, "weight gradient": weight_gradient},
    "planes": {
        "forward": correlate_planes,
        "input gradient": correlate_planes,
        "weight gradient": weight_gradient_planes,
    },
}


def test_the_form_that_costs_less_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = {name: Priced(FORMS[name][0]) for name in KERNELS}
    monkeypatch.setitem(planning.FORMS, "direct", tuple(forms.values()))
    taken: Counter[tuple[str, str]] = Counter()
    forget_plans()
    for case in random_cases(8, 100, 200_000, FLOATS):
        for name, plan in plans(case):
            forget_plans()
            (work, one), (_, two) = (form.asked.pop() for form in forms.values())
            said = f"{name} of {case} costs {one} or {two}"
            assert not math.isnan(one + two), said
            assert 0 <= min(one, two) < math.inf, said
            if any(axis.taps for axis in work.rows) and any(axis.taps for axis in work.columns):
                assert min(one, two) > 0, said
            best = "planes" if two < one else "channels"
            assert plan.kernel is KERNELS[best][name], said
            taken[best, name] += 1
    assert len(taken) == 6, f"some form is never the cheaper one: {taken}"


@pytest.mark.parametrize("form", KERNELS)
def test_a_form_can_be_forced(form: str) -> None:
    with only(form):
        for case in random_cases(9, 20, 20_000, FLOATS):
            assert all(plan.kernel is KERNELS[form][name] for name, plan in plans(case))


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


@each_form
@pytest.mark.parametrize(("seed", "products"), [(0, 20_000), (1, 20_000), (2, 1_000_000)])
@pytest.mark.parametrize("finely", [False, True])
def test_offsets_stay_inside_what_is_declared(seed: int, products: int, finely: bool, form: str) -> None:
    with only(form), everything_in_parallel() if finely else nullcontext():
        for case in random_cases(seed, 30 if INTERPRETED else 70, products, FLOATS):
            for name, plan in plans(case):
                try:
                    CHECKS[plan.kernel](plan, case.geometry, name)
                except AssertionError as error:
                    raise AssertionError(f"{name} of {case}") from error


def check_correlation(plan: Plan, g: Conv2dGeometry, name: str) -> None:
    """Walk through what ``correlate`` does with a plan, as far as it decides where memory is touched."""
    n = np.asarray(plan.numbers).view(CORRELATION)[0]
    taps, runs, phases, tiles = plan.tables
    H, W = (g.OH, g.OW) if name == "forward" else (g.IH, g.IW)
    slab = ((n.band - 1) * n.in_h + n.span) * n.columns * n.ICG

    # shared memory: packed weights, the packed bias, then the threads' parts
    assert n.G * n.blocks * n.block_size <= n.bias
    assert n.bias + n.G * n.blocks * n.width <= n.slabs <= plan.shared
    # a thread's part: the slab, then the staged tile
    assert slab <= n.stage
    assert n.stage + max(tiles[:, 1], default=0) * n.width <= n.own == plan.own
    assert len(taps) * n.reduced * n.width <= n.block_size

    reached = set()
    for first_row, rows, first_column, columns, first_run, last_run, first_tile, last_tile in phases:
        mine, pixels = runs[first_run:last_run], tiles[first_tile:last_tile]
        assert len(mine) or name == "forward"  # which has its bias to write, if nothing else
        assert sum(exist for *_, exist in pixels) == columns
        assert rows <= n.bands * n.band
        row = (min(n.band, rows) - 1) * n.in_h * n.columns * n.ICG
        for offset, weights, steps in mine:
            assert offset >= 0
            assert 0 <= weights <= n.block_size - (steps - 1) * n.width - n.width
            last = offset + steps - 1 + row
            for start, height, exist in pixels:
                # pixels that exist are in the slab; those that do not are read, too, but only from this thread's part
                assert last + (start + exist - 1) * n.in_w * n.ICG < slab
                assert last + (start + height - 1) * n.in_w * n.ICG < n.own
        for q in range(rows):
            reached.update((first_row + q * n.out_h, first_column + p * n.out_w) for p in range(columns))
        assert first_row + (rows - 1) * n.out_h < H
        assert first_column + (columns - 1) * n.out_w < W
    # pixels that no phase writes are filled before
    assert len(reached) == sum(phase[1] * phase[3] for phase in phases)
    assert plan.fill == (len(reached) < H * W)

    # weights that exist, all of them once where no tap is left out
    used: Counter[int] = Counter()
    for group in range(n.G):
        for block in range(n.blocks):
            channel = block * n.width
            lanes = max(0, min(n.width, n.OCG - channel, n.OC - group * n.OCG - channel))
            start = group * n.w_group + channel * n.w_lane
            for c in range(n.reduced):
                used.update((start + taps[:, None] + c * n.w_channel + np.arange(lanes) * n.w_lane).ravel().tolist())
    assert_weights_once(used, len(taps), g)
    assert n.tasks == g.N * n.G * n.bands
    assert plan.threads <= n.tasks


def check_weight_gradient(plan: Plan, g: Conv2dGeometry, name: str) -> None:
    """The same for ``weight_gradient``."""
    n = np.asarray(plan.numbers).view(WEIGHT_GRADIENT)[0]
    taps, runs, windows, tiles = plan.tables
    slab = ((n.band - 1) * n.in_h + n.span) * n.columns * n.ICG
    lane = (n.blocks - 1) * n.width + n.lanes - 1 if n.elementwise else 0

    assert n.parts * n.G * n.blocks * n.block_size <= n.slabs <= plan.shared
    assert slab <= n.gradient
    assert n.gradient + n.band * n.OW * n.width <= n.own == plan.own
    assert len(runs) == n.band
    for offset, gradient, steps in runs:
        assert 0 <= gradient <= n.own - n.gradient - steps * n.width
        last = offset + (steps - 1) * n.in_w * n.ICG + lane
        for window, row in windows:
            for start, height, exist in tiles:
                assert window >= 0
                assert last + window + (start + exist - 1) * n.row_pitch < slab
                assert last + window + (start + height - 1) * n.row_pitch < n.own
                assert (row + start + height) * n.width <= n.block_size
    # every tap has rows of its own, and they are summed in some tile
    summed = {row + start + p for _, row in windows for start, _, exist in tiles for p in range(exist)}
    rows = Counter(row + c for _, row in taps for c in range(n.reduced))
    assert set(rows.values()) <= {1}
    assert set(rows) == summed

    used: Counter[int] = Counter()
    for group in range(n.G):
        for block in range(n.blocks):
            channel = block * n.width
            lanes = max(0, min(n.width, n.OCG - channel, n.OC - group * n.OCG - channel))
            start = group * n.w_group + channel * n.w_lane
            for c in range(n.reduced):
                used.update((start + taps[:, :1] + c * n.w_channel + np.arange(lanes) * n.w_lane).ravel().tolist())
    assert_weights_once(used, len(taps), g)
    assert plan.fill == (len(used) < g.OC * g.ICG * g.KH * g.KW)

    # every band of every image, for every group and block of channels, is one task's work
    assert n.units == g.N * n.bands
    assert (n.bands - 1) * n.band < g.OH <= n.bands * n.band
    work: Counter[tuple[int, int, int]] = Counter()
    for task in range(n.tasks):
        part, group, split = task // (n.G * n.splits), task // n.splits % n.G, task % n.splits
        for unit in range(part * n.units // n.parts, (part + 1) * n.units // n.parts):
            for block in range(split * n.blocks // n.splits, (split + 1) * n.blocks // n.splits):
                work[unit, group, block] += 1
    assert len(work) == n.units * n.G * n.blocks
    assert set(work.values()) == {1}


def check_planes(plan: Plan, g: Conv2dGeometry, name: str) -> None:
    """The same for ``correlate_planes``."""
    n = np.asarray(plan.numbers).view(PLANES)[0]
    remainders, steps, phases, rows = plan.tables
    H, W = (g.OH, g.OW) if name == "forward" else (g.IH, g.IW)
    slab = n.ICG * n.plane

    # shared memory: packed weights, the packed bias, then the threads' parts
    assert_rows_cover(rows, n.OCG)
    assert n.heights == sum(rows[:, 1])
    assert n.G * n.heights * len(steps) <= n.bias
    assert n.bias + n.G * n.heights <= n.slabs <= plan.shared
    # a thread's part: the planes, then the staged tile
    assert_planes_hold_their_parts(n, remainders)
    assert slab <= n.stage
    assert n.stage + max(height * PLANE_TILES[height] for height in rows[:, 1]) * n.lanes <= n.own == plan.own

    reached, last_of_before = set(), 0
    for first_row, count, first_column, columns, first, last in phases:
        assert first == last_of_before
        last_of_before = last
        assert last > first or name == "forward"  # which has its bias to write, if nothing else
        assert count <= n.bands * n.band
        assert columns <= n.columns
        for left in {min(n.band, count), (count - 1) % n.band + 1}:  # rows of the first band, and of the last
            check_steps(n, remainders, steps[first:last], left, columns)
            for height in set(rows[:, 1].tolist()):
                check_pixels(n, steps[first:last, 1], PLANE_TILES[height], left, columns)
        for q in range(count):
            reached.update((first_row + q * n.out_h, first_column + p * n.out_w) for p in range(columns))
        assert first_row + (count - 1) * n.out_h < H
        assert first_column + (columns - 1) * n.out_w < W
    assert last_of_before == len(steps)
    assert len(reached) == sum(phase[1] * phase[3] for phase in phases)
    assert plan.fill == (len(reached) < H * W)

    # so many steps at a time are read as if their weights followed each other
    assert len(steps) % n.joined == 0
    assert (np.diff(steps[:, 0].reshape(-1, n.joined)) == 1).all()
    check_filters(n, steps, n.w_row, g)
    assert n.tasks == g.N * n.G * n.bands
    assert plan.threads <= n.tasks


def assert_planes_hold_their_parts(n: Any, remainders: np.ndarray) -> None:
    """All that ``pack_planes`` writes lies in its plane, and no two parts share an element."""
    assert n.rows * n.columns <= n.part
    assert len(remainders) * n.part <= n.plane
    found = [tuple(pair) for pair in remainders.tolist()]
    assert found[0] == (0, 0)  # the output's gradient is packed with this one alone
    assert len(set(found)) == len(found)
    assert all(0 <= h < n.in_h and 0 <= w < n.in_w for h, w in found)


def check_steps(n: Any, remainders: np.ndarray, steps: np.ndarray, count: int, columns: int) -> None:
    """What pixels that exist read lies in the plane of one channel, in one part, and in rows and columns of it."""
    channel, rest = np.divmod(steps[:, 1], n.plane)
    part, rest = np.divmod(rest, n.part)
    row, column = np.divmod(rest, n.columns)
    assert ((channel >= 0) & (channel < n.ICG)).all()
    assert (part < len(remainders)).all()
    assert (row + count <= n.rows).all()
    assert (column + columns <= n.columns).all()
    # every channel is read by the same taps
    assert set(Counter(channel.tolist()).values()) <= {len(steps) // n.ICG}


def check_pixels(n: Any, offsets: np.ndarray, vectors: int, count: int, columns: int) -> None:
    """The tiles of a phase hold every pixel once; what they read besides is a thread's own, too."""
    width = vectors * n.lanes
    lane = np.arange(width)
    if n.stacked:
        chunks = -(-columns // n.lanes)
        k = np.arange(-(-count // vectors) * chunks)[:, None]
        row, column = k // chunks * vectors + lane // n.lanes, k % chunks * n.lanes + lane % n.lanes
    else:
        k = np.arange(-(-((count - 1) * n.columns + columns) // width))[:, None]
        row, column = np.divmod(k * width + lane, n.columns)
    exist = (row < count) & (column < columns)
    assert sorted((row * columns + column)[exist].tolist()) == list(range(count * columns))
    if len(offsets):
        assert min(offsets) >= 0
        assert (row * n.columns + column).max() + max(offsets) < n.own


def check_filters(n: Any, steps: np.ndarray, w_row: int, g: Conv2dGeometry) -> None:
    """The steps of all output channels are weights that exist, all of them once where no tap is left out."""
    first = np.arange(n.G)[:, None] * n.w_group + np.arange(n.OCG) * w_row
    used = Counter((first[..., None] + steps[:, 0]).ravel().tolist())
    assert len(steps) % n.ICG == 0
    assert_weights_once(used, len(steps) // n.ICG, g)


def check_weight_planes(plan: Plan, g: Conv2dGeometry, name: str) -> None:
    """The same for ``weight_gradient_planes``."""
    n = np.asarray(plan.numbers).view(WEIGHT_PLANES)[0]
    remainders, steps, rows = plan.tables
    slab = n.ICG * n.plane
    pairs = -(-len(steps) // 2)

    # sums: of all parts, groups, and tiles of output channels
    assert_rows_cover(rows, n.OCG)
    heights = int(sum(rows[:, 1]))
    assert heights * pairs * 2 * n.lanes <= n.block
    assert n.parts * n.G * n.block <= n.slabs <= plan.shared
    # a thread's part: the planes of the input, then those of the output's gradient, of all rows of the tiles
    assert_planes_hold_their_parts(n, remainders)
    assert slab <= n.gradient
    assert n.gradient + (heights - 1) * n.z_plane + n.vectors * n.lanes <= n.own == plan.own
    assert n.gradient + n.OCG * n.z_plane <= n.own  # what is cleared
    # the gradient's pixels are in what is summed, and what is summed beyond them is zeros of the same plane
    assert n.columns >= n.OW
    assert (n.band - 1) * n.columns + n.OW <= n.vectors * n.lanes <= n.z_plane
    check_steps(n, remainders, steps, n.band, n.OW)
    if len(steps):
        # those zeros meet something finite: the planes, or what is cleared behind them
        assert min(steps[:, 1]) >= 0
        assert max(steps[:, 1]) + n.vectors * n.lanes <= n.gradient
    check_filters(n, steps, n.w_row, g)
    assert plan.fill == (len(steps) < n.ICG * g.KH * g.KW)

    # every band of every image, for every group, is one task's work
    assert n.units == g.N * n.bands
    assert (n.bands - 1) * n.band < g.OH <= n.bands * n.band
    assert n.tasks == n.parts * n.G
    assert plan.threads <= n.tasks
    units = [unit for p in range(n.parts) for unit in range(p * n.units // n.parts, (p + 1) * n.units // n.parts)]
    assert units == list(range(n.units))


CHECKS = {
    correlate: check_correlation,
    weight_gradient: check_weight_gradient,
    correlate_planes: check_planes,
    weight_gradient_planes: check_weight_planes,
}


def assert_weights_once(used: Counter[int], taps: int, g: Conv2dGeometry) -> None:
    """Every weight of the taps that are there has its place, and no other memory is touched."""
    size = g.OC * g.ICG * g.KH * g.KW
    assert set(used.values()) <= {1}
    assert all(0 <= index < size for index in used)
    assert len(used) == taps * g.OC * g.ICG


def test_work_of_a_large_case_is_shared_and_of_a_small_one_is_not() -> None:
    large = Case(Conv2dGeometry.forward((1, 64, 56, 56), (64, 64, 3, 3)), np.dtype(np.float32))
    assert all(plan.threads >= 8 for _, plan in plans(large))
    small = Case(Conv2dGeometry.forward((1, 3, 8, 8), (4, 3, 3, 3)), np.dtype(np.float32))
    assert all(plan.threads == 1 for _, plan in plans(small))


@each_form
def test_what_is_never_reached_has_no_work(form: str) -> None:
    nothing: Any = Conv2dGeometry.forward((1, 1, 1, 1), (2, 1, 2, 2), padding=1, dilation=2)
    with only(form):
        for make in (forward_plan, input_gradient_plan, weight_gradient_plan):
            plan = make(nothing, np.dtype(np.float32), "NCHW", "NCHW", direct())
            if make is not forward_plan:  # whose output is the bias
                assert plan.fill
            assert plan.shared + plan.own < 10_000
