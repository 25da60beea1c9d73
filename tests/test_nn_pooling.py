"""Pooling and batch norm beside their definitions, in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from numbaconv import nn

Windows = list[list[int]]


def windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Windows:
    """The positions of every window along one axis, those in the padding included."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    starts = range(-padding, -padding + room + (stride if ceil_mode else 1), stride)
    return [[start + k * dilation for k in range(kernel)] for start in starts if start < size]


def check(layer: nn.Module, rows: Windows, columns: Windows, x: np.ndarray, divisor=None) -> None:
    """Compare with max pooling by its definition; with average pooling where ``divisor(row, column)`` is given."""
    H, W = x.shape[2:]
    reachable = [any(0 <= p < size for p in window) for size, axis in ((H, rows), (W, columns)) for window in axis]
    if not (rows and columns and all(reachable)):
        with pytest.raises(ValueError, match=r"too large|no pixel"):
            layer(x)
        return
    y, grad_x = np.empty((*x.shape[:2], len(rows), len(columns))), np.zeros_like(x)
    grad = np.random.default_rng(1).integers(-3, 4, y.shape).astype(float)
    for n, c, oh, ow in np.ndindex(y.shape):
        inside = [(n, c, h, w) for h in rows[oh] for w in columns[ow] if 0 <= h < H and 0 <= w < W]
        if divisor is None:
            winner = max(inside, key=x.__getitem__)  # the first of equals
            y[n, c, oh, ow] = x[winner]
            grad_x[winner] += grad[n, c, oh, ow]
        else:
            share = 1 / divisor(rows[oh], columns[ow])
            y[n, c, oh, ow] = sum(x[p] for p in inside) * share
            for p in inside:
                grad_x[p] += grad[n, c, oh, ow] * share
    np.testing.assert_allclose(layer(x), y, rtol=1e-14)
    np.testing.assert_allclose(layer.backward(grad), grad_x, rtol=1e-13, atol=1e-13)


# One axis: size, kernel, stride, padding.
AXIS = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2))
DILATION = st.integers(1, 3)


def images(h: int, w: int, seed: int) -> np.ndarray:
    """Small integers, so that there are ties."""
    return np.random.default_rng(seed).integers(-3, 4, (2, 2, h, w)).astype(float)


@settings(max_examples=100, deadline=None)
@given(h=AXIS, w=AXIS, dilation=st.tuples(DILATION, DILATION), ceil_mode=st.booleans(), seed=st.integers(0, 99))
def test_max_pooling(h, w, dilation, ceil_mode, seed) -> None:
    assume(all(2 * P <= D * (K - 1) + 1 for (_, K, _, P), D in zip((h, w), dilation, strict=True)))
    layer = nn.MaxPool2d(*zip(h[1:], w[1:], strict=True), dilation, ceil_mode=ceil_mode)
    check(layer, windows(*h, dilation[0], ceil_mode), windows(*w, dilation[1], ceil_mode), images(h[0], w[0], seed))


@settings(max_examples=100, deadline=None)
@given(h=AXIS, w=AXIS, ceil_mode=st.booleans(), include=st.booleans(), seed=st.integers(0, 99))
def test_average_pooling(h, w, ceil_mode, include, seed) -> None:
    assume(all(2 * P <= K for _, K, _, P in (h, w)))

    def count(axis: tuple[int, ...], window: list[int]) -> int:
        size, _, _, P = axis
        return sum(-P * include <= p < size + P * include for p in window)

    layer = nn.AvgPool2d(*zip(h[1:], w[1:], strict=True), ceil_mode, include)
    rows, columns = windows(*h, 1, ceil_mode), windows(*w, 1, ceil_mode)
    check(layer, rows, columns, images(h[0], w[0], seed), lambda row, column: count(h, row) * count(w, column))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (1, 3, 1, 2), (40, 4, 24, 20)])
def test_batch_norm(shape, dtype) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) * 3 + 100).astype(dtype)
    layer = nn.BatchNorm2d(shape[1], dtype=dtype)
    layer.weight.data[:], layer.bias.data[:] = rng.standard_normal((2, shape[1]))
    mean, variance = (m(x.astype(float), axis=(0, 2, 3), keepdims=True) for m in (np.mean, np.var))
    wanted = (x - mean) / np.sqrt(variance + 1e-5)
    wanted = wanted * layer.weight.data[:, None, None] + layer.bias.data[:, None, None]
    np.testing.assert_allclose(layer(x), wanted, atol=1e-4 if dtype is np.float32 else 1e-11)
    count = x.size // shape[1]
    np.testing.assert_allclose(layer.running_mean, 0.1 * mean.ravel(), rtol=1e-6)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * variance.ravel() * count / (count - 1), rtol=1e-6)
    layer.eval()
    running = [value[:, None, None] for value in (layer.running_mean, layer.running_var)]
    wanted = (x - running[0]) / np.sqrt(running[1] + 1e-5)
    wanted = wanted * layer.weight.data[:, None, None] + layer.bias.data[:, None, None]
    np.testing.assert_allclose(layer(x), wanted, rtol=1e-4)


@pytest.mark.parametrize("planes", [(16, 8), (13, 5), (1, 256), (70, 1)])
@pytest.mark.parametrize(
    ("kernel", "stride"), [((2, 2), (2, 2)), ((1, 3), (2, 1)), ((2, 1), (2, 3)), ((3, 2), (3, 2)), ((2, 2), (3, 2))]
)
def test_many_small_planes_that_windows_fill(kernel, stride, planes) -> None:
    # They are pooled as fewer and higher ones.
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (*planes, 3 * stride[0], 11)).astype(float)
    grad = rng.integers(-3, 4, (*planes, 3, (11 - kernel[1]) // stride[1] + 1)).astype(float)
    for make in (nn.MaxPool2d, nn.AvgPool2d):
        layer = make(kernel, stride)
        y, grad_x = layer(x), layer.backward(grad)
        for n, c in np.ndindex(planes):
            np.testing.assert_array_equal(layer(x[n : n + 1, c : c + 1]), y[n : n + 1, c : c + 1])
            found = layer.backward(grad[n : n + 1, c : c + 1])
            np.testing.assert_array_equal(found, grad_x[n : n + 1, c : c + 1])
