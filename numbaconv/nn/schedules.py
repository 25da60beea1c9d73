"""How the learning rate changes while a model is trained.

A schedule is a function of where training stands and of nothing else, so that a training that was interrupted goes on
with exactly the rates that it would have had. The names are torch's; what torch counts in ``scheduler.step()`` calls is
counted here in epochs or in the batches of the whole training, which the trainer knows.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable

from numbaconv.nn.checks import real
from numbaconv.parameters import integer


class Schedule:
    """Base class: ``schedule(lr, step, steps, batches)`` is the learning rate of a step.

    A schedule of one's own writes ``__call__``; what it returns must depend on the arguments alone.

    Parameters
    ----------
    lr : float
        The learning rate that the optimizer was made with.
    step : int
        The steps that have been made, from 0.
    steps : int
        The steps of the whole training.
    batches : int
        The steps of an epoch.

    Examples
    --------
    >>> from numbaconv import nn
    >>> class Halving(nn.Schedule):
    ...     def __call__(self, lr, step, steps, batches):
    ...         return lr * 0.5 ** (step // batches)
    >>> [Halving()(0.1, step, steps=6, batches=2) for step in range(6)]
    [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]
    """

    def __call__(self, lr: float, step: int, steps: int, batches: int) -> float:
        raise NotImplementedError

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


class StepLR(Schedule):
    """Times ``gamma`` after every ``step_size`` epochs.

    Parameters
    ----------
    step_size : int
        Epochs of one rate.
    gamma : float
        From 0 to 1.

    Examples
    --------
    >>> from numbaconv import nn
    >>> [nn.StepLR(2, gamma=0.5)(1.0, epoch, steps=5, batches=1) for epoch in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = integer(step_size, "step_size", 1)
        self.gamma = real(gamma, "gamma", 0, 1)

    def __call__(self, lr: float, step: int, steps: int, batches: int) -> float:
        return lr * self.gamma ** (step // batches // self.step_size)


class MultiStepLR(Schedule):
    """Times ``gamma`` at each of some epochs.

    Parameters
    ----------
    milestones : iterable of int
        The epochs, counted from 0, that begin with a smaller rate; ascending.
    gamma : float
        From 0 to 1.

    Examples
    --------
    >>> from numbaconv import nn
    >>> [nn.MultiStepLR([2, 4], gamma=0.5)(1.0, epoch, steps=5, batches=1) for epoch in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, milestones: Iterable[int], gamma: float = 0.1) -> None:
        if not hasattr(milestones, "__iter__") or getattr(milestones, "ndim", 1) == 0:
            raise TypeError(f"milestones must be epochs, such as [30, 60], got {milestones!r}")
        self.milestones = [integer(epoch, "milestones", 1) for epoch in milestones]
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones must be ascending, got {self.milestones}")
        self.gamma = real(gamma, "gamma", 0, 1)

    def __call__(self, lr: float, step: int, steps: int, batches: int) -> float:
        return lr * self.gamma ** bisect.bisect_right(self.milestones, step // batches)


class CosineLR(Schedule):
    """Along half a cosine, from the optimizer's rate down to ``eta_min`` at the end of training, step by step.

    Parameters
    ----------
    eta_min : float
        The rate at the end.

    References
    ----------
    Loshchilov, Hutter: SGDR: Stochastic Gradient Descent with Warm Restarts, 2016, arXiv:1608.03983, without restarts.

    Examples
    --------
    >>> from numbaconv import nn
    >>> [round(nn.CosineLR()(1.0, step, steps=4, batches=1), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """

    def __init__(self, eta_min: float = 0.0) -> None:
        self.eta_min = real(eta_min, "eta_min", 0)

    def __call__(self, lr: float, step: int, steps: int, batches: int) -> float:
        return _cosine(lr, self.eta_min, step / steps)


class OneCycleLR(Schedule):
    """Up along half a cosine, then down along another; the optimizer's rate is the largest.

    Parameters
    ----------
    pct_start : float
        The share of the steps that go up, from 0 to 1.
    div_factor : float
        The largest rate over the first, at least 1.
    final_div_factor : float
        The first rate over the last, at least 1.

    References
    ----------
    Smith, Topin: Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, 2017,
    arXiv:1708.07120.

    Examples
    --------
    >>> from numbaconv import nn
    >>> schedule = nn.OneCycleLR(pct_start=0.5, div_factor=10, final_div_factor=10)
    >>> [round(schedule(1.0, step, steps=6, batches=1), 2) for step in range(6)]
    [0.1, 0.55, 1.0, 0.75, 0.26, 0.01]
    """

    def __init__(self, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> None:
        self.pct_start = real(pct_start, "pct_start", 0, 1)
        self.div_factor = real(div_factor, "div_factor", 1)
        self.final_div_factor = real(final_div_factor, "final_div_factor", 1)

    def __call__(self, lr: float, step: int, steps: int, batches: int) -> float:
        first = lr / self.div_factor
        top, last = max(self.pct_start * steps - 1, 0), steps - 1
        if step <= top and top > 0:
            return _cosine(first, lr, step / top)
        return _cosine(lr, first / self.final_div_factor, (step - top) / (last - top) if last > top else 0.0)


class LinearWarmup(Schedule):
    """Up along a line for some epochs, then another schedule as if training began there.

    Parameters
    ----------
    epochs : float
        How long, at least 0.
    after : Schedule, optional
        What follows; its epochs are counted from the end of the warm-up. By default the rate stays.
    start_factor : float
        The share of the rate in the first step, from 0 to 1.

    References
    ----------
    Goyal et al.: Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017, arXiv:1706.02677, section 2.2.

    Examples
    --------
    >>> from numbaconv import nn
    >>> schedule = nn.LinearWarmup(2, after=nn.StepLR(2), start_factor=0.5)
    >>> [schedule(1.0, epoch, steps=6, batches=1) for epoch in range(6)]
    [0.5, 0.75, 1.0, 1.0, 0.1, 0.1]
    """

    def __init__(self, epochs: float, after: Schedule | None = None, start_factor: float = 0.01) -> None:
        self.epochs = real(epochs, "epochs", 0)
        if after is not None and not isinstance(after, Schedule):
            raise TypeError(f"after must be a Schedule, got {after!r} ({type(after).__name__})")
        self.after = after
        self.start_factor = real(start_factor, "start_factor", 0, 1)

    def __call__(self, lr: float, step: int, steps: int, batches: int) -> float:
        warmup = min(round(self.epochs * batches), steps)
        if step < warmup:
            return lr * (self.start_factor + (1 - self.start_factor) * step / warmup)
        return lr if self.after is None else self.after(lr, step - warmup, steps - warmup, batches)


def _cosine(start: float, end: float, share: float) -> float:
    """From ``start`` at 0 to ``end`` at 1."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
