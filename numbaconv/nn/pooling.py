"""Layers that make images smaller: each window of pixels becomes one."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from numbaconv.jit import Kernel
from numbaconv.kernels import pooling as kernels
from numbaconv.kernels.pooling import BAND, PoolSizes, Windows
from numbaconv.memory import fresh
from numbaconv.nn.checks import check_gradient, flag, images
from numbaconv.nn.layout import Form, empty, empty_like, flat, layout_of
from numbaconv.nn.module import Module
from numbaconv.parameters import IntOrPair, Layout, Shape, integer, pair
from numbaconv.threads import act, launch_light

#: Pixels of the largest window that is taken: the kernels look at each of them.
LARGEST_WINDOW = 2**24


class _Pool2d(Module):
    """The windows of a pooling layer: where they lie, and which kernel runs over them."""

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None,
        padding: IntOrPair,
        dilation: IntOrPair,
        ceil_mode: bool,
    ) -> None:
        super().__init__()
        self.kernel_size = pair(kernel_size, "kernel_size", 1)
        self.stride = self.kernel_size if stride is None else pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        self.dilation = pair(dilation, "dilation", 1)
        self.ceil_mode = flag(ceil_mode, "ceil_mode")
        if math.prod(self.kernel_size) > LARGEST_WINDOW:
            raise ValueError(
                f"kernel_size={self.kernel_size} is too large: a window has at most {LARGEST_WINDOW} pixels"
            )
        for K, P, D in zip(self.kernel_size, self.padding, self.dilation, strict=True):
            span = _span(K, D)
            if span < 2 * P:
                raise ValueError(f"padding={P} must be at most half of the window, which spans {span} pixels")

    def sizes(self, shape: Shape, layout: Layout) -> PoolSizes:
        """What kernels need for an x of some shape and layout."""
        parameters = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        try:
            return _pool_sizes(shape, layout, *parameters)
        except ValueError as error:
            raise ValueError(f"{self!r} does not fit an x of shape {shape}: {error}") from None

    def _describe(self) -> str:
        parts = [f"kernel_size={self.kernel_size}"]
        defaults = {"stride": self.kernel_size, "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
        parts += [f"{name}={getattr(self, name)}" for name, value in defaults.items() if getattr(self, name) != value]
        return ", ".join(parts)


class MaxPool2d(_Pool2d):
    """The largest value of every window.

    Padded pixels are never the largest. Of equal values the first one, row by row, gets the gradient; a NaN counts as
    larger than any number, as in torch.

    Parameters
    ----------
    kernel_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), optional
        From one window to the next; by default the size of the window.
    padding : int or (int, int)
        Pixels added on both sides, at most half of the window.
    dilation : int or (int, int)
        From one pixel of a window to the next.
    ceil_mode : bool
        Whether a last window that is partly outside counts, as long as it starts inside or in the padding before.

    Raises
    ------
    TypeError, ValueError
        For arguments that are wrong, in the constructor or, where they do not fit x, in forward.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> layer = nn.MaxPool2d(2)
    >>> layer(x)[0, 0]
    array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    >>> layer.backward(np.ones((1, 1, 2, 2), np.float32))[0, 0]
    array([[0., 0., 0., 0.],
           [0., 1., 0., 1.],
           [0., 0., 0., 0.],
           [0., 1., 0., 1.]], dtype=float32)
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        *,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, x: np.ndarray, relu: bool = False) -> np.ndarray:
        """``(N, C, OH, OW)``; with ``relu``, what a :class:`ReLU` would make of it, in the same sweep."""
        x = images(x)
        sizes = self.sizes(x.shape, layout_of(x))
        y = empty((*x.shape[:2], sizes.OH, sizes.OW), x.dtype, layout_of(x))
        winner = empty_like(y, winner_dtype(sizes))
        _launch(kernels.max_pool, sizes, (x, y, winner), int(relu))
        self._saved = Form.of(x), Form.of(y), winner, sizes
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """``(N, C, H, W)``: the gradient of a window goes to its largest pixel."""
        form, output, winner, sizes = self._recall()
        grad = check_gradient(grad_output, output)
        grad_input = form.empty()
        _launch(kernels.max_pool_backward, sizes, (grad, winner, grad_input), _offsets(sizes))
        return grad_input


