"""Calls that are remembered give what the first of them gave, and nothing is taken that would be refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import numbaconv
from numbaconv import calls, reference

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    calls.forget()
    yield
    calls.forget()


def arrays(layout: str = "NCHW", dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shapes = ((2, 3, 6, 7), (4, 3, 3, 3), (2, 4, 6, 7))
    if layout == "NHWC":
        shapes = tuple((a, c, d, b) for a, b, c, d in shapes)
    x, w, z = (rng.integers(-4, 5, shape).astype(dtype) for shape in shapes)
    return x, w, z


def functions(layout: str = "NCHW") -> dict[str, Callable[..., np.ndarray]]:
    options = {"padding": 1, "layout": layout}
    return {
        "conv2d": lambda x, w, z: numbaconv.conv2d(x, w, **options),
        "conv2d_input": lambda x, w, z: numbaconv.conv2d_input(x.shape, w, z, **options),
        "conv2d_weight": lambda x, w, z: numbaconv.conv2d_weight(x, w.shape, z, **options),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", functions())
def test_a_remembered_call_gives_the_same(name: str, layout: str, dtype: Any) -> None:
    call = functions(layout)[name]
    for _ in range(3):
        x, w, z = arrays(layout, dtype)
        first = call(x, w, z)
        assert len(calls._calls) == 1
        expected = first.copy()
        again = call(x.copy(), w.copy(), z.copy())
        assert not np.shares_memory(first, again)
        assert again.dtype == dtype
        assert np.array_equal(again, expected)
        slow = getattr(reference, name)
        sizes = {"conv2d": (x, w), "conv2d_input": (x.shape, w, z), "conv2d_weight": (x, w.shape, z)}[name]
        assert np.array_equal(again, slow(*sizes, padding=1, layout=layout))


def test_a_bias_is_added_or_looked_at() -> None:
    x, w, _ = arrays()
    plain = numbaconv.conv2d(x, w)
    for bias in (np.arange(4, dtype=np.float32), np.arange(8, dtype=np.float32)[::2], np.arange(4, dtype=np.float64)):
        found = numbaconv.conv2d(x, w, bias)
        assert found.dtype == np.result_type(x, bias)
        assert np.array_equal(found, plain + bias[:, None, None])
    for wrong in (np.zeros(3, np.float32), np.zeros((4, 1), np.float32)):
        with pytest.raises(ValueError, match="bias has shape"):
            numbaconv.conv2d(x, w, wrong)
    with pytest.raises(TypeError, match="bias must be"):
        numbaconv.conv2d(x, w, [0, 0, 0, 0])


@pytest.mark.parametrize("name", ["conv2d", "conv2d_input", "conv2d_weight"])
def test_a_remembered_call_writes_where_it_is_told(name: str) -> None:
    x, w, z = arrays()
    how: dict[str, tuple[Any, ...]] = {
        "conv2d": (x, w), "conv2d_input": (x.shape, w, z), "conv2d_weight": (x, w.shape, z)
    }  # fmt: skip
    call, inputs = getattr(numbaconv, name), [array for array in how[name] if isinstance(array, np.ndarray)]
    expected = call(*how[name], padding=1)
    for _ in range(2):
        out = np.full_like(expected, np.nan)
        assert call(*how[name], padding=1, out=out) is out
        assert np.array_equal(out, expected)
        turned = np.full_like(expected, np.nan, order="F")
        assert call(*how[name], padding=1, out=turned) is turned
        assert np.array_equal(turned, expected)
    read_only = np.zeros_like(expected)
    read_only.flags.writeable = False
    memory = np.zeros(expected.size + max(array.size for array in inputs), np.float32)
    for wrong, error, match in (
        (np.zeros_like(expected, np.float64), ValueError, "dtype"),
        (np.zeros((*expected.shape[:3], 1), np.float32), ValueError, "shape"),
        (read_only, ValueError, "read-only"),
        (expected.tolist(), TypeError, "out"),
    ):
        with pytest.raises(error, match=match):
            call(*how[name], padding=1, out=wrong)
    for k, array in enumerate(inputs):  # an input begins with the last element of out
        memory[expected.size - 1 : expected.size - 1 + array.size] = array.ravel()
        shared = memory[expected.size - 1 : expected.size - 1 + array.size].reshape(array.shape)
        before = memory.copy()
        arguments = [shared if value is inputs[k] else value for value in how[name]]
        with pytest.raises(ValueError, match="shares memory"):
            call(*arguments, padding=1, out=memory[: expected.size].reshape(expected.shape))
        assert np.array_equal(memory, before)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_all_gradients_are_remembered_together(layout: str) -> None:
    x, w, z = arrays(layout)
    options: dict[str, Any] = {"padding": 1, "layout": layout}
    for _ in range(3):
        for weight in (w, numbaconv.prepack(w)):
            found = numbaconv.conv2d_backward(z, x, weight, **options)
            for got, expected in zip(found, reference.conv2d_backward(z, x, w, **options), strict=True):
                assert np.array_equal(got, expected)
            masked = numbaconv.conv2d_backward(z, x, weight, output_mask=(False, True, False), **options)
            assert masked[0] is masked[2] is None
            assert np.array_equal(masked[1], found[1])
    assert len(calls._calls) == 3
    for wrong in (z[:, :, 1:], z.astype(int), None):
        with pytest.raises((TypeError, ValueError), match="grad_output"):
            numbaconv.conv2d_backward(wrong, x, w, **options)
    with pytest.raises(TypeError, match="input"):
        numbaconv.conv2d_backward(z, x.astype(int), w, output_mask=(True, False, False), **options)
    with pytest.raises(TypeError, match="output_mask"):
        numbaconv.conv2d_backward(z, x, w, output_mask=(1, 1, 1), **options)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_packed_weights_and_transposed_convolutions_are_remembered(layout: str) -> None:
    x, w, z = arrays(layout)
    options: dict[str, Any] = {"padding": 1, "layout": layout}
    packed, bias = numbaconv.prepack(w), np.arange(4, dtype=np.float32)
    other = numbaconv.prepack(w + 1)
    for _ in range(3):
        for held, array in ((packed, w), (other, w + 1)):
            assert np.array_equal(
                numbaconv.conv2d(x, held, bias, **options), reference.conv2d(x, array, bias, **options)
            )
            assert np.array_equal(
                numbaconv.conv_transpose2d(z, held, bias[:3], stride=2, output_padding=1, **options),
                reference.conv_transpose2d(z, array, bias[:3], stride=2, output_padding=1, **options),
            )
            assert np.array_equal(
                numbaconv.conv_transpose2d(z, array, None, 2, **options),
                reference.conv_transpose2d(z, array, None, 2, **options),
            )
    assert len(calls._calls) >= 2  # transposed ones of larger strides may fill pixels that no tap reaches
    with pytest.raises(TypeError, match="output_padding"):
        numbaconv.conv_transpose2d(z, w, output_padding=True, **options)


def test_arrays_of_other_kinds_take_the_long_way() -> None:
    x, w, _ = arrays()
    expected = numbaconv.conv2d(x, w)
    read_only = x.copy()
    read_only.flags.writeable = False
    swapped = x.astype(x.dtype.newbyteorder())
    for other in (x[:, :, ::-1][:, :, ::-1], np.asfortranarray(x), read_only, swapped, x.view(np.matrix.__base__)):
        assert np.array_equal(numbaconv.conv2d(other, w), expected)
    assert numbaconv.conv2d(x.astype(np.float64), w).dtype == np.float64
    assert numbaconv.conv2d(x.astype(np.float16), w.astype(np.float16)).dtype == np.float16
    assert len(calls._calls) == 1
    assert numbaconv.conv2d(x[:0], w).shape == (0, 4, 4, 5)
    out = np.empty_like(expected)
    assert numbaconv.conv2d(x, w, out=out) is out
    assert np.array_equal(numbaconv.conv2d(x, numbaconv.prepack(w)), expected)


def test_tuples_of_integers_are_remembered() -> None:
    x, w, _ = arrays()
    how = {"stride": (1, 2), "padding": ((1, 0), (1, 1)), "dilation": (1, 1)}
    expected = reference.conv2d(x, w, **how)
    for _ in range(2):
        assert np.array_equal(numbaconv.conv2d(x, w, **how), expected)
        assert np.array_equal(numbaconv.conv2d(x, w, padding="same"), reference.conv2d(x, w, padding=1))
    assert len(calls._calls) == 2
    for wrong in ((1, True), [1, True], (1.0, 2)):
        with pytest.raises(TypeError):
            numbaconv.conv2d(x, w, **{**how, "stride": wrong})


@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
@pytest.mark.parametrize("wrong", [True, 1.0, np.True_, "1"])
def test_what_only_equals_an_integer_is_refused_still(name: str, wrong: Any) -> None:
    x, w, _ = arrays()
    numbaconv.conv2d(x, w, padding=1)
    numbaconv.conv2d(x, w)
    with pytest.raises((TypeError, ValueError)):
        numbaconv.conv2d(x, w, **{name: wrong})


def test_sizes_that_only_equal_integers_are_refused_still() -> None:
    w, z = np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 2, 2), np.float32)
    numbaconv.conv2d_input((1, 1, 2, 2), w, z)
    for wrong in ((True, 1, 2, 2), (1, 1, 2.0, 2)):
        with pytest.raises(TypeError, match="four integers"):
            numbaconv.conv2d_input(wrong, w, z)
    assert numbaconv.conv2d_input([1, 1, 2, np.int64(2)], w, z).shape == (1, 1, 2, 2)


def test_weights_that_are_not_finite_go_where_the_formula_sends_them() -> None:
    x, w, z = arrays()
    for call in functions().values():
        call(x, w, z)
    w[0, 0, 0, 0] = np.inf
    expected = reference.conv2d(x, w, padding=1)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(numbaconv.conv2d(x, w, padding=1), expected, equal_nan=True)
    z[0, 1, 0, 0] = np.inf
    with np.errstate(invalid="ignore"):
        expected = reference.conv2d_weight(x, w.shape, z, padding=1)
        assert np.array_equal(numbaconv.conv2d_weight(x, w.shape, z, padding=1), expected, equal_nan=True)


def test_the_algorithm_is_part_of_it() -> None:
    x, w, _ = arrays()
    for algorithm in ("auto", "direct", "winograd"):
        numbaconv.conv2d(x, w, padding=1, algorithm=algorithm)
    assert len(calls._calls) == 3
    numbaconv.set_algorithm("auto")
    try:
        numbaconv.conv2d(x, w, padding=1)
        assert len(calls._calls) == 4
    finally:
        numbaconv.set_algorithm("direct")


def test_large_calls_are_remembered_for_any_number_of_threads() -> None:
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(shape, np.float32) for shape in ((4, 8, 32, 32), (16, 8, 3, 3)))
    z = numbaconv.conv2d(x, w)
    wanted = [numbaconv.conv2d_input(x.shape, w, z), numbaconv.conv2d_weight(x, w.shape, z), z]
    assert len(calls._calls) == 3
    before = numbaconv.get_num_threads()
    try:
        for threads in {1, before}:
            numbaconv.set_num_threads(threads)
            got = [
                numbaconv.conv2d_input(x.shape, w, z),
                numbaconv.conv2d_weight(x, w.shape, z),
                numbaconv.conv2d(x, w),
            ]
            assert [array.tobytes() for array in got] == [array.tobytes() for array in wanted]
    finally:
        numbaconv.set_num_threads(before)
    assert len(calls._calls) == 3


def test_so_many_calls_are_remembered_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST", 2)
    for size in range(3, 8):
        numbaconv.conv2d(np.ones((1, 1, size, size)), np.ones((1, 1, 3, 3)))
        assert len(calls._calls) <= 2
