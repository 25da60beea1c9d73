"""The values that parameters start from: torch's.

``kaiming_uniform_(a=√5)`` draws from ±√(6 / ((1 + a²) · fan_in)) = ±1/√fan_in, which is also what the biases get.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import numpy as np

from numbaconv.arrays import empty
from numbaconv.nn.module import Parameter
from numbaconv.parameters import Shape

#: Where random numbers come from: a generator, which is used as it is, a seed for a new one, or None for a random seed.
Rng: TypeAlias = np.random.Generator | int | None
_most_numbers: ContextVar[float] = ContextVar("_most_numbers", default=math.inf)


def generator(rng: Any, name: str = "rng") -> np.random.Generator:
    """The generator that ``rng`` is, or a new one with this seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is not None and (isinstance(rng, bool) or not isinstance(rng, int | np.integer)):
        raise TypeError(
            f"{name} must be a numpy.random.Generator, an integer of at least 0, or None, "
            f"got {rng!r} ({type(rng).__name__})"
        )
    if rng is not None and rng < 0:
        raise ValueError(f"{name} must be at least 0 where it is a seed, got {rng}")
    return np.random.default_rng(rng)


@contextmanager
def at_most(numbers: int) -> Iterator[None]:
    """Where a file says how large a model is: a ValueError instead of a parameter of more numbers than it has."""
    token = _most_numbers.set(numbers)
    try:
        yield
    finally:
        _most_numbers.reset(token)


def constant(shape: Shape, value: float, dtype: np.dtype) -> np.ndarray:
    """An array that is ``value`` everywhere."""
    data = _empty(shape, dtype)
    data[...] = value
    return data


def uniform(shape: Shape, fan_in: int, rng: np.random.Generator, dtype: np.dtype) -> Parameter:
    """A parameter drawn from ±1/√fan_in; the same for float32, up to its rounding, as for float64."""
    bound = 1 / math.sqrt(fan_in)
    data = _empty(shape, dtype)
    data[...] = rng.uniform(-bound, bound, shape)
    return Parameter(data)


def _empty(shape: Shape, dtype: np.dtype) -> np.ndarray:
    if math.prod(shape) > _most_numbers.get():
        raise ValueError(f"a parameter of shape {shape} would have more than {_most_numbers.get():,} numbers")
    return empty(shape, dtype, "a parameter")
