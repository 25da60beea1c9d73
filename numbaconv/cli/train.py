"""``numbaconv train``: a model, some images, and a row an epoch."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import numbaconv
from numbaconv import nn
from numbaconv.cli.console import Table, open_console, progress_bar, status
from numbaconv.cli.errors import UsageError, user_errors
from numbaconv.cli.files import output_file
from numbaconv.cli.recipes import OPTIMIZERS, RECIPES, build, default_model, described, model_arguments
from numbaconv.cli.threads import use_threads
from numbaconv.data import Dataset, load, shifted

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = {"epoch": 9, "loss": 8, "training": 8, "test": 8, "images/s": 10}
SUFFIXES = (".safetensors", ".npz")


def run(options: Namespace) -> int:
    """Train, evaluate, save."""
    console = open_console()
    if options.momentum is not None and options.optimizer != "sgd":
        raise UsageError(f"--momentum is for sgd, not for {options.optimizer}")
    use_threads(options.threads)
    if options.output is not None:
        output_path(options.output, options.data)
    with user_errors(ImportError):
        data = load(options.data)
    set_defaults(options, data)
    output = output_path(options.output, options.data)
    arguments = model_arguments(options.model, data)
    with user_errors():
        model = build(options.model, arguments, options.seed)
    introduce(console, data, model, options)
    with status(console, "compiling kernels (first run only)"):
        rehearse(build(options.model, arguments, options.seed), data, options.batch_size)
    start = time.perf_counter()
    accuracy = train(console, model, data, options)
    seconds = time.perf_counter() - start
    with user_errors():
        nn.save_model(output, model, metadata(data, options.model, arguments, accuracy))
    right, images = round(accuracy * len(data.test_labels)), len(data.test_labels)
    console.print(f"test accuracy {accuracy:.2%} ({right:,} of {images:,} images), trained in {seconds:.1f} s")
    console.print(f"saved {output}")
    return 0


def output_path(name: str, data: str) -> Path:
    """Where the model will be saved, once it is known that it can be."""
    path = output_file(name, SUFFIXES, data)
    if path.suffix.lower() == ".safetensors" and not find_spec("safetensors"):
        raise UsageError(f'--output {name}: needs safetensors: pip install "numbaconv[cli]", or choose an .npz file')
    return path


def set_defaults(options: Namespace, data: Dataset) -> None:
    """Fill in what was not asked for with what suits the data, the model and the optimizer."""
    options.model = options.model or default_model(data.image_shape)
    recipe = RECIPES[options.model]
    defaults = {
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "lr": recipe.sgd_lr if options.optimizer == "sgd" else recipe.adam_lr,
        "weight_decay": OPTIMIZERS[options.optimizer],
        "momentum": 0.9,
        "shift": recipe.shift,
        "output": options.model + SUFFIXES[0 if find_spec("safetensors") else 1],
    }
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def make_optimizer(options: Namespace) -> nn.Optimizer:
    """The optimizer that was asked for."""
    if options.optimizer == "sgd":
        momentum = options.momentum
        return nn.SGD(options.lr, momentum, weight_decay=options.weight_decay, nesterov=momentum > 0)
    kind = nn.Adam if options.optimizer == "adam" else nn.AdamW
    return kind(lr=options.lr, weight_decay=options.weight_decay)


def introduce(console: Console, data: Dataset, model: nn.Module, options: Namespace) -> None:
    """Say what is going to be trained on what."""
    console.print(
        f"{data.name}: {len(data.train_labels):,} + {len(data.test_labels):,} images to train and test with, "
        f"{described(data.image_shape)}"
    )
    threads = numbaconv.get_num_threads()
    console.print(
        f"{options.model}: {model.num_parameters:,} parameters, {options.optimizer} with lr {options.lr:g}, "
        f"batch size {options.batch_size}, {threads} thread{'s' if threads > 1 else ''}"
    )


def rehearse(model: nn.Module, data: Dataset, batch_size: int) -> None:
    """Compile every kernel, with a model that is thrown away, so that the first epoch is timed like the others."""
    trainer = nn.Trainer(model, nn.SGD(lr=0.0))
    trainer.step(data.train_images[:batch_size], data.train_labels[:batch_size])
    trainer.evaluate(data.test_images[:batch_size], data.test_labels[:batch_size])


def train(console: Console, model: nn.Module, data: Dataset, options: Namespace) -> float:
    """Train for all epochs, printing a row after each; the accuracy on the test part after the last one."""
    trainer = nn.Trainer(model, make_optimizer(options))
    # One stream for the order and the shifts of the images, another one than that of the initial weights.
    random = np.random.default_rng([options.seed, 1])
    table = Table(console, COLUMNS)
    test = data.test_images, data.test_labels
    batches = math.ceil(len(data.train_labels) / options.batch_size)
    accuracy = 0.0
    with progress_bar(console, options.epochs * batches) as advance:
        for epoch in range(1, options.epochs + 1):

            def after_batch(progress: nn.Progress, epoch: int = epoch) -> None:
                if not math.isfinite(progress.loss):
                    raise UsageError(
                        f"training diverged: the loss is {progress.loss} in epoch {epoch}; try a smaller --lr than "
                        f"{options.lr:g}"
                    )
                done = (epoch - 1 + progress.batch / batches) / options.epochs
                trainer.optimizer.lr = options.lr * (1 + math.cos(math.pi * done)) / 2
                advance(f"epoch {epoch}/{options.epochs}")

            start = time.perf_counter()
            images = shifted(data.train_images, options.shift, random)
            shifting = time.perf_counter() - start
            [result] = trainer.fit(
                images,
                data.train_labels,
                batch_size=options.batch_size,
                validation=test,
                seed=random,
                on_batch=after_batch,
            )
            accuracy = result.validation_accuracy or 0.0
            table.row(
                f"{epoch}/{options.epochs}",
                f"{result.loss:.4f}",
                f"{result.accuracy or 0.0:.2%}",
                f"{accuracy:.2%}",
                f"{len(images) / (result.seconds + shifting):,.0f}",
            )
    return accuracy


def metadata(data: Dataset, model: str, arguments: dict[str, Any], accuracy: float) -> dict[str, Any]:
    """What has to be known of a model to predict with it, and where it comes from."""
    return {
        "model": model,
        "arguments": arguments,
        "scale": data.scale,
        "mean": list(data.mean),
        "std": list(data.std),
        "class_names": data.class_names and list(data.class_names),
        "data": data.name,
        "test_accuracy": accuracy,
        "numbaconv": numbaconv.__version__,
    }
