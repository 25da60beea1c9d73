"""A batch norm in training and a convolution that run as one give what they give one after the other, to the bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numba
import numpy as np
import pytest
from cases import Ordered, everything_in_parallel
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nn_pooled import launches

import numbaconv
from numbaconv import nn, simd
from numbaconv import plan as planning
from numbaconv.nn.layout import in_layout, layout_of
from numbaconv.nn.normed import Normed
from numbaconv.plan import channels, winograd
from numbaconv.plan.axes import Correlation

#: Channels of the images that a model is given: enough for the next ones to lie innermost.
FIRST = 16
KERNELS = ["correlate_winograd_normed", "weight_gradient_winograd_normed"]


class Shapes(NamedTuple):
    """Sizes of a batch norm's images, and of the convolution behind it."""

    N: int
    C: int
    OC: int
    H: int
    W: int
    taps: int = 3
    padding: Any = 1
    dilation: Any = 1
    groups: int = 1
    bias: bool = False
    relu: bool = True
    affine: bool = True
    first: int = 1  # taps of the convolution that makes the images
    behind: bool = False  # whether another batch norm follows
    dtype: str = "float32"

    def model(self) -> nn.Sequential:
        """The layers, of which the second is the batch norm; its scales are of both signs."""
        rng, dtype = np.random.default_rng(self.OC), self.dtype
        conv = nn.Conv2d(
            self.C, self.OC, self.taps, 1, self.padding, self.dilation, self.groups, self.bias, dtype=dtype, rng=rng
        )  # fmt: skip
        model = nn.Sequential(
            nn.Conv2d(FIRST, self.C, self.first, padding="same", dtype=dtype, rng=rng),
            nn.BatchNorm2d(self.C, affine=self.affine, dtype=dtype), *[nn.ReLU()] * self.relu, conv,
            *[nn.BatchNorm2d(self.OC, dtype=dtype)] * self.behind,
        )  # fmt: skip
        for parameter in model[1].parameters():
            parameter.data[...] = rng.standard_normal(self.C)
        return model

    def batch(self, seed: int = 0) -> np.ndarray:
        """Images for the model."""
        return np.random.default_rng(seed).standard_normal((self.N, FIRST, self.H, self.W)).astype(self.dtype)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the images which the batch norm is given."""
        return self.N, self.C, self.H, self.W

    def can_be_normed(self) -> bool:
        """Whether there are kernels for them, if only they are chosen: channels fill vectors, and lie innermost."""
        lanes = simd.lanes(np.dtype(self.dtype))
        return self.groups == 1 and self.C % lanes == self.OC % lanes == 0 and self.H * self.W > 1


@st.composite
def shapes_of_any_kind(draw: st.DrawFn) -> Shapes:
    """Mostly such as there are kernels for; images are large enough for the kernel, and often hardly so."""
    taps, groups = draw(st.sampled_from([3, 3, 3, 5])), draw(st.sampled_from([1, 1, 1, 1, 2]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 2), (1, 3), (4, 1)]))
    pad = st.integers(0, 3)
    padding = (draw(pad), draw(pad)), (draw(pad), draw(pad))
    least = [max(1, d * (taps - 1) + 1 - sum(pads)) for d, pads in zip(dilation, padding, strict=True)]
    H, W = (first + draw(st.integers(0, 14)) for first in least)
    behind = draw(st.booleans())
    return Shapes(
        draw(st.integers(1 if H * W > 1 and not behind else 2, 5)), draw(st.sampled_from([16, 16, 32, 8, 48, 10, 2])),
        draw(st.sampled_from([16, 16, 32, 8, 48, 64, 6])), H, W, taps, padding, dilation, groups, draw(st.booleans()),
        draw(st.booleans()), draw(st.sampled_from([True, True, False])), draw(st.sampled_from([1, 3])), behind,
        draw(st.sampled_from(["float32", "float64"])),
    )  # fmt: skip


#: What lies in small networks; each of them is run by the kernels that normalise.
SMALL = Shapes(2, 16, 16, 16, 16)
TYPICAL = {
    "16 channels": Shapes(4, 16, 16, 32, 32),
    "32 channels": Shapes(8, 32, 32, 16, 16),
    "64 channels": Shapes(64, 64, 64, 8, 8),
    "more behind": Shapes(3, 16, 48, 17, 14, bias=True, behind=True),
    "no ReLU": Shapes(3, 32, 16, 13, 18, relu=False, first=3),
    "no parameters": Shapes(4, 16, 16, 15, 15, affine=False, padding=((0, 2), (3, 1))),
    "5 x 5": Shapes(5, 16, 16, 20, 20, taps=5, padding=2),
    "dilation": Shapes(4, 16, 16, 32, 32, padding=2, dilation=2),
}


class Chosen(Ordered):
    """Winograd's form of plan, which costs nothing, and works in this order."""

    def __init__(self, by_blocks: bool) -> None:
        super().__init__(by_blocks)
        self.cost = self.weight_cost = lambda work: 0.0 if winograd.cuts(work) else float("inf")


