"""Max and average pooling: every plane of a batch of images is pooled by itself, by one thread.

A plane has one channel of an image, or, where channels are innermost, all of them: then the *inner* elements of a pixel
lie next to each other. Arrays are flat. Taps are the outer loops and the pixels of an output row the inner one, so that
the inner loop has no bounds to check: tap ``(kh, kw)`` of the windows of a row reads ``x[row + ow * SW]`` for a range
of ``ow``. Windows may overlap, but no two threads write to one plane, and the order of every sum is fixed.

Convolutions that a max pooling follows do its work themselves where they can, band by band: :func:`pool_rows` on the
way forward, and :func:`spread_slab` on the way back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from numbaconv.jit import Kernel, device, kernel, routine, share
from numbaconv.simd import clear, copy, deal, move, narrow, peak, restore, widen

#: Output elements that are worked on at once, tap by tap: they should stay in the L1 cache.
BAND = 2048
#: Sums that are taken of a plane side by side.
LANES = 8


class PoolSizes(NamedTuple):
    """The integers that a kernel needs; zeros are added on both sides, and dilation 1 is dense."""

    planes: int  # N * C, or N
    inner: int  # 1, or C
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
    band: int  # output rows that are worked on at once


class Windows(NamedTuple):
    """What is pooled by a kernel whose work is something else: windows that fill the image, channels innermost."""

    KH: int
    KW: int
    OH: int  # rows and columns of windows
    OW: int
    C: int
    nobody: int  # the tap that is marked where a ReLU follows and nothing is above 0; -1 if none follows


@routine
def pool_rows(y, winner, windows, n, first, rows, x, start, line, pixel, channel, count):
    """Pool some rows of image ``n``, from ``first`` on, of ``count`` channels from ``channel`` on.

    They begin at ``x[start]``; rows lie ``line`` elements apart, and pixels ``pixel``.
    """
    KH, KW, OH, OW, C, nobody = windows
    for row in range(rows // KH):
        peak(
            y, winner, (n * OH + first // KH + row) * OW * C + channel, C, x, start + row * KH * line, KW * pixel,
            KH, line, KW, pixel, 0, KW, OW, count, nobody,
        )  # fmt: skip


@routine
def spread_slab(slab, to, z, winner, windows, n, top, rows, left, columns, channel, count):
    """The gradient of what was pooled, as a slab: from row ``top`` and column ``left`` on, zeros outside of the image.

    ``z`` is the gradient of the windows, of which each gives it to the pixel that has won. The slab has ``count``
    channels, from ``channel`` on, and begins with the first row of a window, so it may have rows that nobody asks for:
    where in it row ``top`` lies is returned.
    """
    KH, KW, OH, OW, C, _ = windows
    line = columns * count
    above, end = top % KH, OW * KW - left
    first, last = max(0, (top - above) // KH), min(OH, -(-(top + rows) // KH))
    before = first * KH - (top - above)
    clear(slab, to, before * line)
    for row in range(first, last):
        here = to + (before + (row - first) * KH) * line
        restore(
            slab, here - left * count, KW * count, KH, line, KW, count,
            z, winner, (n * OH + row) * OW * C + channel, C, OW, count,
        )  # fmt: skip
        for r in range(KH):
            clear(slab, here + r * line, -left * count)
            clear(slab, here + r * line + end * count, (columns - end) * count)
    written = before + max(0, last - first) * KH
    clear(slab, to + written * line, (above + rows - written) * line)
    return to + above * line


@device
def inside(w, stride, size, first, last):
    """The first and one past the last ``o`` from ``first`` to ``last`` with ``0 <= w + o * stride < size``."""
    begin = max(first, (stride - 1 - w) // stride)
    return begin, max(begin, min(last, (size - w + stride - 1) // stride))


@device
def _seen(plane, top, bottom, kh, kw, sizes):
    """The windows of rows ``top`` to ``bottom`` of which one tap is in the image.

    Their rows and columns; where in the image the tap of the first of them lies, and that window among all of the rows.
    """
    _, C, IH, IW, _, OW, _, _, SH, SW, PH, PW, DH, DW, _ = sizes
    h, w = kh * DH - PH, kw * DW - PW
    above, below = inside(h, SH, IH, top, bottom)
    first, end = inside(w, SW, IW, 0, OW)
    pixel, window = (plane * IH + h + above * SH) * IW + w + first * SW, (above - top) * OW + first
    return above, below, first, end, pixel * C, window * C


@device
def _gather(x, plane, top, bottom, kh, kw, sizes, pixels, outside):
    """What one tap sees, for the windows of some rows: ``outside`` where it is not in the image."""
    _, C, _, IW, _, OW, _, _, SH, SW, _, _, _, _, _ = sizes
    above, below, first, end, start, to = _seen(plane, top, bottom, kh, kw, sizes)
    if above > top or below < bottom or first > 0 or end < OW:
        pixels[:] = outside
    if SW == 1:
        move(pixels, to, OW * C, x, start, SH * IW * C, below - above, (end - first) * C)
    elif C == 1 and SW == 2:
        narrow(pixels, to, OW, x, start, SH * IW, below - above, end - first)
    else:
        for row in range(below - above):
            here, there = to + row * OW * C, start + row * SH * IW * C
            if C == 1:
                copy(pixels, here, 1, x, there, SW, end - first)
            else:
                move(pixels, here, C, x, there, SW * C, end - first, C)


@device
def _scatter(grad_x, plane, top, bottom, kh, kw, sizes, gradients):
    """Add the gradients of some rows of windows to the pixels that one tap sees; write them where no other tap does."""
    _, C, _, IW, _, OW, _, _, SH, SW, _, _, _, _, _ = sizes
    above, below, first, end, start, source = _seen(plane, top, bottom, kh, kw, sizes)
    if _overlap(sizes):
        for row in range(below - above):
            here, there = source + row * OW * C, start + row * SH * IW * C
            for k in range(end - first):
                for c in range(C):
                    grad_x[there + k * SW * C + c] += gradients[here + k * C + c]
    elif SW == 1:
        move(grad_x, start, SH * IW * C, gradients, source, OW * C, below - above, (end - first) * C)
    elif C == 1 and SW == 2:
        widen(grad_x, start, SH * IW, gradients, source, OW, below - above, end - first)
    else:
        for row in range(below - above):
            here, there = source + row * OW * C, start + row * SH * IW * C
            if C == 1:
                copy(grad_x, there, SW, gradients, here, 1, end - first)
            else:
                move(grad_x, there, SW * C, gradients, here, C, end - first, C)


@device
def _first_inside(row, column, sizes):
    """The first tap of a window that is inside the image."""
    _, _, IH, IW, _, _, KH, KW, SH, SW, PH, PW, DH, DW, _ = sizes
    for tap in range(KH * KW):
        h, w = row * SH - PH + tap // KW * DH, column * SW - PW + tap % KW * DW
        if 0 <= h < IH and 0 <= w < IW:
            return tap
    return 0


@device
def _overlap(sizes):
    """Whether a pixel may be in several windows."""
    _, _, _, _, _, _, KH, KW, SH, SW, _, _, DH, DW, _ = sizes
    return SH <= (KH - 1) * DH or SW <= (KW - 1) * DW


def windows_fill(sizes):
    """Whether every pixel is in one window, and none is outside of the image."""
    _, _, IH, IW, OH, OW, KH, KW, SH, SW, PH, PW, DH, DW, _ = sizes
    dense = KH == SH and KW == SW and (DH == 1 or KH == 1) and (DW == 1 or KW == 1)
    return dense and PH == 0 and PW == 0 and IH == OH * SH and IW == OW * SW


_fill = device(windows_fill)


@kernel(allocates=True)
def max_pool(x, y, winner, relu, sizes, stage, thread, threads):
    """y = the maximum of every window of x, winner = its tap, ``kh * KW + kw``: the first of equals; NaN always wins.

    With ``relu``, a ReLU follows: 0 is written instead of what is below it, and where nothing is above 0, no tap wins,
    ``KH * KW``.
    """
    if sizes.inner > 1:
        for plane in share(sizes.planes, thread, threads):
            _peaks(x, y, winner, relu, plane, sizes)
    else:
        _compare(x, y, winner, relu, sizes, thread, threads)


@device
def _peaks(x, y, winner, relu, plane, sizes):
    """Where channels are innermost, window by window: those of a row that are inside the image together."""
    _, C, IH, IW, OH, OW, KH, KW, SH, SW, PH, PW, DH, DW, _ = sizes
    begin, _ = inside(-PW, SW, IW, 0, OW)
    _, end = inside((KW - 1) * DW - PW, SW, IW, 0, OW)
    nobody = KH * KW if relu else -1
    for oh in range(OH):
        upper, lower = inside(oh * SH - PH, DH, IH, 0, KH)
        ow = 0
        while ow < OW:
            windows = end - ow if begin <= ow < end else 1
            left, right = inside(ow * SW - PW, DW, IW, 0, KW)
            pixel = (plane * IH + oh * SH - PH + upper * DH) * IW + ow * SW - PW + left * DW
            peak(
                y, winner, ((plane * OH + oh) * OW + ow) * C, C, x, pixel * C, SW * C,
                lower - upper, DH * IW * C, right - left, DW * C, upper * KW + left, KW, windows, C, nobody,
            )  # fmt: skip
            ow += windows


@device
def _compare(x, y, winner, relu, sizes, thread, threads):
    """Tap by tap: what it sees is gathered for all windows of some rows, and compared in one long loop."""
    planes, C, _, _, OH, OW, KH, KW, _, _, PH, PW, _, _, band = sizes
    memory = np.empty(band * OW * C, x.dtype)
    for plane in share(planes, thread, threads):
        for top in range(0, OH, band):
            bottom = min(top + band, OH)
            start, end = (plane * OH + top) * OW * C, (plane * OH + bottom) * OW * C
            best, tap, pixels = y[start:end], winner[start:end], memory[: end - start]
            _gather(x, plane, top, bottom, 0, 0, sizes, best, -np.inf)
            tap[:] = 0
            for k in range(1, KH * KW):
                _gather(x, plane, top, bottom, k // KW, k % KW, sizes, pixels, -np.inf)
                for o in range(len(best)):
                    value, highest = pixels[o], best[o]
                    wins = (value > highest) | (value != value)
                    best[o] = value if wins else highest
                    tap[o] = k if wins else tap[o]
            if PH > 0 or PW > 0:
                for o in range(len(best)):
                    if best[o] == -np.inf:  # nothing was larger than what is outside
                        tap[o] = _first_inside(top + o // C // OW, o // C % OW, sizes)
            if relu:
                zero = x.dtype.type(0)
                for o in range(len(best)):
                    highest = best[o]
                    tap[o] = tap[o] if highest > 0 else KH * KW
                    best[o] = zero if highest <= 0 else highest


@kernel(allocates=True)
def max_pool_backward(grad_y, winner, grad_x, offsets, sizes, stage, thread, threads):
    """Each gradient of y goes to the pixel of x that won its window, if any did.

    ``offsets`` says where in a window each tap lies.
    """
    planes, C, IH, IW, OH, OW, KH, KW, SH, SW, PH, PW, _, _, band = sizes
    memory = np.empty(band * OW * C, grad_y.dtype)
    for plane in share(planes, thread, threads):
        if C > 1 and _fill(sizes):
            for oh in range(OH):
                restore(
                    grad_x, (plane * IH + oh * SH) * IW * C, SW * C, KH, IW * C, KW, C,
                    grad_y, winner, (plane * OH + oh) * OW * C, C, OW, C,
                )  # fmt: skip
        elif C > 1:
            _deal(grad_y, winner, grad_x, plane, sizes)
        elif not _overlap(sizes):
            clear(grad_x, plane * IH * IW, IH * IW)
            for top in range(0, OH, band):
                bottom = min(top + band, OH)
                start, end = (plane * OH + top) * OW, (plane * OH + bottom) * OW
                gradients, taps, won = grad_y[start:end], winner[start:end], memory[: end - start]
                for k in range(KH * KW):
                    for o in range(len(won)):
                        won[o] = gradients[o] if taps[o] == k else 0
                    _scatter(grad_x, plane, top, bottom, k // KW, k % KW, sizes, won)
        else:
            grad_x[plane * IH * IW : (plane + 1) * IH * IW] = 0
            for oh in range(OH):
                out, first = (plane * OH + oh) * OW, (plane * IH + oh * SH - PH) * IW - PW
                for ow in range(OW):
                    if winner[out + ow] < KH * KW:
                        grad_x[first + ow * SW + offsets[winner[out + ow]]] += grad_y[out + ow]


@device
def _deal(grad_y, winner, grad_x, plane, sizes):
    """The same where channels are innermost, tap by tap: rows of x are cleared just before windows reach them.

    Columns come in descending order: so every pixel of x adds up its windows from left to right.
    """
    _, C, IH, IW, OH, OW, KH, KW, SH, SW, PH, PW, DH, DW, _ = sizes
    cleared = 0
    for oh in range(OH):
        reached = min(IH, oh * SH - PH + (KH - 1) * DH + 1) if oh < OH - 1 else IH
        if reached > cleared:
            clear(grad_x, (plane * IH + cleared) * IW * C, (reached - cleared) * IW * C)
            cleared = reached
        for kh in range(KH):
            h = oh * SH - PH + kh * DH
            if 0 <= h < IH:
                for kw in range(KW - 1, -1, -1):
                    w = kw * DW - PW
                    first, end = inside(w, SW, IW, 0, OW)
                    deal(
                        grad_x, ((plane * IH + h) * IW + w + first * SW) * C, SW * C,
                        grad_y, ((plane * OH + oh) * OW + first) * C, C, winner, kh * KW + kw, end - first, C,
                    )  # fmt: skip


@kernel(allocates=True)
def sum_pool(x, y, sizes, stage, thread, threads):
    """y = the sum of every window of x, tap by tap."""
    planes, C, _, _, OH, OW, KH, KW, _, _, _, _, _, _, band = sizes
    memory = np.empty(band * OW * C, x.dtype)
    for plane in share(planes, thread, threads):
        for top in range(0, OH, band):
            bottom = min(top + band, OH)
            start, end = (plane * OH + top) * OW * C, (plane * OH + bottom) * OW * C
            total, pixels = y[start:end], memory[: end - start]
            _gather(x, plane, top, bottom, 0, 0, sizes, total, 0)
            for k in range(1, KH * KW):
                _gather(x, plane, top, bottom, k // KW, k % KW, sizes, pixels, 0)
                for o in range(len(total)):
                    total[o] += pixels[o]


@Kernel
def sum_pool_backward(grad_y, grad_x, sizes, stage, thread, threads):
    """Each gradient of y goes to every pixel of its window, tap by tap."""
    planes, C, IH, IW, OH, OW, KH, KW, _, _, _, _, _, _, band = sizes
    for plane in share(planes, thread, threads):
        clear(grad_x, plane * IH * IW * C, IH * IW * C)
        for top in range(0, OH, band):
            bottom = min(top + band, OH)
            gradients = grad_y[(plane * OH + top) * OW * C : (plane * OH + bottom) * OW * C]
            for k in range(KH * KW):
                _scatter(grad_x, plane, top, bottom, k // KW, k % KW, sizes, gradients)


@kernel(allocates=True)
def mean_planes(x, y, C, pixels, last, stage, thread, threads):
    """``y[n, c]`` = the mean of a plane, which is summed in float64.

    ``x`` is ``(N, C, pixels)``, or with ``last``, ``(N, pixels, C)``. Threads share the images.
    """
    inner = C if last else LANES
    sums = np.empty(inner)
    for n in share(len(y) // C, thread, threads):
        to = y[n * C : (n + 1) * C]
        if last:
            sums[:] = 0
            for pixel in range(pixels):
                source = x[(n * pixels + pixel) * C : (n * pixels + pixel + 1) * C]
                for c in range(C):
                    sums[c] += source[c]
            for c in range(C):
                to[c] = sums[c] / pixels
        else:
            for c in range(C):
                plane = x[(n * C + c) * pixels : (n * C + c + 1) * pixels]
                sums[:] = 0
                for start in range(0, pixels - LANES + 1, LANES):
                    for lane in range(LANES):
                        sums[lane] += plane[start + lane]
                total = 0.0
                for lane in range(LANES):
                    total += sums[lane]
                for pixel in range(pixels // LANES * LANES, pixels):
                    total += plane[pixel]
                to[c] = total / pixels


@Kernel
def spread_planes(grad_y, grad_x, C, pixels, last, stage, thread, threads):
    """What :func:`mean_planes` is made of gets its share: every pixel the same one of the gradient of its plane."""
    for n in share(len(grad_y) // C, thread, threads):
        grad = grad_y[n * C : (n + 1) * C]
        if last:
            for pixel in range(pixels):
                to = grad_x[(n * pixels + pixel) * C : (n * pixels + pixel + 1) * C]
                for c in range(C):
                    to[c] = grad[c] / pixels
        else:
            for c in range(C):
                grad_x[(n * C + c) * pixels : (n * C + c + 1) * pixels] = grad[c] / pixels
