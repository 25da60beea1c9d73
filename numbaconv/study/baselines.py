"""What convolutions are compared with: the ways that are taught and written first, in NumPy and in Numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from numbaconv import cache
from numbaconv.geometry import Conv2dGeometry


class Im2col:
    """A convolution and its gradients by unfolding every patch of the image into a row of a matrix (im2col).

    Arrays are in the layout of the geometry.
    """

    def __init__(self, geometry: Conv2dGeometry) -> None:
        self.geometry = geometry

    def forward(self, input: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The output."""
        patches, filters = self._patches(input), self._filters(weight)
        return self._image(patches @ filters.transpose(0, 2, 1))

    def grad_input(self, weight: np.ndarray, grad_output: np.ndarray) -> np.ndarray:
        """The gradient of the input: patches are folded back, and added where they overlap."""
        g = self.geometry
        patches = self._rows(grad_output) @ self._filters(weight)
        shape = (g.G, g.N, g.OH, g.OW, g.ICG, g.KH, g.KW)
        patches = patches.reshape(shape).transpose(1, 0, 4, 5, 6, 2, 3).reshape(g.N, g.IC, g.KH, g.KW, g.OH, g.OW)
        padded = np.zeros((g.N, g.IC, g.IH + g.PT + g.PB, g.IW + g.PL + g.PR), patches.dtype)
        for kh in range(g.KH):
            for kw in range(g.KW):
                padded[self._window(kh, kw)] += patches[:, :, kh, kw]
        return self._in_layout(padded[:, :, g.PT : g.PT + g.IH, g.PL : g.PL + g.IW])

    def grad_weight(self, input: np.ndarray, grad_output: np.ndarray) -> np.ndarray:
        """The gradient of the weight."""
        g = self.geometry
        filters = self._rows(grad_output).transpose(0, 2, 1) @ self._patches(input)
        return self._in_layout(filters.reshape(g.OC, g.ICG, g.KH, g.KW))

    def _patches(self, input: np.ndarray) -> np.ndarray:
        """(groups, N * OH * OW, ICG * KH * KW)."""
        g = self.geometry
        padded = np.pad(self._nchw(input), ((0, 0), (0, 0), (g.PT, g.PB), (g.PL, g.PR)))
        windows = sliding_window_view(padded, ((g.KH - 1) * g.DH + 1, (g.KW - 1) * g.DW + 1), axis=(2, 3))
        windows = windows[:, :, :: g.SH, :: g.SW, :: g.DH, :: g.DW]
        windows = windows.reshape(g.N, g.G, g.ICG, g.OH, g.OW, g.KH, g.KW).transpose(1, 0, 3, 4, 2, 5, 6)
        return windows.reshape(g.G, g.N * g.OH * g.OW, g.ICG * g.KH * g.KW)

    def _filters(self, weight: np.ndarray) -> np.ndarray:
        """(groups, OCG, ICG * KH * KW)."""
        return self._nchw(weight).reshape(self.geometry.G, self.geometry.OCG, -1)

    def _rows(self, grad_output: np.ndarray) -> np.ndarray:
        """(groups, N * OH * OW, OCG)."""
        g = self.geometry
        rows = self._nchw(grad_output).reshape(g.N, g.G, g.OCG, g.OH, g.OW).transpose(1, 0, 3, 4, 2)
        return rows.reshape(g.G, g.N * g.OH * g.OW, g.OCG)

    def _image(self, rows: np.ndarray) -> np.ndarray:
        g = self.geometry
        image = rows.reshape(g.G, g.N, g.OH, g.OW, g.OCG).transpose(1, 0, 4, 2, 3)
        return self._in_layout(image.reshape(g.N, g.OC, g.OH, g.OW))

    def _window(self, kh: int, kw: int) -> tuple[slice, ...]:
        """The padded pixels that a tap meets."""
        g = self.geometry
        rows = slice(kh * g.DH, kh * g.DH + (g.OH - 1) * g.SH + 1, g.SH)
        columns = slice(kw * g.DW, kw * g.DW + (g.OW - 1) * g.SW + 1, g.SW)
        return slice(None), slice(None), rows, columns

    def _nchw(self, array: np.ndarray) -> np.ndarray:
        return array if self.geometry.layout == "NCHW" else array.transpose(0, 3, 1, 2)

    def _in_layout(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array if self.geometry.layout == "NCHW" else array.transpose(0, 2, 3, 1))


