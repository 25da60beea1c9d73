"""A convolution and what follows it, as one sweep over memory.

In evaluation, batch norm multiplies each channel by a constant and adds another. Both can be taken into the weight and
the bias of the convolution before it, and a ReLU into the way in which that writes its output. Such a weight is kept in
the order in which the kernels read it, until one of the arrays that it was made of has changed.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np

from numbaconv.kernels.elementwise import alike
from numbaconv.nn.checks import FLOATS
from numbaconv.nn.convolution import Conv2d
from numbaconv.nn.normalisation import BatchNorm2d
from numbaconv.packed import PackedWeight, prepack


class _Held(NamedTuple):
    """A weight and a bias, and the arrays that they were made of, as they were."""

    arrays: tuple[np.ndarray, ...]
    bits: tuple[np.ndarray, ...]  # the same memory as integers, for those are alike where their bits are
    copies: tuple[np.ndarray, ...]
    eps: float
    weight: PackedWeight
    bias: np.ndarray | None


class Folded:
    """A convolution, and a batch norm and a ReLU behind it, if there are.

    Where one of them is in training, they run one after the other.
    """

    def __init__(self, conv: Conv2d, norm: BatchNorm2d | None, relu: bool) -> None:
        self.conv, self.norm, self.relu = conv, norm, relu
        self._held: _Held | None = None
        self._x: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: the layers, nothing that was made of them."""
        return vars(self) | {"_held": None, "_x": None}

    def forward(self, x: np.ndarray) -> np.ndarray:
        self._held = self._current()
        if self._held is None:
            self._x = None
            return self._one_by_one(x)
        self._x = self.conv.check_channels(x)
        weight, bias = self._held.weight, self._held.bias
        return self.conv.convolve(self._x, weight.array, bias, self.relu, weight)[0]

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """The chain rule. It needs what is between the layers, which is computed now where it was folded away."""
        if self._x is not None:
            self._one_by_one(self._x)
        if self.norm is not None:
            grad_output = self.norm.backward(grad_output)
        return self.conv.backward(grad_output)

    def _one_by_one(self, x: np.ndarray) -> np.ndarray:
        if self.norm is None:
            return self.conv.forward(x, self.relu)
        return self.norm.forward(self.conv.forward(x), self.relu)

    def _current(self) -> _Held | None:
        """Weight and bias as the layers are now; None where they are in training, or can't be folded."""
        conv, norm = self.conv, self.norm
        if conv.training or (norm is not None and (norm.training or norm.running_mean is None)):
            return None
        parameters = [conv.weight, conv.bias] + ([] if norm is None else [norm.weight, norm.bias])
        arrays = tuple([parameter.data for parameter in parameters if parameter is not None])
        if norm is not None and norm.running_mean is not None and norm.running_var is not None:
            arrays += norm.running_mean, norm.running_var
        eps, held = 0.0 if norm is None else norm.eps, self._held
        if (
            held is not None
            and held.eps == eps
            and len(arrays) == len(held.arrays)
            and all(map(operator.is_, arrays, held.arrays))
            and alike(held.bits, held.copies)
        ):
            return held
        return self._hold(arrays, eps)

    def _hold(self, arrays: tuple[np.ndarray, ...], eps: float) -> _Held | None:
        """Fold the arrays, unless something about them is unusual: then the layers say what it is, or cope with it."""
        dtype, C = arrays[0].dtype, self.conv.out_channels
        usual = all(a.dtype == dtype and a.flags.carray and a.shape in ((C,), arrays[0].shape) for a in arrays)
        if dtype not in FLOATS or not usual or (self.norm is not None and self.norm.num_features != C):
            return None
        weight, bias = self._folded()
        if not all(np.isfinite(a).all() for a in (weight, bias) if a is not None):
            return None
        bits = tuple([a.reshape(-1).view(f"i{dtype.itemsize}") for a in arrays])
        return _Held(arrays, bits, tuple([a.copy() for a in bits]), eps, prepack(weight), bias)

    def _folded(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The weight and bias of the convolution that does what the layers do."""
        norm, weight, bias = self.norm, self.conv.weight.data, None if self.conv.bias is None else self.conv.bias.data
        if norm is None or norm.running_mean is None or norm.running_var is None:
            return weight, None if bias is None else bias.copy()
        with np.errstate(all="ignore"):  # what overflows is not folded
            scale, shift = norm.constants(norm.running_mean, norm.running_var)
            shift = shift if bias is None else shift + scale * bias
            return (weight * scale[:, None, None, None]).astype(weight.dtype), shift.astype(weight.dtype)
