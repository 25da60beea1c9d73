"""Labelled images to train on: data sets known by name, arrays in files, folders of images; and random changes to them.

Every loader gives a :class:`Dataset`: float32 images ``(N, C, H, W)``, normalised, and int64 labels, in a training part
and a test part. What was done to the pixels is recorded in it, so that it can be done to other images later
(:func:`prepare`). A file that is not what it should be is a ``ValueError`` or a ``FileNotFoundError`` of one line.
"""

from numbaconv.data.augment import Compose, Cutout, RandomCrop, RandomHorizontalFlip, RandomShift, shifted
from numbaconv.data.cifar import load_cifar_folder
from numbaconv.data.dataset import Dataset, prepare, stratified_split
from numbaconv.data.digits import load_digits
from numbaconv.data.idx import load_idx_folder
from numbaconv.data.images import load_image_folder
from numbaconv.data.npz import load_npz
from numbaconv.data.source import Samples, Source
from numbaconv.data.spec import load, open_source

__all__ = [
    "Dataset",
    "load",
    "load_digits",
    "load_npz",
    "load_idx_folder",
    "load_cifar_folder",
    "load_image_folder",
    "prepare",
    "stratified_split",
    "open_source",
    "Samples",
    "Source",
    "Compose",
    "RandomCrop",
    "RandomShift",
    "RandomHorizontalFlip",
    "Cutout",
    "shifted",
]
