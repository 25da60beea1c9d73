"""The loop of a training: over epochs, over batches, and on from a checkpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from numbaconv.nn.checkpoints import Checkpoint, Run, fingerprint
from numbaconv.nn.interrupts import Interrupts
from numbaconv.nn.records import Epoch, History, Progress
from numbaconv.nn.schedules import Schedule
from numbaconv.nn.stopping import EarlyStopping, StopTraining

if TYPE_CHECKING:
    from numbaconv.nn.trainer import Trainer

#: Changes a batch of images at random; the generator is where all randomness must come from.
Augment: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass
class Loop:
    """What :meth:`Trainer.fit` was asked for, all of it checked, and how to do it."""

    trainer: Trainer
    x: np.ndarray
    y: np.ndarray
    epochs: int
    batch_size: int
    validation: tuple[np.ndarray, np.ndarray] | None
    shuffle: bool
    rng: np.random.Generator
    augment: Augment | None
    schedule: Schedule | None
    clip_norm: float | None
    early_stopping: EarlyStopping | None
    checkpoint: Checkpoint | None
    on_batch: Callable[[Progress], Any] | None
    on_epoch: Callable[[Epoch], Any] | None
    run: Run = field(init=False)
    interrupts: Interrupts = field(init=False)

    def __post_init__(self) -> None:
        self.run = Run(self.rng, self.trainer.optimizer.lr)
        self.interrupts = Interrupts(hold=self.checkpoint is not None)

    @property
    def batches(self) -> int:
        """The batches of an epoch."""
        return math.ceil(len(self.x) / self.batch_size)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go on from a checkpoint; a ValueError if it is of another training."""
        self.run.settings = self._settings()
        self.run.resume(path, self.trainer.model, self.trainer.optimizer, self.batches)

    def train(self) -> History:
        """Train until the end, or until it is time to stop."""
        run, optimizer = self.run, self.trainer.optimizer
        lr, optimizer.lr = optimizer.lr, run.lr
        if self.checkpoint is not None:
            run.settings = run.settings or self._settings()
            self.checkpoint.start()
        with self.interrupts:
            try:
                while run.epoch < self.epochs and not self._out_of_patience():
                    self._train_epoch()
                    self._end_epoch()
                self._save()
            except StopTraining:
                self._save()
            except KeyboardInterrupt:
                self._save()
                raise
            finally:
                optimizer.lr = lr
        if run.best is not None:
            self.trainer.model.load_state_dict(run.best)
        return run.history

    def _train_epoch(self) -> None:
        """Train once on all images, or on those that are left."""
        run, trainer = self.run, self.trainer
        trainer.model.train()
        for batch in run.batches(len(self.x), self.batch_size, self.shuffle):
            trainer.optimizer.lr = self._lr(run.batch)
            x, y = trainer._cast(self.x[batch]), self.y[batch]
            if self.augment is not None:
                x = self.augment(x, run.rng)
            loss, prediction = trainer._train_batch(x, y, self.clip_norm)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"training diverged: the loss is {loss} in epoch {run.epoch + 1}, batch {run.batch + 1}; "
                    f"the learning rate was {trainer.optimizer.lr:g}, a smaller one or clip_norm may help"
                )
            run.end_batch(loss, prediction, y)
            if self.on_batch is not None:
                self.on_batch(self._progress())
            if self.checkpoint is not None and self.checkpoint.due:
                self._save()
            self.interrupts.check()

    def _end_epoch(self) -> None:
        """Evaluate, record, and remember the best model."""
        run, trainer = self.run, self.trainer
        validated = None
        if self.validation is not None:
            with self.interrupts.allowed():
                validated = trainer.evaluate(*self.validation)
        epoch = Epoch(
            epoch=run.epoch + 1,
            loss=run.tally.loss,
            accuracy=run.tally.accuracy,
            validation_loss=None if validated is None else validated.loss,
            validation_accuracy=None if validated is None else validated.accuracy,
            lr=self._lr(run.batch - 1),
            seconds=run.seconds,
            images_per_second=len(self.x) / max(run.seconds, 1e-9),
        )
        run.end_epoch(epoch)
        stopping = self.early_stopping
        if stopping is not None and stopping.restore_best and stopping.best(run.history) == len(run.history) - 1:
            run.best = trainer.model.state_dict()
        if self.on_epoch is not None:
            self.on_epoch(epoch)

    def _lr(self, batch: int) -> float:
        """The learning rate of a step of this epoch; without a schedule it may be changed by callbacks only."""
        if self.schedule is None:
            return self.trainer.optimizer.lr
        step, steps = self.run.epoch * self.batches + batch, self.epochs * self.batches
        return self.schedule(self.run.lr, step, steps, self.batches)

    def _out_of_patience(self) -> bool:
        return self.early_stopping is not None and self.early_stopping.stops(self.run.history)

    def _progress(self) -> Progress:
        run = self.run
        where = run.epoch + 1, self.epochs, run.batch, self.batches
        return Progress(*where, run.tally.images, run.tally.loss, run.tally.accuracy, self.trainer.optimizer.lr)

    def _save(self) -> None:
        """Save a checkpoint; but not in the middle of a batch, from which nothing could go on."""
        if self.checkpoint is None or not self.run.whole:
            return
        if self.schedule is None:  # a callback may have changed it
            self.run.lr = self.trainer.optimizer.lr
        self.checkpoint.save(self.run, self.trainer.model, self.trainer.optimizer)

    def _settings(self) -> dict[str, Any]:
        """What has to be the same when training is resumed."""
        return {
            "images": fingerprint(self.x, self.y),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "optimizer": repr(self.trainer.optimizer),
            "loss": repr(self.trainer.loss),
            "schedule": repr(self.schedule),
            "clip_norm": self.clip_norm,
            "early_stopping": repr(self.early_stopping),
        }
