"""Residual blocks whose gradients are summed where the block before reads them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import pytest
from cases import everything_in_parallel
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nn_normed import backward_one_by_one, count_calls, forward_one_by_one, random_like, results

import numbaconv
from numbaconv import nn
from numbaconv.nn.layout import in_layout

#: Channels of all images, and a batch of them.
C = 16
SHAPE = 3, C, 9, 11
#: Rounding errors of sums in another order, relative to the largest number.
ERRORS = {"float32": 2e-4, "float64": 1e-12}


def conv(dtype: str, taps: int = 3, seed: int = 0) -> nn.Conv2d:
    return nn.Conv2d(C, C, taps, padding="same", bias=False, dtype=dtype, rng=seed)


def path(dtype: str, seed: int = 0) -> nn.Sequential:
    """The main path of a usual block; its norms are not as they are at first."""
    layers = conv(dtype, 3, seed), nn.BatchNorm2d(C, dtype=dtype), nn.ReLU(), conv(dtype, 3, seed + 1)
    main = nn.Sequential(*layers, nn.BatchNorm2d(C, dtype=dtype))
    for parameter in (*main[1].parameters(), *main[4].parameters()):
        parameter.data += np.random.default_rng(seed).uniform(-0.5, 0.5, C)
    return main


def projection(dtype: str, norm: bool = True) -> nn.Sequential:
    """A shortcut that convolves."""
    return nn.Sequential(conv(dtype, 1, 7), *[nn.BatchNorm2d(C, dtype=dtype)] * norm)


#: Blocks of all kinds, for a dtype.
BLOCKS: dict[str, Callable[[str], nn.Residual]] = {
    "usual": lambda d: nn.Residual(path(d)),
    "shortcut": lambda d: nn.Residual(path(d), projection(d)),
    "a single convolution as a shortcut": lambda d: nn.Residual(path(d), conv(d, 1, 5)),
    "only a norm": lambda d: nn.Residual(nn.Sequential(nn.BatchNorm2d(C, dtype=d))),
    "no norm at the end": lambda d: nn.Residual(nn.Sequential(conv(d), nn.ReLU(), conv(d, 3, 1)), projection(d, False)),
    "one convolution": lambda d: nn.Residual(conv(d)),
    "no parameters": lambda d: nn.Residual(nn.AvgPool2d(3, 1, 1)),
    "a path of several blocks": lambda d: nn.Residual(
        nn.Sequential(nn.Residual(path(d, 2)), nn.ReLU(), nn.Residual(path(d, 4)), nn.Residual(conv(d)))
    ),
    "blocks within a path that ends in a norm": lambda d: nn.Residual(
        nn.Sequential(nn.Residual(path(d, 2), projection(d)), nn.ReLU(), conv(d), nn.BatchNorm2d(C, dtype=d))
    ),
    "a block in a block": lambda d: nn.Residual(nn.Residual(path(d, 6))),
    "blocks on both paths": lambda d: nn.Residual(
        nn.Sequential(nn.Residual(path(d)), nn.ReLU()), nn.Sequential(nn.Residual(conv(d)), nn.Residual(path(d, 3)))
    ),
}


def chain(kinds: Sequence[tuple[str, bool]], dtype: str, first: bool = True, last: bool = True) -> nn.Sequential:
    """Blocks, each maybe with a ReLU behind it, and maybe a convolution in front of them and one behind."""
    layers: list[nn.Module] = [conv(dtype, 3, 8)] * first
    for kind, relu in kinds:
        layers += [BLOCKS[kind](dtype), *[nn.ReLU()] * relu]
    return nn.Sequential(*layers, *[conv(dtype, 1, 9)] * last)


def batch(dtype: str, layout: Any = "NCHW", seed: int = 0) -> np.ndarray:
    return in_layout(np.random.default_rng(seed).standard_normal(SHAPE).astype(dtype), layout)


# --- by hand ----------------------------------------------------------------------------------------------------------


def forward_by_hand(module: nn.Module, x: np.ndarray) -> np.ndarray:
    """What a model gives, by nothing but its innermost layers."""
    if isinstance(module, nn.Sequential):
        for layer in module:
            x = forward_by_hand(layer, x)
        return x
    if isinstance(module, nn.Residual):
        return forward_by_hand(module.main, x) + (x if module.shortcut is None else forward_by_hand(module.shortcut, x))
    return module.forward(x)


def backward_by_hand(module: nn.Module, grad: np.ndarray) -> np.ndarray:
    """The chain rule, in the same way."""
    if isinstance(module, nn.Sequential):
        for layer in reversed(list(module)):
            grad = backward_by_hand(layer, grad)
        return grad
    if isinstance(module, nn.Residual):
        shortcut = grad if module.shortcut is None else backward_by_hand(module.shortcut, grad)
        return backward_by_hand(module.main, grad) + shortcut
    return module.backward(grad)


def forward_blockwise(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """Block by block, each of which runs its ReLU as the model would let it run it."""
    layers = list(model)
    for layer, behind in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Residual):
            x = layer.forward(x, relu=isinstance(behind, nn.ReLU))
        elif not isinstance(layer, nn.ReLU):
            x = layer.forward(x)
    return x


def backward_blockwise(model: nn.Sequential, grad: np.ndarray) -> np.ndarray:
    """The same way back: a block gets, and gives, a whole gradient."""
    for layer in reversed([layer for layer in model if not isinstance(layer, nn.ReLU)]):
        grad = layer.backward(grad)
    return grad


def left_by(model: nn.Sequential, x: np.ndarray, forward: Any, backward: Any) -> dict[str, np.ndarray]:
    """What passes leave that go this way, in a copy of a model."""
    model = copy.deepcopy(model)
    y = forward(model, x)
    return results(model, y, backward(model, random_like(y)))


def assert_right(model: nn.Sequential, x: np.ndarray) -> None:
    """The same bits as block by block, and but for the order of sums what comes out by hand."""
    got = left_by(model, x, lambda model, x: model(x), lambda model, grad: model.backward(grad))
    for name, wanted in left_by(model, x, forward_blockwise, backward_blockwise).items():
        assert got[name].tobytes() == wanted.tobytes(), name
        assert got[name].strides == wanted.strides, name
    for ways in ((forward_by_hand, backward_by_hand), (forward_one_by_one, backward_one_by_one)):
        for name, wanted in left_by(model, x, *ways).items():
            largest = np.abs(wanted).max(initial=1)
            np.testing.assert_allclose(
                got[name], wanted, rtol=0, atol=ERRORS[x.dtype.name] * largest, err_msg=name
            )  # fmt: skip


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("kind", BLOCKS)
def test_chains_of_equal_blocks(kind: str, relu: bool, dtype: str) -> None:
    for layout in ("NCHW", "NHWC"):
        assert_right(chain([(kind, relu)] * 3, dtype), batch(dtype, layout))


LINKS = st.lists(st.tuples(st.sampled_from(sorted(BLOCKS)), st.booleans()), min_size=1, max_size=4)


@pytest.mark.compiled
@settings(max_examples=40, deadline=None, derandomize=True)
@given(kinds=LINKS, first=st.booleans(), last=st.booleans(), layout=st.sampled_from(["NCHW", "NHWC"]))
def test_any_chain(kinds: list[tuple[str, bool]], first: bool, last: bool, layout: str) -> None:
    numbaconv.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
    with everything_in_parallel():
        assert_right(chain(kinds, "float64", first, last), batch("float64", layout))


@pytest.mark.compiled
def test_chains_with_winograds_algorithm() -> None:
    numbaconv.set_algorithm("auto")
    try:
        for kinds in ([("usual", True)] * 3, [("shortcut", True), ("usual", True), ("blocks on both paths", False)]):
            assert_right(chain(kinds, "float64"), batch("float64"))
    finally:
        numbaconv.set_algorithm("direct")


def test_a_small_chain() -> None:
    """Few enough pixels for plain Python, too."""
    model = nn.Sequential(
        nn.Residual(nn.Sequential(nn.BatchNorm2d(3, dtype=np.float64))), nn.ReLU(),
        nn.Residual(nn.Conv2d(3, 3, 1, dtype=np.float64, rng=0)), nn.ReLU(), nn.Residual(nn.ReLU()),
    )  # fmt: skip
    assert_right(model, np.random.default_rng(0).standard_normal((2, 3, 3, 2)))


# --- what is unusual --------------------------------------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1), (0, 1, 2)], ids=str)
def test_a_backward_of_somebodys_own_is_called(which: tuple[int, ...], relu: bool) -> None:
    model, calls = chain([("usual", relu), ("shortcut", relu), ("usual", relu)], "float64"), list[str]()
    blocks = [layer for layer in model if isinstance(layer, nn.Residual)]
    for number in which:
        count_calls(blocks[number], "backward", calls)
        blocks[number].backward = double(blocks[number].backward)
    x, z = batch("float64"), random_like(np.empty(SHAPE))
    y = model(x)
    got = results(model, y, model.backward(z))
    assert calls == ["Residual.backward"] * len(which)

    other, grad = chain([("usual", relu), ("shortcut", relu), ("usual", relu)], "float64"), z
    y = forward_one_by_one(other, x)
    numbers = {id(block): n for n, block in enumerate(layer for layer in other if isinstance(layer, nn.Residual))}
    for layer in reversed(list(other)):
        grad = layer.backward(grad) * (2 if numbers.get(id(layer)) in which else 1)
    for name, wanted in results(other, y, grad).items():
        np.testing.assert_allclose(got[name], wanted, rtol=0, atol=1e-11 * np.abs(wanted).max(), err_msg=name)


def double(backward: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda grad_output: 2 * backward(grad_output)


class Doubled(nn.Residual):
    """A block of somebody's own."""

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        return 2 * super().backward(grad_output)


