"""The arrays that come in and go out: what they must be, and their common dtype. No Numba.

Shared by the fast functions and by the reference, so that both take and refuse the same arguments with the same words.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from numbaconv.parameters import Shape, check_bytes

#: Requests for more bytes than this are held against what there is: asking takes 30 microseconds.
LARGE = 1 << 28
#: Vectors that cross a cache line take twice as long or more, and in arrays of NumPy's own most or all of them do.
CACHE_LINE = 64
#: Arrays of fewer bytes than this are used for so short a time that it does not pay to have them begin with one.
_SMALL = 64 * 1024
FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
_FLOATS = set(FLOATS)


def float_array(value: Any, name: str) -> np.ndarray:
    """``value``, a NumPy array of float16, float32 or float64 (of either byte order); else a TypeError."""
    if type(value) is np.ndarray and value.dtype in FLOATS:
        return value
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(value).__name__}: convert it with numpy.asarray")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, and a mask has no meaning here: fill it with {name}.filled(0)")
    if value.dtype.kind != "f" or value.dtype.newbyteorder("=") not in FLOATS:
        raise TypeError(
            f"{name} has dtype {value.dtype}; float16, float32 and float64 are taken: "
            f"convert it with {name}.astype(numpy.float32)"
        )
    return np.asarray(value)


def result_dtype(*arrays: np.ndarray | None) -> np.dtype:
    """The dtype of a result: ``numpy.result_type`` of all arrays given, in native byte order."""
    dtypes = {array.dtype for array in arrays if array is not None}
    if len(dtypes) == 1 and dtypes <= _FLOATS:
        return dtypes.pop()
    return np.result_type(*(dtype.newbyteorder("=") for dtype in dtypes))


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype that is computed in: float16 is computed in float32 and rounded once, at the end."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def check_dtypes(dtypes: Any) -> list[np.dtype]:
    """``dtypes``, an iterable of float16, float32 and float64, as NumPy's; else a TypeError."""
    rule = "dtypes must be some of float16, float32 and float64, in a list"
    if isinstance(dtypes, str | type | np.dtype | np.ndarray) or not isinstance(dtypes, Iterable):
        raise TypeError(f"{rule}, got {dtypes!r} ({type(dtypes).__name__})")
    found = []
    for dtype in dtypes:
        try:
            found.append(np.dtype(dtype))
        except (TypeError, ValueError):
            raise TypeError(f"{rule}, but one is {dtype!r}") from None
        if dtype is None or found[-1] not in _FLOATS:
            raise TypeError(f"{rule}, but one is {dtype!r}")
    return found


def check_bias(bias: Any, channels: int) -> np.ndarray | None:
    """``bias`` itself, None or an array of ``(channels,)``."""
    if bias is None:
        return None
    bias = float_array(bias, "bias")
    if bias.shape != (channels,):
        raise ValueError(f"bias has shape {bias.shape}, but must be ({channels},): one value an output channel")
    return bias


def output_array(out: Any, shape: Shape, dtype: np.dtype, *inputs: np.ndarray | None) -> np.ndarray:
    """``out`` if it can take the result, a new array if it is None.

    Raises
    ------
    TypeError
        ``out`` is no array.
    ValueError
        Its shape or dtype is wrong, it is read-only or overlaps itself, or it shares memory with one of ``inputs``; or
        a new array of this shape could not be addressed.
    MemoryError
        There is not enough memory for a new array.
    """
    if out is None:
        return empty(shape, dtype, "the result")
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    if isinstance(out, np.ma.MaskedArray):
        raise TypeError("out is a masked array, and a mask has no meaning here: give out.data")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out has shape {out.shape} and dtype {out.dtype}, but the result has {shape} and {dtype}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if _overlaps_itself(out):
        raise ValueError(f"out overlaps itself (strides {out.strides}): several of its elements share memory")
    for array in inputs:
        if array is not None and _overlap(out, array):
            raise ValueError("out shares memory with an input: the result would overwrite what is still to be read")
    return out


def empty(shape: Shape, dtype: np.dtype, what: str, least: int = _SMALL) -> np.ndarray:
    """The same as :func:`new`; a MemoryError with the size of the array where memory does not suffice.

    An operating system may give out more memory than it has, and end a process that then uses it: so it is asked.
    """
    try:
        array = new(shape, dtype, least)
        if array.nbytes <= LARGE or array.nbytes <= available_bytes():
            return array
    except ValueError:
        check_bytes(what, shape, dtype.itemsize)
        raise
    except MemoryError:
        pass
    size = dtype.itemsize * math.prod(shape)
    raise MemoryError(f"{what} of shape {shape} and dtype {dtype} would take {size:,} bytes, more than there are left")


def new(shape: Shape, dtype: np.dtype, least: int = _SMALL) -> np.ndarray:
    """A new array with anything in it, which starts at a cache line if it has that many bytes."""
    size = dtype.itemsize * math.prod(shape)
    if size < least:
        return np.empty(shape, dtype)
    memory = np.empty(size + CACHE_LINE, np.uint8)
    return np.ndarray(shape, dtype, memory, -memory.ctypes.data % CACHE_LINE)


def available_bytes(root: str = "/") -> int:
    """How much memory can still be had, as far as Linux says so, of the machine and of the process's container."""
    most = sys.maxsize
    with suppress(OSError, ValueError, KeyError, IndexError):  # another system, or a file of another form
        kilobytes = _numbers(f"{root}proc/meminfo")
        most = 1024 * (kilobytes["MemAvailable:"] + kilobytes["SwapFree:"])
    with suppress(OSError, ValueError):
        with open(f"{root}proc/self/cgroup", encoding="utf-8") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
        for _, controllers, path in groups:
            if not controllers:
                most = min(most, _left(f"{root}sys/fs/cgroup", path, "memory.max", "memory.current"))
            elif "memory" in controllers.split(","):
                names = "memory.limit_in_bytes", "memory.usage_in_bytes"
                most = min(most, _left(f"{root}sys/fs/cgroup/memory", path, *names))
    return most


def _left(root: str, path: str, limit: str, usage: str) -> int:
    """What a control group and those that it is part of may still take, besides what can be dropped of their files."""
    most, parts = sys.maxsize, [part for part in path.split("/") if part]
    for depth in range(len(parts) + 1):
        with suppress(OSError, ValueError):  # a container does not see those around it; "max" is no limit
            folder = "/".join([root, *parts[:depth]])
            allowed, used = (int(_text(f"{folder}/{name}")) for name in (limit, usage))
            kept = _numbers(f"{folder}/memory.stat")
            files = kept.get("total_inactive_file", kept.get("inactive_file", 0))
            most = min(most, max(0, allowed - used + files))
    return most


def _numbers(path: str) -> dict[str, int]:
    """The lines of a file of names and numbers."""
    return {words[0]: int(words[1]) for words in map(str.split, _text(path).splitlines())}


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    if a.flags.owndata and b.flags.owndata:
        return a is b
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:  # strides so odd that nobody can tell: better refused than wrong
        return True


def _overlaps_itself(array: np.ndarray) -> bool:
    """Whether two elements of an array may share memory: a stride is too short for what lies between its steps."""
    if array.size == 0 or array.flags.c_contiguous:
        return False
    reached = array.itemsize
    for stride, size in sorted((abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True)):
        if size > 1:
            if stride < reached:
                return True
            reached = stride * (size - 1) + reached
    return False


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """``values`` as ``dtype``; beyond its range they become infinite or 0, whatever NumPy is told to do about that."""
    if values.dtype == dtype:
        return values
    with np.errstate(all="ignore"):
        return values.astype(dtype)
