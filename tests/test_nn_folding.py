"""In evaluation, a convolution, its batch norm and its ReLU are one: the same results, whatever was changed since."""

from __future__ import annotations

import copy
import pickle
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cases import FORMS, INTERPRETED, PLAIN, forget_plans, only, random_cases

from numbaconv import nn
from numbaconv import plan as planning
from numbaconv.execution import correlate
from numbaconv.jit import ALL
from numbaconv.kernels.elementwise import digest
from numbaconv.nn import folding
from numbaconv.plan import forward_plan, input_gradient_plan

# --- the kernels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [*FORMS, *PLAIN])
def test_every_form_writes_what_a_relu_makes_of_its_result(form: str) -> None:
    with only(form):
        for case in random_cases(12, 3 if INTERPRETED else 40, 10_000, (np.float32, np.float64), form=form):
            g, forms = case.geometry, planning.FORMS["direct"]
            x, w, b, c, z = case.arrays()
            for make, source, bias, shape in (
                (forward_plan, x, b, g.output_shape),
                (forward_plan, x, None, g.output_shape),
                (input_gradient_plan, z, c, g.input_shape),
            ):
                plain, rectified = (np.empty(shape, case.dtype) for _ in range(2))
                correlate(make, forms, g, source, w, bias, plain)
                correlate(make, forms, g, source, w, bias, rectified, relu=True)
                np.testing.assert_array_equal(rectified, np.maximum(plain, 0), str(case))


@pytest.mark.parametrize("form", ["channels", "planes", "plain"])
def test_not_a_number_stays_one(form: str) -> None:
    x, w = np.full((1, 2, 6, 9), -1, np.float32), np.ones((3, 2, 3, 3), np.float32)
    x[0, 0, 2, 4] = np.nan
    with only(form):
        conv = nn.Conv2d(2, 3, 3)
        conv.weight.data[:], conv.bias.data[:] = w, 0  # type: ignore[union-attr]
        y = nn.Sequential(conv, nn.ReLU()).eval()(x)
    wanted = np.zeros((1, 3, 4, 7), np.float32)
    wanted[:, :, :3, 2:5] = np.nan
    np.testing.assert_array_equal(y, wanted)


def test_a_digest_changes_with_every_bit() -> None:
    rng = np.random.default_rng(3)
    for size in (1, 5, 127, 128, 129, 1000):
        bits, found = rng.integers(0, 2**32, size, np.uint32), np.zeros(1, np.int64)
        digest.run(bits, found, ALL, 0, 1)
        before = found[0]
        for place in (0, size // 2, size - 1):
            for bit in range(32):
                bits[place] ^= np.uint32(1 << bit)
                digest.run(bits, found, ALL, 0, 1)
                assert found[0] != before
                bits[place] ^= np.uint32(1 << bit)
        digest.run(bits, found, ALL, 0, 1)
        assert found[0] == before
    swapped = np.array([1, 2] * 200, np.uint32)
    one, other = np.zeros((2, 1), np.int64)
    digest.run(swapped, one, ALL, 0, 1)
    digest.run(np.roll(swapped, 1), other, ALL, 0, 1)
    assert one[0] != other[0]


# --- layers -----------------------------------------------------------------------------------------------------------


def block(dtype: Any = np.float32, bias: bool = True, affine: bool = True, relu: bool = True, **how: Any) -> Any:
    """A convolution, a batch norm of statistics that are not trivial, and a ReLU, in evaluation."""
    rng = np.random.default_rng(5)
    conv = nn.Conv2d(4, 8, 3, padding=1, bias=bias, dtype=dtype, rng=1, **how)
    norm = nn.BatchNorm2d(8, affine=affine, dtype=dtype)
    for array in [norm.running_mean] + ([norm.weight.data, norm.bias.data] if affine else []):  # type: ignore
        array[:] = rng.normal(0, 2, 8)
    norm.running_var[:] = rng.uniform(0.1, 3, 8)  # type: ignore[index]
    return nn.Sequential(conv, norm, *([nn.ReLU()] if relu else [])).eval()


def one_by_one(model: Any, x: np.ndarray) -> np.ndarray:
    for layer in model:
        x = layer(x)
    return x


def images(dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, 4, 7, 9)).astype(dtype)


