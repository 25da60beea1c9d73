"""Losses, optimizers and the trainer."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import nn

RNG = np.random.default_rng(0)


def stripes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 8×8 images of four kinds: rows, columns, diagonals, chequers."""
    rng = np.random.default_rng(seed)
    h, w = np.indices((8, 8))
    patterns = np.stack([h % 4 < 2, w % 4 < 2, (h + w) % 4 < 2, (h // 2 + w // 2) % 2 == 0])
    y = rng.integers(0, 4, count)
    x = patterns[y][:, None] + 0.5 * rng.standard_normal((count, 1, 8, 8))
    return x.astype(np.float32), y


def trainer(rng: int = 0, **options) -> nn.Trainer:
    return nn.Trainer(nn.models.digits_cnn(num_classes=4, rng=rng), nn.SGD(lr=0.05, momentum=0.9, **options))


# -- losses ------------------------------------------------------------------------------------------------------------


def test_cross_entropy_is_stable() -> None:
    loss = nn.CrossEntropyLoss()
    assert loss(np.array([[1e30, -1e30]], np.float32), np.array([0])) == 0
    assert np.isfinite(loss.backward()).all()
    assert loss(np.array([[0, 1000]], np.float32), np.array([0])) == 1000


BAD_TARGETS = [
    (np.array([0, 3]), ValueError, "from 0 to 2"),
    (np.array([-1, 0]), ValueError, "from 0 to 2"),
    (np.array([0, 1, 2]), ValueError, "2 predictions, but 3"),
    (np.array([[0], [1]]), ValueError, r"\(2, 1\)"),
    (np.array([0.0, 1.0]), TypeError, "integer labels, got dtype float64"),
    (np.array([True, False]), TypeError, "bool"),
    ([0, 1], TypeError, "list"),
]


@pytest.mark.parametrize(("target", "error", "message"), BAD_TARGETS)
def test_bad_targets(target, error, message) -> None:
    with pytest.raises(error, match=message):
        nn.CrossEntropyLoss()(np.zeros((2, 3), np.float32), target)


def test_bad_losses() -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        nn.CrossEntropyLoss(label_smoothing=1.5)
    with pytest.raises(ValueError, match="at least 1"):
        nn.CrossEntropyLoss()(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(ValueError, match="equal"):
        nn.MSELoss()(np.zeros(3), np.zeros(2))
    for loss in (nn.CrossEntropyLoss(), nn.MSELoss()):
        with pytest.raises(RuntimeError, match="before forward"):
            loss.backward()


# -- optimizers --------------------------------------------------------------------------------------------------------

BAD_OPTIMIZERS = [
    (lambda: nn.SGD(lr=-1), ValueError, "lr"),
    (lambda: nn.SGD(lr="fast"), TypeError, "lr"),
    (lambda: nn.SGD(lr=float("inf")), ValueError, "lr"),
    (lambda: nn.SGD(lr=1, momentum=-0.1), ValueError, "momentum"),
    (lambda: nn.SGD(lr=1, nesterov=True), ValueError, "nesterov"),
    (lambda: nn.SGD(lr=1, weight_decay=-1), ValueError, "weight_decay"),
    (lambda: nn.Adam(betas=(0.9, 1)), ValueError, "below 1"),
    (lambda: nn.Adam(betas=0.9), TypeError, "betas"),
    (lambda: nn.Adam(eps=-1), ValueError, "eps"),
    (lambda: nn.SGD(lr=1).step(), RuntimeError, "not bound"),
    (lambda: nn.SGD(lr=1).bind([]), ValueError, "no parameters"),
    (lambda: nn.SGD(lr=1).bind([1, 2]), TypeError, r"nn.Parameter, got 1 \(int\)"),
    (lambda: nn.SGD(lr=10**400), ValueError, "lr must be at least 0 and finite, got inf"),
    (lambda: nn.SGD(lr=-(10**5000)), ValueError, "got -inf"),
    (lambda: nn.clip_grad_norm([1], 1), TypeError, "nn.Parameter"),
    (lambda: nn.clip_grad_norm([], -1), ValueError, "max_norm"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_OPTIMIZERS)
def test_bad_optimizers(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("make", [lambda: nn.SGD(0.1, momentum=0.9), nn.Adam, nn.AdamW])
def test_optimizer_state_round_trip(make) -> None:
    data, gradients = RNG.standard_normal(5), RNG.standard_normal((6, 5))
    whole, parts = nn.Parameter(data.copy()), nn.Parameter(data.copy())
    one, two = make(), make()
    one.bind([whole])
    two.bind([parts])
    for i, gradient in enumerate(gradients):
        if i == 3:
            state = two.state_dict()
            two = make()
            two.bind([parts])
            two.load_state_dict(state)
        whole.grad = parts.grad = gradient
        one.step()
        two.step()
    np.testing.assert_array_equal(whole.data, parts.data)
    with pytest.raises(ValueError, match="other"):
        two.load_state_dict({"0.other": np.zeros(5)})
    with pytest.raises(ValueError, match="shape"):
        two.load_state_dict({name: np.zeros(7) for name in state})


def test_an_optimizer_serves_one_model() -> None:
    optimizer, model = nn.SGD(lr=0.1), nn.Linear(2, 2)
    nn.Trainer(model, optimizer)
    nn.Trainer(model, optimizer)
    with pytest.raises(ValueError, match="another model"):
        nn.Trainer(nn.Linear(2, 2), optimizer)


# -- the trainer -------------------------------------------------------------------------------------------------------


def test_learns() -> None:
    x, y = stripes(400)
    batches, epochs = [], []
    history = trainer().fit(
        x, y, epochs=5, validation=stripes(100, 1), seed=0, on_batch=batches.append, on_epoch=epochs.append
    )
    assert history == epochs
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4, 5]
    assert history[-1].accuracy > 0.97
    assert history[-1].validation_accuracy > 0.97
    assert history[-1].loss < history[0].loss / 3
    assert history[-1].images_per_second == pytest.approx(400 / history[-1].seconds)
    assert len(batches) == 5 * 13
    assert batches[12][:5] == (1, 5, 13, 13, 400)
    assert batches[-1].loss == history[-1].loss


@pytest.mark.parametrize("optimizer", [nn.Adam(lr=0.01), nn.AdamW(lr=0.01)], ids=repr)
def test_learns_with_every_layer(optimizer) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False, rng=0),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, rng=1), nn.ReLU()), nn.Conv2d(8, 8, 1, rng=2)),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(8, 8, 2, stride=2, rng=3),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2, rng=4),
        nn.Linear(128, 4, rng=5),
    )
    trainer = nn.Trainer(model, optimizer, nn.CrossEntropyLoss(label_smoothing=0.05))
    trainer.fit(*stripes(400), epochs=5, seed=0)
    assert trainer.evaluate(*stripes(100, 1)).accuracy > 0.95