class Usual:
    """Winograd's form of plan, which costs nothing, in the order of work that it chooses."""

    def __init__(self) -> None:
        self.plan, self.weight_plan = winograd.plan, winograd.weight_plan
        self.norms, self.sums = winograd.norms, winograd.sums

    def cost(self, work: Correlation) -> float:
        return 0.0 if winograd.cuts(work) else float("inf")

    weight_cost = cost


FORMS: dict[str, Any] = {
    "cheapest": planning.FORMS["auto"],
    "winograd": (Usual(), channels),
    "by tiles": (Chosen(False), channels),
    "by blocks": (Chosen(True), channels),
}


@contextmanager
def chosen(form: str) -> Iterator[None]:
    """Convolutions are planned in this form, where it serves."""
    with mock.patch.dict(planning.FORMS, auto=FORMS[form]):
        yield


@pytest.fixture(autouse=True)
def _auto() -> Iterator[None]:
    """With Winograd's algorithm, which other tests go without."""
    numbaconv.set_algorithm("auto")
    yield
    numbaconv.set_algorithm("direct")


def use_threads(threads: int) -> None:
    numbaconv.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def normed(names: list[str]) -> list[str]:
    """Of the kernels that were launched, those that normalise."""
    return [name for name in names if "normed" in name]


def forward_one_by_one(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    for layer in model:
        x = layer.forward(x)
    return x


def backward_one_by_one(model: nn.Sequential, grad: np.ndarray) -> np.ndarray | None:
    for layer in reversed(list(model)):
        grad = layer.backward(grad)
    return grad


def together(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    return model(x)


def backward_together(model: nn.Sequential, grad: np.ndarray) -> np.ndarray | None:
    return model.backward(grad)


def results(model: nn.Sequential, y: np.ndarray, grad: np.ndarray | None) -> dict[str, np.ndarray]:
    """Whatever passes leave."""
    found = {"output": y, **{f"state {name}": array for name, array in model.state_dict().items()}}
    found.update((f"gradient of {name}", parameter.grad) for name, parameter in model.named_parameters())
    return found if grad is None else {**found, "gradient of x": grad}


def random_like(y: np.ndarray, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(y.shape).astype(y.dtype)


def both(
    model: nn.Sequential, x: np.ndarray, between: Callable[[nn.Sequential], Any] = lambda model: None, passes: int = 1
) -> list[dict[str, np.ndarray]]:
    """What the model leaves, and what a copy of it leaves layer by layer; ``between`` happens between the passes."""
    other, algorithm, found = copy.deepcopy(model), numbaconv.get_algorithm(), []
    for each, forward, backward in (
        (model, together, backward_together),
        (other, forward_one_by_one, backward_one_by_one),
    ):
        numbaconv.set_algorithm(algorithm)
        for _ in range(passes):
            y = forward(each, x)
        between(each)
        found.append(results(each, y, backward(each, random_like(y))))
    return found


def assert_same_bits(model: nn.Sequential, x: np.ndarray, **more: Any) -> None:
    """Everything that both leave is the same, and so is how it lies in memory."""
    got, wanted = both(model, x, **more)
    assert list(got) == list(wanted)
    for name, array in got.items():
        right = wanted[name]
        assert (array.shape, array.dtype, array.strides) == (right.shape, right.dtype, right.strides), name
        np.testing.assert_array_equal(array, right, err_msg=name)
        assert array.tobytes() == right.tobytes(), f"the sign of a zero in the {name}"


def assert_equal(model: nn.Sequential, x: np.ndarray, **more: Any) -> None:
    """The same for numbers of which some are not finite."""
    got, wanted = both(model, x, **more)
    for name, array in got.items():
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes=shapes_of_any_kind())
def test_any_shapes(form: str, threads: int, shapes: Shapes) -> None:
    use_threads(threads)
    with chosen(form), everything_in_parallel(), launches() as names:
        assert_same_bits(shapes.model(), shapes.batch())
    ran = normed(names)
    assert ran in ([], KERNELS)
    if form == "by tiles" and shapes.can_be_normed():
        assert ran == KERNELS


def test_a_few_pixels() -> None:
    """Few enough for plain Python, too."""
    for dtype, relu, padding in (("float32", True, ((0, 1), (2, 0))), ("float64", False, ((2, 0), (0, 1)))):
        shapes = Shapes(2, 16, 16, 4, 5, padding=padding, relu=relu, dtype=dtype)
        with chosen("by tiles"), launches() as names:
            assert_same_bits(shapes.model(), shapes.batch())
        assert normed(names) == KERNELS


@pytest.mark.compiled
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", TYPICAL)
def test_one_kernel_does_the_work_of_both_layers(kind: str, dtype: str, threads: int) -> None:
    use_threads(threads)
    shapes = TYPICAL[kind]._replace(dtype=dtype)
    with chosen("winograd"), launches() as names:
        assert_same_bits(shapes.model(), shapes.batch())
    assert normed(names) == KERNELS
    with launches() as names:
        assert_same_bits(shapes.model(), shapes.batch())
    if simd.lanes(np.float32) == 16:  # elsewhere, other forms may cost less
        assert normed(names) == KERNELS


@pytest.mark.compiled
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_only_what_lies_with_channels_innermost_is_read_so(layout: Any) -> None:
    shapes = TYPICAL["16 channels"]
    model = shapes.model()[1:]
    x = in_layout(shapes.batch(), layout)
    assert layout_of(x) == layout
    with chosen("winograd"), launches() as names:
        assert_same_bits(model, x)
    assert normed(names) == (KERNELS if layout == "NHWC" else [])


@pytest.mark.compiled
@pytest.mark.parametrize(
    "change",
    [
        {"OC": 10}, {"C": 10},  # planes on either side
        {"OC": 32, "groups": 2},
        {"N": 1, "OC": 80, "H": 5, "W": 5}, {"N": 4, "C": 80, "OC": 64},  # the other order of work, either way
    ],
    ids=str,
)  # fmt: skip
def test_what_no_kernel_does_runs_layer_by_layer(change: dict[str, Any]) -> None:
    shapes = SMALL._replace(**change)
    with chosen("winograd"), launches() as names:
        assert_same_bits(shapes.model(), shapes.batch())
    assert normed(names) == []


@pytest.mark.compiled
def test_not_where_sums_are_direct() -> None:
    numbaconv.set_algorithm("direct")
    for shapes in TYPICAL.values():
        with launches() as names:
            assert_same_bits(shapes.model(), shapes.batch())
        assert not any("winograd" in name for name in names)


@pytest.mark.compiled
def test_a_threads_number_changes_no_bit() -> None:
    found = []
    for threads in (1, 2):
        use_threads(threads)
        model = TYPICAL["more behind"].model()
        with everything_in_parallel():
            y = model(TYPICAL["more behind"].batch())
            found.append(results(model, y, model.backward(random_like(y))))
    for name, array in found[0].items():
        assert array.tobytes() == found[1][name].tobytes(), name


@pytest.mark.compiled
def test_several_of_them_in_a_row_and_several_passes() -> None:
    rng, layers = np.random.default_rng(0), []
    for _ in range(3):
        layers += [nn.BatchNorm2d(16, momentum=None), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False, rng=rng)]
    model = nn.Sequential(nn.Conv2d(FIRST, 16, 1, rng=rng), *layers, nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1, rng=rng))
    assert [type(step) for step in model._in_training].count(Normed) == 4
    with chosen("winograd"), launches() as names:
        assert_same_bits(model, SMALL.batch(), passes=3)
    assert normed(names) == [KERNELS[0]] * 9 + [KERNELS[1]] * 3


