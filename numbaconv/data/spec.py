"""From what a user names to the data set: the one place that looks at names and first bytes of files."""

from __future__ import annotations

import os
from pathlib import Path

from numbaconv.data.dataset import Dataset
from numbaconv.data.digits import digits_source
from numbaconv.data.idx import read_idx_folder, read_idx_images
from numbaconv.data.npz import read_npy_images, read_npz
from numbaconv.data.source import Source, regular_file


def load(spec: str | os.PathLike[str]) -> Dataset:
    """The data set that ``spec`` names.

    Parameters
    ----------
    spec : str or path
        ``"digits"``, a ``.npz`` archive (:func:`load_npz`) or a folder of idx files (:func:`load_idx_folder`).

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        There is no such file or folder.
    ValueError
        It is damaged, or cannot be trained on.

    Examples
    --------
    >>> from numbaconv.data import load
    >>> load("digits").classes
    10
    """
    return Dataset.from_source(open_source(spec))


def open_source(spec: str | os.PathLike[str]) -> Source:
    """What ``spec`` names, as it is stored. Beside what :func:`load` takes, images without labels: ``.npy``, idx."""
    if spec == "digits":
        return digits_source()
    path = Path(spec).expanduser()
    if path.is_dir():
        return read_idx_folder(path)
    with regular_file(path).open("rb") as stream:
        start = stream.read(6)
    if start.startswith(b"PK"):
        return read_npz(path)
    if start == b"\x93NUMPY":
        return read_npy_images(path)
    if start.startswith((b"\0\0", b"\x1f\x8b")):
        return read_idx_images(path)
    raise ValueError(f"{path}: is none of a .npz archive, a .npy array, an idx file and a folder of idx files")
