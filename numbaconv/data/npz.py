"""Images and labels in NumPy's ``.npz`` archives, and images alone in ``.npy`` files."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import numpy as np

from numbaconv.data.dataset import Dataset
from numbaconv.data.npy import DAMAGED, read_npy, read_npy_file
from numbaconv.data.source import DEFLATE_LIMIT, Samples, Source, listed, regular_file
from numbaconv.values import as_path, one_line

#: For every part, the names that its images and its labels are looked for under, the first that is there.
TRAIN_NAMES = (("x_train", "train_images", "images", "x"), ("y_train", "train_labels", "labels", "y"))
TEST_NAMES = (("x_test", "test_images"), ("y_test", "test_labels"))


def load_npz(path: str | os.PathLike[str]) -> Dataset:
    """Images and labels from a ``.npz`` archive, as ``numpy.savez`` and ``numpy.savez_compressed`` write it.

    Parameters
    ----------
    path : path
        The archive. Its training images are the first of ``x_train``, ``train_images``, ``images`` and ``x`` that is
        there, whatever the case, and their labels the first of ``y_train``, ``train_labels``, ``labels`` and ``y``. A
        test part is ``x_test`` or ``test_images`` with ``y_test`` or ``test_labels``; where there is none, 20% of the
        images of every class are split off. Other arrays are not looked at.

        Images are ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)`` with 1, 3 or 4 channels (where both would do,
        ``(N, C, H, W)`` is taken): integers from 0 to 255, or finite floats. Labels are integers that count the
        classes from 0, ``(N,)`` or ``(N, 1)``. Python objects (pickles) are never loaded.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, or holds something else.
    """
    return Dataset.from_source(read_npz(as_path(path)))


def read_npz(path: Path) -> Source:
    """The parts that a ``.npz`` archive holds; labels may be missing."""
    regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            train, test = (_part(archive, path, *names) for names in (TRAIN_NAMES, TEST_NAMES))
            held = _members(archive)
    except (zipfile.BadZipFile, struct.error, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not a .npz archive, or a damaged one: {one_line(error)}") from None
    if train is None and test is None:
        raise ValueError(
            f"{path}: images are looked for under the names {', '.join(TRAIN_NAMES[0] + TEST_NAMES[0])}; "
            f"the archive holds {one_line(listed(sorted(held), 10)) if held else 'no arrays'}"
        )
    return Source(path.name, train, test)


def read_npy_images(path: Path) -> Source:
    """The images that a ``.npy`` file holds, without labels."""
    return Source(path.name, Samples.checked(read_npy_file(path), None, str(path)))


def _part(
    archive: zipfile.ZipFile, path: Path, image_names: tuple[str, ...], label_names: tuple[str, ...]
) -> Samples | None:
    members = _members(archive)
    image_name = next((name for name in image_names if name in members), None)
    label_name = next((name for name in label_names if name in members), None)
    if image_name is None:
        if label_name is not None:
            raise ValueError(
                f"{path}: has labels ({label_name}), but no images to go with them ({' or '.join(image_names)})"
            )
        return None
    room = path.stat().st_size * DEFLATE_LIMIT
    images = _array(archive, members[image_name], room, f"{path}: {image_name}")
    labels = None if label_name is None else _array(archive, members[label_name], room, f"{path}: {label_name}")
    return Samples.checked(images, labels, f"{path}: {image_name}", f"{path}: {label_name}")


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The arrays of an archive by their names in lower case."""
    return {info.filename.removesuffix(".npy").lower(): info for info in archive.infolist()}


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, room: int, where: str) -> np.ndarray:
    if info.file_size > room or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{where}: cannot be read: it is compressed more than numpy.savez_compressed can")
    try:
        stream = archive.open(info)
    except DAMAGED as error:
        raise ValueError(f"{where}: cannot be read: {one_line(error)}") from None
    with stream:
        return read_npy(stream, info.file_size, where)
