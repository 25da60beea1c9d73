"""The integers of a kernel's plan: an array for Python, which is quick to pass, and a record for compiled code.

A kernel reads them by name: ``plan = read(numbers, CORRELATION)``, then ``plan.OC``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable


def record(*names: str) -> np.dtype:
    """The dtype of a record of integers with these names."""
    return np.dtype((np.record, [(name, np.int64) for name in names]))


def filled(dtype: np.dtype, **values: int) -> np.ndarray:
    """The integers of a record, as an array: one for every name."""
    names = dtype.names or ()
    if set(values) != set(names):
        raise TypeError(f"names that differ: {sorted(set(values) ^ set(names))}")
    return np.array([values[name] for name in names], np.int64)


def read(numbers: np.ndarray, dtype: np.dtype) -> Any:
    """The array's integers as a record, for compiled code."""
    return numbers.view(dtype)[0]


@type_callable(read)
def _type_read(context: Any) -> Callable:
    return lambda numbers, dtype: dtype.dtype


@lower_builtin(read, types.Array, types.DType)
def _lower_read(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    # Compiled code passes a record around as its address. Numba's own view of an array takes 0.2 s to compile.
    array = cgutils.create_struct_proxy(signature.args[0])(context, builder, values[0])
    return builder.bitcast(array.data, context.get_value_type(signature.return_type))
