"""A shortcut that the convolution before it adds gives, in evaluation, the bits of a sum that is made apart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from cases import everything_in_parallel
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nn_normed import chosen, count_calls, random_like, results, use_threads
from test_nn_pooled import launches

import numbaconv
from numbaconv import nn
from numbaconv.nn.folding import Folded
from numbaconv.nn.layout import in_layout

KERNEL = "correlate_winograd_summed"


class Shapes(NamedTuple):
    """Sizes of a residual block's images, and of the convolution at the end of its main path."""

    N: int
    C: int
    OC: int
    H: int
    W: int
    taps: int = 3
    pad: Any = 1
    dilation: Any = 1
    groups: int = 1
    bias: bool = False
    norm: bool = True
    relu: bool = True
    shortcut: bool = False  # whether it convolves; it must if numbers of channels differ
    dtype: str = "float32"

    def conv(self, seed: int = 0) -> nn.Conv2d:
        return nn.Conv2d(
            self.C, self.OC, self.taps, 1, self.pad, self.dilation, self.groups, self.bias, dtype=self.dtype, rng=seed
        )  # fmt: skip

    def model(self) -> nn.Sequential:
        """A block, and maybe a ReLU, whose statistics are not those at first."""
        norm = [nn.BatchNorm2d(self.OC, dtype=self.dtype)] * self.norm
        other = None
        if self.shortcut:  # as large as the main path's output
            other = nn.Sequential(self.conv(3), nn.BatchNorm2d(self.OC, dtype=self.dtype))
        path = nn.Sequential(nn.Conv2d(self.C, self.C, 1, dtype=self.dtype, rng=1), nn.ReLU(), self.conv(), *norm)
        model, rng = nn.Sequential(nn.Residual(path, other), *[nn.ReLU()] * self.relu), np.random.default_rng(self.W)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for array in (module.weight.data, module.bias.data, module.running_mean):
                    array[:] = rng.standard_normal(self.OC)
                module.running_var[:] = rng.uniform(0.5, 2, self.OC)
        return model.eval()

    def batch(self, seed: int = 0, layout: Any = "NHWC") -> np.ndarray:
        x = np.random.default_rng(seed).standard_normal((self.N, self.C, self.H, self.W)).astype(self.dtype)
        return in_layout(x, layout)


SMALL = Shapes(2, 16, 16, 9, 11)


