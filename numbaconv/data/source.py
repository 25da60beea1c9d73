"""Images and labels as they were stored: what they must be, and their one shape. No scaling yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

#: How many channels an image may have: where the last size of an array is among these, and the second is not, they are
#: last.
CHANNELS = (1, 3, 4)
#: More classes than this are taken for a mistake: labels that are row numbers, say.
MOST_CLASSES = 10_000
#: Deflate cannot compress any better than this, so a file cannot hold more than its size times this.
DEFLATE_LIMIT = 1032


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Images as they were stored, ``(N, C, H, W)`` of uint8 or float32, and their int64 labels where they are known.

    ``names`` tells the images apart where each came from a file of its own.
    """

    images: np.ndarray = field(repr=False)
    labels: np.ndarray | None = field(repr=False)
    where: str
    names: tuple[str, ...] | None = field(default=None, repr=False)

    @classmethod
    def checked(cls, images: Any, labels: Any, where: str, labels_where: str | None = None) -> Samples:
        """Samples from arrays of any accepted kind; ``where`` names them in errors."""
        images = as_images(images, where)
        if labels is not None:
            labels = as_labels(labels, len(images), labels_where or where)
        return cls(images, labels, where)

    def known_labels(self) -> np.ndarray:
        """The labels; a ValueError if there are none."""
        if self.labels is None:
            raise ValueError(f"{self.where}: has no labels, and cannot be trained on")
        return self.labels


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a file or folder holds: a training part, a test part, or one of them.

    ``scale`` is the integer pixel value that counts as 1, where the format fixes it; ``class_names`` has a name for
    every label, where they are known.
    """

    name: str
    train: Samples | None
    test: Samples | None = None
    scale: float | None = None
    class_names: tuple[str, ...] | None = None

    def all_or_test(self) -> Samples:
        """The test part where there is one, else everything: what a model is to be tried on."""
        samples = self.test if self.test is not None else self.train
        assert samples is not None, "a source has at least one part"
        return samples

    def with_classes(self, class_names: Sequence[str] | None) -> Source:
        """The same images, their labels counted as ``class_names`` has them: a model's, that knows the classes by name.

        Nothing is changed where one of both has no names. A class that is not among ``class_names`` is a ValueError.
        """
        if self.class_names is None or class_names is None or self.class_names == tuple(class_names):
            return self
        unknown = [name for name in self.class_names if name not in class_names]
        if unknown:
            raise ValueError(f"{self.name}: has the classes {listed(unknown)}, which are none of {listed(class_names)}")
        order = np.array([list(class_names).index(name) for name in self.class_names])

        def relabelled(part: Samples | None) -> Samples | None:
            return part if part is None or part.labels is None else replace(part, labels=order[part.labels])

        return replace(self, train=relabelled(self.train), test=relabelled(self.test), class_names=tuple(class_names))


def as_images(array: np.ndarray, where: str) -> np.ndarray:
    """``array`` as ``(N, C, H, W)`` of uint8 or float32; a ValueError if it cannot be images.

    ``(N, H, W)`` has one channel; ``(N, C, H, W)`` and ``(N, H, W, C)`` are told apart by the size that is 1, 3 or 4
    (the first of them that is).
    """
    check_array(array, f"{where}: images")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim != 4:
        hint = ": one image is array[None]" if array.ndim == 2 else ""
        raise ValueError(f"{where}: images must be (N, H, W), (N, C, H, W) or (N, H, W, C), got {array.shape}{hint}")
    elif array.shape[1] not in CHANNELS and array.shape[3] in CHANNELS:
        array = array.transpose(0, 3, 1, 2)
    elif array.shape[1] not in CHANNELS:
        raise ValueError(f"{where}: images must have 1, 3 or 4 channels, got the shape {array.shape}")
    if 0 in array.shape:
        raise ValueError(f"{where}: there are no images in an array of shape {array.shape}")
    return _pixels(array, where)


def as_labels(array: np.ndarray, count: int, where: str) -> np.ndarray:
    """``array`` as ``count`` int64 labels; a ValueError if it cannot be that."""
    check_array(array, f"{where}: labels")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = ": one-hot labels are array.argmax(1)" if array.ndim == 2 else ""
        raise ValueError(f"{where}: labels must be one number an image, (N,), got the shape {array.shape}{hint}")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{where}: labels must be integers, got {array.dtype}")
    if len(array) != count:
        raise ValueError(f"{where}: {len(array):,} labels for {count:,} images")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= MOST_CLASSES:
        raise ValueError(f"{where}: labels must be from 0 to {MOST_CLASSES - 1}, got {low} to {high}")
    return array.astype(np.int64)


def check_array(value: Any, name: str) -> None:
    """A TypeError unless ``value`` is an array."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(value).__name__}: convert it with numpy.asarray")


def check_images(value: Any, name: str) -> None:
    """A TypeError or ValueError unless ``value`` is an array ``(N, C, H, W)`` of integers or floats."""
    check_array(value, name)
    if value.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be integers or floats, got dtype {value.dtype}")
    if value.ndim != 4:
        raise ValueError(f"{name} must be (N, C, H, W), got the shape {value.shape}")


def regular_file(path: Path) -> Path:
    """``path`` itself; an error of one line unless it is a file that can be opened."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if not path.is_file():
        raise ValueError(f"{path}: is not a file")
    return path


def listed(names: Sequence[str], most: int = 6) -> str:
    """Some names for an error message: ``cat, dog, ...``."""
    return ", ".join([*names[:most], "..."] if len(names) > most else names)


def _pixels(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype.kind in "iu":
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            raise ValueError(f"{where}: integer pixels must be from 0 to 255, got {low} to {high}")
        return np.ascontiguousarray(array, np.uint8)
    if array.dtype.kind != "f":
        raise ValueError(f"{where}: pixels must be integers or floats, got {array.dtype}")
    with np.errstate(over="ignore"):  # what overflows is found just below
        pixels = np.ascontiguousarray(array, np.float32)
    bad = pixels.size - int(np.isfinite(pixels).sum())
    if bad:
        raise ValueError(f"{where}: pixels must be finite float32 numbers, but {bad:,} are not")
    return pixels
