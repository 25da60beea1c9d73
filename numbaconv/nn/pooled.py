"""A convolution and the max pooling behind it, in one sweep over memory.

What lies between the two is the largest array of a small network, and of every window only one pixel is ever used
again. So it is not made: the kernel pools each band of rows while that is in the cache, and on the way back the
gradient of a band is made where it is read. Both layers remember what they would have remembered, so that each can go
back by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from numbaconv.algorithms import get_algorithm
from numbaconv.execution import correlate_with, pooled_bias_gradient, weight_gradient_with
from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels.pooling import Windows
from numbaconv.memory import flat_image, fresh
from numbaconv.nn.checks import FLOATS, check_gradient
from numbaconv.nn.convolution import Conv2d
from numbaconv.nn.folding import Folded
from numbaconv.nn.layout import Form, empty, empty_like, flat, preferred
from numbaconv.nn.pooling import MaxPool2d, windows_of, winner_dtype
from numbaconv.packed import PackedWeight
from numbaconv.plan import FORMS, pooled_input_gradient_plan, pooled_plan, pooled_weight_gradient_plan

if TYPE_CHECKING:
    from numbaconv.nn.module import Module


class Pooled:
    """The two layers, and a ReLU between them, if there is one; the convolution may be :class:`Folded`.

    They run one after the other where no kernel does both, or something about them is unusual: then they say what it
    is, or cope with it.
    """

    def __init__(self, step: Conv2d | Folded, pool: MaxPool2d, relu: bool) -> None:
        self.step, self.pool, self.relu = step, pool, relu
        self.conv = step.conv if isinstance(step, Folded) else step

    def evaluation_steps(self) -> list[Module | Folded]:
        """What it runs in evaluation."""
        return [self.step, self.pool]

    def forget(self) -> None:
        """Hold nothing."""
        if isinstance(self.step, Folded):
            self.step.forget()

    def forward(self, x: np.ndarray) -> np.ndarray:
        y = self._together(self.conv.check_channels(x))
        if y is not None:
            return y
        between, rectified = self.step.forward(x), isinstance(self.step, Folded)
        return self.pool.forward(between, relu=True) if self.relu and not rectified else self.pool.forward(between)

    def _together(self, x: np.ndarray) -> np.ndarray | None:
        """The output, if one kernel gives it."""
        conv, pool = self.conv, self.pool
        if x.dtype not in FLOATS or x.size == 0 or "forward" in vars(conv) or "forward" in vars(pool):
            return None
        g = conv.geometry(x, conv.weight.data)
        between = Form(g.output_shape, x.dtype, preferred(g.IC, g.output_shape, x.dtype))
        sizes = pool.sizes(between.shape, between.layout)
        windows = windows_of(sizes, self.relu)
        if windows is None:
            return None
        plan = pooled_plan(*_case(g, x, windows), isinstance(self.step, Folded))
        arrays = None if plan is None else self._arrays(x)
        if plan is None or arrays is None:
            return None
        y = empty((g.N, g.OC, sizes.OH, sizes.OW), x.dtype, between.layout)
        winner = empty_like(y, winner_dtype(sizes))
        weight, bias, packed = arrays
        if not correlate_with(plan, g, x, weight, bias, flat(y), (flat(winner), windows), packed):
            return None
        if not isinstance(self.step, Folded):
            conv._saved = x, between, g, None
        pool._saved = between, Form.of(y), winner, sizes
        return y

    def _arrays(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, PackedWeight | None] | None:
        """The weight and the bias, and what holds the weight packed, if something does; None if they are unusual."""
        if isinstance(self.step, Folded):
            held = self.step.fold(x)
            return None if held is None else (held.weight.array, held.bias, held.weight)
        arrays = self.conv.plain_arrays(x.dtype)
        return None if arrays is None else (*arrays, None)

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """The chain rule, through both layers."""
        found = None if isinstance(self.step, Folded) else self._back_together(grad_output)
        return found[0] if found is not None else self.step.backward(self.pool.backward(grad_output))

    def _back_together(self, grad_output: np.ndarray) -> tuple[np.ndarray | None] | None:
        """Add the gradients of the parameters, if kernels give them from that of the windows; that of x, or None."""
        conv, pool = self.conv, self.pool
        x, between, g, rectified = conv._recall()
        _, output, winner, sizes = pool._recall()
        windows = windows_of(sizes, self.relu)
        usual = rectified is None and x.dtype == between.dtype == conv.weight.data.dtype
        if windows is None or not usual or "backward" in vars(conv) or "backward" in vars(pool):
            return None
        case = _case(g, x, windows)
        plan = pooled_weight_gradient_plan(*case)
        input_plan = pooled_input_gradient_plan(*case) if conv.needs_input_grad else None
        if plan is None or (input_plan is None and conv.needs_input_grad):
            return None
        grad, pooling = check_gradient(grad_output, output), (flat(winner), windows)
        weight, grad_input = conv.weight.data, None
        if input_plan is not None:
            grad_input = empty_like(x)
            if not correlate_with(input_plan, g, grad, weight, None, flat(grad_input), pooling):
                return None
        grad_weight = fresh(weight.shape, x.dtype)
        if not weight_gradient_with(plan, g, x, flat(grad), grad_weight, pooling):
            return None
        conv.weight.add_grad(grad_weight)
        if conv.bias is not None:
            conv.bias.add_grad(pooled_bias_gradient(flat(grad), pooling))
        return (grad_input,)


def _case(g: Conv2dGeometry, x: np.ndarray, windows: Windows) -> tuple[Any, ...]:
    """What a plan is made for."""
    return g, x.dtype, flat_image(x, x.dtype, g.layout)[1], windows[:2], FORMS[get_algorithm()]
