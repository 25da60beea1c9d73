"""Where training ends with Winograd's algorithm, and without: the table of accuracies in docs/winograd.md.

    python benchmarks/training.py path/to/mnist

Each seed trains three times, from the same weights on the same batches: with ``set_algorithm("auto")``, with
``"direct"``, and with ``"direct"`` once more after every initial weight was moved to the next float32. The third says
what rounding errors as such do to a training run: they change it within the noise that there is anyway.
"""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any, NamedTuple

import numpy as np

import numbaconv
from numbaconv import nn
from numbaconv.data import Dataset, load
from numbaconv.nn.models import MODELS


class Task(NamedTuple):
    """How a model is trained: on the first so many images, with a learning rate that stays, or falls to 0."""

    images: int
    epochs: int
    lr: float
    falls: bool
    seeds: int = 5
    batch_size: int = 64


TASKS = {"mnist_cnn": Task(4_000, 3, 0.02, falls=False), "resnet20": Task(5_000, 3, 0.05, falls=True)}
ARMS: dict[str, tuple[Any, bool]] = {"auto": ("auto", False), "direct": ("direct", False), "moved": ("direct", True)}


def accuracy(name: str, task: Task, data: Dataset, seed: int, algorithm: Any, moved: bool) -> float:
    """Percent of the test images that are told right after training."""
    numbaconv.set_algorithm(algorithm)
    C, H, W = data.image_shape
    model = MODELS[name](data.classes, C, (H, W), rng=seed)
    if moved:
        for parameter in model.parameters():
            parameter.data[...] = np.nextafter(parameter.data, np.float32(np.inf))
    trainer = nn.Trainer(model, nn.SGD(lr=task.lr, momentum=0.9))
    images, labels = data.train_images[: task.images], data.train_labels[: task.images]
    steps = itertools.count(1)
    last = task.epochs * -(-len(labels) // task.batch_size)

    def along_half_a_cosine(progress: nn.Progress) -> None:
        trainer.optimizer.lr = task.lr * (1 + math.cos(math.pi * next(steps) / last)) / 2

    on_batch = along_half_a_cosine if task.falls else None
    trainer.fit(images, labels, epochs=task.epochs, batch_size=task.batch_size, seed=seed, on_batch=on_batch)
    return 100 * trainer.evaluate(data.test_images, data.test_labels).accuracy


def row(name: str, task: Task, data: Dataset) -> list[str]:
    """A line of the table."""
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(task.seeds):
        for arm, (algorithm, moved) in ARMS.items():
            found[arm].append(accuracy(name, task, data, seed, algorithm, moved))
        print(name, seed, {arm: round(values[-1], 2) for arm, values in found.items()}, file=sys.stderr)
    ends = [f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" for values in found.values()]
    differences = [np.subtract(found[arm], found["direct"]) for arm in ("auto", "moved")]
    pairs = [f"{d.mean():+.2f} ± {d.std(ddof=1) / len(d) ** 0.5:.2f}" for d in differences]
    return [name, f"{task.seeds}", *ends, *pairs]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/training.py path/to/mnist")
    data = load(sys.argv[1])
    numbaconv.set_num_threads(1)
    head = ["", "seeds", "`auto`", "`direct`", "`direct`, weights moved", "`auto` − `direct`", "moved − `direct`"]
    rows = (row(name, task, data) for name, task in TASKS.items())
    for line in itertools.chain((head, [":--", *["--:"] * (len(head) - 1)]), rows):
        print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
