"""Small random changes to training images, so that a model learns what does not matter.

Each is a callable ``f(images, rng) -> images`` on a batch of floats ``(N, C, H, W)``, drawn anew for every image, and
:class:`Compose` makes one of several. All that is random comes from ``rng``: the same seed gives the same images. The
batch that comes in is never changed; what comes out has its shape and dtype.

The images of a :class:`~numbaconv.data.Dataset` are normalised already, so that 0 is the mean pixel of the training
images: what is filled with 0 here is filled with that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from numbaconv.kernels.shift import shift
from numbaconv.parameters import LARGEST_PARAMETER, integer
from numbaconv.threads import launch_light

#: A random change: a batch and where randomness comes from, to a batch.
Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True, slots=True)
class RandomCrop:
    """Pad every image on all sides, and cut a window of its own size out of that at random.

    Parameters
    ----------
    padding : int
        Pixels on each side, and so the most that an image moves along an axis. 4 is usual for images of 32×32 [1]_.
    fill : float, default 0.0
        What to pad with. In normalised images 0 is the mean pixel.

    References
    ----------
    .. [1] C.-Y. Lee et al., "Deeply-Supervised Nets", AISTATS (2015).

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.data import RandomCrop
    >>> RandomCrop(padding=1)(np.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]), np.random.default_rng(2))
    array([[[[0., 4., 5.],
             [0., 0., 0.]]]])
    """

    padding: int
    fill: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "padding", integer(self.padding, "padding", 0))
        _number(self.fill, "fill", -LARGEST_PARAMETER)

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        _check(images, rng)
        offsets = rng.integers(-self.padding, self.padding + 1, (2, len(images)))
        return _windows(images, offsets, self.fill)


@dataclass(frozen=True, slots=True)
class RandomShift:
    """Shift every image by up to some pixels along both axes, fractions of a pixel included.

    Values between pixels are interpolated linearly; at an edge the last row or column is repeated.

    Parameters
    ----------
    pixels : float
        The largest shift.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.data import RandomShift
    >>> RandomShift(0.5)(np.eye(3, dtype=np.float32)[None, None], np.random.default_rng(0)).shape
    (1, 1, 3, 3)
    """

    pixels: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", _number(self.pixels, "pixels", 0))

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        _check(images, rng)
        if self.pixels == 0:
            return images
        shifts = rng.uniform(-self.pixels, self.pixels, (2, len(images)))
        whole = np.floor(shifts)
        dtype = np.float32 if images.dtype.itemsize <= 4 else np.float64  # kernels know no other
        source = np.require(images, dtype, ["C", "A", "W"])
        result = np.empty_like(source)
        arrays = (source, whole.astype(np.int64), (shifts - whole).astype(source.dtype), result)
        launch_light(shift, len(images), images.size, *arrays)
        return result.astype(images.dtype, copy=False)


@dataclass(frozen=True, slots=True)
class RandomHorizontalFlip:
    """Swap left and right, of every image with the same probability. Not for digits and letters.

    Parameters
    ----------
    p : float, default 0.5
        The probability.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.data import RandomHorizontalFlip
    >>> RandomHorizontalFlip(p=1)(np.array([[[[1.0, 2.0, 3.0]]]]), np.random.default_rng(0))
    array([[[[3., 2., 1.]]]])
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        _number(self.p, "p", 0, 1)

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        _check(images, rng)
        flipped = rng.random(len(images)) < self.p
        result = images.copy()
        result[flipped] = images[flipped, :, :, ::-1]
        return result


