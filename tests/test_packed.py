"""Weights that are packed ahead of time: the same results, and nothing is packed twice."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
from cases import FORMS, WINOGRAD, assert_right, everything_in_parallel, expected, only, random_cases, run

import numbaconv
from numbaconv import conv2d, packed, prepack
from numbaconv.jit import Kernel
from numbaconv.plan import winograd

INTERPRETED = bool(numba.config.DISABLE_JIT)
#: All but the one that transforms weights where they are used, which has nothing to hold.
HELD = [form for form in FORMS if form != "winograd by blocks"]


def packing(weights: dict[int, packed.PackedWeight]) -> Any:
    """The functions as :func:`cases.run` calls them, every array of weights packed once."""

    def hold(weight: np.ndarray) -> packed.PackedWeight:
        return weights.setdefault(id(weight), prepack(weight))

    return SimpleNamespace(
        conv2d=lambda x, w, *rest, **how: conv2d(x, hold(w), *rest, **how),
        conv2d_backward=lambda z, x, w, **how: numbaconv.conv2d_backward(z, x, hold(w), **how),
        conv_transpose2d=lambda x, w, *rest, **how: numbaconv.conv_transpose2d(x, hold(w), *rest, **how),
    )


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The stages of kernels that were run, by the calls that ran them."""
    run: list[tuple[int, ...]] = []
    serial = Kernel.serial

    def spy(kernel: Kernel, stages: range, *arguments: Any) -> None:
        run.append(tuple(stages))
        serial(kernel, stages, *arguments)

    monkeypatch.setattr(Kernel, "serial", spy)
    return run


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("form", HELD)
def test_the_same_bits_as_of_an_array(form: str) -> None:
    for case in random_cases(90, 5 if INTERPRETED else 60, 10_000, form=form):
        arrays = case.arrays()
        with only(form):
            wanted = run(numbaconv, case, arrays)
            weights: dict[int, packed.PackedWeight] = {}
            for _ in range(2):  # the second time, everything is held
                got = run(packing(weights), case, arrays)
                # Winograd's tiles may be of another size once the transform of the weight is free
                assert form in WINOGRAD or all(map(same, got, wanted)), case
        assert_right(form, got, expected(case, arrays), arrays, case)


@pytest.mark.parametrize("form", HELD)
def test_by_two_threads(form: str) -> None:
    for case in random_cases(91, 2 if INTERPRETED else 15, 10_000, form=form):
        arrays = case.arrays()
        with only(form):
            wanted = run(packing({}), case, arrays)
            with everything_in_parallel():
                weights: dict[int, packed.PackedWeight] = {}
                for _ in range(2):
                    assert all(map(same, run(packing(weights), case, arrays), wanted)), case


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_a_kind_of_call_packs_once(algorithm: Any, stages: list[tuple[int, ...]]) -> None:
    weight, x = prepack(normal(20, 8, 3, 3)), normal(1, 8, 9, 9)
    for _ in range(3):
        conv2d(x, weight, algorithm=algorithm)
    assert stages == [(0,), (1,), (1,), (1,)]
    conv2d(normal(2, 8, 9, 9), weight, algorithm=algorithm)  # another kind
    conv2d(x, weight, normal(20), algorithm=algorithm)  # a bias is none
    assert stages[4:] == [(0,), (1,), (1,)]


def test_what_is_held_is_counted_and_limited(stages: list[tuple[int, ...]]) -> None:
    weight = prepack(normal(16, 4, 3, 3))
    alone = weight.nbytes
    assert alone == 4 * 16 * 4 * 9
    sizes = []
    for size in range(5, 5 + 2 * packed.KINDS):
        conv2d(normal(1, 4, size, size), weight, algorithm="direct")
        sizes.append(weight.nbytes)
    assert alone < sizes[0] < sizes[packed.KINDS - 1]
    assert max(sizes) <= sizes[packed.KINDS - 1] * 1.5
    before = len(stages)
    conv2d(normal(1, 4, size, size), weight, algorithm="direct")  # the newest is still held
    assert stages[before:] == [(1,)]
    conv2d(normal(1, 4, 5, 5), weight, algorithm="direct")  # the oldest is not
    assert stages[before + 1 :] == [(0,), (1,)]