def test_step_returns_the_loss_and_lowers_it() -> None:
    x, y = stripes(32)
    t = trainer()
    losses = [t.step(x, y) for _ in range(20)]
    assert type(losses[0]) is float
    assert losses[-1] < losses[0] / 2
    assert t.model.needs_input_grad
    assert t.model[0].needs_input_grad


def test_training_is_deterministic() -> None:
    x, y = stripes(100)
    runs = [trainer().fit(x, y, epochs=2, seed=seed)[-1].loss for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]
    one, two = trainer(), trainer()
    one.fit(x, y, epochs=1, batch_size=50, shuffle=False)
    two.step(x[:50], y[:50])
    two.step(x[50:], y[50:])
    np.testing.assert_array_equal(one.predict(x), two.predict(x))


def test_data_of_any_float_type() -> None:
    x, y = stripes(40)
    half = x.astype(np.float16)
    single = trainer().fit(half.astype(np.float32), y, seed=0)[0].loss
    for images in (half, half.astype(np.float64), np.asfortranarray(half), half.astype(">f8")):
        assert trainer().fit(images, y.astype(np.uint8), seed=0)[0].loss == single


def test_evaluation() -> None:
    x, y = stripes(70)
    t = trainer()
    t.fit(x, y, epochs=2, seed=0)
    t.model.train()
    logits = t.predict(x, batch_size=32)
    assert logits.shape == (70, 4)
    evaluation = t.evaluate(x, y, batch_size=32)
    assert evaluation.accuracy == np.mean(logits.argmax(1) == y)
    assert evaluation.loss == pytest.approx(nn.CrossEntropyLoss()(logits, y), rel=1e-6)
    again = t.evaluate(x, y)
    assert (again.loss, again.accuracy) == (pytest.approx(evaluation.loss, rel=1e-6), evaluation.accuracy)
    unsigned = t.evaluate(x, y.astype(np.uint64))
    np.testing.assert_array_equal(unsigned.confusion_matrix, evaluation.confusion_matrix)
    np.testing.assert_array_equal(unsigned.class_accuracy, evaluation.class_accuracy)
    matrix = evaluation.confusion_matrix
    assert matrix.shape == (4, 4)
    assert matrix.dtype == np.int64
    assert all(matrix[y[i], logits[i].argmax()] for i in range(70))
    np.testing.assert_array_equal(matrix.sum(1), np.bincount(y, minlength=4))
    np.testing.assert_array_equal(evaluation.class_accuracy, np.diag(matrix) / matrix.sum(1))
    assert all(module.training for module in t.model.modules())  # as it was before


