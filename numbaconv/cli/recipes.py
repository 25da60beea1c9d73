"""What is known to work: which model for which images, and how to train it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numbaconv import nn
from numbaconv.cli.errors import UsageError
from numbaconv.data import Cutout, Dataset, RandomCrop, RandomHorizontalFlip, RandomShift
from numbaconv.data.augment import Augmentation
from numbaconv.nn import Sequential
from numbaconv.nn.models import MODELS

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train a model: epochs, batch size, learning rates, and what keeps it from learning images by heart."""

    epochs: int
    batch_size: int
    sgd_lr: float
    adam_lr: float
    augment: tuple[str, ...]
    label_smoothing: float = 0.0


RECIPES = {
    # Chosen for the worst of 16 seeds: 98.6% on the test part of the digits, in about a second.
    "digits_cnn": Recipe(40, batch_size=32, sgd_lr=0.05, adam_lr=5e-3, augment=("shift=0.75",), label_smoothing=0.1),
    # What these reach is in docs/results.md: 99.3% or more on MNIST with every seed tried.
    "lenet5": Recipe(10, batch_size=64, sgd_lr=0.02, adam_lr=1e-3, augment=("shift=1.5",)),
    "mnist_cnn": Recipe(5, batch_size=64, sgd_lr=0.02, adam_lr=1e-3, augment=("shift=1.5",)),
    "resnet20": Recipe(30, batch_size=128, sgd_lr=0.1, adam_lr=2e-3, augment=("crop=4", "flip")),
}
#: The optimizers and their weight decay.
OPTIMIZERS = {"sgd": 1e-3, "adam": 0.0, "adamw": 1e-2}
SCHEDULES = ("cosine", "onecycle", "step", "constant")
#: Random changes to images, and how strong each is where that is not said.
AUGMENTATIONS: dict[str, tuple[Callable[[Any], Augmentation], float]] = {
    "shift": (RandomShift, 1.5),
    "crop": (RandomCrop, 4),
    "flip": (RandomHorizontalFlip, 0.5),
    "cutout": (Cutout, 8),
}


def augmentation(text: str) -> Augmentation:
    """What ``crop``, or ``crop=4``, says; a ValueError if it says nothing."""
    name, _, amount = text.partition("=")
    if name not in AUGMENTATIONS:
        raise ValueError(f"there is no {name!r}, but {', '.join(AUGMENTATIONS)}, none")
    kind, default = AUGMENTATIONS[name]
    number = float(amount) if "=" in text else default
    return kind(int(number) if number.is_integer() else number)


def default_augment(model: str, image_shape: Shape) -> list[str]:
    """What suits a model. Grey images are digits and letters more often than not, which have a left and a right."""
    return [text for text in RECIPES[model].augment if text != "flip" or image_shape[0] > 1]


def make_optimizer(options: Namespace) -> nn.Optimizer:
    """The optimizer that was asked for."""
    if options.optimizer == "sgd":
        momentum = options.momentum
        return nn.SGD(options.lr, momentum, weight_decay=options.weight_decay, nesterov=momentum > 0)
    kind = nn.Adam if options.optimizer == "adam" else nn.AdamW
    return kind(lr=options.lr, weight_decay=options.weight_decay)


def make_schedule(options: Namespace) -> nn.Schedule | None:
    """The schedule that was asked for; None for a rate that stays."""
    schedules = {
        "cosine": nn.CosineLR(),
        "onecycle": nn.OneCycleLR(),
        "step": nn.MultiStepLR(options.milestones or []),
        "constant": None,
    }
    schedule = schedules[options.schedule]
    return nn.LinearWarmup(options.warmup, schedule) if options.warmup else schedule


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
