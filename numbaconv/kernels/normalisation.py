"""Batch normalisation: sums over a channel, and what is then done to every one of its pixels.

Images are flat ``(N, C, S)``, S the pixels of a plane. A channel belongs to one worker, so that its sums have a
fixed order. They are taken pixel by pixel over the batch first, in the dtype of the images: neighbouring pixels add up
side by side, where a single running sum would make each addition wait for the last. Only then are the sums of a plane's
pixels added up, in float64.
"""

from __future__ import annotations

import numba
import numpy as np

from numbaconv.jit import Kernel, device


@device
def _plane(images, plane, S):
    """One plane of flat images. Loops over it start at 0, which spares them the question of negative indices."""
    return images[plane * S : (plane + 1) * S]


@device
def _clear(values):
    for i in range(len(values)):
        values[i] = 0


@device
def _total(values):
    total = 0.0
    for i in range(len(values)):
        total += values[i]
    return total


@Kernel
def moments(x, mean, variance, sizes, workers):
    """The mean of every channel and its (biased) variance, in two passes: exact however large the mean is."""
    N, C, S = sizes
    for worker in numba.prange(workers):
        sums, rounded = np.empty(S, x.dtype), np.empty(1, x.dtype)
        for c in range(worker * C // workers, (worker + 1) * C // workers):
            _clear(sums)
            for n in range(N):
                x_plane = _plane(x, n * C + c, S)
                for s in range(S):
                    sums[s] += x_plane[s]
            rounded[0] = _total(sums) / (N * S)
            center = rounded[0]  # of the images' dtype
            _clear(sums)
            for n in range(N):
                x_plane = _plane(x, n * C + c, S)
                for s in range(S):
                    distance = x_plane[s] - center
                    sums[s] += distance * distance
            mean[c], variance[c] = center, _total(sums) / (N * S)


@Kernel
def gradient_moments(grad_y, x, mean, grad_mean, covariance, sizes, workers):
    """Of every channel: the mean of grad_y, and the mean of its product with ``x - mean``."""
    N, C, S = sizes
    for worker in numba.prange(workers):
        sums, products, rounded = np.empty(S, x.dtype), np.empty(S, x.dtype), np.empty(1, x.dtype)
        for c in range(worker * C // workers, (worker + 1) * C // workers):
            rounded[0] = mean[c]
            center = rounded[0]
            _clear(sums)
            _clear(products)
            for n in range(N):
                x_plane, grad_plane = _plane(x, n * C + c, S), _plane(grad_y, n * C + c, S)
                for s in range(S):
                    sums[s] += grad_plane[s]
                    products[s] += grad_plane[s] * (x_plane[s] - center)
            grad_mean[c], covariance[c] = _total(sums) / (N * S), _total(products) / (N * S)


@Kernel
def scale_shift(x, center, scale, shift, y, sizes, workers):
    """``y = (x - center) * scale + shift``, with one center, scale and shift a channel."""
    N, C, S = sizes
    for worker in numba.prange(workers):
        for plane in range(worker * N * C // workers, (worker + 1) * N * C // workers):
            a, b, c = center[plane % C], scale[plane % C], shift[plane % C]
            x_plane, y_plane = _plane(x, plane, S), _plane(y, plane, S)
            for s in range(S):
                y_plane[s] = (x_plane[s] - a) * b + c


@Kernel
def normalised_gradient(grad_y, x, center, scale, shift, slope, grad_x, sizes, workers):
    """``grad_x = (grad_y - shift - (x - center) * slope) * scale``, with one of each a channel."""
    N, C, S = sizes
    for worker in numba.prange(workers):
        for plane in range(worker * N * C // workers, (worker + 1) * N * C // workers):
            a, b, c, d = center[plane % C], scale[plane % C], shift[plane % C], slope[plane % C]
            x_plane, y_plane, out = _plane(x, plane, S), _plane(grad_y, plane, S), _plane(grad_x, plane, S)
            for s in range(S):
                out[s] = (y_plane[s] - c - (x_plane[s] - a) * d) * b
