"""What layers, losses and the trainer ask of the arrays and numbers that they are given."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.arrays import float_array
from numbaconv.kernels.losses import within
from numbaconv.nn.layout import Form, in_layout, is_dense
from numbaconv.values import flag as flag
from numbaconv.values import real as real

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def parameter_dtype(dtype: Any) -> np.dtype:
    """``dtype`` as a NumPy dtype, one that parameters can have: float32 or float64."""
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if dtype is None or found is None or found not in FLOATS:  # numpy takes None for float64
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
    return found


def dense(value: Any, name: str, ndim: int | None = None, shapes: str = "") -> np.ndarray:
    """``value`` as kernels take it: a dense, writeable array of float32 or float64; float16 becomes float32.

    Images may lie in memory in either layout. ``shapes`` says what each of the ``ndim`` dimensions is.
    """
    array = float_array(value, name)
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions {shapes}, got {array.ndim}: shape {array.shape}")
    if array.dtype in FLOATS and is_dense(array):
        return array
    # Read-only and unaligned arrays are other types to Numba: a copy now is cheaper than a second compilation.
    return np.require(array, FLOATS[array.dtype.itemsize == 8], ["C", "W", "A"])


def images(value: Any, name: str = "x") -> np.ndarray:
    """``value`` as dense images, ``(N, C, H, W)``."""
    return dense(value, name, 4, "(N, C, H, W)")


def check_gradient(grad_output: Any, output: Form) -> np.ndarray:
    """``grad_output`` in the dtype and layout of the output; a ValueError unless it has its shape."""
    gradient = dense(grad_output, "grad_output")
    if gradient.shape != output.shape:
        raise ValueError(f"grad_output has shape {gradient.shape}, but the output of forward had {output.shape}")
    return in_layout(gradient.astype(output.dtype, copy=False), output.layout)


def labels(value: Any, classes: int, name: str = "target") -> np.ndarray:
    """``value`` itself, an array ``(N,)`` of integers from 0 to ``classes - 1``."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray of integer labels, got {type(value).__name__}")
    if value.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integer labels, got dtype {value.dtype}: convert it with .astype(numpy.int64)")
    if value.ndim != 1:
        raise ValueError(f"{name} must be one label an image, (N,), got shape {value.shape}")
    if not within(np.ascontiguousarray(value, np.int64), classes):
        raise ValueError(
            f"{name} must be labels from 0 to {classes - 1} ({classes} classes), got {value.min()} to {value.max()}"
        )
    return value
