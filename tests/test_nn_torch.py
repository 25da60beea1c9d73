"""Layers, losses, optimizers and a whole network beside torch's, where torch is installed."""

from __future__ import annotations

import contextlib
import inspect
import itertools

import numpy as np
import pytest

import numbaconv
from numbaconv import nn

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)


def compare(ours, theirs, x: np.ndarray, tolerance: float = 1e-10) -> None:
    """Forward, backward, parameter gradients and buffers of two layers with the same state."""
    theirs = theirs.double() if x.dtype == np.float64 else theirs
    if ours.state_dict():
        ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    tx = torch.from_numpy(x.copy()).requires_grad_()
    ty = theirs(tx)
    y = ours(x)
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(y, ty.detach().numpy(), **close)
    assert y.dtype == x.dtype
    grad = np.random.default_rng(1).standard_normal(y.shape).astype(x.dtype)
    ty.backward(torch.from_numpy(grad))
    np.testing.assert_allclose(ours.backward(grad), tx.grad.numpy(), **close)
    gradients = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    assert [name for name, _ in ours.named_parameters()] == list(gradients)
    for name, parameter in ours.named_parameters():
        np.testing.assert_allclose(parameter.grad, gradients[name], err_msg=name, **close)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], value.numpy(), err_msg=name, **close)


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        ((3, 4), {"kernel_size": 3}),
        ((3, 4), {"kernel_size": (3, 5), "stride": 2, "padding": (1, 2)}),
        ((4, 6), {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2}),
        ((4, 4), {"kernel_size": (3, 5), "padding": "same", "groups": 4, "bias": False}),
        ((1, 2), {"kernel_size": 7, "padding": 3, "stride": (3, 1)}),
    ],
    ids=str,
)
def test_conv(channels, options) -> None:
    x = RNG.standard_normal((2, channels[0], 9, 8))
    compare(nn.Conv2d(*channels, **options, dtype=np.float64), torch.nn.Conv2d(*channels, **options), x)


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        ((3, 4), {"kernel_size": 3}),
        ((4, 6), {"kernel_size": (3, 2), "stride": (2, 3), "padding": 1, "output_padding": (1, 2), "groups": 2}),
        ((2, 2), {"kernel_size": 3, "stride": 2, "padding": (2, 1), "dilation": 2, "bias": False}),
        ((2, 2), {"kernel_size": 2, "stride": 1, "output_padding": 1, "dilation": 3}),
        ((2, 2), {"kernel_size": 2, "stride": 2, "padding": 1, "output_padding": 2, "dilation": 3}),
    ],
    ids=str,
)
def test_conv_transpose(channels, options) -> None:
    x = RNG.standard_normal((2, channels[0], 4, 5))
    ours = nn.ConvTranspose2d(*channels, **options, dtype=np.float64)
    compare(ours, torch.nn.ConvTranspose2d(*channels, **options), x)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias) -> None:
    x = RNG.standard_normal((5, 7))
    compare(nn.Linear(7, 3, bias, dtype=np.float64), torch.nn.Linear(7, 3, bias), x)


WINDOWS = list(itertools.product([2, 3, (3, 2)], [None, 1, (2, 3)], [0, 1], [False, True]))


@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode"), WINDOWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling(kernel, stride, padding, ceil_mode, dtype) -> None:
    x = RNG.integers(-3, 4, (2, 3, 8, 9)).astype(dtype)  # with many ties
    options = {"ceil_mode": ceil_mode}
    tolerance = 2e-6 if dtype is np.float32 else 1e-12
    for dilation in (1, 2):
        ours, theirs = (m.MaxPool2d(kernel, stride, padding, dilation, **options) for m in (nn, torch.nn))
        compare(ours, theirs, x, tolerance)
    for options["count_include_pad"] in (True, False):
        compare(*(m.AvgPool2d(kernel, stride, padding, **options) for m in (nn, torch.nn)), x, tolerance)
    compare(
        *(m.AvgPool2d(kernel, stride, padding, ceil_mode, divisor_override=5) for m in (nn, torch.nn)), x, tolerance
    )


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_max_pool_of_special_values(value) -> None:
    x = RNG.standard_normal((1, 2, 8, 8)).astype(np.float32)
    x[0, 0, 2:5, 3:6] = value
    x[0, 1] = value
    compare(nn.MaxPool2d(3, 2, 1), torch.nn.MaxPool2d(3, 2, 1), x)


