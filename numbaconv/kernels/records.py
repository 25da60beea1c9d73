"""The integers of a kernel's plan, gathered in one record that compiled code reads by name."""

from __future__ import annotations

import numpy as np


def record(*names: str) -> np.dtype:
    """The dtype of a record of integers with these names."""
    return np.dtype([(name, np.int64) for name in names])


def filled(dtype: np.dtype, **values: int) -> np.recarray:
    """An array of one record with these values, one for every name."""
    if set(values) != set(dtype.names or ()):
        raise TypeError(f"names that differ: {sorted(set(values) ^ set(dtype.names or ()))}")
    array = np.zeros(1, dtype).view(np.recarray)
    for name, value in values.items():
        array[name] = value
    return array