@pytest.mark.compiled
@pytest.mark.parametrize("relu", [False, True])
def test_a_batch_norm_in_evaluation_within_a_model_in_training(relu: bool) -> None:
    shapes = SMALL._replace(relu=relu)
    model = shapes.model()
    model(shapes.batch(5))  # running statistics of their own
    model[1].eval()
    with chosen("winograd"), launches() as names:
        assert_same_bits(model, shapes.batch())
    assert normed(names) == KERNELS


@pytest.mark.compiled
@pytest.mark.parametrize("options", [{"track_running_stats": False}, {"momentum": None}, {"eps": 0.5}], ids=str)
def test_options_of_a_batch_norm(options: dict[str, Any]) -> None:
    conv = nn.Conv2d(16, 16, 3, padding="same", rng=1)
    model = nn.Sequential(nn.Conv2d(FIRST, 16, 1, rng=0), nn.BatchNorm2d(16, **options), nn.ReLU(), conv)
    with chosen("winograd"), launches() as names:
        assert_same_bits(model, SMALL.batch(), passes=2)
    assert normed(names) == [KERNELS[0]] * 2 + [KERNELS[1]]


@pytest.mark.compiled
def test_no_gradient_where_nobody_needs_it() -> None:
    shapes = SMALL._replace(affine=False)
    model, x = shapes.model()[1:], in_layout(shapes.batch(), "NHWC")
    model.require_input_grad(False)  # no layer before the convolution has parameters
    with chosen("winograd"), launches() as names:
        y = model(x)
        assert model.backward(random_like(y)) is None
    assert names.count(KERNELS[1]) == 1
    wanted = copy.deepcopy(model)
    wanted.zero_grad()
    with chosen("winograd"):
        y = forward_one_by_one(wanted, x)
        assert wanted[-1].backward(random_like(y)) is None
    assert model[-1].weight.grad.tobytes() == wanted[-1].weight.grad.tobytes()


