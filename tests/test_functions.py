"""The public functions against numbers worked by hand, what linearity demands, and PyTorch if it is there.

Every test runs twice: for the reference and for the compiled functions, which take the same arguments and refuse the
same ones with the same words.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numbaconv
from numbaconv import reference

NAMES = ["conv2d", "conv2d_backward", "conv2d_input", "conv2d_output_size", "conv2d_weight", "conv_transpose2d"]
# Set anew for each face; named here for those who read.
conv2d: Any = reference.conv2d
conv2d_backward: Any = reference.conv2d_backward
conv2d_input: Any = reference.conv2d_input
conv2d_output_size: Any = reference.conv2d_output_size
conv2d_weight: Any = reference.conv2d_weight
conv_transpose2d: Any = reference.conv_transpose2d


@pytest.fixture(scope="module", autouse=True, params=[reference, numbaconv], ids=["reference", "compiled"])
def face(request: pytest.FixtureRequest) -> ModuleType:
    """The module whose functions the names above stand for."""
    for name in NAMES:
        setattr(sys.modules[__name__], name, getattr(request.param, name))
    return request.param


# One image and one kernel for all that is worked by hand:
#     1 2 3
#     4 5 6    and    1 2
#     7 8 9           3 4
X = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
W = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
# Powers of ten show in the digits of a sum which of its terms is which.
DZ = np.array([[[[1.0, 10.0], [100.0, 1000.0]]]])


def image(rows: Any) -> np.ndarray:
    """One image of one channel."""
    return np.array(rows, dtype=float)[np.newaxis, np.newaxis]


def channels(*values: float) -> np.ndarray:
    """One image of one pixel."""
    return np.array(values, dtype=float).reshape(1, -1, 1, 1)


def nhwc(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


def integers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Small whole numbers as floats: every sum of their products is exact."""
    return rng.integers(-4, 5, shape).astype(float)


# --- worked by hand ---------------------------------------------------------------------------------------------------

FORWARD = [
    # 1*1 + 2*2 + 4*3 + 5*4 = 37, 2*1 + 3*2 + 5*3 + 6*4 = 47; 4*1 + 5*2 + 7*3 + 8*4 = 67, 5*1 + 6*2 + 8*3 + 9*4 = 77
    ({}, [[37, 47], [67, 77]]),
    # only the first column, or the first row, of those
    ({"stride": (1, 2)}, [[37], [67]]),
    ({"stride": (2, 1)}, [[37, 47]]),
    ({"padding": "valid"}, [[37, 47], [67, 77]]),
    # windows start at -1 and 1: 1*4; 2*3 + 3*4; 4*2 + 7*4; and 77 as above
    ({"stride": 2, "padding": 1}, [[4, 18], [36, 77]]),
    # rows are padded only: (3 + 2 - 2) // 2 + 1 = 2 windows down, 1 across: 1*3 + 2*4, then 67
    ({"stride": 2, "padding": (1, 0)}, [[11], [67]]),
    # one row of zeros at the top, one column at the right:
    # 1*3 + 2*4, 2*3 + 3*4, 3*3; 37, 47, 3*1 + 6*3; 67, 77, 6*1 + 9*3
    ({"padding": ((1, 0), (0, 1))}, [[11, 18, 9], [37, 47, 21], [67, 77, 33]]),
    # one zero is missing, and it is put at the end: 3*1 + 6*3; 6*1 + 9*3; 7*1 + 8*2, 8*1 + 9*2, 9*1
    ({"padding": "same"}, [[37, 47, 21], [67, 77, 33], [23, 26, 9]]),
    # ceil(3 / 2) = 2 windows at 0 and 2: the corners of the one before
    ({"padding": "same", "stride": 2}, [[37, 21], [23, 9]]),
    # the four corners: 1*1 + 3*2 + 7*3 + 9*4
    ({"dilation": 2}, [[64]]),
    # 1*1 + 3*2 + 4*3 + 6*4, then 4*1 + 6*2 + 7*3 + 9*4
    ({"dilation": (1, 2)}, [[43], [73]]),
]


@pytest.mark.parametrize("algorithm", ["auto", "direct"])
@pytest.mark.parametrize(("parameters", "expected"), FORWARD)
def test_conv2d_by_hand(parameters: dict[str, Any], expected: list[list[float]], algorithm: Any) -> None:
    np.testing.assert_array_equal(conv2d(X, W, algorithm=algorithm, **parameters), image(expected))


def test_conv2d_sums_over_channels_and_keeps_images_apart() -> None:
    input = np.array([1.0, 2.0, 3.0, 4.0]).reshape(2, 2, 1, 1)
    weight = np.array([1.0, 10.0, 100.0, 1000.0]).reshape(2, 2, 1, 1)
    # image 0: 1*1 + 2*10 and 1*100 + 2*1000; image 1: 3*1 + 4*10 and 3*100 + 4*1000; then 5 and 7 are added
    output = conv2d(input, weight, np.array([5.0, 7.0]))
    assert output.ravel().tolist() == [26, 2107, 48, 4307]