@dataclass(frozen=True, slots=True)
class Cutout:
    """Overwrite a square of every image. Its centre is any pixel, so that part of it may lie outside.

    Parameters
    ----------
    size : int
        Height and width of the square.
    fill : float, default 0.0
        What it is overwritten with. In normalised images 0 is the mean pixel.

    References
    ----------
    .. [1] T. DeVries and G. W. Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
       arXiv:1708.04552 (2017).

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.data import Cutout
    >>> Cutout(size=2)(np.ones((1, 1, 3, 4)), np.random.default_rng(0))
    array([[[[1., 1., 1., 1.],
             [1., 0., 0., 1.],
             [1., 0., 0., 1.]]]])
    """

    size: int
    fill: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", integer(self.size, "size", 1))
        _number(self.fill, "fill", -LARGEST_PARAMETER)

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        _check(images, rng)
        N, _, H, W = images.shape
        rows, columns = (self._covered(rng.integers(0, length, (N,)), length) for length in (H, W))
        return np.where(rows[:, None, :, None] & columns[:, None, None, :], images.dtype.type(self.fill), images)

    def _covered(self, centres: np.ndarray, length: int) -> np.ndarray:
        """Along one axis, which pixels the squares cover: ``(N, length)``."""
        into = np.arange(length) - (centres[:, None] - self.size // 2)
        return (into >= 0) & (into < self.size)


@dataclass(frozen=True, slots=True)
class Compose:
    """Several random changes, one after the other.

    Parameters
    ----------
    transforms : sequence of callables
        Each ``f(images, rng) -> images``: those of this module, or your own.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.data import Compose, RandomCrop, RandomHorizontalFlip
    >>> augment = Compose([RandomCrop(padding=4), RandomHorizontalFlip()])
    >>> augment
    Compose(transforms=(RandomCrop(padding=4, fill=0.0), RandomHorizontalFlip(p=0.5)))
    >>> augment(np.zeros((128, 3, 32, 32), np.float32), np.random.default_rng(0)).shape
    (128, 3, 32, 32)
    """

    transforms: Sequence[Augmentation]

    def __post_init__(self) -> None:
        if not isinstance(self.transforms, Sequence):
            raise TypeError(f"transforms must be a sequence of callables, got {self.transforms!r}")
        for transform in self.transforms:
            if not callable(transform) or isinstance(transform, type):
                raise TypeError(f"transforms must be callables f(images, rng), but one is {transform!r}")
        object.__setattr__(self, "transforms", tuple(self.transforms))

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        _check(images, rng)
        for transform in self.transforms:
            images = transform(images, rng)
        return images


def shifted(images: np.ndarray, pixels: float, random: np.random.Generator) -> np.ndarray:
    """``RandomShift(pixels)(images, random)``, see :class:`RandomShift`."""
    return RandomShift(pixels)(images, random)


def _windows(images: np.ndarray, offsets: np.ndarray, fill: float) -> np.ndarray:
    """A window of each image, of its own size and with its corner at ``offsets[:, n]``; beyond the image is ``fill``.

    An offset beyond the image's own size shows padding alone, so it is cut to that, and no more than that is padded.
    """
    size = images.shape[2:]
    corners, widths = [], [(0, 0), (0, 0)]
    for axis_offsets, length in zip(offsets, size, strict=True):
        axis_offsets = np.clip(axis_offsets, -length, length)
        before = max(0, -int(axis_offsets.min(initial=0)))
        after = max(0, int(axis_offsets.max(initial=0)))
        widths.append((before, after))
        corners.append(axis_offsets + before)
    padded = np.pad(images, widths, constant_values=fill)
    down, right = corners
    return sliding_window_view(padded, size, axis=(2, 3))[np.arange(len(images)), :, down, right]


def _check(images: np.ndarray, rng: np.random.Generator) -> None:
    if not isinstance(images, np.ndarray) or images.dtype.kind != "f":
        raise TypeError(f"images must be an array of floats, got {getattr(images, 'dtype', type(images).__name__)}")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must be (N, C, H, W), none of C, H, W being 0, got the shape {images.shape}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")


def _number(value: float, name: str, low: float, high: float = LARGEST_PARAMETER) -> float:
    """``value``, a finite number from ``low`` to ``high``: Python's, for NumPy's small integers overflow."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    if not low <= value <= high:  # NaN is not
        raise ValueError(f"{name} must be a finite number from {low} to {high}, got {value}")
    return value if isinstance(value, int | float) else value.item()
