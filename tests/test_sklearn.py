"""The classifier among scikit-learn's own tools and by their own checks."""

from __future__ import annotations

import pickle
import re
import runpy
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from numbaconv import nn
from numbaconv.sklearn import CNNClassifier

X, Y = load_digits(return_X_y=True)
TRAIN_X, TEST_X, TRAIN_Y, TEST_Y = train_test_split(X, Y, test_size=0.25, stratify=Y, random_state=0)
FEW_X, FEW_Y = X[:200], Y[:200]
#: Two colours on the left or on the right half: 3 channels, 6×6 pixels.
COLOURS = np.random.default_rng(0).random((60, 3, 6, 6))
SIDES = np.arange(60) % 2
COLOURS[SIDES == 1, 1, :, 3:] += 3


def quick(**parameters: object) -> CNNClassifier:
    return CNNClassifier(**{"epochs": 2, "random_state": 0} | parameters)


class Small(nn.Sequential):
    """A model of one's own, where pickle finds it."""

    def __init__(self, num_classes, in_channels, image_size, rng) -> None:
        height, width = image_size
        layers = nn.BatchNorm2d(in_channels), nn.Flatten(), nn.Dropout(0.1, rng=rng)
        super().__init__(*layers, nn.Linear(in_channels * height * width, num_classes, rng=rng))


@parametrize_with_checks([CNNClassifier(random_state=0), CNNClassifier(early_stopping=True, random_state=0)])
def test_scikit_learns_own_checks(estimator, check) -> None:
    check(estimator)