def test_conv2d_groups_by_hand() -> None:
    input = np.arange(1.0, 9.0).reshape(1, 4, 1, 2)  # channels 1 2 | 3 4 | 5 6 | 7 8
    weight = np.array([1.0, 0, 0, 1, 1, 1, 1, -1]).reshape(2, 2, 1, 2)
    # channels 0 and 1 make the first output, 1*1 + 4*1; 2 and 3 the second, 5 + 6 + 7 - 8
    assert conv2d(input, weight, groups=2).ravel().tolist() == [5, 10]
    grad_output = channels(2, 3)
    # every pixel gets its group's gradient times its own weight, every weight the gradient times its own pixel
    grad_input = conv2d_input(input.shape, weight, grad_output, groups=2)
    assert grad_input.ravel().tolist() == [2, 0, 0, 2, 3, 3, 3, -3]
    grad_weight = conv2d_weight(input, weight.shape, grad_output, groups=2)
    assert grad_weight.ravel().tolist() == [2, 4, 6, 8, 15, 18, 21, 24]


def test_conv2d_depthwise_by_hand() -> None:
    input = np.arange(1.0, 5.0).reshape(1, 2, 1, 2)  # channels 1 2 | 3 4, two kernels each
    weight = np.array([1.0, 1, 1, -1, 2, 0, 0, 2]).reshape(4, 1, 1, 2)
    # 1 + 2, 1 - 2, 3*2, 4*2
    assert conv2d(input, weight, groups=2).ravel().tolist() == [3, -1, 6, 8]
    # channel 0: 1*(1, 1) + 10*(1, -1); channel 1: 100*(2, 0) + 1000*(0, 2)
    grad_input = conv2d_input(input.shape, weight, channels(1, 10, 100, 1000), groups=2)
    assert grad_input.ravel().tolist() == [11, -9, 200, 2000]


def test_nhwc_by_hand() -> None:
    input = np.array([1.0, 2, 3, 4]).reshape(1, 1, 2, 2)  # pixel 0 has the channels 1 2, pixel 1 has 3 4
    weight = np.array([1.0, 10, 100, 1000]).reshape(1, 1, 2, 2)
    # 1*1 + 2*10 + 3*100 + 4*1000, in the order of memory
    assert conv2d(input, weight, layout="NHWC").ravel().tolist() == [4321]
    # every pixel gets 2 times its own weight, every weight 2 times its own pixel
    grad_output = np.full((1, 1, 1, 1), 2.0)
    assert conv2d_input((1, 1, 2, 2), weight, grad_output, layout="NHWC").ravel().tolist() == [2, 20, 200, 2000]
    assert conv2d_weight(input, (1, 1, 2, 2), grad_output, layout="NHWC").ravel().tolist() == [2, 4, 6, 8]


INPUT_GRADIENT = [
    # corners see one window, edges two, the middle all four: 1*4 + 10*3 + 100*2 + 1000*1 = 1234
    ({}, DZ, [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]),
    # windows at -1 and 1 do not overlap: 1*4 | 10*(3, 4) | 100*2, 100*4 | 1000*(1, 2, 3, 4)
    ({"stride": 2, "padding": 1}, DZ, [[4, 30, 40], [200, 1000, 2000], [400, 3000, 4000]]),
    # one window at the start; the last row and column were never reached
    ({"stride": 2}, image([[10]]), [[10, 20, 0], [30, 40, 0], [0, 0, 0]]),
    ({"dilation": 2}, image([[10]]), [[10, 0, 20], [0, 0, 0], [30, 0, 40]]),
    # windows at 0 and 2, the second of which hangs over the end: 1*W | 10*(1, 3) | 100*(1, 2) | 1000*1
    ({"stride": 2, "padding": "same"}, DZ, [[1, 2, 10], [3, 4, 30], [100, 200, 1000]]),
    # windows down at -1 and 1: 1*(3, 4) | 10*W
    ({"stride": (2, 3), "padding": ((1, 0), (0, 0))}, image([[1], [10]]), [[3, 4, 0], [10, 20, 0], [30, 40, 0]]),
]


@pytest.mark.parametrize(("parameters", "grad_output", "expected"), INPUT_GRADIENT)
def test_conv2d_input_by_hand(parameters: dict[str, Any], grad_output: np.ndarray, expected: Any) -> None:
    np.testing.assert_array_equal(conv2d_input((1, 1, 3, 3), W, grad_output, **parameters), image(expected))


