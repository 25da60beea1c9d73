"""Numbers at the edges: infinity, NaN, zeros with a sign, denormals, and the same bits however a result is computed."""

from __future__ import annotations

import timeit
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import (
    EXACT,
    FORMS,
    INTERPRETED,
    PLAIN,
    Arrays,
    Case,
    assert_equal,
    cases,
    everything_in_parallel,
    only,
    random_cases,
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import numbaconv
from numbaconv import nn, reference
from numbaconv.geometry import Conv2dGeometry

FEW = 1_000 if INTERPRETED else 8_000
FORCED = [form for form in FORMS if form != "cheapest"]
INFINITE = np.inf


def sprinkled(arrays: Arrays, rng: np.random.Generator, which: str) -> Arrays:
    """The same arrays, some of whose elements are not finite; ``which`` names them by the fields of ``Arrays``."""
    fresh = {}
    for name in which:
        array = getattr(arrays, name).copy()
        places = rng.integers(0, array.size, rng.integers(1, 4))
        array.reshape(-1)[places] = rng.choice([INFINITE, -INFINITE, np.nan], len(places))
        fresh[name] = array
    return arrays._replace(**fresh)


# --- infinity and NaN -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("which", ["x", "w", "z", "bc", "xwzbc"])
def test_infinity_and_nan_go_where_the_formula_sends_them(which: str, form: str) -> None:
    rng = np.random.default_rng(0)
    for case in random_cases(20, 3 if INTERPRETED else 25, FEW, form=form):
        arrays = sprinkled(case.arrays(), rng, which)
        with only(form), np.errstate(all="ignore"):
            assert_equal(run(numbaconv, case, arrays), run(reference, case, arrays), case)


@settings(max_examples=10 if INTERPRETED else 100, deadline=None, derandomize=True)
@given(cases(FEW), st.integers(0, 1000), st.sampled_from(["x", "w", "z", "xw", "xz", "wz"]))
def test_of_any_geometry(case: Case, seed: int, which: str) -> None:
    arrays = sprinkled(case.arrays(), np.random.default_rng(seed), which)
    with np.errstate(all="ignore"):
        assert_equal(run(numbaconv, case, arrays), run(reference, case, arrays), case)


def test_padding_makes_no_nan_of_an_infinite_weight_by_hand() -> None:
    # 1 2    and    inf 1    padded by a pixel at the top and the left: the infinite weight meets an image pixel in the
    # 3 4           1   1    last output alone, where inf * 1 + 2 + 3 + 4 = inf
    x, w = np.array([[[[1.0, 2.0], [3.0, 4.0]]]]), np.array([[[[INFINITE, 1.0], [1.0, 1.0]]]])
    y = numbaconv.conv2d(x, w, padding=((1, 0), (1, 0)))
    assert y.ravel().tolist() == [1, 3, 4, INFINITE]
    # and of the input only the first pixel, which it multiplied in the last output, gets an infinite gradient
    dx = numbaconv.conv2d_input(x.shape, w, np.ones_like(y), padding=((1, 0), (1, 0)))
    assert dx.ravel().tolist() == [INFINITE, 2, 2, 1]
    # an infinite gradient of the first output, which only the last weight had a part in
    z = np.array([[[[INFINITE, 1.0], [1.0, 1.0]]]])
    dw = numbaconv.conv2d_weight(x, w.shape, z, padding=((1, 0), (1, 0)))
    assert dw.ravel().tolist() == [1, 3, 4, INFINITE]


def tiled(dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays of a convolution for which "auto" chooses Winograd's algorithm; padding 1 keeps the size."""
    rng = np.random.default_rng(1)
    shapes = (2, 32, 12, 12), (32, 32, 3, 3), (2, 32, 12, 12)
    x, w, z = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return x, w, z


@pytest.mark.compiled
def test_auto_is_right_where_a_weight_or_its_gradient_is_not_finite() -> None:
    numbaconv.set_algorithm("auto")
    try:
        x, w, z = tiled()
        w[3, 5, 0, 1], w[7, 1, 2, 2] = np.nan, INFINITE
        z[1, 4, 6, 7], x[0, 9, 11, 11] = np.nan, -INFINITE
        for call in (
            lambda algorithm: numbaconv.conv2d(x, w, padding=1, algorithm=algorithm),
            lambda algorithm: numbaconv.conv2d_input(x.shape, w, z, padding=1, algorithm=algorithm),
            lambda algorithm: numbaconv.conv2d_weight(x, w.shape, z, padding=1, algorithm=algorithm),
        ):
            auto, direct = call("auto"), call("direct")
            assert not np.isfinite(auto).all()
            np.testing.assert_array_equal(auto, direct)
        # the gradient of a weight that met neither is a number: only output channel 4 and input channel 9 are touched
        dw = numbaconv.conv2d_weight(x, w.shape, z, padding=1)
        assert np.isfinite(np.delete(np.delete(dw, 4, axis=0), 9, axis=1)).all()
        assert np.isnan(dw[4]).all()
        assert np.isfinite(dw[0, 9, :, 0]).all()  # the first taps of rows and columns never met the last pixel
        assert np.isfinite(dw[0, 9, 0]).all()
    finally:
        numbaconv.set_algorithm("direct")


@pytest.mark.compiled
def test_under_auto_an_infinite_pixel_spreads_over_its_tiles_and_no_further() -> None:
    numbaconv.set_algorithm("auto")
    try:
        x, w, _ = tiled()
        x[1, 2, 5, 6] = np.nan
        lost = ~np.isfinite(numbaconv.conv2d(x, w, padding=1))
        assert lost[1, :, 4:7, 5:8].all()  # what depends on it
        assert lost[1, :, 4:8, 4:8].all()  # its tile of 4 x 4 outputs
        assert not lost[0].any()
        assert not lost[1, :, 8:].any()
        assert not lost[1, :, :4].any()
        assert not lost[1, :, :, :4].any()
    finally:
        numbaconv.set_algorithm("direct")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = numbaconv.get_num_threads()
    numbaconv.set_num_threads(1)
    yield
    numbaconv.set_num_threads(before)


@pytest.mark.compiled
@pytest.mark.usefixtures("one_thread")
def test_where_everything_is_nan_a_call_is_not_slow() -> None:
    # As after training has diverged: nothing is summed up after the first NaN.
    x, w, _ = tiled()
    w[...] = np.nan
    numbaconv.conv2d(x, w, padding=1)  # compiles
    short = min(timeit.repeat(lambda: numbaconv.conv2d(x, w, padding=1), number=1, repeat=9))
    w[...] = INFINITE
    x[...] = 1
    whole = min(timeit.repeat(lambda: numbaconv.conv2d(x, w, padding=1), number=1, repeat=9))
    assert short < whole / 5
    assert np.isinf(numbaconv.conv2d(x, w, padding=1)).all()


# --- NumPy's settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_numpy_does_about_overflow_changes_nothing(dtype: Any) -> None:
    size = np.dtype(dtype).itemsize
    numbers = np.array([np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal, INFINITE, np.nan], dtype)
    signalling = {2: 0x7D00, 4: 0x7FA00000, 8: 0x7FF4000000000000}[size]
    case = Case(Conv2dGeometry.forward((1, 2, 4, 5), (3, 2, 3, 3), padding=1, stride=2), np.dtype(dtype))
    for bits in (*numbers.view(f"u{size}"), signalling):  # a number that is copied as one no longer signals
        arrays = Arrays(*(np.full(array.shape, bits, f"u{size}").view(dtype) for array in case.arrays()))
        with np.errstate(all="ignore"):
            wider = arrays._replace(w=arrays.w.astype(np.float64), z=arrays.z.astype(np.float64))
        for given_arrays in (arrays, wider):
            for module in (numbaconv, reference):
                with np.errstate(all="ignore"):
                    calm = run(module, case, given_arrays)
                with np.errstate(all="raise") if not INTERPRETED else np.errstate(all="ignore"):
                    strict = run(module, case, given_arrays)
                for a, b in zip(calm, strict, strict=True):
                    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stride", [1, 4])
def test_nor_does_what_it_does_about_a_bias_that_signals(stride: int) -> None:
    x, w = np.ones((1, 3, 6, 6)), np.ones((3, 3, 3, 3))
    bias = np.full(3, 0x7FA00001, np.uint32).view(np.float32)
    with np.errstate(all="raise"):
        assert np.isnan(numbaconv.conv2d(x, w, bias, stride)).all()
        assert np.isnan(numbaconv.conv_transpose2d(x, w, bias, stride)).all()


@pytest.mark.compiled
def test_training_does_not_depend_on_it_either() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1000, 1000, (8, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 8)

    def losses() -> list[float]:
        trainer = nn.Trainer(nn.models.digits_cnn(rng=0), nn.SGD(lr=1e-6))
        return [trainer.step(x, y), trainer.step(x, y), trainer.evaluate(x, y).loss]

    with np.errstate(all="raise"):
        strict = losses()  # some classes are out of the question: their probability is too small for a float32
    assert strict == losses()


# --- the same bits ----------------------------------------------------------------------------------------------------


def noisy(case: Case, seed: int = 0) -> Arrays:
    """Numbers whose sums depend on their order."""
    rng = np.random.default_rng(seed)
    return Arrays(*(rng.standard_normal(array.shape).astype(array.dtype) for array in case.arrays()))


def bits(results: Any) -> list[bytes]:
    return [result.tobytes() for result in results]


def moved(array: np.ndarray, elements: int) -> np.ndarray:
    """The same values, whose first element lies so many elements behind a cache line."""
    memory = np.empty(array.nbytes + 64 + elements * array.itemsize, np.uint8)
    first = -memory.ctypes.data % 64 + elements * array.itemsize
    view = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert view.ctypes.data % 64 == elements * array.itemsize % 64
    return view


@pytest.mark.compiled
@pytest.mark.parametrize("form", [*FORCED, *PLAIN])
def test_the_same_bits_for_any_alignment_of_the_first_element(form: str) -> None:
    for number, case in enumerate(random_cases(21, 12, FEW, [np.float32, np.float64, np.float16], form=form)):
        g, arrays = case.geometry, noisy(case)
        with only(form):
            wanted = run(numbaconv, case, arrays)
            for elements in range(1, 16):
                at = Arrays(*(moved(array, (elements * k + number) % 16) for k, array in enumerate(arrays, start=1)))
                assert bits(run(numbaconv, case, at)) == bits(wanted), f"{case}, {elements}"
                out = [moved(np.full_like(result, np.nan), elements) for result in wanted]
                numbaconv.conv2d(at.x, at.w, at.b, **case.parameters, out=out[0])
                numbaconv.conv2d_input(g.input_shape, at.w, at.z, **case.parameters, out=out[2])
                numbaconv.conv2d_weight(at.x, g.weight_shape, at.z, **case.parameters, out=out[3])
                assert bits((out[0], out[2], out[3])) == bits((wanted.y, wanted.dx, wanted.dw)), f"{case}, {elements}"


@pytest.mark.compiled
@pytest.mark.parametrize("form", [*FORCED, *PLAIN])
def test_the_same_bits_for_any_number_of_threads(form: str) -> None:
    most = numbaconv.get_num_threads()
    if most == 1:
        pytest.skip("there is but one thread")
    with only(form), everything_in_parallel():
        for case in random_cases(22, 30, 200_000, form=form):
            arrays = noisy(case)
            found = []
            for threads in (1, 2, most):
                numbaconv.set_num_threads(threads)
                found.append(bits(run(numbaconv, case, arrays)))
            assert found[0] == found[1] == found[2], str(case)


def image_by_image(case: Case, arrays: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output, input gradient and transposed convolution of every image by itself."""
    g, (x, w, b, c, z) = case.geometry, arrays
    shape = (1, *g.input_shape[1:])
    how, transposed = case.parameters, case.transposed_parameters
    ones = [
        (
            numbaconv.conv2d(x[n : n + 1], w, b, **how, algorithm="direct"),
            numbaconv.conv2d_input(shape, w, z[n : n + 1], **how, algorithm="direct"),
            numbaconv.conv_transpose2d(z[n : n + 1], w, c, **transposed, algorithm="direct"),
        )
        for n in range(g.N)
    ]
    y, dx, back = (np.concatenate(images) for images in zip(*ones, strict=True))
    return y, dx, back


@pytest.mark.parametrize("products", [FEW, 300_000])
def test_the_same_bits_for_a_batch_and_for_its_images(products: int) -> None:
    count = 0
    for seed, form in enumerate(FORMS):
        for case in random_cases(30 + seed, 4 if INTERPRETED else 60, FEW if INTERPRETED else products, form=form):
            if case.geometry.N > 1:
                arrays = noisy(case, seed)
                whole = run(numbaconv, case, arrays)
                assert bits(image_by_image(case, arrays)) == bits((whole.y, whole.dx, whole.transposed)), str(case)
                count += 1
    assert count > (2 if INTERPRETED else 100)


#: Shapes of layers, whose batches are cut otherwise than their images.
LAYERS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((64, 1, 28, 28), (6, 1, 5, 5), {"padding": 2}),
    ((64, 6, 14, 14), (16, 6, 5, 5), {}),
    ((32, 16, 32, 32), (16, 16, 3, 3), {"padding": 1}),
    ((32, 16, 32, 32), (32, 16, 3, 3), {"padding": 1, "stride": 2}),
    ((32, 32, 16, 16), (64, 32, 1, 1), {"stride": 2}),
    ((16, 64, 32, 32), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    ((2, 3, 112, 112), (64, 3, 7, 7), {"padding": 3, "stride": 2}),
    ((64, 32, 14, 14), (64, 32, 3, 3), {"padding": 1}),
    ((64, 32, 7, 7), (32, 32, 3, 3), {"padding": 1}),
    ((64, 32, 12, 12), (32, 32, 3, 3), {"padding": 2, "dilation": 2}),
    ((64, 16, 8, 8), (32, 16, 3, 3), {"padding": 1}),
    ((32, 64, 8, 8), (64, 64, 3, 3), {"padding": 1}),
    ((8, 32, 16, 16), (32, 32, 3, 3), {"padding": 1}),
    ((2, 32, 32, 32), (32, 32, 3, 3), {"padding": 1}),
    ((16, 32, 28, 28), (64, 32, 3, 3), {"padding": 1}),
    ((33, 16, 7, 7), (16, 16, 3, 3), {"padding": 1}),
    ((8, 8, 16, 16), (8, 8, 3, 3), {"padding": 1}),
    ((40, 24, 6, 6), (24, 24, 3, 3), {"padding": 1}),
    ((8, 3, 16, 16), (16, 3, 3, 3), {"padding": 1}),
    ((3, 128, 14, 14), (32, 128, 3, 3), {"padding": 1}),
    # whose pixels are merged, where a single image may have too few for it
    ((3, 32, 8, 8), (64, 32, 1, 1), {}),
    ((8, 64, 7, 7), (160, 64, 1, 1), {}),
    ((5, 192, 14, 14), (64, 192, 1, 1), {}),
    ((4, 16, 7, 7), (32, 16, 1, 1), {}),
    ((3, 512, 7, 7), (96, 512, 1, 1), {}),
    ((33, 7, 5, 5), (3, 7, 1, 1), {}),
]


@pytest.mark.compiled
@pytest.mark.parametrize(("x", "w", "parameters"), LAYERS)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_same_bits_for_a_batch_and_for_its_images_of_known_layers(
    x: Any, w: Any, parameters: Any, layout: Any
) -> None:
    if layout == "NHWC":
        x, w = ((n, h, w, c) for n, c, h, w in (x, w))
    case = Case(Conv2dGeometry.forward(x, w, **parameters, layout=layout), np.dtype(np.float32))
    arrays = noisy(case)
    whole = run(numbaconv, case, arrays)
    assert bits(image_by_image(case, arrays)) == bits((whole.y, whole.dx, whole.transposed))


# --- zeros with a sign ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", EXACT)
def test_zeros_have_the_signs_of_the_reference(form: str) -> None:
    rng = np.random.default_rng(2)
    for case in random_cases(23, 3 if INTERPRETED else 25, FEW, form=form):
        arrays = Arrays(*(rng.choice([-0.0, 0.0, 1.0, -1.0], a.shape).astype(a.dtype) for a in case.arrays()))
        arrays = arrays._replace(b=arrays.b + 0.0, c=arrays.c + 0.0)  # -0.0 + 0.0 is 0.0
        with only(form):
            assert bits(run(numbaconv, case, arrays)) == bits(run(reference, case, arrays)), str(case)


def test_sums_begin_with_the_bias_or_with_a_positive_zero() -> None:
    x, w = np.full((1, 1, 1, 1), -0.0), np.ones((1, 1, 1, 1))
    assert not np.signbit(numbaconv.conv2d(x, w)).any()  # 0.0 + -0.0 is 0.0
    assert np.signbit(numbaconv.conv2d(x, w, np.array([-0.0]))).all()  # -0.0 + -0.0 is -0.0


# --- denormals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_denormals_are_not_taken_for_zeros(dtype: Any) -> None:
    smallest = np.finfo(dtype).smallest_subnormal
    for case in random_cases(24, 5 if INTERPRETED else 40, FEW, [dtype]):
        arrays = case.arrays()
        tiny = arrays._replace(x=arrays.x * smallest, z=arrays.z * smallest, b=arrays.b * smallest, c=arrays.c * 0)
        arrays = arrays._replace(c=arrays.c * 0)
        got, wanted = run(numbaconv, case, tiny), run(reference, case, arrays)
        for name in ("y", "plain", "dx", "transposed"):  # whole numbers of the smallest number there is: still exact
            np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name) * smallest, str(case))
