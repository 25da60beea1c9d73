"""Small random changes to training images, so that a model learns what does not matter."""

from __future__ import annotations

import numpy as np


def shifted(images: np.ndarray, pixels: float, random: np.random.Generator) -> np.ndarray:
    """Each image shifted by up to ``pixels`` along both axes, at random, fractions of a pixel included.

    Values between pixels are interpolated linearly; at an edge the last row or column is repeated.

    Parameters
    ----------
    images : ndarray of floats, shape (N, C, H, W)
        They are not changed.
    pixels : float
        The largest shift.
    random : numpy.random.Generator
        Where the shifts come from.

    Returns
    -------
    ndarray, shape (N, C, H, W)

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.data import shifted
    >>> shifted(np.eye(3, dtype=np.float32)[None, None], 0.5, np.random.default_rng(0)).shape
    (1, 1, 3, 3)
    """
    if pixels == 0:
        return images
    down, right = random.uniform(-pixels, pixels, (2, len(images)))
    return _shifted_along(_shifted_along(images, down, 2), right, 3)


def _shifted_along(images: np.ndarray, amounts: np.ndarray, axis: int) -> np.ndarray:
    """Image ``n`` at the positions ``i + amounts[n]`` along an axis."""
    length = images.shape[axis]
    positions = np.clip(np.arange(length) + amounts[:, None], 0, length - 1)
    whole = np.minimum(positions.astype(np.intp), max(length - 2, 0))
    shape = [len(images), 1, 1, 1]
    shape[axis] = length
    fraction = (positions - whole).astype(images.dtype).reshape(shape)
    before = np.take_along_axis(images, whole.reshape(shape), axis)
    after = np.take_along_axis(images, np.minimum(whole + 1, length - 1).reshape(shape), axis)
    return before + fraction * (after - before)
