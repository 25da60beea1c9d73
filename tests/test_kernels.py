"""The compiled functions against the reference: for equality, over geometries that tiles and lanes do not fit.

All data are small whole numbers, so every sum is exact in whatever order it is taken, and one wrong, missing or doubled
product shows. Under ``NUMBA_DISABLE_JIT=1`` the kernels run as Python, which checks that they stay inside their arrays.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import (
    EXACT,
    GENERAL,
    INTERPRETED,
    ORDERS,
    Case,
    Results,
    assert_equal,
    cases,
    everything_in_parallel,
    expected,
    only,
    random_cases,
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from walks import record

import numbaconv
from numbaconv import reference, simd
from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels.weight_gradient import FEW_ROWS
from numbaconv.memory import scratch
from numbaconv.plan import channels as planning_channels
from numbaconv.plan import depthwise, forward_plan, weight_gradient_plan

LANES = simd.lanes(np.float32)
#: Multiplications of a pass that the reference is asked for, and that NumPy is.
FEW, MANY = (2_000, 5_000) if INTERPRETED else (12_000, 1_000_000)
each_form = pytest.mark.parametrize("form", EXACT)
each_general = pytest.mark.parametrize("form", GENERAL)
#: The choice is made between these, so what all of them do need not be tried through it.
each_forced = pytest.mark.parametrize("form", [form for form in EXACT if form != "cheapest"])


def examples(number: int) -> settings:
    return settings(max_examples=number // 10 if INTERPRETED else number, deadline=None, derandomize=True)


def one_case(x: tuple[int, ...], w: tuple[int, ...], dtype: Any = np.float32, **parameters: Any) -> Case:
    geometry = Conv2dGeometry.forward(x, w, **parameters)
    return Case(geometry, np.dtype(dtype), parameters.get("padding") == "same")


def assert_as_reference(case: Case, form: str = "cheapest") -> None:
    arrays = case.arrays()
    with only(form):
        got = run(numbaconv, case, arrays)
    assert_equal(got, run(reference, case, arrays), case)


def assert_as_expected(case: Case, form: str = "cheapest", seed: int = 0) -> None:
    arrays = case.arrays(seed)
    with only(form):
        got = run(numbaconv, case, arrays)
    assert_equal(got, expected(case, arrays), case)


# --- geometries -------------------------------------------------------------------------------------------------------


@each_form
@examples(200)
@given(data=st.data())
def test_all_passes_are_the_references(form: str, data: st.DataObject) -> None:
    assert_as_reference(data.draw(cases(FEW, form=form)), form)


@examples(60)
@given(cases(FEW))
def test_second_opinion_is_the_references(case: Case) -> None:
    # What the larger cases are compared to has to be right itself.
    arrays = case.arrays()
    assert_equal(expected(case, arrays), run(reference, case, arrays), case)


@each_form
@pytest.mark.parametrize("seed", range(3))
def test_all_passes_of_larger_cases(seed: int, form: str) -> None:
    for case in random_cases(seed, 10 if INTERPRETED else 150, MANY, form=form):
        assert_as_expected(case, form)


@each_forced
def test_all_passes_of_small_cases_cut_into_many_tasks(form: str) -> None:
    # By themselves only large cases are cut; small ones are of more kinds.
    with everything_in_parallel():
        for case in random_cases(10, 15 if INTERPRETED else 120, FEW, form=form):
            assert_as_expected(case, form)


def relaid(case: Case, layout: Any) -> Case:
    """The same case in the other layout."""
    return replace(case, geometry=replace(case.geometry, layout=layout))


@each_forced
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_width_around_a_tile(layout: Any, dtype: Any, form: str) -> None:
    OC, ICG, G = (3, 1, 3) if form == "depthwise" else (5, 3, 1)
    for width in range(1, 12 if INTERPRETED else 46):
        for columns in (1, 3):
            case = one_case((2, 3, 2, width), (OC, ICG, 1, columns), dtype, padding=(0, columns // 2), groups=G)
            assert_as_expected(relaid(case, layout), form, width)


@pytest.mark.parametrize(
    ("side", "form"),
    [(side, form) for form in ("channels", "planes", "images") for side in ("input", "output", "both", "depthwise")]
    + [("depthwise", "depthwise")],
)
def test_every_number_of_channels_around_a_vector(side: str, form: str) -> None:
    for channels in range(1, 8 if INTERPRETED else 4 * LANES + 2):
        ICG, OC = {"input": (channels, 3), "output": (3, channels), "both": (channels, channels)}.get(
            side, (1, channels)
        )
        G = channels if side == "depthwise" else 1
        case = one_case((1, ICG * G, 3, 5), (OC, ICG, 2, 2), stride=(1, 2), padding=((1, 0), (0, 1)), groups=G)
        assert_as_expected(case, form, channels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_first_layers_sum_three_windows_of_a_weight_gradient_together(channels: int, dtype: Any) -> None:
    size = simd.lanes(dtype)
    summed = set()
    for out, stride, rows in product((size - 1, size, 2 * size, 3 * size + 1), (1, 2), (1, 2)):
        shapes, how = ((3, channels, 9, 7), (out, channels, 3, 3)), {"stride": stride, "dilation": (rows, 1)}
        for layout in ("NCHW", "NHWC"):
            case = relaid(one_case(*shapes, dtype, padding=1, **how), layout)
            planned = weight_gradient_plan(case.geometry, np.dtype(dtype), layout, layout, (planning_channels,))
            summed.add(int(record(planned).few))
            assert_as_expected(case, "channels", out)
    few = {min((rows for rows in FEW_ROWS if 3 * channels <= rows), default=0)}
    # Tiles of two vectors fit the six rows of two channels better than nine rows of one vector at a time.
    assert summed == (few | {0} if channels == 2 else few)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", range(1, 10))
def test_depthwise_rows_of_every_kernel_and_stride(columns: int, dtype: Any) -> None:
    # Taps and pixels that share what they load have loops of their own, and so has what reaches beyond a row.
    for stride in range(1, 6):
        for width in (1, 3, 4, 5, 7, 8, 9, 12, 13, 17)[:: 5 if INTERPRETED else 1]:
            padding = (0, 1), (columns // 2, columns - 1 - columns // 2)
            shapes = (1, LANES + 1, 2, width), (LANES + 1, 1, 2, columns)
            case = one_case(*shapes, dtype, stride=(1, stride), padding=padding, groups=LANES + 1)
            for layout in ("NCHW", "NHWC"):
                assert_as_expected(relaid(case, layout), "depthwise", width)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", range(1, 10))
def test_depthwise_images_that_are_read_where_they_are(columns: int, dtype: Any) -> None:
    # Whole vectors of channels. For a weight gradient, the taps of a row have to share what they load as well.
    channels = simd.lanes(dtype) * 2
    for stride, dilation, over in product((1, 2, 3), (1, 2), (0, 1, 2, 3)[:: 3 if INTERPRETED else 1]):
        before, after = dilation * (columns // 2), dilation * (columns - 1 - columns // 2)
        padding, strides, dilations = ((2, 1), (before, after)), (stride, stride), (1, dilation)
        shapes = (2, 3, stride * (8 * (before + after) + 4 + over), channels), (channels, 3, columns, 1)
        case = one_case(
            *shapes, dtype, stride=strides, padding=padding, dilation=dilations, groups=channels, layout="NHWC"
        )
        for plan in (forward_plan, weight_gradient_plan):
            planned = plan(case.geometry, np.dtype(dtype), "NHWC", "NHWC", (depthwise,))
            assert record(planned).direct == (plan is forward_plan or (stride <= 2 and (dilation == 1 or columns == 1)))
        assert_as_expected(case, "depthwise", over)


#: Rows and columns of images in which a tile has rows below each other, or runs on from one row to the next.
PLANES = [
    (rows, columns)
    for rows in (1, 2, 3, 4, 5, 7, 8, 9)
    for columns in (LANES // 2 - 1, LANES // 2, LANES - 1, LANES, LANES + 1, 2 * LANES, 2 * LANES + 1, 4 * LANES - 1)
]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 9])
def test_planes_of_every_shape_around_a_tile(channels: int, layout: Any) -> None:
    for rows, columns in PLANES[:: 7 if INTERPRETED else 1]:
        for stride, padding in ((1, 1), ((2, 1), (0, 1)), ((1, 2), (1, 0))):
            shapes = (1, 2, rows + 2, columns + 2), (channels, 2, 3, 3)
            if layout == "NHWC":
                shapes = (1, rows + 2, columns + 2, 2), (channels, 3, 3, 2)
            assert_as_expected(one_case(*shapes, stride=stride, padding=padding, layout=layout), "planes", columns)


@pytest.mark.parametrize("channels", [LANES * 8 - 1, LANES * 8, LANES * 8 + 1, LANES * 16, LANES * 17 + 3])
def test_depthwise_channels_beyond_what_is_packed_together(channels: int) -> None:
    for layout in ("NCHW", "NHWC"):
        shapes = (2, channels, 4, 9), (channels, 1, 3, 3)
        if layout == "NHWC":
            shapes = (2, 4, 9, channels), (channels, 3, 3, 1)
        assert_as_expected(one_case(*shapes, stride=2, padding=1, groups=channels, layout=layout), "depthwise")


CORNERS = [
    # one pixel, of which every tap but one sees padding
    ((1, 3, 1, 1), (2, 3, 3, 3), {"padding": 1}),
    ((2, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, LANES + 1, 1, 1), (2 * LANES + 1, LANES + 1, 1, 1), {}),
    ((1, 4, 1, 1), (4, 1, 5, 5), {"padding": "same", "groups": 4}),
    # kernels larger than the unpadded image
    ((1, 2, 2, 3), (3, 2, 7, 5), {"padding": 3}),
    ((1, 2, 2, 2), (3, 2, 4, 4), {"padding": ((2, 0), (0, 2))}),
    # output pixels that see padding alone: the bias, and zeros
    ((1, 2, 2, 2), (2, 2, 1, 1), {"padding": 3}),
    ((1, 2, 2, 2), (2, 2, 2, 2), {"padding": 6, "stride": 3}),
    ((1, 3, 2, 2), (3, 1, 2, 2), {"padding": 6, "stride": 3, "groups": 3}),
    # no tap sees the image at all: nothing but the bias, and gradients of zero
    ((2, 2, 1, 1), (3, 2, 2, 2), {"padding": 2, "dilation": 3, "stride": 5}),
    ((1, 1, 1, 1), (2, 1, 2, 2), {"padding": 1, "dilation": 2}),
    ((1, 4, 1, 1), (4, 1, 2, 2), {"padding": 1, "dilation": 2, "groups": 4}),
    # taps in the padding alone, near and very far
    ((1, 2, 4, 4), (2, 2, 3, 3), {"padding": 7, "dilation": 7}),
    ((1, 2, 4, 4), (2, 2, 3, 3), {"padding": 2_000_000, "dilation": 2_000_000}),
    ((1, 2, 4, 4), (2, 1, 3, 3), {"padding": 2_000_000, "dilation": 2_000_000, "groups": 2}),
    # input pixels that nobody reads, between the kernels and after the last
    ((1, 2, 7, 12), (2, 2, 1, 1), {"stride": 3}),
    ((1, 2, 7, 12), (2, 2, 2, 2), {"stride": (4, 5)}),
    ((1, 2, 11, 11), (2, 2, 1, 1), {"stride": 10}),
    ((1, 2, 11, 11), (2, 1, 1, 1), {"stride": 10, "groups": 2}),
    ((1, 3, 7, 12), (3, 1, 2, 3), {"stride": (3, 5), "groups": 3}),
    ((2, 3, 11, 11), (3, 1, 1, 1), {"stride": 4, "padding": ((3, 0), (1, 2)), "groups": 3}),
    # a dilation that shares a factor with the stride: some phases of the input are met by no tap
    ((1, 3, 9, 9), (2, 3, 3, 3), {"stride": 2, "dilation": 2}),
    ((1, 3, 13, 13), (2, 3, 3, 3), {"stride": 4, "dilation": 6, "padding": 3}),
    ((1, 3, 9, 9), (3, 1, 3, 3), {"stride": 2, "dilation": 2, "groups": 3}),
    ((1, 3, 13, 13), (3, 1, 3, 3), {"stride": 4, "dilation": 6, "padding": 3, "groups": 3}),
]


@each_forced
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_corners(dtype: Any, form: str) -> None:
    for x, w, parameters in CORNERS:
        if form != "depthwise" or x[1] == w[0] == parameters.get("groups"):
            assert_as_reference(one_case(x, w, dtype, **parameters), form)


LARGEST = 2**31 - 1
FAR = [
    ({"stride": LARGEST}, "stride beyond the image"),
    ({"stride": LARGEST, "padding": 1}, "stride beyond the image, and some padding"),
    ({"padding": LARGEST, "dilation": LARGEST}, "dilation as far as the padding"),
    ({"stride": 100_000_000, "padding": 100_000_000}, "stride as far as the padding"),
]


@pytest.mark.parametrize(("form", "groups"), [("channels", 1), ("planes", 1), ("planes", 3), ("depthwise", 3)])
@pytest.mark.parametrize("parameters", [parameters for parameters, _ in FAR], ids=[name for _, name in FAR])
def test_parameters_that_reach_far_cost_no_memory(
    parameters: dict[str, Any], groups: int, form: str, monkeypatch: Any
) -> None:
    # Neither the images nor the results have more than 200 pixels.
    asked = []

    def few(dtype: np.dtype, size: int) -> np.ndarray:
        asked.append(size)
        if size > 1_000_000:
            raise MemoryError(f"{size} elements of scratch memory")
        return np.full(size, np.nan, dtype)

    monkeypatch.setattr("numbaconv.execution.scratch", few)
    assert_as_reference(one_case((2, 3, 5, 5), (3, 3 // groups, 3, 3), groups=groups, **parameters), form)
    assert asked


@examples(80)
@given(cases(FEW // 2, far=40), st.data())
def test_conv_transpose2d_with_any_output_padding(case: Case, data: st.DataObject) -> None:
    # More than the convolution back would leave over, where the dilation is larger than the stride.
    g = case.geometry
    largest = max(g.SH, g.DH) - 1, max(g.SW, g.DW) - 1
    extra = [data.draw(st.integers(0, limit)) for limit in largest]
    smallest = [
        (g.OH - 1) * g.SH - g.PT - g.PB + g.DH * (g.KH - 1) + 1,
        (g.OW - 1) * g.SW - g.PL - g.PR + g.DW * (g.KW - 1) + 1,
    ]
    for axis in range(2):
        if smallest[axis] + extra[axis] < 1:
            extra[axis] = largest[axis]
    if any(smallest[axis] + extra[axis] < 1 for axis in range(2)):
        return
    _, w, _, c, z = case.arrays()
    parameters = {**case.transposed_parameters, "output_padding": tuple(extra)}
    for bias in (None, c):
        got = numbaconv.conv_transpose2d(z, w, bias, **parameters)
        np.testing.assert_array_equal(got, reference.conv_transpose2d(z, w, bias, **parameters), err_msg=str(case))


@each_form
def test_a_plan_is_used_again_for_other_data(form: str) -> None:
    # Nothing of the first call may be left in scratch memory that the second one relies on.
    wide, narrow = one_case((2, 9, 12, 29), (35, 9, 3, 3), padding=1), one_case((1, 3, 5, 5), (2, 3, 3, 3), padding=1)
    if form == "plain":  # whose loops take minutes as plain Python
        wide = one_case((2, 3, 6, 9), (5, 3, 3, 3), padding=1)
    if form == "depthwise":
        wide = one_case((2, 35, 12, 29), (35, 1, 3, 3), padding=1, groups=35)
        narrow = one_case((1, 3, 5, 5), (3, 1, 3, 3), padding=1, groups=3)
    with only(form):
        for seed, case in enumerate((wide, narrow, wide, narrow)):
            arrays = case.arrays(seed)
            assert_equal(run(numbaconv, case, arrays), expected(case, arrays), case)


@pytest.fixture
def forced(form: str) -> Iterator[None]:
    """The whole test in one form of plan."""
    with only(form):
        yield


@each_general
@pytest.mark.usefixtures("forced")
def test_not_a_number_reaches_only_what_reads_it() -> None:
    # A lane or a tile row that does not exist may compute anything, but must not reach a result.
    case = one_case((1, 3, 6, 17), (5, 3, 3, 3))
    arrays = case.arrays()
    arrays.x[0, 1, 0, 16] = np.nan  # seen by the last output pixel of the first row alone
    y = numbaconv.conv2d(arrays.x, arrays.w)
    assert np.isnan(y[0, :, 0, 14]).all()
    y[0, :, 0, 14] = 0
    assert np.isfinite(y).all()
    arrays.z[0, 2, 3, 14] = np.inf
    dx = numbaconv.conv2d_input(case.geometry.input_shape, arrays.w, arrays.z)
    assert np.isfinite(dx[..., :3, :]).all()
    assert np.isfinite(dx[..., :14]).all()
    assert not np.isfinite(dx[..., 3:, 14:]).all()
    dw = numbaconv.conv2d_weight(np.ones_like(arrays.x), case.geometry.weight_shape, arrays.z)
    assert np.isinf(dw[2]).all()
    assert np.isfinite(np.delete(dw, 2, axis=0)).all()


@each_general
@pytest.mark.usefixtures("forced")
def test_not_a_number_in_the_input_reaches_only_weights_that_met_it() -> None:
    case = one_case((1, 3, 6, 17), (5, 3, 3, 3))
    arrays = case.arrays()
    arrays.x[0, 1, 0, 16] = np.nan  # met by the last tap of the first row alone
    dw = numbaconv.conv2d_weight(arrays.x, case.geometry.weight_shape, arrays.z)
    assert np.isnan(dw[:, 1, 0, 2]).all()
    dw[:, 1, 0, 2] = 0
    assert np.isfinite(dw).all()


@pytest.mark.parametrize("form", ["depthwise"])
@pytest.mark.usefixtures("forced")
def test_not_a_number_stays_in_its_channel() -> None:
    case = one_case((1, 5, 6, 17), (5, 1, 3, 3), groups=5)
    arrays = case.arrays()
    arrays.x[0, 1, 0, 16] = np.nan
    y = numbaconv.conv2d(arrays.x, arrays.w, groups=5)
    assert np.argwhere(np.isnan(y)).tolist() == [[0, 1, 0, 14]]
    dw = numbaconv.conv2d_weight(arrays.x, case.geometry.weight_shape, arrays.z, groups=5)
    assert np.argwhere(np.isnan(dw)).tolist() == [[1, 0, 0, 2]]
    arrays.z[0, 2, 3, 14] = np.nan
    dx = numbaconv.conv2d_input(case.geometry.input_shape, arrays.w, arrays.z, groups=5)
    wanted = np.zeros(dx.shape, bool)
    wanted[0, 2, 3:, 14:] = True
    np.testing.assert_array_equal(np.isnan(dx), wanted)


# --- scratch memory ---------------------------------------------------------------------------------------------------


@each_forced
def test_scratch_memory_of_exactly_the_size_asked_for_and_full_of_nan(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Interpreted kernels check every index; compiled ones would make NaN of what they read before it is written.
    asked = []

    def exactly(dtype: np.dtype, size: int) -> np.ndarray:
        asked.append(size)
        return np.full(size, np.nan, dtype)

    monkeypatch.setattr("numbaconv.execution.scratch", exactly)
    for case in random_cases(12, 20 if INTERPRETED else 150, FEW, form=form):
        assert_as_expected(case, form)
    assert asked


def test_new_scratch_memory_holds_nothing_denormal(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tiles that hang over what has been packed compute with what lies there, and drop it.
    monkeypatch.setattr("numbaconv.memory._kept", threading.local())
    monkeypatch.setattr("numbaconv.arrays.new", lambda shape, dtype, least: np.full(shape, 1e-40, dtype))
    assert not scratch(np.dtype(np.float32), 100).any()


# --- arrays -----------------------------------------------------------------------------------------------------------


def functions(case: Case, a: Any) -> list[tuple[str, Any]]:
    """Every pass that takes ``out``, as a function of its other keyword arguments."""
    g, how = case.geometry, case.parameters
    return [
        ("y", lambda **more: numbaconv.conv2d(a.x, a.w, a.b, **how, **more)),
        ("plain", lambda **more: numbaconv.conv2d(a.x, a.w, **how, **more)),
        ("dx", lambda **more: numbaconv.conv2d_input(g.input_shape, a.w, a.z, **how, **more)),
        ("dw", lambda **more: numbaconv.conv2d_weight(a.x, g.weight_shape, a.z, **how, **more)),
        ("transposed", lambda **more: numbaconv.conv_transpose2d(a.z, a.w, a.c, **case.transposed_parameters, **more)),
    ]


@pytest.mark.parametrize("form", ["cheapest", "depthwise"])
@examples(100)
@given(data=st.data(), orders=st.tuples(*[st.sampled_from(sorted(ORDERS))] * 5))
def test_any_memory_order_is_read_and_none_is_written(form: str, data: st.DataObject, orders: tuple[str, ...]) -> None:
    case = data.draw(cases(FEW, form=form))
    plain = case.arrays()
    arrays = type(plain)(*(ORDERS[order](array) for order, array in zip(orders, plain, strict=True)))
    before = [whole(array).tobytes() for array in arrays]
    with only(form):
        assert_equal(run(numbaconv, case, arrays), expected(case, plain), case)
    assert [whole(array).tobytes() for array in arrays] == before


def whole(array: np.ndarray) -> np.ndarray:
    """All memory that an array is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_every_memory_order(order: str) -> None:
    for layout in ("NCHW", "NHWC"):
        for case in random_cases(7, 3 if INTERPRETED else 12, FEW):
            case = relaid(case, layout)
            plain = case.arrays()
            arrays = type(plain)(*map(ORDERS[order], plain))
            assert_equal(run(numbaconv, case, arrays), expected(case, plain), case)