class Loops:
    """A convolution and its gradients as plain loops, compiled by Numba as most people would: no tile, no vectors.

    Images are padded beforehand, so that the loops need no conditions. NCHW only.
    """

    def __init__(self, geometry: Conv2dGeometry) -> None:
        if geometry.layout != "NCHW":
            raise ValueError(f"the plain loops are written for NCHW, not for {geometry.layout}")
        self.geometry = g = geometry
        self.sizes = g.SH, g.SW, g.DH, g.DW, g.G

    def forward(self, input: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The output."""
        output = np.empty(self.geometry.output_shape, input.dtype)
        _forward(self._padded(input), weight, output, self.sizes)
        return output

    def grad_input(self, weight: np.ndarray, grad_output: np.ndarray) -> np.ndarray:
        """The gradient of the input."""
        g = self.geometry
        padded = np.zeros((g.N, g.IC, g.IH + g.PT + g.PB, g.IW + g.PL + g.PR), grad_output.dtype)
        _grad_input(weight, grad_output, padded, self.sizes)
        return np.ascontiguousarray(padded[:, :, g.PT : g.PT + g.IH, g.PL : g.PL + g.IW])

    def grad_weight(self, input: np.ndarray, grad_output: np.ndarray) -> np.ndarray:
        """The gradient of the weight."""
        gradient = np.empty(self.geometry.weight_shape, input.dtype)
        _grad_weight(self._padded(input), grad_output, gradient, self.sizes)
        return gradient

    def _padded(self, input: np.ndarray) -> np.ndarray:
        g = self.geometry
        return np.pad(input, ((0, 0), (0, 0), (g.PT, g.PB), (g.PL, g.PR)))


def _plain(function: Any) -> Any:
    return cache.keep(numba.njit(parallel=True, fastmath=True)(function))


@_plain
def _forward(x: Any, w: Any, y: Any, sizes: Any) -> None:
    SH, SW, DH, DW, G = sizes
    N, OC, OH, OW = y.shape
    _, ICG, KH, KW = w.shape
    for task in numba.prange(N * OC):
        n, oc = task // OC, task % OC
        first = oc // (OC // G) * ICG
        for oh in range(OH):
            for ow in range(OW):
                total = y.dtype.type(0)
                for ic in range(ICG):
                    for kh in range(KH):
                        for kw in range(KW):
                            total += x[n, first + ic, oh * SH + kh * DH, ow * SW + kw * DW] * w[oc, ic, kh, kw]
                y[n, oc, oh, ow] = total


@_plain
def _grad_input(w: Any, dy: Any, dx: Any, sizes: Any) -> None:
    SH, SW, DH, DW, G = sizes
    N, OC, OH, OW = dy.shape
    _, ICG, KH, KW = w.shape
    OCG = OC // G
    for task in numba.prange(N * G * ICG):  # a plane of the gradient each, so that no two threads add to the same one
        n, ic = task // (G * ICG), task % (G * ICG)
        for oc in range(ic // ICG * OCG, (ic // ICG + 1) * OCG):
            for oh in range(OH):
                for ow in range(OW):
                    for kh in range(KH):
                        for kw in range(KW):
                            dx[n, ic, oh * SH + kh * DH, ow * SW + kw * DW] += (
                                dy[n, oc, oh, ow] * w[oc, ic % ICG, kh, kw]
                            )


@_plain
def _grad_weight(x: Any, dy: Any, dw: Any, sizes: Any) -> None:
    SH, SW, DH, DW, G = sizes
    N, OC, OH, OW = dy.shape
    _, ICG, KH, KW = dw.shape
    for task in numba.prange(OC * ICG):
        oc, ic = task // ICG, task % ICG
        first = oc // (OC // G) * ICG
        for kh in range(KH):
            for kw in range(KW):
                total = dw.dtype.type(0)
                for n in range(N):
                    for oh in range(OH):
                        for ow in range(OW):
                            total += x[n, first + ic, oh * SH + kh * DH, ow * SW + kw * DW] * dy[n, oc, oh, ow]
                dw[oc, ic, kh, kw] = total