def assert_same(model: Any, dtype: Any = np.float32, folded: bool = True) -> None:
    """It computes what its layers do, and did so in one sweep if ``folded``."""
    x, tolerance = images(dtype), 1e-5 if dtype == np.float32 else 1e-13
    for _ in range(2):  # what is held is used the second time
        y = model(x)
        assert (model._in_evaluation[0]._held is not None) is folded
        np.testing.assert_allclose(y, one_by_one(model, x), tolerance, tolerance)
        assert y.dtype == dtype


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_sweep_is_what_the_layers_are(dtype: Any, bias: bool, affine: bool, relu: bool) -> None:
    assert_same(block(dtype, bias, affine, relu), dtype)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(4, 6, 3, rng=0)],
        lambda: [nn.Conv2d(4, 6, 3, rng=0), nn.ReLU()],
        lambda: [nn.Conv2d(4, 6, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2)],
        lambda: [nn.Conv2d(4, 6, 3, rng=0), nn.MaxPool2d(2), nn.ReLU()],
        lambda: [nn.Conv2d(4, 6, 3, stride=2, groups=2, rng=0), nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1, rng=1)],
        lambda: [nn.ReLU(), nn.Conv2d(4, 6, 3, dilation=2, padding="same", rng=0), nn.ReLU(), nn.ReLU()],
        lambda: [nn.Conv2d(4, 6, 3, rng=0), nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()],
        lambda: [nn.Flatten(), nn.Linear(252, 20, rng=0), nn.ReLU(), nn.Linear(20, 3, rng=0), nn.ReLU()],
    ],
)
def test_layers_of_every_order(layers: Callable[[], list[nn.Module]]) -> None:
    model, x = nn.Sequential(*layers()), images()
    wanted = one_by_one(model.eval(), x)
    np.testing.assert_allclose(model(x), wanted, 1e-5, 1e-5)
    grad = np.random.default_rng(1).standard_normal(wanted.shape).astype(np.float32)
    found = model.backward(grad)
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    for layer in reversed(model.layers):
        grad = layer.backward(grad)
    np.testing.assert_allclose(found, grad, 1e-5, 1e-5)
    for a, b in zip(gradients, model.parameters(), strict=True):
        np.testing.assert_allclose(a, b.grad, 1e-4, 1e-5)


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "a weight in place": lambda conv, norm: conv.weight.data.__setitem__((3, 1, 2, 2), 9),
    "the sign of a zero": lambda conv, norm: conv.weight.data.__setitem__(..., -0.0),
    "a bias in place": lambda conv, norm: conv.bias.data.__iadd__(9),
    "another weight": lambda conv, norm: setattr(conv.weight, "data", conv.weight.data[::-1].copy()),
    "another parameter": lambda conv, norm: setattr(conv, "weight", nn.Parameter(conv.weight.data * 2)),
    "no bias": lambda conv, norm: setattr(conv, "bias", None),
    "gamma": lambda conv, norm: norm.weight.data.__imul__(3),
    "beta": lambda conv, norm: norm.bias.data.__iadd__(3),
    "mean": lambda conv, norm: norm.running_mean.__iadd__(1),
    "variance": lambda conv, norm: norm.running_var.__imul__(4),
    "eps": lambda conv, norm: setattr(norm, "eps", 1.0),
    "padding": lambda conv, norm: setattr(conv, "padding", 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change: str) -> None:
    model = block()
    before = model(images())
    CHANGES[change](model[0], model[1])
    assert_same(model)
    assert before.shape != model(images()).shape or not np.allclose(before, model(images()))


def test_nothing_is_packed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = block(), []
    usual = folding.PackedWeight
    monkeypatch.setattr(folding, "PackedWeight", lambda *arguments: calls.append(1) or usual(*arguments))
    for seed in range(4):
        model(images(seed=seed))
    assert len(calls) == 1


def test_training_and_evaluation_follow_each_other() -> None:
    model = nn.models.resnet20(in_channels=4, image_size=8, rng=0)
    trainer, x = nn.Trainer(model, nn.SGD(0.1)), images()[:, :, :7, :8]
    x = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0)))
    for _ in range(3):
        model.eval()
        wanted = copy.deepcopy(model)
        for module in wanted.modules():
            if isinstance(module, nn.Sequential):
                module._in_evaluation = module._in_training
        np.testing.assert_allclose(model(x), wanted(x), 1e-4, 1e-4)
        model.train()
        trainer.step(x, np.array([1, 2]))
    first = model.layers[0]
    assert isinstance(first, nn.Conv2d)


