"""The fully connected layer, and what leads to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numbaconv.functional import conv2d, conv2d_backward
from numbaconv.geometry import integer
from numbaconv.nn.checks import check_gradient, dense, parameter_dtype
from numbaconv.nn.initialisation import Rng, uniform
from numbaconv.nn.layout import Form, in_layout
from numbaconv.nn.module import Module

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
        dtype, rng = parameter_dtype(dtype), np.random.default_rng(rng)
        self.weight = uniform((self.out_features, self.in_features), self.in_features, rng, dtype)
        self.bias = uniform((self.out_features,), self.in_features, rng, dtype) if bias else None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """``(N, out_features)``."""
        x = dense(x, "x", 2, "(N, in_features)")
        if x.shape[1] != self.in_features:
            raise ValueError(f"x has {x.shape[1]} features (shape {x.shape}), but {self!r} takes {self.in_features}")
        y = conv2d(_image(x), self._filters(), None if self.bias is None else self.bias.data, layout="NHWC")
        y = y.reshape(-1, self.out_features)
        self._saved = x, Form.of(y)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """``(N, in_features)``, or None where nobody needs it."""
        x, form = self._recall()
        grad = check_gradient(grad_output, form)
        mask = self.needs_input_grad, True, self.bias is not None
        images = _image(grad), _image(x)
        to_x, to_weight, to_bias = conv2d_backward(*images, self._filters(), output_mask=mask, layout="NHWC")
        assert to_weight is not None  # for it was asked for
        self.weight.add_grad(to_weight.reshape(self.weight.data.shape))
        if self.bias is not None and to_bias is not None:
            self.bias.add_grad(to_bias)
        return None if to_x is None else to_x.reshape(x.shape)

    def _filters(self) -> np.ndarray:
        """The weight as that of a 1 x 1 convolution, whose pixels are rows and whose channels are features."""
        return self.weight.data[:, None, None]

    def _describe(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ", bias=False" * (self.bias is None)


def _image(rows: np.ndarray) -> np.ndarray:
    """Rows ``(N, features)`` as pixels of images of a single row, ``(images, 1, width, features)``.

    Threads share images, and a register tile takes some pixels of one. So there are several images, but not too small
    ones, where a size can be found that divides the rows.
    """
    N, features = rows.shape
    width = next((width for width in _WIDTHS if N % width == 0), max(1, N))
    return rows.reshape(N // width, 1, width, features)


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
