"""Sums of two arrays, as paths of a network end in them."""

from __future__ import annotations

import numpy as np

from numbaconv.kernels import elementwise
from numbaconv.nn.checks import FLOATS, dense
from numbaconv.nn.layout import empty_like, flat, in_layout, is_dense, layout_of
from numbaconv.threads import launch_light


def addable(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of the same shape can be added by our kernels as they are."""
    return a.dtype == b.dtype and a.dtype in FLOATS and is_dense(a) and is_dense(b)


def added(a: np.ndarray, b: np.ndarray, relu: bool = False) -> np.ndarray:
    """The sum, which lies in memory as ``a`` does; with ``relu``, 0 instead of what is below it."""
    if not addable(a, b):
        a, b = dense(a, "the output of a path"), dense(b, "the output of a path")
        a, b = a.astype(np.result_type(a, b), copy=False), b.astype(np.result_type(a, b), copy=False)
    if a.shape != b.shape:
        raise ValueError(f"two paths give {a.shape} and {b.shape}: they must be alike to be added")
    y = empty_like(a)
    kernel = elementwise.add_relu if relu else elementwise.add
    launch_light(kernel, y.size, y.size, flat(a), flat(in_layout(b, layout_of(a))), flat(y))
    return y
