"""Checkpoints: an interrupted training that is resumed ends with the same bits as one that was not."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FunctionType

import numpy as np
import pytest
from test_nn_training import stripes

from numbaconv import nn
from numbaconv.nn.checkpoints import read_metadata
from numbaconv.nn.interrupts import Interrupts

X, Y = stripes(70)
VALIDATION = stripes(20, seed=1)
BATCHES = 5  # of 16 images, the last of 6
OPTIMIZERS = {
    "sgd": lambda: nn.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda: nn.Adam(lr=0.01),
}


@pytest.fixture(params=[".npz", ".safetensors"])
def path(request, tmp_path):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"checkpoint{request.param}"


def shake(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An augmentation that draws numbers."""
    return np.roll(images, rng.integers(-1, 2), axis=3) + rng.standard_normal((len(images), 1, 1, 1), np.float32)


def new_trainer(optimizer: str = "sgd") -> nn.Trainer:
    """Everything that has a state: batch norm, dropout, an optimizer that remembers."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, rng=0),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.1, rng=1),
        nn.Flatten(),
        nn.Dropout(0.2, rng=2),
        nn.Linear(256, 4, rng=3),
    )
    return nn.Trainer(model, OPTIMIZERS[optimizer](), nn.CrossEntropyLoss(label_smoothing=0.1))


def fit(trainer: nn.Trainer, **options) -> nn.History:
    options = {
        "epochs": 4,
        "batch_size": 16,
        "seed": 7,
        "validation": VALIDATION,
        "augment": shake,
        "schedule": nn.LinearWarmup(1, nn.CosineLR()),
        "clip_norm": 1.0,
        "early_stopping": nn.EarlyStopping(patience=3),
    } | options
    return trainer.fit(X, Y, **options)


class InterruptAt:
    """Ctrl-C after some batches in all, or after some epochs."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, record: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def bits(trainer: nn.Trainer) -> dict[str, bytes]:
    state = trainer.model.state_dict() | trainer.optimizer.state_dict()
    return {name: value.tobytes() for name, value in state.items()}


def without_times(history: nn.History) -> list[tuple]:
    return [epoch._replace(seconds=0, images_per_second=0) for epoch in history]


@pytest.fixture(scope="module")
def uninterrupted():
    """The model's bits, and the history, of a training in one piece."""
    found = {}
    for optimizer in OPTIMIZERS:
        trainer = new_trainer(optimizer)
        history = fit(trainer)
        found[optimizer] = bits(trainer), without_times(history)
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batches", [1, BATCHES - 1, BATCHES, BATCHES + 1, 2 * BATCHES + 3, 4 * BATCHES])
def test_interrupted_after_a_batch(path, uninterrupted, optimizer, batches) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(new_trainer(optimizer), checkpoint=path, on_batch=InterruptAt(batches))
    trainer = new_trainer(optimizer)
    history = fit(trainer, resume=path, seed=99)  # the seed that counts is in the checkpoint
    assert bits(trainer) == uninterrupted[optimizer][0]
    assert without_times(history) == uninterrupted[optimizer][1]


def test_interrupted_again_and_again(path, uninterrupted) -> None:
    resume = None
    for _ in range(9):
        with pytest.raises(KeyboardInterrupt):
            fit(new_trainer(), checkpoint=path, resume=resume, on_batch=InterruptAt(2))
        resume = path
    trainer = new_trainer()
    assert len(fit(trainer, checkpoint=path, resume=path)) == 4
    assert bits(trainer) == uninterrupted["sgd"][0]
    again = new_trainer()
    assert len(fit(again, resume=path)) == 4  # from its end
    assert bits(again) == uninterrupted["sgd"][0]


@pytest.mark.parametrize("epochs", [1, 3])
def test_interrupted_after_an_epoch(path, uninterrupted, epochs) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(new_trainer(), checkpoint=path, on_epoch=InterruptAt(epochs))
    trainer = new_trainer()
    fit(trainer, resume=path)
    assert bits(trainer) == uninterrupted["sgd"][0]


def test_interrupted_while_validating(path, uninterrupted, monkeypatch) -> None:
    trainer = new_trainer()
    monkeypatch.setattr(trainer, "evaluate", lambda *data: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, checkpoint=path)
    trainer = new_trainer()
    fit(trainer, resume=path)
    assert bits(trainer) == uninterrupted["sgd"][0]


def test_interrupted_in_the_middle_of_a_batch_there_is_nothing_to_save(path) -> None:
    calls = InterruptAt(3)

    def impatient(images, rng):
        calls(images)
        return shake(images, rng)

    with pytest.raises(KeyboardInterrupt):
        fit(new_trainer(), checkpoint=path, augment=impatient)
    assert not path.exists()


def in_new_process(path: str, out: str, last: bool) -> None:
    trainer = new_trainer()
    try:
        fit(trainer, checkpoint=path, resume=path if last else None, on_batch=None if last else InterruptAt(8))
    except KeyboardInterrupt:
        return
    nn.save_model(out, trainer.model)