def test_it_is_a_copy() -> None:
    array, x = normal(4, 3, 3, 3), normal(1, 3, 8, 8)
    wanted = conv2d(x, array)
    weight = prepack(array)
    array[...] = np.nan
    assert same(conv2d(x, weight), wanted)
    assert not np.shares_memory(array, np.asarray(weight))
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(weight)[...] = 0


@pytest.mark.parametrize("dtype", [np.float16, ">f4", np.float64])
def test_other_dtypes(dtype: Any) -> None:
    array = normal(4, 3, 3, 3).astype(dtype)
    weight = prepack(array)
    assert weight.shape == array.shape
    assert weight.dtype == array.dtype.newbyteorder("=")
    for x in (normal(1, 3, 8, 8), normal(1, 3, 8, 8).astype(np.float64), normal(1, 3, 8, 8).astype(np.float16)):
        for _ in range(2):
            assert same(conv2d(x, weight), conv2d(x, array))


def test_both_layouts_and_any_strides() -> None:
    array = normal(4, 4, 4, 4)[:, ::-1]
    weight = prepack(array)
    x = normal(2, 4, 9, 4)
    for layout in ("NCHW", "NHWC", "NCHW"):
        image = x.transpose(0, 3, 1, 2) if layout == "NCHW" else x
        assert same(conv2d(image, weight, layout=layout), conv2d(image, array, layout=layout))  # type: ignore[arg-type]


def test_numbers_that_are_not_finite_go_where_they_go_with_an_array() -> None:
    array = normal(4, 3, 3, 3)
    array[1, 2, 0, 0] = np.inf
    x = normal(1, 3, 6, 6)
    wanted = conv2d(x, array, padding=1)
    assert np.isfinite(wanted[0, [0, 2, 3]]).all()
    weight = prepack(array)
    for _ in range(2):
        assert same(conv2d(x, weight, padding=1), wanted)


def test_a_weight_that_is_not_finite_and_that_is_larger_than_the_image() -> None:
    """Whoever asks for Winograd's algorithm gets it, and every image is transformed anew."""
    array = normal(64, 8, 3, 3)
    array[0, 0, 0, 0] = np.inf
    weight = prepack(array)
    for seed in range(3):
        x = normal(1, 8, 7, 7, seed=seed)
        got = conv2d(x, weight, padding=1, algorithm="winograd")
        wanted = conv2d(x, np.asarray(weight)[1:], padding=1, algorithm="direct")
        np.testing.assert_allclose(got[:, 1:], wanted, atol=1e-4)


def test_auto_knows_that_transforms_are_free() -> None:
    """A transform of many weights for few tiles is not worth it, unless it is there already."""
    sizes = product((8, 16, 32, 64, 128, 256), (3, 4, 5, 6))
    channels, size = next((channels, size) for channels, size in sizes if is_worth_it(channels, size))
    weight, x = normal(channels, channels, 3, 3), normal(1, channels, size, size)
    held = prepack(weight)
    numbaconv.set_algorithm("auto")
    try:
        conv2d(x, held, padding=1)
        got, unlike = conv2d(x, held, padding=1), conv2d(x, weight, padding=1)
    finally:
        numbaconv.set_algorithm("direct")
    assert not same(got, unlike)
    wanted = conv2d(x, weight, padding=1, algorithm="direct")
    np.testing.assert_allclose(got, wanted, atol=2e-5 * abs(wanted).max())