WEIGHT_GRADIENT = [
    # 1*1 + 2*10 + 4*100 + 5*1000, and the same of the windows of X one to the right, one down, and both
    ({}, DZ, [[5421, 6532], [8754, 9865]]),
    # windows at -1 and 1: 5*1000; 4*100 + 6*1000; 2*10 + 8*1000; 1*1 + 3*10 + 7*100 + 9*1000
    ({"stride": 2, "padding": 1}, DZ, [[5000, 6400], [8020, 9731]]),
    ({"stride": 2}, image([[10]]), [[10, 20], [40, 50]]),
    ({"dilation": 2}, image([[10]]), [[10, 30], [70, 90]]),
    # windows at 0 and 2, as far as they are inside: 1*1 + 3*10 + 7*100 + 9*1000; 2*1 + 8*100; 4*1 + 6*10; 5*1
    ({"stride": 2, "padding": "same"}, DZ, [[9731, 802], [64, 5]]),
    # windows down at -1 and 1: 4*10, 5*10; 1*1 + 7*10, 2*1 + 8*10
    ({"stride": (2, 3), "padding": ((1, 0), (0, 0))}, image([[1], [10]]), [[40, 50], [71, 82]]),
]


@pytest.mark.parametrize(("parameters", "grad_output", "expected"), WEIGHT_GRADIENT)
def test_conv2d_weight_by_hand(parameters: dict[str, Any], grad_output: np.ndarray, expected: Any) -> None:
    np.testing.assert_array_equal(conv2d_weight(X, (1, 1, 2, 2), grad_output, **parameters), image(expected))


def test_conv2d_backward_is_all_three() -> None:
    grad_input, grad_weight, grad_bias = conv2d_backward(DZ, X, W, 2, 1)
    np.testing.assert_array_equal(grad_input, image([[4, 30, 40], [200, 1000, 2000], [400, 3000, 4000]]))
    np.testing.assert_array_equal(grad_weight, image([[5000, 6400], [8020, 9731]]))
    assert grad_bias is not None
    assert grad_bias.tolist() == [1111]  # 1 + 10 + 100 + 1000


@pytest.mark.parametrize("mask", [(i, w, b) for i in (True, False) for w in (True, False) for b in (True, False)])
def test_conv2d_backward_computes_what_the_mask_says(mask: tuple[bool, bool, bool]) -> None:
    gradients = conv2d_backward(DZ, X, W, output_mask=mask)
    assert [gradient is not None for gradient in gradients] == list(mask)
    assert [gradient is not None for gradient in conv2d_backward(DZ, X, W, output_mask=np.array(mask))] == list(mask)


def test_bias_gradient_sums_over_images_and_pixels_of_a_channel() -> None:
    grad_output = np.arange(8.0).reshape(2, 2, 1, 2)  # image 0: 0 1 | 2 3, image 1: 4 5 | 6 7
    input, weight = np.ones((2, 1, 1, 2)), np.ones((2, 1, 1, 1))
    # 0 + 1 + 4 + 5 and 2 + 3 + 6 + 7
    mask = (False, False, True)
    assert conv2d_backward(grad_output, input, weight, output_mask=mask)[2].tolist() == [10, 18]
    grad_output, input, weight = nhwc(grad_output), nhwc(input), nhwc(weight)
    assert conv2d_backward(grad_output, input, weight, output_mask=mask, layout="NHWC")[2].tolist() == [10, 18]


ROW = image([[1, 10]])
KERNEL = image([[1, 2, 3]])
TRANSPOSED = [
    # 1*(1, 2, 3) and, one to the right, 10*(1, 2, 3)
    (ROW, KERNEL, {}, [[1, 12, 23, 30]]),
    # two to the right
    (ROW, KERNEL, {"stride": 2}, [[1, 2, 13, 20, 30]]),
    (ROW, KERNEL, {"stride": (1, 3)}, [[1, 2, 3, 10, 20, 30]]),
    # cut off at both ends, or at one
    (ROW, KERNEL, {"stride": 2, "padding": (0, 1)}, [[2, 13, 20]]),
    (ROW, KERNEL, {"stride": 2, "padding": ((0, 0), (0, 2))}, [[1, 2, 13]]),
    # a column that no kernel reaches, at the right; then a row too, at the bottom
    (ROW, KERNEL, {"stride": 2, "output_padding": (0, 1)}, [[1, 2, 13, 20, 30, 0]]),
    (ROW, KERNEL, {"stride": 2, "output_padding": 1}, [[1, 2, 13, 20, 30, 0], [0, 0, 0, 0, 0, 0]]),
    # output_padding brings back what padding had cut off
    (ROW, KERNEL, {"stride": 2, "padding": (0, 1), "output_padding": (0, 1)}, [[2, 13, 20, 30]]),
    # 1*(1, 0, 2, 0, 3) and, one to the right, 10*(1, 0, 2, 0, 3)
    (ROW, KERNEL, {"dilation": 2}, [[1, 10, 2, 20, 3, 30]]),
    # output_padding may reach the stride, as long as it stays below the dilation
    (image([[5]]), image([[1, 2]]), {"dilation": 3, "output_padding": (0, 2)}, [[5, 0, 0, 10, 0, 0]]),
    # 2*1 + 3*100 and 2*10 + 3*1000, the weight's first index being the input's channel
    (channels(2, 3), np.array([1.0, 10, 100, 1000]).reshape(2, 2, 1, 1), {}, [302, 3020]),
    # each channel makes two of its own: 2*(1, 10) and 3*(100, 1000)
    (channels(2, 3), np.array([1.0, 10, 100, 1000]).reshape(2, 2, 1, 1), {"groups": 2}, [2, 20, 300, 3000]),
]


