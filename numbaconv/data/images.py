"""Image files, PNG and JPEG: one, a folder of them, or a folder with a sub-folder for every class. Needs Pillow."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from numbaconv.data.dataset import Dataset
from numbaconv.data.source import DEFLATE_LIMIT, Samples, Source, listed, regular_file
from numbaconv.parameters import integer, pair
from numbaconv.values import as_path, one_line

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG", "MPO")  # MPO is what some cameras make of a JPEG: with a preview behind it
#: Names of the sub-folder with the test part, the first that is there.
TEST_NAMES = ("test", "val", "valid", "validation")
#: The largest image that is read, and the largest one that is read however small its file is.
MOST_PIXELS, FREE_PIXELS = 1 << 26, 1 << 20
MOST_BYTES = 1 << 29
_GREY_MODES = ("1", "L", "LA", "La")
Size = tuple[int, int]


def load_image_folder(path: str | os.PathLike[str], *, size: Size | int | None = None) -> Dataset:
    """Images from a folder that has a sub-folder for every class.

    Parameters
    ----------
    path : path
        The folder. Its sub-folders are the classes, in the order of their names (of their numbers, where all are
        numbers), and hold PNG and JPEG files. Or it has a sub-folder ``train`` that is such a folder, and for the test
        part ``test`` or ``val`` beside it; where there is no test part, 20% of the images of every class are split
        off. What is hidden, and what is no PNG or JPEG by its name, is not looked at; symbolic links that lead out of
        the folder are an error.
    size : int or (int, int), optional
        The height and width that images are brought to: cut to that proportion around the centre, and scaled. Without
        it all must have one size.

    Returns
    -------
    Dataset
        With ``class_names``. Its images have one channel if all files are grey, else three. Transparent pixels are laid
        on white. Images are turned upright where their camera says so (EXIF).

    Raises
    ------
    FileNotFoundError
        There is no such folder, or no image in it.
    ValueError
        An image is damaged, or they differ in size.
    ImportError
        Pillow is not installed (the extra ``images``).
    """
    return Dataset.from_source(read_image_folder(as_path(path), size=size))


def read_image_folder(path: Path, *, size: Size | int | None = None, channels: int | None = None) -> Source:
    """What a folder of images holds: classes, in two parts or one; or images alone."""
    reader = _Reader(path, size, channels)
    name = path.resolve().name or str(path)
    folders, files = reader.listing(path)
    if folders and files:
        raise ValueError(f"{path}: holds images ({files[0].name}, ...) beside folders: give each class a folder")
    if not folders:
        return Source(name, reader.samples(path, [(file, None) for file in files]), scale=255.0)
    parts = {folder.name.lower(): folder for folder in folders}
    train, test = parts.get("train", path), next((parts[part] for part in TEST_NAMES if part in parts), None)
    within, _ = reader.listing(train)
    if train == path or not within:  # a folder "train" that holds images is a class: of vehicles, say
        classes = _in_order(folder.name for folder in folders)
        return Source(name, reader.labelled(path, classes), scale=255.0, class_names=classes)
    classes = _in_order(folder.name for folder in within)
    return Source(
        name,
        reader.labelled(train, classes),
        None if test is None else reader.labelled(test, classes),
        scale=255.0,
        class_names=classes,
    )


def read_image(path: Path, *, size: Size | int | None = None, channels: int | None = None) -> Source:
    """One image, without a label."""
    reader = _Reader(path.parent, size, channels)
    return Source(path.name, reader.samples(path, [(regular_file(path), None)]), scale=255.0)


def holds_images(folder: Path) -> bool:
    """Whether a folder has image files or sub-folders."""
    return any(_is_visible(file) and (file.is_dir() or _is_image(file)) for file in folder.iterdir())


class _Reader:
    """Reads the image files below a folder into arrays of one shape."""

    def __init__(self, root: Path, size: Size | int | None, channels: int | None) -> None:
        if not find_spec("PIL"):
            raise ModuleNotFoundError(f'{root}: images need Pillow: pip install "numbaconv[images]"')
        self.root = os.path.realpath(root)
        self.size = None if size is None else pair(size, "size", 1)
        if self.size is not None and math.prod(self.size) > MOST_PIXELS:
            raise ValueError(f"size={size} is more than the {MOST_PIXELS:,} pixels of the largest image that is read")
        self.channels = None if channels is None else integer(channels, "channels", 1)

    def listing(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The sub-folders and the image files of a folder, by name."""
        folders: list[Path] = []
        files: list[Path] = []
        for entry in sorted(folder.iterdir()):
            if not _is_visible(entry) or not (entry.is_dir() or _is_image(entry)):
                continue
            if not Path(os.path.realpath(entry)).is_relative_to(self.root):
                raise ValueError(f"{entry}: is a symbolic link that leads out of the folder")
            (folders if entry.is_dir() else files).append(entry)
        return folders, files

    def labelled(self, folder: Path, classes: tuple[str, ...]) -> Samples:
        """The images in the sub-folders of a folder, each of which must be a class."""
        found: list[tuple[Path, int | None]] = []
        folders, _ = self.listing(folder)
        for subfolder in folders:
            if subfolder.name not in classes:
                raise ValueError(f"{subfolder}: is no class that there is to train on ({listed(classes)})")
            _, files = self.listing(subfolder)
            if not files:
                raise ValueError(f"{subfolder}: holds no PNG or JPEG images")
            label = classes.index(subfolder.name)
            found += [(file, label) for file in files]
        return self.samples(folder, found)

    def samples(self, where: Path, files: list[tuple[Path, int | None]]) -> Samples:
        """The images in some files with their labels, ``(N, C, H, W)``: grey if all are, else red, green, blue."""
        if not files:
            raise FileNotFoundError(f"{where}: there are no PNG or JPEG images in this folder")
        first, _ = files[0]
        images: list[np.ndarray] = []
        for file, _ in files:
            image = self.pixels(file)
            if images and image.shape[:2] != images[0].shape[:2]:
                (H, W), (H0, W0) = image.shape[:2], images[0].shape[:2]
                raise ValueError(
                    f"{file}: is {W}x{H} pixels, but {first.name} {W0}x{H0}: images must have one size, or be brought "
                    "to one (size=)"
                )
            images.append(image)
        C = max(image.shape[2] for image in images)
        result = np.empty((len(images), C, *images[0].shape[:2]), np.uint8)
        for n, image in enumerate(images):
            result[n] = image.transpose(2, 0, 1)  # a grey one fills all three channels
        labels = [label for _, label in files if label is not None]
        names = tuple(file.relative_to(where).as_posix() if file != where else file.name for file, _ in files)
        return Samples(result, np.array(labels, np.int64) if labels else None, str(where), names)

    def pixels(self, path: Path) -> np.ndarray:
        """The pixels of one file, ``(H, W, 1)`` or ``(H, W, 3)`` of uint8."""
        from PIL import Image, UnidentifiedImageError

        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path}: is larger than any image that is read")
        content = path.read_bytes()  # from memory, Pillow can't ask for more bytes than there are
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what matters in them is an error here
                with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                    _check_size(image, len(content))
                    pixels = np.asarray(self.prepared(image))
        except Exception as error:  # damaged files make Pillow raise almost anything
            reason = "" if isinstance(error, UnidentifiedImageError) else f": {one_line(error)}"
            raise ValueError(f"{path}: is not a PNG or JPEG image, or a damaged one{reason}") from None
        return pixels.reshape(*pixels.shape[:2], -1)

    def prepared(self, image: Image.Image) -> Image.Image:
        """An image upright, grey or in colour, and of the size that was asked for."""
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits: the upper 8 of them, as Pillow takes them of colours
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        channels = self.channels or (1 if image.mode in _GREY_MODES else 3)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        if self.size is not None and (image.height, image.width) != self.size:
            image = ImageOps.fit(image, self.size[::-1], Image.Resampling.BILINEAR)
        return image


def _check_size(image: Image.Image, size: int) -> None:
    """Before anything is decoded: that a file of a few bytes does not unpack to gigabytes."""
    pixels = image.width * image.height
    if pixels > MOST_PIXELS or pixels > max(FREE_PIXELS, size * DEFLATE_LIMIT):
        raise ValueError(f"{image.width}x{image.height} pixels in {size:,} bytes are too many")


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes, sorted: numbers by their value, so that of the folders 0 to 10 the last is class 10."""
    names = list(names)
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if numbers else None))
