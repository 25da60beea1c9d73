"""The fully connected layer, and what leads to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numbaconv.arrays import check_bias, float_array, result_dtype
from numbaconv.execution import bias_gradient, correlate, weight_gradient
from numbaconv.geometry import Conv2dGeometry, integer
from numbaconv.kernels.rows import OUTPUTS, multiply_rows
from numbaconv.memory import flat
from numbaconv.nn.activation import relu_backward
from numbaconv.nn.checks import check_gradient, dense, flag, parameter_dtype
from numbaconv.nn.initialisation import Rng, generator, uniform
from numbaconv.nn.layout import Form, in_layout
from numbaconv.nn.module import Module
from numbaconv.plan import FORMS, forward_plan, input_gradient_plan
from numbaconv.threads import launch_light

_FORMS = FORMS["direct"]
#: So many rows are fewer than what packing the weights pays for.
_FEW_ROWS = 8
#: Rows that are taken together, as pixels of an image.
_WIDTHS = (14, 28, 16, 12, 24, 20, 10, 25, 8)


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
        y = np.empty((len(x), self.out_features), result_dtype(x, weight))
        self._saved = x, Form.of(y), y if relu else None
        if len(x) <= _FEW_ROWS and x.dtype == y.dtype:
            sizes = (len(x), self.in_features, self.out_features, int(relu))
            b = np.empty(0, y.dtype) if bias is None else flat(bias, y.dtype)
            arrays = (x.reshape(-1), flat(weight, y.dtype), b)
            launch_light(multiply_rows, -(-self.out_features // OUTPUTS), weight.size, *arrays, y.reshape(-1), sizes)
            return y
        g = self._geometry(x)
        out = y.reshape(g.output_shape)
        correlate(forward_plan, _FORMS, g, x.reshape(g.input_shape), _filters(weight), bias, out, relu=relu)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """``(N, in_features)``, or None where nobody needs it."""
        x, form, rectified = self._recall()
        g, weight = self._geometry(x), self.weight.data
        grad = check_gradient(grad_output, form)
        if rectified is not None:
            grad = relu_backward(grad, rectified)
        grad = grad.reshape(g.output_shape)
        grad_weight = np.empty(weight.shape, grad.dtype)
        weight_gradient(_FORMS, g, x.reshape(g.input_shape), grad, _filters(grad_weight))
        self.weight.add_grad(grad_weight)
        if self.bias is not None:
            self.bias.add_grad(bias_gradient(g, grad))
        if not self.needs_input_grad:
            return None
        grad_input = np.empty(x.shape, grad.dtype)
        correlate(input_gradient_plan, _FORMS, g, grad, _filters(weight), None, grad_input.reshape(g.input_shape))
        return grad_input

    def _geometry(self, x: np.ndarray) -> Conv2dGeometry:
        """The layer as a 1 x 1 convolution of images of a single row, whose pixels are rows, and channels features.

        Threads share images, and a register tile takes some pixels of one. So there are several images, but not too
        small ones, where a size can be found that divides the rows.
        """
        width = next((width for width in _WIDTHS if len(x) % width == 0), max(1, len(x)))
        shape = (len(x) // width, 1, width, self.in_features)
        return Conv2dGeometry.forward(shape, (self.out_features, 1, 1, self.in_features), layout="NHWC")

    def _describe(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ", bias=False" * (self.bias is None)


def _filters(weight: np.ndarray) -> np.ndarray:
    """A weight as that of the 1 x 1 convolution."""
    return weight[:, None, None]


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
