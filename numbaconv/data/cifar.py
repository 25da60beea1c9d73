"""CIFAR-10 and CIFAR-100 as they are published: a folder of batches, in the version for Python or the binary one.

Both are described at https://www.cs.toronto.edu/~kriz/cifar.html. The version for Python is made of pickles, which are
read but never loaded (:mod:`numbaconv.data.pickles`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from numbaconv.data.dataset import Dataset
from numbaconv.data.pickles import read_pickle
from numbaconv.data.source import Samples, Source, regular_file
from numbaconv.values import as_path

SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
#: Several times the largest batch that was published.
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Form:
    """One of the four publications: the names of its files, and where labels stand in them.

    ``label`` and ``names`` are keys in the pickles of the version for Python. In a binary version ``label`` is how many
    bytes come before the pixels, the last of them the label, and the names are lines of text.
    """

    classes: int
    train: tuple[str, ...]
    test: str
    meta: str
    label: str | int
    names: str = ""


FORMS = (
    Form(10, tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta", "labels", "label_names"),
    Form(10, tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt", 1),
    Form(100, ("train",), "test", "meta", "fine_labels", "fine_label_names"),
    Form(100, ("train.bin",), "test.bin", "fine_label_names.txt", 2),
)


def load_cifar_folder(path: str | os.PathLike[str]) -> Dataset:
    """CIFAR-10 or CIFAR-100, from the folder that its archive unpacks to.

    Parameters
    ----------
    path : path
        ``cifar-10-batches-py``, ``cifar-10-batches-bin``, ``cifar-100-python`` or ``cifar-100-binary``, whatever it is
        called now, with all of its batches. The labels of CIFAR-100 are its 100 fine ones.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        There is no such folder, or a batch is missing in it.
    ValueError
        A file is damaged.
    """
    return Dataset.from_source(read_cifar_folder(as_path(path)))


def read_cifar_folder(folder: Path) -> Source:
    """Both parts that a folder of batches holds."""
    form = cifar_form(folder)
    if form is None:
        raise FileNotFoundError(f"{folder}: there are no CIFAR batches (data_batch_1 or data_batch_1.bin, ...)")
    missing = [name for name in (*form.train, form.test) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder / missing[0]}: is missing beside the other CIFAR batches")
    names = _class_names(folder / form.meta, form) if (folder / form.meta).is_file() else None
    images, labels = zip(*(_batch(folder / name, form) for name in form.train), strict=True)
    return Source(
        folder.resolve().name or str(folder),
        Samples(np.concatenate(images), np.concatenate(labels), str(folder)),
        Samples(*_batch(folder / form.test, form), str(folder / form.test)),
        scale=255.0,
        class_names=names,
    )


def cifar_form(folder: Path) -> Form | None:
    """The publication that the files of a folder are of, if any."""
    return next((form for form in FORMS if any((folder / name).is_file() for name in (*form.train, form.test))), None)


def _batch(path: Path, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(N, 3, 32, 32)`` of uint8 and int64 labels of one file."""
    content = _content(path)
    if isinstance(form.label, int):
        record = form.label + _PIXELS
        if not content or len(content) % record:
            raise ValueError(f"{path}: is damaged: {len(content):,} bytes are not records of {record:,} bytes")
        records = np.frombuffer(content, np.uint8).reshape(-1, record)
        pixels, labels = records[:, form.label :], records[:, form.label - 1]
    else:
        pixels, labels = _pickled(path, content, form.label)
    low, high = labels.min(), labels.max()
    if low < 0 or high >= form.classes:
        raise ValueError(f"{path}: is damaged: labels must be from 0 to {form.classes - 1}, got {low} to {high}")
    return np.ascontiguousarray(pixels).reshape(-1, *SHAPE), labels.astype(np.int64)


def _pickled(path: Path, content: bytes, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels ``(N, 3072)`` and labels of a batch in the version for Python."""
    held = _pickled_dict(path, content)
    pixels, labels = held.get("data"), held.get(key)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS or not len(pixels):
        raise ValueError(f'{path}: has no array (N, {_PIXELS}) under "data"')
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise ValueError(f'{path}: has no list of small integers under "{key}"')
    if len(labels) != len(pixels):
        raise ValueError(f"{path}: {len(labels):,} labels for {len(pixels):,} images")
    return pixels, np.array(labels)


def _class_names(path: Path, form: Form) -> tuple[str, ...]:
    content = _content(path)
    if form.names:
        names = _pickled_dict(path, content).get(form.names)
    else:
        names = [line for line in content.splitlines() if line.strip()]
    if not isinstance(names, list) or len(names) != form.classes:
        raise ValueError(f"{path}: does not name {form.classes} classes")
    return tuple(_text(name).strip() for name in names)


def _pickled_dict(path: Path, content: bytes) -> dict[str, Any]:
    """A dict of Python 2 or 3: its keys as text."""
    held = read_pickle(content, str(path))
    if not isinstance(held, dict):
        raise ValueError(f"{path}: is not a CIFAR batch: it holds no dict")
    return {_text(key): value for key, value in held.items()}


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _content(path: Path) -> bytes:
    if regular_file(path).stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path}: is larger than any CIFAR batch")
    return path.read_bytes()