def is_worth_it(channels: int, size: int) -> bool:
    """Whether Winograd's algorithm is chosen for a packed weight only."""
    from numbaconv.geometry import Conv2dGeometry
    from numbaconv.plan import FORMS, forward_plan

    g = Conv2dGeometry.forward((1, channels, size, size), (channels, channels, 3, 3), padding=1)
    plans = [forward_plan(g, np.dtype(np.float32), "NCHW", "NCHW", FORMS["auto"], held) for held in (False, True)]
    names = [plan.kernel.name for plan in plans]
    return names[0] != names[1] == "correlate_winograd"


def test_it_never_holds_what_depends_on_the_image() -> None:
    from numbaconv.geometry import Conv2dGeometry
    from numbaconv.plan import FORMS, forward_plan

    g = Conv2dGeometry.forward((1, 64, 4, 4), (64, 64, 3, 3), padding=1)
    plans = [forward_plan(g, np.dtype(np.float32), "NCHW", "NCHW", FORMS["winograd"], held) for held in (False, True)]
    by_blocks = [int(plan.numbers.view(winograd.WINOGRAD)[0]["by_blocks"]) for plan in plans]
    assert by_blocks == [1, 0]


def test_by_several_python_threads_at_once() -> None:
    array = normal(32, 16, 3, 3)
    images = [normal(1, 16, 6 + k % 5, 9, seed=k) for k in range(40)]
    wanted = [conv2d(x, prepack(array), padding=1, algorithm="winograd") for x in images]
    weight = prepack(array)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda x: conv2d(x, weight, padding=1, algorithm="winograd"), images))
    assert all(map(same, got, wanted))


def test_pickled_it_is_the_weight_alone() -> None:
    weight, x = prepack(normal(4, 3, 3, 3)), normal(1, 3, 8, 8)
    wanted = conv2d(x, weight)
    again = pickle.loads(pickle.dumps(weight))
    assert again.nbytes == 4 * 4 * 3 * 9 < weight.nbytes
    assert same(conv2d(x, again), wanted)


def test_how_it_shows_itself() -> None:
    weight = prepack(normal(4, 3, 3, 3))
    assert repr(weight) == "<PackedWeight of shape (4, 3, 3, 3) and dtype float32, 432 bytes>"
    assert same(np.asarray(weight), normal(4, 3, 3, 3))


@pytest.mark.parametrize("weight", [None, 1.0, [[1.0]], np.ones((1, 1, 3, 3), int), np.ma.ones((1, 1, 3, 3))])
def test_what_is_no_weight(weight: Any) -> None:
    with pytest.raises(TypeError, match=r"^weight "):
        prepack(weight)


def test_errors_are_those_of_arrays() -> None:
    weight, x = prepack(normal(4, 3, 3, 3)), normal(1, 2, 8, 8)
    with pytest.raises(ValueError, match="channels") as caught:
        conv2d(x, weight)
    with pytest.raises(ValueError, match="channels") as wanted:
        conv2d(x, np.asarray(weight))
    assert str(caught.value) == str(wanted.value)
    with pytest.raises(TypeError, match="input must be a"):
        conv2d(weight, weight)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weight must be a"):
        conv2d(x, [weight])  # type: ignore[arg-type]


def test_where_there_is_no_memory_for_it_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = prepack(normal(4, 3, 3, 3)), normal(1, 3, 8, 8)
    out = np.full((1, 4, 6, 6), 7, np.float32)

    def no(*arguments: Any) -> np.ndarray:
        raise MemoryError("the packed weight does not fit")

    with monkeypatch.context() as patch:
        patch.setattr(packed, "aligned", no)
        with pytest.raises(MemoryError, match="the packed weight"):
            conv2d(x, weight, out=out)
    assert (out == 7).all()
    assert same(conv2d(x, weight, out=out), conv2d(x, np.asarray(weight)))


def test_an_empty_batch() -> None:
    assert conv2d(normal(0, 3, 8, 8), prepack(normal(4, 3, 3, 3))).shape == (0, 4, 6, 6)