def test_resumed_in_a_new_process(path, uninterrupted, tmp_path) -> None:
    """Byte for byte the same file."""
    trainer, out = new_trainer(), tmp_path / f"resumed{path.suffix}"
    context = multiprocessing.get_context("spawn")
    for last in (False, True):
        process = context.Process(target=in_new_process, args=(str(path), str(out), last))
        process.start()
        process.join()
        assert process.exitcode == 0
    fit(trainer)
    nn.save_model(tmp_path / f"whole{path.suffix}", trainer.model)
    assert out.read_bytes() == (tmp_path / f"whole{path.suffix}").read_bytes()


@pytest.mark.parametrize("kind", ["PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_every_kind_of_generator(path, kind) -> None:
    def generator():
        return np.random.Generator(getattr(np.random, kind)(3))

    whole, parts = new_trainer(), new_trainer()
    fit(whole, seed=generator())
    with pytest.raises(KeyboardInterrupt):
        fit(parts, seed=generator(), checkpoint=path, on_batch=InterruptAt(7))
    with pytest.raises(ValueError, match="random generator"):
        fit(parts, seed=3, resume=path)
    parts = new_trainer()
    fit(parts, seed=generator(), resume=path)
    assert bits(parts) == bits(whole)


def test_more_epochs(path) -> None:
    """A training that has ended may go on; its schedule is then one of all epochs."""
    whole, parts = new_trainer(), new_trainer()
    options = {"schedule": None, "early_stopping": None}
    fit(whole, epochs=3, **options)
    fit(parts, epochs=2, checkpoint=path, **options)
    assert [epoch.epoch for epoch in fit(parts, epochs=3, resume=path, **options)] == [1, 2, 3]
    assert bits(parts) == bits(whole)


def test_a_learning_rate_that_a_callback_changed(path) -> None:
    def run(trainer, **options):
        def halve(progress):
            trainer.optimizer.lr *= 0.9
            interrupt(progress)

        interrupt = InterruptAt(options.pop("batches", 1000))
        fit(trainer, schedule=None, on_batch=halve, **options)
        return bits(trainer)

    whole = run(new_trainer())
    with pytest.raises(KeyboardInterrupt):
        run(new_trainer(), checkpoint=path, batches=6)
    assert run(new_trainer(), resume=path) == whole


def test_how_often(path) -> None:
    for seconds, saved in ((0, 4 * BATCHES + 1), (1000, 1)):
        checkpoint = nn.Checkpoint(path, seconds=seconds, metadata={"command": "train"})
        fit(new_trainer(), checkpoint=checkpoint)
        assert checkpoint.saved == saved
        assert read_metadata(path) == {"command": "train"}


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(path, monkeypatch) -> None:
    fit(new_trainer(), epochs=1, checkpoint=path)
    before = path.read_bytes()

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        fit(new_trainer(), epochs=1, checkpoint=path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# -- checkpoints that do not fit ---------------------------------------------------------------------------------------


MISFITS = [
    ({"batch_size": 8}, "made with batch_size 16, not 8"),
    ({"shuffle": False}, "made with shuffle True, not False"),
    ({"schedule": nn.CosineLR()}, r"made with schedule LinearWarmup\(.*\), not CosineLR"),
    ({"clip_norm": None}, "made with clip_norm 1.0, not None"),
    ({"early_stopping": None}, "made with early_stopping"),
    ({"optimizer": lambda: nn.SGD(lr=0.1)}, "made with optimizer SGD.*lr=0.05.*, not SGD.*lr=0.1"),
    ({"optimizer": lambda: nn.Adam()}, "made with optimizer SGD.*, not Adam"),
    ({"loss": nn.CrossEntropyLoss()}, "made with loss CrossEntropyLoss.label_smoothing=0.1."),
    ({"model": lambda: nn.models.digits_cnn(4)}, "random generators"),
    ({"x": X[:60], "y": Y[:60]}, "made with images 70x1x8x8 float32 .*, not 60x1x8x8"),
    ({"x": -X}, "made with images 70x1x8x8 float32"),
    ({"y": (Y + 1) % 4}, "made with images 70x1x8x8 float32"),
]


@pytest.mark.parametrize(
    ("change", "message"), MISFITS, ids=["+".join(change) + f"-{k}" for k, (change, _) in enumerate(MISFITS)]
)
def test_misfits(path, change, message) -> None:
    fit(new_trainer(), epochs=1, checkpoint=path)
    change = {name: value() if isinstance(value, FunctionType) else value for name, value in change.items()}
    like = new_trainer()
    parts = {"model": like.model, "optimizer": OPTIMIZERS["sgd"](), "loss": like.loss}
    options = {name: value for name, value in change.items() if name not in {*parts, "x", "y"}}
    trainer = nn.Trainer(**parts | {name: value for name, value in change.items() if name in parts})
    before = bits(trainer)
    data = change.get("x", X), change.get("y", Y)
    settings = {"schedule": nn.LinearWarmup(1, nn.CosineLR()), "early_stopping": nn.EarlyStopping(patience=3)}
    settings |= {"batch_size": 16, "clip_norm": 1.0, "validation": VALIDATION, "resume": path}
    with pytest.raises(ValueError, match=message) as caught:
        trainer.fit(*data, **settings | options)
    assert str(caught.value).startswith(f"{path} cannot be resumed here: ")
    assert "\n" not in str(caught.value)
    assert bits(trainer) == before


def test_files_that_are_no_checkpoints(path, tmp_path) -> None:
    nn.save_model(path, new_trainer().model)
    with pytest.raises(ValueError, match="is no numbaconv-checkpoint: it is a numbaconv-model"):
        fit(new_trainer(), resume=path)
    fit(new_trainer(), epochs=1, checkpoint=path)
    with pytest.raises(ValueError, match="is no numbaconv-model: it is a numbaconv-checkpoint"):
        nn.load_model(path)
    content = path.read_bytes()
    trainer = new_trainer()
    before = bits(trainer)
    for share in (0, 0.1, 0.5, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="is damaged"):
            fit(trainer, resume=path)
    assert bits(trainer) == before


def test_metadata_that_are_wrong(tmp_path) -> None:
    """Whatever stands in a file that says that it is a checkpoint: one ValueError, and nothing is changed."""
    from numbaconv.nn.files import read_arrays, write_arrays

    path, trainer = tmp_path / "c.npz", new_trainer()
    fit(trainer, epochs=1, checkpoint=path)
    arrays, metadata = read_arrays(path, "numbaconv-checkpoint")
    training = metadata["training"]
    trainer = new_trainer()
    before = bits(trainer)
    training |= {"batch": 2, "tally": [32, 1.0, 3, True]}  # so that all of it is needed
    wrong = [{name: value} for name in training for value in (None, "x", -1, {"x": 1})]
    changes = [training | change for change in wrong if change not in ({"seconds": -1}, {"epoch": 0})]
    changes += [training | {"batch": BATCHES + 1}, training | {"tally": [0, 0.0, 0, True]}]
    changes += [{name: value for name, value in training.items() if name != missing} for missing in training]
    epoch = training["history"][0]
    changes += [training | {"history": [[number, *epoch[1:]]]} for number in (2, 1.0, math.nan)]
    for i in range(len(epoch)):
        changes += [
            training | {"history": [[*epoch[:i], value, *epoch[i + 1 :]]]} for value in ("x", [], True, 10**400)
        ]
    for changed in [*changes, None, [], "x"]:
        write_arrays(path, "numbaconv-checkpoint", arrays, {"training": changed})
        with pytest.raises(ValueError, match="cannot be resumed here"):
            fit(trainer, resume=path)
        assert bits(trainer) == before
    for names in (["model.0.weight"], ["optimizer.0.momentum_buffer"], ["best.0.weight"]):
        broken = {name: array for name, array in arrays.items() if name not in names}
        broken |= {"optimizer.99.momentum_buffer": np.zeros(1)} if "optimizer" in names[0] else {}
        write_arrays(path, "numbaconv-checkpoint", broken, {"training": training})
        with pytest.raises(ValueError, match="cannot be resumed here"):
            fit(trainer, resume=path)
        assert bits(trainer) == before


# -- signals -----------------------------------------------------------------------------------------------------------


def send(number: int) -> None:
    """Send a signal to this process, and let Python get round to it: two at once would be one."""
    signal.raise_signal(number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_batch(number) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:  # noqa: PT012
        send(number)
        done.append("batch")
        interrupts.check()
        done.append("next batch")
    assert done == ["batch"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


@pytest.fixture
def _listening() -> Iterator[None]:
    """Python's own handler, whatever started this process: a shell lets jobs in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_listening")
def test_a_second_signal_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts():  # noqa: PT012
        send(signal.SIGINT)
        done.append("first")
        send(signal.SIGINT)
        done.append("second")
    assert done == ["first"]


def test_signals_need_not_wait_for_what_may_be_broken_off_and_are_never_lost() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts, interrupts.allowed():  # noqa: PT012
        send(signal.SIGINT)
        done.append("evaluated")
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:  # noqa: PT012
        send(signal.SIGINT)
        with interrupts.allowed():
            done.append("evaluated")
    with pytest.raises(KeyboardInterrupt), Interrupts():
        send(signal.SIGINT)
    assert not done


def test_in_another_thread_signals_are_left_alone(path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    during = []
    trainer = new_trainer()
    options = {"checkpoint": path, "on_batch": lambda _: during.append(signal.getsignal(signal.SIGINT))}
    thread = threading.Thread(target=fit, args=(trainer,), kwargs=options)
    thread.start()
    thread.join()
    assert set(during) == {handler}
    assert path.exists()