def test_a_layer_that_is_still_in_training_is_not_folded() -> None:
    model = block()
    model[1].train()
    before = model[1].running_mean.copy()
    model(images())
    assert not np.array_equal(model[1].running_mean, before)
    assert model._in_evaluation[0]._held is None
    model[1].eval()
    model(images())
    assert model._in_evaluation[0]._held is not None
    model[0].train()
    model(images())
    assert model._in_evaluation[0]._held is None


def test_without_running_statistics_nothing_is_folded() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, rng=0), nn.BatchNorm2d(8, track_running_stats=False)).eval()
    assert_same(model, folded=False)


def test_what_overflows_is_not_folded() -> None:
    model = block()
    model[0].weight.data[:] = 1e30
    model[1].running_var[:] = 1e-30
    model[1].eps = 0.0
    x = images() * np.float32(1e-30)
    np.testing.assert_array_equal(model(x), one_by_one(model, x))
    assert np.isfinite(model(x)).all()


def test_weights_that_are_not_finite_are_not_folded() -> None:
    model = block()
    model[0].weight.data[2, 0, 0, 0] = np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isnan(model(images())), np.isnan(one_by_one(model, images())))


def test_layers_that_do_not_fit_say_so() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(7)).eval()
    with pytest.raises(ValueError, match=r"\(N, 7, H, W\)"):
        model(images())
    with pytest.raises(ValueError, match="takes 4"):
        block()(np.zeros((1, 3, 8, 8), np.float32))


def test_weights_that_kernels_do_not_take_as_they_are() -> None:
    model = block()
    model[0].weight.data = np.asfortranarray(model[0].weight.data)
    assert_same(model, folded=False)
    model[0].weight.data = np.ascontiguousarray(model[0].weight.data)
    model[0].weight.data.flags.writeable = False
    assert_same(model, folded=False)


def test_copies_hold_nothing_that_was_made_of_the_weights() -> None:
    model = block()
    model(images())
    size = len(pickle.dumps(block()))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._in_evaluation[0]._held is None
        assert other._in_evaluation[0].conv is other[0]
        np.testing.assert_array_equal(other(images()), model(images()))
    assert len(pickle.dumps(model)) == size


def test_the_result_is_new_every_time() -> None:
    model = block()
    first, second = model(images()), model(images())
    assert not np.shares_memory(first, second)
    first[:] = 7
    assert_same(model)


def test_subclasses_are_run_as_they_are() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: np.ndarray) -> np.ndarray:  # type: ignore[override]
            return 2 * super().forward(x)

    class Shifted(nn.BatchNorm2d):
        def forward(self, x: np.ndarray) -> np.ndarray:  # type: ignore[override]
            return super().forward(x) + 1

    for training in (True, False):
        model = nn.Sequential(Doubled(4, 8, 3, rng=0), Shifted(8), nn.ReLU()).train(training)
        other = copy.deepcopy(model)
        np.testing.assert_array_equal(model(images()), one_by_one(other, images()))


def gradients(model: Any, grad: np.ndarray) -> list[np.ndarray]:
    model.zero_grad()
    return [model.backward(grad), *[parameter.grad for parameter in model.parameters()]]


def test_backward_is_of_the_forward_pass_that_was() -> None:
    model, other, x = block(), block(), images()
    grad = np.random.default_rng(1).standard_normal((2, 8, 7, 9)).astype(np.float32)
    other[0].forward(x)
    wanted = grad
    one_by_one(other, x)
    for layer in reversed(other.layers):
        wanted = layer.backward(wanted)
    model(x)
    model.train()
    found = gradients(model, grad)
    np.testing.assert_allclose(found[0], wanted, 1e-5, 1e-5)
    for a, b in zip(found[1:], other.parameters(), strict=True):
        np.testing.assert_allclose(a, b.grad, 1e-4, 1e-4)
    assert model[0].training
    assert model[1].training
    assert model[1].num_batches_tracked == 0
    np.testing.assert_array_equal(model[1].running_mean, other[1].running_mean)
    for again, before in zip(gradients(model, grad), found, strict=True):
        np.testing.assert_array_equal(again, before)


