"""``numbaconv train``: a model, some images, and a row an epoch."""

from __future__ import annotations

import signal
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import numbaconv
from numbaconv import nn
from numbaconv.cli.console import Table, open_console, progress_bar, status
from numbaconv.cli.errors import UsageError, user_errors
from numbaconv.cli.recipes import augmentation, build, described, make_optimizer, make_schedule, model_arguments
from numbaconv.cli.threads import use_threads
from numbaconv.cli.train_options import (
    check,
    default_checkpoint,
    output_files,
    recall,
    resume_command,
    set_defaults,
    words,
)
from numbaconv.data import Compose, Dataset, load, stratified_split

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = {"epoch": 9, "loss": 8, "training": 8, "test": 8, "images/s": 10}


def run(options: Namespace) -> int:
    """Train, evaluate, save."""
    console = open_console()
    with sigterm_as_ctrl_c():
        if options.resume is not None:
            recall(options)
        check(options)
        use_threads(options.threads)
        with user_errors(ImportError):
            data = load("digits" if options.data is None else options.data)
        set_defaults(options, data)
        files = output_files(options)
        arguments = model_arguments(options.model, data)
        with user_errors():
            model = build(options.model, arguments, options.seed)
        introduce(console, data, model, options)
        with status(console, "compiling kernels (first run only)"):
            rehearse(build(options.model, arguments, options.seed), data, options.batch_size)
        start = time.perf_counter()
        trainer, history, measured_on = train(console, model, data, options, files["--checkpoint"])
        seconds = time.perf_counter() - start
        result = trainer.evaluate(data.test_images, data.test_labels)
        report(console, data, history, result, seconds, options)
        with user_errors():
            if "--history" in files:
                history.save(files["--history"])
            if "--plot" in files:
                title = f"{options.model} on {data.name}: test accuracy {result.accuracy:.2%}"
                about: Any = {"title": title, "measured_on": measured_on, "class_names": data.class_names}
                nn.plot_training(files["--plot"], history, result, model, **about)
            nn.save_model(files["--output"], model, metadata(data, options.model, arguments, result.accuracy))
        saved = [str(path) for option, path in files.items() if option != "--checkpoint"]
        console.print(f"saved {', '.join(reversed(saved))}")
        if options.checkpoint is None and files["--checkpoint"] == default_checkpoint(files["--output"]):
            files["--checkpoint"].unlink(missing_ok=True)
    return 0


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """What a scheduler of jobs sends before it kills ends a command as the keyboard does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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


def train(
    console: Console, model: nn.Module, data: Dataset, options: Namespace, path: Path
) -> tuple[nn.Trainer, nn.History, str]:
    """Train until it is time to stop, printing a row after each epoch; and say what the epochs were measured on."""
    trainer = nn.Trainer(model, make_optimizer(options), nn.CrossEntropyLoss(options.label_smoothing))
    (x, y), validation, measured_on = parts(data, options.validation)
    changes = [augmentation(text) for text in options.augment if text != "none"]
    checkpoint = nn.Checkpoint(path, options.checkpoint_every, {"options": words(options)})
    if options.resume is not None:
        console.print(f"resuming {options.resume}")
    elif path.exists():
        console.print(f"{path} is of a training that was interrupted: --resume {path} goes on with it")
    table = Table(console, {measured_on if name == "test" else name: width for name, width in COLUMNS.items()})
    with progress_bar(console, options.epochs * len(x)) as show:

        def after_batch(progress: nn.Progress) -> None:
            show(f"epoch {progress.epoch}/{progress.epochs}", (progress.epoch - 1) * len(x) + progress.images)

        def after_epoch(epoch: nn.Epoch) -> None:
            table.row(
                f"{epoch.epoch}/{options.epochs}",
                f"{epoch.loss:.4f}",
                f"{epoch.accuracy or 0.0:.2%}",
                f"{epoch.validation_accuracy or 0.0:.2%}",
                f"{epoch.images_per_second:,.0f}",
            )

        try:
            history = trainer.fit(
                x,
                y,
                epochs=options.epochs,
                batch_size=options.batch_size,
                validation=validation,
                # One stream for the order and the changes of the images, another one than that of the initial weights.
                seed=np.random.default_rng([options.seed, 1]),
                augment=Compose(changes) if changes else None,
                schedule=make_schedule(options),
                clip_norm=options.clip_norm,
                early_stopping=None if options.patience is None else nn.EarlyStopping(options.patience),
                checkpoint=checkpoint,
                resume=None if options.resume is None else Path(options.resume).expanduser(),
                on_batch=after_batch,
                on_epoch=after_epoch,
            )
        except nn.CheckpointError as error:
            raise UsageError(str(error)) from error
        except FloatingPointError as error:
            reason = str(error).partition(";")[0]
            raise UsageError(f"{reason}; try a smaller --lr than {options.lr:g}, or --clip-norm") from error
        except KeyboardInterrupt:
            if not checkpoint.saved:
                raise
            raise KeyboardInterrupt(f"interrupted; to go on: {resume_command(path, options)}") from None
    return trainer, history, measured_on


def parts(data: Dataset, share: float) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], str]:
    """Images and labels to train on, those to measure every epoch on, and what the latter are called."""
    if share == 0:
        return (data.train_images, data.train_labels), (data.test_images, data.test_labels), "test"
    rest, held = stratified_split(data.train_labels, share)
    if not len(held):
        raise UsageError(f"--validation {share:g}: {data.name} has too few images of each class to hold some back")
    images, labels = data.train_images, data.train_labels
    return (images[rest], labels[rest]), (images[held], labels[held]), "validation"


def report(
    console: Console,
    data: Dataset,
    history: nn.History,
    result: nn.Evaluation,
    seconds: float,
    options: Namespace,
) -> None:
    """Say what came of it."""
    if options.patience is not None:
        best = nn.EarlyStopping(options.patience).best(history)
        console.print(f"ended after epoch {len(history)}, with the weights of epoch {(best or 0) + 1}")
    right, images = int(result.confusion_matrix.trace()), len(data.test_labels)
    console.print(f"test accuracy {right / images:.2%} ({right:,} of {images:,} images), trained in {seconds:.1f} s")
    names = data.class_names or range(result.classes)
    shares = sorted((share, str(name)) for share, name in zip(result.class_accuracy, names, strict=True) if share < 1)
    if shares:
        weakest = ", ".join(f"{name} ({share:.1%})" for share, name in shares[:3])
        console.print(f"weakest classes: {weakest}")


def metadata(data: Dataset, model: str, arguments: dict[str, Any], accuracy: float | None) -> dict[str, Any]:
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