@pytest.mark.parametrize(("input", "weight", "parameters", "expected"), TRANSPOSED)
def test_conv_transpose2d_by_hand(input: np.ndarray, weight: np.ndarray, parameters: Any, expected: Any) -> None:
    expected = channels(*expected) if np.ndim(expected) == 1 else image(expected)
    np.testing.assert_array_equal(conv_transpose2d(input, weight, **parameters), expected)
    output = conv_transpose2d(nhwc(input), nhwc(weight), layout="NHWC", **parameters)
    np.testing.assert_array_equal(output, nhwc(expected))
    bias = np.arange(5.0, 5.0 + expected.shape[1])
    output = conv_transpose2d(input, weight, bias, **parameters)
    np.testing.assert_array_equal(output, expected + bias[:, np.newaxis, np.newaxis])


def test_positional_parameters_are_torchs() -> None:
    bias = np.array([1.0])
    np.testing.assert_array_equal(conv2d(X, W, bias, 2, 1, 1, 1), image([[5, 19], [37, 78]]))
    # input, weight, bias, stride, padding, output_padding, groups, dilation
    np.testing.assert_array_equal(conv_transpose2d(ROW, KERNEL, bias, 1, 0, 0, 1, 2), image([[2, 11, 3, 21, 4, 31]]))


def test_output_size_by_hand(face: ModuleType) -> None:
    assert conv2d_output_size((28, 30), 3, 2, 1, 2) == (13, 14)  # (28 + 2 - 4 - 1) // 2 + 1, (30 + 2 - 4 - 1) // 2 + 1
    assert "conv2d_output_size" in face.__all__


@pytest.mark.parametrize("name", NAMES)
def test_reference_has_the_signatures_of_the_compiled_functions(name: str) -> None:
    compiled = str(inspect.signature(getattr(numbaconv, name)))
    assert str(inspect.signature(getattr(reference, name))) == compiled.replace(" | PackedWeight", "")


# --- dtypes, memory, empty batches ------------------------------------------------------------------------------------

HALF, SINGLE, DOUBLE = np.float16, np.float32, np.float64


@pytest.mark.parametrize("dtype", [HALF, SINGLE, DOUBLE])
def test_results_keep_the_dtype(dtype: Any) -> None:
    x, w, dz = X.astype(dtype), W.astype(dtype), DZ.astype(dtype)
    bias = np.ones(1, dtype)
    results = [conv2d(x, w, bias), conv_transpose2d(x, w, bias), *conv2d_backward(dz, x, w)]
    assert [result.dtype for result in results] == [dtype] * 5


@pytest.mark.parametrize(("first", "second", "common"), [(HALF, SINGLE, SINGLE), (SINGLE, DOUBLE, DOUBLE)])
def test_mixed_floats_give_the_wider(first: Any, second: Any, common: Any) -> None:
    assert conv2d(X.astype(first), W.astype(second)).dtype == common
    assert conv2d(X.astype(first), W.astype(first), np.ones(1, second)).dtype == common
    assert conv_transpose2d(X.astype(first), W.astype(first), np.ones(1, second)).dtype == common
    # of the two arrays that a gradient is made of
    grad_input, grad_weight, grad_bias = conv2d_backward(DZ.astype(first), X.astype(first), W.astype(second))
    assert (grad_input.dtype, grad_weight.dtype, grad_bias.dtype) == (common, first, first)


def test_half_precision_is_rounded_once() -> None:
    # Above 2048 the next float16 is 2050: adding the ones one by one in float16 would give 2048.
    input, weight = image([[2048, 1, 1]]).astype(HALF), np.ones((1, 1, 1, 3), HALF)
    assert conv2d(input, weight).item() == 2050
    assert conv2d(input[..., :2], weight[..., :2], np.ones(1, HALF)).item() == 2050
    assert conv2d_weight(input, (1, 1, 1, 1), weight).item() == 2050
    assert conv2d_backward(input, input, weight[..., :1])[2].item() == 2050


