"""The parallel loop: a team of threads goes through calls of kernels, and enters Numba's loop but once.

To enter a parallel loop, and to wait for all at its end, takes as long as a small kernel. So what is known beforehand,
all stages of a kernel or all kernels of a network, is written to a table, and each thread of the team walks through::

    for each call, each of its stages:
        do my share, unless somebody has
        wait until all shares are done

Nobody relies on the others being there, for a threading layer may let one thread play several parts, one after the
other: who has waited long does the shares that nobody has begun, and who comes late finds them done. A share is told by
its number, not by who does it, so no bit of a result depends on that.

The team's state is memory of cache lines that start with a number each: how many shares are done, and for each share
the step that it was begun for last, steps being counted through all calls.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from typing import Any

import numba
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from numbaconv import cache
from numbaconv.linking import OPTIONS, address_of, inlined
from numbaconv.simd.cpu import CACHE_LINE

#: Numbers that a call takes in a table: the address of a function that is called, that of what it is told first, the
#: first stage, the one behind the last, and how many shares each has.
COLUMNS = 5
#: Looks at what the others do before their shares are taken over: longer than they take to come. And before the
#: processor is given to somebody else, who may keep it for milliseconds.
PATIENCE, LONG = 500, 5_000
#: Integers from a number of the team's state to the next.
_LINE = CACHE_LINE // 8

INTEGER = ir.IntType(64)
#: What is called: with what it is told first, the stage, the number of the share, and how many there are.
SHARE = ir.FunctionType(ir.VoidType(), [INTEGER] * 4)
_X86, _ARM = ("llvm.x86.sse2.pause", ()), ("llvm.aarch64.hint", (ir.IntType(32)(1),))
_PAUSES: dict[str, tuple[str, tuple[Any, ...]]] = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}
_PAUSE = _PAUSES.get(platform.machine().lower())


def _relax_address() -> int:
    """The address of the operating system's function by which a thread lets others run."""
    windows = sys.platform == "win32"
    function = getattr(ctypes, "windll").kernel32.SwitchToThread if windows else ctypes.CDLL(None).sched_yield  # noqa: B009
    address: int | None = ctypes.cast(function, ctypes.c_void_p).value
    return address or 0


RELAX = _relax_address()


def team_size(threads: int) -> int:
    """Integers that the state of a team takes."""
    return (threads + 1) * _LINE


@intrinsic
def call(typing_context: Any, share: Any, told: Any, stage: Any, number: Any, count: Any) -> Any:
    """Call the function at the address ``share``."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.call(builder.inttoptr(values[0], SHARE.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.none(*[types.intp] * 5), code


@intrinsic
def _enter(typing_context: Any, loop: Any, relax: Any, table: Any, calls: Any, state: Any, threads: Any) -> Any:
    """Call the loop at an address: where it were linked, every kernel would bring a copy of it."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kinds = signature.args[1:]
        loop_type = context.call_conv.get_function_type(types.none, kinds)
        loop = builder.inttoptr(values[0], loop_type.as_pointer())
        context.call_conv.call_function(builder, loop, types.none, kinds, values[1:])
        return context.get_dummy_value()

    return types.none(*[types.intp] * 6), code


def _place(builder: Any, values: Any) -> Any:
    """Where an integer is, told by the address of the first one and its index."""
    return builder.gep(builder.inttoptr(values[0], INTEGER.as_pointer()), [values[1]])


@intrinsic
def _get(typing_context: Any, address: Any, index: Any) -> Any:
    """The integer at an index of the memory at an address."""
    code = lambda context, builder, signature, values: builder.load(_place(builder, values))  # noqa: E731
    return types.intp(types.intp, types.intp), code


@intrinsic
def _set(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
    """Write it."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _place(builder, values))
        return context.get_dummy_value()

    return types.none(types.intp, types.intp, types.intp), code


@intrinsic
def _see(typing_context: Any, address: Any, index: Any) -> Any:
    """The integer as another thread may have left it, whose results are seen from then on."""
    code = lambda context, builder, signature, values: builder.load_atomic(_place(builder, values), "acquire", 8)  # noqa: E731
    return types.intp(types.intp, types.intp), code


@intrinsic
def _add(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
    """Add to it, together with all that this thread wrote before; what it was."""
    return _changed("add")


@intrinsic
def _raise(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
    """Make it no less than a value; what it was."""
    return _changed("max")


def _changed(operation: str) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.atomic_rmw(operation, _place(builder, values), values[2], "acq_rel")

    return types.intp(types.intp, types.intp, types.intp), code


@intrinsic
def _pause(typing_context: Any) -> Any:
    """Tell the processor that this thread waits for another."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if _PAUSE:
            name, arguments = _PAUSE
            kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)
        return context.get_dummy_value()

    return types.none(), code


@intrinsic
def _relax(typing_context: Any, address: Any) -> Any:
    """Call the function at the address :data:`RELAX`."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        function = ir.FunctionType(ir.IntType(32), [])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), [])
        return context.get_dummy_value()

    return types.none(types.intp), code


@inlined
def write_row(table, share, told, first, last, count):  # type: ignore[no-untyped-def]
    """Write the only call of a table at an address."""
    _set(table, 0, share)
    _set(table, 1, told)
    _set(table, 2, first)
    _set(table, 3, last)
    _set(table, 4, count)


@inlined
def go_through(loop, relax, table, calls, state, threads):  # type: ignore[no-untyped-def]
    """Let a team of threads make the calls of the table at an address, with its state at another."""
    for line in range(threads + 1):
        _set(state, line * _LINE, 0)
    _enter(loop, relax, table, calls, state, threads)


@inlined
def _play(relax, table, calls, state, member):  # type: ignore[no-untyped-def]
    """What one member of the team does."""
    step = done = 0
    for k in range(calls):
        row = table + k * COLUMNS * 8
        share, told, end, count = _get(row, 0), _get(row, 1), _get(row, 3), _get(row, 4)
        for stage in range(_get(row, 2), end):
            step, done = step + 1, done + count
            if member < count:
                _do(share, told, stage, member, count, state, step)
            looks, is_last = 0, k + 1 == calls and stage + 1 == end  # at the end of the loop, Numba waits
            while not is_last and _see(state, 0) < done:
                looks += 1
                if looks == PATIENCE:
                    for number in range(count):
                        _do(share, told, stage, number, count, state, step)
                if looks < LONG:
                    _pause()
                else:
                    _relax(relax)


@inlined
def _do(share, told, stage, number, count, state, step):  # type: ignore[no-untyped-def]
    """Do a share, unless somebody has begun it."""
    begun = (1 + number) * _LINE
    if _see(state, begun) < step and _raise(state, begun, step) < step:
        call(share, told, stage, number, count)
        _add(state, 0, 1)


def _loop(relax, table, calls, state, threads):  # type: ignore[no-untyped-def]
    """The only parallel loop there is."""
    for member in prange(threads):
        _play(relax, table, calls, state, member)


_loop = cache.keep(numba.njit(parallel=True, **OPTIONS)(_loop))


@functools.cache
def loop_address() -> int:
    """Where the machine code of the parallel loop is."""
    return address_of(_loop, (types.intp,) * 5)
