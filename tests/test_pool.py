"""The memory of layers is used again, and never while somebody holds it."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from typing import Any

import numpy as np
import pytest

import numbaconv
from numbaconv import memory, nn
from numbaconv.arrays import CACHE_LINE
from numbaconv.memory import Pool, fresh, recycling

SHAPE, DTYPE = (64, 1024), np.dtype(np.float32)


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_that_nobody_holds_is_used_again() -> None:
    pool = Pool()
    first = pool.empty(SHAPE, DTYPE)
    here = address(first)
    second = pool.empty(SHAPE, DTYPE)
    assert address(second) != here
    del first
    third = pool.empty((1024, 32), np.dtype(np.float64))  # as many bytes
    assert address(third) == here
    assert third.flags.c_contiguous
    assert third.flags.writeable
    assert here % CACHE_LINE == 0


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array[3:, ::2],
        lambda array: array.reshape(-1).view(np.int32)[5:9],
        lambda array: array.T,
        lambda array: np.asarray(memoryview(array)),
        lambda array: np.lib.stride_tricks.as_strided(array, (2, 2), (4, 4)),
        lambda array: iter(array),
        lambda array: [array.base],
    ],
)
def test_memory_that_somebody_holds_is_not_used_again(hold: Any) -> None:
    pool = Pool()
    array = pool.empty(SHAPE, DTYPE)
    here, held = address(array), hold(array)
    del array
    gc.collect()
    assert address(pool.empty(SHAPE, DTYPE)) != here
    del held
    gc.collect()
    assert address(pool.empty(SHAPE, DTYPE)) == here


def test_small_arrays_and_other_contexts_have_memory_of_their_own() -> None:
    pool = Pool()
    assert pool.empty((Pool.least // 4 - 1,), DTYPE).base is None
    assert pool.empty((0, 1 << 40), DTYPE).shape == (0, 1 << 40)
    here = address(pool.empty(SHAPE, DTYPE))
    with recycling(pool):
        assert address(fresh(SHAPE, DTYPE)) == here
        with recycling(Pool()):
            assert address(fresh(SHAPE, DTYPE)) != here
        assert address(fresh(SHAPE, DTYPE)) == here
    assert address(fresh(SHAPE, DTYPE)) != here


def test_threads_have_their_own() -> None:
    pool, found = Pool(), []
    here = address(pool.empty(SHAPE, DTYPE))

    def other() -> None:
        array = pool.empty(SHAPE, DTYPE)
        found.append(address(array))

    with recycling(pool):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found != [here]


def test_clear_gives_back_what_is_free() -> None:
    pool = Pool()
    held, free = pool.empty(SHAPE, DTYPE), pool.empty(SHAPE, DTYPE)
    del free
    pool.clear()
    assert [len(pieces) for pieces in pool._pieces.values()] == [1]
    assert held.shape == SHAPE


def test_memory_is_given_back_before_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    pool.empty(SHAPE, DTYPE)
    aligned, calls = memory.aligned, []

    def first_fails(*arguments: Any) -> np.ndarray:
        calls.append(len(pool._pieces[pool_size]))
        if len(calls) == 1:
            raise MemoryError
        return aligned(*arguments)

    pool_size = np.prod(SHAPE) * DTYPE.itemsize
    monkeypatch.setattr(memory, "aligned", first_fails)
    other = pool.empty((2, *SHAPE), DTYPE)
    assert calls == [1, 0]
    assert other.shape == (2, *SHAPE)


def test_copies_of_a_pool_are_empty() -> None:
    pool = Pool()
    pool.empty(SHAPE, DTYPE)
    for other in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert not other._pieces


def model() -> nn.Sequential:
    conv, linear = nn.Conv2d(1, 32, 3, padding=1, rng=0), nn.Linear(32, 3, rng=1)
    return nn.Sequential(conv, nn.ReLU(), nn.GlobalAvgPool2d(), linear)


def test_a_training_takes_its_memory_once() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 1, 16, 16), np.float32), rng.integers(0, 3, 16)
    trainer = nn.Trainer(model(), nn.SGD(lr=0.1))

    def taken() -> dict[int, int]:
        return {size: len(pieces) for size, pieces in trainer._pool._pieces.items()}

    for _ in range(2):
        trainer.step(x, y)
    before = taken()
    assert before
    trainer._steps._times = 10**9  # by layers
    for _ in range(3):
        trainer.step(x, y)
    assert taken() == before
    trainer._steps._times = 0  # from a tape, which has memory of its own
    for _ in range(3):
        trainer.step(x, y)
    assert trainer._steps._tape is not None
    assert trainer._steps._tape.tried
    assert not sum(taken().values())
    size = trainer._steps._tape.memory.nbytes()
    trainer.step(x, y)
    assert size == trainer._steps._tape.memory.nbytes()


def test_predictions_stay_what_they_were() -> None:
    rng = np.random.default_rng(1)
    images = [rng.standard_normal((4, 1, 64, 64), np.float32) for _ in range(3)]
    whole = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, rng=0))
    trainer = nn.Trainer(whole, nn.SGD(lr=0.1))
    found = [trainer.predict(x) for x in images]
    for x, y in zip(images, found, strict=True):
        assert np.array_equal(y, whole.eval()(x))


# --- models that are run by hand --------------------------------------------------------------------------------------


def deep(seed: int = 0) -> nn.Sequential:
    """Blocks and models within a model, all of whose images are large enough for a pool."""
    options: Any = {"padding": 1, "rng": seed}
    inside = nn.Sequential(nn.Conv2d(16, 16, 3, **options), nn.BatchNorm2d(16), nn.ReLU())
    path = nn.Sequential(nn.Conv2d(16, 16, 3, **options), nn.BatchNorm2d(16))
    front = nn.Sequential(nn.Conv2d(3, 16, 3, **options), nn.ReLU())
    return nn.Sequential(front, nn.Residual(path), nn.ReLU(), inside, nn.Conv2d(16, 16, 3, **options))


def images(seed: int = 0, count: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 24, 24), np.float32)


def pieces(model: nn.Sequential) -> set[int]:
    """Where the memory lies that a model takes for its arrays, in this thread."""
    return {address(piece) for found in model._pool._pieces.values() for piece in found}


def step(model: nn.Sequential, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y = model(x)
    return y, model.backward(np.sin(y))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_passes_by_hand_take_their_memory_once(mode: str) -> None:
    model = getattr(deep(), mode)()
    for _ in range(3):
        step(model, images())
    before = pieces(model)
    assert before
    for seed in range(4):
        step(model, images(seed))
        assert pieces(model) == before
    assert not any(pieces(each) for each in model.modules() if isinstance(each, nn.Sequential) and each is not model)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_what_a_user_holds_of_passes_by_hand_stays(mode: str) -> None:
    model = getattr(deep(), mode)()
    held: list[np.ndarray] = []
    for seed in range(4):
        x = images(seed)
        y, grad = step(model, x)
        inner = model[0](x)  # a model within it, by itself
        held += [x, y, grad, inner, y[1:, ::2], model[1](inner), *(p.grad for p in model.parameters())]
        model.zero_grad()
    kept = [array.copy() for array in held]
    for seed in range(4):
        step(model, images(10 + seed))
        model[0](images(seed))
    model.train(mode == "eval")
    step(model, images())
    for array, copied in zip(held, kept, strict=True):
        assert array.tobytes() == copied.tobytes()
    roots = [array if array.base is None else array.base for array in held]
    assert len({id(root) for root in roots}) >= len(held) - 8  # none but views share memory


def test_what_was_given_back_is_used_again() -> None:
    model = deep().eval()
    x = np.concatenate([images()] * 40)  # too large for a tape
    y = model(x)
    for _ in range(2):
        other = model(x)
    before = pieces(model)
    assert {address(y), address(other)} <= before
    assert address(other) != address(y)
    del y, other
    y, other = model(x), model(x)
    assert pieces(model) == before
    assert {address(y), address(other)} <= before


def test_two_threads_that_run_a_model_have_memory_of_their_own() -> None:
    model, others = deep().eval(), [deep().eval() for _ in range(2)]
    wanted = [other(images(seed, 40)) for seed, other in enumerate(others)]
    found: list[list[np.ndarray]] = [[], []]
    barrier = threading.Barrier(2)

    def run(number: int) -> None:
        barrier.wait()
        for _ in range(12):
            found[number].append(model(images(number, 40)))
            if len(found[number]) > 3:
                found[number].pop(0)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(outputs) for outputs in found] == [3, 3]
    for outputs, right in zip(found, wanted, strict=True):
        assert all(y.tobytes() == right.tobytes() for y in outputs)
    assert len({address(y) for outputs in found for y in outputs}) == 6


def test_an_array_may_outlive_its_thread_and_its_model() -> None:
    model, found = deep(), []

    def run(model: nn.Sequential) -> None:
        found.extend(step(model, images()))

    thread = threading.Thread(target=run, args=(model,))
    thread.start()
    thread.join()
    assert not pieces(model)
    kept = [array.copy() for array in found]
    step(model, images(1))
    del model
    gc.collect()
    step(deep(1), images(1))
    assert [array.tobytes() for array in found] == [array.tobytes() for array in kept]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_model_hold_none_of_its_memory(copied: Any) -> None:
    model = deep()
    step(model, images())
    size = len(pickle.dumps(deep()))
    assert pieces(model)
    model.eval()(images(0, 40))
    assert len(pickle.dumps(model.train())) < 2 * size + 100_000
    model(images())
    other = copied(model)
    assert other._pool is not model._pool
    assert not other._pool._pieces
    other(images())
    assert pieces(other)
    assert not pieces(other) & pieces(model)


def test_another_mode_gives_back_what_nobody_holds() -> None:
    model, x = deep(), images(0, 8)
    y, grad = step(model, x)
    held = y.copy(), grad.copy()
    for mode in ("eval", "train", "eval", "train"):
        getattr(model, mode)()
        wanted = copy.deepcopy(model)(x)
        assert model(x).tobytes() == wanted.tobytes()
        assert address(y) in pieces(model)
    for module in reversed(list(model.modules())):
        module._forget()
    assert pieces(model) == {address(y)}
    assert (y.tobytes(), grad.tobytes()) == (held[0].tobytes(), held[1].tobytes())


def test_a_trainers_pool_goes_before_a_models() -> None:
    model, x = nn.Sequential(deep(), nn.GlobalAvgPool2d(), nn.Linear(16, 3, rng=0)), images()
    trainer = nn.Trainer(model, nn.SGD(lr=0.1))
    trainer._steps._times = 10**9  # by layers
    for _ in range(2):
        trainer.step(x, np.zeros(len(x), np.int64))
    assert any(trainer._pool._pieces.values())
    assert not any(pieces(each) for each in model.modules() if isinstance(each, nn.Sequential))
    with recycling(Pool()):
        model(x)
    assert not pieces(model)
    model(x)
    assert pieces(model)


def test_a_pass_that_fails_leaves_no_pool_behind() -> None:
    model = deep()
    with pytest.raises(ValueError, match="channels"):
        model(np.zeros((2, 4, 24, 24), np.float32))
    assert memory._current.pool is None
    array = fresh(SHAPE, DTYPE)
    assert address(array) not in pieces(model)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_large_results_begin_at_a_cache_line(layout: Any) -> None:
    shape = (2, 32, 32, 32)
    x, w = np.zeros(shape, DTYPE), np.zeros((32, 32, 24, 24) if layout == "NCHW" else (32, 24, 24, 32), DTYPE)
    y = numbaconv.conv2d(x, w, padding="same", layout=layout)
    results = [
        y,
        numbaconv.conv_transpose2d(x, w, layout=layout),
        numbaconv.conv2d_input(shape, w, y, padding="same", layout=layout),
        numbaconv.conv2d_weight(x, w.shape, y, padding="same", layout=layout),
        *numbaconv.conv2d_backward(y, x, w, padding="same", layout=layout)[:2],
        numbaconv.conv2d_backward(y, x.transpose(0, 2, 3, 1), w, padding="same", layout=layout)[0],
        fresh(SHAPE, DTYPE),
    ]
    assert [address(array) % CACHE_LINE for array in results if array is not None] == [0] * len(results)