def test_overflow_is_infinite_and_silent() -> None:
    big = np.full((1, 1, 1, 2), 60000, HALF)
    assert conv2d(big, np.ones((1, 1, 1, 2), HALF)).item() == np.inf
    huge = np.full((1, 1, 1, 1), 1e300)
    assert conv2d(huge, huge).item() == np.inf


def test_reference_skips_padding_rather_than_multiplying_by_it() -> None:
    conv2d = reference.conv2d
    weight = image([[np.inf, 1]])
    assert conv2d(image([[2]]), weight, padding=((0, 0), (1, 0))).item() == 2
    assert np.isnan(conv2d(image([[0, 2]]), weight).item())  # a zero of the image is a number as any other


@pytest.mark.parametrize(
    "view",
    [
        lambda a: np.asfortranarray(a),
        lambda a: a[..., ::-1].copy()[..., ::-1],
        lambda a: np.repeat(a, 2, axis=3)[..., ::2],
        lambda a: a.astype(a.dtype.newbyteorder()),
    ],
    ids=["fortran", "negative", "strided", "byteswapped"],
)
def test_any_memory_layout_is_read_and_none_is_written(view: Any) -> None:
    x, w, dz, b = view(X), view(W), view(DZ), np.array([0.5])
    for array in (x, w, dz, b):
        array.flags.writeable = False
    output = conv2d(x, w, b)
    assert output.dtype.isnative
    np.testing.assert_array_equal(output, conv2d(X, W, b))
    np.testing.assert_array_equal(conv_transpose2d(x, w, b), conv_transpose2d(X, W, b))
    for got, expected in zip(conv2d_backward(dz, x, w), conv2d_backward(DZ, X, W), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_out_is_filled_and_returned() -> None:
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (conv2d, (X, W)),
        (conv2d_input, (X.shape, W, DZ)),
        (conv2d_weight, (X, W.shape, DZ)),
        (conv_transpose2d, (X, W)),
    ]
    for function, arguments in calls:
        expected = function(*arguments)
        out = np.full(expected.shape[:3] + (2 * expected.shape[3],), np.nan)
        view = out[..., ::2]
        assert function(*arguments, out=view) is view
        np.testing.assert_array_equal(view, expected)
        assert np.isnan(out[..., 1::2]).all()


def test_out_in_nhwc() -> None:
    out = np.full((1, 2, 2, 1), np.nan)
    assert conv2d(nhwc(X), nhwc(W), layout="NHWC", out=out) is out
    np.testing.assert_array_equal(out, nhwc(image([[37, 47], [67, 77]])))


def test_an_empty_batch_gives_empty_results_and_zero_gradients() -> None:
    nothing = np.zeros((0, 4, 5, 5), np.float32)
    weight, bias = np.ones((6, 2, 3, 3), np.float32), np.ones(6, np.float32)
    output = conv2d(nothing, weight, bias, groups=2)
    assert output.shape == (0, 6, 3, 3)
    grad_input, grad_weight, grad_bias = conv2d_backward(output, nothing, weight, groups=2)
    assert grad_input.shape == nothing.shape
    np.testing.assert_array_equal(grad_weight, np.zeros_like(weight))
    np.testing.assert_array_equal(grad_bias, np.zeros_like(bias))
    assert conv_transpose2d(output, weight, groups=2).shape == nothing.shape
    out = np.full(weight.shape, np.nan, np.float32)
    assert not conv2d_weight(nothing, weight.shape, output, groups=2, out=out).any()
    out = np.empty(output.shape, np.float32)
    assert conv2d(nothing, weight, bias, groups=2, out=out) is out


# --- what linearity demands -------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """An input, a weight, a gradient of the output, all of whole numbers, and the parameters."""
    G, ICG, OCG, N = (draw(st.integers(1, 2)) for _ in range(4))
    KH, KW, SH, SW = (draw(st.integers(1, 3)) for _ in range(4))
    DH, DW = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    PT, PB, PL, PR = (draw(st.integers(0, 2)) for _ in range(4))
    IH = draw(st.integers(max(1, DH * (KH - 1) + 1 - PT - PB), 7))
    IW = draw(st.integers(max(1, DW * (KW - 1) + 1 - PL - PR), 7))
    stride, padding, dilation = (SH, SW), ((PT, PB), (PL, PR)), (DH, DW)
    parameters = {"stride": stride, "padding": padding, "dilation": dilation, "groups": G}
    size = conv2d_output_size((IH, IW), (KH, KW), stride, padding, dilation)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x, w = integers(rng, (N, G * ICG, IH, IW)), integers(rng, (G * OCG, ICG, KH, KW))
    return x, w, integers(rng, (N, G * OCG, *size)), parameters


some_examples = settings(max_examples=30, deadline=None, derandomize=True)


