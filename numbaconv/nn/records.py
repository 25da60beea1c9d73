"""What a trainer reports."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numbaconv.nn.files import write_file
from numbaconv.parameters import integer
from numbaconv.values import as_path


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """How well a model does on some images.

    Attributes
    ----------
    loss : float
        The mean over all images.
    accuracy : float or None
        The share of images whose largest output is that of their label; None where the targets are no labels.
    labels, predictions : ndarray of int64, shape (N,), or None
        The class of every image, and the class of its largest output.
    classes : int
        How many outputs there are.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> found = nn.Evaluation(0.5, 0.75, labels=np.array([0, 0, 1, 1]), predictions=np.array([0, 1, 1, 1]), classes=3)
    >>> found.confusion_matrix
    array([[1, 1, 0],
           [0, 2, 0],
           [0, 0, 0]])
    >>> found.class_accuracy
    array([0.5, 1. , nan])
    """

    loss: float
    accuracy: float | None
    labels: np.ndarray | None = None
    predictions: np.ndarray | None = None
    classes: int = 0

    @property
    def confusion_matrix(self) -> np.ndarray:
        """Images by their label, a row each, and their prediction, a column each: int64 ``(classes, classes)``."""
        labels, predictions = self._labelled()
        pairs = labels * self.classes + predictions
        return np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)

    @property
    def class_accuracy(self) -> np.ndarray:
        """The share of right answers among the images of each class, ``(classes,)``; NaN for a class without images."""
        labels, predictions = self._labelled()
        images = np.bincount(labels, minlength=self.classes)
        right = np.bincount(labels[labels == predictions], minlength=self.classes)
        return np.divide(right, images, out=np.full(self.classes, np.nan), where=images > 0)

    def _labelled(self) -> tuple[np.ndarray, np.ndarray]:
        if self.labels is None or self.predictions is None:
            raise ValueError("the targets are no labels, so there are no classes to tell apart")
        return self.labels, self.predictions


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
    #: The learning rate of the batch's step.
    lr: float


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
    #: The learning rate of its last step.
    lr: float
    #: The time that the training of this epoch took, without validation, and the images trained in a second of it.
    seconds: float
    images_per_second: float

    @classmethod
    def from_state(cls, values: Any) -> Epoch:
        """The epoch that is stored as a list of its values; a TypeError, ValueError or OverflowError if it is none."""
        epoch = cls(*values)
        integer(epoch.epoch, "epoch", 1)
        for name, value in epoch._asdict().items():
            missing = value is None and name in {"accuracy", "validation_loss", "validation_accuracy"}
            if not missing and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise TypeError(f"{name} of an epoch in its history must be a number, got {value!r}")
        numbers: list[Any] = [None if value is None else float(value) for value in epoch[1:]]
        return cls(epoch.epoch, *numbers)


class History(list[Epoch]):
    """The epochs of a training: a list of :class:`Epoch` that can be saved.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from numbaconv import nn
    >>> history = nn.History([nn.Epoch(1, 0.5, 0.8, None, None, lr=0.1, seconds=2.0, images_per_second=500.0)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history.save(f"{folder}/history.csv")
    ...     print(Path(f"{folder}/history.csv").read_text().strip())
    epoch,loss,accuracy,validation_loss,validation_accuracy,lr,seconds,images_per_second
    1,0.5,0.8,,,0.1,2.0,500.0
    """

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a table, ``.csv``, or a list of objects, ``.json``; a row or an object an epoch.

        Raises
        ------
        ValueError
            The path ends in something else.
        OSError
            The file cannot be written.
        """
        path = as_path(path)
        write_file(path, self._text(path).encode())

    def _text(self, path: Path) -> str:
        match path.suffix.lower():
            case ".json":
                # JSON has no NaN: a validation loss that is none is null.
                rows = [{name: _number(value) for name, value in epoch._asdict().items()} for epoch in self]
                return json.dumps(rows, indent=1, allow_nan=False) + "\n"
            case ".csv":
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows([Epoch._fields, *self])
                return text.getvalue()
        raise ValueError(f"{path} must end in .csv or .json, which says how the history is stored")


def _number(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


class Tally:
    """Mean loss and accuracy over batches of different sizes."""

    def __init__(self) -> None:
        self.images, self._loss, self._right = 0, 0.0, 0
        self._labelled = True

    def add(self, loss: float, prediction: np.ndarray, target: np.ndarray) -> None:
        """Count a batch with its mean loss."""
        self.images += len(target)
        self._loss += loss * len(target)
        self._labelled &= are_labels(target, prediction)
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

    def state(self) -> list[Any]:
        """What :meth:`from_state` goes on from."""
        return [self.images, self._loss, self._right, self._labelled]

    @classmethod
    def from_state(cls, state: list[Any]) -> Tally:
        """The tally that gave this :meth:`state`."""
        tally = cls()
        images, loss, right, labelled = state
        tally.images, tally._loss, tally._right = int(images), float(loss), int(right)
        tally._labelled = bool(labelled)
        return tally


def are_labels(target: np.ndarray, prediction: np.ndarray) -> bool:
    """Whether targets are labels of classes, and predictions a number a class."""
    return target.dtype.kind in "iu" and prediction.ndim == 2
