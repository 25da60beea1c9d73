"""What a pickle of plain values and byte arrays says, without running it.

A pickle is a program for a small stack machine, two of whose instructions can call any function there is. So none is
ever loaded here. This reader follows the instructions that write down plain values; where a program would have NumPy
make an array of bytes, it notes that there is one. Any other name and any other instruction is an error.
``pickletools``, which takes a pickle apart and runs nothing, does the decoding.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from numbaconv.values import one_line

#: Instructions that say a value. The first two are strings of Python 2, which may be text or bytes.
_STRINGS: Final = ("SHORT_BINSTRING", "BINSTRING")
_VALUES: Final = frozenset(
    [*_STRINGS, "BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES"]
)
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Final[dict[str, type]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_LENGTHS: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
#: What the pickle of an array names, of any version of NumPy.
_RECONSTRUCT: Final = frozenset({"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"})
_NAMES: Final = _RECONSTRUCT | {"numpy ndarray", "numpy dtype"}
_UINT8: Final = ("u1", "|u1", b"u1", b"|u1")
_MOST_DIMENSIONS = 4


class _Refused(Exception):
    """A pickle asks for something that is not done; the message goes on after "a pickle that"."""


class _Mark:
    """Where a collection begins on the stack."""


@dataclass(frozen=True, slots=True)
class _Name:
    """What a pickle would import: nothing but its name."""

    name: str


class _Array:
    """An array that a pickle would make, before it is given its values."""


@dataclass(frozen=True, slots=True)
class _Dtype:
    """A dtype that a pickle would make."""

    code: Any


def read_pickle(content: bytes, where: str) -> Any:
    """The value that a pickle of protocol 2 to 4 describes, read without executing it.

    Parameters
    ----------
    content : bytes
        The whole pickle.
    where : str
        What it is called in an error message.

    Returns
    -------
    object
        Of dict with keys that are str or bytes, list, tuple, str, bytes, int, bool, None and uint8 arrays. A string of
        Python 2, which may be text or bytes, is given as bytes.

    Raises
    ------
    ValueError
        The pickle is damaged, or says anything else.

    Examples
    --------
    >>> import pickle
    >>> from numbaconv.data.pickles import read_pickle
    >>> read_pickle(pickle.dumps({"labels": [3, 1]}, protocol=2), "an example")
    {'labels': [3, 1]}
    >>> read_pickle(pickle.dumps(print, protocol=2), "an example")
    Traceback (most recent call last):
    ...
    ValueError: an example: is not read, for it is a pickle that asks for '__builtin__ print'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange escapes in names, which are refused anyway
            return _follow(content)
    except _Refused as error:
        raise ValueError(f"{where}: is not read, for it is a pickle that {error}") from None
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{where}: is not a pickle, or a damaged one: {one_line(error)}") from None


def _follow(content: bytes) -> Any:
    """The stack machine: every instruction in turn."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    instructions: Iterator[tuple[Any, Any, Any]] = pickletools.genops(content)
    for instruction, argument, _ in instructions:
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                stack.append(_Mark)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_named(argument))
            case "STACK_GLOBAL":
                name, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
                stack.append(_named(f"{module} {name}"))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_called(function, arguments))
            case "BUILD":
                state, target = stack.pop(), stack.pop()
                stack.append(_built(target, state))
            case "APPEND":
                value = stack.pop()
                _expect(stack[-1], list).append(value)
            case "APPENDS":
                values = _since_mark(stack)
                _expect(stack[-1], list).extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], [key, value])
            case "SETITEMS":
                items = _since_mark(stack)
                _set(stack[-1], items)
            case "TUPLE":
                stack.append(tuple(_since_mark(stack)))
            case name if name in _LENGTHS:
                stack.append(tuple(reversed([stack.pop() for _ in range(_LENGTHS[name])])))
            case name if name in _EMPTY:
                stack.append(_EMPTY[name]())
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _VALUES:
                stack.append(argument.encode("latin-1") if name in _STRINGS else argument)
            case name:
                raise _Refused(f"has the instruction {name}")
    raise ValueError("it has no end")


def _since_mark(stack: list[Any]) -> list[Any]:
    """Take everything off the stack down to the last mark."""
    values = []
    while (value := stack.pop()) is not _Mark:
        values.append(value)
    return values[::-1]


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"there is a {type(value).__name__} where a {kind.__name__} must be")
    return value


def _set(target: Any, items: list[Any]) -> None:
    """Keys and values, in turn, into a dict. Keys are strings: to hash something nested can take any depth of stack."""
    keys = items[::2]
    if not all(type(key) in (str, bytes) for key in keys):
        raise _Refused("has keys that are no strings")
    _expect(target, dict).update(zip(keys, items[1::2], strict=True))


def _named(name: str) -> _Name:
    if name not in _NAMES:
        raise _Refused(f"asks for {name[:80]!r}")
    return _Name(name)


def _called(function: Any, arguments: Any) -> Any:
    """What a call would give: an array that has no values yet, or a dtype."""
    if type(function) is _Name and type(arguments) is tuple:
        if function.name in _RECONSTRUCT:
            return _Array()
        if function.name == "numpy dtype":
            return _Dtype(arguments[0])
    raise _Refused("calls something other than an array and its dtype")


def _built(target: Any, state: Any) -> Any:
    """An array with its values, from version, shape, dtype, whether in Fortran order, bytes; a dtype as it was."""
    if type(target) is _Dtype:
        return target
    if type(target) is not _Array or type(state) is not tuple or len(state) != 5:
        raise _Refused("changes something other than an array")
    _, shape, dtype, fortran, values = state
    if type(dtype) is not _Dtype or dtype.code not in _UINT8:
        raise _Refused("has an array of something other than uint8")
    if not all(type(length) is int and length >= 0 for length in _expect(shape, tuple)[:_MOST_DIMENSIONS]):
        raise ValueError("the shape of an array is none")
    if len(shape) > _MOST_DIMENSIONS or math.prod(shape) != len(_expect(values, bytes)):
        raise ValueError(f"an array has {len(values):,} bytes, of shape {shape[:_MOST_DIMENSIONS]}")
    return np.frombuffer(values, np.uint8).reshape(shape, order="F" if fortran is True else "C")