@pytest.mark.compiled
def test_gradients_are_added_up() -> None:
    def back(model: nn.Sequential) -> None:
        go_back = backward_together if model is fused else backward_one_by_one
        go_back(model, random_like(np.empty((2, 16, 16, 16), np.float32), 7))

    fused = SMALL.model()
    with chosen("winograd"), launches() as names:
        assert_same_bits(fused, SMALL.batch(), between=back)
    assert normed(names) == [*KERNELS, KERNELS[1]]


# --- what is unusual --------------------------------------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.parametrize("relu", [True, False])
def test_each_layer_can_go_back_by_itself(relu: bool) -> None:
    shapes = SMALL._replace(relu=relu)
    model, other, x = shapes.model(), shapes.model(), shapes.batch()
    with chosen("winograd"), launches() as names:
        y = model(x)
        grad = random_like(y)
        for layer in reversed([layer for layer in model if type(layer) is not nn.ReLU]):  # whose work the norm did
            grad = layer.backward(grad)
        got = results(model, y, grad)
        y = forward_one_by_one(other, x)
        wanted = results(other, y, backward_one_by_one(other, random_like(y)))
    assert normed(names) == KERNELS
    for name, array in got.items():
        assert array.tobytes() == wanted[name].tobytes(), name


@pytest.mark.compiled
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["image", "weight", "bias", "scale", "shift", "first weight"])
@pytest.mark.parametrize("form", ["winograd", "cheapest"])
def test_numbers_that_are_not_finite(form: str, what: str, value: float) -> None:
    shapes = SMALL._replace(bias=True)
    model, x = shapes.model(), shapes.batch()
    if what == "image":
        x[1, 0, 3, 15] = value
    elif what == "first weight":
        model[0].weight.data[2, 1, 0, 0] = value
    elif what == "weight":
        model[3].weight.data[3, 2, 0, 1] = value
    elif what == "bias":
        model[3].bias.data[4] = value
    else:
        (model[1].weight if what == "scale" else model[1].bias).data[5] = value
    with chosen(form), launches() as names:
        assert_equal(model, x)
    if form == "winograd":
        assert normed(names) == ([] if what == "weight" else KERNELS)
    numbaconv.set_algorithm("direct")
    assert_equal(model, x)


