"""Linear layers: products of matrices of every shape around a tile and a vector, for equality on whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import INTERPRETED, everything_in_parallel, run_python

import numbaconv
from numbaconv import nn
from numbaconv.kernels.tiles import HEIGHTS, TALL
from numbaconv.nn import linear
from numbaconv.simd import lanes

FLOATS = [np.float32, np.float64]
#: Around one vector of float32 or float64, two, and three.
AROUND = [1, 2, *sorted({lanes(d) * n + k for d in FLOATS for n in (1, 2, 3) for k in (-1, 0, 1)})]


@pytest.fixture(autouse=True)
def memory_that_just_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch memory of the size asked for, which holds what must not get into a result."""
    monkeypatch.setattr(linear, "scratch", lambda dtype, size: np.full(size, np.nan, dtype))


def layer_of(rng: np.random.Generator, K: int, M: int, bias: bool, dtype: Any) -> nn.Linear:
    """A layer of small whole numbers."""
    layer = nn.Linear(K, M, bias, dtype=dtype)
    for parameter in layer.parameters():
        parameter.data[...] = rng.integers(-3, 4, parameter.data.shape)
    return layer


def check(layer: nn.Linear, x: np.ndarray, grad: np.ndarray, relu: bool = False) -> None:
    """Compare a layer's three products with NumPy's."""
    w, b = layer.weight.data, 0 if layer.bias is None else layer.bias.data
    wanted = x @ w.T + b
    wanted = np.maximum(wanted, 0) if relu else wanted
    layer.zero_grad()
    np.testing.assert_array_equal(layer.forward(x, relu), wanted)
    np.testing.assert_array_equal(layer.backward(grad), (grad * (wanted > 0) if relu else grad) @ w)
    grad = grad * (wanted > 0) if relu else grad
    np.testing.assert_array_equal(layer.weight.grad, grad.T @ x)
    if layer.bias is not None:
        np.testing.assert_array_equal(layer.bias.grad, grad.sum(0))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", ["rows", "features", "outputs"])
def test_every_size_around_a_vector_and_a_tile(axis: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    sizes = [*AROUND, *(height + k for height in HEIGHTS for k in (0, 1)), 2 * TALL + 3]
    for size in sizes[:: 4 if INTERPRETED else 1]:
        for bias, relu, few in ((True, False, 3), (False, True, lanes(dtype) + 1)):
            N, K, M = (size if axis == name else few for name in ("rows", "features", "outputs"))
            layer = layer_of(rng, K, M, bias, dtype)
            for rows in {N, linear._FEW_ROWS + N}:  # few rows have a kernel of their own
                x, grad = rng.integers(-3, 4, (rows, K)).astype(dtype), rng.integers(-3, 4, (rows, M)).astype(dtype)
                check(layer, x, grad, relu)


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_products_and_the_same_bits_for_any_number_of_threads(dtype: Any) -> None:
    rng, threads = np.random.default_rng(1), numbaconv.get_num_threads()
    N, K, M = (9, 11, 5) if INTERPRETED else (65, 203, 117)
    layer = layer_of(rng, K, M, True, dtype)
    x, grad = rng.integers(-3, 4, (N, K)).astype(dtype), rng.integers(-3, 4, (N, M)).astype(dtype)
    noise = rng.standard_normal((N, K)).astype(dtype)
    found = set()
    try:
        with everything_in_parallel():
            for count in (1, threads):
                numbaconv.set_num_threads(count)
                check(layer, x, grad)
                layer.zero_grad()
                results = layer(noise), layer.backward(noise[:, :1] * grad), layer.weight.grad
                found.add(b"".join(array.tobytes() for array in results))
    finally:
        numbaconv.set_num_threads(threads)
    assert len(found) == 1


def test_no_rows() -> None:
    layer = nn.Linear(3, 2, rng=0)
    assert layer(np.empty((0, 3), np.float32)).shape == (0, 2)
    assert layer.backward(np.empty((0, 2), np.float32)).shape == (0, 3)
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()


def test_tiles_cover_all_rows_and_do_not_hang_over() -> None:
    for rows in (*range(70), 1000, 12345):
        tiles = linear._tiles(rows)
        assert [first + p for first, height in tiles for p in range(height)] == list(range(rows))
        assert {height for _, height in tiles.tolist()} <= {*HEIGHTS, 1}


GUARDED = """
import sys
import numpy as np
from numbaconv import nn
from numbaconv.nn import linear
from test_guard_pages import guarded
linear.scratch = lambda dtype, size: guarded(np.full(size, np.nan, dtype), side)
rng = np.random.default_rng(0)
for side in ("start", "end"):
    for N, K, M in ((9, 5, 3), (16, 16, 16), (17, 33, 31), (40, 32, 14), (33, 50, 10)):
        layer = nn.Linear(K, M, rng=0)
        for parameter in layer.parameters():
            parameter.data = guarded(parameter.data, side)
        x, grad = (guarded(rng.standard_normal((N, size)).astype(np.float32), side) for size in (K, M))
        y = layer(x)
        np.testing.assert_allclose(y, x @ layer.weight.data.T + layer.bias.data, 1e-4, 1e-5)
        np.testing.assert_allclose(layer.backward(grad), grad @ layer.weight.data, 1e-4, 1e-5)
        np.testing.assert_allclose(layer.weight.grad, grad.T @ x, 1e-4, 1e-5)
print("well")
"""


@pytest.mark.skipif(INTERPRETED, reason="as Python, every position is checked")
def test_nothing_beyond_the_arrays_is_touched() -> None:
    result = run_python("-c", GUARDED)
    assert result.stdout.split() == ["well"], result.stderr[-2000:]
