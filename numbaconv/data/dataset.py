"""A data set that is ready to train on: split, scaled and normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from numbaconv.data.source import Samples, Source, check_images
from numbaconv.parameters import integer
from numbaconv.values import numbers, real

#: The part of the images of each class that is kept for testing where a data set has no test part of its own.
TEST_FRACTION = 0.2
SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in a training part and a test part.

    Attributes
    ----------
    name : str
        What was loaded.
    train_images, test_images : ndarray of float32, shape (N, C, H, W)
        Scaled, then normalised channel by channel with the mean and deviation of the training part.
    train_labels, test_labels : ndarray of int64, shape (N,)
        From 0 to ``classes - 1``.
    classes : int
        How many there are: the largest label plus 1, or as many as have a name.
    scale : float
        What integer pixels were, or would have been, divided by. 1 where they are taken as they are.
    mean, std : tuple of float
        The normalisation, one number a channel: ``(pixel / scale - mean) / std``.
    class_names : tuple of str, optional
        A name for every label, where they are known.

    Examples
    --------
    >>> from numbaconv.data import load_digits
    >>> digits = load_digits()
    >>> digits
    Dataset(name='digits', classes=10, scale=16.0, mean=(0.30...,), std=(0.37...,), class_names=None)
    >>> digits.train_images.shape, digits.test_images.shape
    ((1438, 1, 8, 8), (359, 1, 8, 8))
    """

    name: str
    train_images: np.ndarray = field(repr=False)
    train_labels: np.ndarray = field(repr=False)
    test_images: np.ndarray = field(repr=False)
    test_labels: np.ndarray = field(repr=False)
    classes: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        _, C, H, W = self.train_images.shape
        return C, H, W

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        labels: np.ndarray,
        test_images: np.ndarray | None = None,
        test_labels: np.ndarray | None = None,
        *,
        name: str = "arrays",
    ) -> Dataset:
        """A data set from arrays in memory.

        Parameters
        ----------
        images, test_images : ndarray
            ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)`` with 1, 3 or 4 channels; integers from 0 to 255, or
            finite floats. They are not changed.
        labels, test_labels : ndarray of integers, shape (N,) or (N, 1)
            The classes, counted from 0.
        name : str
            Its name, for error messages.

        Raises
        ------
        TypeError
            What should be an array is none.
        ValueError
            An array is none of that, or arrays do not fit each other.
        """
        train = Samples.checked(images, labels, name)
        test = None
        if test_images is None and test_labels is not None:
            raise ValueError(f"{name}: there are test_labels, but no test_images to go with them")
        if test_images is not None:
            test = Samples.checked(test_images, test_labels, f"{name} (test)")
        return cls.from_source(Source(name, train, test))

    @classmethod
    def from_source(cls, source: Source) -> Dataset:
        """Split, scale and normalise what a file holds."""
        train, test = _parts(source)
        train_labels, test_labels = train.known_labels(), test.known_labels()
        scale = source.scale if source.scale is not None else _scale(train.images)
        mean, std = channel_moments(train.images, _divisor(train.images, scale))
        names = source.class_names
        return cls(
            name=source.name,
            train_images=prepare(train.images, scale, mean, std, where=train.where),
            train_labels=train_labels,
            test_images=prepare(test.images, scale, mean, std, where=test.where),
            test_labels=test_labels,
            classes=len(names) if names else int(max(train_labels.max(), test_labels.max())) + 1,
            scale=scale,
            mean=mean,
            std=std,
            class_names=names,
        )


def prepare(
    images: np.ndarray,
    scale: float,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    own_scale: float | None = None,
    where: str = "images",
) -> np.ndarray:
    """Do to other images what was done to those of a data set.

    Parameters
    ----------
    images : ndarray of integers or floats, shape (N, C, H, W)
        Integers are divided by ``scale``; floats are taken to be scaled already.
    scale, mean, std
        As in :class:`Dataset`.
    own_scale : float, optional
        What integers are divided by in these images, where that is known to be another number than ``scale``.
    where : str
        What the images are called in an error message.

    Returns
    -------
    ndarray of float32, shape (N, C, H, W)

    Raises
    ------
    TypeError
        An argument is none of that.
    ValueError
        The number of channels is another one; a number is not finite, or not above 0 where it is divided by; or, with
        a ``scale`` other than 1, integers are not within 0 to ``scale``, or floats not within 0 to 1.
    """
    check_images(images, where)
    scale = positive(scale, "scale")
    own_scale = None if own_scale is None else positive(own_scale, "own_scale")
    moments = numbers(mean, "mean"), numbers(std, "std")
    shapes = {array.shape for array in moments}
    if shapes != {(moments[0].size,)} or not np.isfinite(moments).all() or moments[1].min() <= 0:
        raise ValueError(f"mean and std must be finite, one of each a channel, and std above 0: got {mean} and {std}")
    if images.shape[1] != len(mean):
        raise ValueError(f"{where}: images have {images.shape[1]} channels, the normalisation is for {len(mean)}")
    if own_scale not in (None, scale) and images.dtype.kind in "iu":
        images = images / np.float32(own_scale)
    integers = images.dtype.kind in "iu"
    if scale != 1 and images.size:
        limit, slack = (scale, 0.0) if integers else (1.0, 1e-3)
        low, high = images.min(), images.max()
        if low < -slack or high > limit + slack:
            kind = "integer" if integers else "float"
            raise ValueError(
                f"{where}: {kind} pixels must be from 0 to {limit:g}, as in training, got {low:g} to {high:g}"
            )
    shape = (1, -1, 1, 1)
    divisor = _divisor(images, scale)
    result = images.astype(np.float32)
    result -= np.multiply(mean, divisor).astype(np.float32).reshape(shape)
    result *= (1 / np.multiply(std, divisor)).astype(np.float32).reshape(shape)
    return result