def test_digits() -> None:
    classifier = CNNClassifier(random_state=0).fit(TRAIN_X, TRAIN_Y)
    assert classifier.score(TEST_X, TEST_Y) > 0.96
    assert classifier.image_shape_ == (1, 8, 8)
    assert classifier.n_features_in_ == 64
    assert [epoch.epoch for epoch in classifier.history_] == list(range(1, 21))
    assert classifier.n_iter_ == 20
    probabilities = classifier.predict_proba(TEST_X)
    assert probabilities.shape == (450, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(classifier.predict(TEST_X), probabilities.argmax(1))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_labels_of_any_kind(optimizer) -> None:
    for labels in (np.array(["left", "right"]), np.array([-5, 300]), np.array([True, False]), np.array([0.0, 7.0])):
        classifier = quick(epochs=20, optimizer=optimizer).fit(COLOURS, labels[SIDES])
        np.testing.assert_array_equal(classifier.classes_, sorted(labels))
        assert classifier.predict(COLOURS).dtype == labels.dtype
        assert classifier.score(COLOURS, labels[SIDES]) > 0.95


@pytest.mark.parametrize(
    ("features", "shape"),
    [
        (1, (1, 1, 1)),
        (64, (1, 8, 8)),
        (12, (3, 2, 2)),
        (3, (3, 1, 1)),
        (2, (1, 1, 2)),
        (63, (1, 1, 63)),
        (50, (1, 1, 50)),
    ],
)
def test_how_rows_become_images(features, shape) -> None:
    rows = np.random.default_rng(0).random((6, features))
    assert quick(epochs=1).fit(rows, [0, 1] * 3).image_shape_ == shape


def test_images_of_any_shape_are_the_same_images() -> None:
    """Rows, channels first, channels last: the same pixels give the same model."""
    rows, last = COLOURS.reshape(60, 108), COLOURS.transpose(0, 2, 3, 1)
    expected = quick().fit(rows, SIDES).predict_proba(rows)
    for images, parameters in (
        (COLOURS, {}),
        (last, {}),
        (COLOURS, {"image_shape": (3, 6, 6)}),
        (last, {"image_shape": [3, 6, 6]}),
        (rows.tolist(), {"image_shape": np.array([3, 6, 6]).tolist()}),
        (np.asfortranarray(rows), {}),
    ):
        classifier = quick(**parameters).fit(images, SIDES)
        assert classifier.image_shape_ == (3, 6, 6)
        assert classifier.n_features_in_ == 108
        for other in (rows, COLOURS, last, images):
            np.testing.assert_array_equal(classifier.predict_proba(other), expected)
    grey = quick().fit(X[:20], Y[:20])
    for images in (X[:20].reshape(20, 8, 8), X[:20].reshape(20, 8, 8, 1), X[:20].astype(np.uint8)):
        np.testing.assert_array_equal(quick().fit(images, Y[:20]).predict_proba(images), grey.predict_proba(X[:20]))


def test_normalisation() -> None:
    """Learned from the training images, channel by channel; a constant channel is only shifted."""
    images = COLOURS * 100 + 7
    images[:, 2] = 5
    classifier = quick().fit(images, SIDES)
    np.testing.assert_allclose(classifier.mean_, images.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(classifier.std_, [*images[:, :2].std((0, 2, 3)), 1], rtol=1e-6)
    np.testing.assert_allclose(
        classifier.predict_proba(images), quick().fit(images / 10, SIDES).predict_proba(images / 10), rtol=1e-3
    )
    raw = quick(normalize=False).fit(images, SIDES)
    assert (raw.mean_.tolist(), raw.std_.tolist()) == ([0, 0, 0], [1, 1, 1])
    np.testing.assert_allclose(raw.model_(images[:3].astype(np.float32)).argmax(1), raw.predict(images[:3]))


@pytest.mark.parametrize("model", ["digits_cnn", Small])
def test_the_same_random_state_gives_the_same_bits(model) -> None:
    parameters = {"model": model, "epochs": 1, "early_stopping": True}
    first, again, other = (quick(**parameters, random_state=seed).fit(FEW_X, FEW_Y) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.predict_proba(FEW_X), again.predict_proba(FEW_X))
    assert (first.predict_proba(FEW_X) != other.predict_proba(FEW_X)).any()
    assert clone(first).get_params() == first.get_params()


@pytest.mark.parametrize("model", ["mnist_cnn", Small])
def test_pickles_hold_the_classifier_and_no_more(model, tmp_path) -> None:
    classifier = quick(model=model).fit(FEW_X, FEW_Y)
    expected = classifier.predict_proba(FEW_X)
    content = pickle.dumps(classifier)
    assert len(content) < 4 * classifier.model_.num_parameters + 10_000
    joblib.dump(classifier, tmp_path / "classifier.joblib")
    for again in (pickle.loads(content), joblib.load(tmp_path / "classifier.joblib")):
        np.testing.assert_array_equal(again.predict_proba(FEW_X), expected)
        again.fit(FEW_X, FEW_Y)
        np.testing.assert_array_equal(again.predict_proba(FEW_X), expected)


def test_early_stopping() -> None:
    # Labels that mean nothing: the loss on what is set aside has to rise.
    labels = np.random.default_rng(0).integers(0, 2, 200)
    classifier = quick(early_stopping=True, epochs=100, n_iter_no_change=3, validation_fraction=0.25, lr=0.01)
    classifier.fit(FEW_X, labels)
    losses = [epoch.validation_loss for epoch in classifier.history_]
    best = int(np.argmin(losses))
    assert classifier.n_iter_ == len(losses) == best + 1 + 3 < 100
    shorter = clone(classifier).set_params(epochs=best + 1).fit(FEW_X, labels)
    np.testing.assert_array_equal(classifier.predict_proba(X), shorter.predict_proba(X))


def test_early_stopping_needs_images_to_set_aside() -> None:
    few = quick(early_stopping=True)
    with pytest.raises(ValueError, match="every class has only one"):
        few.fit(X[:3], [0, 1, 2])
    assert few.fit(X[:4], [0, 1, 2, 2]).predict(X).max() <= 2


def test_verbose(capsys) -> None:
    quick().fit(FEW_X, FEW_Y)
    assert capsys.readouterr().out == ""
    quick(verbose=True).fit(FEW_X, FEW_Y)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1/2: loss ")
    assert second.endswith("%")
    quick(verbose=True, early_stopping=True).fit(FEW_X, FEW_Y)
    assert "validation accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_grid_search(n_jobs) -> None:
    search = GridSearchCV(quick(), {"lr": [1e-6, 5e-3], "model": ["digits_cnn", Small]}, cv=2, n_jobs=n_jobs)
    search.fit(FEW_X, FEW_Y)
    assert search.best_params_["lr"] == 5e-3
    assert search.best_score_ > search.cv_results_["mean_test_score"].min() + 0.2
    assert set(search.predict(X)) <= set(range(10))


def test_pipelines_and_scores() -> None:
    pipeline = make_pipeline(MinMaxScaler(), FunctionTransformer(np.sqrt), quick(epochs=10))
    assert cross_val_score(pipeline, FEW_X, FEW_Y, cv=3).min() > 0.7
    pipeline.set_params(cnnclassifier__epochs=1).fit(FEW_X, FEW_Y)
    assert len(pipeline[-1].history_) == 1
    scores = cross_val_score(quick(epochs=20), COLOURS.reshape(60, 108), SIDES, cv=3, scoring="roc_auc")
    assert scores.min() > 0.9
    digits = quick(epochs=5).fit(FEW_X, FEW_Y)
    assert roc_auc_score(Y, digits.predict_proba(X), multi_class="ovr") > 0.9


def test_one_class() -> None:
    classifier = quick().fit(X[:5], ["only"] * 5)
    assert classifier.predict(X[:2]).tolist() == ["only", "only"]
    assert classifier.predict_proba(X[:2]).tolist() == [[1], [1]]


def test_nothing_given_is_changed() -> None:
    images = TRAIN_X[:100].astype(np.float32)
    before = images.copy()
    images.flags.writeable = False
    for normalize in (True, False):
        quick(normalize=normalize).fit(images, TRAIN_Y[:100]).predict(images)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"model": "vgg"}, ValueError, "must be one of 'digits_cnn', 'lenet5'"),
        ({"model": 3}, ValueError, "got 3"),
        ({"model": lambda **_: 3}, TypeError, "model must be an instance of nn.Module"),
        ({"model": lambda rng, **_: nn.models.digits_cnn(12, rng=rng)}, ValueError, r"\(1, 12\).*must give \(1, 10\)"),
        ({"model": "lenet5"}, ValueError, "too small"),
        ({"image_shape": (7, 9)}, ValueError, r"image_shape=\(7, 9\).*64 features"),
        ({"image_shape": (8.0, 8)}, TypeError, "8.0"),
        ({"image_shape": (0, 8, 8)}, ValueError, "channels"),
        ({"image_shape": 64}, ValueError, r"\(H, W\) or \(C, H, W\)"),
        ({"image_shape": "8x8"}, ValueError, "8x8"),
        ({"epochs": 0}, ValueError, "epochs"),
        ({"epochs": 1.0}, TypeError, "epochs"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"optimizer": "lbfgs"}, ValueError, "'adam', 'adamw' or 'sgd'"),
        ({"lr": -1}, ValueError, "lr"),
        ({"lr": float("nan")}, ValueError, "lr"),
        ({"weight_decay": "1"}, TypeError, "weight_decay"),
        ({"optimizer": "sgd", "momentum": -1}, ValueError, "momentum"),
        ({"early_stopping": True, "validation_fraction": 1.0}, ValueError, "validation_fraction"),
        ({"early_stopping": True, "validation_fraction": 0}, ValueError, "validation_fraction"),
        ({"early_stopping": True, "validation_fraction": "0.1"}, TypeError, "validation_fraction"),
        ({"early_stopping": True, "n_iter_no_change": 0}, ValueError, "n_iter_no_change"),
        ({"optimizer": "sgd", "lr": 1e9}, ValueError, r"diverged.*learning rate was 1e\+09"),
        ({"random_state": "a"}, ValueError, "seed"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_parameters(parameters, error, message) -> None:
    classifier = quick(**parameters)  # accepts everything, as scikit-learn asks for
    with pytest.raises(error, match=message):
        classifier.fit(FEW_X, FEW_Y)
    with pytest.raises(NotFittedError):
        classifier.predict(FEW_X)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (X[:, :9], ValueError, "X has 9 features, but CNNClassifier is expecting 64"),
        (X.reshape(-1, 4, 16), ValueError, r"\(1797, 4, 16\).*\(1, 8, 8\)"),
        (X.reshape(-1, 1, 1, 8, 8), ValueError, r"rows \(n, features\) or images"),
        (X[0], ValueError, "1D array"),
        (X[:0], ValueError, "0 sample"),
        (X[:0].reshape(0, 8, 8), ValueError, "0 sample"),
        (X * np.nan, ValueError, "NaN"),
        (X.astype(complex), ValueError, "Complex"),
        (np.full((2, 64), "a"), ValueError, "string"),
        (scipy.sparse.csr_array(X), TypeError, "Sparse"),
    ],
)
def test_bad_images(images, error, message) -> None:
    classifier = quick(epochs=1).fit(FEW_X, FEW_Y)
    with pytest.raises(error, match=message):
        classifier.predict(images)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (X, Y[:5], "inconsistent numbers"),
        (X, Y + 0.5, "Unknown label type"),
        (X, np.eye(10)[Y], "1d array"),
        (np.empty((3, 0)), [0, 1, 2], "0 feature"),
        (np.empty((3, 8, 0)), [0, 1, 2], "0 feature"),
        (X.reshape(-1, 1, 1, 8, 8), Y, r"rows \(n, features\) or images"),
        (X[:20] * 1e300, Y[:20], "too large"),
    ],
)
def test_bad_training_data(images, labels, message) -> None:
    with pytest.raises(ValueError, match=message), np.errstate(over="ignore"):
        quick().fit(images, labels)


def test_example(capsys) -> None:
    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "sklearn_digits.py"))
    assert float(re.findall(r"unseen images ([\d.]+)%", capsys.readouterr().out)[0]) > 96


def test_without_scikit_learn(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "numbaconv.sklearn")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r'pip install "numbaconv\[sklearn\]"'):
        import numbaconv.sklearn  # noqa: F401