def test_global_pooling_relu_and_flatten() -> None:
    x = RNG.standard_normal((2, 3, 4, 5))
    flat = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    compare(nn.GlobalAvgPool2d(), flat, x)
    x[0, 0, 0, 0] = 0
    compare(nn.ReLU(), torch.nn.ReLU(), x)
    compare(nn.Flatten(), torch.nn.Flatten(), x)
    compare(nn.Flatten(0, 2), torch.nn.Flatten(0, 2), x)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None, "eps": 0.1}], ids=str
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_norm(mode, options, dtype) -> None:
    ours, theirs = nn.BatchNorm2d(3, **options, dtype=dtype), torch.nn.BatchNorm2d(3, **options)
    for batch in range(3):  # three, so that the running statistics have a history
        x = (RNG.standard_normal((4, 3, 5, 2)) * [[[[3.0]], [[0.1]], [[1.0]]]] + batch).astype(dtype)
        if batch == 2 and mode == "eval":
            ours.eval(), theirs.eval()
        ours.zero_grad(), theirs.zero_grad()
        compare(ours, theirs, x, 1e-10 if dtype is np.float64 else 2e-5)


def test_batch_norm_of_a_large_mean() -> None:
    x = RNG.standard_normal((8, 2, 4, 4)) + 1e6
    compare(nn.BatchNorm2d(2, dtype=np.float64), torch.nn.BatchNorm2d(2), x, 1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy(smoothing) -> None:
    logits, target = RNG.standard_normal((6, 4)) * 50, np.array([0, 3, 1, 1, 2, 0])
    ours, theirs = nn.CrossEntropyLoss(smoothing), torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    prediction = torch.from_numpy(logits).requires_grad_()
    loss = theirs(prediction, torch.from_numpy(target))
    loss.backward()
    assert ours(logits, target) == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(ours.backward(), prediction.grad.numpy(), atol=1e-15)


def test_mean_squared_error() -> None:
    x, target = RNG.standard_normal((2, 6, 4))
    prediction = torch.from_numpy(x).requires_grad_()
    loss = torch.nn.MSELoss()(prediction, torch.from_numpy(target))
    loss.backward()
    ours = nn.MSELoss()
    assert ours(x, target) == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(ours.backward(), prediction.grad.numpy(), atol=1e-15)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ("SGD", {"lr": 0.1, "momentum": 0.5, "dampening": 0.3}),
        ("Adam", {}),
        ("Adam", {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
        ("AdamW", {}),
        ("AdamW", {"lr": 0.05, "weight_decay": 0.5}),
    ],
    ids=str,
)
def test_optimizers(name, options) -> None:
    start, gradients = RNG.standard_normal((3, 4)), RNG.standard_normal((5, 3, 4))
    ours, theirs = nn.Parameter(start.copy()), torch.nn.Parameter(torch.from_numpy(start.copy()))
    unused = nn.Parameter(start.copy())
    optimizer, other = getattr(nn, name)(**options), getattr(torch.optim, name)([theirs], **options)
    optimizer.bind([ours, unused])
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.copy(), torch.from_numpy(gradient.copy())
        optimizer.step()
        other.step()
        np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(ours.grad, gradient)
    np.testing.assert_array_equal(unused.data, start)


ONE_CYCLE = {"max_lr": 0.2, "total_steps": 35, "pct_start": 0.6, "div_factor": 5, "final_div_factor": 10}


@pytest.mark.parametrize(
    ("ours", "name", "options", "each"),
    [
        (nn.StepLR(3, gamma=0.5), "StepLR", {"step_size": 3, "gamma": 0.5}, "epoch"),
        (nn.MultiStepLR([2, 5]), "MultiStepLR", {"milestones": [2, 5]}, "epoch"),
        (nn.CosineLR(eta_min=0.01), "CosineAnnealingLR", {"T_max": 35, "eta_min": 0.01}, "batch"),
        (nn.OneCycleLR(), "OneCycleLR", {"max_lr": 0.2, "total_steps": 35}, "batch"),
        (nn.OneCycleLR(0.6, 5, 10), "OneCycleLR", ONE_CYCLE, "batch"),
        (nn.LinearWarmup(2, None, 0.1), "LinearLR", {"start_factor": 0.1, "total_iters": 10}, "batch"),
    ],
    ids=str,
)
def test_schedules(ours, name, options, each) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    theirs = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    for step in range(35):
        assert ours(0.2, step, 35, 5) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        if each == "batch" or step % 5 == 4:
            optimizer.step()
            theirs.step()


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 100.0])
def test_clip_grad_norm(max_norm) -> None:
    gradients = [RNG.standard_normal(shape) for shape in ((3, 4), (5,), ())]
    ours = [nn.Parameter(np.zeros_like(gradient)) for gradient in gradients]
    theirs = [torch.nn.Parameter(torch.zeros(gradient.shape, dtype=torch.float64)) for gradient in gradients]
    for one, other, gradient in zip(ours, theirs, gradients, strict=True):
        one.grad, other.grad = np.array(gradient), torch.from_numpy(np.array(gradient))
    norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm).item()
    assert nn.clip_grad_norm([*ours, nn.Parameter(np.zeros(2))], max_norm) == pytest.approx(norm, rel=1e-12)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.grad, other.grad.numpy(), rtol=1e-12)