def test_what_was_changed_between_forward_and_backward_is_refused() -> None:
    model = block()
    y = model(images())
    model[0].weight.data *= -1
    with pytest.raises(RuntimeError, match="changed between forward and backward"):
        model.backward(y)
    assert not model[0].training
    assert all(parameter.grad is None for parameter in model.parameters())
    model(images())
    assert model.backward(y) is not None


def test_a_layer_forgets_the_batch_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model = block().train()
    y = model(images())
    model.eval()
    model(images())
    with pytest.raises(RuntimeError, match="before forward"):  # not the gradient of the batch in training
        model[1].backward(y)


def test_nothing_is_held_longer_than_it_is_of_use() -> None:
    def step() -> Any:
        return model._in_evaluation[0]

    model = block()
    for size in range(1, 9):
        model(images()[:, :, :, :size])
    assert len(step()._held.weight._held) <= 2
    x = weakref.ref(step()._saved[0])
    model.train()
    model(images())
    assert step()._held is None
    assert x() is None
    model.eval()
    model(images())
    model.astype(np.float64)
    assert step()._held is None
    with pytest.raises(RuntimeError, match="before forward"):
        model.backward(np.ones((2, 8, 7, 9)))


def test_images_of_another_dtype_are_computed_as_the_layers_do() -> None:
    model, x = block(), images(np.float64)
    y = model(x)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, one_by_one(model, x))
    half = images().astype(np.float16)
    np.testing.assert_allclose(model(half), one_by_one(model, half), 1e-5, 1e-5)


STRANGE: dict[str, Callable[[Any, Any], Any]] = {
    "no variance": lambda conv, norm: setattr(norm, "running_var", None),
    "one filter": lambda conv, norm: setattr(conv.weight, "data", conv.weight.data[:1].copy()),
    "fewer filters": lambda conv, norm: setattr(conv.weight, "data", conv.weight.data[:4].copy()),
    "more filters": lambda conv, norm: setattr(conv.weight, "data", np.ones((16, 4, 3, 3), np.float32)),
    "a flat weight": lambda conv, norm: setattr(conv.weight, "data", conv.weight.data.ravel()),
    "a bias of another shape": lambda conv, norm: setattr(conv.bias, "data", conv.weight.data),
    "a list as weight": lambda conv, norm: setattr(conv.weight, "data", [1.0]),
    "a list as mean": lambda conv, norm: setattr(norm, "running_mean", [0.0] * 8),
    "integers": lambda conv, norm: setattr(conv.weight, "data", np.ones((8, 4, 3, 3), int)),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_what_is_strange_is_left_to_the_layers(strange: str) -> None:
    def outcome(run: Callable[[], np.ndarray]) -> Any:
        try:
            with np.errstate(all="ignore"):
                return run()
        except (TypeError, ValueError) as error:
            return str(error)

    model = block()
    model(images())
    STRANGE[strange](model[0], model[1])
    found, wanted = outcome(lambda: model(images())), outcome(lambda: one_by_one(model, images()))
    assert model._in_evaluation[0]._held is None
    np.testing.assert_equal(found, wanted)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_forward_of_somebodys_own_is_called(layer: int) -> None:
    model, seen = block(), []
    usual = model[layer].forward

    def spy(x: np.ndarray, *rest: Any, **named: Any) -> np.ndarray:
        seen.append(x.shape)
        return usual(x, *rest, **named)

    wanted = model(images())
    model[layer].forward = spy
    np.testing.assert_allclose(model(images()), wanted, 1e-5, 1e-5)
    assert len(seen) == 1


def test_threads_that_share_a_model_get_their_own_images() -> None:
    model = block()
    inputs = [images(seed=seed) for seed in range(4)]
    wanted = [model(x).tobytes() for x in inputs]

    def check(thread: int) -> bool:
        return all(model(inputs[thread].copy()).tobytes() == wanted[thread] for _ in range(20 if INTERPRETED else 500))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(check, range(4)))
    finally:
        sys.setswitchinterval(interval)


def test_a_state_of_steps_that_are_made_otherwise_is_taken() -> None:
    model = block()
    state = model.__getstate__()
    assert not [name for name in state if "order" in name or "_in_" in name]
    other = nn.Sequential.__new__(nn.Sequential)
    other.__setstate__(state | {"_order": []})  # as an older version pickled them
    np.testing.assert_array_equal(other(images()), model(images()))


@pytest.fixture(autouse=True)
def _plans() -> Any:
    yield
    forget_plans()