WRITABLE = sorted(set(ORDERS) - {"read-only", "byte-swapped"})


@examples(150)
@given(cases(FEW), st.sampled_from(WRITABLE))
def test_out_is_fully_overwritten_and_nothing_beside_it(case: Case, order: str) -> None:
    arrays = case.arrays()
    wanted = expected(case, arrays)
    for name, function in functions(case, arrays):
        result = getattr(wanted, name)
        out = ORDERS[order](np.full_like(result, np.nan))
        memory = whole(out)
        here = np.zeros(memory.shape, bool)  # a map of what belongs to out, made like out itself
        if order == "part of more":
            here[(slice(1, -1),) * 4] = True
        elif order == "every second":
            here[..., ::2] = True
        else:
            here[...] = True
        kept = memory[~here].copy() if order != "unaligned" else memory[:1].copy()
        assert function(out=out) is out
        np.testing.assert_array_equal(out, result, err_msg=f"{name} of {case}")
        np.testing.assert_array_equal(memory[~here] if order != "unaligned" else memory[:1], kept)


def test_one_array_may_be_several_arguments() -> None:
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    np.testing.assert_array_equal(numbaconv.conv2d(x, x), np.full((1, 1, 1, 1), np.vdot(x, x)))
    case = one_case(x.shape, x.shape, float, padding=1)
    arrays = case.arrays()._replace(x=x, w=x, z=x)
    assert_equal(run(numbaconv, case, arrays), run(reference, case, arrays), case)