@pytest.mark.compiled
def test_a_block_of_somebodys_own() -> None:
    def model() -> nn.Sequential:
        blocks = nn.Residual(path("float64")), nn.ReLU(), Doubled(path("float64", 3)), nn.ReLU()
        return nn.Sequential(conv("float64"), *blocks, nn.Residual(path("float64", 5), projection("float64")))

    ours, others, x = model(), model(), batch("float64")
    y = ours(x)
    got = results(ours, y, ours.backward(random_like(y)))
    y = forward_one_by_one(others, x)
    for name, wanted in results(others, y, backward_one_by_one(others, random_like(y))).items():
        np.testing.assert_allclose(got[name], wanted, rtol=0, atol=1e-11 * np.abs(wanted).max(), err_msg=name)


#: Parts of a usual block.
PARTS: dict[str, Callable[[Any], nn.Module]] = {
    "first convolution": lambda block: block.main[0],
    "first norm": lambda block: block.main[1],
    "last convolution": lambda block: block.main[3],
    "last norm": lambda block: block.main[4],
    "main path": lambda block: block.main,
    "shortcut": lambda block: block.shortcut,
}


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["forward", "backward"])
@pytest.mark.parametrize("part", PARTS)
def test_methods_of_somebodys_own_within_a_block_are_called(part: str, name: str) -> None:
    kinds = [("shortcut", True), ("shortcut", False)]
    model, calls = chain(kinds, "float64"), list[str]()
    for block in (model[1], model[3]):
        count_calls(PARTS[part](block), name, calls)
    y = model(batch("float64"))
    got = results(model, y, model.backward(random_like(y)))
    assert len(calls) == 2
    other = chain(kinds, "float64")
    y = forward_one_by_one(other, batch("float64"))
    for key, wanted in results(other, y, backward_one_by_one(other, random_like(y))).items():
        np.testing.assert_allclose(got[key], wanted, rtol=0, atol=1e-11 * np.abs(wanted).max(), err_msg=key)