@st.composite
def shapes_of_any_kind(draw: st.DrawFn) -> Shapes:
    """Mostly such as the kernel computes; rows of one strip and of several."""
    taps, dilation = draw(st.sampled_from([3, 3, 3, 5])), draw(st.sampled_from([1, 1, 1, 2, (1, 3), (4, 1)]))
    shortcut = draw(st.booleans())
    pad: Any = tuple((d * (taps // 2),) * 2 for d in (dilation if isinstance(dilation, tuple) else (dilation,) * 2))
    if shortcut:  # then images may grow or shrink
        extra = st.integers(-1, 2)
        pad = tuple((a + draw(extra), b + draw(extra)) for a, b in pad)
    C = draw(st.sampled_from([16, 16, 32, 48, 8, 10]))
    return Shapes(
        draw(st.integers(1, 5)), C, draw(st.sampled_from([16, 32, 64])) if shortcut else C, draw(st.integers(3, 19)),
        draw(st.integers(3, 19)) + draw(st.sampled_from([0, 0, 0, 60, 250])), taps, pad, dilation,
        draw(st.sampled_from([1, 1, 1, 1, 2])), draw(st.booleans()), draw(st.sampled_from([True, True, False])),
        draw(st.booleans()), shortcut, draw(st.sampled_from(["float32", "float64"])),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _auto() -> Iterator[None]:
    """With Winograd's algorithm, which other tests go without."""
    numbaconv.set_algorithm("auto")
    yield
    numbaconv.set_algorithm("direct")


def apart(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """What a model gives where no kernel adds, so that sums are swept over."""
    with mock.patch.object(Folded, "forward_sum", return_value=None):
        return model._forward(x, None)


def by_hand(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """The same from both paths, by NumPy."""
    block = model[0]
    y = block.main(x) + (x if block.shortcut is None else block.shortcut(x))
    return np.where(y <= 0, y.dtype.type(0), y) if len(model) > 1 else y


def assert_same_bits(model: nn.Sequential, x: np.ndarray) -> bool:
    """Whether the kernel ran."""
    with launches() as names:
        y = model._forward(x, None)
    wanted = apart(model, x)
    assert (y.shape, y.dtype, y.strides) == (wanted.shape, wanted.dtype, wanted.strides)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(y, by_hand(model, x))
    if np.isfinite(wanted).all():
        assert y.tobytes() == wanted.tobytes(), "the sign of a zero"
    return KERNEL in names


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("form", ["cheapest", "winograd", "by tiles"])
def test_any_shapes(form: str, threads: int) -> None:
    use_threads(threads)
    ran = []

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(shapes=shapes_of_any_kind(), layout=st.sampled_from(["NCHW", "NHWC"]))
    def check(shapes: Shapes, layout: Any) -> None:
        done = assert_same_bits(shapes.model(), shapes.batch(layout=layout))
        assert not (done and shapes.groups > 1)
        ran.append(done)

    with chosen(form), everything_in_parallel() if threads > 1 else nullcontext():
        check()
    assert sum(ran) >= (0 if form == "cheapest" else 10)


TYPICAL = {
    "16 channels": Shapes(4, 16, 16, 32, 32),
    "32 channels": Shapes(8, 32, 32, 16, 16),
    "64 channels": Shapes(64, 64, 64, 8, 8),
    "odd images, with low and thin tiles": Shapes(3, 16, 16, 17, 13),
    "several strips": Shapes(2, 16, 16, 7, 301),
    "dilation": Shapes(4, 16, 16, 33, 31, pad=2, dilation=2),
    "5 x 5": Shapes(5, 16, 16, 20, 21, taps=5, pad=2),
    "a shortcut that convolves": Shapes(3, 32, 48, 14, 15, shortcut=True),
    "no ReLU": Shapes(3, 32, 32, 13, 18, relu=False),
    "no norm": Shapes(3, 16, 16, 15, 18, bias=True, norm=False),
}


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", TYPICAL)
def test_the_kernel_adds(kind: str, dtype: str) -> None:
    shapes = TYPICAL[kind]._replace(dtype=dtype)
    found = []
    for threads in (1, 2):
        use_threads(threads)
        with chosen("winograd"), everything_in_parallel() if threads > 1 else nullcontext():
            assert assert_same_bits(shapes.model(), shapes.batch())
            found.append(shapes.model()(shapes.batch()))
    assert found[0].tobytes() == found[1].tobytes()


def test_a_few_pixels() -> None:
    """Few enough for plain Python, too."""
    for shapes in (Shapes(1, 16, 16, 3, 4), Shapes(2, 16, 16, 5, 3, relu=False, bias=True)):
        with chosen("by tiles"):
            assert assert_same_bits(shapes.model(), shapes.batch())


@pytest.mark.compiled
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_summand_of_either_layout(layout: Any) -> None:
    with chosen("winograd"):
        assert assert_same_bits(SMALL.model(), SMALL.batch(layout=layout))
    model = SMALL.model()
    model[0].shortcut = Turned(layout)
    with chosen("winograd"):
        assert assert_same_bits(model.eval(), SMALL.batch())


class Turned(nn.Module):
    """Images that lie in memory otherwise."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: np.ndarray) -> np.ndarray:
        if self.how == "every second":
            return np.repeat(x, 2, 3)[..., ::2]
        if self.how == "read-only":
            x = x.copy()
            x.flags.writeable = False
            return x
        return x.astype(self.how) if self.how.startswith("float") else in_layout(x, self.how)  # type: ignore[arg-type]


@pytest.mark.compiled
@pytest.mark.parametrize("how", ["float16", "float64", "every second", "read-only"])
def test_a_summand_of_another_kind_is_added_apart(how: str) -> None:
    model = SMALL.model()
    model[0].shortcut = Turned(how)
    with chosen("winograd"):
        x = SMALL.batch()
        with launches() as names:
            y = model.eval()(x)
        wanted = apart(model, x)
    assert KERNEL not in names
    assert (y.dtype, y.tobytes()) == (wanted.dtype, wanted.tobytes())


@pytest.mark.compiled
@pytest.mark.parametrize(
    "change", [{"groups": 2}, {"C": 12, "OC": 12}, {"taps": 1, "pad": 0}, {"dtype": "float16"}], ids=str
)  # fmt: skip
def test_what_no_kernel_does_is_added_apart(change: dict[str, Any]) -> None:
    if "dtype" in change:
        model, x = SMALL.model(), SMALL.batch().astype(np.float16)
    else:
        shapes = SMALL._replace(**change)
        model, x = shapes.model(), shapes.batch()
    with chosen("winograd"):
        y, wanted = model(x), apart(model, x)
        with launches() as names:
            model._forward(x, None)
    assert KERNEL not in names
    assert (y.dtype, y.tobytes()) == (wanted.dtype, wanted.tobytes())


@pytest.mark.compiled
@pytest.mark.parametrize("relu", [True, False])
def test_a_path_that_ends_in_a_relu_is_added_apart(relu: bool) -> None:
    usual = SMALL.model()
    model = nn.Sequential(nn.Residual(nn.Sequential(*usual[0].main, nn.ReLU())), *[nn.ReLU()] * relu).eval()
    assert model[0].main._in_evaluation[-1].relu
    with chosen("winograd"):
        assert not assert_same_bits(model, SMALL.batch())


@pytest.mark.compiled
def test_not_where_sums_are_direct() -> None:
    numbaconv.set_algorithm("direct")
    assert not assert_same_bits(TYPICAL["16 channels"].model(), TYPICAL["16 channels"].batch())


@pytest.mark.compiled
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("what", ["image", "shortcut", "weight", "norm", "bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(value: float, what: str, relu: bool) -> None:
    shapes = SMALL._replace(relu=relu, bias=True, shortcut=what == "shortcut")
    model, x = shapes.model(), shapes.batch()
    conv, norm = model[0].main[2], model[0].main[3]
    if what == "image":
        x[1, 3, 4, 5] = value
    elif what == "shortcut":
        model[0].shortcut[1].bias.data[2] = value
    else:
        {"weight": conv.weight.data, "norm": norm.weight.data, "bias": conv.bias.data}[what].reshape(-1)[5] = value
    with chosen("winograd"), np.errstate(invalid="ignore"):
        assert assert_same_bits(model, x) == (what in ("image", "shortcut"))


@pytest.mark.compiled
def test_zeros_are_as_a_relu_leaves_them() -> None:
    model = SMALL._replace(norm=False).model()
    model[0].main[2].weight.data[...] = 0
    x = np.where(SMALL.batch() > 0, -0.0, 0.0).astype(np.float32)
    with chosen("winograd"):
        assert assert_same_bits(model, x)
        assert not np.signbit(model(x)).any()


# --- what is unusual --------------------------------------------------------------------------------------------------


def _stride(model: nn.Sequential) -> None:
    model[0].main[2].stride = (2, 2)


def _few(model: nn.Sequential) -> None:
    model[0].shortcut = nn.Conv2d(16, 1, 1, rng=0).eval()  # NumPy would spread it


def _cut(model: nn.Sequential) -> None:
    model[0].shortcut = nn.MaxPool2d(2).eval()


def _list(model: nn.Sequential) -> None:
    model[0].main[2].weight.data = model[0].main[2].weight.data.tolist()


def _none(model: nn.Sequential) -> None:
    model[0].main[2].weight.data = None


def _flat(model: nn.Sequential) -> None:
    model[0].main[2].weight.data = model[0].main[2].weight.data[..., 0]


def _half(model: nn.Sequential) -> None:
    model[0].main[2].weight.data = model[0].main[2].weight.data[:, :8]


def _padding(model: nn.Sequential) -> None:
    model[0].main[2].padding = "half"


@pytest.mark.compiled
@pytest.mark.parametrize("mistake", [_stride, _few, _cut, _list, _none, _flat, _half, _padding])
def test_mistakes_are_called_what_they_are_where_sums_are_made_apart(mistake: Callable[[nn.Sequential], None]) -> None:
    model, found = SMALL.model(), []
    mistake(model)
    with chosen("winograd"):
        for forward in (model, lambda x: apart(model, x)):
            with pytest.raises((TypeError, ValueError)) as error:
                forward(SMALL.batch())
            found.append((type(error.value), str(error.value)))
    assert found[0] == found[1]


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["forward", "backward"])
@pytest.mark.parametrize("part", ["block", "path", "convolution", "norm"])
def test_methods_of_somebodys_own_are_called(part: str, name: str) -> None:
    model, calls = SMALL._replace(relu=False).model(), list[str]()
    block = model[0]
    module = {"block": block, "path": block.main, "convolution": block.main[2], "norm": block.main[3]}[part]
    with chosen("winograd"):
        x = SMALL.batch()
        wanted = model(x)
        z = random_like(wanted)
        wanted_grad = model.backward(z)
        count_calls(module, name, calls)
        y, grad = model(x), model.backward(z)
    assert calls
    assert set(calls) == {f"{type(module).__name__}.{name}"}
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(grad, wanted_grad, rtol=1e-4, atol=1e-4)


@pytest.mark.compiled
def test_a_forward_of_somebodys_own_needs_no_weight() -> None:
    model = SMALL._replace(norm=False).model()
    model[0].main[2].forward = np.negative
    model[0].main[2].weight.data = None
    with chosen("winograd"):
        assert model(SMALL.batch()).tobytes() == apart(model, SMALL.batch()).tobytes()


class Path(nn.Sequential):
    """A path of somebody's own."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return 2 * super().forward(x)


@pytest.mark.compiled
def test_a_path_of_somebodys_own() -> None:
    usual = SMALL._replace(relu=False).model()
    model = nn.Sequential(nn.Residual(Path(*usual[0].main))).eval()
    with chosen("winograd"):
        x = SMALL.batch()
        assert model(x).tobytes() == (2 * usual[0].main(x) + x).tobytes()


@pytest.mark.compiled
def test_layers_in_training_within_a_path_in_evaluation() -> None:
    for layer in (2, 3):
        model, other = SMALL.model(), SMALL.model()
        for each in (model, other):
            each[0].main[layer].train()
        with chosen("winograd"):
            got, wanted = model(SMALL.batch()), apart(other, SMALL.batch())
        assert got.tobytes() == wanted.tobytes()
        for name, array in other.state_dict().items():
            assert np.array_equal(model.state_dict()[name], array), name


@pytest.mark.compiled
def test_nothing_that_is_read_is_written() -> None:
    model, x = SMALL.model(), SMALL.batch()
    before = x.copy()
    with chosen("winograd"):
        first = model(x)
        kept = first.copy()
        assert not np.shares_memory(first, x)
        model(SMALL.batch(1))
    assert x.tobytes() == before.tobytes()
    assert first.tobytes() == kept.tobytes()


@pytest.mark.compiled
def test_no_images() -> None:
    with chosen("winograd"):
        assert SMALL.model()(SMALL.batch()[:0]).shape == (0, 16, 9, 11)


# --- the way back, and tapes ------------------------------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["16 channels", "a shortcut that convolves", "no ReLU", "no norm"])
def test_backward_after_evaluation(kind: str) -> None:
    shapes = TYPICAL[kind]._replace(N=2, dtype="float64")
    model, x = shapes.model(), shapes.batch()
    other = copy.deepcopy(model)
    with chosen("winograd"):
        with launches() as names:
            y = model(x)
        got = results(model, y, model.backward(random_like(y)))
        y = apart(other, x)
        wanted = results(other, y, other.backward(random_like(y)))
    assert KERNEL in names
    for name, array in wanted.items():
        assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("images", [1, 2])
def test_what_is_played_from_a_tape_is_added_too(images: int, dtype: str) -> None:
    shapes = Shapes(images, 16, 16, 16, 17, dtype=dtype)
    blocks = [shapes.model(), shapes._replace(OC=32, shortcut=True).model()]
    model = nn.Sequential(*[layer for block in blocks for layer in block]).eval()
    with chosen("winograd"):
        with launches() as names:
            for seed in range(4):
                model(shapes.batch(seed, "NCHW"))
        assert names.count(KERNEL) >= 8
        for seed in range(3):
            x = shapes.batch(10 + seed, "NCHW")
            y = model(x)
            assert model._replayed is not None
            assert y.tobytes() == apart(model, x).tobytes()
        model(x)
        grad = model.backward(random_like(y))
        other = copy.deepcopy(model)
        apart(other, x)
        assert grad.tobytes() == other.backward(random_like(y)).tobytes()


@pytest.mark.compiled
def test_a_change_of_a_weight_shows() -> None:
    model, x = SMALL.model(), SMALL.batch(layout="NCHW")[:1]
    with chosen("winograd"):
        for _ in range(5):
            before = model(x)
        model[0].main[2].weight.data[3, 4, 1, 1] += 1
        after = model(x)
        assert not np.array_equal(before, after)
        assert after.tobytes() == apart(model, x).tobytes()
        model[0].main[3].running_var *= 2
        assert model(x).tobytes() == apart(model, x).tobytes()


@pytest.mark.compiled
def test_modes_follow_each_other() -> None:
    model, x = SMALL.model(), SMALL.batch()
    other = copy.deepcopy(model)
    with chosen("winograd"):
        for mode in ("eval", "train", "eval", "train", "eval"):
            for each in (model, other):
                getattr(each, mode)()
            y, wanted = model(x), apart(other, x)
            assert y.tobytes() == wanted.tobytes()
            z = random_like(y)
            assert model.backward(z).tobytes() == other.backward(z).tobytes()
