"""A convolution and a max pooling that run as one give what they give one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numba
import numpy as np
import pytest
from cases import everything_in_parallel, only
from hypothesis import given, settings
from hypothesis import strategies as st

import numbaconv
from numbaconv import execution, nn, simd


class Shapes(NamedTuple):
    """Sizes of a convolution and of the windows behind it."""

    N: int
    C: int
    OC: int
    rows: int  # of windows
    columns: int
    KH: int  # of a window
    KW: int
    taps: int
    padding: Any
    relu: bool
    dtype: str

    def model(self) -> nn.Sequential:
        """The layers, of whole numbers."""
        rng = np.random.default_rng(self.OC)
        layers: list[nn.Module] = [nn.Conv2d(self.C, self.OC, self.taps, padding=self.padding, dtype=self.dtype)]
        for parameter in layers[0].parameters():
            parameter.data[...] = rng.integers(-2, 3, parameter.data.shape)
        return nn.Sequential(*layers, *[nn.ReLU()] * self.relu, nn.MaxPool2d((self.KH, self.KW)))

    def batch(self, seed: int = 0) -> np.ndarray:
        """Images of whole numbers, so small that sums are exact, and that there are ties."""
        (top, bottom), (left, right) = self.padding
        H, W = self.rows * self.KH - top - bottom, self.columns * self.KW - left - right
        shape = self.N, self.C, max(1, H + self.taps - 1), max(1, W + self.taps - 1)
        return np.random.default_rng(seed).integers(-3, 4, shape).astype(self.dtype)


PAD = st.integers(0, 2)
SHAPES = st.builds(
    Shapes, N=st.integers(1, 5), C=st.sampled_from([1, 2, 3, 8, 16, 33]), OC=st.sampled_from([2, 16, 32, 48, 64]),
    rows=st.integers(1, 7), columns=st.integers(1, 9), KH=st.integers(1, 4), KW=st.integers(1, 3),
    taps=st.sampled_from([1, 3, 5]), padding=st.tuples(st.tuples(PAD, PAD), st.tuples(PAD, PAD)), relu=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
)  # fmt: skip
#: What a first layer looks like, and a second one.
FIRST = Shapes(3, 1, 32, 14, 14, 2, 2, 3, ((1, 1), (1, 1)), True, "float32")
SECOND = FIRST._replace(C=32, OC=64, rows=7, columns=7)
FORMS = ["channels", "winograd by tiles", "winograd by blocks"]


def one_by_one(model: nn.Sequential, x: np.ndarray, z: np.ndarray | None) -> list[np.ndarray]:
    """Output and gradients, layer by layer."""
    model.zero_grad()
    y = x
    for layer in model:
        y = layer.forward(y)
    results, grad = [y.copy()], z
    if z is not None:
        for layer in reversed(list(model)):
            grad = layer.backward(grad)
        results += [p.grad.copy() for p in model.parameters()] + ([] if grad is None else [grad])
    return results


def together(model: nn.Sequential, x: np.ndarray, z: np.ndarray | None) -> list[np.ndarray]:
    """The same as the model does it."""
    model.zero_grad()
    results = [model(x).copy()]
    if z is not None:
        grad = model.backward(z)
        results += [p.grad.copy() for p in model.parameters()] + ([] if grad is None else [grad])
    return results


@contextmanager
def launches() -> Iterator[list[str]]:
    """The names of the kernels that convolutions launch from now on."""
    names: list[str] = []
    launch = execution.launch

    def noted(kernel: Any, *arguments: Any, **more: Any) -> None:
        names.append(kernel.name)
        launch(kernel, *arguments, **more)

    with mock.patch.object(execution, "launch", noted):
        yield names


def assert_alike(model: nn.Sequential, x: np.ndarray, seed: int = 1) -> None:
    """In training, with the gradient of x and without it, and in evaluation."""
    z = np.random.default_rng(seed).integers(-2, 3, one_by_one(model, x, None)[0].shape).astype(x.dtype)
    for needed in (True, False):
        model.require_input_grad(needed)
        for got, wanted in zip(together(model, x, z), one_by_one(model, x, z), strict=True):
            np.testing.assert_array_equal(got, wanted)
    model.require_input_grad()
    wanted = one_by_one(model, x, z)
    model.eval()
    for got, right in zip(together(model, x, z), wanted, strict=True):
        np.testing.assert_array_equal(got, right)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shapes=SHAPES)
def test_any_shapes(shapes: Shapes) -> None:
    with only("cheapest"):
        assert_alike(shapes.model(), shapes.batch())


@pytest.mark.compiled
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(shapes=SHAPES)
def test_any_shapes_in_a_form(form: str, shapes: Shapes) -> None:
    taps = shapes.taps if form == "channels" else max(3, shapes.taps)
    shapes = shapes._replace(taps=taps, OC=max(16, shapes.OC))
    with only(form), everything_in_parallel():
        assert_alike(shapes.model(), shapes.batch())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_kernel_does_the_work_of_both_layers(dtype: str) -> None:
    first, second = (shapes._replace(N=1, dtype=dtype) for shapes in (FIRST, SECOND))
    three = "_three" if simd.VECTOR_REGISTERS >= 32 else ""  # taps, whose weights take registers, too
    for form, shapes, input_grad, kernels in (
        ("channels", first, False, ["correlate_pooled", "weight_gradient_pooled"]),
        ("channels", second._replace(OC=32), False, [f"correlate{three}_pooled", "weight_gradient_pooled"]),
        ("winograd by tiles", second, True, [*["correlate_winograd_pooled"] * 2, "weight_gradient_winograd_pooled"]),
    ):
        model, x = shapes.model(), shapes.batch()
        model.require_input_grad(input_grad)
        with only(form), launches() as names:
            together(model, x, np.ones((1, shapes.OC, shapes.rows, shapes.columns), dtype))
        assert [name for name in names if name != "note_finite"] == kernels


def test_a_threads_number_changes_no_bit() -> None:
    rng = np.random.default_rng(0)
    results = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numbaconv.set_num_threads(threads)
        model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, rng=0), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 48, 3, padding=1, rng=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        rng = np.random.default_rng(0)
        x, z = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 1, 16, 16), (5, 48, 4, 4)))
        with everything_in_parallel():
            results.append([a.tobytes() for a in together(model, x, z)])
    assert results[0] == results[1]


def test_numbers_that_are_not_finite_go_layer_by_layer() -> None:
    for shapes in (FIRST, SECOND):
        model, x = shapes.model(), shapes.batch()
        z = np.ones((shapes.N, shapes.OC, shapes.rows, shapes.columns), np.float32)
        model[0].weight.data[3, 0, 0, 0] = np.inf
        for got, wanted in zip(together(model, x, z), one_by_one(model, x, z), strict=True):
            np.testing.assert_array_equal(got, wanted)
        model[0].weight.data[3, 0, 0, 0] = 1
        x[0, 0, 0, 0] = np.nan
        with only("channels"):
            for got, wanted in zip(together(model, x, z), one_by_one(model, x, z), strict=True):
                np.testing.assert_array_equal(got, wanted)


def test_methods_of_somebodys_own_are_called() -> None:
    model, x, calls = FIRST.model(), FIRST.batch(), []
    z = np.ones((FIRST.N, FIRST.OC, FIRST.rows, FIRST.columns), np.float32)
    for layer, name in ((model[0], "forward"), (model[2], "forward"), (model[0], "backward"), (model[2], "backward")):
        usual = getattr(layer, name)

        def mine(*arguments: Any, usual: Any = usual, name: str = name, **more: Any) -> Any:
            calls.append(name)
            return usual(*arguments, **more)

        setattr(layer, name, mine)
    together(model, x, z)
    assert calls == ["forward", "forward", "backward", "backward"]


def test_each_layer_can_go_back_by_itself() -> None:
    model, x = FIRST.model(), FIRST.batch()
    z = np.ones((FIRST.N, FIRST.OC, FIRST.rows, FIRST.columns), np.float32)
    wanted = together(model, x, z)[1:]
    model(x)
    model.zero_grad()
    grad = model[0].backward(model[2].backward(z))
    for got, right in zip([p.grad for p in model.parameters()] + [grad], wanted, strict=True):
        np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("images", [(3, 2, 28, 28), (3, 1, 1, 28), (1, 28, 28)])
def test_images_that_do_not_fit_are_refused(images: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"channels|too large|shape"):
        FIRST.model()(np.zeros(images, np.float32))


def test_a_gradient_of_another_shape_is_refused() -> None:
    model, x = FIRST.model(), FIRST.batch()
    model(x)
    with pytest.raises(ValueError, match="grad_output has shape"):
        model.backward(np.zeros((3, 32, 28, 28), np.float32))
    assert all(p.grad is None for p in model.parameters())