@pytest.mark.compiled
def test_each_block_can_go_back_by_itself() -> None:
    model = chain([("usual", True), ("shortcut", True), ("one convolution", False)], "float64")
    wanted = left_by(model, batch("float64"), forward_blockwise, backward_blockwise)
    y = model(batch("float64"))
    got = results(model, y, backward_blockwise(model, random_like(y)))
    for name, array in got.items():
        assert array.tobytes() == wanted[name].tobytes(), name


@pytest.mark.compiled
@pytest.mark.parametrize("relu", [True, False])
def test_paths_whose_gradients_are_of_different_dtypes(relu: bool) -> None:
    mixed = nn.Residual(conv("float32"), conv("float64", 1, 1))
    model = nn.Sequential(nn.Residual(path("float32")), *[nn.ReLU()] * relu, mixed)
    assert_same_bits_blockwise(model, batch("float32"))


def assert_same_bits_blockwise(model: nn.Sequential, x: np.ndarray) -> None:
    got = left_by(model, x, lambda model, x: model(x), lambda model, grad: model.backward(grad))
    for name, wanted in left_by(model, x, forward_blockwise, backward_blockwise).items():
        assert got[name].dtype == wanted.dtype, name
        assert got[name].tobytes() == wanted.tobytes(), name


@pytest.mark.compiled
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gradients_that_are_not_finite(value: float) -> None:
    model, x = chain([("usual", True), ("usual", True)], "float32"), batch("float32")
    found = []
    for forward, backward in (
        (lambda model, x: model(x), lambda model, grad: model.backward(grad)),
        (forward_blockwise, backward_blockwise),
    ):
        each = copy.deepcopy(model)
        y = forward(each, x)
        z = random_like(y)
        z[1, 2, 3, 4] = value
        found.append(results(each, y, backward(each, z)))
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name], err_msg=name)


