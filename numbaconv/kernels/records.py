"""The integers of a kernel's plan: an array for Python, which is quick to pass, and a record for compiled code.

A kernel reads them by name: ``plan = numbers.view(CORRELATION)[0]``, then ``plan.OC``.
"""

from __future__ import annotations

import numpy as np


def record(*names: str) -> np.dtype:
    """The dtype of a record of integers with these names."""
    return np.dtype((np.record, [(name, np.int64) for name in names]))


def filled(dtype: np.dtype, **values: int) -> np.ndarray:
    """The integers of a record, as an array: one for every name."""
    names = dtype.names or ()
    if set(values) != set(names):
        raise TypeError(f"names that differ: {sorted(set(values) ^ set(names))}")
    return np.array([values[name] for name in names], np.int64)
