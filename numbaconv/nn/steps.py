"""A step of training once more, without Python between the kernels.

Between two steps on batches of the same shape nothing changes but numbers: those of the images and targets, of the
parameters, of the learning rate. So after some steps of a kind, one is noted, and from then on played
(:mod:`numbaconv.recording`): first what gives the gradients, which may be thrown away; then what outlives a step, the
parameters' and the running statistics' next values.

Only models are played whose layers are all known to do their work in kernels. A tape is tried before: in memory full of
NaN it must give the gradients that the layers give, to the bit. Anything that is set to something else in a layer ends
it. And what kernels can't decide sends a step back to the layers, as if it had not begun: numbers that are not finite,
whose gradients are computed in another way.
"""

from __future__ import annotations

import operator
import threading
from sys import getrefcount
from typing import TYPE_CHECKING, Any

import numpy as np

from numbaconv.algorithms import get_algorithm
from numbaconv.arrays import available_bytes
from numbaconv.memory import recycling
from numbaconv.nn.activation import Dropout, ReLU
from numbaconv.nn.checks import FLOATS
from numbaconv.nn.containers import Residual, Sequential
from numbaconv.nn.convolution import Conv2d
from numbaconv.nn.linear import Flatten, Linear
from numbaconv.nn.losses import CrossEntropyLoss
from numbaconv.nn.module import changes
from numbaconv.nn.normalisation import BatchNorm2d
from numbaconv.nn.optim import SGD, Adam, AdamW
from numbaconv.nn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from numbaconv.nn.replay import MOST_THREADS, is_plain, is_running, running
from numbaconv.recording import Recorder, Reserved
from numbaconv.threads import threads_for, watched

if TYPE_CHECKING:
    from numbaconv.nn.trainer import Trainer

#: A step is noted when so many of its kind came one after the other; twice as many each time that a tape has ended.
TIMES = 2

_LAYERS = (
    AvgPool2d, BatchNorm2d, Conv2d, Dropout, Flatten, GlobalAvgPool2d, Linear, MaxPool2d, ReLU, Residual, Sequential,
)  # fmt: skip
_OPTIMIZERS = (SGD, Adam, AdamW)


