"""The three passes as plain loops: every result is one sum, taken by itself, over the products that exist.

No tiles, no packing, and no padding: a tap that lies outside of the image is left out. These are the formulas with
nothing done to make them fast, the kernels to read first, and they take hundreds of times as long as the others.

They are also the ones that are right about infinity and NaN. The others multiply by the zeros of the padding, which
changes no sum as long as weights and gradients are finite; but 0 * inf is NaN. So what holds such a number is computed
here: see :func:`all_finite`, and who calls it.

As in :mod:`numbaconv.reference`, sums are held in float64 and rounded once. A sum that is NaN remains NaN, so what
would still be added to it is not looked at: where training has diverged, and everything is NaN, these loops are short.
"""

from __future__ import annotations

import numpy as np

from numbaconv.jit import Kernel, compiled, device, routine, share
from numbaconv.kernels.records import read, record

#: The integers that the kernels need, as one record; :mod:`numbaconv.plan.plain` makes it. Its names are those of the
#: convolution, whichever of its arrays a kernel computes: x is the input, w the weight, y the output.
PLAIN = record(
    "N",
    "IC",
    "OC",
    "ICG",  # input channels of a group
    "OCG",
    "IH",
    "IW",
    "OH",
    "OW",
    "KH",
    "KW",
    "SH",  # stride
    "SW",
    "PT",  # padding at the top and the left
    "PL",
    "DH",  # dilation
    "DW",
    "x_n",  # strides of the input
    "x_c",
    "x_h",
    "x_w",
    "y_n",  # strides of the output
    "y_c",
    "y_h",
    "y_w",
    "w_oc",  # strides of the weight
    "w_ic",
    "w_kh",
    "w_kw",
    "relu",  # 1: instead of what is below 0, 0 is written
)


@Kernel
def forward(x, w, bias, y, packed, scratch, numbers, stage, thread, threads):
    """Fill ``y``; all arrays are flat. Threads share the planes of the output."""
    plan = read(numbers, PLAIN)
    planes = plan.N * plan.OC
    for plane in share(planes, thread, threads):
        _output_plane(x, w, bias, y, plan, plane // plan.OC, plane % plan.OC)


@Kernel
def input_gradient(y, w, bias, x, packed, scratch, numbers, stage, thread, threads):
    """Fill ``x``, the input's gradient, from ``y``, the output's, and a bias of the input's channels."""
    plan = read(numbers, PLAIN)
    planes = plan.N * plan.IC
    for plane in share(planes, thread, threads):
        _input_plane(y, w, bias, x, plan, plane // plan.IC, plane % plan.IC)


@Kernel
def weight_gradient(x, y, w, scratch, numbers, stage, thread, threads):
    """Fill ``w``, the weight's gradient, from the input ``x`` and ``y``, the output's gradient."""
    plan = read(numbers, PLAIN)
    filters = plan.OC * plan.ICG
    for one in share(filters, thread, threads):
        _filter(x, y, w, plan, one // plan.ICG, one % plan.ICG)


@device
def _finite(values):
    finite = True
    for i in range(len(values)):
        finite &= abs(values[i]) < np.inf
    return finite


@compiled
def all_finite(values):
    """Whether there is no infinity and no NaN among them."""
    return _finite(values)


@Kernel
def note_finite(values, finite, stage, thread, threads):
    """The same, as what is put into ``finite``, an array of one truth value."""
    finite[0] = _finite(values)


@routine
def _output_plane(x, w, bias, y, plan, n, oc):
    """``y[n, oc, oh, ow] = bias[oc] + sum of x[n, ic, oh * SH + kh * DH - PT, ...] * w[oc, ic, kh, kw]``."""
    first = oc // plan.OCG * plan.ICG
    for oh in range(plan.OH):
        for ow in range(plan.OW):
            total = float(bias[oc])
            for ic in range(plan.ICG):
                image, taps = n * plan.x_n + (first + ic) * plan.x_c, oc * plan.w_oc + ic * plan.w_ic
                for kh in range(plan.KH):
                    ih = oh * plan.SH + kh * plan.DH - plan.PT
                    if 0 <= ih < plan.IH:
                        for kw in range(plan.KW):
                            iw = ow * plan.SW + kw * plan.DW - plan.PL
                            if 0 <= iw < plan.IW:
                                pixel = x[image + ih * plan.x_h + iw * plan.x_w]
                                total += float(pixel) * float(w[taps + kh * plan.w_kh + kw * plan.w_kw])
                if total != total:
                    break
            if plan.relu and total <= 0:
                total = 0.0
            y[n * plan.y_n + oc * plan.y_c + oh * plan.y_h + ow * plan.y_w] = total


@routine
def _input_plane(y, w, bias, x, plan, n, ic):
    """The same sum from the input's side: over the outputs that a pixel was a part of."""
    first = ic // plan.ICG * plan.OCG
    for ih in range(plan.IH):
        for iw in range(plan.IW):
            total = float(bias[ic])
            for oc in range(first, first + plan.OCG):
                image, taps = n * plan.y_n + oc * plan.y_c, oc * plan.w_oc + ic % plan.ICG * plan.w_ic
                for kh in range(plan.KH):
                    oh = ih + plan.PT - kh * plan.DH  # times the stride
                    if oh % plan.SH == 0 and 0 <= oh // plan.SH < plan.OH:
                        for kw in range(plan.KW):
                            ow = iw + plan.PL - kw * plan.DW
                            if ow % plan.SW == 0 and 0 <= ow // plan.SW < plan.OW:
                                gradient = y[image + oh // plan.SH * plan.y_h + ow // plan.SW * plan.y_w]
                                total += float(gradient) * float(w[taps + kh * plan.w_kh + kw * plan.w_kw])
                if total != total:
                    break
            if plan.relu and total <= 0:
                total = 0.0
            x[n * plan.x_n + ic * plan.x_c + ih * plan.x_h + iw * plan.x_w] = total


@routine
def _filter(x, y, w, plan, oc, ic):
    """And from the weight's: over all pixels of all images that it was multiplied by."""
    channel = oc // plan.OCG * plan.ICG + ic
    for kh in range(plan.KH):
        for kw in range(plan.KW):
            total = 0.0
            for n in range(plan.N):
                image, gradients = n * plan.x_n + channel * plan.x_c, n * plan.y_n + oc * plan.y_c
                for oh in range(plan.OH):
                    ih = oh * plan.SH + kh * plan.DH - plan.PT
                    if 0 <= ih < plan.IH:
                        for ow in range(plan.OW):
                            iw = ow * plan.SW + kw * plan.DW - plan.PL
                            if 0 <= iw < plan.IW:
                                pixel = x[image + ih * plan.x_h + iw * plan.x_w]
                                total += float(pixel) * float(y[gradients + oh * plan.y_h + ow * plan.y_w])
                if total != total:
                    break
            w[oc * plan.w_oc + ic * plan.w_ic + kh * plan.w_kh + kw * plan.w_kw] = total
