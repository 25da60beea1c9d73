"""The handwritten digits that ship with the package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from numbaconv.data.dataset import Dataset, split_off_test_part
from numbaconv.data.npz import read_npz
from numbaconv.data.source import Source


def load_digits() -> Dataset:
    """1,797 images of handwritten digits, 8×8, one channel: 1,438 to train on and 359 to test with.

    The split is stratified and always the same. The images count ink from 0 to 16, which is scaled to 1.

    Returns
    -------
    Dataset

    Notes
    -----
    E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998),
    doi:10.24432/C50P49, licensed under CC BY 4.0; see ``digits.LICENSE.txt`` beside the data.

    Examples
    --------
    >>> from numbaconv.data import load_digits
    >>> digits = load_digits()
    >>> digits.image_shape, digits.classes
    ((1, 8, 8), 10)
    """
    return Dataset.from_source(digits_source())


def digits_source() -> Source:
    """The digits as they are stored, in their two parts."""
    stored = read_npz(Path(__file__).with_name("digits.npz")).all_or_test()
    return Source("digits", *split_off_test_part(replace(stored, where="digits")), scale=16.0)
