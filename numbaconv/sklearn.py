"""A convolutional network as a scikit-learn classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeAlias

import numpy as np

from numbaconv import nn
from numbaconv.data import stratified_split
from numbaconv.data.dataset import channel_moments
from numbaconv.data.source import CHANNELS
from numbaconv.parameters import integer
from numbaconv.values import flag, real

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.extmath import softmax
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError('numbaconv.sklearn needs scikit-learn 1.6 or later: pip install "numbaconv[sklearn]"') from error

__all__ = ["CNNClassifier"]

ImageShape: TypeAlias = tuple[int, int, int]
#: Images, and their classes counted from 0.
Samples: TypeAlias = tuple[np.ndarray, np.ndarray]

#: Images that are computed at once where nothing is trained.
_BATCH = 256


class CNNClassifier(ClassifierMixin, BaseEstimator):  # in this order: scikit-learn's mixins come first
    """A convolutional network that is trained, tuned and used as any classifier of scikit-learn.

    Parameters
    ----------
    model : str or callable
        A name in :data:`numbaconv.nn.models.MODELS`, or a function that is called as those are,
        ``model(num_classes=..., in_channels=..., image_size=(H, W), rng=...)``, and returns a
        :class:`~numbaconv.nn.Module` that gives a number a class.
    image_shape : (int, int) or (int, int, int), optional
        What the features of a row are: an image of ``(H, W)``, or of ``(C, H, W)``, channel by channel. By default a
        row of k² features is one k×k image, a row of 3k² features three channels of it, and any other row of n features
        an image of 1×n. An X of images says it itself.
    epochs, batch_size : int
        How often to go through all images, and how many of them make a step.
    optimizer : {"adam", "adamw", "sgd"}
        How parameters follow their gradients.
    lr : float, optional
        The learning rate; by default 0.002, for ``"sgd"`` 0.02.
    momentum : float
        Of ``"sgd"``; the others do not use it.
    weight_decay : float
        How strongly weights are drawn towards 0.
    normalize : bool
        Whether pixels are shifted and scaled, each channel to mean 0 and deviation 1 in the training images.
    early_stopping : bool
        Whether to set part of the images aside, to stop when the loss on them no longer falls, and to go back to the
        epoch where it was smallest. Then ``epochs`` is the largest number of epochs.
    validation_fraction : float
        How large that part is, of every class; but at least one of two images.
    n_iter_no_change : int
        How many epochs without a smaller loss are waited for.
    random_state : int, RandomState or None
        Where the initial weights, the order of the images, and the part that is set aside come from. The same integer
        gives the same classifier.
    verbose : bool
        Whether to print a line an epoch.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    n_features_in_ : int
        Features of a row, or pixels of an image times its channels.
    feature_names_in_ : ndarray of str
        The names of the columns, where X was a data frame.
    image_shape_ : (int, int, int)
        What the model sees: ``(C, H, W)``.
    mean_, std_ : ndarray of float
        What is subtracted from the pixels and what they are then divided by, one number a channel.
    model_ : Module
        The trained model, in evaluation mode.
    history_ : list of Epoch
        Loss and accuracy of every epoch.
    n_iter_ : int
        Epochs trained.

    See Also
    --------
    numbaconv.nn.Trainer : what trains the model; to be used by itself for whatever goes beyond this.

    Notes
    -----
    X is an array, a list or a data frame of ``(n, features)``, or an array of images, ``(n, H, W)``, ``(n, C, H, W)``
    or ``(n, H, W, C)``; the last two are told apart by the size that is 1, 3 or 4, or by ``image_shape``. Pixels may be
    integers or floats, and are computed with in float32.

    Convolutions ask which features are neighbours: rows of unrelated measurements are taken, but are no images.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_val_score
    >>> from numbaconv.sklearn import CNNClassifier
    >>> X, y = load_digits(return_X_y=True)  # rows of 64 features
    >>> classifier = CNNClassifier("digits_cnn", epochs=5, random_state=0)
    >>> bool(cross_val_score(classifier, X, y, cv=3).mean() > 0.9)
    True
    >>> classifier.fit(X, y).image_shape_
    (1, 8, 8)
    """

    def __init__(
        self,
        model: str | Callable[..., nn.Module] = "digits_cnn",
        *,
        image_shape: Sequence[int] | None = None,
        epochs: int = 20,
        batch_size: int = 32,
        optimizer: str = "adam",
        lr: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        normalize: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.normalize = normalize
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Train a new model.

        Parameters
        ----------
        X : array-like
            Rows ``(n, features)``, or images; see the notes of the class.
        y : array-like, shape (n,)
            Their labels: integers, strings, or whatever can be sorted.

        Returns
        -------
        CNNClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError
            A parameter, X or y is not what it should be; or training diverged, and the loss is no number any more.
        """
        build, optimizer = self._builder(), self._new_optimizer()
        images, targets = self._images_and_targets(X, y)
        random = check_random_state(self.random_state)
        rng = np.random.default_rng(random.randint(2**31 - 1))
        training, validation = self._split(images, targets, random)
        C, H, W = self.image_shape_
        self.mean_, self.std_ = np.zeros(C), np.ones(C)
        if flag(self.normalize, "normalize"):
            self.mean_, self.std_ = map(np.asarray, channel_moments(training[0]))
        model = build(num_classes=len(self.classes_), in_channels=C, image_size=(H, W), rng=rng)
        trainer = nn.Trainer(model, optimizer)
        outputs = trainer.predict(self._normalized(images[:1])).shape
        if outputs != (1, len(self.classes_)):
            raise ValueError(f"the model gives {outputs} for one image, but must give (1, {len(self.classes_)})")
        self.history_ = self._train(trainer, training, validation, rng)
        self.n_iter_ = len(self.history_)
        model.zero_grad()  # gradients would be kept, and pickled
        self.model_ = model.eval()
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of every image.

        Parameters
        ----------
        X : array-like
            As for :meth:`fit`, with as many features.

        Returns
        -------
        ndarray, shape (n,)
            Of ``classes_``.

        Raises
        ------
        NotFittedError
            :meth:`fit` was not called.
        TypeError, ValueError
            X is not what it should be.
        """
        probabilities = self.predict_proba(X)  # first, for it tells whether there are classes_
        return self.classes_[probabilities.argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of every class for every image.

        Parameters
        ----------
        X : array-like
            As for :meth:`fit`, with as many features.

        Returns
        -------
        ndarray, shape (n, classes)
            Of the dtype of the model, float32; columns are in the order of ``classes_``.

        Raises
        ------
        NotFittedError
            :meth:`fit` was not called.
        TypeError, ValueError
            X is not what it should be.
        """
        check_is_fitted(self, "model_")
        rows = validate_data(self, _as_rows(X, self.image_shape_), reset=False, dtype=np.float32, order="C")
        images = rows.reshape(-1, *self.image_shape_)
        batches = (self._normalized(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH))
        return softmax(np.concatenate([self.model_(batch) for batch in batches]), copy=False)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn wants to know of a classifier."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _builder(self) -> Callable[..., nn.Module]:
        if callable(self.model):
            return self.model
        if not isinstance(self.model, str) or self.model not in nn.models.MODELS:
            names = ", ".join(map(repr, nn.models.MODELS))
            raise ValueError(f"model must be one of {names}, or a function that builds a model, got {self.model!r}")
        return nn.models.MODELS[self.model]

    def _new_optimizer(self) -> nn.Optimizer:
        if not isinstance(self.optimizer, str) or self.optimizer not in ("adam", "adamw", "sgd"):
            raise ValueError(f"optimizer must be 'adam', 'adamw' or 'sgd', got {self.optimizer!r}")
        if self.optimizer == "sgd":
            return nn.SGD(0.02 if self.lr is None else self.lr, self.momentum, self.weight_decay)
        kind = nn.Adam if self.optimizer == "adam" else nn.AdamW
        return kind(0.002 if self.lr is None else self.lr, weight_decay=self.weight_decay)

    def _images_and_targets(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Images ``(n, C, H, W)`` and classes counted from 0; what they look like is learned."""
        shape = _shape_of_images(X) if self.image_shape is None else _checked_shape(self.image_shape)
        rows, labels = validate_data(self, _as_rows(X, shape), y, dtype=np.float32, order="C")
        check_classification_targets(labels)
        C, H, W = _shape_of_rows(rows.shape[1]) if shape is None else shape
        if rows.shape[1] != C * H * W:
            raise ValueError(f"image_shape={self.image_shape} does not fit X, whose rows have {rows.shape[1]} features")
        self.image_shape_ = C, H, W
        self.classes_, targets = np.unique(labels, return_inverse=True)
        return rows.reshape(-1, C, H, W), targets

    def _split(self, images: np.ndarray, targets: np.ndarray, random: Any) -> tuple[Samples, Samples | None]:
        """What is trained on, and what is set aside."""
        if not flag(self.early_stopping, "early_stopping"):
            return (images, targets), None
        share = real(self.validation_fraction, "validation_fraction", 0, 1)
        if share in (0, 1):
            raise ValueError(f"validation_fraction must leave images to train on and to validate with, got {share:g}")
        trained, held_out = stratified_split(targets, share, random.randint(2**31 - 1))
        if not len(held_out):
            raise ValueError(
                f"early_stopping sets images aside, but every class has only one sample (n_samples={len(images)})"
            )
        return (images[trained], targets[trained]), (images[held_out], targets[held_out])

    def _normalized(self, images: np.ndarray) -> np.ndarray:
        mean, std = (values.astype(np.float32)[:, None, None] for values in (self.mean_, self.std_))
        normalized = images - mean
        normalized /= std
        return normalized

    def _train(
        self, trainer: nn.Trainer, training: Samples, validation: Samples | None, rng: np.random.Generator
    ) -> list[nn.Epoch]:
        """Train for all epochs, or until nothing gets better any more, and tell how it went."""
        epochs, patience = integer(self.epochs, "epochs", 1), integer(self.n_iter_no_change, "n_iter_no_change", 1)
        stopping = None
        if validation is not None:
            validation = self._normalized(validation[0]), validation[1]
            stopping = nn.EarlyStopping(patience)
        try:
            history = trainer.fit(
                self._normalized(training[0]),
                training[1],
                epochs=epochs,
                batch_size=self.batch_size,
                validation=validation,
                early_stopping=stopping,
                seed=rng,
                on_epoch=(lambda epoch: print(_described(epoch, epochs))) if self.verbose else None,
            )
        except FloatingPointError as error:
            raise ValueError(str(error)) from error
        return list(history)


def _shape_of_images(X: Any) -> ImageShape | None:
    """``(C, H, W)`` of an array of images, None where X has rows."""
    shape: Sequence[int] = getattr(X, "shape", ())
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    if len(shape) == 4:
        last = shape[1] not in CHANNELS and shape[3] in CHANNELS
        return (shape[3], shape[1], shape[2]) if last else (shape[1], shape[2], shape[3])
    return None


def _shape_of_rows(features: int) -> ImageShape:
    """``(C, H, W)`` of rows that do not say it: a square of one or three channels, or all in a row."""
    for channels in (1, 3):
        side = math.isqrt(features // channels)
        if channels * side * side == features:
            return channels, side, side
    return 1, 1, features


def _checked_shape(image_shape: Any) -> ImageShape:
    """``image_shape`` as ``(C, H, W)``."""
    if not isinstance(image_shape, Sequence) or isinstance(image_shape, str) or len(image_shape) not in (2, 3):
        raise ValueError(f"image_shape must be (H, W) or (C, H, W), got {image_shape!r}")
    H, W = (integer(size, "height and width in image_shape", 1) for size in image_shape[-2:])
    C = integer(image_shape[0], "the channels in image_shape", 1) if len(image_shape) == 3 else 1
    return C, H, W


def _as_rows(X: Any, shape: ImageShape | None) -> Any:
    """An array of images as rows of ``C * H * W`` features; anything else as it is, for scikit-learn to judge."""
    dimensions = len(getattr(X, "shape", ()))
    if dimensions < 3:
        return X
    if shape is None or dimensions > 4:
        raise ValueError(
            f"X must be rows (n, features) or images (n, H, W), (n, C, H, W) or (n, H, W, C), got shape {X.shape}"
        )
    C, H, W = shape
    images = np.asarray(X)[:, None] if dimensions == 3 else np.asarray(X)
    if images.shape[1:] == (H, W, C) != shape:
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1:] != shape:
        raise ValueError(f"X has shape {X.shape}, but images of (C, H, W) = {shape} are expected")
    return images.reshape(len(images), C * H * W)


def _described(epoch: nn.Epoch, epochs: int) -> str:
    text = f"epoch {epoch.epoch}/{epochs}: loss {epoch.loss:.4f}, accuracy {epoch.accuracy:.2%}"
    if epoch.validation_loss is not None:
        text += f", validation loss {epoch.validation_loss:.4f}, validation accuracy {epoch.validation_accuracy:.2%}"
    return text
