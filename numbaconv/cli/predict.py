"""``numbaconv predict``: what a trained model makes of some images."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    class_names: Sequence[str] | None

    @classmethod
    def load(cls, path: str) -> Predictor:
        """Read a file that ``numbaconv train`` saved; an error of one line for any other."""
        with user_errors(ImportError):
            model, metadata = nn.load_model(Path(path).expanduser())
        try:
            C = int(metadata["arguments"]["in_channels"])
            H, W = map(int, metadata["arguments"]["image_size"])
            scale, mean, std = (np.array(metadata[name], np.float64) for name in ("scale", "mean", "std"))
            class_names = tuple(map(str, metadata.get("class_names") or ()))
            if class_names and len(class_names) != metadata["arguments"]["num_classes"]:
                raise ValueError("there must be a name for every class")
        except (KeyError, TypeError, ValueError):
            raise UsageError(
                f"{path}: does not say what images it takes; it was not saved by numbaconv train"
            ) from None
        fits = scale.shape == () and mean.shape == std.shape == (C,)
        if not fits:
            raise UsageError(f"{path}: is damaged: its scale, mean and std are no normalisation of {C} channels")
        if not np.isfinite([scale, *mean, *std]).all() or min(scale, *std) <= 0:
            smallest = float(std.min(initial=np.inf))
            raise UsageError(
                f"{path}: is damaged: scale {float(scale)} and std {smallest} must be above 0, and finite as the mean"
            )
        return cls(path, model, (C, H, W), float(scale), mean.tolist(), std.tolist(), class_names or None)

    def probabilities(self, console: Console, samples: Samples, own_scale: float | None, batch_size: int) -> np.ndarray:
        """The probability of every class for every image, ``(N, classes)``."""
        if samples.images.shape[1:] != self.image_shape:
            raise UsageError(
                f"{samples.where} has images of {described(samples.images.shape[1:])}, "
                f"but the model {self.name} takes {described(self.image_shape)}"
            )
        with user_errors():
            images = prepare(samples.images, self.scale, self.mean, self.std, own_scale=own_scale, where=samples.where)
        outputs = []
        with progress_bar(console, len(images)) as show_progress:
            for start in range(0, len(images), batch_size):
                outputs.append(softmax(self.model(images[start : start + batch_size])))
                show_progress("predicting", min(start + batch_size, len(images)))
        return np.concatenate(outputs)


def run(options: Namespace) -> int:
    """Predict, show the first rows, tell the accuracy, write everything."""
    console = open_console()
    use_threads(options.threads)
    output = None
    if options.output is not None:
        output = output_file(options.output, SUFFIXES, options.model, options.data)
    predictor = Predictor.load(options.model)
    C, H, W = predictor.image_shape
    with user_errors(ImportError):
        source = open_source(options.data, size=(H, W), channels=C).with_classes(predictor.class_names)
    samples = source.all_or_test()
    probabilities = predictor.probabilities(console, samples, source.scale, options.batch_size)
    predictions = probabilities.argmax(1)
    columns = described_images(samples, predictions, predictor.class_names)
    show(console, columns, probabilities.max(1), options.rows)
    part = " (test part)" if source.test is not None else ""
    console.print(summary(source.name + part, samples.labels, predictions))
    if output is not None:
        with user_errors():
            arrays = {"predictions": predictions, "probabilities": probabilities}
            write(output, columns, arrays if samples.labels is None else arrays | {"labels": samples.labels})
        console.print(f"saved {output}")
    return 0


def described_images(
    samples: Samples, predictions: np.ndarray, class_names: Sequence[str] | None
) -> dict[str, list[str]]:
    """Columns of a table: each image by name or number, its label where there is one, and what is predicted."""

    def named(labels: np.ndarray) -> list[str]:
        known = class_names or ()
        return [known[label] if label < len(known) else str(label) for label in labels.tolist()]

    columns = {"image": list(samples.names or map(str, range(len(predictions))))}
    if samples.labels is not None:
        columns["label"] = named(samples.labels)
    return columns | {"prediction": named(predictions)}


def show(console: Console, columns: dict[str, list[str]], best: np.ndarray, rows: int) -> None:
    """Print the first predictions, and the probability of each."""
    if rows == 0:
        return
    shown = {title: column[:rows] for title, column in columns.items()}
    shown["probability"] = [f"{probability:.2%}" for probability in best[:rows]]
    widths = {"image": 7, "label": 6, "prediction": 11, "probability": 12}
    table = Table(console, {title: max(widths[title], *map(len, column)) for title, column in shown.items()})
    labels = shown.get("label", shown["prediction"])
    for *cells, label, prediction in zip(*shown.values(), labels, shown["prediction"], strict=True):
        table.row(*cells, style=None if label == prediction else "red")
    if rows < len(best):
        console.print(f"... and {len(best) - rows:,} more")


def summary(name: str, labels: np.ndarray | None, predictions: np.ndarray) -> str:
    """The last line: the accuracy, where there are labels."""
    if labels is None:
        return f"{name}: {len(predictions):,} image{'s' * (len(predictions) > 1)}, no labels to compare with"
    right = int((labels == predictions).sum())
    return f"{name}: accuracy {right / len(labels):.2%} ({right:,} of {len(labels):,} images)"


def write(path: Path, columns: dict[str, list[str]], arrays: dict[str, np.ndarray]) -> None:
    """All predictions, as a table or as arrays."""
    if path.suffix.lower() == ".npz":
        with path.open("wb") as file:  # savez would add a suffix of its own to a name that ends in .NPZ
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return
    best = [f"{probability:.6f}" for probability in arrays["probabilities"].max(1)]
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, "probability"])
        writer.writerows(zip(*columns.values(), best, strict=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities from what a model gives, row by row."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