class AvgPool2d(_Pool2d):
    """The mean of every window.

    Parameters
    ----------
    kernel_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), optional
        From one window to the next; by default the size of the window.
    padding : int or (int, int)
        Zeros added on both sides, at most half of the window.
    ceil_mode : bool
        Whether a last window that is partly outside counts, as long as it starts inside or in the padding before.
    count_include_pad : bool
        Whether the padded zeros count among what the sum is divided by.
    divisor_override : int, optional
        What the sum is divided by instead.

    Raises
    ------
    TypeError, ValueError
        For arguments that are wrong, in the constructor or, where they do not fit x, in forward.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.AvgPool2d(2)(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4))[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = flag(count_include_pad, "count_include_pad")
        self.divisor_override = None if divisor_override is None else integer(divisor_override, "divisor_override", 1)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """``(N, C, OH, OW)``."""
        x = images(x)
        sizes = self.sizes(x.shape, layout_of(x))
        y = empty((*x.shape[:2], sizes.OH, sizes.OW), x.dtype, layout_of(x))
        _launch(kernels.sum_pool, sizes, (x, y))
        divisor = _divisor(sizes, self.count_include_pad, self.divisor_override).astype(x.dtype)
        self._saved = Form.of(x), Form.of(y), divisor, sizes
        act(np.divide, y, divisor, y)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """``(N, C, H, W)``: every pixel of a window gets its share of the gradient."""
        form, output, divisor, sizes = self._recall()
        share, grad_input = output.empty(), form.empty()
        act(np.divide, check_gradient(grad_output, output), divisor, share)
        _launch(kernels.sum_pool_backward, sizes, (share, grad_input))
        return grad_input


class GlobalAvgPool2d(Module):
    """The mean of every plane: ``(N, C, H, W)`` to ``(N, C)``, ready for a :class:`Linear`.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.GlobalAvgPool2d()(np.ones((32, 64, 8, 8), np.float32)).shape
    (32, 64)
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        """``(N, C)``."""
        x = images(x)
        if min(x.shape[1:]) < 1:
            raise ValueError(f"x has shape {x.shape}: every size but the batch's must be at least 1")
        (N, C, H, W), last = x.shape, layout_of(x) == "NHWC"
        y = fresh((N, C), x.dtype)
        launch_light(kernels.mean_planes, N, x.size, flat(x), y.reshape(-1), C, H * W, int(last))
        self._saved = Form.of(x), Form.of(y)
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """``(N, C, H, W)``: every pixel gets the same share of the gradient of its plane."""
        form, output = self._recall()
        grad, grad_input, (N, C, H, W) = check_gradient(grad_output, output), form.empty(), form.shape
        last, arrays = form.layout == "NHWC", (flat(grad), flat(grad_input))
        launch_light(kernels.spread_planes, N, grad_input.size, *arrays, C, H * W, int(last))
        return grad_input


def winner_dtype(sizes: PoolSizes) -> np.dtype:
    """What can hold the number of a tap, and one more."""
    return np.dtype(np.uint8 if sizes.KH * sizes.KW < 256 else np.int64)


def windows_of(sizes: PoolSizes, relu: bool) -> Windows | None:
    """What another kernel needs to pool its rows; None unless each pixel is in one window, and channels innermost."""
    if sizes.inner == 1 or not kernels.windows_fill(sizes):
        return None
    nobody = sizes.KH * sizes.KW if relu else -1
    return Windows(sizes.KH, sizes.KW, sizes.OH, sizes.OW, sizes.inner, nobody)


def _span(taps: int, dilation: int) -> int:
    """Pixels from the first tap of a window to its last."""
    return dilation * (taps - 1) + 1