def stratified_split(
    labels: np.ndarray, fraction: float = TEST_FRACTION, seed: int = SPLIT_SEED
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a training and of a test part that have the classes in the same proportions.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
        The class of every image.
    fraction : float
        The part of every class that goes to the test part, rounded; but of a class of two or more at least one image,
        and never all.
    seed : int
        Two calls with the same seed split in the same way, whatever the versions of Python and NumPy.

    Returns
    -------
    train, test : ndarray of int
        In ascending order.

    Raises
    ------
    TypeError, ValueError
        An argument is none of that.

    Examples
    --------
    >>> import numpy as np
    >>> train, test = stratified_split(np.array([0, 1] * 5))
    >>> len(train), len(test)
    (8, 2)
    """
    labels = numbers(labels, "labels")
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"labels must be integers, (N,), at least one: got {labels.dtype} of shape {labels.shape}")
    fraction, seed = real(fraction, "fraction", 0, 1), integer(seed, "seed", 0)
    # The stream of RandomState is frozen; that of default_rng may change with NumPy.
    random = np.random.RandomState(seed)
    test = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        test.append(random.permutation(members)[:count])
    chosen = np.zeros(len(labels), bool)
    chosen[np.concatenate(test)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def positive(value: float, name: str) -> float:
    """``value``, a finite number above 0."""
    number = real(value, name, 0)
    if number == 0:
        raise ValueError(f"{name} must be above 0, got 0")
    return number


def split_off_test_part(samples: Samples) -> tuple[Samples, Samples]:
    """A training and a test part, of samples that have labels."""
    labels = samples.known_labels()
    train, test = stratified_split(labels)
    if not len(test):
        raise ValueError(f"{samples.where}: no class has two images, so no test part can be split off")
    return (
        Samples(samples.images[train], labels[train], samples.where),
        Samples(samples.images[test], labels[test], samples.where),
    )


def _parts(source: Source) -> tuple[Samples, Samples]:
    """The labelled training and test part of a source, split off where there is no test part."""
    train, test = source.train, source.test
    if train is None:
        raise ValueError(f"{source.name}: has a test part only, and nothing to train on")
    if test is None:
        return split_off_test_part(train)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"{source.name}: the training images are {train.images.shape[1:]}, the test images {test.images.shape[1:]} "
            "(channels, height, width): they must be alike"
        )
    return train, test


def _scale(images: np.ndarray) -> float:
    """255 where images are integers or floats within 0 to 1; 1 where floats have a range of their own."""
    if images.dtype.kind in "iu" or (images.min() >= 0 and images.max() <= 1):
        return 255.0
    return 1.0


def _divisor(images: np.ndarray, scale: float) -> float:
    return scale if images.dtype.kind in "iu" else 1.0


def channel_moments(
    images: np.ndarray, divisor: float = 1.0, chunk: int = 1024
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over ``divisor``, in float64 without a copy of all images in it."""
    N, C, H, W = images.shape
    chunks = [images[n : n + chunk] for n in range(0, N, chunk)]
    mean = sum(part.sum(axis=(0, 2, 3), dtype=np.float64) for part in chunks) / (N * H * W)
    squares = sum(np.square(part - mean.reshape(1, C, 1, 1)).sum(axis=(0, 2, 3)) for part in chunks)
    std = np.sqrt(squares / (N * H * W))
    std[std <= 1e-6 * np.abs(mean)] = divisor  # a channel that is constant is only shifted
    return tuple((mean / divisor).tolist()), tuple((std / divisor).tolist())