class Cut(nn.Module):
    """A layer whose gradient is smaller than what it took."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        return grad_output[:, :, :3].copy()


@pytest.mark.parametrize("paths", [(Cut(), nn.ReLU()), (nn.ReLU(), Cut())], ids=["main", "shortcut"])
@pytest.mark.parametrize("front", ["norm", "sum", "layer", "nothing"])
def test_gradients_of_different_shapes_are_refused(front: str, paths: tuple[nn.Module, nn.Module]) -> None:
    fronts: dict[str, list[nn.Module]] = {
        "norm": [nn.Residual(nn.Sequential(nn.BatchNorm2d(3))), nn.ReLU()], "sum": [nn.Residual(nn.ReLU())],
        "layer": [nn.BatchNorm2d(3)], "nothing": [],
    }  # fmt: skip
    model = nn.Sequential(*fronts[front], nn.Residual(*paths))
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    for backward in (nn.Sequential.backward, backward_blockwise):
        y = forward_blockwise(model, x)
        model(x)
        with pytest.raises(ValueError, match=r"must be alike to be added|grad_output has shape"):
            backward(model, np.ones_like(y))


@pytest.mark.parametrize("without", ["main", "shortcut"])
def test_a_path_without_a_gradient_is_refused(without: str) -> None:
    block = nn.Residual(nn.Conv2d(3, 3, 1, rng=0), nn.Conv2d(3, 3, 1, rng=1))
    getattr(block, without).require_input_grad(False)
    model = nn.Sequential(nn.Conv2d(3, 3, 1, rng=2), block)
    y = model(np.ones((2, 3, 4, 5), np.float32))
    for backward in (model.backward, block.backward):
        with pytest.raises(ValueError, match="one path gives a gradient, and the other none"):
            backward(np.ones_like(y))


def test_no_gradient_where_nobody_needs_it() -> None:
    block = nn.Residual(nn.Conv2d(3, 3, 1, rng=0), nn.Conv2d(3, 3, 1, rng=1))
    block.main.require_input_grad(False)
    block.shortcut.require_input_grad(False)
    model = nn.Sequential(block)
    y = model(np.ones((2, 3, 4, 5), np.float32))
    assert model.backward(np.ones_like(y)) is block.backward(np.ones_like(y)) is None
    assert all(parameter.grad is not None for parameter in model.parameters())