def _output_size(size: int, span: int, stride: int, padding: int, ceil_mode: bool) -> int:
    room = size + 2 * padding - span
    if not ceil_mode:
        return room // stride + 1
    output = -(-room // stride) + 1
    # The last window must start inside the image or in the padding before it.
    return output - 1 if (output - 1) * stride >= size + padding else output


def _taps_inside(size: int, outputs: int, taps: int, stride: int, padding: int, dilation: int = 1) -> np.ndarray:
    """``(outputs,)``: how many taps of each window meet a pixel of the image."""
    positions = np.arange(outputs)[:, None] * stride - padding + np.arange(taps) * dilation
    return ((positions >= 0) & (positions < size)).sum(1)


def _taps_inside_padded(size: int, outputs: int, taps: int, stride: int, padding: int) -> np.ndarray:
    """``(outputs,)``: how many taps of each window meet a pixel of the image or of its padding."""
    return _taps_inside(size + 2 * padding, outputs, taps, stride, 0)


@lru_cache(maxsize=256)
def _divisor(sizes: PoolSizes, count_include_pad: bool, override: int | None) -> np.ndarray:
    """``(OH, OW)``, or ``()`` where that is everywhere the same: by what the sum of each window is divided."""
    if override is not None:
        return np.array(override)
    count = _taps_inside_padded if count_include_pad else _taps_inside
    rows = count(sizes.IH, sizes.OH, sizes.KH, sizes.SH, sizes.PH)
    columns = count(sizes.IW, sizes.OW, sizes.KW, sizes.SW, sizes.PW)
    divisor = np.multiply.outer(rows, columns)
    return divisor if np.ptp(divisor) else np.array(divisor[0, 0])


#: So many planes at least are left for threads to share.
_LEAST_PLANES = 32


@lru_cache(maxsize=256)
def _pool_sizes(
    shape: Shape,
    layout: Layout,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    ceil_mode: bool,
) -> PoolSizes:
    """What kernels need; remembered, for it takes longer than they do for small images."""
    (N, C, IH, IW), (KH, KW), (SH, SW), (PH, PW), (DH, DW) = shape, kernel_size, stride, padding, dilation
    OH = _output_size(IH, _span(KH, DH), SH, PH, ceil_mode)
    OW = _output_size(IW, _span(KW, DW), SW, PW, ceil_mode)
    if min(C, OH, OW) < 1:
        raise ValueError(f"it is too large, the output would be {OH} x {OW}")
    if not (_taps_inside(IH, OH, KH, SH, PH, DH).all() and _taps_inside(IW, OW, KW, SW, PW, DW).all()):
        raise ValueError("a window would hold no pixel")
    planes, inner = (N * C, 1) if layout == "NCHW" else (N, C)
    band = max(1, min(OH, BAND // (OW * inner)))
    return PoolSizes(planes, inner, IH, IW, OH, OW, KH, KW, SH, SW, PH, PW, DH, DW, band)


@lru_cache(maxsize=256)
def _offsets(sizes: PoolSizes) -> np.ndarray:
    """``(KH * KW,)``: where in a window each tap lies, in pixels from its first one."""
    return np.add.outer(np.arange(sizes.KH) * sizes.DH * sizes.IW, np.arange(sizes.KW) * sizes.DW).ravel()


def _launch(kernel: Kernel, sizes: PoolSizes, arrays: tuple[np.ndarray, ...], *more: Any) -> None:
    """Run a kernel over the planes of some dense arrays."""
    elements = sizes.planes * sizes.inner * max(sizes.IH * sizes.IW, sizes.OH * sizes.OW)
    sizes = _stacked(sizes)
    launch_light(kernel, sizes.planes, elements, *map(flat, arrays), *more, sizes)


@lru_cache(maxsize=256)
def _stacked(sizes: PoolSizes) -> PoolSizes:
    """The same with fewer, higher planes, where windows fill a plane and none reaches into the next.

    Small planes would take longer to begin with than to pool.
    """
    if sizes.PH or sizes.IH != sizes.OH * sizes.SH or _span(sizes.KH, sizes.DH) > sizes.SH:
        return sizes
    elements, most = sizes.OH * sizes.OW * sizes.inner, sizes.planes // _LEAST_PLANES
    high = max((n for n in range(1, most + 1) if sizes.planes % n == 0 and n * elements <= BAND), default=1)
    OH = sizes.OH * high
    return sizes._replace(planes=sizes.planes // high, IH=sizes.IH * high, OH=OH, band=max(sizes.band, OH * (high > 1)))