def transposed_parameters(x: np.ndarray, w: np.ndarray, dz: np.ndarray, parameters: dict[str, Any]) -> dict[str, Any]:
    """Those of the transposed convolution that leads back to the size of ``x``."""
    smallest = []
    for axis in range(2):
        S, D, (before, after) = (parameters[name][axis] for name in ("stride", "dilation", "padding"))
        smallest.append((dz.shape[2 + axis] - 1) * S - before - after + D * (w.shape[2 + axis] - 1) + 1)
    return {**parameters, "output_padding": (x.shape[2] - smallest[0], x.shape[3] - smallest[1])}


@some_examples
@given(convolutions())
def test_the_passes_are_adjoint(case: Any) -> None:
    x, w, dz, parameters = case
    product = np.vdot(dz, conv2d(x, w, **parameters))
    assert product == np.vdot(conv2d_input(x.shape, w, dz, **parameters), x)
    assert product == np.vdot(conv2d_weight(x, w.shape, dz, **parameters), w)
    assert product == np.vdot(conv_transpose2d(dz, w, **transposed_parameters(x, w, dz, parameters)), x)


@some_examples
@given(convolutions())
def test_conv_transpose2d_is_the_input_gradient(case: Any) -> None:
    x, w, dz, parameters = case
    output = conv_transpose2d(dz, w, **transposed_parameters(x, w, dz, parameters))
    np.testing.assert_array_equal(output, conv2d_input(x.shape, w, dz, **parameters))


@some_examples
@given(convolutions())
def test_nhwc_is_nchw_transposed(case: Any) -> None:
    x, w, dz, parameters = case
    expected = [conv2d(x, w, **parameters), *conv2d_backward(dz, x, w, **parameters)[:2]]
    x, w, dz, parameters["layout"] = nhwc(x), nhwc(w), nhwc(dz), "NHWC"
    got = [conv2d(x, w, **parameters), *conv2d_backward(dz, x, w, **parameters)[:2]]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, nhwc(b))


