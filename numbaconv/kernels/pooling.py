"""Max and average pooling: every (image, channel) plane is pooled by itself, by one worker.

Arrays are flat. Taps are the outer loops and the pixels of an output row the inner one, so that the inner loop has no
bounds to check: tap ``(kh, kw)`` of the windows of a row reads ``x[row + ow * SW]`` for a range of ``ow``. Windows may
overlap, but no two workers write to one plane, and the order of every sum is fixed.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from numbaconv.jit import Kernel, device


class PoolSizes(NamedTuple):
    """The integers that a kernel needs; zeros are added on both sides, and dilation 1 is dense."""

    planes: int  # N * C
    IH: int
    IW: int
    OH: int
    OW: int
    KH: int
    KW: int
    SH: int
    SW: int
    PH: int
    PW: int
    DH: int
    DW: int


@device
def _inside(w, stride, size, outputs):
    """The first and one past the last ``o < outputs`` with ``0 <= w + o * stride < size``."""
    first = max(0, (stride - 1 - w) // stride)
    return first, max(first, min(outputs, (size - w + stride - 1) // stride))


@Kernel
def max_pool(x, y, winner, sizes, workers):
    """y = the maximum of every window of x, winner = where in its plane it is: the first of equals; NaN always wins."""
    planes, IH, IW, OH, OW, KH, KW, SH, SW, PH, PW, DH, DW = sizes
    for worker in numba.prange(workers):
        for plane in range(worker * planes // workers, (worker + 1) * planes // workers):
            for oh in range(OH):
                out = (plane * OH + oh) * OW
                for o in range(out, out + OW):
                    y[o] = -np.inf
                    winner[o] = -1
                for kh in range(KH):
                    h = oh * SH - PH + kh * DH
                    if 0 <= h < IH:
                        for kw in range(KW):
                            w = kw * DW - PW
                            row = (plane * IH + h) * IW + w
                            first, end = _inside(w, SW, IW, OW)
                            for ow in range(first, end):
                                value, best, where = x[row + ow * SW], y[out + ow], winner[out + ow]
                                wins = (value > best) | (where < 0) | (value != value)
                                y[out + ow] = value if wins else best
                                winner[out + ow] = h * IW + w + ow * SW if wins else where


@Kernel
def max_pool_backward(grad_y, winner, grad_x, sizes, workers):
    """Each gradient of y goes to the pixel of x that won its window."""
    planes, IH, IW, OH, OW, _, _, _, _, _, _, _, _ = sizes
    for worker in numba.prange(workers):
        for plane in range(worker * planes // workers, (worker + 1) * planes // workers):
            for i in range(plane * IH * IW, (plane + 1) * IH * IW):
                grad_x[i] = 0
            for o in range(plane * OH * OW, (plane + 1) * OH * OW):
                grad_x[plane * IH * IW + winner[o]] += grad_y[o]


@Kernel
def sum_pool(x, y, sizes, workers):
    """y = the sum of every window of x."""
    planes, IH, IW, OH, OW, KH, KW, SH, SW, PH, PW, DH, DW = sizes
    for worker in numba.prange(workers):
        for plane in range(worker * planes // workers, (worker + 1) * planes // workers):
            for oh in range(OH):
                out = (plane * OH + oh) * OW
                for o in range(out, out + OW):
                    y[o] = 0
                for kh in range(KH):
                    h = oh * SH - PH + kh * DH
                    if 0 <= h < IH:
                        for kw in range(KW):
                            w = kw * DW - PW
                            row = (plane * IH + h) * IW + w
                            first, end = _inside(w, SW, IW, OW)
                            for ow in range(first, end):
                                y[out + ow] += x[row + ow * SW]


@Kernel
def sum_pool_backward(grad_y, grad_x, sizes, workers):
    """Each gradient of y goes to every pixel of its window."""
    planes, IH, IW, OH, OW, KH, KW, SH, SW, PH, PW, DH, DW = sizes
    for worker in numba.prange(workers):
        for plane in range(worker * planes // workers, (worker + 1) * planes // workers):
            for i in range(plane * IH * IW, (plane + 1) * IH * IW):
                grad_x[i] = 0
            for oh in range(OH):
                out = (plane * OH + oh) * OW
                for kh in range(KH):
                    h = oh * SH - PH + kh * DH
                    if 0 <= h < IH:
                        for kw in range(KW):
                            w = kw * DW - PW
                            row = (plane * IH + h) * IW + w
                            first, end = _inside(w, SW, IW, OW)
                            for ow in range(first, end):
                                grad_x[row + ow * SW] += grad_y[out + ow]
