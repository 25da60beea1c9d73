"""Layers give the same whichever way images lie in memory, and steps that are run together the same as one by one."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import nn
from numbaconv.nn.layout import flat, in_layout, layout_of, preferred
from numbaconv.simd import lanes

LAYERS = {
    "relu": nn.ReLU,
    "dropout": lambda: nn.Dropout(0.5).eval(),
    "flatten": nn.Flatten,
    "flatten pixels": lambda: nn.Flatten(2),
    "global": nn.GlobalAvgPool2d,
    "max": lambda: nn.MaxPool2d(2),
    "max overlapping": lambda: nn.MaxPool2d(3, 1, 1),
    "max strided": lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max dilated": lambda: nn.MaxPool2d((2, 3), (3, 1), (1, 1), (1, 2)),
    "average": lambda: nn.AvgPool2d(2),
    "average padded": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average overlapping": lambda: nn.AvgPool2d((3, 2), (1, 3), (1, 0), ceil_mode=True),
    "batch norm": lambda: nn.BatchNorm2d(5),
    "batch norm, evaluated": lambda: nn.BatchNorm2d(5).eval(),
    "convolution": lambda: nn.Conv2d(5, 7, 3, padding=1, rng=0),
    "strided to vectors": lambda: nn.Conv2d(5, 32, 3, 2, 1, rng=0),
    "transposed": lambda: nn.ConvTranspose2d(5, 3, 3, 2, 1, rng=0),
    "residual": lambda: nn.Residual(nn.ReLU(), nn.Conv2d(5, 5, 1, rng=0)),
}
SIZES = [(3, 5, 8, 9), (1, 5, 6, 6), (2, 5, 130, 70)]


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_both_layouts(name: str, size: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-3, 4, size).astype(np.float32)
    layer, other = LAYERS[name](), LAYERS[name]()
    y = layer(x)
    grad = rng.integers(-3, 4, y.shape).astype(np.float32)
    expected = layer.backward(grad)
    found = other(channels_last(x))
    np.testing.assert_allclose(found, y, rtol=1e-5, atol=1e-5)
    for gradient in (grad, channels_last(grad)) if grad.ndim == 4 else (grad,):
        other.zero_grad()
        np.testing.assert_allclose(other.backward(gradient), expected, rtol=1e-4, atol=1e-4)
        for (where, a), b in zip(other.named_parameters(), layer.parameters(), strict=True):
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-4, atol=1e-4, err_msg=where)


@pytest.mark.parametrize(
    "name", [name for name in LAYERS if name not in ("convolution", "strided to vectors", "transposed")]
)
def test_layers_keep_the_layout(name: str) -> None:
    layer = LAYERS[name]()
    y = layer(channels_last(np.ones((2, 5, 8, 8), np.float32)))
    if y.ndim == 4 and layout_of(y) == "NHWC":
        assert layout_of(layer.backward(np.ones(y.shape, np.float32))) == "NHWC"
    else:
        assert name in ("flatten", "flatten pixels", "global")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_convolution_chooses(dtype: type) -> None:
    whole = lanes(dtype)
    x = np.ones((2, 3, 8, 8), dtype)
    for channels, layout in ((2 * whole, "NHWC"), (3 * whole, "NHWC"), (2 * whole - 1, "NCHW"), (whole, "NCHW")):
        layer = nn.Conv2d(3, channels, 3, rng=0, dtype=dtype)
        assert preferred(3, (2, channels, 6, 6), np.dtype(dtype)) == layout == layout_of(layer(x))
        assert layout_of(layer.backward(np.ones((2, channels, 6, 6), dtype))) == "NCHW"  # as x
    assert preferred(whole, (2, whole, 6, 6), np.dtype(dtype)) == "NHWC"
    assert preferred(3, (2, whole, 8, 8), np.dtype(dtype)) == "NHWC"
    assert preferred(3, (2, whole - 1, 8, 8), np.dtype(dtype)) == "NCHW"


@pytest.mark.parametrize("pixels", [(1, 1), (2, 3), (7, 9), (33, 40)], ids=str)
def test_from_one_layout_to_the_other(pixels: tuple[int, int]) -> None:
    for channels in (1, 2, 16, 21):
        x = np.random.default_rng(0).standard_normal((3, channels, *pixels)).astype(np.float32)
        there = in_layout(x, "NHWC")
        back = in_layout(there, "NCHW")
        assert np.array_equal(there, x)
        assert np.array_equal(back, x)
        assert back.flags.c_contiguous
        assert np.array_equal(flat(there), x.transpose(0, 2, 3, 1).ravel())


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_and_relu_together(layout: str, training: bool) -> None:
    rng = np.random.default_rng(2)
    for shape in ((4, 5, 7, 8), (3, 20, 16, 16), (2, 3, 1, 61), (40, 2, 31, 37)):
        x, grad = (in_layout(rng.standard_normal(shape).astype(np.float32), layout) for _ in range(2))
        norm, relu = nn.BatchNorm2d(shape[1]), nn.ReLU()
        norm.bias.data[:] = rng.standard_normal(shape[1])
        model = nn.Sequential(norm, relu).train(training)
        y = relu(norm(x))
        alone = norm.backward(relu.backward(grad)), norm.weight.grad, norm.bias.grad
        norm.zero_grad()
        norm.running_mean[:], norm.running_var[:] = 0, 1
        norm2 = nn.BatchNorm2d(shape[1]).train(training)
        norm2.weight.data[:], norm2.bias.data[:] = norm.weight.data, norm.bias.data
        model = nn.Sequential(norm2, nn.ReLU()).train(training)
        assert np.array_equal(model(x), y)
        assert np.array_equal(model.backward(grad), alone[0])
        assert np.array_equal(norm2.weight.grad, alone[1])
        assert np.array_equal(norm2.bias.grad, alone[2])


@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("max")])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_max_pooling_and_relu_together(layout: str, name: str) -> None:
    rng = np.random.default_rng(4)
    for size in SIZES:
        x = rng.integers(-9, 4, size).astype(np.float32)
        x[rng.random(size) < 0.02], x[rng.random(size) < 0.02], x[rng.random(size) < 0.02] = np.nan, np.inf, -np.inf
        x = in_layout(x, layout)
        pool, relu = LAYERS[name](), nn.ReLU()
        y = relu(pool(x))
        grad = in_layout(rng.integers(-3, 4, y.shape).astype(np.float32), layout)
        for model in (nn.Sequential(LAYERS[name](), nn.ReLU()), nn.Sequential(nn.ReLU(), LAYERS[name]())):
            np.testing.assert_array_equal(model(x), y)
            np.testing.assert_array_equal(model.backward(grad), pool.backward(relu.backward(grad)))
            assert len(model._in_training) == 1


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("size", [(3, 5, 8, 9), (1, 1, 1, 1), (2, 17, 1, 7), (40, 70, 33, 40), (0, 5, 2, 2)], ids=str)
def test_the_mean_of_planes(size: tuple[int, ...], layout: str) -> None:
    for dtype, error in ((np.float32, 1e-7), (np.float64, 1e-15)):
        x = in_layout(np.random.default_rng(5).random(size).astype(dtype), layout)
        y = nn.GlobalAvgPool2d()(x)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, x.mean((2, 3), dtype=float), rtol=error)


def test_a_sum_and_relu_together() -> None:
    rng = np.random.default_rng(3)
    for first, second in (("NCHW", "NHWC"), ("NHWC", "NHWC")):
        x = in_layout(rng.integers(-4, 5, (2, 16, 5, 6)).astype(np.float32), first)
        grad = in_layout(rng.integers(-4, 5, (2, 16, 5, 6)).astype(np.float32), second)
        model = nn.Sequential(nn.Residual(nn.Conv2d(16, 16, 1, rng=0)), nn.ReLU())
        parts = nn.Residual(nn.Conv2d(16, 16, 1, rng=0)), nn.ReLU()
        assert np.array_equal(model(x), parts[1](parts[0](x)))
        assert np.array_equal(model.backward(grad), parts[0].backward(parts[1].backward(grad)))


def block(shortcut: bool) -> nn.Sequential:
    """A residual block whose main path ends in batch norm, and the ReLU behind it."""
    main = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, rng=0), nn.BatchNorm2d(16))
    return nn.Sequential(nn.Residual(main, nn.Conv2d(16, 16, 1, rng=1) if shortcut else None), nn.ReLU())


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_and_a_sum_together(relu: bool, shortcut: bool, layout: str) -> None:
    rng = np.random.default_rng(5)
    x, grad = (in_layout(rng.standard_normal((4, 16, 9, 7)).astype(np.float32), layout) for _ in range(2))
    model, parts = block(shortcut), block(shortcut)
    residual, rectified = parts
    conv, norm = residual.main
    found = model(x) if relu else model[0](x)

    h = norm(conv(x))
    y = rectified(h + (residual.shortcut(x) if shortcut else x))
    if not relu:
        y = h + (residual.shortcut(x) if shortcut else x)
    assert np.array_equal(found, y)

    through = rectified.backward(grad) if relu else grad
    expected = conv.backward(norm.backward(through)) + (residual.shortcut.backward(through) if shortcut else through)
    assert np.array_equal(model.backward(grad) if relu else model[0].backward(grad), expected)
    for (name, a), b in zip(model.named_parameters(), parts.parameters(), strict=True):
        assert np.array_equal(a.grad, b.grad), name


def test_a_sum_that_batch_norm_can_not_take() -> None:
    x = np.random.default_rng(6).standard_normal((2, 16, 4, 4)).astype(np.float32)

    class Wide(nn.Module):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return x.astype(np.float64)

        def backward(self, grad_output: np.ndarray) -> np.ndarray:
            return grad_output.astype(np.float32)

    model = block(False)
    model[0].shortcut = Wide()
    y = model(x)
    assert y.dtype == np.float64
    assert model.backward(np.ones(y.shape)).shape == x.shape
    with pytest.raises(ValueError, match="must be alike to be added"):
        nn.Residual(nn.Sequential(nn.BatchNorm2d(16)), nn.Conv2d(16, 16, 2, rng=0))(x)


def test_a_main_path_in_evaluation_adds_nothing_itself() -> None:
    x = np.random.default_rng(7).standard_normal((2, 16, 4, 4)).astype(np.float32)
    model = block(False)
    model[0].main.eval()
    mixed = model(x)
    assert np.array_equal(mixed, model.eval()(x))


def test_nan_goes_through() -> None:
    x = np.array([np.nan, -1, 1], np.float32).reshape(1, 1, 1, 3)
    norm = nn.BatchNorm2d(1).eval()
    assert np.array_equal(np.isnan(norm.forward(x, relu=True)).ravel(), [True, False, False])
    assert np.isnan(nn.Residual(nn.ReLU()).forward(x, relu=True)).ravel()[0]


def test_moments_are_exact_far_from_zero() -> None:
    rng = np.random.default_rng(4)
    x = (1e4 + rng.standard_normal((8, 3, 16, 16))).astype(np.float32)
    x[0] += np.arange(3, dtype=np.float32).reshape(3, 1, 1) * 5  # an image unlike the others
    for layout in ("NCHW", "NHWC"):
        norm = nn.BatchNorm2d(3, momentum=1.0)
        norm(in_layout(x, layout))
        wide = x.astype(np.float64)
        np.testing.assert_allclose(norm.running_mean, wide.mean((0, 2, 3)), rtol=1e-7)
        np.testing.assert_allclose(norm.running_var, wide.var((0, 2, 3), ddof=1), rtol=2e-5)