class Steps:
    """What a trainer knows of its steps: how many of a kind there were, and the tape of the kind that comes most."""

    def __init__(self) -> None:
        self._kind: tuple[Any, ...] | None = None  # of the last step
        self._count = 0  # of steps of that kind, one after the other
        self._times = TIMES
        self._tape: StepTape | None = None
        self._refused: set[tuple[Any, ...]] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy knows nothing."""
        return Steps, ()

    def step(self, trainer: Trainer, x: np.ndarray, y: np.ndarray, clip_norm: float | None) -> tuple[float, np.ndarray]:
        """The loss and the prediction of a batch, which the trainer is trained on."""
        kind = None if is_running() else _kind(trainer, x, y)
        self._count = self._count + 1 if kind == self._kind else 1
        self._kind = kind
        if kind is None or kind in self._refused:
            return _by_layers(trainer, x, y, clip_norm)
        tape = self._tape
        if tape is not None and not tape.fits(trainer):
            tape = self._tape = None
            self._count, self._times = 1, 2 * self._times
        if tape is None or tape.kind != kind:
            noted = self._count > self._times
            return self._note(kind, trainer, x, y, clip_norm) if noted else _by_layers(trainer, x, y, clip_norm)
        if not tape.tried:
            return self._try(tape, trainer, x, y, clip_norm)
        played = tape.play(trainer, x, y, clip_norm)
        return _by_layers(trainer, x, y, clip_norm) if played is None else played

    def _note(
        self, kind: tuple[Any, ...], trainer: Trainer, x: np.ndarray, y: np.ndarray, clip_norm: float | None
    ) -> tuple[float, np.ndarray]:
        """A step by layers that is noted, if one can be played."""
        self._tape = None
        if not _playable(trainer, x.dtype):
            self._refused.add(kind)
            return _by_layers(trainer, x, y, clip_norm)
        _let_go(trainer)
        with running():
            self._tape, loss, prediction = _recorded(kind, trainer, x, y, clip_norm)
        return loss, prediction

    def _try(
        self, tape: StepTape, trainer: Trainer, x: np.ndarray, y: np.ndarray, clip_norm: float | None
    ) -> tuple[float, np.ndarray]:
        """A step by layers, that tells whether the tape gives the same."""
        if available_bytes() < 2 * tape.memory.nbytes():
            self._tape = None
            self._refused.add(tape.kind)
            return _by_layers(trainer, x, y, clip_norm)
        played = tape.try_out(trainer, x, y)
        with running(), recycling(trainer._pool):
            result = trainer._gradients(x, y)
        if played is not None:
            tape.tried = _alike(played, [result[1], *(parameter.grad for parameter, _ in tape.grads)])
            if not tape.tried:
                self._tape = None
                self._refused.add(tape.kind)
        trainer._follow(clip_norm)
        return result


class StepTape:
    """What a step launched, and where all that goes in and comes out is."""

    def __init__(
        self, kind: Any, trainer: Trainer, x: np.ndarray, y: np.ndarray, prediction: np.ndarray, recorder: Recorder,
        memory: Reserved,
    ) -> None:  # fmt: skip
        self.kind, self.tried, self.memory = kind, False, memory
        self._is_new = True  # it was never played
        self._x, self._y, self._prediction, self._recorder = x, y, prediction, recorder
        self._pieces = memory.memory()  # the pool itself forgets them when its thread ends
        self._changes, self._trainer_parts = changes(), _parts(trainer)
        self._saved: list[tuple[Any, Any]] = [(module, module._saved) for module in trainer._modules]
        self._saved.append((trainer.loss, trainer.loss._saved))
        self._models = [module for module in trainer._modules if isinstance(module, Sequential)]
        self._rngs = [module.rng.bit_generator for module in trainer._modules if isinstance(module, Dropout)]
        parameters = trainer.model.parameters()
        self.grads = [(parameter, _array(parameter.grad)) for parameter in parameters]
        self._owners = [grad if grad.base is None else grad.base for _, grad in self.grads]
        self._holders = self._let_go()
        self._hand_back()

    def fits(self, trainer: Trainer) -> bool:
        """Whether the layers and the optimizer would do the same."""
        return changes() == self._changes and all(map(operator.is_, self._trainer_parts, _parts(trainer)))

    def try_out(self, trainer: Trainer, x: np.ndarray, y: np.ndarray) -> list[np.ndarray] | None:
        """Copies of the prediction and of all gradients, of a step that is not made; None if it can't be played."""
        trainer.loss.check_target(y, self._prediction.shape)
        if self._let_go() != self._holders:
            return None
        self.memory.spoil()
        done = self._compute(x, y, keep=False)
        return [array.copy() for array in (self._prediction, *(grad for _, grad in self.grads))] if done else None

    def play(
        self, trainer: Trainer, x: np.ndarray, y: np.ndarray, clip_norm: float | None
    ) -> tuple[float, np.ndarray] | None:
        """The loss and the prediction of a batch, which the trainer is trained on; None if layers have to do that."""
        trainer.loss.check_target(y, self._prediction.shape)
        if self._let_go() != self._holders:  # somebody holds a gradient of the last step
            return None
        if not self._compute(x, y, keep=True):
            return None
        self._restore()
        if self._is_new:
            self._is_new = False
            trainer._pool.clear()  # what steps by layers have left
        loss, prediction = trainer.loss._mean(), self._prediction.copy()
        trainer._follow(clip_norm, self._recorder.lasting)
        return loss, prediction

    def _compute(self, x: np.ndarray, y: np.ndarray, keep: bool) -> bool:
        """Compute the gradients; whether they are what the layers would have given.

        Unless they are, and are to be kept, layers will draw the same random numbers as were drawn now.
        """
        before = [rng.state for rng in self._rngs]
        with running():
            self._x[...], self._y[...] = x, y
            self._recorder.program()
        right = self._recorder.as_expected()
        if not (right and keep):
            for rng, state in zip(self._rngs, before, strict=True):
                rng.state = state
        return right

    def _restore(self) -> None:
        """Leave the layers as if they had run, with what they saved and the gradients."""
        for model in self._models:
            if model._order is not model._in_training:  # it was evaluated in between
                model._forget()
                model._order = model._in_training
            model._replayed = None
        for module, saved in self._saved:
            vars(module)["_saved"] = saved
        self._hand_back()

    def _hand_back(self) -> None:
        """Give the parameters their gradients."""
        for parameter, grad in self.grads:
            parameter.grad = grad

    def _let_go(self) -> list[int]:
        """How many hold each of the gradients, the parameters not being among them any more."""
        for parameter, _ in self.grads:
            parameter.grad = None
        return [getrefcount(owner) for owner in self._owners]


