"""A batch norm in training and the convolution behind it, in one sweep over memory.

What a batch norm gives is its input with other numbers, so a convolution may as well read that, and scale and shift it
when it is in the cache: then it is never written, and nothing is read twice. The weight gradient does the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from numbaconv.algorithms import get_algorithm
from numbaconv.execution import correlate_with, weight_gradient_with
from numbaconv.geometry import Conv2dGeometry
from numbaconv.nn.layout import Form, empty, flat, layout_of, preferred
from numbaconv.nn.normalisation import BatchNorm2d, Normalised
from numbaconv.plan import FORMS, normed_plans

if TYPE_CHECKING:
    from numbaconv.nn.convolution import Conv2d


class Normed:
    """The two layers, and a ReLU between them, if there is one.

    They run one after the other where no kernel does both, or something about them is unusual: then they say what it
    is, or cope with it.
    """

    def __init__(self, norm: BatchNorm2d, relu: bool, conv: Conv2d) -> None:
        self.norm, self.relu, self.conv = norm, relu, conv

    def forward(self, x: np.ndarray) -> np.ndarray:
        if "forward" in vars(self.norm) or "forward" in vars(self.conv):  # somebody's own
            return self.conv.forward(self.norm.forward(x, relu=True) if self.relu else self.norm.forward(x))
        normalised = self.norm.normalised(x, self.relu)
        y = self._convolved(normalised)
        return self.conv.forward(normalised.made()) if y is None else y

    def _convolved(self, normalised: Normalised) -> np.ndarray | None:
        """The output of the convolution, if a kernel gives it."""
        conv, x = self.conv, normalised.x
        if x.shape[1] != conv.in_channels or x.size == 0 or layout_of(x) == "NCHW":
            return None
        arrays = conv.plain_arrays(x.dtype)
        if arrays is None:
            return None
        weight, bias = arrays
        g = conv.geometry(x, weight)
        plans = normed_plans(g, x.dtype, normalised.relu, FORMS[get_algorithm()])
        if plans is None or preferred(g.IC, g.output_shape, x.dtype) == "NCHW":
            return None
        y = empty(g.output_shape, x.dtype, "NHWC")
        if not correlate_with(plans[0], g, x, weight, bias, flat(y), (normalised.rows(),)):
            return None
        conv._saved = normalised, Form.of(y), g, None
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """The chain rule, through both layers."""
        grad = self.conv.backward(grad_output)
        return None if grad is None else self.norm.backward(grad)


def normed_weight_gradient(g: Conv2dGeometry, normalised: Normalised, grad: np.ndarray, out: np.ndarray) -> bool:
    """Fill ``out`` with a weight gradient, of a convolution that ran as above, from that of its output.

    Whether it was done: not where the algorithm is another one by now, or something is not finite.
    """
    plans = normed_plans(g, out.dtype, normalised.relu, FORMS[get_algorithm()])
    return plans is not None and weight_gradient_with(
        plans[1], g, normalised.x, flat(grad), out, (normalised.rows(),)
    )  # fmt: skip
