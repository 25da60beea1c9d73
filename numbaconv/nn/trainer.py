"""Training: the loop over epochs and batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.arrays import float_array
from numbaconv.geometry import integer
from numbaconv.nn.losses import CrossEntropyLoss, Loss
from numbaconv.nn.module import Module
from numbaconv.nn.optim import Optimizer
from numbaconv.nn.records import Epoch, Evaluation, Progress, Tally


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
        optimizer.bind(model.parameters())
        self.model = model
        self.optimizer = optimizer
        self.loss = loss

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
        self.model.train()
        return self._step(*_check_data(x, y))[0]

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
        on_batch: Callable[[Progress], Any] | None = None,
        on_epoch: Callable[[Epoch], Any] | None = None,
    ) -> list[Epoch]:
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
            Where these orders come from.
        on_batch, on_epoch : callable, optional
            Called after every batch with a :class:`Progress`, after every epoch with its :class:`Epoch`: to show them,
            or to change ``optimizer.lr``.

        Returns
        -------
        list of Epoch
            One for each.

        Raises
        ------
        TypeError, ValueError
            The data are empty, or do not fit each other, the model or the loss. No parameter has been changed then.
        """
        x, y = _check_data(x, y)
        epochs, batch_size = integer(epochs, "epochs", 1), integer(batch_size, "batch_size", 1)
        self._check_fit(x, y, batch_size)
        if validation is not None:
            validation = _check_data(*_two(validation))
            self._check_fit(*validation, batch_size)
        rng = np.random.default_rng(seed)
        history = []
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            order = rng.permutation(len(x)) if shuffle else np.arange(len(x))
            trained = self._run_epoch(x, y, order, batch_size, epoch, epochs, on_batch)
            seconds = time.perf_counter() - start
            validated = None if validation is None else self.evaluate(*validation)
            history.append(
                Epoch(
                    epoch=epoch,
                    loss=trained.loss,
                    accuracy=trained.accuracy,
                    validation_loss=None if validated is None else validated.loss,
                    validation_accuracy=None if validated is None else validated.accuracy,
                    seconds=seconds,
                    images_per_second=len(x) / seconds,
                )
            )
            if on_epoch is not None:
                on_epoch(history[-1])
        return history

    def evaluate(self, x: np.ndarray, y: np.ndarray, batch_size: int = 256) -> Evaluation:
        """Loss and accuracy on some images, the model in evaluation mode.

        Parameters
        ----------
        x, y : ndarray
            Images and targets, as for :meth:`step`.
        batch_size : int
            Images that are computed at once; it changes the time and memory that are needed, not the result.

        Returns
        -------
        Evaluation
            ``(loss, accuracy)``.

        Raises
        ------
        TypeError, ValueError
            The data are empty, or do not fit each other, the model or the loss.
        """
        x, y = _check_data(x, y)
        tally = Tally()
        predictions = self.predict(x, batch_size)
        for batch in _batches(np.arange(len(x)), batch_size):
            tally.add(self.loss.forward(predictions[batch], y[batch]), predictions[batch], y[batch])
        return Evaluation(tally.loss, tally.accuracy)

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
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            batches = [self.model.forward(self._cast(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
        finally:
            for module, mode in modes:
                module.training = mode
        return np.concatenate(batches)

    def _run_epoch(
        self,
        x: np.ndarray,
        y: np.ndarray,
        order: np.ndarray,
        batch_size: int,
        epoch: int,
        epochs: int,
        on_batch: Callable[[Progress], Any] | None,
    ) -> Evaluation:
        """Train once on all images in this order."""
        self.model.train()
        tally = Tally()
        batches = _batches(order, batch_size)
        for i, batch in enumerate(batches, 1):
            loss, prediction = self._step(x[batch], y[batch])
            tally.add(loss, prediction, y[batch])
            if on_batch is not None:
                on_batch(Progress(epoch, epochs, i, len(batches), tally.images, tally.loss, tally.accuracy))
        return Evaluation(tally.loss, tally.accuracy)

    def _step(self, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        # A learning rate that is too large shows as a loss that is no number; warnings would only be in its way.
        with np.errstate(over="ignore", invalid="ignore"):
            prediction = self.model.forward(self._cast(x))
            loss = self.loss.forward(prediction, y)
            self.optimizer.zero_grad()
            self.model.require_input_grad(False)
            try:
                self.model.backward(self.loss.backward())
            finally:
                self.model.require_input_grad(True)
            self.optimizer.step()
        return loss, prediction

    def _cast(self, x: np.ndarray) -> np.ndarray:
        return x.astype(self.model.dtype, copy=False)

    def _check_fit(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> None:
        """Raise before anything is trained if model, images, targets and loss do not fit each other."""
        output = self.predict(x[:batch_size], batch_size)
        self.loss.check_target(y, (len(x), *output.shape[1:]))


def _batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _two(validation: Any) -> tuple[Any, Any]:
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError("validation must be a pair of arrays, (images, targets)")
    return validation[0], validation[1]


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
