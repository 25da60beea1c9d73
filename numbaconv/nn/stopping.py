"""When to stop early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from numbaconv.nn.checks import flag, real
from numbaconv.nn.records import Epoch
from numbaconv.parameters import integer

#: What can be watched, and whether more of it is better.
MONITORS = {"validation_loss": False, "validation_accuracy": True}


class StopTraining(Exception):
    """To be raised in ``on_batch`` or ``on_epoch``: training ends in good order, and :meth:`Trainer.fit` returns."""


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the validation data have not been done better for some epochs.

    Parameters
    ----------
    patience : int
        Epochs without a new best that are waited for, at least 1.
    monitor : str
        ``"validation_loss"`` or ``"validation_accuracy"``.
    min_delta : float
        By how much a new best must be better, at least 0.
    restore_best : bool
        Whether the model is given the weights of its best epoch in the end, also when training was not stopped.

    Raises
    ------
    TypeError, ValueError
        An argument is none of that.

    Examples
    --------
    >>> from numbaconv import nn
    >>> nn.EarlyStopping(patience=3, monitor="validation_accuracy")
    EarlyStopping(patience=3, monitor='validation_accuracy', min_delta=0.0, restore_best=True)
    """

    patience: int = 5
    monitor: str = "validation_loss"
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        integer(self.patience, "patience", 1)
        flag(self.restore_best, "restore_best")
        object.__setattr__(self, "min_delta", real(self.min_delta, "min_delta", 0))
        if not isinstance(self.monitor, str) or self.monitor not in MONITORS:
            raise ValueError(f"monitor must be one of {', '.join(map(repr, MONITORS))}, got {self.monitor!r}")

    def best(self, history: Sequence[Epoch]) -> int | None:
        """Where in ``history`` the best epoch is; None where there is none, or the loss was never a number."""
        found, best = None, -math.inf
        for i, epoch in enumerate(history):
            value = getattr(epoch, self.monitor)
            score = math.nan if value is None else value if MONITORS[self.monitor] else -value
            if score > best + self.min_delta:
                found, best = i, score
        return found

    def stops(self, history: Sequence[Epoch]) -> bool:
        """Whether the best epoch was too long ago."""
        best = self.best(history)
        return len(history) - (0 if best is None else best + 1) >= self.patience
