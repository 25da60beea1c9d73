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
from numbaconv.simd import copy, move, narrow


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


@device
def _gather(x, plane, kh, kw, sizes, pixels):
    """What one tap sees, for every window of a plane: -infinity outside of the image."""
    _, IH, IW, OH, OW, _, _, SH, SW, PH, PW, DH, DW = sizes
    h, w = kh * DH - PH, kw * DW - PW
    above, below = _inside(h, SH, IH, OH)
    first, end = _inside(w, SW, IW, OW)
    if above > 0 or below < OH or first > 0 or end < OW:
        pixels[:] = -np.inf
    start, to = (plane * IH + h + above * SH) * IW + w + first * SW, above * OW + first
    if SW == 1:
        move(pixels, to, OW, x, start, SH * IW, below - above, end - first)
    elif SW == 2:
        narrow(pixels, to, OW, x, start, SH * IW, below - above, end - first)
    else:
        for row in range(below - above):
            copy(pixels, to + row * OW, 1, x, start + row * SH * IW, SW, end - first)


@device
def _first_inside(plane, o, sizes):
    """The first tap of a window that is inside the image."""
    _, IH, IW, _, OW, KH, KW, SH, SW, PH, PW, DH, DW = sizes
    for tap in range(KH * KW):
        h, w = o // OW * SH - PH + tap // KW * DH, o % OW * SW - PW + tap % KW * DW
        if 0 <= h < IH and 0 <= w < IW:
            return tap
    return 0


@Kernel
def max_pool(x, y, winner, sizes, workers):
    """y = the maximum of every window of x, winner = its tap, ``kh * KW + kw``: the first of equals; NaN always wins.

    Tap by tap: what it sees is gathered for all windows of a plane, and compared in one long loop.
    """
    planes, _, _, OH, OW, KH, KW, _, _, PH, PW, _, _ = sizes
    for worker in numba.prange(workers):
        pixels = np.empty(OH * OW, x.dtype)
        for plane in range(worker * planes // workers, (worker + 1) * planes // workers):
            best, tap = y[plane * OH * OW : (plane + 1) * OH * OW], winner[plane * OH * OW : (plane + 1) * OH * OW]
            _gather(x, plane, 0, 0, sizes, best)
            tap[:] = 0
            for k in range(1, KH * KW):
                _gather(x, plane, k // KW, k % KW, sizes, pixels)
                for o in range(len(best)):
                    value, highest = pixels[o], best[o]
                    wins = (value > highest) | (value != value)
                    best[o] = value if wins else highest
                    tap[o] = k if wins else tap[o]
            if PH > 0 or PW > 0:
                for o in range(len(best)):
                    if best[o] == -np.inf:  # nothing was larger than what is outside
                        tap[o] = _first_inside(plane, o, sizes)


@Kernel
def max_pool_backward(grad_y, winner, grad_x, offsets, sizes, workers):
    """Each gradient of y goes to the pixel of x that won its window; ``offsets`` says where in it each tap lies."""
    planes, IH, IW, OH, OW, _, _, SH, SW, PH, PW, _, _ = sizes
    for worker in numba.prange(workers):
        for plane in range(worker * planes // workers, (worker + 1) * planes // workers):
            grad_x[plane * IH * IW : (plane + 1) * IH * IW] = 0
            for oh in range(OH):
                out, first = (plane * OH + oh) * OW, (plane * IH + oh * SH - PH) * IW - PW
                for ow in range(OW):
                    grad_x[first + ow * SW + offsets[winner[out + ow]]] += grad_y[out + ow]


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
