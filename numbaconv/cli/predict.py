"""``numbaconv predict``: what a trained model makes of some images."""

from __future__ import annotations

import csv
import math
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from numbaconv import nn
from numbaconv.cli.console import Table, open_console, progress_bar
from numbaconv.cli.errors import UsageError, user_errors
from numbaconv.cli.files import output_file
from numbaconv.cli.recipes import Shape, described
from numbaconv.cli.threads import use_threads
from numbaconv.data import Samples, open_source, prepare

if TYPE_CHECKING:
    from rich.console import Console

SUFFIXES = (".csv", ".npz")


@dataclass(frozen=True, slots=True)
class Predictor:
    """A trained model with what has to be done to images before it sees them."""

    name: str
    model: nn.Module
    image_shape: Shape
    scale: float
    mean: list[float]
    std: list[float]

    @classmethod
    def load(cls, path: str) -> Predictor:
        """Read a file that ``numbaconv train`` saved; an error of one line for any other."""
        with user_errors(ImportError):
            model, metadata = nn.load_model(Path(path).expanduser())
        try:
            C = int(metadata["arguments"]["in_channels"])
            H, W = map(int, metadata["arguments"]["image_size"])
            scale, mean, std = (np.array(metadata[name], np.float64) for name in ("scale", "mean", "std"))
        except (KeyError, TypeError, ValueError):
            raise UsageError(
                f"{path}: does not say what images it takes; it was not saved by numbaconv train"
            ) from None
        fits = scale.shape == () and mean.shape == std.shape == (C,)
        if not fits or not np.isfinite([scale, *mean, *std]).all() or min(scale, *std) <= 0:
            raise UsageError(f"{path}: is damaged: scale {scale}, mean {mean} and std {std} are no normalisation")
        return cls(path, model, (C, H, W), float(scale), mean.tolist(), std.tolist())

    def probabilities(self, console: Console, samples: Samples, batch_size: int) -> np.ndarray:
        """The probability of every class for every image, ``(N, classes)``."""
        if samples.images.shape[1:] != self.image_shape:
            raise UsageError(
                f"{samples.where} has images of {described(samples.images.shape[1:])}, "
                f"but the model {self.name} takes {described(self.image_shape)}"
            )
        with user_errors():
            images = prepare(samples.images, self.scale, self.mean, self.std, where=samples.where)
        outputs = []
        with progress_bar(console, math.ceil(len(images) / batch_size)) as advance:
            for start in range(0, len(images), batch_size):
                outputs.append(softmax(self.model(images[start : start + batch_size])))
                advance("predicting")
        return np.concatenate(outputs)


def run(options: Namespace) -> int:
    """Predict, show the first rows, tell the accuracy, write everything."""
    console = open_console()
    use_threads(options.threads)
    output = None
    if options.output is not None:
        output = output_file(options.output, SUFFIXES, options.model, options.data)
    predictor = Predictor.load(options.model)
    with user_errors():
        source = open_source(options.data)
    samples = source.all_or_test()
    probabilities = predictor.probabilities(console, samples, options.batch_size)
    predictions = probabilities.argmax(1)
    show(console, samples.labels, predictions, probabilities, options.rows)
    part = " (test part)" if source.test is not None else ""
    console.print(summary(source.name + part, samples.labels, predictions))
    if output is not None:
        with user_errors():
            write(output, samples.labels, predictions, probabilities)
        console.print(f"saved {output}")
    return 0


def show(
    console: Console, labels: np.ndarray | None, predictions: np.ndarray, probabilities: np.ndarray, rows: int
) -> None:
    """Print the first predictions."""
    if rows == 0:
        return
    columns = {"image": 7, "label": 6, "prediction": 11, "probability": 12}
    if labels is None:
        del columns["label"]
    table = Table(console, columns)
    for i in range(min(rows, len(predictions))):
        label = [] if labels is None else [str(labels[i])]
        wrong = labels is not None and labels[i] != predictions[i]
        probability = f"{probabilities[i, predictions[i]]:.2%}"
        table.row(str(i), *label, str(predictions[i]), probability, style="red" if wrong else None)
    if rows < len(predictions):
        console.print(f"... and {len(predictions) - rows:,} more")


def summary(name: str, labels: np.ndarray | None, predictions: np.ndarray) -> str:
    """The last line: the accuracy, where there are labels."""
    if labels is None:
        return f"{name}: {len(predictions):,} images, no labels to compare with"
    right = int((labels == predictions).sum())
    return f"{name}: accuracy {right / len(labels):.2%} ({right:,} of {len(labels):,} images)"


def write(path: Path, labels: np.ndarray | None, predictions: np.ndarray, probabilities: np.ndarray) -> None:
    """All predictions, as a table or as arrays."""
    if path.suffix.lower() == ".npz":
        arrays: dict[str, Any] = {"predictions": predictions, "probabilities": probabilities}
        if labels is not None:
            arrays["labels"] = labels
        with path.open("wb") as file:  # savez would add a suffix of its own to a name that ends in .NPZ
            np.savez_compressed(file, **arrays)
        return
    best = probabilities.max(1)
    with path.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        label_column = [] if labels is None else ["label"]
        writer.writerow(["image", *label_column, "prediction", "probability"])
        for i, prediction in enumerate(predictions):
            label = [] if labels is None else [labels[i]]
            writer.writerow([i, *label, prediction, f"{best[i]:.6f}"])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities from what a model gives, row by row."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
