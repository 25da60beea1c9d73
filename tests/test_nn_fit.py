"""What ``Trainer.fit`` can be asked for: schedules, augmentation, clipping, stopping early, a history."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_nn_training import stripes, trainer

from numbaconv import nn

X, Y = stripes(64)


def test_the_example_of_the_documentation(capsys) -> None:
    text = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    exec(code, {})
    out = capsys.readouterr().out.splitlines()
    assert out[19].startswith("20 ")
    assert float(out[20].split()[0]) > 0.95


# -- schedules ---------------------------------------------------------------------------------------------------------


def rates(schedule: nn.Schedule, epochs: int = 6, batches: int = 2, lr: float = 1.0) -> list[float]:
    return [round(schedule(lr, step, epochs * batches, batches), 6) for step in range(epochs * batches)]


def test_steps() -> None:
    assert rates(nn.StepLR(2, 0.5)) == [1] * 4 + [0.5] * 4 + [0.25] * 4
    assert rates(nn.MultiStepLR([1, 5])) == [1] * 2 + [0.1] * 8 + [0.01] * 2
    assert rates(nn.MultiStepLR([])) == [1] * 12


def test_curves() -> None:
    falling = rates(nn.CosineLR(), epochs=4, batches=1)
    assert falling == [1, pytest.approx((1 + 0.5**0.5) / 2, abs=1e-6), 0.5, pytest.approx(0.146447)]
    assert rates(nn.CosineLR(eta_min=0.5), lr=1.0)[6] == 0.75
    cycle = rates(nn.OneCycleLR(0.5, 4, 8), epochs=4, batches=5)
    assert cycle[0] == 0.25
    assert cycle[9] == max(cycle) == 1
    assert cycle[-1] == 0.25 / 8
    assert cycle[:10] == sorted(cycle[:10])
    assert cycle[9:] == sorted(cycle[9:], reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_one_cycle_of_few_steps(steps, share) -> None:
    assert all(0 < rate <= 1 for rate in rates(nn.OneCycleLR(share), epochs=steps, batches=1))


def test_warm_up_is_followed_by_a_schedule_that_begins_there() -> None:
    assert rates(nn.LinearWarmup(2, start_factor=0.2)) == [0.2, 0.4, 0.6, 0.8] + [1] * 8
    assert rates(nn.LinearWarmup(2, nn.CosineLR()))[4:] == rates(nn.CosineLR(), epochs=4)
    assert rates(nn.LinearWarmup(1.5, nn.StepLR(1)))[3:] == [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001]
    assert rates(nn.LinearWarmup(0, nn.StepLR(3))) == rates(nn.StepLR(3))
    assert len(set(rates(nn.LinearWarmup(100)))) == 12  # longer than the training


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.StepLR(0), ValueError, "step_size"),
        (lambda: nn.StepLR(True), TypeError, "step_size"),
        (lambda: nn.StepLR(1, gamma=2), ValueError, "gamma"),
        (lambda: nn.MultiStepLR(3), TypeError, "milestones"),
        (lambda: nn.MultiStepLR("12"), TypeError, "milestones"),
        (lambda: nn.MultiStepLR([3, 2]), ValueError, "ascending"),
        (lambda: nn.MultiStepLR([2, 2]), ValueError, "ascending"),
        (lambda: nn.CosineLR(eta_min=float("nan")), ValueError, "eta_min"),
        (lambda: nn.OneCycleLR(1.5), ValueError, "pct_start"),
        (lambda: nn.OneCycleLR(div_factor=0), ValueError, "div_factor"),
        (lambda: nn.LinearWarmup(-1), ValueError, "epochs"),
        (lambda: nn.LinearWarmup(1, after=0.1), TypeError, "Schedule"),
    ],
)
def test_bad_schedules(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


def test_the_trainer_follows_a_schedule() -> None:
    seen = []
    t = trainer()
    schedule = nn.LinearWarmup(1, nn.CosineLR())
    history = t.fit(X, Y, epochs=3, batch_size=16, schedule=schedule, on_batch=lambda p: seen.append(p.lr))
    assert seen == [schedule(0.05, step, 12, 4) for step in range(12)]
    assert [epoch.lr for epoch in history] == seen[3::4]
    assert t.optimizer.lr == 0.05  # as before


def test_a_callback_may_change_the_learning_rate() -> None:
    t = trainer()

    def halve(epoch: nn.Epoch) -> None:
        t.optimizer.lr /= 2

    assert [epoch.lr for epoch in t.fit(X, Y, epochs=3, on_epoch=halve)] == [0.05, 0.025, 0.0125]


# -- augmentation, clipping --------------------------------------------------------------------------------------------


def test_augmentation_is_what_is_trained_on() -> None:
    def noisy(images, rng):
        return images + rng.standard_normal(images.shape, np.float32)

    one, two = trainer(), trainer()
    one.fit(X, Y, batch_size=32, seed=5, augment=noisy)
    rng = np.random.default_rng(5)
    order = rng.permutation(64)
    for batch in (order[:32], order[32:]):
        two.step(noisy(X[batch], rng), Y[batch])
    np.testing.assert_array_equal(one.predict(X), two.predict(X))
    np.testing.assert_array_equal(X, stripes(64)[0])


def test_clipping_bounds_every_step() -> None:
    t = nn.Trainer(nn.models.digits_cnn(rng=0), nn.SGD(lr=1.0))
    before = np.concatenate([p.data.ravel().copy() for p in t.model.parameters()])
    t.fit(X, Y, epochs=1, batch_size=64, clip_norm=0.01)
    after = np.concatenate([p.data.ravel() for p in t.model.parameters()])
    assert np.linalg.norm(after - before) == pytest.approx(0.01, rel=1e-3)
    free, loose = trainer(), trainer()
    free.fit(X, Y, seed=0)
    loose.fit(X, Y, seed=0, clip_norm=1e6)
    np.testing.assert_array_equal(free.predict(X), loose.predict(X))


# -- stopping ----------------------------------------------------------------------------------------------------------


def epochs(*losses: float) -> list[nn.Epoch]:
    return [nn.Epoch(i, 1.0, None, loss, -loss, 0.1, 1.0, 1.0) for i, loss in enumerate(losses, 1)]


@pytest.mark.parametrize("monitor", ["validation_loss", "validation_accuracy"])
@pytest.mark.parametrize(
    ("losses", "best", "stops"),
    [
        ([], None, False),
        ([3], 0, False),
        ([3, 2, 1], 2, False),
        ([3, 1, 2], 1, False),
        ([3, 1, 2, 2], 1, True),
        ([3, 1, 1, 1], 1, True),
        ([3, 1, 2, 0.95, 2], 1, True),
        ([3, 1, 2, 0.8, 2], 3, False),
        ([float("nan")], None, False),
        ([float("nan"), float("nan")], None, True),
        ([float("nan"), 1, 2], 1, False),
    ],
)
def test_patience(monitor, losses, best, stops) -> None:
    stopping = nn.EarlyStopping(patience=2, monitor=monitor, min_delta=0.1)
    assert stopping.best(epochs(*losses)) == best
    assert stopping.stops(epochs(*losses)) == stops


@pytest.mark.parametrize("restore_best", [True, False])
def test_early_stopping(restore_best) -> None:
    """Validated on wrong labels, a model becomes worse the better it is trained."""
    t = nn.Trainer(nn.models.digits_cnn(num_classes=4, rng=0), nn.SGD(lr=0.05))
    wrong = X, (Y + 1) % 4
    states = []
    history = t.fit(
        X,
        Y,
        epochs=30,
        validation=wrong,
        seed=0,
        early_stopping=nn.EarlyStopping(patience=3, restore_best=restore_best),
        on_epoch=lambda epoch: states.append(t.model.state_dict()),
    )
    losses = [epoch.validation_loss for epoch in history]
    best = int(np.argmin(losses))
    assert len(history) == best + 4 < 30
    for name, value in t.model.state_dict().items():
        np.testing.assert_array_equal(value, states[best if restore_best else -1][name])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patience": 0}, ValueError, "patience"),
        ({"patience": 1.5}, TypeError, "patience"),
        ({"monitor": "loss"}, ValueError, "monitor must be one of"),
        ({"min_delta": -1}, ValueError, "min_delta"),
    ],
)
def test_bad_patience(options, error, message) -> None:
    with pytest.raises(error, match=message):
        nn.EarlyStopping(**options)


def test_a_callback_may_stop() -> None:
    def stop_at(limit):
        def on_batch(progress):
            if progress.epoch == 2 and progress.batch == limit:
                raise nn.StopTraining

        return on_batch

    for limit in (1, 2):
        t = trainer()
        history = t.fit(X, Y, epochs=5, seed=0, on_batch=stop_at(limit), schedule=nn.CosineLR())
        assert [epoch.epoch for epoch in history] == [1]
        assert t.optimizer.lr == 0.05


# -- history -----------------------------------------------------------------------------------------------------------


def test_history_files(tmp_path) -> None:
    history = trainer().fit(X, Y, epochs=3, validation=(X, Y))
    assert isinstance(history, nn.History)
    history.save(tmp_path / "h.csv")
    history.save(str(tmp_path / "h.JSON"))
    with open(tmp_path / "h.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    objects = json.loads((tmp_path / "h.JSON").read_text())
    assert len(rows) == len(objects) == 3
    for epoch, row, entry in zip(history, rows, objects, strict=True):
        assert {name: float(value) for name, value in row.items()} == epoch._asdict() == entry
    with pytest.raises(ValueError, match=r"must end in .csv or .json"):
        history.save(tmp_path / "h.txt")


def test_history_of_unusual_numbers(tmp_path) -> None:
    history = nn.History(epochs(float("nan")))
    history.save(tmp_path / "h.json")
    assert json.loads((tmp_path / "h.json").read_text())[0]["validation_loss"] is None
    nn.History().save(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text().count("\n") == 1
