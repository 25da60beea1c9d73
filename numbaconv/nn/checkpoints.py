"""Checkpoints: all that a training needs to go on as if it had never been interrupted."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numbaconv.nn.checks import real
from numbaconv.nn.files import Arrays, Metadata, check_path, read_arrays, write_arrays
from numbaconv.nn.module import Module
from numbaconv.nn.optim import Optimizer
from numbaconv.nn.records import Epoch, History, Tally
from numbaconv.parameters import integer
from numbaconv.values import as_mapping, as_path, one_line

#: What the header of a checkpoint's file says.
KIND = "numbaconv-checkpoint"


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed with this model, these data or these settings."""


class Checkpoint:
    """Where and how often :meth:`Trainer.fit` saves a checkpoint.

    Each one replaces the one before, so that there is always one, and it is always whole. The first is saved after
    ``seconds`` of training, the last when training ends: by itself, by Ctrl-C, or by SIGTERM.

    Parameters
    ----------
    path : path-like
        Ends in ``.safetensors`` or ``.npz``.
    seconds : float
        Saved after the first batch that ends so long after the last checkpoint: the most work that can be lost. 0 for
        every batch.
    metadata : mapping, optional
        Anything that JSON can hold, for :func:`read_metadata`.

    Attributes
    ----------
    saved : int
        How many were saved so far.

    Raises
    ------
    ModuleNotFoundError
        The file is to be a ``.safetensors``, but that package is not installed.
    TypeError, ValueError
        The path ends in something else; or ``seconds`` is no number, or below 0.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> def new_trainer():
    ...     return nn.Trainer(nn.Linear(3, 2, rng=0), nn.SGD(lr=0.1, momentum=0.9))
    >>> x, y = np.random.default_rng(0).standard_normal((20, 3), np.float32), np.arange(20) % 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/checkpoint.npz"
    ...     _ = new_trainer().fit(x, y, epochs=2, seed=0, checkpoint=path)
    ...     history = new_trainer().fit(x, y, epochs=4, seed=0, resume=path)
    >>> [epoch.epoch for epoch in history]
    [1, 2, 3, 4]
    >>> history[-1].loss == new_trainer().fit(x, y, epochs=4, seed=0)[-1].loss
    True
    """

    def __init__(
        self, path: str | os.PathLike[str], seconds: float = 60.0, metadata: Mapping[str, Any] | None = None
    ) -> None:
        self.path = as_path(path)
        check_path(self.path)
        self.seconds = real(seconds, "seconds", 0)
        self.metadata = {} if metadata is None else dict(as_mapping(metadata, "metadata"))
        self.saved = 0
        self._last = time.monotonic()

    def start(self) -> None:
        """Count the seconds from now."""
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is long enough ago."""
        return time.monotonic() - self._last >= self.seconds

    def save(self, run: Run, model: Module, optimizer: Optimizer) -> None:
        """Write a checkpoint.

        Raises
        ------
        OSError
            The file cannot be written. The last checkpoint is still there.
        """
        arrays = {
            **_prefixed("model", model.state_dict()),
            **_prefixed("optimizer", optimizer.state_dict()),
            **_prefixed("best", run.best or {}),
        }
        generators = [generator_state(generator) for generator in model_generators(model)]
        training = {**run.state(), "generators": generators}
        write_arrays(self.path, KIND, arrays, {"training": training, "metadata": self.metadata})
        self.saved += 1
        self.start()


@dataclass
class Run:
    """Where a training stands, besides the model and what the optimizer remembers of it."""

    #: Orders the images and augments them.
    rng: np.random.Generator
    #: The optimizer's learning rate, before any schedule.
    lr: float
    #: What the training was called with; it can only be resumed with the same.
    settings: dict[str, Any] = field(default_factory=dict)
    #: Epochs that are done, batches that are done in the next one, what came of these, and how long they took.
    epoch: int = 0
    batch: int = 0
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    history: History = field(default_factory=History)
    #: The state of the model after its best epoch, where that is wanted.
    best: Arrays | None = None
    #: Whether every batch that was begun is done, so that a checkpoint can be made.
    whole: bool = True
    #: What the generator was when the epoch began, and the time at which it would have begun without interruptions.
    _rng_before: dict[str, Any] = field(default_factory=dict)
    _began: float = 0.0

    def batches(self, images: int, batch_size: int, shuffle: bool) -> Iterator[np.ndarray]:
        """The images of every batch of the epoch that is still to be done; each is followed by :meth:`end_batch`."""
        self._began = time.perf_counter() - self.seconds
        self.whole = False
        order = self._order(images, shuffle)
        for start in range(self.batch * batch_size, images, batch_size):
            self.whole = False
            yield order[start : start + batch_size]
        self.whole = True

    def end_batch(self, loss: float, prediction: np.ndarray, target: np.ndarray) -> None:
        """Count a batch."""
        self.tally.add(loss, prediction, target)
        self.batch += 1
        self.seconds = time.perf_counter() - self._began
        self.whole = True

    def end_epoch(self, epoch: Epoch) -> None:
        """Go on to the next epoch."""
        self.history.append(epoch)
        self.epoch, self.batch, self.tally, self.seconds = self.epoch + 1, 0, Tally(), 0.0

    def _order(self, images: int, shuffle: bool) -> np.ndarray:
        """The order of the images in this epoch; the same one again where the epoch has already begun."""
        if self.batch == 0:
            self._rng_before = generator_state(self.rng)
            rng = self.rng
        else:
            rng = generator_like(self.rng, self._rng_before)
        return rng.permutation(images) if shuffle else np.arange(images)

    def state(self) -> Metadata:
        """Everything but the best model, for JSON."""
        return {
            "settings": self.settings,
            "rng": generator_state(self.rng),
            "rng_before": self._rng_before,
            "lr": self.lr,
            "epoch": self.epoch,
            "batch": self.batch,
            "tally": self.tally.state(),
            "seconds": self.seconds,
            "history": [list(epoch) for epoch in self.history],
        }

    def with_state(self, state: Metadata, best: Arrays | None) -> Run:
        """A run of the same generator and settings that stands where ``state`` says; an error if there is no such."""
        for name, value in self.settings.items():
            if state["settings"][name] != value:
                raise ValueError(f"it was made with {name} {state['settings'][name]}, not {value}")
        run = Run(
            rng=self.rng,
            lr=real(state["lr"], "lr", 0),
            settings=self.settings,
            epoch=integer(state["epoch"], "epoch", 0),
            batch=integer(state["batch"], "batch", 0),
            tally=Tally.from_state(state["tally"]),
            seconds=real(state["seconds"], "seconds", 0),
            history=History(map(Epoch.from_state, state["history"])),
            best=best,
            _rng_before=state["rng_before"],
        )
        epochs = [epoch.epoch for epoch in run.history]
        if epochs != list(range(1, run.epoch + 1)):
            raise ValueError(f"its history is of {len(epochs)} epochs, {epochs[:1]} first, but {run.epoch} are done")
        if run.batch:
            generator_like(run.rng, run._rng_before)
        return run

    def resume(self, path: str | os.PathLike[str], model: Module, optimizer: Optimizer, batches: int) -> None:
        """Take over a checkpoint of epochs of so many batches, and give model and optimizer what they had then.

        Raises
        ------
        CheckpointError
            It does not fit. Nothing has been changed then.
        ValueError
            The file is damaged, or no checkpoint.
        OSError, ModuleNotFoundError
            The file cannot be read.
        """
        arrays, metadata = read_arrays(as_path(path), KIND)
        generators = [self.rng, *model_generators(model)]
        before = model.state_dict()
        try:
            state = metadata["training"]
            resumed = self.with_state(state, _without_prefix("best", arrays) or None)
            if resumed.batch > batches or (resumed.batch > 0) != (resumed.tally.images > 0):
                raise ValueError(f"it stands after batch {resumed.batch} of {batches}")
            states = [state["rng"], *state["generators"]]
            if len(states) != len(generators):
                raise ValueError(f"it has {len(states)} random generators, not {len(generators)}")
            likes = [generator_like(*pair) for pair in zip(generators, states, strict=True)]
            model.load_state_dict(resumed.best or before)  # it must fit as well
            model.load_state_dict(_without_prefix("model", arrays))
            optimizer.load_state_dict(_without_prefix("optimizer", arrays))
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            model.load_state_dict(before)
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise CheckpointError(f"{path} cannot be resumed here: {one_line(reason, 400)}") from error
        for generator, like in zip(generators, likes, strict=True):
            generator.bit_generator.state = like.bit_generator.state
        vars(self).update(vars(resumed))


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """The metadata of the :class:`Checkpoint` that was saved to a file.

    Raises
    ------
    ValueError
        The file is damaged, or no checkpoint.
    OSError, ModuleNotFoundError
        It cannot be read.
    """
    metadata = read_arrays(as_path(path), KIND)[1].get("metadata")
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is damaged: its metadata are no mapping")
    return metadata


def fingerprint(x: np.ndarray, y: np.ndarray, most: int = 1000) -> str:
    """Tells data sets apart: the shapes, and a checksum of the targets and of some images, evenly taken."""
    some = np.ascontiguousarray(x[:: -(-len(x) // most)])
    checksum = zlib.crc32(some.tobytes(), zlib.crc32(np.ascontiguousarray(y).tobytes()))
    return f"{'x'.join(map(str, x.shape))} {x.dtype} {checksum:08x}"


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """The state of a generator, for JSON."""
    return dict(_listed(generator.bit_generator.state))


def generator_like(generator: np.random.Generator, state: Mapping[str, Any]) -> np.random.Generator:
    """A generator of the same kind, in a given state; a ValueError if that is the state of another kind."""
    kind = type(generator.bit_generator)
    if not isinstance(state, Mapping) or state.get("bit_generator") != kind.__name__:
        raise ValueError(f"its random generator is no {kind.__name__}")
    like = np.random.Generator(kind())
    like.bit_generator.state = _unlisted(state)
    return like


def model_generators(model: Module) -> Iterator[np.random.Generator]:
    """The generators that layers draw from: those of dropout."""
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, np.random.Generator))


def _listed(value: Any) -> Any:
    """Arrays in nested mappings as lists."""
    if isinstance(value, Mapping):
        return {name: _listed(part) for name, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _unlisted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _unlisted(part) for name, part in value.items()}
    return np.array(value, np.uint64) if isinstance(value, list) else value


def _prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def _without_prefix(prefix: str, arrays: Arrays) -> Arrays:
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{prefix}.")}
