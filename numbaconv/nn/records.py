"""What a trainer reports."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Evaluation(NamedTuple):
    """How well a model does on some images."""

    #: The mean over all images.
    loss: float
    #: The share of images whose largest output is that of their label; None where the targets are no labels.
    accuracy: float | None


class Progress(NamedTuple):
    """Where an epoch stands after a batch."""

    #: Epoch and batch, both from 1, and their numbers.
    epoch: int
    epochs: int
    batch: int
    batches: int
    #: Images seen in this epoch, and mean loss and accuracy over them.
    images: int
    loss: float
    accuracy: float | None


class Epoch(NamedTuple):
    """What came of an epoch."""

    #: From 1.
    epoch: int
    #: Mean loss and accuracy over the epoch, each batch measured just before the step that it leads to.
    loss: float
    accuracy: float | None
    #: Of the validation data after the epoch, None without such data.
    validation_loss: float | None
    validation_accuracy: float | None
    #: The time that the training of this epoch took, without validation, and the images trained in a second of it.
    seconds: float
    images_per_second: float


class Tally:
    """Mean loss and accuracy over batches of different sizes."""

    def __init__(self) -> None:
        self.images, self._loss, self._right = 0, 0.0, 0
        self._labelled = True

    def add(self, loss: float, prediction: np.ndarray, target: np.ndarray) -> None:
        """Count a batch with its mean loss."""
        self.images += len(target)
        self._loss += loss * len(target)
        self._labelled &= target.dtype.kind in "iu" and prediction.ndim == 2
        if self._labelled:
            self._right += int(np.count_nonzero(prediction.argmax(1) == target))

    @property
    def loss(self) -> float:
        """The mean over all images."""
        return self._loss / self.images

    @property
    def accuracy(self) -> float | None:
        """The share of right answers; None where the targets are no labels."""
        return self._right / self.images if self._labelled else None