def test_strides_of_zero_are_read() -> None:
    case = one_case((2, 3, 4, 5), (6, 3, 2, 2))
    plain = case.arrays()
    arrays = plain._replace(
        x=np.broadcast_to(plain.x[:1, :1], plain.x.shape),
        w=np.broadcast_to(plain.w[:, :, :1, :1], plain.w.shape),
        z=np.broadcast_to(np.float32(2), plain.z.shape),
    )
    assert_equal(run(numbaconv, case, arrays), expected(case, arrays), case)


# --- finite differences -----------------------------------------------------------------------------------------------

DIFFERENCES = [
    ((2, 3, 5, 9), (4, 3, 3, 2), {"stride": 2, "padding": 1}),
    ((1, 4, 4, 8), (6, 2, 2, 3), {"stride": (1, 3), "padding": ((0, 1), (2, 0)), "groups": 2}),
    ((1, 5, 6, 6), (5, 1, 3, 3), {"dilation": 2, "padding": "same", "groups": 5}),
    ((1, 3, 6, 7), (6, 1, 2, 2), {"stride": 3, "groups": 3}),
    ((1, LANES + 1, 1, 8), (2, LANES + 1, 1, 1), {}),
]


@pytest.mark.parametrize(("x", "w", "parameters"), DIFFERENCES)
def test_gradients_are_finite_differences_with_a_step_of_one(x: Any, w: Any, parameters: dict[str, Any]) -> None:
    # The convolution is linear in each argument: the difference is the derivative, without any truncation error.
    case = one_case(x, w, np.float64, **parameters)
    arrays = case.arrays()
    results = run(numbaconv, case, arrays)
    for argument, gradient in zip(arrays[:3], (results.dx, results.dw, results.db), strict=True):
        for index in list(np.ndindex(argument.shape))[:: 7 if INTERPRETED else 1]:
            argument[index] += 1
            change = numbaconv.conv2d(arrays.x, arrays.w, arrays.b, **case.parameters) - results.y
            argument[index] -= 1
            assert gradient[index] == np.vdot(arrays.z, change), f"{index} of {case}"