def _kind(trainer: Trainer, x: np.ndarray, y: np.ndarray) -> tuple[Any, ...] | None:
    """What a tape depends on besides the model; None if a batch is unusual."""
    loss, optimizer = trainer.loss, trainer.optimizer
    if type(x) is not np.ndarray or not x.flags.carray or x.dtype not in FLOATS or not x.size:
        return None
    if type(y) is not np.ndarray or y.dtype.kind not in "iu" or y.ndim != 1:
        return None
    if type(loss) is not CrossEntropyLoss or type(optimizer) not in _OPTIMIZERS:
        return None
    if not all([module.training for module in trainer._modules]):  # noqa: C419
        return None
    momentum = type(optimizer) is SGD and bool(optimizer.momentum)
    where = threading.get_ident(), get_algorithm(), threads_for(MOST_THREADS)
    return x.shape, x.dtype, loss.label_smoothing, momentum, *where


def _playable(trainer: Trainer, dtype: np.dtype) -> bool:
    """Whether all that a step does is done in kernels, but for what they are told anew each time."""
    optimizer = trainer.optimizer
    remembers = not (type(optimizer) is SGD and not optimizer.momentum)
    if remembers and not all(optimizer._memories):  # a first step is not like the others
        return False
    return all(type(module) in _LAYERS and is_plain(module, dtype) for module in trainer._modules)


def _recorded(
    kind: Any, trainer: Trainer, x: np.ndarray, y: np.ndarray, clip_norm: float | None
) -> tuple[StepTape | None, float, np.ndarray]:
    """A step by layers: its tape, its loss and its prediction."""
    x, y, memory = x.copy(), y.astype(np.int64), Reserved()
    memory.adopt(trainer._pool)
    recorder = Recorder(memory)
    with watched(recorder), recycling(memory):
        loss, prediction = trainer._gradients(x, y)
        result = prediction.copy()
        trainer._follow(clip_norm)
    if not recorder.as_expected():
        return None, loss, result
    return StepTape(kind, trainer, x, y, prediction, recorder, memory), loss, result


def _by_layers(trainer: Trainer, x: np.ndarray, y: np.ndarray, clip_norm: float | None) -> tuple[float, np.ndarray]:
    """A step that is made by the layers."""
    with recycling(trainer._pool):
        result = trainer._gradients(x, y)
    trainer._follow(clip_norm)
    return result


def _let_go(trainer: Trainer) -> None:
    """Hold nothing of the last step, so that its memory is free."""
    for module in trainer._modules:
        module._saved = None
    trainer.loss._saved = None
    trainer.optimizer.zero_grad()


def _parts(trainer: Trainer) -> tuple[Any, ...]:
    """What makes a trainer another one when it is exchanged."""
    return trainer.model, trainer.loss, trainer.optimizer, trainer.optimizer._memories


def _array(value: np.ndarray | None) -> np.ndarray:
    assert value is not None
    return value


def _alike(arrays: list[np.ndarray], others: list[Any]) -> bool:
    """Whether arrays hold the same bits."""
    return all(a.tobytes() == b.tobytes() for a, b in zip(arrays, others, strict=True))
