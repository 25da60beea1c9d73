"""Training: the loop over epochs and batches."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.arrays import float_array
from numbaconv.memory import Pool, recycling
from numbaconv.nn.checkpoints import Checkpoint
from numbaconv.nn.checks import flag, real
from numbaconv.nn.containers import Sequential
from numbaconv.nn.initialisation import generator
from numbaconv.nn.loop import Augment, Loop
from numbaconv.nn.losses import CrossEntropyLoss, Loss
from numbaconv.nn.module import Module, evaluating
from numbaconv.nn.optim import Optimizer, clip_grad_norm
from numbaconv.nn.records import Epoch, Evaluation, History, Progress, Tally, are_labels
from numbaconv.nn.schedules import Schedule
from numbaconv.nn.steps import Steps
from numbaconv.nn.stopping import EarlyStopping
from numbaconv.parameters import integer


class Trainer:
    """Trains a model: forward, loss, backward, one step of the optimizer, batch after batch.

    Parameters
    ----------
    model : Module
        Takes images, gives what the loss takes as predictions.
    optimizer : Optimizer
        It is bound to the parameters of the model.
    loss : Loss
        By default :class:`CrossEntropyLoss`, for models that give a number a class.

    Raises
    ------
    TypeError
        An argument is not what it should be.
    ValueError
        The model has no parameters, or the optimizer already trains another model.

    Examples
    --------
    Tell bright images from dark ones:

    >>> import numpy as np
    >>> from numbaconv import nn
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 64)
    >>> x = rng.standard_normal((64, 1, 4, 4), np.float32) + 2 * y[:, None, None, None]
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, rng=0), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Linear(4, 2, rng=1))
    >>> trainer = nn.Trainer(model, nn.SGD(lr=0.2, momentum=0.9))
    >>> history = trainer.fit(x, y, epochs=10, batch_size=16, seed=0)
    >>> history[-1].loss < history[0].loss
    True
    >>> trainer.evaluate(x, y).accuracy > 0.9
    True
    """

    def __init__(self, model: Module, optimizer: Optimizer, loss: Loss | None = None) -> None:
        loss = CrossEntropyLoss() if loss is None else loss
        for name, value, kind in (("model", model, Module), ("optimizer", optimizer, Optimizer), ("loss", loss, Loss)):
            if not isinstance(value, kind):
                raise TypeError(
                    f"{name} must be an instance of nn.{kind.__name__}, got {value!r} ({type(value).__name__})"
                )
        parameters = model.parameters()
        optimizer.bind(parameters)
        self.model = model
        self._first = parameters[0]  # the model's dtype is that of its first parameter
        self._modules = list(model.modules())  # to find them takes as long as a small layer
        self.optimizer = optimizer
        self.loss = loss
        self._pool = Pool()  # what layers fill in a batch is the memory of those of the next
        self._steps = Steps()

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """Train on one batch.

        Parameters
        ----------
        x : ndarray
            Images, floats ``(N, C, H, W)``, converted to the dtype of the model.
        y : ndarray
            Their targets, for :class:`CrossEntropyLoss` integer labels ``(N,)``.

        Returns
        -------
        float
            The loss, as it was before the step.

        Raises
        ------
        TypeError, ValueError
            The data do not fit each other, the model or the loss. No parameter has been changed then.
        """
        x, y = _check_data(x, y)
        for module in self._modules:
            module.training = True
        return self._train_batch(self._cast(x), y)[0]

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        shuffle: bool = True,
        seed: int | np.random.Generator | None = None,
        augment: Augment | None = None,
        schedule: Schedule | None = None,
        clip_norm: float | None = None,
        early_stopping: EarlyStopping | None = None,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
        resume: str | os.PathLike[str] | None = None,
        on_batch: Callable[[Progress], Any] | None = None,
        on_epoch: Callable[[Epoch], Any] | None = None,
    ) -> History:
        """Train for some epochs, each of them once through all images.

        Parameters
        ----------
        x, y : ndarray
            Images and targets, as for :meth:`step`.
        epochs, batch_size : int
            At least 1. The last batch of an epoch is smaller where the images do not fill it.
        validation : (ndarray, ndarray), optional
            Images and targets that are not trained on, evaluated after every epoch.
        shuffle : bool
            Whether every epoch takes the images in another order.
        seed : int or numpy.random.Generator, optional
            Where these orders, and the changes that ``augment`` makes, come from.
        augment : callable, optional
            ``augment(images, rng)`` gives what a batch is trained on instead of ``images``, such as
            :class:`numbaconv.data.RandomCrop`.
        schedule : Schedule, optional
            The learning rate of every step; the optimizer's own is the largest. It is the optimizer's again afterwards.
        clip_norm : float, optional
            How long all gradients together may be, see :func:`clip_grad_norm`.
        early_stopping : EarlyStopping, optional
            Whether to stop before the last epoch, and to go back to the best one.
        checkpoint : Checkpoint or path-like, optional
            Where to save what ``resume`` needs. A first Ctrl-C or SIGTERM then waits for the batch to be done, saves,
            and is a ``KeyboardInterrupt``; a second one does not wait.
        resume : path-like, optional
            A checkpoint to go on from, called as the training was that it was saved from; only ``epochs`` may be more.
            Every bit will be as if there had been no interruption.
        on_batch, on_epoch : callable, optional
            Called after every batch with a :class:`Progress`, after every epoch with its :class:`Epoch`: to show them,
            to change ``optimizer.lr`` where there is no schedule, or to end it all by raising :class:`StopTraining`.

        Returns
        -------
        History
            An :class:`Epoch` for each, those before ``resume`` included.

        Raises
        ------
        TypeError, ValueError
            An argument is none of that; the data are empty, or do not fit each other, the model, the loss or (a
            :class:`CheckpointError`) the checkpoint. No parameter has been changed then.
        FloatingPointError
            The loss is no longer a finite number, and more steps would not change that.
        KeyboardInterrupt
            Training was interrupted; where there is a ``checkpoint``, after saving it.
        OSError
            A checkpoint cannot be read or written.
        """
        x, y = _check_data(x, y)
        epochs, batch_size = integer(epochs, "epochs", 1), integer(batch_size, "batch_size", 1)
        clip_norm = None if clip_norm is None else real(clip_norm, "clip_norm", 0)
        if isinstance(checkpoint, str | os.PathLike):
            checkpoint = Checkpoint(checkpoint)
        for name, value, kind in (
            ("schedule", schedule, Schedule),
            ("early_stopping", early_stopping, EarlyStopping),
            ("checkpoint", checkpoint, Checkpoint),
        ):
            if value is not None and not isinstance(value, kind):
                raise TypeError(
                    f"{name} must be an instance of nn.{kind.__name__}, got {value!r} ({type(value).__name__})"
                )
        for name, function in (("augment", augment), ("on_batch", on_batch), ("on_epoch", on_epoch)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable, got {function!r} ({type(function).__name__})")
        self._check_fit(x, y, batch_size, augment)
        if validation is not None:
            validation = _check_data(*_two(validation))
            self._check_fit(*validation, batch_size)
        if early_stopping is not None:
            _check_monitor(early_stopping, validation)
        loop = Loop(
            trainer=self,
            x=x,
            y=y,
            epochs=epochs,
            batch_size=batch_size,
            validation=validation,
            shuffle=flag(shuffle, "shuffle"),
            rng=generator(seed, "seed"),
            augment=augment,
            schedule=schedule,
            clip_norm=clip_norm,
            early_stopping=early_stopping,
            checkpoint=checkpoint,
            on_batch=on_batch,
            on_epoch=on_epoch,
        )
        if resume is not None:
            loop.resume(resume)
        return loop.train()

    def evaluate(self, x: np.ndarray, y: np.ndarray, batch_size: int = 256) -> Evaluation:
        """How well the model does on some images, in evaluation mode.

        Parameters
        ----------
        x, y : ndarray
            Images and targets, as for :meth:`step`.
        batch_size : int
            Images that are computed at once; it changes the time and memory that are needed, not the result.

        Returns
        -------
        Evaluation
            Loss and accuracy, the confusion matrix and the accuracy of each class.

        Raises
        ------
        TypeError, ValueError
            The data are empty, or do not fit each other, the model or the loss.
        """
        x, y = _check_data(x, y)
        tally = Tally()
        predictions = self.predict(x, batch_size)
        for start in range(0, len(x), batch_size):
            batch = slice(start, start + batch_size)
            tally.add(self.loss.forward(predictions[batch], y[batch]), predictions[batch], y[batch])
        if not are_labels(y, predictions):
            return Evaluation(tally.loss, None)
        return Evaluation(tally.loss, tally.accuracy, y.astype(np.int64), predictions.argmax(1), predictions.shape[1])

    def predict(self, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """The model's outputs for some images, in evaluation mode; ``predict(x).argmax(1)`` are the labels.

        Parameters
        ----------
        x : ndarray
            Images, as for :meth:`step`.
        batch_size : int
            Images that are computed at once.

        Returns
        -------
        ndarray
            For a classifier ``(N, classes)``.

        Raises
        ------
        TypeError, ValueError
            There are no images, or they do not fit the model.
        """
        x, batch_size = _check_images(x), integer(batch_size, "batch_size", 1)
        if len(x) <= batch_size and isinstance(self.model, Sequential):
            y = self.model.replay(self._cast(x))
            if y is not None:
                return y
        with evaluating(self._modules), recycling(self._pool):
            batches = [self.model.forward(self._cast(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
        return np.concatenate(batches) if len(batches) > 1 else batches[0]

    def _train_batch(self, x: np.ndarray, y: np.ndarray, clip_norm: float | None = None) -> tuple[float, np.ndarray]:
        """Forward, backward, one step of the optimizer; the loss and the prediction, as they were before the step."""
        # A learning rate that is too large shows as a loss that is no number; warnings would only be in its way.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._steps.step(self, x, y, clip_norm)

    def _gradients(self, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Forward and backward: the loss and the prediction, and a gradient for every parameter."""
        prediction = self.model.forward(x)
        loss = self.loss.forward(prediction, y)
        self.optimizer.zero_grad()
        self.model.require_input_grad(False)
        try:
            self.model.backward(self.loss.backward())
        finally:
            self.model.require_input_grad(True)
        return loss, prediction

    def _follow(self, clip_norm: float | None, played: Callable[[], None] | None = None) -> None:
        """Let the parameters follow their gradients: by the optimizer, or as it is played."""
        if clip_norm is not None:
            clip_grad_norm(self.model.parameters(), clip_norm)
        if played is None:
            self.optimizer.step()
        else:
            self.optimizer.refresh()
            played()

    def _cast(self, x: np.ndarray) -> np.ndarray:
        """``x`` in the dtype of the model."""
        return x.astype(self._first.data.dtype, copy=False)

    def _check_fit(self, x: np.ndarray, y: np.ndarray, batch_size: int, augment: Augment | None = None) -> None:
        """Raise before anything is trained if model, images, targets and loss do not fit each other."""
        images = self._cast(x[:batch_size])
        if augment is not None:
            changed = augment(images.copy(), np.random.default_rng(0))
            if not isinstance(changed, np.ndarray) or len(changed) != len(images):
                raise TypeError(
                    f"augment must give an array of {len(images)} images here, got {type(changed).__name__}"
                )
            images = changed
        output = self.predict(images, batch_size)
        self.loss.check_target(y, (len(x), *output.shape[1:]))


def _two(validation: Any) -> tuple[Any, Any]:
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError("validation must be a pair of arrays, (images, targets)")
    return validation[0], validation[1]


def _check_monitor(stopping: EarlyStopping, validation: tuple[np.ndarray, np.ndarray] | None) -> None:
    if validation is None:
        raise ValueError("early_stopping needs validation data")
    if stopping.monitor == "validation_accuracy" and validation[1].dtype.kind not in "iu":
        raise ValueError("early_stopping cannot watch validation_accuracy: the targets are no labels")


def _check_images(x: Any) -> np.ndarray:
    x = float_array(x, "x")
    if x.ndim < 1 or len(x) == 0:
        raise ValueError(f"x holds no images: its shape is {x.shape}")
    return x


def _check_data(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x = _check_images(x)
    if not isinstance(y, np.ndarray):
        raise TypeError(f"y must be a numpy.ndarray, got {type(y).__name__}: convert it with numpy.asarray")
    if y.ndim < 1 or len(y) != len(x):
        raise ValueError(f"there are {len(x)} images in x, but y has shape {y.shape}: one target an image is needed")
    return x, y