# --- against PyTorch --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # its threads would spin beside ours
    yield torch
    torch.set_num_threads(before)


def by_torch(torch: Any, case: Case, arrays: Any) -> Results:
    """All passes by PyTorch and its autograd in float64."""
    g = case.geometry
    to_nchw = (0, 1, 2, 3) if g.layout == "NCHW" else (0, 3, 1, 2)
    x, w, b, c, z = (
        torch.tensor(np.ascontiguousarray(a.transpose(to_nchw) if a.ndim == 4 else a, np.float64)) for a in arrays
    )
    for tensor in (x, w, b):
        tensor.requires_grad_()
    padded = torch.nn.functional.pad(x, (g.PL, g.PR, g.PT, g.PB))
    rest = {"stride": (g.SH, g.SW), "dilation": (g.DH, g.DW), "groups": g.G}
    plain = torch.nn.functional.conv2d(padded, w, **rest)
    y = torch.nn.functional.conv2d(padded, w, b, **rest)
    y.backward(z)

    def back(tensor: Any) -> np.ndarray:
        array = tensor.detach().numpy().astype(case.dtype)
        return array if g.layout == "NCHW" or array.ndim == 1 else array.transpose(0, 2, 3, 1)

    transposed = x.grad + c.reshape(1, -1, 1, 1)
    return Results(*map(back, (y, plain, x.grad, w.grad, b.grad, transposed)))


