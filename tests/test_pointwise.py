"""Convolutions whose rows do not matter.

Of those of 1 x 1, pixels of all images are one run, and factors of the weight gradient may change places; where taps
lie in one column, rows are one.
"""

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import Any

import numba
import numpy as np
import pytest
from cases import Case, assert_equal, everything_in_parallel, expected, only, run
from test_plan import pointwise, upright

import numbaconv
from numbaconv import calls, reference
from numbaconv.geometry import Conv2dGeometry

FORMS = ("channels", "planes", "images", "cheapest")


def in_memory(array: np.ndarray, order: str) -> np.ndarray:
    """The same images, which lie in memory with their axes in another order."""
    if order == "as they are" or array.ndim != 4:
        return array
    axes = (0, 2, 3, 1) if order == "channels last" else (0, 3, 1, 2)
    return np.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes))


def use_threads(threads: int) -> None:
    numbaconv.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


@pytest.mark.compiled
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("some", [pointwise, upright])
@pytest.mark.parametrize("form", FORMS)
def test_all_passes_of_any_sizes(form: str, some: Any, threads: int) -> None:
    use_threads(threads)
    choose = random.Random(threads)
    with only(form), everything_in_parallel() if threads > 1 else nullcontext():
        for number, case in enumerate(some(20 + threads, 80)):
            arrays = case.arrays(number)
            wanted = expected(case, arrays)
            orders = [choose.choice(["as they are", "channels last", "channels first"]) for _ in arrays]
            mixed = type(arrays)(*map(in_memory, arrays, orders))
            for each in (arrays, arrays, mixed):  # the second time, calls are remembered
                assert_equal(run(numbaconv, case, each), wanted, case)


@pytest.mark.compiled
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_rows_of_two_lengths_stay_apart(layout: Any) -> None:
    # Of a transposed convolution whose output is wider than its input, though taps lie in one column.
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((9, 3, 9, 7), (3, 5, 3, 1)))
    x, w = (array if layout == "NCHW" else np.ascontiguousarray(array.transpose(0, 2, 3, 1)) for array in (x, w))
    how = {"stride": 1, "dilation": (1, 2), "output_padding": (0, 1), "layout": layout}
    np.testing.assert_array_equal(numbaconv.conv_transpose2d(x, w, **how), reference.conv_transpose2d(x, w, **how))


@pytest.mark.compiled
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "sizes", [(3, 32, 8, 64), (8, 64, 7, 160), (5, 192, 14, 64), (4, 16, 7, 32), (3, 130, 7, 33), (1, 65, 28, 64)]
)
def test_all_passes_of_layers(sizes: tuple[int, ...], layout: Any, dtype: Any, threads: int) -> None:
    use_threads(threads)
    N, IC, H, OC = sizes
    x, w = ((N, H, H + 1, IC), (OC, 1, 1, IC)) if layout == "NHWC" else ((N, IC, H, H + 1), (OC, IC, 1, 1))
    for stride in (1, 2):
        case = Case(Conv2dGeometry.forward(x, w, stride, layout=layout), np.dtype(dtype))
        arrays = case.arrays()
        wanted = expected(case, arrays)
        for _ in range(2):
            assert_equal(run(numbaconv, case, arrays), wanted, case)


@pytest.mark.compiled
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [(64, 16), (16, 64), (33, 17), (16, 16)])
def test_weight_gradients_are_written_where_they_are_told(channels: tuple[int, int], layout: Any) -> None:
    IC, OC = channels
    rng = np.random.default_rng(0)
    shapes = ((3, 6, 5, IC), (OC, 1, 1, IC), (3, 6, 5, OC))
    if layout == "NCHW":
        shapes = tuple((n, c, h, w) for n, h, w, c in shapes)  # type: ignore[assignment]
    x, w, z = (rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes)
    wanted = np.einsum("nhwi,nhwo->oi" if layout == "NHWC" else "nihw,nohw->oi", x, z).reshape(w.shape)
    calls.forget()
    for number in range(3):
        out = np.full_like(w, np.nan)
        assert numbaconv.conv2d_weight(x, w.shape, z, layout=layout, out=out) is out
        assert np.array_equal(out, wanted)
        turned = np.full_like(w, np.nan, order="F")
        assert numbaconv.conv2d_weight(x, w.shape, z, layout=layout, out=turned) is turned
        assert np.array_equal(turned, wanted)
        assert np.array_equal(numbaconv.conv2d_weight(x + number, w.shape, z, layout=layout) - wanted, np.broadcast_to(
            number * z.sum((0, 1, 2) if layout == "NHWC" else (0, 2, 3))[:, None, None, None], w.shape
        ))  # fmt: skip
        found = numbaconv.conv2d_backward(z, x, w, layout=layout)
        assert np.array_equal(found[1], wanted)
    if IC > OC and layout == "NHWC":
        assert any(call.plan.swapped for call in calls._calls.values())


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["x", "z"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_reach_only_weights_that_met_them(value: float, name: str) -> None:
    rng = np.random.default_rng(1)
    x, z = rng.standard_normal((3, 6, 5, 40), np.float32), rng.standard_normal((3, 6, 5, 16), np.float32)
    (x if name == "x" else z)[1, 2, 3, 4] = value
    for _ in range(2):
        dw = numbaconv.conv2d_weight(x, (16, 1, 1, 40), z, layout="NHWC")
        met = np.zeros((16, 40), bool)
        met[(slice(None), 4) if name == "x" else 4] = True
        assert np.array_equal(~np.isfinite(dw[:, 0, 0]), met)


@pytest.mark.compiled
def test_a_threads_number_changes_no_bit() -> None:
    rng, found = np.random.default_rng(2), []
    x, w, z = (rng.standard_normal(s, np.float32) for s in ((5, 9, 14, 96), (32, 1, 1, 96), (5, 9, 14, 32)))
    for threads in (1, 2):
        use_threads(threads)
        results = [numbaconv.conv2d(x, w, layout="NHWC"), *numbaconv.conv2d_backward(z, x, w, layout="NHWC")]
        found.append([array.tobytes() for array in results])
    assert found[0] == found[1]


@pytest.mark.compiled
def test_an_empty_batch() -> None:
    x, w, z = (
        np.zeros((0, 6, 5, 40), np.float32),
        np.ones((16, 1, 1, 40), np.float32),
        np.zeros((0, 6, 5, 16), np.float32),
    )
    for _ in range(2):
        assert numbaconv.conv2d(x, w, layout="NHWC").shape == z.shape
        assert not numbaconv.conv2d_weight(x, w.shape, z, layout="NHWC").any()
