"""Small batches that are played from a tape give what the layers give, and nothing that changes is missed."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest

import numbaconv
from numbaconv import nn
from numbaconv.nn import replay
from numbaconv.nn.module import changes
from numbaconv.nn.replay import Tape

SHAPES = {"digits_cnn": (1, 8, 8), "lenet5": (1, 28, 28), "mnist_cnn": (1, 28, 28), "resnet20": (3, 32, 32)}


def batch(shape: tuple[int, ...] = (1, 4, 7, 9), seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def small(dtype: Any = np.float32) -> nn.Sequential:
    """Every layer that is played."""
    rng = np.random.default_rng(1)
    options: Any = {"dtype": dtype, "rng": rng}
    inside = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, **options), nn.BatchNorm2d(16, dtype=dtype))
    shortcut = nn.Sequential(nn.Conv2d(16, 16, 1, **options))
    path = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(16, dtype=dtype), nn.AvgPool2d(3, stride=1, padding=1))
    return nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1, **options), nn.BatchNorm2d(16, dtype=dtype), nn.ReLU(), nn.Dropout(0.5, rng=2),
        nn.Residual(inside), nn.ReLU(), nn.Residual(path, shortcut), nn.MaxPool2d(2),
        nn.Conv2d(16, 8, (2, 1), **options), nn.GlobalAvgPool2d(), nn.Flatten(),
        nn.Linear(8, 5, **options), nn.ReLU(), nn.Linear(5, 3, **options),
    ).eval()  # fmt: skip


def played(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """The output for x, of a tape that was made on the way."""
    for seed in range(4):
        model(batch(x.shape, 10 + seed, x.dtype))
    assert tapes(model), "there is no tape"
    y = model(x)
    assert model._replayed is not None, "the tape was not played"
    return y


def tapes(model: nn.Sequential) -> list[Tape]:
    return [tape for tape in model._tapes._kinds.values() if isinstance(tape, Tape)]


def by_layers(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    return model._forward(x, None)


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes() and (a.shape, a.dtype, a.strides) == (b.shape, b.dtype, b.strides)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("images", [1, 3])
def test_every_layer(images: int, dtype: Any) -> None:
    model = small(dtype)
    for seed in range(3):
        x = batch((images, 4, 7, 9), seed, dtype)
        assert alike(played(model, x), by_layers(model, x))


@pytest.mark.parametrize("name", SHAPES)
def test_every_model(name: str) -> None:
    model = getattr(nn.models, name)(rng=0).eval()
    x = batch((1, *SHAPES[name]))
    assert alike(played(model, x), by_layers(model, x))


def test_images_that_are_the_output() -> None:
    model = nn.Sequential(nn.Conv2d(4, 32, 3, rng=0)).eval()
    x = batch()
    y = played(model, x)
    assert alike(y, by_layers(model, x))
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    before = y.copy()
    model(batch(seed=1))
    np.testing.assert_array_equal(y, before)  # it is nobody else's


CHANGES: dict[str, Callable[[Any], Any]] = {
    "weights of a convolution": lambda m: m[0].weight.data.__imul__(2),
    "other weights of a convolution": lambda m: setattr(m[0].weight, "data", m[0].weight.data * 2),
    "the bias of a convolution": lambda m: m[8].bias.data.__iadd__(1),
    "no bias": lambda m: setattr(m[0], "bias", None),
    "a running mean": lambda m: m[1].running_mean.__iadd__(1),
    "a running mean inside": lambda m: m[4].main[1].running_mean.__iadd__(1),
    "another running variance": lambda m: setattr(m[1], "running_var", m[1].running_var * 3),
    "eps": lambda m: setattr(m[1], "eps", 0.5),
    "the scale of a batch norm": lambda m: m[1].weight.data.__imul__(2),
    "weights of the shortcut": lambda m: m[6].shortcut[0].weight.data.__imul__(2),
    "weights of a linear layer": lambda m: m[11].weight.data.__imul__(2),
    "other weights of a linear layer": lambda m: setattr(m[11].weight, "data", m[11].weight.data * 2),
    "the bias of a linear layer": lambda m: m[13].bias.data.__iadd__(1),
    "a running mean that is not folded": lambda m: m[6].main[1].running_mean.__iadd__(1),
    "padding": lambda m: setattr(m[0], "padding", 2),
    "stride": lambda m: setattr(m[8], "stride", (2, 1)),
    "a window": lambda m: setattr(m[7], "stride", (1, 1)),
    "a path": lambda m: setattr(m[4], "shortcut", nn.Conv2d(16, 16, 1, rng=9).eval()),
    "a forward": lambda m: setattr(m[7], "forward", lambda x: x * 2),
    "a forward inside": lambda m: setattr(m[4].main, "forward", lambda x: x),
    "other parameters": lambda m: m.load_state_dict({k: v * 2 for k, v in m.state_dict().items()}),
    "a step": lambda m: training(m),
}


def training(model: nn.Sequential) -> None:
    nn.Trainer(model, nn.SGD(lr=0.1)).step(batch((8, 4, 7, 9)), np.zeros(8, np.int64))
    model.eval()


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_shows(change: str) -> None:
    model, other, x = small(), small(), batch(seed=5)
    before = played(model, x)
    CHANGES[change](model)
    CHANGES[change](other)
    for _ in range(4):
        y = model(x)
        assert alike(y, by_layers(other, x))
    assert not np.array_equal(before, y)


def test_another_dtype() -> None:
    model, x = small(), batch(seed=5)
    played(model, x)
    model.astype(np.float64)
    assert not tapes(model)
    assert played(model, x.astype(np.float64)).dtype == np.float64


@pytest.mark.compiled
def test_settings() -> None:
    model, x, threads = small(), batch((2, 4, 12, 20)), numbaconv.get_num_threads()
    direct = played(model, x)
    try:
        numbaconv.set_algorithm("auto")
        winograd = model(x)
        assert model._replayed is None
        assert alike(played(model, x), winograd)
        assert not np.array_equal(winograd, direct)
        numbaconv.set_num_threads(1)
        assert alike(model(x), winograd)
        assert threads == 1 or model._replayed is None
        assert alike(played(model, x), winograd)
    finally:
        numbaconv.set_algorithm("direct")
        numbaconv.set_num_threads(threads)
    assert alike(model(x), direct)
    assert model._replayed is not None


def test_layers_in_training() -> None:
    model, x = small(), batch()
    usual = played(model, x)
    model[3].train()
    dropped = model(x)
    assert model._replayed is None
    assert not np.array_equal(dropped, usual)
    for _ in range(4):
        model(x)
    assert model._replayed is None
    model.eval()
    assert alike(model(x), usual)
    assert model._replayed is not None


def test_no_pass_is_run_twice_where_a_layer_would_notice() -> None:
    """Dropout in training draws numbers, and what it saves must be of the output that was returned."""
    model, other, grad = small(), small(), batch((1, 3))
    for each in (model, other):
        each[3].train()
    for seed in range(2 * replay.TIMES + 2):
        x = batch(seed=seed)
        assert alike(model(x), by_layers(other, x))
        assert alike(model.backward(grad), other.backward(grad))
    counting = nn.Sequential(Counting()).eval()
    for _ in range(2 * replay.TIMES + 2):
        counting(batch())
    assert counting[0].calls == 2 * replay.TIMES + 2


def test_the_gradient_of_what_was_played() -> None:
    model, other, x, grad = small(), small(), batch(seed=3), batch((1, 3))
    played(model, x)
    other(x)
    for _ in range(2):
        assert alike(model.backward(grad), other.backward(grad))
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            assert alike(a.grad, b.grad)
    assert not any(module.training for module in model.modules())
    model(x)
    assert model._replayed is not None
    with pytest.raises(RuntimeError, match="before forward"):  # no layer keeps what another pass saved
        model[13].backward(grad)
    model[0].weight.data *= 2
    with pytest.raises(RuntimeError, match="changed between forward and backward"):
        model.backward(grad)


def test_predictions_play_tapes_and_change_no_mode() -> None:
    model, x = small(), batch()
    trainer = nn.Trainer(model, nn.SGD(lr=0.1))
    model.train()
    wanted = [trainer.predict(x) for _ in range(5)]
    assert model._replayed is not None
    assert all(module.training for module in model.modules())
    assert all(alike(y, wanted[0]) for y in wanted)
    assert alike(trainer.predict(np.concatenate([x, x]), batch_size=1), np.concatenate(wanted[:2]))


class Sums(nn.Module):
    """A layer that works in NumPy."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x + x.sum()


