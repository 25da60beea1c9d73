"""Plain values that come in: numbers, flags, paths, mappings. Integers are :func:`numbaconv.parameters.integer`'s."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

#: Characters that an error may quote of a file.
LONGEST_MESSAGE = 200


def real(value: Any, name: str, smallest: float, largest: float = math.inf) -> float:
    """``value`` as a finite float from ``smallest`` to ``largest``."""
    if isinstance(value, bool | np.bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf if value > 0 else -math.inf
    if not (smallest <= number <= largest and math.isfinite(number)):
        rule = f"at least {smallest:g}" if largest == math.inf else f"from {smallest:g} to {largest:g}"
        raise ValueError(f"{name} must be {rule} and finite, got {number:g}")
    return number


def flag(value: Any, name: str) -> bool:
    """``value``, True or False; nothing else is taken for one of them."""
    if not isinstance(value, bool | np.bool):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__})")
    return bool(value)


def as_path(value: Any, name: str = "path") -> Path:
    """``value``, a string or path-like object, as a path."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, a str or an os.PathLike, got {value!r} ({type(value).__name__})")
    return Path(value)


def as_mapping(value: Any, name: str) -> Mapping[Any, Any]:
    """``value`` itself, a mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, such as a dict, got {value!r} ({type(value).__name__})")
    return value


def numbers(value: Any, name: str) -> np.ndarray:
    """``value``, an array or what NumPy makes one of, as an array of real numbers."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # rows of different lengths, say
        raise ValueError(f"{name} cannot be made an array: {error}") from error
    if array.dtype.kind not in "iufb":
        raise TypeError(f"{name} must be an array of real numbers, got dtype {array.dtype} ({type(value).__name__})")
    return array


def one_line(said: object, most: int = LONGEST_MESSAGE) -> str:
    """What an error says, or a file, on one line and not a long one."""
    message = " ".join(str(said).split()) or type(said).__name__
    return message if len(message) <= most else message[:most] + "..."
