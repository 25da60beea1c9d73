"""Steps of training that are played from a tape leave what the layers leave, to the bit."""

from __future__ import annotations

import copy
import signal
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from test_nn_pooled import launches

import numbaconv
from numbaconv import nn, recording, simd
from numbaconv.nn import steps
from numbaconv.nn.steps import StepTape

SHAPE = (4, 7, 9)

pytestmark = pytest.mark.compiled  # as plain Python, a step takes a second
OPTIMIZERS: dict[str, Callable[[], nn.Optimizer]] = {
    "SGD": lambda: nn.SGD(lr=0.05, weight_decay=1e-3),
    "momentum": lambda: nn.SGD(lr=0.05, momentum=0.9, dampening=0.2),
    "Nesterov": lambda: nn.SGD(lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda: nn.Adam(lr=0.01, weight_decay=1e-3),
    "AdamW": lambda: nn.AdamW(lr=0.01),
}


def batch(count: int = 4, seed: int = 0, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *SHAPE)).astype(dtype), rng.integers(0, 3, count)


def small(dtype: Any = np.float32, momentum: float | None = 0.1) -> nn.Sequential:
    """Every layer that is played."""
    options: Any = {"dtype": dtype, "rng": np.random.default_rng(1)}
    inside = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1, **options), nn.BatchNorm2d(16, momentum=momentum, dtype=dtype), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False, **options), nn.BatchNorm2d(16, dtype=dtype),
    )  # fmt: skip
    path = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(16, affine=False, dtype=dtype), nn.AvgPool2d(3, 1, 1))
    shortcut = nn.Sequential(nn.Conv2d(16, 16, 1, **options))
    return nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1, **options),
        nn.BatchNorm2d(16, track_running_stats=False, dtype=dtype), nn.ReLU(),
        nn.Residual(inside), nn.ReLU(), nn.Dropout(0.3, rng=2), nn.Residual(path, shortcut), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(16, 16, 1, stride=2, **options), nn.Conv2d(16, 6, (2, 1), padding=(1, 0), **options),
        nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(6, 5, **options), nn.ReLU(), nn.Linear(5, 3, **options),
    )  # fmt: skip


class Pair:
    """A trainer whose steps are played, and one whose steps never are, trained alike."""

    def __init__(
        self,
        make: Callable[[], nn.Sequential] = small,
        optimizer: Callable[[], nn.Optimizer] = OPTIMIZERS["momentum"],
        loss: Callable[[], nn.Loss] = nn.CrossEntropyLoss,
    ) -> None:
        self.played, self.plain = (nn.Trainer(make(), optimizer(), loss()) for _ in range(2))
        self.plain._steps._times = 10**9
        self.count = 0

    def both(self, change: Callable[[nn.Trainer], Any]) -> None:
        for trainer in (self.played, self.plain):
            change(trainer)

    def step(self, x: np.ndarray, y: np.ndarray, clip_norm: float | None = None) -> None:
        """Make a step, and see that it is the same one."""
        for trainer in (self.played, self.plain):
            trainer.model.train()
        losses = [trainer._train_batch(x, y, clip_norm) for trainer in (self.played, self.plain)]
        assert losses[0][0] == losses[1][0] or np.isnan(losses[0][0])
        assert alike(losses[0][1], losses[1][1])
        self.compare()

    def steps(self, count: int, *more: Any) -> None:
        for _ in range(count):
            self.count += 1
            self.step(*batch(seed=self.count), *more)

    def compare(self) -> None:
        one, other = self.played, self.plain
        for name, array in one.model.state_dict().items():
            assert alike(array, other.model.state_dict()[name]), name
        for name, array in one.optimizer.state_dict().items():
            assert alike(array, other.optimizer.state_dict()[name]), name
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
            assert alike(a.grad, b.grad)

    @property
    def tape(self) -> StepTape | None:
        """The tape, if it is in use."""
        tape = self.played._steps._tape
        return tape if tape is not None and tape.tried else None