def test_regression_has_no_accuracy() -> None:
    x = RNG.standard_normal((64, 3)).astype(np.float32)
    y = x @ np.array([[1], [-2], [0.5]], np.float32)
    t = nn.Trainer(nn.Linear(3, 1, rng=0), nn.SGD(lr=0.1), nn.MSELoss())
    history = t.fit(x, y, epochs=30, seed=0)
    assert history[-1].loss < 1e-3
    assert history[-1].accuracy is None
    assert t.evaluate(x, y).accuracy is None
    with pytest.raises(ValueError, match="no labels"):
        t.evaluate(x, y).confusion_matrix  # noqa: B018
    stopping = nn.EarlyStopping(monitor="validation_accuracy")
    with pytest.raises(ValueError, match="no labels"):
        t.fit(x, y, validation=(x, y), early_stopping=stopping)


def test_a_diverging_training_stops(recwarn) -> None:
    t = nn.Trainer(nn.models.digits_cnn(rng=0), nn.SGD(lr=1e30))
    with pytest.raises(FloatingPointError, match=r"the loss is nan in epoch 1, batch 2; the learning rate was 1e\+30"):
        t.fit(*stripes(64), epochs=2)
    assert not recwarn


GOOD_X, GOOD_Y = stripes(8)

BAD_DATA = [
    (GOOD_X, GOOD_Y[:7], ValueError, "8 images in x, but y has shape"),
    (GOOD_X[:0], GOOD_Y[:0], ValueError, "no images"),
    (GOOD_X.astype(np.uint8), GOOD_Y, TypeError, "uint8"),
    (GOOD_X, GOOD_Y.astype(float), TypeError, "integer labels"),
    (GOOD_X, GOOD_Y + 1, ValueError, "from 0 to 3"),
    (GOOD_X, GOOD_Y.tolist(), TypeError, "list"),
    (GOOD_X[:, 0], GOOD_Y, ValueError, "4 dimensions"),
    (np.repeat(GOOD_X, 3, axis=1), GOOD_Y, ValueError, "3 channels"),
    (GOOD_X[:, :, :6], GOOD_Y, ValueError, "features"),
]


@pytest.mark.parametrize(("x", "y", "error", "message"), BAD_DATA)
def test_bad_data(x, y, error, message) -> None:
    t = trainer()
    before = t.model.state_dict()
    for call in (
        lambda: t.fit(x, y),
        lambda: t.step(x, y),
        lambda: t.evaluate(x, y),
        lambda: t.fit(GOOD_X, GOOD_Y, validation=(x, y)),
    ):
        with pytest.raises(error, match=message):
            call()
    for name, value in t.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.0}, TypeError, "batch_size"),
        ({"validation": GOOD_X}, TypeError, "pair"),
        ({"seed": "x"}, TypeError, "seed must be a numpy.random.Generator"),
        ({"on_batch": 1}, TypeError, "on_batch must be callable, got 1"),
        ({"on_epoch": "x"}, TypeError, "on_epoch must be callable"),
        ({"augment": 3}, TypeError, "augment must be callable"),
        ({"augment": lambda images, rng: images[1:]}, TypeError, "augment must give"),
        ({"augment": lambda images, rng: images[:, :, 3:]}, ValueError, "features"),
        ({"schedule": 0.1}, TypeError, "schedule must be an instance of nn.Schedule"),
        ({"clip_norm": -1}, ValueError, "clip_norm"),
        ({"clip_norm": True}, TypeError, "clip_norm"),
        ({"early_stopping": 3}, TypeError, "nn.EarlyStopping"),
        ({"early_stopping": nn.EarlyStopping()}, ValueError, "needs validation data"),
        ({"checkpoint": 3}, TypeError, "nn.Checkpoint"),
        ({"checkpoint": "model.pt"}, ValueError, "must end in .safetensors or .npz"),
        ({"resume": "nowhere.npz"}, FileNotFoundError, "nowhere.npz"),
    ],
)
def test_bad_options(options, error, message) -> None:
    t = trainer()
    before = t.model.state_dict()
    with pytest.raises(error, match=message):
        t.fit(GOOD_X, GOOD_Y, **options)
    for name, value in t.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((max, nn.SGD(0.1)), TypeError, "model must be .*Module"),
        ((nn.Linear(2, 2), 0.1), TypeError, "optimizer must be .*Optimizer"),
        ((nn.Linear(2, 2), nn.SGD(0.1), max), TypeError, "loss must be .*Loss"),
        ((nn.ReLU(), nn.SGD(0.1)), ValueError, "no parameters"),
    ],
)
def test_bad_trainers(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        nn.Trainer(*arguments)
