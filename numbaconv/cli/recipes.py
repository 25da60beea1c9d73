"""What is known to work: which model for which images, and how to train it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numbaconv.cli.errors import UsageError
from numbaconv.data import Dataset
from numbaconv.nn import Sequential
from numbaconv.nn.models import MODELS

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train a model: epochs, batch size, learning rates, and by how many pixels to shift images at random."""

    epochs: int
    batch_size: int
    sgd_lr: float
    adam_lr: float
    shift: float


RECIPES = {
    # Chosen for the worst of 16 seeds: 98.6% on the test part of the digits, in about two seconds.
    "digits_cnn": Recipe(epochs=40, batch_size=32, sgd_lr=0.05, adam_lr=5e-3, shift=0.75),
    "lenet5": Recipe(epochs=10, batch_size=64, sgd_lr=0.02, adam_lr=1e-3, shift=1.5),
    "mnist_cnn": Recipe(epochs=5, batch_size=64, sgd_lr=0.02, adam_lr=1e-3, shift=1.5),
    "resnet20": Recipe(epochs=30, batch_size=128, sgd_lr=0.1, adam_lr=2e-3, shift=2.0),
}
#: The optimizers and their weight decay.
OPTIMIZERS = {"sgd": 1e-3, "adam": 0.0, "adamw": 1e-2}


def default_model(image_shape: Shape) -> str:
    """The model for images of this shape: of those that were made for such images, the best."""
    C, H, W = image_shape
    if min(H, W) < 16:
        return "digits_cnn"
    # The linear layers of mnist_cnn grow with the image, resnet20 takes the mean over it.
    return "mnist_cnn" if C == 1 and max(H, W) <= 48 else "resnet20"


def model_arguments(name: str, data: Dataset) -> dict[str, Any]:
    """The arguments that fit a model to the data; an error if it cannot be done."""
    C, H, W = data.image_shape
    if data.classes < 2:
        raise UsageError(f"{data.name}: all labels are 0, there is nothing to tell apart")
    if name == "lenet5" and min(H, W) < 12:
        raise UsageError(
            f"{data.name} has images of {described(data.image_shape)}, but the model {name} needs at least 12x12 pixels"
        )
    if name == "mnist_cnn" and min(H, W) < 4:
        raise UsageError(
            f"{data.name} has images of {described(data.image_shape)}, but the model {name} needs at least 4x4 pixels"
        )
    return {"num_classes": data.classes, "in_channels": C, "image_size": [H, W]}


def build(name: str, arguments: dict[str, Any], seed: int) -> Sequential:
    """The model of this name with fresh weights, the same ones for the same seed."""
    return MODELS[name](**arguments, rng=seed)


def described(shape: Shape) -> str:
    """A shape in words: ``1 channel, 28x28 pixels``."""
    C, H, W = shape
    return f"{C} channel{'s' if C > 1 else ''}, {H}x{W} pixels"
