"""A convolution and what follows it, as one sweep over memory.

In evaluation, batch norm multiplies each channel by a constant and adds another. Both can be taken into the weight and
the bias of the convolution before it, and a ReLU into the way in which that writes its output. Such a weight is kept in
the order in which the kernels read it, until one of the arrays that it was made of has changed.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

import numpy as np

from numbaconv.algorithms import get_algorithm
from numbaconv.execution import correlate_with
from numbaconv.jit import ALL
from numbaconv.kernels.elementwise import digest
from numbaconv.memory import flat_image
from numbaconv.nn.checks import FLOATS
from numbaconv.nn.convolution import Conv2d
from numbaconv.nn.layout import empty, flat, in_layout, is_dense, preferred
from numbaconv.nn.module import evaluating
from numbaconv.nn.normalisation import BatchNorm2d
from numbaconv.packed import PackedWeight
from numbaconv.plan import FORMS, summed_plan

#: For so many kinds of calls a weight is held packed: batches of two sizes, a last one being smaller.
_KINDS = 2


class _Held(NamedTuple):
    """A weight and a bias, and the arrays that they were made of, as they were."""

    arrays: tuple[np.ndarray, ...]
    bits: tuple[np.ndarray, ...]  # the same memory as integers
    digests: np.ndarray
    eps: float
    weight: PackedWeight
    bias: np.ndarray | None

    def unchanged(self) -> bool:
        """Whether the arrays that it was made of hold what they held."""
        return bool((_digests(self.bits) == self.digests).all())

    def made_of(self, arrays: tuple[np.ndarray, ...], eps: float) -> bool:
        """Whether it was made of these arrays, and none of them has changed."""
        same = len(arrays) == len(self.arrays) and all(map(operator.is_, arrays, self.arrays))
        return same and eps == self.eps and self.unchanged()


class Folded:
    """A convolution, and a batch norm and a ReLU behind it, if there are.

    They run one after the other where one of them is in training, or something about them is unusual: then they say
    what it is, or cope with it.
    """

    def __init__(self, conv: Conv2d, norm: BatchNorm2d | None, relu: bool) -> None:
        self.conv, self.norm, self.relu = conv, norm, relu
        self._held: _Held | None = None
        self._saved: tuple[np.ndarray, _Held] | None = None  # x and the weight of the last forward pass, if it was one

    def forget_saved(self) -> None:
        """Hold nothing of the last forward pass."""
        self._saved = None

    @property
    def held(self) -> _Held | None:
        """What the last forward pass computed with, if the layers ran as one."""
        return self._held

    def forget(self) -> None:
        """Hold nothing: neither a weight nor what the last forward pass saved."""
        self._held = self._saved = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.conv.check_channels(x)
        held = self.fold(x)
        if held is None:
            return self._one_by_one(x)
        return self.conv.convolve(x, held.weight.array, held.bias, self.relu, held.weight)[0]

    def forward_sum(self, x: np.ndarray, plus: np.ndarray, relu: bool) -> np.ndarray | None:
        """The sum with another array, and its ReLU, if wanted; None if no kernel gives it in one sweep."""
        conv, x = self.conv, self.conv.check_channels(x)
        if x.size == 0 or self.relu or plus.dtype != x.dtype or not is_dense(plus) or self._arrays() is None:
            return None
        g = conv.geometry(x, conv.weight.data)
        layout = preferred(g.IC, g.output_shape, x.dtype)
        plan = summed_plan(g, x.dtype, flat_image(x, x.dtype, g.layout)[1], FORMS[get_algorithm()], True, relu)
        if plan is None or layout == "NCHW" or plus.shape != g.output_shape:
            return None
        held = self.fold(x)
        if held is None:
            return None
        y = empty(g.output_shape, x.dtype, layout)
        other = flat(in_layout(plus, layout))
        done = correlate_with(plan, g, x, held.weight.array, held.bias, flat(y), (other,), held.weight)
        return y if done else None

    def fold(self, x: np.ndarray) -> _Held | None:
        """The weight and the bias for images that have been checked; None where the layers are not to run as one."""
        arrays = self._arrays()
        held = self._held  # other threads may run the same model
        if arrays is None or x.dtype != arrays[0].dtype:
            held = None
        elif held is None or not held.made_of(arrays, self._eps):
            held = self._hold(arrays)
        self._held = held
        if held is None:
            self._saved = None
            return None
        self._saved = x, held
        self.conv._saved = None
        if self.norm is not None:
            self.norm._saved = None
        return held

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """The chain rule. It needs what is between the layers, which is computed now where it was folded away."""
        if self._saved is not None:
            self._unfold(*self._saved)
        if self.norm is not None:
            grad_output = self.norm.backward(grad_output)
        return self.conv.backward(grad_output)

    def _unfold(self, x: np.ndarray, held: _Held) -> None:
        """Run the layers one by one, as they were in the last forward pass."""
        with evaluating([self.conv] if self.norm is None else [self.conv, self.norm]):
            arrays = self._arrays()
            if arrays is None or not held.made_of(arrays, self._eps):
                raise RuntimeError(f"{self.conv!r}, or what follows it, was changed between forward and backward")
            self._one_by_one(x)

    def _one_by_one(self, x: np.ndarray) -> np.ndarray:
        if self.norm is None:
            return self.conv.forward(x, relu=True) if self.relu else self.conv.forward(x)
        x = self.conv.forward(x)
        return self.norm.forward(x, relu=True) if self.relu else self.norm.forward(x)

    @property
    def _eps(self) -> float:
        return 0.0 if self.norm is None else self.norm.eps

    def _arrays(self) -> tuple[np.ndarray, ...] | None:
        """The weight, and all that it is folded with; None where the layers are not to be run together."""
        conv, norm = self.conv, self.norm
        if conv.training or "forward" in vars(conv):  # somebody's own
            return None
        arrays = [conv.weight.data] + ([] if conv.bias is None else [conv.bias.data])
        if norm is not None:
            if norm.training or "forward" in vars(norm) or norm.running_mean is None or norm.running_var is None:
                return None
            arrays += [parameter.data for parameter in (norm.weight, norm.bias) if parameter is not None]
            arrays += [norm.running_mean, norm.running_var]
        return tuple(arrays) if all([isinstance(array, np.ndarray) for array in arrays]) else None  # noqa: C419

    def _hold(self, arrays: tuple[np.ndarray, ...]) -> _Held | None:
        """Fold the arrays, if they are as kernels take them, and fit each other, and nothing overflows."""
        weight, *channels = arrays
        C, dtype = self.conv.out_channels, weight.dtype
        fit = weight.ndim == 4 and len(weight) == C and all(array.shape == (C,) for array in channels)
        usual = dtype in FLOATS and all(array.dtype == dtype and array.flags.carray for array in arrays)
        if not (fit and usual) or (self.norm is not None and self.norm.num_features != C):
            return None
        weight, bias = self._folded()
        if not all(np.isfinite(array).all() for array in (weight, bias) if array is not None):
            return None
        bits = tuple([array.reshape(-1).view(np.uint32) for array in arrays])
        return _Held(arrays, bits, _digests(bits), self._eps, PackedWeight(weight, _KINDS), bias)

    def _folded(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The weight and bias of the convolution that does what the layers do."""
        norm, weight, bias = self.norm, self.conv.weight.data, None if self.conv.bias is None else self.conv.bias.data
        if norm is None or norm.running_mean is None or norm.running_var is None:
            return weight, None if bias is None else bias.copy()
        with np.errstate(all="ignore"):  # what overflows is not folded
            scale, shift = norm.constants(norm.running_mean, norm.running_var)
            shift = shift if bias is None else shift + scale * bias
            return (weight * scale[:, None, None, None]).astype(weight.dtype), shift.astype(weight.dtype)


def _digests(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    """What tells whether arrays have changed. Who notes what a pass does need not know of it."""
    found = np.empty(len(arrays), np.int64)
    for k, array in enumerate(arrays):
        digest.run(array, found[k : k + 1], ALL, 0, 1)
    return found
