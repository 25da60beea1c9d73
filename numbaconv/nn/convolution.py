"""Layers that convolve."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numbaconv.algorithms import get_algorithm
from numbaconv.arrays import check_bias, float_array, result_dtype
from numbaconv.execution import bias_gradient, correlate, weight_gradient
from numbaconv.functional import conv2d, conv2d_weight, conv_transpose2d
from numbaconv.geometry import Conv2dGeometry
from numbaconv.memory import fresh
from numbaconv.nn.activation import masked
from numbaconv.nn.checks import check_gradient, flag, images, parameter_dtype
from numbaconv.nn.initialisation import Rng, generator, uniform
from numbaconv.nn.layout import Form, empty, empty_like, preferred
from numbaconv.nn.module import Module, Parameter
from numbaconv.nn.normalisation import Normalised
from numbaconv.nn.normed import normed_weight_gradient
from numbaconv.packed import PackedWeight
from numbaconv.parameters import IntOrPair, Padding, Shape, integer, pads, pair
from numbaconv.plan import FORMS, forward_plan, input_gradient_plan


class _Convolution(Module):
    """What :class:`Conv2d` and :class:`ConvTranspose2d` have in common."""

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair,
        padding: Padding,
        dilation: IntOrPair,
        groups: int,
    ) -> None:
        super().__init__()
        self.in_channels = integer(in_channels, "in_channels", 1)
        self.out_channels = integer(out_channels, "out_channels", 1)
        self.kernel_size = pair(kernel_size, "kernel_size", 1)
        self.stride = pair(stride, "stride", 1)
        self.dilation = pair(dilation, "dilation", 1)
        self.groups = integer(groups, "groups", 1)
        zeros = pads(padding, (1, 1), self.kernel_size, self.stride, self.dilation)  # to refuse bad ones now
        self.padding = padding if isinstance(padding, str | int) else zeros  # a list might be changed later
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(f"{name}={channels} must be divisible by groups={self.groups}")

    def _initialise(self, first: int, second: int, bias: bool, dtype: Any, rng: Rng) -> None:
        """The parameters; ``first`` and ``second`` are the channels along the first dimensions of the weight."""
        shape: Shape = (first, second // self.groups, *self.kernel_size)
        fan_in, dtype, rng = math.prod(shape[1:]), parameter_dtype(dtype), generator(rng)
        self.weight = uniform(shape, fan_in, rng, dtype)
        self.bias = uniform((self.out_channels,), fan_in, rng, dtype) if flag(bias, "bias") else None

    def _bias(self) -> np.ndarray | None:
        return None if self.bias is None else check_bias(self.bias.data, self.out_channels)

    def check_channels(self, x: np.ndarray) -> np.ndarray:
        """``x`` as dense images, of as many channels as the layer takes."""
        x = images(x)
        if x.shape[1] != self.in_channels:
            raise ValueError(f"x has {x.shape[1]} channels (shape {x.shape}), but {self!r} takes {self.in_channels}")
        return x

    def _describe(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        defaults = {"stride": (1, 1), "padding": 0, "dilation": (1, 1), "output_padding": (0, 0), "groups": 1}
        for name, default in defaults.items():
            value = getattr(self, name, default)
            if value != default:
                parts.append(f"{name}={value!r}")
        return ", ".join(parts + ["bias=False"] * (self.bias is None))


class Conv2d(_Convolution):
    """A 2-D convolution with weights that are learned; see :func:`numbaconv.conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of x and of the output.
    kernel_size : int or (int, int)
        Height and width of the kernel.
    stride, padding, dilation, groups
        As for :func:`numbaconv.conv2d`.
    bias : bool
        Whether a value a channel is added to the output.
    dtype : float32 or float64
        Of the parameters.
    rng : numpy.random.Generator or int, optional
        Where the initial values come from: a generator, or the seed of one.

    Attributes
    ----------
    weight : Parameter
        ``(out_channels, in_channels / groups, KH, KW)``, drawn from ±1/√fan_in, as is the bias (Kaiming uniform with
        a=√5, as in torch).
    bias : Parameter or None
        ``(out_channels,)``.

    Raises
    ------
    TypeError, ValueError
        For arguments that are wrong, in the constructor or, where they do not fit x, in forward.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> layer = nn.Conv2d(3, 8, 3, stride=2, padding=1, rng=0)
    >>> x = np.ones((2, 3, 28, 28), np.float32)  # (N, C, H, W)
    >>> layer(x).shape
    (2, 8, 14, 14)
    >>> layer.backward(np.ones((2, 8, 14, 14), np.float32)).shape
    (2, 3, 28, 28)
    >>> layer.weight.grad.shape, layer.bias.grad.shape
    ((8, 3, 3, 3), (8,))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: Padding = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
        rng: Rng = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self._initialise(self.out_channels, self.in_channels, bias, dtype, rng)

    def forward(self, x: np.ndarray, relu: bool = False) -> np.ndarray:
        """``(N, out_channels, OH, OW)``; with ``relu``, what a :class:`ReLU` would make of it, in the same sweep."""
        x = self.check_channels(x)
        y, geometry = self.convolve(x, float_array(self.weight.data, "weight"), self._bias(), relu)
        self._saved = x, Form.of(y), geometry, y if relu else None
        return y

    def convolve(
        self,
        x: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray | None,
        relu: bool,
        packed: PackedWeight | None = None,
    ) -> tuple[np.ndarray, Conv2dGeometry]:
        """Convolve images that have been checked with a weight of this layer's shape; the output, and the geometry."""
        dtype = result_dtype(x, weight)
        geometry = self.geometry(x, weight)
        y = empty(geometry.output_shape, dtype, preferred(self.in_channels, geometry.output_shape, dtype))
        correlate(forward_plan, FORMS[get_algorithm()], geometry, x, weight, bias, y, packed=packed, relu=relu)
        return y, geometry

    def geometry(self, x: np.ndarray, weight: np.ndarray) -> Conv2dGeometry:
        """That of the convolution of ``x`` with a weight of this layer's shape."""
        shapes = x.shape, np.shape(weight)
        return Conv2dGeometry.forward(*shapes, self.stride, self.padding, self.dilation, self.groups)

    def plain_arrays(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray | None] | None:
        """The weight and the bias, if kernels for images of a dtype take them as they are."""
        weight = self.weight.data
        if type(weight) is not np.ndarray or weight.dtype != dtype:
            return None
        bias = self._bias()
        return (weight, bias) if bias is None or (type(bias) is np.ndarray and bias.dtype == dtype) else None

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """``(N, in_channels, H, W)``, or None where nobody needs it."""
        x, form, geometry, rectified = self._recall()
        grad, forms, weight = check_gradient(grad_output, form), FORMS[get_algorithm()], self.weight.data
        if rectified is not None:
            grad = masked(grad, rectified)
        grad_weight = fresh(weight.shape, grad.dtype)
        if type(x) is not Normalised:
            weight_gradient(forms, geometry, x, grad, grad_weight)
        elif not normed_weight_gradient(geometry, x, grad, grad_weight):
            weight_gradient(forms, geometry, x.made(), grad, grad_weight)
        self.weight.add_grad(grad_weight)
        if self.bias is not None:
            self.bias.add_grad(bias_gradient(geometry, grad))
        if not self.needs_input_grad:
            return None
        grad_input = empty_like(x.x if type(x) is Normalised else x, grad.dtype)
        return correlate(input_gradient_plan, forms, geometry, grad, weight, None, grad_input)


class ConvTranspose2d(_Convolution):
    """A 2-D transposed convolution with weights that are learned; see :func:`numbaconv.conv_transpose2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of x and of the output.
    kernel_size : int or (int, int)
        Height and width of the kernel.
    stride, padding, output_padding, groups, dilation
        As for :func:`numbaconv.conv_transpose2d`.
    bias : bool
        Whether a value a channel is added to the output.
    dtype : float32 or float64
        Of the parameters.
    rng : numpy.random.Generator or int, optional
        Where the initial values come from: a generator, or the seed of one.

    Attributes
    ----------
    weight : Parameter
        ``(in_channels, out_channels / groups, KH, KW)``, drawn from ±1/√fan_in, as is the bias; fan_in is, as in
        torch, ``out_channels / groups * KH * KW``.
    bias : Parameter or None
        ``(out_channels,)``.

    Raises
    ------
    TypeError, ValueError
        For arguments that are wrong, in the constructor or, where they do not fit x, in forward.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> layer = nn.ConvTranspose2d(8, 3, 3, stride=2, padding=1, output_padding=1)
    >>> layer(np.ones((2, 8, 14, 14), np.float32)).shape
    (2, 3, 28, 28)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: Padding = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrPair = 1,
        *,
        dtype: Any = np.float32,
        rng: Rng = None,
    ) -> None:
        if isinstance(padding, str):
            raise ValueError(f"padding={padding!r} has no single meaning for ConvTranspose2d: give it in numbers")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self._initialise(self.in_channels, self.out_channels, bias, dtype, rng)
        self.output_padding = pair(output_padding, "output_padding", 0)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """``(N, out_channels, OH, OW)``."""
        x = self.check_channels(x)
        geometry = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        y = conv_transpose2d(x, self.weight.data, self._bias(), *geometry)
        self._saved = x, Form.of(y)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """``(N, in_channels, H, W)``, or None where nobody needs it.

        Forward is the input gradient of a convolution, so backward is that convolution: of grad_output for the gradient
        of x, and for the weight its weight gradient, where grad_output and x stand for its input and output gradient.
        """
        x, form = self._recall()
        grad = check_gradient(grad_output, form)
        if self.bias is not None:
            self.bias.add_grad(grad.sum((0, 2, 3)))
        grad, padding = self._crop(grad)
        geometry = (self.stride, padding, self.dilation, self.groups)
        self.weight.add_grad(conv2d_weight(grad, self.weight.data.shape, x, *geometry))
        return conv2d(grad, self.weight.data, None, *geometry) if self.needs_input_grad else None

    def _crop(self, grad: np.ndarray) -> tuple[np.ndarray, Padding]:
        """Input and padding of that convolution: an output padding is a padding at the end that is taken back."""
        (top, bottom), (left, right) = pads(self.padding, (1, 1), self.kernel_size, self.stride, self.dilation)
        bottom, right = bottom - self.output_padding[0], right - self.output_padding[1]
        rows, columns = grad.shape[2] + min(bottom, 0), grad.shape[3] + min(right, 0)
        return grad[:, :, :rows, :columns], ((top, max(bottom, 0)), (left, max(right, 0)))
