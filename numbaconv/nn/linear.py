"""The fully connected layer, and what leads to it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from numbaconv.arrays import check_bias, float_array, result_dtype
from numbaconv.kernels import linear as kernels
from numbaconv.kernels.rows import OUTPUTS, multiply_rows
from numbaconv.kernels.sums import STRETCH, sum_pixels
from numbaconv.kernels.tiles import MIDDLE, SHORT, TALL, VECTORS
from numbaconv.memory import flat, fresh, scratch
from numbaconv.nn.activation import masked
from numbaconv.nn.checks import check_gradient, dense, flag, parameter_dtype
from numbaconv.nn.initialisation import Rng, generator, uniform
from numbaconv.nn.layout import Form, in_layout
from numbaconv.nn.module import Module
from numbaconv.parameters import integer
from numbaconv.plan import common
from numbaconv.plan.common import round_up
from numbaconv.simd import lanes
from numbaconv.threads import for_team, launch, launch_light, threads_for

#: So many rows are fewer than what packing the weights pays for.
_FEW_ROWS = 8


class Linear(Module):
    """``y = x @ weight.T + bias``.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of a row of x and of the output.
    bias : bool
        Whether a value a feature is added to the output.
    dtype : float32 or float64
        Of the parameters.
    rng : numpy.random.Generator or int, optional
        Where the initial values come from: a generator, or the seed of one.

    Attributes
    ----------
    weight : Parameter
        ``(out_features, in_features)``, drawn from ±1/√in_features, as is the bias.
    bias : Parameter or None
        ``(out_features,)``.

    Raises
    ------
    TypeError, ValueError
        For arguments that are wrong, in the constructor or, where they do not fit x, in forward.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.Linear(256, 10)(np.zeros((32, 256), np.float32)).shape
    (32, 10)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = np.float32, rng: Rng = None
    ) -> None:
        super().__init__()
        self.in_features = integer(in_features, "in_features", 1)
        self.out_features = integer(out_features, "out_features", 1)
        dtype, rng = parameter_dtype(dtype), generator(rng)
        self.weight = uniform((self.out_features, self.in_features), self.in_features, rng, dtype)
        self.bias = uniform((self.out_features,), self.in_features, rng, dtype) if flag(bias, "bias") else None

    def forward(self, x: np.ndarray, relu: bool = False) -> np.ndarray:
        """``(N, out_features)``; with ``relu``, what a :class:`ReLU` would make of it, in the same sweep."""
        x = dense(x, "x", 2, "(N, in_features)")
        if x.shape[1] != self.in_features:
            raise ValueError(f"x has {x.shape[1]} features (shape {x.shape}), but {self!r} takes {self.in_features}")
        weight = float_array(self.weight.data, "weight")
        bias = None if self.bias is None else check_bias(self.bias.data, self.out_features)
        y = fresh((len(x), self.out_features), result_dtype(x, weight))
        self._saved = x, Form.of(y), y if relu else None
        N, K, M = len(x), self.in_features, self.out_features
        rows, weights, out, sizes = flat(x, y.dtype), flat(weight, y.dtype), y.reshape(-1), (N, K, M, int(relu))
        if N <= _FEW_ROWS:
            values = np.empty(0, y.dtype) if bias is None else flat(bias, y.dtype)
            launch_light(multiply_rows, -(-M // OUTPUTS), weights.size, rows, weights, values, out, sizes)
            return y
        values = np.zeros(M, y.dtype) if bias is None else flat(bias, y.dtype)
        tiles, width = _tiles(M), lanes(y.dtype)
        threads = _threads(N * K * M, len(tiles))
        memory = scratch(y.dtype, round_up(N, width) * K + threads * TALL * VECTORS * width)
        launch(kernels.forward, threads, rows, weights, values, out, memory, tiles, sizes)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """``(N, in_features)``, or None where nobody needs it."""
        x, form, rectified = self._recall()
        grad = check_gradient(grad_output, form)
        if rectified is not None:
            grad = masked(grad, rectified)
        dtype, N, K, M = grad.dtype, len(x), self.in_features, self.out_features
        gradients = grad.reshape(-1)
        self.weight.add_grad(_product(gradients, flat(x, dtype), (M, K), N, (1, M)))
        if self.bias is not None:
            sums, parts = np.empty(M, dtype), -(-N // STRETCH)
            launch_light(sum_pixels, parts, grad.size, gradients, sums, np.empty(parts * M, dtype), M)
            self.bias.add_grad(sums)
        if not self.needs_input_grad:
            return None
        weight = flat(float_array(self.weight.data, "weight"), dtype)
        return _product(gradients, weight, (N, K), M, (M, 1))

    def _describe(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ", bias=False" * (self.bias is None)


def _product(a: np.ndarray, b: np.ndarray, shape: tuple[int, int], steps: int, apart: tuple[int, int]) -> np.ndarray:
    """A product of two matrices of ``shape``, over so many ``steps``; rows and steps of ``a`` lie so far ``apart``."""
    (rows, columns), width = shape, lanes(b.dtype)
    c = fresh(shape, b.dtype)
    threads = _threads(rows * columns * steps, -(-columns // (VECTORS * width)))
    last = scratch(b.dtype, steps * width if columns % width else 0)
    launch(kernels.multiply, threads, a, b, c.reshape(-1), last, _tiles(rows), (columns, steps, *apart))
    return c


def _threads(products: int, tasks: int) -> int:
    """How many threads are to share so many tasks."""
    least = common.TEAM_FLOPS if for_team() else common.SERIAL_FLOPS
    return threads_for(tasks) if 2 * products >= least else 1


@lru_cache(maxsize=256)
def _tiles(rows: int) -> np.ndarray:
    """Tiles that cover so many rows and do not hang over: (first row, how many)."""
    full = max(0, rows // TALL - MIDDLE)
    best: list[tuple[float, int]] = [(0.0, 0)]  # for each number of rows: the time that tiles take, and the last one
    for count in range(1, rows - full * TALL + 1):
        best.append(min((best[count - h][0] + max(h, 4) + 1, h) for h in (TALL, MIDDLE, SHORT, 1) if h <= count))
    heights, left = [TALL] * full, rows - full * TALL
    while left > 0:
        heights.append(best[left][1])
        left -= heights[-1]
    firsts = np.cumsum([0, *heights])[:-1]
    return np.stack([firsts, np.array(heights, np.int64)], axis=1).astype(np.int64)


class Flatten(Module):
    """Several dimensions into one: ``(N, C, H, W)`` to ``(N, C * H * W)``.

    Parameters
    ----------
    start_dim, end_dim : int
        The first and the last of the dimensions that become one; negative ones count from the end.

    Raises
    ------
    TypeError
        A dimension is not an integer.
    ValueError
        In forward: x has no such dimensions, or the last comes before the first.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.Flatten()(np.zeros((32, 16, 4, 4), np.float32)).shape
    (32, 256)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        for name, value in (("start_dim", start_dim), ("end_dim", end_dim)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
        self.start_dim, self.end_dim = int(start_dim), int(end_dim)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The same values in a new shape."""
        x = in_layout(dense(x, "x"), "NCHW")
        start, end = (dim + x.ndim if dim < 0 else dim for dim in (self.start_dim, self.end_dim))
        if not 0 <= start <= end < x.ndim:
            raise ValueError(f"{self!r} cannot flatten dimensions {start} to {end} of an x of shape {x.shape}")
        y = x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])
        self._saved = x.shape, Form.of(y)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """The same values in the shape of x."""
        shape, form = self._recall()
        return check_gradient(grad_output, form).reshape(shape)

    def _describe(self) -> str:
        return "" if (self.start_dim, self.end_dim) == (1, -1) else f"{self.start_dim}, {self.end_dim}"
