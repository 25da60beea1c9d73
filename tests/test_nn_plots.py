"""The figure of a training, for few and many classes and epochs. What it looks like, eyes must judge."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from numbaconv import nn
from numbaconv.nn import plot_training
from numbaconv.nn.plots import first_filters

pytest.importorskip("matplotlib")

RNG = np.random.default_rng(0)


def history(epochs: int, labelled: bool = True, validated: bool = True) -> nn.History:
    losses = np.linspace(2, 0.01, epochs)
    accuracies = [1 - loss / 3 if labelled else None for loss in losses]
    measured = (losses, accuracies) if validated else ([None] * epochs, [None] * epochs)
    rows = zip(losses, accuracies, *measured, strict=True)
    return nn.History(nn.Epoch(i, *row, lr=0.1, seconds=1.0, images_per_second=1.0) for i, row in enumerate(rows, 1))


def evaluation(classes: int) -> nn.Evaluation:
    labels, predictions = RNG.integers(0, classes, (2, 10 * classes))
    return nn.Evaluation(1.0, float(np.mean(labels == predictions)), labels, predictions, classes)


def text(path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("classes", "epochs"), [(2, 1), (10, 40), (20, 3), (100, 200)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_everything_is_drawn(tmp_path, classes, epochs, channels) -> None:
    path = tmp_path / "curves.svg"
    model = nn.Sequential(nn.Conv2d(channels, 70, 3, rng=0))
    plot_training(path, history(epochs), evaluation(classes), model, title="a title", measured_on="test")
    found = text(path)
    for words in (
        "a title",
        "Loss",
        "Accuracy",
        "training",
        "test",
        "Confusion matrix",
        "70 filters of 3×3, 64 of them",
    ):
        assert words in found


def test_the_same_training_gives_the_same_file(tmp_path) -> None:
    result = evaluation(3)
    for suffix in (".png", ".svg", ".pdf"):
        for name in ("a", "b"):
            plot_training(tmp_path / f"{name}{suffix}", history(3), result, class_names=["x", "long name", "<&>"])
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_what_there_is_not_is_left_out(tmp_path) -> None:
    path = tmp_path / "c.svg"
    plot_training(path, history(3, labelled=False, validated=False), nn.Evaluation(0.1, None), nn.Linear(3, 2))
    for words in ("Accuracy", "validation", "Confusion", "filters"):
        assert words not in text(path)
    assert first_filters(nn.Linear(3, 2)) is None
    diverged = history(2)
    diverged[1] = diverged[1]._replace(validation_loss=float("nan"))
    plot_training(path, diverged)


def test_bad_figures(tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"must end in .png"):
        plot_training(tmp_path / "c.gif", history(1))
    with pytest.raises(ValueError, match="no epochs"):
        plot_training(tmp_path / "c.png", [])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"numbaconv\[study\]\""):
        plot_training(tmp_path / "c.png", history(1))
    assert not list(tmp_path.iterdir())
