"""A small batch once more, without Python between the kernels.

For one image of a small model, to look at every array and to choose every plan takes longer than to compute. In
evaluation nothing of that changes from one call to the next. So what a pass launched is noted, and launched again for
the next batch of the same shape: the batch is copied to where the first one was, and the output from where it came.

Only what is known to do all its work in kernels is played back, and it is tried before: on another batch, in memory
full of NaN, it must give what the layers give. Anything that is set to something else in a layer ends it, and so does
any change of an array that went into a folded weight. Arrays that kernels read as they are may change.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from numbaconv.algorithms import get_algorithm
from numbaconv.kernels.elementwise import digest
from numbaconv.memory import recycling
from numbaconv.nn.activation import Dropout, ReLU
from numbaconv.nn.checks import FLOATS
from numbaconv.nn.folding import Folded
from numbaconv.nn.linear import Flatten, Linear
from numbaconv.nn.module import Module, Parameter, changes
from numbaconv.nn.normalisation import BatchNorm2d
from numbaconv.nn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from numbaconv.recording import Program, Recorder, Reserved
from numbaconv.threads import launch, threads_for, watched

#: Bytes of a batch, and of all that is computed between layers, up to which it pays.
BATCH_BYTES, BYTES = 1024 * 1024, 16 * 1024 * 1024
#: A kind of call is noted when it comes again so many times; so many kinds are remembered.
TIMES, KINDS = 2, 8
#: More threads than any machine has.
MOST_THREADS = 1 << 20

_PLAYABLE = (AvgPool2d, BatchNorm2d, Dropout, Flatten, GlobalAvgPool2d, Linear, MaxPool2d, ReLU)
_busy = threading.local()  # .depth: models that are running in this Python thread, one inside the other


class Tape:
    """What a pass launched, and where its batch and its output are."""

    def __init__(self, model: Any, x: np.ndarray, y: np.ndarray, program: Program, memory: Reserved) -> None:
        self._x, self._y, self._run = x, y, program
        self._memory = memory.memory()
        self._held = [(step, step.held) for step in _leaves(model) if type(step) is Folded]
        self._modules, self._changes = list(model.modules()), changes()
        bits = [array for _, held in self._held if held is not None for array in held.bits]
        self._digests = b"".join([held.digests.tobytes() for _, held in self._held if held is not None])
        self._found, recorder = np.zeros(len(bits), np.int64), Recorder(memory)
        with watched(recorder):
            for k, array in enumerate(bits):
                launch(digest, 1, array, self._found[k : k + 1])
        self._digest = recorder.program

    def fits(self) -> bool:
        """Whether the layers would do the same in evaluation."""
        if changes() != self._changes or not all([step.held is held is not None for step, held in self._held]):  # noqa: C419
            return False
        self._digest()
        return self._found.tobytes() == self._digests

    def in_training(self) -> bool:
        """Whether some layer is."""
        return any([module.training for module in self._modules])  # noqa: C419

    def play(self, x: np.ndarray) -> np.ndarray:
        """The output for another batch."""
        with running():
            self._x[...] = x
            self._run()
            return self._y.copy("K")

    def forget_saved(self) -> None:
        """Let no layer hold what it saved in its last forward pass."""
        for module in self._modules:
            module._saved = None
        for step, _ in self._held:
            step.forget_saved()


class Tapes:
    """The tapes of a model: one for each kind of call, and for each Python thread, whose scratch memory is its own."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[Any, ...] | None, Tape | int] = {}  # or how often a call was seen without one

    def clear(self) -> None:
        """Forget all tapes."""
        self._kinds.clear()

    def find(self, x: Any) -> Tape | None:
        """The tape for such a batch, if there is one that fits."""
        key = _key(x)
        tape = self._kinds.get(key)
        if type(tape) is not Tape or is_running():
            return None
        if tape.fits():
            return tape
        self._kinds.pop(key, None)
        return None

    def run(self, model: Any, x: np.ndarray) -> np.ndarray:
        """The output of a model in evaluation for which there is no tape; there may be one from now on."""
        inside = is_running()
        with running():
            y = model._forward(x, None)
            if not inside:
                self._note(model, x)
        return y

    def _note(self, model: Any, x: np.ndarray) -> None:
        """Count a call, and make a tape if there were some of its kind."""
        key = _key(x)
        if key is None:
            return
        if len(self._kinds) >= KINDS and key not in self._kinds:
            self._kinds.clear()
        count = self._kinds.setdefault(key, 0)
        if type(count) is int and count <= TIMES:
            self._kinds[key] = count + 1
            if count == TIMES and _playable(model, x.dtype):
                tape = _recorded(model, x)
                if tape is not None:
                    self._kinds[key] = tape
                model._forward(x, None)  # whose gradient may be asked for