def alike(a: Any, b: Any) -> bool:
    return a.tobytes() == b.tobytes() and (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each step that was begun from a tape was made from it."""
    made: list[bool] = []
    play = StepTape.play

    def counted(self: StepTape, *arguments: Any) -> Any:
        result = play(self, *arguments)
        made.append(result is not None)
        return result

    monkeypatch.setattr(StepTape, "play", counted)
    return made


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_layer_and_optimizer(optimizer: str, dtype: Any, plays: list[bool]) -> None:
    pair = Pair(lambda: small(dtype), OPTIMIZERS[optimizer])
    for seed in range(8):
        pair.step(*batch(seed=seed, dtype=dtype))
    assert plays == [True] * (8 - steps.TIMES - 2)


@pytest.mark.parametrize("name", ["digits_cnn", "lenet5", "mnist_cnn", "resnet20"])
def test_every_model(name: str, plays: list[bool]) -> None:
    shape = {"digits_cnn": (1, 8, 8), "resnet20": (3, 32, 32)}.get(name, (1, 28, 28))
    pair = Pair(lambda: getattr(nn.models, name)(rng=0))
    for seed in range(7):
        rng = np.random.default_rng(seed)
        pair.step(rng.standard_normal((8, *shape)).astype(np.float32), rng.integers(0, 10, 8))
    assert plays == [True] * (7 - steps.TIMES - 2)


def test_what_may_change(plays: list[bool]) -> None:
    pair = Pair(lambda: small(momentum=None))
    pair.steps(6)
    pair.both(lambda t: setattr(t.optimizer, "lr", 0.2))
    pair.steps(1)
    pair.both(lambda t: setattr(t.optimizer, "weight_decay", 0.1))
    pair.steps(1)
    pair.steps(2, 0.01)  # clipped
    pair.both(lambda t: t.model[0].weight.data.__imul__(0.5))
    pair.steps(1)
    pair.both(lambda t: t.model.load_state_dict({k: v * 2 for k, v in t.model.state_dict().items()}))
    pair.steps(1)
    pair.both(lambda t: t.predict(batch(2)[0]))
    pair.steps(1)
    pair.both(lambda t: t.predict(batch(20)[0], 8))
    pair.steps(1)
    pair.both(lambda t: t.optimizer.load_state_dict({k: v * 0 for k, v in t.optimizer.state_dict().items()}))
    pair.steps(1)
    assert plays == [True] * (15 - steps.TIMES - 2)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "other weights": lambda t: setattr(t.model[0].weight, "data", t.model[0].weight.data * 2),
    "no bias": lambda t: setattr(t.model[0], "padding", 1) or setattr(t.model[10], "dilation", (1, 2)),
    "eps": lambda t: setattr(t.model[1], "eps", 0.5),
    "momentum of a batch norm": lambda t: setattr(t.model[3].main[1], "momentum", 0.9),
    "p": lambda t: setattr(t.model[5], "p", 0.9),
    "a window": lambda t: setattr(t.model[7], "stride", (1, 1)),
    "a forward": lambda t: setattr(t.model[12], "forward", lambda x: x * 2),
    "a backward": lambda t: setattr(t.model[8], "backward", lambda grad: grad * 2),
    "no momentum": lambda t: setattr(t.optimizer, "momentum", 0),
    "what an optimizer remembers": lambda t: t.optimizer.load_state_dict({}),
    "another loss": lambda t: setattr(t, "loss", nn.CrossEntropyLoss(0.1)),
    "label smoothing": lambda t: setattr(t.loss, "label_smoothing", 0.3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_ends_a_tape(change: str) -> None:
    pair = Pair()
    pair.steps(6)
    before = pair.tape
    assert before is not None
    pair.both(CHANGES[change])
    pair.steps(1)
    assert before is not pair.tape or pair.played._steps._kind != before.kind
    pair.steps(9)


def test_last_batches_and_others(plays: list[bool]) -> None:
    pair = Pair()
    for _ in range(4):  # epochs
        pair.steps(4)
        pair.step(*batch(3))
    assert sum(plays) == 4 * 4 - steps.TIMES - 2
    for seed in range(7):
        pair.step(*batch(3, seed))
    assert pair.tape is not None
    assert pair.tape.kind[0][0] == 3


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("what", ["weight", "image", "late weight"])
def test_numbers_that_are_not_finite(what: str, value: float, plays: list[bool]) -> None:
    pair = Pair(optimizer=lambda: nn.SGD(lr=0.0, momentum=0.9))
    pair.steps(6)
    if what == "weight":
        pair.both(lambda t: t.model[0].weight.data.__setitem__((0, 0, 0, 0), value))
    elif what == "late weight":
        pair.both(lambda t: t.model[10].weight.data.__setitem__((0, 0, 0, 0), value))
    x, y = batch(seed=9)
    if what == "image":
        x[0, 0, 0, 0] = value
    with np.errstate(all="ignore"):
        pair.step(x, y)
    assert plays[-1] is False


def test_gradients_that_somebody_holds(plays: list[bool]) -> None:
    pair = Pair()
    pair.steps(7)
    grads = [parameter.grad for parameter in pair.played.model.parameters()]
    part = pair.played.model[0].weight.grad[1:2, 0]
    copies = [np.copy(grad) for grad in grads]
    pair.steps(2)
    for grad, kept in zip(grads, copies, strict=True):
        np.testing.assert_array_equal(grad, kept)
    assert plays[-2:] == [False, False]
    del grads, grad
    pair.steps(1)
    assert plays[-1] is False
    np.testing.assert_array_equal(part, copies[0][1:2, 0])
    del part
    pair.steps(1)
    assert plays[-1] is True


def test_the_prediction_is_nobody_elses() -> None:
    pair = Pair()
    pair.steps(6)
    pair.played.model.train()
    _, prediction = pair.played._train_batch(*batch(seed=7))
    before = prediction.copy()
    pair.played._train_batch(*batch(seed=8))
    np.testing.assert_array_equal(prediction, before)


def test_layers_know_the_last_batch() -> None:
    pair = Pair()
    pair.steps(6)
    pair.both(lambda t: t.predict(batch(6)[0]))
    pair.steps(1)
    grad = np.ones((4, 3), np.float32)
    pair.both(lambda t: t.model.train())
    got, wanted = (t.model.backward(grad) for t in (pair.played, pair.plain))
    assert alike(got, wanted)
    pair.compare()
    assert alike(pair.played.loss.backward(), pair.plain.loss.backward())


def test_bad_targets_change_nothing() -> None:
    pair = Pair()
    x, y = batch()
    for seed in range(steps.TIMES + 4):
        pair.played.step(*batch(seed=seed))
        state = pair.played.model.state_dict()
        grads = [np.copy(parameter.grad) for parameter in pair.played.model.parameters()]
        for bad in (y + 3, y - 3) if pair.tape is None else (y + 3, y - 3, y.astype(float), y[:, None]):
            with pytest.raises((ValueError, TypeError), match=r"label|float64|\(N,\)"):
                pair.played.step(x, bad)
        for parameter, grad in zip(pair.played.model.parameters(), grads, strict=True):
            assert parameter.grad is None or alike(parameter.grad, grad)
        for name, array in pair.played.model.state_dict().items():
            assert alike(array, state[name]) or "running" in name or "num_batches" in name
    assert pair.tape is not None
    assert pair.played.model[0].weight.grad is not None


class Scale(nn.Module):
    def forward(self, x: np.ndarray) -> np.ndarray:
        return x * 2

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        return grad_output * 2


@pytest.mark.parametrize(
    "layer", [Scale, lambda: nn.ConvTranspose2d(4, 4, 1, rng=0), lambda: nn.Conv2d(4, 4, 1, rng=0, dtype=np.float64)]
)
def test_what_is_not_known_is_never_played(layer: Callable[[], nn.Module]) -> None:
    pair = Pair(lambda: nn.Sequential(layer(), nn.Flatten(), nn.Linear(252, 3, rng=0)))
    pair.steps(8)
    assert pair.played._steps._tape is None


def test_other_losses_and_optimizers_are_never_played() -> None:
    class Mine(nn.SGD):
        pass

    pair = Pair(optimizer=lambda: Mine(lr=0.1))
    pair.steps(8)
    assert pair.played._steps._tape is None
    trainer = nn.Trainer(nn.Sequential(nn.Linear(3, 2, rng=0)), nn.SGD(lr=0.1), nn.MSELoss())
    for _ in range(8):
        trainer.step(np.ones((4, 3), np.float32), np.ones((4, 2), np.float32))
    assert trainer._steps._tape is None


def test_a_layer_that_does_some_of_its_work_in_numpy_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: nn.ReLU, x: np.ndarray) -> np.ndarray:
        self._saved = np.maximum(x, 0)
        return self._saved

    monkeypatch.setattr(nn.ReLU, "forward", forward)
    pair = Pair()
    pair.steps(8)
    assert pair.played._steps._tape is None


def test_layers_in_evaluation() -> None:
    pair = Pair()
    pair.steps(6)
    for _ in range(3):
        for trainer in (pair.played, pair.plain):
            trainer.model.train()
            trainer.model[1].eval()
            trainer._train_batch(*batch())
        pair.compare()


def test_memory_that_does_not_suffice_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "available_bytes", lambda: 1000)
    pair = Pair()
    pair.steps(8)
    assert pair.played._steps._tape is None


def test_gradients_of_a_step_that_was_tried(plays: list[bool]) -> None:
    pair = Pair()
    pair.steps(steps.TIMES + 2)
    assert pair.tape is not None
    grads = [parameter.grad for parameter in pair.played.model.parameters()]
    copies = [np.copy(grad) for grad in grads]
    pair.steps(2)
    for grad, kept in zip(grads, copies, strict=True):
        np.testing.assert_array_equal(grad, kept)
    assert plays == [True, True]


def test_launches_that_only_python_may_make(monkeypatch: pytest.MonkeyPatch, plays: list[bool]) -> None:
    monkeypatch.setattr(recording, "needs_python", lambda threads: True)
    pair = Pair()
    pair.steps(8)
    assert plays == [True] * (8 - steps.TIMES - 2)


def test_settings(plays: list[bool]) -> None:
    pair, threads = Pair(), numbaconv.get_num_threads()
    pair.steps(6)
    try:
        numbaconv.set_num_threads(1)
        pair.steps(6)
        numbaconv.set_algorithm("auto")
        pair.steps(6)
    finally:
        numbaconv.set_num_threads(threads)
        numbaconv.set_algorithm("direct")
    settings = 3 if threads > 1 else 2
    assert plays == [True] * (18 - settings * (steps.TIMES + 2))


def blocks(dtype: Any = np.float32) -> nn.Sequential:
    """Batch norms that convolutions make where they read, and gradients that blocks leave in two parts."""
    options: Any = {"dtype": dtype, "rng": np.random.default_rng(1)}

    def block() -> nn.Residual:
        main = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, bias=False, **options), nn.BatchNorm2d(16, dtype=dtype), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, bias=False, **options), nn.BatchNorm2d(16, dtype=dtype),
        )  # fmt: skip
        return nn.Residual(main)

    return nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=4, **options), nn.BatchNorm2d(16, dtype=dtype), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, **options), block(), nn.ReLU(), block(), block(), nn.ReLU(),
        nn.GlobalAvgPool2d(), nn.Linear(16, 3, **options),
    )  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_kernels_do_for_other_layers(dtype: Any, threads: int, plays: list[bool]) -> None:
    before = numbaconv.get_num_threads()
    numbaconv.set_algorithm("auto")
    numbaconv.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        pair = Pair(lambda: blocks(dtype))
        with launches() as names:
            for seed in range(8):
                pair.step(*batch(seed=seed, dtype=dtype))
        if simd.lanes(np.float32) == 16:  # elsewhere, other forms may cost less
            assert min(map(names.count, ["correlate_winograd_normed", "weight_gradient_winograd_normed"])) > 8
        assert plays == [True] * (8 - steps.TIMES - 2)
        pair.step(*batch(3, seed=9, dtype=dtype))
        x, y = batch(seed=10, dtype=dtype)
        pair.step(x, y)
        grad = np.ones((4, 3), dtype)
        got, wanted = (t.model.backward(grad) for t in (pair.played, pair.plain))
        assert alike(got, wanted)
        pair.compare()
        for change in (
            lambda t: t.model[3].weight.data.__setitem__((0, 0, 0, 0), np.inf),
            lambda t: t.model[1].weight.data.__setitem__(0, np.nan),
        ):
            pair.both(change)
            with np.errstate(all="ignore"):
                pair.step(x, y)
            assert plays[-1] is False
    finally:
        numbaconv.set_algorithm("direct")
        numbaconv.set_num_threads(before)


def test_other_threads_play_nothing_of_this_one(plays: list[bool]) -> None:
    pair = Pair()
    pair.steps(6)
    thread = threading.Thread(target=pair.steps, args=(2,))
    thread.start()
    thread.join()
    pair.steps(2)
    assert plays == [True] * (8 - steps.TIMES - 2)


def test_copies_have_no_tapes() -> None:
    pair = Pair()
    pair.steps(6)
    other = copy.deepcopy(pair.played)
    assert other._steps._tape is None
    before = pair.played.model.state_dict()
    other.step(*batch())
    for name, array in pair.played.model.state_dict().items():
        assert alike(array, before[name])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such timers on Windows")
def test_a_signals_handler_may_run_the_model() -> None:
    pair = Pair()
    pair.steps(6)
    x, _ = batch()
    before = signal.signal(signal.SIGALRM, lambda *_: pair.played.model(x))
    try:
        for delay in range(1, 60):
            signal.setitimer(signal.ITIMER_REAL, delay * 2e-5)
            pair.played.step(*batch(seed=delay))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(np.isfinite(array).all() for array in pair.played.model.state_dict().values())


def test_a_whole_training(plays: list[bool]) -> None:
    x, y = batch(30)

    def train(trainer: nn.Trainer) -> Any:
        return trainer.fit(
            x, y, epochs=4, batch_size=4, seed=0, schedule=nn.OneCycleLR(), clip_norm=1.0, validation=batch(7, 5)
        )

    pair = Pair()
    histories = [[(e.loss, e.accuracy, e.validation_loss) for e in train(t)] for t in (pair.played, pair.plain)]
    assert histories[0] == histories[1]
    pair.compare()
    assert sum(plays) > 15