@pytest.mark.parametrize("seed", range(100, 104))
def test_against_torch(torch: Any, seed: int) -> None:
    for case in random_cases(seed, 10 if INTERPRETED else 100, FEW if INTERPRETED else 400_000, far=90):
        arrays = case.arrays(seed)
        assert_equal(run(numbaconv, case, arrays), by_torch(torch, case, arrays), case)


def test_conv_transpose2d_against_torch(torch: Any) -> None:
    for number, case in enumerate(random_cases(200, 20 if INTERPRETED else 150, FEW, [np.float64], far=40)):
        g, rng = case.geometry, np.random.default_rng(number)
        if case.geometry.layout == "NHWC":
            continue
        z, w, c = (rng.integers(-4, 5, shape).astype(float) for shape in (g.output_shape, g.weight_shape, (g.IC,)))
        extra = tuple(int(rng.integers(max(pair))) for pair in ((g.SH, g.DH), (g.SW, g.DW)))
        parameters = {"stride": (g.SH, g.SW), "output_padding": extra, "groups": g.G, "dilation": (g.DH, g.DW)}
        # torch's padding is symmetric, and may not cut off everything
        most = [axis // 2 for axis in (g.DH * (g.KH - 1), g.DW * (g.KW - 1))]
        parameters["padding"] = tuple(int(rng.integers(limit + 1)) for limit in most)
        wanted = torch.nn.functional.conv_transpose2d(*map(torch.tensor, (z, w, c)), **parameters)
        np.testing.assert_array_equal(numbaconv.conv_transpose2d(z, w, c, **parameters), wanted.numpy(), str(case))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_as_small_as_torchs(torch: Any, dtype: Any) -> None:
    # Equality is for whole numbers; for others no error may be larger than a long sum's own.
    case = one_case((2, 40, 14, 15), (33, 40, 3, 3), dtype, padding=1)
    rng = np.random.default_rng(0)
    arrays = type(case.arrays())(*(rng.standard_normal(a.shape).astype(dtype) for a in case.arrays()))
    got, wanted = run(numbaconv, case, arrays), by_torch(torch, Case(case.geometry, np.dtype(float)), arrays)
    for a, b in zip(got, wanted, strict=True):
        assert np.abs(a - b).max() < 30 * np.finfo(dtype).eps * np.abs(b).max()
