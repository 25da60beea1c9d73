"""How a convolution is run: which taps meet which pixels, how the work is cut, how large the tiles are.

The only place where heuristics live. A plan is made once for a geometry, a dtype and the memory order of the arrays,
and kept. Nothing in it depends on the number of threads.

Every pass can be planned in several forms, and the one that should cost least is taken: with lanes along channels
(:mod:`numbaconv.plan.channels`), along the pixels of planes (:mod:`numbaconv.plan.planes`), along the images of a batch
(:mod:`numbaconv.plan.images`), lane by lane where every channel has a filter of its own
(:mod:`numbaconv.plan.depthwise`), or by Winograd's algorithm (:mod:`numbaconv.plan.winograd`).
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import TypeAlias

import numpy as np

from numbaconv.geometry import Conv2dGeometry
from numbaconv.parameters import Layout
from numbaconv.plan import channels, common, depthwise, images, plain, planes, winograd
from numbaconv.plan.axes import Correlation, Side, backward_axes, forward_axis
from numbaconv.plan.common import Plan

__all__ = [
    "FORMS",
    "Forms",
    "Plan",
    "forward_plan",
    "input_gradient_plan",
    "normed_plans",
    "pooled_input_gradient_plan",
    "pooled_plan",
    "pooled_weight_gradient_plan",
    "summed_plan",
    "weight_gradient_plan",
]

Forms: TypeAlias = tuple[ModuleType, ...]

#: The forms that an algorithm may choose from; the first of equals is taken. No caller can ask for the plain one.
FORMS: dict[str, Forms] = {
    "auto": (channels, planes, images, depthwise, winograd),
    "direct": (channels, planes, images, depthwise),
    "winograd": (winograd,),
    "plain": (plain,),
}


@lru_cache(maxsize=1024)
def forward_plan(
    g: Conv2dGeometry, dtype: np.dtype, x: Layout, y: Layout, forms: Forms, packed: bool = False, relu: bool = False
) -> Plan:
    """The plan of ``conv2d``, for an input and an output that lie in memory as ``x`` and ``y`` say."""
    work = _forward(common.merged(g, dtype, x == y == "NHWC"), dtype, x, y, packed, relu)
    return min(forms, key=lambda form: form.cost(work)).plan(work)


@lru_cache(maxsize=1024)
def input_gradient_plan(
    g: Conv2dGeometry, dtype: np.dtype, z: Layout, x: Layout, forms: Forms, packed: bool = False, relu: bool = False
) -> Plan:
    """The plan of ``conv2d_input``, for an output gradient and an input gradient that lie as ``z`` and ``x`` say."""
    work = _backward(common.merged(g, dtype, z == x == "NHWC"), dtype, z, x, packed, relu)
    return min(forms, key=lambda form: form.cost(work)).plan(work)


@lru_cache(maxsize=1024)
def weight_gradient_plan(g: Conv2dGeometry, dtype: np.dtype, x: Layout, z: Layout, forms: Forms) -> Plan:
    """The plan of ``conv2d_weight``, for an input and an output gradient that lie in memory as ``x`` and ``z`` say."""
    one_run = x == z == "NHWC"
    budget = common.BAND_BYTES if one_run else common.SLAB_BYTES  # planes are turned better in long rows
    work = _forward(common.merged(g, dtype, one_run, budget), dtype, x, z)
    return min(forms, key=lambda form: form.weight_cost(work)).weight_plan(work)


@lru_cache(maxsize=256)
def pooled_plan(
    g: Conv2dGeometry, dtype: np.dtype, x: Layout, windows: tuple[int, int], forms: Forms, packed: bool = False
) -> Plan | None:
    """The plan of ``conv2d`` and a max pooling of what it gives, channels innermost; None if no kernel does both.

    There are kernels that take the same time as for the convolution alone, but not where another form does better.
    """
    work = _forward(g, dtype, x, "NHWC", packed)._replace(pooled=windows)
    form = min(forms, key=lambda form: form.cost(work))
    return form.plan(work) if _pools(form, work) else None


@lru_cache(maxsize=256)
def pooled_input_gradient_plan(
    g: Conv2dGeometry, dtype: np.dtype, x: Layout, windows: tuple[int, int], forms: Forms
) -> Plan | None:
    """The plan of ``conv2d_input`` from the gradient of what was pooled, or None."""
    work = _backward(g, dtype, "NHWC", x)._replace(pooled=windows)
    form = min(forms, key=lambda form: form.cost(work))
    return form.plan(work) if _pools(form, work) else None


@lru_cache(maxsize=256)
def pooled_weight_gradient_plan(
    g: Conv2dGeometry, dtype: np.dtype, x: Layout, windows: tuple[int, int], forms: Forms
) -> Plan | None:
    """The plan of ``conv2d_weight`` from the gradient of what was pooled, or None."""
    work = _forward(g, dtype, x, "NHWC")._replace(pooled=windows)
    form = min(forms, key=lambda form: form.weight_cost(work))
    return form.weight_plan(work) if _pools(form, work) else None


@lru_cache(maxsize=256)
def summed_plan(
    g: Conv2dGeometry, dtype: np.dtype, x: Layout, forms: Forms, packed: bool = False, relu: bool = False
) -> Plan | None:
    """The plan of ``conv2d`` to whose output, channels innermost, another image is added; None if no kernel does it."""
    work = _forward(g, dtype, x, "NHWC", packed, relu)._replace(summed=True)
    form = min(forms, key=lambda form: form.cost(work))
    return form.plan(work) if hasattr(form, "sums") and form.sums(work) else None


@lru_cache(maxsize=256)
def normed_plans(g: Conv2dGeometry, dtype: np.dtype, rectified: bool, forms: Forms) -> tuple[Plan, Plan] | None:
    """The plans of ``conv2d`` and of its ``conv2d_weight``, of what a batch norm gives, all channels innermost.

    None where not both have a kernel that makes the batch normalisation where it reads.
    """
    work = _forward(g, dtype, "NHWC", "NHWC")._replace(normed=True, rectified=rectified)
    form = min(forms, key=lambda form: form.cost(work))
    weight_form = min(forms, key=lambda form: form.weight_cost(work))
    if form is not weight_form or not hasattr(form, "norms") or not form.norms(work):
        return None
    return form.plan(work), form.weight_plan(work)


def _pools(form: ModuleType, work: Correlation) -> bool:
    """Whether a form has a kernel that pools as well."""
    return hasattr(form, "pools") and form.pools(work)


def _forward(
    g: Conv2dGeometry, dtype: np.dtype, x: Layout, y: Layout, packed: bool = False, relu: bool = False
) -> Correlation:
    rows = forward_axis(g.IH, g.KH, g.SH, g.PT, g.DH, g.OH)
    columns = forward_axis(g.IW, g.KW, g.SW, g.PL, g.DW, g.OW)
    source, target = Side(g.IC, g.IH, g.IW, x), Side(g.OC, g.OH, g.OW, y)
    return Correlation(g, dtype, (rows,), (columns,), (g.SH, g.SW), (1, 1), source, target, True, packed, relu)


def _backward(
    g: Conv2dGeometry, dtype: np.dtype, z: Layout, x: Layout, packed: bool = False, relu: bool = False
) -> Correlation:
    rows = tuple(backward_axes(g.IH, g.KH, g.SH, g.PT, g.DH, g.OH))
    columns = tuple(backward_axes(g.IW, g.KW, g.SW, g.PL, g.DW, g.OW))
    source, target = Side(g.OC, g.OH, g.OW, z), Side(g.IC, g.IH, g.IW, x)
    return Correlation(g, dtype, rows, columns, (1, 1), (g.SH, g.SW), source, target, False, packed, relu)