class Block(torch.nn.Module):
    """A residual block with the names of ours."""

    def __init__(self, main, shortcut) -> None:
        super().__init__()
        self.main = main
        if shortcut is not None:
            self.shortcut = shortcut

    def forward(self, x):
        return self.main(x) + (self.shortcut(x) if hasattr(self, "shortcut") else x)


def translate(module: nn.Module):
    """Our model built of torch's layers, with the same weights."""

    def build(m):
        match m:
            case nn.Sequential():
                return torch.nn.Sequential(*map(build, m))
            case nn.Residual():
                return Block(build(m.main), None if m.shortcut is None else build(m.shortcut))
            case nn.Conv2d():
                options = (m.kernel_size, m.stride, m.padding, m.dilation, m.groups, m.bias is not None)
                return torch.nn.Conv2d(m.in_channels, m.out_channels, *options)
            case nn.BatchNorm2d():
                return torch.nn.BatchNorm2d(m.num_features)
            case nn.Linear():
                return torch.nn.Linear(m.in_features, m.out_features)
            case nn.MaxPool2d():
                return torch.nn.MaxPool2d(m.kernel_size)
            case nn.GlobalAvgPool2d():
                return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
            case nn.ReLU():
                return torch.nn.ReLU()
            case nn.Flatten():
                return torch.nn.Flatten()

    theirs = build(module).to(torch.float64 if module.dtype == np.float64 else torch.float32)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in module.state_dict().items()})
    return theirs


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("digits_cnn", (4, 1, 8, 8)),
        ("lenet5", (2, 1, 28, 28)),
        ("mnist_cnn", (2, 1, 28, 28)),
        ("resnet20", (2, 3, 32, 32)),
    ],
)
@pytest.mark.parametrize("algorithm", ["direct", "auto"])
def test_models(name, shape, algorithm) -> None:
    model = nn.models.MODELS[name](rng=0, dtype=np.float64)
    with chosen(algorithm):
        compare(model, translate(model), RNG.standard_normal(shape), 1e-9)


@contextlib.contextmanager
def chosen(algorithm):
    """With Winograd's algorithm, where it is chosen, or without."""
    numbaconv.set_algorithm(algorithm)
    try:
        yield
    finally:
        numbaconv.set_algorithm("direct")


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("algorithm", ["direct", "auto"])
def test_residual_blocks(algorithm, relu) -> None:
    def conv(taps: int = 3) -> nn.Conv2d:
        return nn.Conv2d(16, 16, taps, padding=taps // 2, bias=False, dtype=np.float64, rng=taps)

    def path() -> nn.Sequential:
        norms = [nn.BatchNorm2d(16, dtype=np.float64) for _ in range(2)]
        return nn.Sequential(conv(), norms[0], nn.ReLU(), conv(), norms[1])

    blocks = [
        nn.Residual(path()), nn.Residual(path(), conv(1)), nn.Residual(nn.Sequential(conv(), nn.Residual(path()))),
        nn.Residual(nn.Residual(path()), nn.Sequential(nn.Residual(conv()))),
    ]  # fmt: skip
    layers = [layer for block in blocks for layer in (block, *[nn.ReLU()] * relu)]
    model = nn.Sequential(conv(), *layers)
    with chosen(algorithm):
        compare(model, translate(model), RNG.standard_normal((3, 16, 9, 11)), 1e-9)


def test_training_follows_torch() -> None:
    model = nn.models.digits_cnn(rng=0, dtype=np.float64)
    theirs = translate(model)
    trainer = nn.Trainer(model, nn.SGD(lr=0.1, momentum=0.9))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        x, y = RNG.standard_normal((8, 1, 8, 8)), RNG.integers(0, 10, 8)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        assert trainer.step(x, y) == pytest.approx(loss.item(), rel=1e-10)
    for ours, other in zip(model.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(ours.data, other.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_signatures() -> None:
    """The parameters that torch's layers have too stand in the same order and have the same defaults."""
    for name in ("Conv2d", "ConvTranspose2d", "Linear", "BatchNorm2d", "MaxPool2d", "AvgPool2d", "Dropout", "Flatten"):
        ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (nn, torch.nn))
        positional = [parameter for parameter in ours.values() if parameter.kind is not parameter.KEYWORD_ONLY]
        assert [p.name for p in positional] == list(theirs)[: len(positional)], name
        for parameter in positional:
            assert parameter.default == theirs[parameter.name].default, (name, parameter)
