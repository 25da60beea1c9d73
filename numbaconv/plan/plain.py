"""Plans of :mod:`numbaconv.kernels.plain`: nothing is chosen, so there is nothing but the geometry."""

from __future__ import annotations

import numpy as np

from numbaconv.jit import Kernel
from numbaconv.kernels import plain as kernels
from numbaconv.kernels.plain import PLAIN
from numbaconv.kernels.records import filled
from numbaconv.plan import common
from numbaconv.plan.axes import Correlation, Side
from numbaconv.plan.common import Plan


def cost(work: Correlation) -> float:
    """The plain kernels are never chosen for their speed."""
    return float("inf")


weight_cost = cost


def plan(work: Correlation) -> Plan:
    """The plan of a forward pass or an input gradient."""
    if work.forward:
        return _plan(kernels.forward, work, work.source, work.target, work.g.N * work.g.OC, work.g.OC)
    return _plan(kernels.input_gradient, work, work.target, work.source, work.g.N * work.g.IC, work.g.IC)


def weight_plan(work: Correlation) -> Plan:
    """The plan of a weight gradient."""
    return _plan(kernels.weight_gradient, work, work.source, work.target, work.g.OC * work.g.ICG)


def _plan(kernel: Kernel, work: Correlation, x: Side, y: Side, tasks: int, bias: int = 0) -> Plan:
    g = work.g
    one = g.ICG * g.KH * g.KW  # elements of a filter
    channel, row, column = (g.KH * g.KW, g.KW, 1) if g.layout == "NCHW" else (1, g.KW * g.ICG, g.ICG)
    numbers = filled(
        PLAIN,
        N=g.N, IC=g.IC, OC=g.OC, ICG=g.ICG, OCG=g.OCG, IH=g.IH, IW=g.IW, OH=g.OH, OW=g.OW, KH=g.KH, KW=g.KW,
        SH=g.SH, SW=g.SW, PT=g.PT, PL=g.PL, DH=g.DH, DW=g.DW, **x.strides("x"), **y.strides("y"),
        w_oc=one, w_ic=channel, w_kh=row, w_kw=column, relu=int(work.relu),
    )  # fmt: skip
    no_bias = np.zeros((1, bias), work.dtype)
    return Plan(kernel, numbers, (), 0, 0, **common.sharing(g, tasks), fill=False, zeros=False, no_bias=no_bias)
