"""Batch normalisation."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from numbaconv.jit import Kernel
from numbaconv.kernels import normalisation as kernels
from numbaconv.kernels.normalisation import NormSizes
from numbaconv.nn.checks import FLOATS, check_gradient, flag, images, parameter_dtype, real
from numbaconv.nn.initialisation import constant
from numbaconv.nn.layout import Form, empty_like, flat, layout_of
from numbaconv.nn.module import Module, Parameter
from numbaconv.nn.sums import added
from numbaconv.parameters import Layout, integer
from numbaconv.threads import launch, launch_light

#: Elements of a row: what is known of the channels along it should stay in the L1 cache, and be laid out seldom.
_ROW = 1024
#: The same where more arrays are in that cache: several that are read and written, or all that a convolution needs.
_SHORT_ROW = 512
_SHORTEST_ROW = 16
#: Parts of a batch, each of which a thread sums by itself, where there are too few channels for many threads.
_PARTS = 16
#: Pixels of an image whose mean is near enough to that of a batch.
_SAMPLE = 256


class Normalised(NamedTuple):
    """What a batch norm gives, and a ReLU behind it, if there is one, before it is made: maybe where it is read."""

    x: np.ndarray
    relu: bool
    coefficients: tuple[np.ndarray, np.ndarray, np.ndarray]  # center, scale and shift of each channel

    def made(self, plus: np.ndarray | None = None) -> np.ndarray:
        """An array like x; ``plus`` is added before the ReLU."""
        y = empty_like(self.x)
        other = np.empty(0, y.dtype) if plus is None else plus
        _launch(kernels.scale_shift, _sizes(self.x, self.relu, _SHORT_ROW), self.x, *self.coefficients, other, y)
        return y

    def rows(self) -> np.ndarray:
        """What a kernel needs to make it."""
        channels = self.x.shape[1]
        rows = np.empty(3 * channels * max(1, _SHORT_ROW // channels), self.x.dtype)
        launch(kernels.lay_out, 1, *self.coefficients, rows)
        return rows


class BatchNorm2d(Module):
    """Every channel shifted and scaled to mean 0 and variance 1 over the batch, then by what is learned.

    ``y = (x - mean) / sqrt(variance + eps) * weight + bias``, one of each a channel. In training, mean and variance are
    those of the batch, and the running statistics follow them; in evaluation they are the running statistics.

    Parameters
    ----------
    num_features : int
        Channels of x.
    eps : float
        Added to the variance, so that a constant channel is not divided by 0.
    momentum : float or None
        The share of the newest batch in the running statistics; None for the plain mean over all batches.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        Whether there are running statistics; without them, evaluation uses the batch's as well.
    dtype : float32 or float64
        Of the parameters and of the running statistics.

    Attributes
    ----------
    weight, bias : Parameter or None
        ``(num_features,)``, ones and zeros at first.
    running_mean, running_var : ndarray or None
        ``(num_features,)``, zeros and ones at first. The variance is the unbiased one.
    num_batches_tracked : ndarray or None
        An integer, ``()``: the batches seen in training.

    Raises
    ------
    TypeError, ValueError
        For arguments that are wrong, in the constructor or, where they do not fit x, in forward; there also for a batch
        with a single value a channel, whose variance means nothing.

    References
    ----------
    Ioffe, Szegedy: Batch Normalization, 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> layer = nn.BatchNorm2d(1)
    >>> x = np.array([1, 3], np.float32).reshape(2, 1, 1, 1)
    >>> layer(x).ravel().round(3)
    array([-1.,  1.], dtype=float32)
    >>> layer.running_mean  # a tenth of the way from 0 to 2
    array([0.2], dtype=float32)
    """

    buffers = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        self.num_features = C = integer(num_features, "num_features", 1)
        self.eps = real(eps, "eps", 0)
        self.momentum = None if momentum is None else real(momentum, "momentum", 0, 1)
        dtype, affine = parameter_dtype(dtype), flag(affine, "affine")
        track_running_stats = flag(track_running_stats, "track_running_stats")
        self.weight = Parameter(constant((C,), 1, dtype)) if affine else None
        self.bias = Parameter(constant((C,), 0, dtype)) if affine else None
        self.running_mean = constant((C,), 0, dtype) if track_running_stats else None
        self.running_var = constant((C,), 1, dtype) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), np.int64) if track_running_stats else None

    def forward(self, x: np.ndarray, relu: bool = False, plus: np.ndarray | None = None) -> np.ndarray:
        """An array of the shape of x.

        In the same sweep, ``plus`` is added, an array like x; and with ``relu``, a :class:`ReLU` follows.
        """
        normalised = self.normalised(x, relu)
        y = normalised.made(plus)
        if plus is not None:
            self._saved = (*self._recall()[:3], y)
        return y

    def normalised(self, x: np.ndarray, relu: bool) -> Normalised:
        """The same before it is made."""
        x = images(x)
        C = self.num_features
        if x.shape[1] != C or min(x.shape[1:]) < 1:
            raise ValueError(f"x of shape {x.shape} must be (N, {C}, H, W) for {self!r}")
        own_moments = self.training or self.running_mean is None
        if own_moments:
            mean, variance = self._moments(x)
        else:
            mean, variance = _each(self.running_mean, C), _each(self.running_var, C)
        if self.training:
            self._track(mean, variance, x.size // C)
        weight = _each(1.0 if self.weight is None else self.weight.data, C)
        bias = _each(0.0 if self.bias is None else self.bias.data, C)
        rstd, center, scale, shift = np.empty(C), *(np.empty(C, x.dtype) for _ in range(3))
        launch(kernels.coefficients, 1, mean, variance, self.eps, weight, bias, rstd, center, scale, shift)
        normalised = Normalised(x, relu, (center, scale, shift))
        self._saved = normalised, rstd, own_moments, None
        return normalised

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """An array of the shape of x."""
        return self.backward_sum(grad_output)[0]

    def backward_sum(self, grad_output: np.ndarray, more: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The gradients of x and, if there was one, of ``plus``; ``more`` is another summand of the output's gradient.

        With ``x̂ = (x - mean) / std`` and ``count`` pixels a channel, ``grad_bias = Σ grad_y`` and
        ``grad_weight = Σ grad_y x̂``. Mean and variance depend on x as well, which takes away from grad_y what lies
        along 1 and along x̂: ``grad_x = weight / std * (grad_y - grad_bias / count - x̂ * grad_weight / count)``. In
        evaluation they are constants, and ``grad_x = weight / std * grad_y``.
        """
        (x, relu, coefficients), rstd, own_moments, y = self._recall()
        masks = relu and y is not None  # else what the ReLU gave is told by x
        # Where dtypes differ, the sum is to be rounded, not they.
        if more is not None and not (masks and grad_output.dtype == more.dtype == x.dtype):
            grad_output, more = added(grad_output, more), None
        grad, count = check_gradient(grad_output, Form.of(x)), max(1, x.size // self.num_features)
        relu = relu and not masks
        sizes = _sizes(x, relu, _SHORT_ROW if masks else _ROW)
        total, products = _totals(2, sizes)
        if masks:
            through = empty_like(x)
            other = np.empty(0, x.dtype) if more is None else check_gradient(more, Form.of(x))
            _launch(kernels.masked_moments, sizes, grad, other, y, x, coefficients[0], through, total, products)
            grad = through
        else:
            _launch(kernels.gradient_moments, sizes, grad, x, *coefficients, total, products)
        mean, slope = np.empty(self.num_features, x.dtype), np.empty(self.num_features, x.dtype)
        kind = np.float64 if self.weight is None else self.weight.data.dtype
        grad_weight, grad_bias = np.empty(self.num_features, kind), np.empty(self.num_features, kind)
        launch(kernels.gradients, 1, total, products, rstd, count, grad_weight, grad_bias, mean, slope)
        if self.weight is not None and self.bias is not None:
            self.weight.add_grad(grad_weight)
            self.bias.add_grad(grad_bias)
        if not own_moments:
            mean[:] = slope[:] = 0
        grad_input = empty_like(x)
        sizes = _sizes(x, relu, _SHORT_ROW)
        _launch(kernels.normalised_gradient, sizes, grad, x, *coefficients, mean, slope, grad_input)
        return grad_input, grad

    def constants(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By what each channel is multiplied where these are its moments, and what is added to it, in float64."""
        rstd = 1 / np.sqrt(variance.astype(np.float64) + self.eps)
        scale = rstd if self.weight is None else rstd * self.weight.data
        return scale, (0 if self.bias is None else self.bias.data) - scale * mean

    def _moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and biased variance of every channel of the batch, in float64.

        In one sweep, about a value near the mean, that of some pixels of an image: then little is lost when the square
        of what is missing to the mean is taken from the mean square, however large the mean is.
        """
        count = x.size // self.num_features
        if count <= 1:
            raise ValueError(
                f"x of shape {x.shape} has {count} values a channel: "
                "batch statistics need more than 1 (use eval(), or a larger batch)"
            )
        C, pixels = self.num_features, x.shape[2] * x.shape[3]
        strides = (pixels, 1) if layout_of(x) == "NCHW" else (1, C)
        near, mean, variance = np.empty(C, x.dtype), np.empty(C), np.empty(C)
        launch(kernels.near_means, 1, flat(x), near, pixels, max(1, pixels // _SAMPLE), *strides)
        sizes = _sizes(x, False, _ROW)
        total, squares = _totals(2, sizes)
        _launch(kernels.moments, sizes, x, near, total, squares)
        launch(kernels.mean_and_variance, 1, near, total, squares, count, mean, variance)
        return mean, variance

    def _track(self, mean: np.ndarray, variance: np.ndarray, count: int) -> None:
        """Move the running statistics towards those of a batch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        own_arrays = self.running_mean, self.running_var, self.num_batches_tracked
        running = _each(self.running_mean, len(mean)), _each(self.running_var, len(mean))
        batches = np.require(self.num_batches_tracked, np.int64, ["C", "W", "A"])
        momentum = -1.0 if self.momentum is None else self.momentum
        launch(kernels.follow, 1, *running, batches.reshape(-1), mean, variance, momentum, count / (count - 1))
        for own, moved in zip(own_arrays, (*running, batches), strict=True):
            if own is not moved:  # an array of another kind
                own[...] = moved

    def _describe(self) -> str:
        parts = [f"{self.num_features}"]
        defaults = {"eps": 1e-5, "momentum": 0.1}
        parts += [f"{name}={getattr(self, name)}" for name, value in defaults.items() if getattr(self, name) != value]
        parts += ["affine=False"] * (self.weight is None) + ["track_running_stats=False"] * (self.running_mean is None)
        return ", ".join(parts)


def _each(values: Any, channels: int) -> np.ndarray:
    """One value a channel, as kernels take them; a ValueError if there are not so many."""
    if (
        isinstance(values, np.ndarray)
        and values.shape == (channels,)
        and values.dtype in FLOATS
        and values.flags.carray
    ):
        return values
    return np.require(np.broadcast_to(np.asarray(values, np.float64), (channels,)), None, ["C", "W", "O"])


def _sizes(x: np.ndarray, relu: bool, row: int) -> NormSizes:
    """How kernels see images, in whichever layout: as rows of neighbouring pixels, of ``row`` elements at most."""
    return _rows_of(x.shape, layout_of(x), relu, row)


@lru_cache(maxsize=256)
def _rows_of(shape: tuple[int, int, int, int], layout: Layout, relu: bool, row: int) -> NormSizes:
    N, C, H, W = shape
    inner = 1 if layout == "NCHW" else C
    pixels = next(p for p in range(min(H * W, max(1, row // inner)), 0, -1) if H * W % p == 0)
    if pixels * inner < _SHORTEST_ROW:  # a plane of a prime number of pixels, say
        pixels = H * W
    rows = H * W // pixels
    N, C, rows = (N, C, rows) if inner == 1 else (N * rows, 1, 1)
    parts = 1 if C >= _PARTS else max(1, min(N, _PARTS))
    return NormSizes(N, C, rows, pixels * inner, inner, parts, relu)


def _totals(count: int, sizes: NormSizes) -> tuple[np.ndarray, ...]:
    """Arrays for the sums of every part and channel."""
    return tuple([np.empty((sizes.parts, sizes.C * sizes.inner)) for _ in range(count)])


def _launch(kernel: Kernel, sizes: NormSizes, *arrays: np.ndarray) -> None:
    """Run a kernel over the channels of images."""
    elements = sizes.N * sizes.C * sizes.R * sizes.L
    flattened = (flat(array) if array.ndim == 4 else array for array in arrays)
    launch_light(kernel, sizes.parts * sizes.C, elements, *flattened, sizes)