@pytest.mark.compiled
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite(value: float) -> None:
    model, other, x = SMALL.model(), SMALL.model(), SMALL.batch()
    with chosen("winograd"):
        y = model(x)
        forward_one_by_one(other, x)
        z = random_like(y)
        z[0, 3, 4, 5] = value
        got, wanted = (
            results(each, y, back(each, z))
            for each, back in ((model, backward_together), (other, backward_one_by_one))
        )  # fmt: skip
    for name, array in got.items():
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)


CHANGES: dict[str, Callable[[nn.Sequential], Any]] = {
    "algorithm": lambda model: numbaconv.set_algorithm("direct"),
    "threads": lambda model: use_threads(1),
    "dtype of the weight": lambda model: setattr(model[3].weight, "data", model[3].weight.data.astype(np.float64)),
    "weight": lambda model: model[3].weight.data.__imul__(2),
    "scales": lambda model: model[1].weight.data.__imul__(2),
    "needs no gradient": lambda model: model[0].require_input_grad(False),
    "a mode": lambda model: model.eval(),
    "statistics": lambda model: model[1].running_mean.__imul__(0),
    "an option": lambda model: setattr(model[1], "eps", 1.0),
}


@pytest.mark.compiled
@pytest.mark.parametrize("change", CHANGES)
def test_what_may_change_between_forward_and_backward(change: str) -> None:
    use_threads(2)
    with chosen("winograd"), launches() as names:
        assert_same_bits(SMALL.model(), SMALL.batch(), between=CHANGES[change])
    assert normed(names) == (KERNELS[:1] if change == "algorithm" else KERNELS)


@pytest.mark.compiled
@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_parameters_of_another_dtype(parameter: str, layer: int) -> None:
    model = SMALL._replace(bias=True).model()
    array = getattr(model[layer], parameter)
    array.data = array.data.astype(np.float64)
    with chosen("winograd"), launches() as names:
        assert_same_bits(model, SMALL.batch())
    # the batch norm's own are rounded, and those of the first convolution make images of their dtype
    assert normed(names) == (KERNELS if layer == 1 or (layer, parameter) == (0, "bias") else [])


def count_calls(layer: nn.Module, name: str, calls: list[str]) -> None:
    """Give a layer a method of its own, which does what it did, and notes that it was called."""
    usual = getattr(layer, name)

    def mine(*arguments: Any, **more: Any) -> Any:
        calls.append(f"{type(layer).__name__}.{name}")
        return usual(*arguments, **more)

    setattr(layer, name, mine)


@pytest.mark.compiled
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("which", [("forward", "backward"), ("forward",), ("backward",)], ids=str)
@pytest.mark.parametrize("owner", ["BatchNorm2d", "Conv2d"])
def test_methods_of_somebodys_own_are_called(owner: str, which: tuple[str, ...], relu: bool) -> None:
    shapes = SMALL._replace(relu=relu)
    model, x, calls = shapes.model(), shapes.batch(), list[str]()
    for name in which:
        count_calls(model[1] if owner == "BatchNorm2d" else model[-1], name, calls)
    with chosen("winograd"), launches() as names:
        y = model(x)
        got = results(model, y, model.backward(random_like(y)))
        assert calls == [f"{owner}.{name}" for name in which]
        assert normed(names) == ([] if "forward" in which else KERNELS)
        other = shapes.model()
        y = forward_one_by_one(other, x)
        wanted = results(other, y, backward_one_by_one(other, random_like(y)))
    for name, array in got.items():
        assert array.tobytes() == wanted[name].tobytes(), name


class Norm(nn.BatchNorm2d):
    """A batch norm of somebody's own."""

    def forward(self, x: np.ndarray, relu: bool = False, plus: np.ndarray | None = None) -> np.ndarray:
        return super().forward(2 * x, relu, plus) + 1

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        return 2 * super().backward(grad_output)


class Conv(nn.Conv2d):
    """And a convolution."""

    def forward(self, x: np.ndarray, relu: bool = False) -> np.ndarray:
        return super().forward(x, relu) + 1

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        grad = super().backward(grad_output)
        return None if grad is None else 3 * grad