@pytest.mark.parametrize(
    "parameters",
    [
        {"stride": 2, "padding": 1},
        {"stride": (1, 3), "padding": ((0, 1), (2, 0)), "groups": 2},
        {"dilation": 2, "padding": "same", "groups": 2},
    ],
)
def test_gradients_are_finite_differences_with_a_step_of_one(parameters: dict[str, Any]) -> None:
    # The convolution is linear in each argument: the difference is the derivative, without any truncation error.
    rng = np.random.default_rng(0)
    x, w, b = integers(rng, (1, 2, 4, 5)), integers(rng, (2, 2 // parameters.get("groups", 1), 3, 2)), np.zeros(2)
    output = conv2d(x, w, b, **parameters)
    dz = integers(rng, output.shape)
    gradients = conv2d_backward(dz, x, w, **parameters)
    for argument, gradient in zip((x, w, b), gradients, strict=True):
        for index in np.ndindex(argument.shape):
            argument[index] += 1
            assert gradient[index] == np.vdot(dz, conv2d(x, w, b, **parameters) - output)
            argument[index] -= 1


# --- against PyTorch --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


@some_examples
@given(convolutions())
def test_against_torch(torch: Any, case: Any) -> None:
    x, w, dz, parameters = case
    b = np.arange(1.0, 1.0 + len(w))
    tx, tw, tb = (torch.tensor(array, requires_grad=True) for array in (x, w, b))
    (PT, PB), (PL, PR) = parameters["padding"]
    rest = {name: parameters[name] for name in ("stride", "dilation", "groups")}
    output = torch.nn.functional.conv2d(torch.nn.functional.pad(tx, (PL, PR, PT, PB)), tw, tb, **rest)
    output.backward(torch.tensor(dz))
    np.testing.assert_array_equal(conv2d(x, w, b, **parameters), output.detach().numpy())
    for got, expected in zip(conv2d_backward(dz, x, w, **parameters), (tx.grad, tw.grad, tb.grad), strict=True):
        np.testing.assert_array_equal(got, expected.numpy())


@some_examples
@given(convolutions(), st.data())
def test_conv_transpose2d_against_torch(torch: Any, case: Any, data: st.DataObject) -> None:
    _, w, dz, parameters = case
    largest = [max(parameters["stride"][axis], parameters["dilation"][axis]) - 1 for axis in range(2)]
    parameters["padding"] = 0
    parameters["output_padding"] = tuple(data.draw(st.integers(0, limit)) for limit in largest)
    bias = np.arange(1.0, 1.0 + w.shape[1] * parameters["groups"])
    expected = torch.nn.functional.conv_transpose2d(*(torch.tensor(array) for array in (dz, w, bias)), **parameters)
    np.testing.assert_array_equal(conv_transpose2d(dz, w, bias, **parameters), expected.numpy())


def test_parameters_of_the_gradients_are_torchs(torch: Any, face: ModuleType) -> None:
    for name in ("conv2d_input", "conv2d_weight"):
        theirs = list(inspect.signature(getattr(torch.nn.grad, name)).parameters)
        assert list(inspect.signature(getattr(face, name)).parameters)[: len(theirs)] == theirs


# --- errors -----------------------------------------------------------------------------------------------------------

INTEGERS = np.ones((1, 1, 3, 3), int)
READ_ONLY = np.zeros((1, 1, 2, 2))
READ_ONLY.flags.writeable = False
# A stride that reaches far: its input gradient would be 2**62 elements large.
FAR = 2**31 - 1

OVERLAPPING = np.lib.stride_tricks.as_strided(np.zeros(102), (1, 1, 2, 2), (816, 816, 8, 8))

ERRORS: list[tuple[Any, type[Exception], str]] = [
    (lambda: conv2d(X.tolist(), W), TypeError, r"input must be a numpy\.ndarray, got list: convert it"),
    (lambda: conv2d(INTEGERS, W), TypeError, r"input has dtype int64; .*input\.astype\(numpy\.float32\)"),
    (lambda: conv2d(np.array([[[["a"]]]], np.dtypes.StringDType()), W), TypeError, "input has dtype StringDType"),
    (lambda: conv2d(X[:0], W, padding=FAR), ValueError, "would take .* bytes"),
    (lambda: conv2d(X, W.astype(complex)), TypeError, "weight has dtype complex128"),
    (lambda: conv2d(X, W, INTEGERS), TypeError, "bias has dtype int64"),
    (lambda: conv2d(X, W, np.ones(2)), ValueError, r"bias has shape \(2,\), but must be \(1,\)"),
    (lambda: conv2d(X[0], W), ValueError, r"input must have 4 dimensions, got 3: \(1, 3, 3\)"),
    (lambda: conv2d(X, W[0]), ValueError, "weight must have 4 dimensions, got 3"),
    (lambda: conv2d(X, np.ones((1, 2, 2, 2))), ValueError, r"input has 1 channels, but weight \(1, 2, 2, 2\)"),
    (lambda: conv2d(np.ones((1, 2, 3, 3)), W, groups=2), ValueError, "divisible by groups: 1 % 2 is 1"),
    (lambda: conv2d(X, np.ones((1, 1, 4, 2))), ValueError, r"height would be less than 1: the kernel spans 4 .* 3 "),
    (lambda: conv2d(X, W, dilation=3), ValueError, "kernel spans 4"),
    (lambda: conv2d(X[:, :, :0], W), ValueError, "every size must be at least 1"),
    (lambda: conv2d(X, W, stride=0), ValueError, "stride must be from 1 .* got 0"),
    (lambda: conv2d(X, W, stride=True), TypeError, "stride must be an integer, got True"),
    (lambda: conv2d(X, W, stride=(1, True)), TypeError, "stride must be an integer, got True"),
    (lambda: conv2d(X, W, stride=(1, 1.0)), TypeError, "stride must be an integer, got 1.0"),
    (lambda: conv2d(X, W, stride=np.array(2)), TypeError, "stride must be an integer or a pair of them"),
    (lambda: conv2d(X, W, stride=b"\x01\x02"), TypeError, "stride must be an integer or a pair of them"),
    (lambda: conv2d(X, W, stride=2**31), ValueError, "stride must be from 1 to 2147483647, got 2147483648"),
    (lambda: conv2d(X, W, dilation=None), TypeError, "dilation must be an integer or a pair of them, got None"),
    (lambda: conv2d(X, W, groups=1.0), TypeError, "groups must be an integer, got 1.0"),
    (lambda: conv2d(X, W, layout=np.zeros(2)), ValueError, "is unknown: it is"),
    (lambda: conv2d(np.ma.masked_array(X, X > 3), W), TypeError, "input is a masked array"),
    (lambda: conv2d(X, W, out=np.ma.zeros((1, 1, 2, 2))), TypeError, "out is a masked array"),
    (lambda: conv2d(X, W, out=OVERLAPPING), ValueError, "out overlaps itself"),
    (lambda: conv2d(X, W, stride=1.0), TypeError, "stride must be an integer or a pair of them, got 1.0"),
    (lambda: conv2d(X, W, padding=-1), ValueError, "padding must be from 0 .* got -1"),
    (lambda: conv2d(X, W, padding="full"), ValueError, "padding='full' is unknown"),
    (lambda: conv2d(X, W, padding=(1, 1, 1)), ValueError, "padding must be .* got 3 values"),
    (lambda: conv2d(X, W, groups=0), ValueError, "groups must be from 1 .* got 0"),
    (lambda: conv2d(X, W, layout="CHWN"), ValueError, "layout='CHWN' is unknown"),
    (lambda: conv2d(X, W, algorithm="fft"), ValueError, "algorithm='fft' is unknown"),
    (lambda: conv2d(X, W, algorithm=None), ValueError, "algorithm=None is unknown"),
    (lambda: conv2d(X, W, algorithm="winograd"), ValueError, r"serves 3 x 3 .* got kernel \(2, 2\)"),
    (lambda: conv2d(X, X, stride=2, algorithm="winograd"), ValueError, r"stride \(2, 2\)"),
    (lambda: conv2d_input(X.shape, W, DZ, algorithm="winograd"), ValueError, "serves 3 x 3 and 5 x 5"),
    (lambda: conv2d_weight(X, W.shape, DZ, algorithm="winograd"), ValueError, "serves 3 x 3 and 5 x 5"),
    (lambda: conv2d_backward(DZ, X, W, algorithm="winograd"), ValueError, "serves 3 x 3 and 5 x 5"),
    (lambda: conv_transpose2d(X, W, algorithm="winograd"), ValueError, "serves 3 x 3 and 5 x 5"),
    (lambda: conv2d_input((1, 1, 3), W, DZ), ValueError, "input must have 4 dimensions, got 3"),
    (lambda: conv2d_input((1, 1, 3, 3.0), W, DZ), TypeError, "the shape of input must be four integers"),
    (lambda: conv2d_input((1, 1, 4, 3), W, DZ), ValueError, r"grad_output has shape .* \(1, 1, 3, 2\)"),
    (lambda: conv2d_input((-1, 1, 3, 3), W, DZ), ValueError, r"input has shape \(-1, 1, 3, 3\)"),
    (
        lambda: conv2d_input((1, 1, FAR + 1, FAR + 1), W[..., :1, :1], DZ, stride=FAR),
        ValueError,
        "would take 36893488147419103232 bytes",
    ),
    (lambda: conv2d_weight(X, 4, DZ), TypeError, "the shape of weight must be four integers, got 4"),
    (lambda: conv2d_weight(X, (1, 1, 3, 2), DZ), ValueError, "grad_output has shape"),
    (lambda: conv2d_backward(DZ, X, W, stride=2), ValueError, "grad_output has shape"),
    (lambda: conv2d_backward(DZ, X, W, output_mask=(True, True)), ValueError, "three bools, .* got 2 values"),
    (lambda: conv2d_backward(DZ, X, W, output_mask=(1, 0, 1)), TypeError, r"three bools, .* got \(1, 0, 1\)"),
    (lambda: conv2d_backward(DZ, X, W, output_mask=True), TypeError, r"three bools, .* got True \(bool\)"),
    (lambda: conv2d_backward(DZ, X, W[0], output_mask=(False, False, False)), ValueError, "weight must have 4"),
    (lambda: conv_transpose2d(X, np.ones((2, 1, 2, 2))), ValueError, "input has 1 channels, but weight .* takes 2"),
    (lambda: conv_transpose2d(X, W, groups=2), ValueError, "divisible by groups: 1 % 2"),
    (lambda: conv_transpose2d(X, W, padding="same"), ValueError, "give it in numbers"),
    (lambda: conv_transpose2d(X, W, padding=2), ValueError, "the output would be 0 x 0"),
    (lambda: conv_transpose2d(X, W, output_padding=1), ValueError, r"smaller than the stride \(1\) or the dilation"),
    (lambda: conv_transpose2d(X, W, np.ones(2)), ValueError, r"bias has shape \(2,\)"),
    (lambda: conv2d(X, W, out=[]), TypeError, "out must be a numpy.ndarray, got list"),
    (lambda: conv2d(X, W, out=np.zeros((1, 1, 2, 3))), ValueError, r"out has shape \(1, 1, 2, 3\) and dtype float64"),
    (lambda: conv2d(X, W, out=np.zeros((1, 1, 2, 2), np.float32)), ValueError, "dtype float32, but .* float64"),
    (lambda: conv2d(X, W, out=READ_ONLY), ValueError, "out is read-only"),
    (lambda: conv2d(X, W, out=X[..., :2, :2]), ValueError, "out shares memory with an input"),
    (lambda: conv2d_weight(X, W.shape, DZ, out=DZ), ValueError, "out shares memory with an input"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_bad_arguments_are_refused_with_a_reason(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_nothing_is_written_where_an_argument_is_bad() -> None:
    out = np.full((1, 1, 2, 2), 7.0)
    for bad in ({"algorithm": "fft"}, {"bias": np.ones(2)}, {"padding": 1}):
        with pytest.raises(ValueError):
            conv2d(X, W, out=out, **bad)
    assert (out == 7).all()


def test_reference_takes_winograd_where_it_serves() -> None:
    for padding in (0, 1, "same"):
        expected = reference.conv2d(X, X, padding=padding)
        np.testing.assert_array_equal(reference.conv2d(X, X, padding=padding, algorithm="winograd"), expected)
