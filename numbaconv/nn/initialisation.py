"""The values that parameters start from: torch's.

``kaiming_uniform_(a=√5)`` draws from ±√(6 / ((1 + a²) · fan_in)) = ±1/√fan_in, which is also what the biases get.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from numbaconv.geometry import Shape
from numbaconv.nn.module import Parameter

#: Where random numbers come from: a generator, which is used as it is, a seed for a new one, or None for a random seed.
Rng: TypeAlias = np.random.Generator | int | None


def uniform(shape: Shape, fan_in: int, rng: np.random.Generator, dtype: np.dtype) -> Parameter:
    """A parameter drawn from ±1/√fan_in; the same for float32, up to its rounding, as for float64."""
    bound = 1 / math.sqrt(fan_in)
    return Parameter(rng.uniform(-bound, bound, shape).astype(dtype))
