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