class Counting(nn.Module):
    calls = 0

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.calls += 1
        return x


class Mine(nn.Sequential):
    def forward(self, x: np.ndarray) -> np.ndarray:
        return super().forward(x) + 1


def _norm(mean: np.ndarray) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(4)
    layer.running_mean = mean
    return layer


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, rng=0), Sums()),
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 8, 3, rng=0)),
        lambda: nn.Sequential(_norm(np.zeros(1, np.float32))),
        lambda: nn.Sequential(_norm(np.zeros(8, np.float32)[::2])),
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, rng=0), nn.Sequential(Sums())),
        lambda: nn.Sequential(nn.Residual(nn.Sequential(Sums()))),
        lambda: Mine(nn.Conv2d(4, 8, 3, rng=0)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(252, 3, rng=0, dtype=np.float64)),
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, rng=0, dtype=np.float64)),
    ],
)
def test_what_is_not_known_is_never_played(make: Callable[[], nn.Sequential]) -> None:
    model = make().eval()
    for seed in range(6):
        x = batch(seed=seed)
        np.testing.assert_array_equal(model(x), make().eval()(x))
    assert not tapes(model)


def test_a_layer_that_does_some_of_its_work_in_numpy_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: np.maximum(x, 0))
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(252, 3, rng=0)).eval()
    for seed in range(6):
        model(batch(seed=seed))
    assert not tapes(model)


