"""From what a user names to the data set: the one place that looks at names, folders and first bytes of files."""

from __future__ import annotations

import os
from pathlib import Path

from numbaconv.data.cifar import cifar_form, read_cifar_folder
from numbaconv.data.dataset import Dataset
from numbaconv.data.idx import holds_idx, read_idx_folder, read_idx_images
from numbaconv.data.images import Size, holds_images, read_image, read_image_folder
from numbaconv.data.named import NAMES, named_source
from numbaconv.data.npz import read_npy_images, read_npz
from numbaconv.data.source import Source, regular_file
from numbaconv.parameters import integer, pair
from numbaconv.values import as_path


def load(spec: str | os.PathLike[str], *, size: Size | int | None = None) -> Dataset:
    """The data set that ``spec`` names.

    Parameters
    ----------
    spec : str or path
        ``"digits"``, ``"mnist"``, ``"fashion"`` or ``"cifar10"``; or the path of a ``.npz`` archive (:func:`load_npz`),
        of a folder of idx files (:func:`load_idx_folder`), of CIFAR batches (:func:`load_cifar_folder`), or of images
        in sub-folders by class (:func:`load_image_folder`). A path that is called like one of the names is written
        ``./mnist``. ``docs/data.md`` tells where the named ones are looked for.
    size : int or (int, int), optional
        Height and width that PNG and JPEG files are brought to. Images in arrays keep theirs.

    Returns
    -------
    Dataset

    Raises
    ------
    TypeError
        ``spec`` is no path, or ``size`` none.
    FileNotFoundError
        There is no such file or folder, or no such data set on this machine; the message says how to get it.
    ValueError
        It is damaged, or cannot be trained on.
    ImportError
        Images are to be read, and Pillow is not installed.

    Examples
    --------
    >>> from numbaconv.data import load
    >>> load("digits").classes
    10
    """
    return Dataset.from_source(open_source(spec, size=size))


def open_source(spec: str | os.PathLike[str], *, size: Size | int | None = None, channels: int | None = None) -> Source:
    """What ``spec`` names, as it is stored.

    Parameters
    ----------
    spec : str or path
        What :func:`load` takes, and images without labels: a ``.npy`` array, an idx file, a PNG or JPEG file, or a
        folder of them.
    size, channels : int, optional
        The height and width, and the channels (1 for grey, else red, green and blue), that PNG and JPEG files are
        brought to: those that a model takes. Images in arrays keep theirs.

    Returns
    -------
    Source

    Raises
    ------
    TypeError, FileNotFoundError, ValueError, ImportError
        As :func:`load`.
    """
    size = None if size is None else pair(size, "size", 1)
    channels = None if channels is None else integer(channels, "channels", 1)
    if isinstance(spec, str) and spec in NAMES:
        return named_source(spec)
    path = as_path(spec, "spec").expanduser()
    if path.is_dir():
        return _open_folder(path, size, channels)
    with regular_file(path).open("rb") as stream:
        start = stream.read(8)
    if start.startswith(b"PK"):
        return read_npz(path)
    if start.startswith(b"\x93NUMPY"):
        return read_npy_images(path)
    if start.startswith((b"\0\0", b"\x1f\x8b")):
        return read_idx_images(path)
    if start.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff")):
        return read_image(path, size=size, channels=channels)
    raise ValueError(
        f"{path}: is none of a .npz archive, a .npy array, an idx file, a PNG or JPEG image, and a folder of idx "
        "files, of CIFAR batches or of images"
    )


def _open_folder(path: Path, size: Size | int | None, channels: int | None) -> Source:
    if cifar_form(path):
        return read_cifar_folder(path)
    if holds_idx(path):
        return read_idx_folder(path)
    if holds_images(path):
        return read_image_folder(path, size=size, channels=channels)
    raise FileNotFoundError(
        f"{path}: there are no idx files, CIFAR batches, PNG or JPEG images, or sub-folders with them, in this folder"
    )