@pytest.mark.compiled
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("norm", "conv"), [(Norm, nn.Conv2d), (nn.BatchNorm2d, Conv), (Norm, Conv)])
def test_layers_of_somebodys_own(norm: type[nn.BatchNorm2d], conv: type[nn.Conv2d], relu: bool) -> None:
    layers = nn.Conv2d(FIRST, 16, 1, rng=0), norm(16), *[nn.ReLU()] * relu, conv(16, 16, 3, padding=1, rng=1)
    model = nn.Sequential(*layers)
    assert not any(type(step) is Normed for step in model._in_training)
    with chosen("winograd"), launches() as names:
        assert_same_bits(model, SMALL.batch())
    assert normed(names) == []


MISTAKES: dict[str, Callable[[], list[nn.Module]]] = {
    "channels of the convolution": lambda: [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(32, 16, 3, rng=0)],
    "channels of the batch norm": lambda: [nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 3, rng=0)],
    "a kernel that is too large": lambda: [nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, dilation=20, rng=0)],
    "a weight of another shape": lambda: [nn.BatchNorm2d(16), with_array("weight", (16, 8, 3, 3))],
    "a bias of another shape": lambda: [nn.BatchNorm2d(16), with_array("bias", (17,))],
    "no weight": lambda: [nn.BatchNorm2d(16), with_array("weight", (16, 16))],
    "a single value a channel": lambda: [nn.AvgPool2d(16), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1, rng=0)],
}


def with_array(name: str, shape: tuple[int, ...]) -> nn.Conv2d:
    """A convolution, one parameter of which has been set to an array of this shape."""
    conv = nn.Conv2d(16, 16, 3, padding=1, rng=0)
    getattr(conv, name).data = np.ones(shape, np.float32)
    return conv


@pytest.mark.compiled
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_called_what_layers_call_them(mistake: str) -> None:
    x, found = in_layout(SMALL._replace(N=1).batch(), "NHWC"), []
    for forward in (together, forward_one_by_one):
        model = nn.Sequential(*MISTAKES[mistake]())
        with chosen("winograd"), pytest.raises((ValueError, TypeError)) as error:
            forward(model, x)
        found.append((type(error.value), str(error.value), {k: v.tobytes() for k, v in model.state_dict().items()}))
    assert found[0] == found[1]


@pytest.mark.compiled
def test_a_gradient_of_another_shape_is_refused() -> None:
    model = SMALL.model()
    with chosen("winograd"):
        model(SMALL.batch())
        with pytest.raises(ValueError, match="grad_output has shape"):
            model.backward(np.zeros((2, 16, 16, 15), np.float32))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.compiled
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_gradients_of_any_kind(layout: Any) -> None:
    """In either layout, of another dtype, and read-only."""
    found = []
    for forward, backward in ((together, backward_together), (forward_one_by_one, backward_one_by_one)):
        model = SMALL.model()
        with chosen("winograd"):
            y = forward(model, SMALL.batch())
            z = in_layout(random_like(y).astype(np.float64), layout)
            z.flags.writeable = False
            found.append(results(model, y, backward(model, z)))
    for name, array in found[0].items():
        assert array.tobytes() == found[1][name].tobytes(), name


@pytest.mark.compiled
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(copied: Callable[[nn.Sequential], nn.Sequential]) -> None:
    model, x = SMALL.model(), SMALL.batch()
    with chosen("winograd"), launches() as names:
        y = model(x)
        other = copied(model)
        assert all(layer._saved is None for layer in other)
        with pytest.raises(RuntimeError, match="before forward"):
            other.backward(random_like(y))
        assert_same_bits(other, x)
        model.backward(random_like(y))  # nobody has taken what it remembers
        z = other(x)
    assert normed(names).count(KERNELS[0]) == 3
    assert z.tobytes() == y.tobytes()


@pytest.mark.compiled
def test_a_model_that_was_converted_has_forgotten() -> None:
    model, x = SMALL.model(), SMALL.batch()
    with chosen("winograd"):
        y = model(x)
        model.astype(np.float64)
        with pytest.raises(RuntimeError, match="before forward"):
            model.backward(random_like(y))
        assert_same_bits(model, x.astype(np.float64))


@pytest.mark.compiled
def test_no_images() -> None:
    with chosen("winograd"):
        for forward in (together, forward_one_by_one):
            with pytest.raises(ValueError, match="has 0 values a channel"):
                forward(SMALL.model(), np.zeros((0, FIRST, 16, 16), np.float32))
        model = SMALL.model()
        model[1].eval()
        assert_same_bits(model, np.zeros((0, FIRST, 16, 16), np.float32))