def is_running() -> bool:
    """Whether models are running in this thread: outer ones, or those that a signal has interrupted."""
    return getattr(_busy, "depth", 0) > 0


class running:
    """Within this context a model runs: a signal's handler that runs it now must not do so in the same memory."""

    def __enter__(self) -> None:
        _busy.depth = getattr(_busy, "depth", 0) + 1

    def __exit__(self, *error: object) -> None:
        _busy.depth -= 1


def _key(x: Any) -> tuple[Any, ...] | None:
    """What a tape depends on besides the model; None if a batch is not worth one."""
    if type(x) is not np.ndarray or x.nbytes > BATCH_BYTES or not x.flags.carray or x.dtype not in FLOATS or not x.size:
        return None
    return x.shape, x.dtype, threading.get_ident(), get_algorithm(), threads_for(MOST_THREADS)


def _recorded(model: Any, x: np.ndarray) -> Tape | None:
    """A tape for batches like ``x``, if it gives what the layers give."""
    mine, memory = x.copy(), Reserved()
    recorder = Recorder(memory)
    with watched(recorder), recycling(memory):
        y = model._forward(mine, None)
    if not recorder.is_pure() or memory.nbytes() > BYTES:
        return None
    tape = Tape(model, mine, y, recorder.program, memory)
    other = np.random.default_rng(0).standard_normal(x.shape).astype(x.dtype)
    wanted = model._forward(other, None)
    memory.spoil()
    played = tape.play(other)
    return tape if played.strides == wanted.strides and played.tobytes("A") == wanted.tobytes("A") else None


def _leaves(step: Any) -> Iterator[Any]:
    """Every step of a model, and of the models in it."""
    steps = step.evaluation_steps() if hasattr(step, "evaluation_steps") else None
    if steps is None:
        yield step
    else:
        for each in steps:
            yield from _leaves(each)


def _playable(model: Any, dtype: np.dtype) -> bool:
    """Whether a pass may be repeated, which no layer in training nor of somebody's own must notice, and then played."""
    in_training = any(module.training for module in model.modules())
    return not in_training and all(_plays(step, dtype) for step in _leaves(model))


def _plays(step: Any, dtype: np.dtype) -> bool:
    """Whether a step does its work in kernels, which read every array of it that may change as it is."""
    if type(step) is Folded:
        return step.held is not None
    return type(step) in _PLAYABLE and is_plain(step, dtype)


def is_plain(layer: Module, dtype: np.dtype) -> bool:
    """Whether a layer does what its class does, with arrays that kernels read as they are."""
    if "forward" in vars(layer) or "backward" in vars(layer):
        return False
    arrays = [value.data for value in vars(layer).values() if isinstance(value, Parameter)]
    if type(layer) is BatchNorm2d:
        buffers = [array for array in (layer.running_mean, layer.running_var) if array is not None]
        count = layer.num_batches_tracked
        if any(np.shape(array) != (layer.num_features,) for array in arrays + buffers) or (
            count is not None and not _is_plain(count, np.dtype(np.int64))
        ):
            return False
        arrays += buffers
    return all(_is_plain(array, dtype) for array in arrays)


def _is_plain(array: Any, dtype: np.dtype) -> bool:
    return type(array) is np.ndarray and array.dtype == dtype and array.flags.carray
