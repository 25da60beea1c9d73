"""What all layers share: names, modes, state, initial values, threads, and how they refuse what is wrong."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from numbaconv import nn
from numbaconv.threads import get_num_threads, set_num_threads

RNG = np.random.default_rng(0)


def small_model(**options) -> nn.Sequential:
    main = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, **options), nn.BatchNorm2d(2))
    return nn.Sequential(nn.Residual(main), nn.Flatten(), nn.Linear(32, 3, **options))


def images(*shape: int, dtype=np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


# -- parameters and state ----------------------------------------------------------------------------------------------


def test_names_and_counts() -> None:
    model = small_model()
    assert [name for name, _ in model.named_parameters()] == [
        "0.main.0.weight", "0.main.0.bias", "0.main.1.weight", "0.main.1.bias", "2.weight", "2.bias",
    ]  # fmt: skip
    assert model.num_parameters == 36 + 2 + 2 + 2 + 96 + 3 == sum(p.data.size for p in model.parameters())
    assert len(model) == 3
    assert list(model[1:]) == list(model)[1:]
    assert model[0] is next(iter(model))
    assert nn.ReLU().dtype is None
    assert model.dtype == np.float32


def test_state_dict_round_trip() -> None:
    model, other, x = small_model(rng=0), small_model(rng=1), images(3, 2, 4, 4)
    model(x)
    state = model.state_dict()
    assert state["0.main.1.num_batches_tracked"] == 1
    other.load_state_dict(state)
    np.testing.assert_array_equal(model.eval()(x), other.eval()(x))
    state["2.weight"][:] = 7  # a copy
    assert not (model[2].weight.data == 7).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("2.bias"), "missing '2.bias'"),
        (lambda s: s.update(extra=np.zeros(1)), "unexpected 'extra'"),
        (lambda s: s.update({"2.bias": np.zeros(4, np.float32)}), r"2.bias has shape \(4,\)"),
        (lambda s: s.update({"2.bias": np.zeros(3)}), "2.bias has .*float64 in the state, but .*float32"),
        (lambda s: s.update({"0.main.1.num_batches_tracked": np.zeros((), np.int32)}), "int32 .* int64"),
    ],
)
def test_state_that_does_not_fit_changes_nothing(change, message) -> None:
    model = small_model(rng=0)
    before, state = model.state_dict(), small_model(rng=1).state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(state)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_astype() -> None:
    model = small_model(rng=0).astype(np.float64)
    state = model.state_dict()
    assert {value.dtype for value in state.values()} == {np.dtype(np.float64), np.dtype(np.int64)}
    assert model(images(2, 2, 4, 4, dtype=np.float64)).dtype == np.float64
    with pytest.raises(TypeError, match="float16"):
        model.astype(np.float16)


def test_gradients_add_up() -> None:
    layer, x = nn.Linear(3, 2, rng=0), images(4, 3)
    grad = np.ones_like(layer(x))
    layer.backward(grad)
    once = layer.weight.grad.copy()
    layer.backward(grad)
    np.testing.assert_allclose(layer.weight.grad, 2 * once)
    layer.zero_grad()
    assert layer.weight.grad is None


def test_modes() -> None:
    model = nn.Sequential(nn.Dropout(0.5, rng=0), nn.Residual(nn.Dropout(0.5)))
    x = images(50, 50)
    assert all(not module.training for module in model.eval().modules())
    np.testing.assert_array_equal(model(x), 2 * x)
    assert all(module.training for module in model.train().modules())
    assert 0.4 < np.mean(model[0](x) == 0) < 0.6


def test_dropout_at_its_ends() -> None:
    x = images(4, 4)
    np.testing.assert_array_equal(nn.Dropout(0)(x), x)
    np.testing.assert_array_equal(nn.Dropout(1)(x), 0)


def test_input_gradient_is_left_out_where_it_is_not_needed() -> None:
    model = nn.Sequential(nn.Sequential(nn.Flatten(1, 2)), nn.Flatten(), nn.Linear(32, 3, rng=0), nn.ReLU())
    x, grad = images(2, 2, 4, 4), images(2, 3)
    model(x)
    assert model.backward(grad).shape == x.shape
    wanted = model[2].weight.grad
    model.zero_grad()
    model.require_input_grad(False)
    assert model.backward(grad) is None
    np.testing.assert_array_equal(model[2].weight.grad, wanted)
    model.require_input_grad()
    assert model.backward(grad).shape == x.shape


def test_inputs_are_never_written() -> None:
    x = images(2, 2, 6, 6)
    before = x.copy()
    for layer in (nn.ReLU(True), nn.Dropout(0.5, True), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.AvgPool2d(2)):
        y = layer(x)
        grad = np.ones_like(y)
        layer.backward(grad)
        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(grad, 1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(3),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.ReLU(),
        nn.GlobalAvgPool2d(),
        nn.Flatten(),
    ],
    ids=repr,
)
def test_any_strides(layer) -> None:
    base = images(4, 6, 5, 3)
    x = base.transpose(0, 3, 2, 1)[::2, :, ::-1]
    y = layer(np.ascontiguousarray(x))
    grad = images(*y.shape)
    wanted = layer.backward(grad)
    for variant in (x, np.asfortranarray(x), x.astype(">f4")):
        variant.flags.writeable = False
        np.testing.assert_array_equal(layer(variant), y)
        np.testing.assert_array_equal(layer.backward(np.asfortranarray(grad)), wanted)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(2, 3, 2), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.GlobalAvgPool2d()],
    ids=repr,
)
def test_empty_batch(layer) -> None:
    y = layer(np.zeros((0, 2, 4, 4), np.float32))
    assert len(y) == 0
    assert layer.backward(y).shape == (0, 2, 4, 4)
    assert all((p.grad == 0).all() for p in layer.parameters())


def test_empty_batch_in_evaluation() -> None:
    layer = nn.BatchNorm2d(2).eval()
    assert layer.backward(layer(np.zeros((0, 2, 4, 4), np.float32))).shape == (0, 2, 4, 4)
    assert (layer.weight.grad == 0).all()


def test_models_can_be_copied() -> None:
    model, x = small_model(rng=0), images(2, 2, 4, 4)
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(model(x), twin(x))
    twin[2].weight.data[:] = 0
    assert model[2].weight.data.any()


# -- initial values and determinism ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (nn.Conv2d(16, 32, 3, rng=0), 16 * 9),
        (nn.Conv2d(16, 32, 3, groups=4, rng=0), 4 * 9),
        (nn.ConvTranspose2d(16, 32, 3, rng=0), 32 * 9),
        (nn.Linear(50, 80, rng=0), 50),
    ],
    ids=repr,
)
def test_initial_values(layer, fan_in) -> None:
    """Uniform in ±1/√fan_in: the extremes come near the bounds, the variance is a third of their square."""
    bound = fan_in**-0.5
    weight = layer.weight.data
    assert 0.98 * bound < np.abs(weight).max() <= bound * (1 + 1e-6)
    assert np.var(weight) == pytest.approx(bound**2 / 3, rel=0.1)
    assert abs(weight.mean()) < bound / 10
    assert 0.5 * bound < np.abs(layer.bias.data).max() <= bound * (1 + 1e-6)


def test_seeds() -> None:
    for make in (lambda rng: nn.Conv2d(2, 3, 3, rng=rng), lambda rng: nn.models.lenet5(rng=rng)):
        first, again, other = (make(seed).state_dict() for seed in (0, 0, 1))
        for name, value in first.items():
            np.testing.assert_array_equal(value, again[name])
            assert not (value == other[name]).all()
    model = nn.models.digits_cnn(rng=0)
    assert not (model[0].weight.data.ravel()[:8] == model[2].weight.data.ravel()[:8]).any()
    double = nn.models.digits_cnn(rng=0, dtype=np.float64)
    np.testing.assert_array_equal(double[0].weight.data.astype(np.float32), model[0].weight.data)
    np.testing.assert_array_equal(*(nn.Dropout(rng=np.random.default_rng(5))(np.ones(20)) for _ in range(2)))


@pytest.mark.skipif(get_num_threads() < 2, reason="there is one thread only")
@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(5),
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1),
        nn.Conv2d(5, 7, 3, padding=1),
        nn.GlobalAvgPool2d(),
    ],
    ids=repr,
)
def test_same_bits_for_any_number_of_threads(layer) -> None:
    x, threads, results = images(9, 5, 47, 41), get_num_threads(), []  # enough pixels for threads to be used
    grad = images(*layer(x).shape)
    try:
        for n in (1, 2):
            set_num_threads(n)
            layer.zero_grad()
            results.append([layer(x), layer.backward(grad), *(p.grad for p in layer.parameters())])
    finally:
        set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


# -- what is wrong -----------------------------------------------------------------------------------------------------

X = np.zeros((2, 3, 8, 8), np.float32)

BAD_CALLS = [
    (lambda: nn.Conv2d(3, 4, 3)(X[0]), ValueError, "4 dimensions"),
    (lambda: nn.Conv2d(2, 4, 3)(X), ValueError, "3 channels.*takes 2"),
    (lambda: nn.Conv2d(3, 4, 9)(X), ValueError, "less than 1"),
    (lambda: nn.Conv2d(3, 4, 3)(X.astype(int)), TypeError, "astype"),
    (lambda: nn.Conv2d(3, 4, 3)(X.tolist()), TypeError, "list"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels=3 must be divisible by groups=2"),
    (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, "out_channels=3 must be divisible by groups=2"),
    (lambda: nn.Conv2d(3, 4, 0), ValueError, "kernel_size"),
    (lambda: nn.Conv2d(3.0, 4, 3), TypeError, "in_channels"),
    (lambda: nn.Conv2d(3, 4, 3, padding=-1), ValueError, "padding"),
    (lambda: nn.Conv2d(3, 4, 3, padding="full"), ValueError, "padding='full'"),
    (lambda: nn.Conv2d(3, 4, 3, dtype=np.float16), TypeError, "dtype"),
    (lambda: nn.Conv2d(3, 4, 3, dtype="no"), TypeError, "dtype"),
    (lambda: nn.ConvTranspose2d(2, 4, 3)(X), ValueError, "3 channels"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, padding="same"), ValueError, "numbers"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, output_padding=1)(X), ValueError, "output_padding"),
    (lambda: nn.Linear(3, 0), ValueError, "out_features"),
    (lambda: nn.Linear(3, 4)(X), ValueError, "2 dimensions"),
    (lambda: nn.Linear(3, 4)(X[0, 0]), ValueError, "8 features.*takes 3"),
    (lambda: nn.BatchNorm2d(4)(X), ValueError, r"\(2, 3, 8, 8\)"),
    (lambda: nn.BatchNorm2d(3)(X[:1, :, :1, :1]), ValueError, "more than 1"),
    (lambda: nn.BatchNorm2d(3, eps=-1), ValueError, "eps"),
    (lambda: nn.BatchNorm2d(3, momentum=2), ValueError, "momentum"),
    (lambda: nn.MaxPool2d(2, padding=2), ValueError, "half"),
    (lambda: nn.MaxPool2d(9)(X), ValueError, "too large"),
    (lambda: nn.MaxPool2d(2, padding=1, dilation=3)(X[:, :, :2, :2]), ValueError, "no pixel"),
    (lambda: nn.MaxPool2d(2, stride=0), ValueError, "stride"),
    (lambda: nn.MaxPool2d(2.0), TypeError, "kernel_size"),
    (lambda: nn.AvgPool2d(2, divisor_override=0), ValueError, "divisor_override"),
    (lambda: nn.AvgPool2d(2)(X[:, :0]), ValueError, r"\(2, 0, 8, 8\)"),
    (lambda: nn.GlobalAvgPool2d()(X[0]), ValueError, "4 dimensions"),
    (lambda: nn.Dropout(1.5), ValueError, "from 0 to 1"),
    (lambda: nn.Dropout(float("nan")), ValueError, "nan"),
    (lambda: nn.Dropout("half"), TypeError, "half"),
    (lambda: nn.Flatten(1.0), TypeError, "start_dim"),
    (lambda: nn.Flatten(2, 1)(X), ValueError, "dimensions 2 to 1"),
    (lambda: nn.Sequential(nn.ReLU(), max), TypeError, "modules"),
    (lambda: nn.Residual(nn.Conv2d(3, 4, 1))(X), ValueError, "main path"),
    (lambda: nn.models.lenet5(image_size=8), ValueError, "at least 12 x 12"),
    (lambda: nn.models.digits_cnn(num_classes=0), ValueError, "out_features"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS)
def test_bad_calls(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


LAYERS = [
    nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2),
    nn.GlobalAvgPool2d(), nn.Dropout(), nn.Flatten(),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_backward_needs_forward_and_the_right_shape(layer) -> None:
    with pytest.raises(RuntimeError, match="before forward"):
        layer.backward(X)
    y = layer(X)
    with pytest.raises(ValueError, match="grad_output has shape"):
        layer.backward(y[:1])
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_a_layer_stands_at_one_place() -> None:
    relu = nn.ReLU()
    with pytest.raises(ValueError, match="twice"):
        nn.Sequential(nn.Flatten(), nn.Sequential(relu), relu)
    with pytest.raises(ValueError, match="twice"):
        nn.Residual(relu, relu)


def test_repr() -> None:
    assert repr(nn.Sequential(nn.Residual(nn.Conv2d(1, 1, 3, padding=1, bias=False)), nn.Dropout())) == (
        "Sequential(\n"
        "  (0): Residual(\n"
        "    (main): Conv2d(1, 1, kernel_size=(3, 3), padding=1, bias=False)\n"
        "  )\n"
        "  (1): Dropout(p=0.5)\n"
        ")"
    )
    assert repr(nn.MaxPool2d(3, 2, ceil_mode=True)) == "MaxPool2d(kernel_size=(3, 3), stride=(2, 2), ceil_mode=True)"
    assert repr(nn.BatchNorm2d(4, affine=False)) == "BatchNorm2d(4, affine=False)"
    assert repr(nn.Sequential()) == "Sequential()"
    assert repr(nn.Parameter(np.zeros(2))) == "Parameter(shape=(2,), dtype=float64)"
