"""What the vectors of the CPU are like that Numba compiles for."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from llvmlite.binding import get_host_cpu_name
from numba.core import codegen, config


def _features() -> set[str]:
    """The features of the CPU that Numba compiles for, such as ``avx2`` or ``neon``."""
    if config.CPU_FEATURES is not None:
        listed = config.CPU_FEATURES
    elif config.CPU_NAME == "generic":
        listed = ""
    else:
        listed = codegen.get_host_cpu_features()
    return {feature[1:] for feature in listed.split(",") if feature.startswith("+")}


_FEATURES = _features()
#: The CPU that Numba compiles for, as LLVM calls it.
CPU_NAME = config.CPU_NAME or get_host_cpu_name()
_ARM = platform.machine().lower() in ("arm64", "aarch64")
#: Bytes of a vector register.
VECTOR_BYTES = 64 if "avx512f" in _FEATURES else 32 if "avx2" in _FEATURES else 16
#: Bytes of a line of the caches.
CACHE_LINE = 64
#: Multiply-adds of vectors that a core begins in a cycle; Zen 4 computes the halves of 512 bits one after the other.
MULTIPLY_ADDS = 1 if VECTOR_BYTES == 64 and CPU_NAME == "znver4" else 2
#: How many vector registers there are.
VECTOR_REGISTERS = 32 if _ARM or "avx512f" in _FEATURES else 16
#: Without the instruction, an exact fused operation would be a call into the C library for every lane.
FUSED = "llvm.fma" if _ARM or "fma" in _FEATURES or "avx512f" in _FEATURES else "llvm.fmuladd"


def lanes(dtype: Any) -> int:
    """How many elements of ``dtype`` a vector holds."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


def lanes_of(array: np.ndarray) -> int:
    """The same for the elements of an array, as a constant in compiled code."""
    return lanes(array.dtype)