def test_batches_that_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small(), batch()
    for other in (np.asfortranarray(x), x.astype(np.float16), x[:, :, ::-1], x.tolist(), x[:0], batch((1100, 4, 7, 9))):
        assert replay._key(other) is None
    monkeypatch.setattr(replay, "BYTES", 1000)
    for _ in range(6):
        model(x)
    assert not tapes(model)


def test_few_tapes_are_kept() -> None:
    model = nn.Sequential(nn.ReLU(), nn.ReLU()).eval()
    for size in range(1, 4 * replay.KINDS):
        for _ in range(4):
            model(batch((size, 4, 2, 2)))
        assert len(model._tapes._kinds) <= replay.KINDS
    assert tapes(model)


def test_copies_have_no_tapes() -> None:
    model, x = small(), batch()
    y = played(model, x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not tapes(other)
        other[13].bias.data += 1
        assert alike(played(other, x), by_layers(other, x))
    assert alike(model(x), y)
    model.train()(batch((2, 4, 7, 9)))
    assert not model._tapes._kinds


def test_a_training_ends_no_other_models_tapes() -> None:
    model, other, x = small(), small(), batch()
    trainer, images = nn.Trainer(other, nn.Adam(lr=0.1)), batch((8, 4, 7, 9))
    trainer.step(images, np.zeros(8, np.int64))
    played(model, x)
    before = changes()
    trainer.step(images, np.zeros(8, np.int64))
    trainer.evaluate(images, np.zeros(8, np.int64))
    assert changes() == before
    model(x)
    assert model._replayed is not None


def test_a_model_inside_another_makes_no_tapes_of_its_own() -> None:
    inner = nn.Sequential(nn.Conv2d(4, 8, 3, rng=0), nn.ReLU())
    model = nn.Sequential(inner, nn.Flatten()).eval()
    played(model, batch())
    assert not inner._tapes._kinds
    played(inner, batch())


def test_threads_have_tapes_of_their_own() -> None:
    model = small()
    inputs = [batch(seed=seed) for seed in range(4)]
    wanted = [by_layers(model, x).tobytes() for x in inputs]

    def check(thread: int) -> bool:
        right = [
            model(inputs[thread]).tobytes() == wanted[thread] for _ in range(8 if numba.config.DISABLE_JIT else 400)
        ]
        return all(right) and (threading.get_ident() in [key[2] for key in model._tapes._kinds])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(check, range(4)))
    assert 1 <= len(tapes(model)) <= 4


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such timers on Windows")
def test_a_signals_handler_may_run_the_model() -> None:
    model, x, other = small(), batch(), batch(seed=1)
    wanted, nested = played(model, x), by_layers(model, other)
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(model(other)))
    try:
        for delay in range(1, 200):
            signal.setitimer(signal.ITIMER_REAL, delay * 1e-6)
            assert alike(model(x), wanted)
            while len(seen) < delay:
                assert alike(model(x), wanted)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(alike(y, nested) for y in seen)
