"""Every backward against finite differences of its forward, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from numbaconv import nn

F64 = {"dtype": np.float64}


def difference(function: Callable[[], float], array: np.ndarray, step: float) -> np.ndarray:
    """The gradient of ``function`` with respect to ``array``, which it reads, by central differences."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        middle = array[index]
        array[index] = middle + step
        above = function()
        array[index] = middle - step
        gradient[index] = (above - function()) / (2 * step)
        array[index] = middle
    return gradient


def check_layer(layer: nn.Module, x: np.ndarray, step: float = 1e-5, tolerance: float = 1e-7) -> None:
    """Compare backward with differences of ``sum(forward(x) * weights)``, for x and for every parameter."""
    rng = np.random.default_rng(1)
    weights = rng.standard_normal(layer(x).shape)
    grad_input = layer.backward(weights)
    analytic = {"x": grad_input} | {name: p.grad for name, p in layer.named_parameters()}
    arrays = {"x": x} | {name: p.data for name, p in layer.named_parameters()}
    for name, array in arrays.items():
        numeric = difference(lambda: float(np.vdot(layer(x), weights)), array, step)
        np.testing.assert_allclose(analytic[name], numeric, rtol=tolerance, atol=tolerance, err_msg=name)


def data(*shape: int) -> np.ndarray:
    """Distinct values, far enough apart and from 0 for a kink not to be crossed."""
    size = int(np.prod(shape))
    return np.random.default_rng(0).permutation(np.arange(size) - size // 2 + 0.5).reshape(shape) / size * 4


LINEAR_LAYERS = [
    (nn.Conv2d(2, 3, 3, padding=1, **F64), (2, 2, 5, 4)),
    (nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=((1, 0), (0, 2)), dilation=(1, 2), groups=2, **F64), (2, 2, 6, 5)),
    (nn.Conv2d(3, 3, 3, padding="same", groups=3, bias=False, **F64), (1, 3, 4, 5)),
    (nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1, **F64), (2, 3, 3, 2)),
    (nn.ConvTranspose2d(2, 4, (2, 3), stride=(1, 3), groups=2, bias=False, dilation=(3, 1), **F64), (1, 2, 3, 2)),
    # output_padding beyond the stride, below the dilation; with and without a padding that takes it back
    (nn.ConvTranspose2d(1, 2, 2, stride=1, output_padding=2, dilation=3, **F64), (1, 1, 3, 2)),
    (nn.ConvTranspose2d(1, 2, 2, stride=1, padding=1, output_padding=(2, 1), dilation=3, **F64), (2, 1, 2, 3)),
    (nn.Linear(5, 3, **F64), (4, 5)),
    (nn.Linear(2, 3, bias=False, **F64), (1, 2)),
    (nn.AvgPool2d(2), (2, 2, 4, 5)),
    (nn.AvgPool2d((3, 2), stride=(2, 1), padding=1, ceil_mode=True), (1, 2, 6, 4)),
    (nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False), (1, 2, 4, 6)),
    (nn.AvgPool2d(2, divisor_override=3), (1, 1, 4, 4)),
    (nn.GlobalAvgPool2d(), (2, 3, 3, 4)),
    (nn.Flatten(), (2, 3, 2, 2)),
]


@pytest.mark.parametrize(("layer", "shape"), LINEAR_LAYERS, ids=lambda value: repr(value))
def test_linear_layers(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Linear in each argument, so a step of 1 has no truncation error."""
    check_layer(layer, data(*shape), step=1.0, tolerance=1e-11)


KINKED_LAYERS = [
    (nn.ReLU(), (3, 7)),
    (nn.MaxPool2d(2), (2, 3, 4, 5)),
    (nn.MaxPool2d(3, stride=1, padding=1), (1, 2, 4, 5)),
    (nn.MaxPool2d((2, 3), stride=(1, 2), padding=(1, 0), dilation=(2, 1), ceil_mode=True), (1, 2, 5, 6)),
]


@pytest.mark.parametrize(("layer", "shape"), KINKED_LAYERS, ids=lambda value: repr(value))
def test_kinked_layers(layer: nn.Module, shape: tuple[int, ...]) -> None:
    check_layer(layer, data(*shape), step=1e-3, tolerance=1e-10)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.5}], ids=str)
def test_batch_norm(mode: str, options: dict) -> None:
    layer = nn.BatchNorm2d(3, **options, **F64)
    rng = np.random.default_rng(2)
    for parameter in layer.parameters():
        parameter.data += rng.standard_normal(3)
    layer(rng.standard_normal((4, 3, 2, 2)) * 3 + 1)  # running statistics of their own
    layer.train(mode == "train")
    layer.momentum = 0.0  # so that the many forward passes below do not move them
    check_layer(layer, data(2, 3, 3, 2), tolerance=1e-6)


def test_containers() -> None:
    conv = {"padding": 1, "bias": False, **F64}
    main = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, rng=0, **conv), nn.BatchNorm2d(4, momentum=0, **F64), nn.ReLU())
    shortcut = nn.Conv2d(2, 4, 1, stride=2, rng=1, **F64)
    model = nn.Sequential(nn.Residual(main, shortcut), nn.Residual(nn.Conv2d(4, 4, 3, rng=2, **conv)), nn.Flatten())
    check_layer(model, data(2, 2, 5, 4), tolerance=1e-6)


def test_dropout() -> None:
    layer, x = nn.Dropout(0.4, rng=3), data(50, 4)
    y, grad = layer(x), layer.backward(np.ones_like(x))
    np.testing.assert_array_equal(grad * x, y)
    assert set(np.unique(grad)) == {0, 1 / (1 - 0.4)}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy(smoothing: float) -> None:
    loss, logits, target = nn.CrossEntropyLoss(smoothing), data(4, 5), np.array([0, 4, 2, 2], np.uint8)
    loss(logits, target)
    numeric = difference(lambda: loss.forward(logits, target), logits.copy(), 1e-5)
    assert np.all(numeric == 0)  # of a copy that is not read: the helper does not make things up
    analytic = loss.backward()
    np.testing.assert_allclose(analytic, difference(lambda: loss(logits, target), logits, 1e-5), atol=1e-9)


def test_mean_squared_error() -> None:
    loss, prediction, target = nn.MSELoss(), data(4, 5), np.ones((4, 5))
    loss(prediction, target)
    analytic = loss.backward()
    np.testing.assert_allclose(analytic, difference(lambda: loss(prediction, target), prediction, 1e-3), atol=1e-10)
