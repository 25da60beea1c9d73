"""Batch normalisation: sums over a channel, and what is then done to every one of its pixels.

What follows it in a network can be done in the same sweep: another image is added, and the sum goes through a ReLU.

Images are flat ``(N, C, R, L)``: rows of ``L`` elements, in which *inner* channels take turns. Where a plane of pixels
has one channel, a row is some pixels of it, and inner is 1. Where channels are innermost, it is some whole pixels of an
image, inner is the number of channels, and C and R are 1. So one loop serves both: element ``i`` of a row belongs to
channel ``c + i % inner``, and what is known of a channel is laid out along a row before the sweep begins.

A task is a channel C of one of ``parts`` parts of N, whatever the number of threads, so that sums have a fixed order.
They are taken row upon row, in the dtype of the images: neighbouring elements add up side by side, where a single
running sum would make each addition wait for the last. Where nothing else is written, four rows are taken at once, for
the sums go through memory. Only then are the sums of a row added up, in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from numbaconv.jit import Kernel, device, kernel, routine, share

#: A row of so many sums is not halved any more.
_FEW = 32


class NormSizes(NamedTuple):
    """The integers that a kernel needs."""

    N: int
    C: int
    R: int
    L: int
    inner: int
    parts: int
    relu: bool  # the output of the layer goes through a ReLU


@device
def _rows(task, sizes):
    """The first and one past the last of N in a task, and its channel."""
    N, C, _, _, _, parts, _ = sizes
    part = task // C
    return part * N // parts, (part + 1) * N // parts, task % C


@device
def _row(images, n, c, r, sizes):
    """One row of flat images. Loops over it start at 0, which spares them the question of negative indices."""
    _, C, R, L, _, _, _ = sizes
    row = (n * C + c) * R + r
    return images[row * L : (row + 1) * L]


@device
def _four(images, k, first, c, sizes):
    """Four rows of a task, from its row ``k`` on."""
    _, _, R, _, _, _, _ = sizes
    return (
        _row(images, first + k // R, c, k % R, sizes),
        _row(images, first + (k + 1) // R, c, (k + 1) % R, sizes),
        _row(images, first + (k + 2) // R, c, (k + 2) % R, sizes),
        _row(images, first + (k + 3) // R, c, (k + 3) % R, sizes),
    )


@device
def _along(values, c, inner, row, done):
    """What is known of the channels, along a row. Channels that take turns are the same in all tasks."""
    if inner == 1:
        row[:] = values[c]
    elif not done:
        for start in range(0, len(row), inner):
            for i in range(inner):
                row[start + i] = values[i]


@device
def _fold(sums, c, inner, totals):
    """Add up the sums of a row for each channel: its halves as long as there are some, then one by one."""
    length = len(sums)
    while length % (2 * inner) == 0 and length > _FEW:
        length //= 2
        for i in range(length):
            sums[i] += sums[length + i]
    for i in range(inner):
        totals[c + i] = 0
    for start in range(0, length, inner):
        for i in range(inner):
            totals[c + i] += sums[start + i]


@Kernel
def near_means(x, near, pixels, step, channel, pixel, stage, thread, threads):
    """The mean of some pixels of the first image, for each channel; the strides of ``x`` are given."""
    for c in range(len(near)):
        total, count = 0.0, 0
        for p in range(0, pixels, step):
            total += x[c * channel + p * pixel]
            count += 1
        near[c] = total / count


@Kernel
def mean_and_variance(near, totals, squares, count, mean, variance, stage, thread, threads):
    """Of what :func:`moments` gave about ``near``: the mean and the biased variance, in float64."""
    for c in range(len(near)):
        missing, square = 0.0, 0.0
        for part in range(len(totals)):
            missing += totals[part, c]
            square += squares[part, c]
        missing /= count
        mean[c] = near[c] + missing
        square = square / count - missing**2
        variance[c] = 0.0 if square < 0 else square


@kernel(lasting=True)
def follow(running_mean, running_var, batches, mean, variance, momentum, unbiased, stage, thread, threads):
    """Move running statistics towards those of a batch, whose variance becomes so much larger, and count it.

    A momentum below 0 stands for the plain mean over all batches.
    """
    batches[0] += 1
    share_of_batch = 1 / batches[0] if momentum < 0 else momentum
    for c in range(len(mean)):
        running_mean[c] += share_of_batch * (mean[c] - running_mean[c])
        running_var[c] += share_of_batch * (variance[c] * unbiased - running_var[c])


@Kernel
def coefficients(mean, variance, eps, weight, bias, rstd, center, scale, shift, stage, thread, threads):
    """What :func:`scale_shift` needs, and one over the standard deviation."""
    for c in range(len(rstd)):
        rstd[c] = 1 / np.sqrt(np.float64(variance[c]) + eps)
        center[c] = mean[c]
        scale[c] = rstd[c] * weight[c]
        shift[c] = bias[c]


@Kernel
def gradients(totals, products, rstd, count, grad_weight, grad_bias, mean, slope, stage, thread, threads):
    """What :func:`gradient_moments` gave, as the gradients of weight and bias and what is taken away from grad_y."""
    for c in range(len(rstd)):
        total, product = 0.0, 0.0
        for part in range(len(totals)):
            total += totals[part, c]
            product += products[part, c]
        grad_weight[c] = product * rstd[c]
        grad_bias[c] = total
        mean[c] = total / count
        slope[c] = product / count * rstd[c] ** 2


@kernel(allocates=True)
def moments(x, center, totals, squares, sizes, stage, thread, threads):
    """Of every part and channel, the sum of ``x - center`` and of its square."""
    _, C, R, L, inner, parts, _ = sizes
    a, sums, more = np.empty(L, x.dtype), np.empty(L, x.dtype), np.empty(L, x.dtype)
    done = False
    for task in share(parts * C, thread, threads):
        first, last, c = _rows(task, sizes)
        _along(center, c, inner, a, done)
        done = True
        sums[:] = 0
        more[:] = 0
        rows = (last - first) * R
        for k in range(0, rows - 3, 4):
            x0, x1, x2, x3 = _four(x, k, first, c, sizes)
            for i in range(L):
                d0, d1, d2, d3 = x0[i] - a[i], x1[i] - a[i], x2[i] - a[i], x3[i] - a[i]
                sums[i] += (d0 + d1) + (d2 + d3)
                more[i] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
        for k in range(rows // 4 * 4, rows):
            source = _row(x, first + k // R, c, k % R, sizes)
            for i in range(L):
                distance = source[i] - a[i]
                sums[i] += distance
                more[i] += distance * distance
        _fold(sums, c, inner, totals[task // C])
        _fold(more, c, inner, squares[task // C])


@kernel(allocates=True)
def scale_shift(x, center, scale, shift, other, y, sizes, stage, thread, threads):
    """``y = (x - center) * scale + shift``, with one center, scale and shift a channel.

    Then ``other`` is added, unless it is empty; and then comes the ReLU, if wanted.
    """
    _, C, R, L, inner, parts, relu = sizes
    zero, adds = x.dtype.type(0), len(other) > 0
    a, b, t = np.empty(L, x.dtype), np.empty(L, x.dtype), np.empty(L, x.dtype)
    done = False
    for task in share(parts * C, thread, threads):
        first, last, c = _rows(task, sizes)
        _along(center, c, inner, a, done)
        _along(scale, c, inner, b, done)
        _along(shift, c, inner, t, done)
        done = True
        for n in range(first, last):
            for r in range(R):
                source, to = _row(x, n, c, r, sizes), _row(y, n, c, r, sizes)
                if adds:
                    more = _row(other, n, c, r, sizes)
                    for i in range(L):
                        value = (source[i] - a[i]) * b[i] + t[i] + more[i]
                        to[i] = zero if relu and value <= 0 else value
                else:
                    for i in range(L):
                        value = (source[i] - a[i]) * b[i] + t[i]
                        to[i] = zero if relu and value <= 0 else value


@Kernel
def lay_out(center, scale, shift, rows, stage, thread, threads):
    """What :func:`scale_shift` needs, as :func:`normalise_slab` takes it: three rows of some pixels."""
    length, channels = len(rows) // 3, len(center)
    _along(center, 0, channels, rows[:length], False)
    _along(scale, 0, channels, rows[length : 2 * length], False)
    _along(shift, 0, channels, rows[2 * length :], False)


@routine
def normalise_slab(slab, to, top, rows, left, columns, channels, IH, IW, table, relu):
    """What :func:`scale_shift` would have done to the image that a slab was packed from; its padding stays zero.

    The parameters are those of :func:`numbaconv.kernels.packing.pack_slab`, for all channels of an image. ``table``
    is what :func:`lay_out` made.
    """
    length, zero = len(table) // 3, table.dtype.type(0)
    a, b, t = table[:length], table[length : 2 * length], table[2 * length :]
    first, last = max(0, -left), min(columns, IW - left)
    for row in range(max(0, -top), min(rows, IH - top)):
        start, end = to + (row * columns + first) * channels, to + (row * columns + last) * channels
        for k in range(start, end, length):
            pixels = slab[k : min(k + length, end)]
            for i in range(len(pixels)):
                value = (pixels[i] - a[i]) * b[i] + t[i]
                pixels[i] = zero if relu and value <= 0 else value


@kernel(allocates=True)
def gradient_moments(grad_y, x, center, scale, shift, totals, products, sizes, stage, thread, threads):
    """Of every part and channel, the sum of grad_y, and of its product with ``x - center``.

    Where the ReLU gave 0, which the same formula tells again, there is no gradient.
    """
    _, C, R, L, inner, parts, relu = sizes
    zero = x.dtype.type(0)
    a, b, t = np.empty(L, x.dtype), np.empty(L, x.dtype), np.empty(L, x.dtype)
    sums, more = np.empty(L, x.dtype), np.empty(L, x.dtype)
    done = False
    for task in share(parts * C, thread, threads):
        first, last, c = _rows(task, sizes)
        _along(center, c, inner, a, done)
        _along(scale, c, inner, b, done)
        _along(shift, c, inner, t, done)
        done = True
        sums[:] = 0
        more[:] = 0
        rows = (last - first) * R
        for k in range(0, rows - 3, 4):
            x0, x1, x2, x3 = _four(x, k, first, c, sizes)
            g0, g1, g2, g3 = _four(grad_y, k, first, c, sizes)
            for i in range(L):
                d0, d1, d2, d3 = x0[i] - a[i], x1[i] - a[i], x2[i] - a[i], x3[i] - a[i]
                v0 = g0[i] if not relu or d0 * b[i] + t[i] > 0 else zero
                v1 = g1[i] if not relu or d1 * b[i] + t[i] > 0 else zero
                v2 = g2[i] if not relu or d2 * b[i] + t[i] > 0 else zero
                v3 = g3[i] if not relu or d3 * b[i] + t[i] > 0 else zero
                sums[i] += (v0 + v1) + (v2 + v3)
                more[i] += (v0 * d0 + v1 * d1) + (v2 * d2 + v3 * d3)
        for k in range(rows // 4 * 4, rows):
            source = _row(x, first + k // R, c, k % R, sizes)
            grad = _row(grad_y, first + k // R, c, k % R, sizes)
            for i in range(L):
                distance = source[i] - a[i]
                value = grad[i] if not relu or distance * b[i] + t[i] > 0 else zero
                sums[i] += value
                more[i] += value * distance
        _fold(sums, c, inner, totals[task // C])
        _fold(more, c, inner, products[task // C])


@kernel(allocates=True)
def masked_moments(grad_y, more, y, x, center, through, totals, products, sizes, stage, thread, threads):
    """The same, where something was added before the ReLU: what it gave, ``y``, tells where there is a gradient.

    That gradient, of both summands, is written to ``through``. ``more`` is added to grad_y, unless it is empty.
    """
    _, C, R, L, inner, parts, _ = sizes
    zero, adds = x.dtype.type(0), len(more) > 0
    a, sums, along = np.empty(L, x.dtype), np.empty(L, x.dtype), np.empty(L, x.dtype)
    done = False
    for task in share(parts * C, thread, threads):
        first, last, c = _rows(task, sizes)
        _along(center, c, inner, a, done)
        done = True
        sums[:] = 0
        along[:] = 0
        for n in range(first, last):
            for r in range(R):
                grad, output = _row(grad_y, n, c, r, sizes), _row(y, n, c, r, sizes)
                source, to = _row(x, n, c, r, sizes), _row(through, n, c, r, sizes)
                if adds:
                    other = _row(more, n, c, r, sizes)
                    for i in range(L):
                        value = grad[i] + other[i] if output[i] > 0 else zero
                        to[i] = value
                        sums[i] += value
                        along[i] += value * (source[i] - a[i])
                else:
                    for i in range(L):
                        value = grad[i] if output[i] > 0 else zero
                        to[i] = value
                        sums[i] += value
                        along[i] += value * (source[i] - a[i])
        _fold(sums, c, inner, totals[task // C])
        _fold(along, c, inner, products[task // C])


@kernel(allocates=True)
def normalised_gradient(grad_y, x, center, scale, shift, mean, slope, grad_x, sizes, stage, thread, threads):
    """``grad_x = (grad_y - mean - (x - center) * slope) * scale``, with one of each a channel; and through the ReLU."""
    _, C, R, L, inner, parts, relu = sizes
    zero = x.dtype.type(0)
    a, b, t = np.empty(L, x.dtype), np.empty(L, x.dtype), np.empty(L, x.dtype)
    m, d = np.empty(L, x.dtype), np.empty(L, x.dtype)
    done = False
    for task in share(parts * C, thread, threads):
        first, last, c = _rows(task, sizes)
        _along(center, c, inner, a, done)
        _along(scale, c, inner, b, done)
        _along(shift, c, inner, t, done)
        _along(mean, c, inner, m, done)
        _along(slope, c, inner, d, done)
        done = True
        for n in range(first, last):
            for r in range(R):
                source, grad, to = (
                    _row(x, n, c, r, sizes),
                    _row(grad_y, n, c, r, sizes),
                    _row(grad_x, n, c, r, sizes),
                )
                for i in range(L):
                    distance = source[i] - a[i]
                    through = not relu or distance * b[i] + t[i] > 0
                    to[i] = ((grad[i] if through else zero) - m[i] - distance * d[i]) * b[i]
