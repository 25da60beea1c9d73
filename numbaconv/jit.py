"""How kernels are compiled: once, for one thread or for many, and kept by :mod:`numbaconv.cache`.

A kernel computes one thread's share of the work. Serially it is called like any compiled function. In parallel, a team
of threads (:mod:`numbaconv.team`), compiled once for all kernels, calls the machine code through its address.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numbaconv.linking import ONE, ZERO, address_of, compiled, device, inlined, routine, standalone
from numbaconv.team import COLUMNS, INTEGER, RELAX, SHARE, call, go_through, loop_address, team_size, write_row

__all__ = [
    "ALL",
    "ONE",
    "ZERO",
    "Kernel",
    "Note",
    "compiled",
    "device",
    "inlined",
    "kernel",
    "play",
    "routine",
    "share",
    "standalone",
]

#: What a kernel is told for its stage where it is to go through all of them.
ALL = -1


class Kernel:
    """Decorator for a kernel, which fills arrays.

    Its last three parameters are ``stage``, ``thread`` and ``threads``: which share of the work to do. Where threads
    need what others have made, that is a new stage: all threads go through a stage before the next begins. A single
    thread goes through :data:`ALL` at once.

    Parameters
    ----------
    stages : int
        How many stages the kernel has.
    allocates : bool
        Whether it makes arrays.
    lasting : bool
        Whether it changes what outlives a pass, such as a weight. Such a kernel can't simply be run again.
    """

    def __init__(
        self, function: Callable[..., Any], stages: int = 1, allocates: bool = False, lasting: bool = False
    ) -> None:
        self.__doc__ = function.__doc__
        self.name = function.__name__
        self.stages = range(stages)
        self.lasting = lasting
        #: The function, compiled: it takes all parameters.
        self.run = compiled(function, allocates)
        self._addresses: dict[tuple[Any, ...], int] = {}

    def __repr__(self) -> str:
        return f"<Kernel {self.name}>"

    def serial(self, stages: range, threads: int, *arguments: Any) -> None:
        """Do all shares of some stages in the calling thread."""
        for stage in stages:
            for thread in range(threads):
                self.run(*arguments, stage, thread, threads)

    def parallel(self, stages: range, threads: int, *arguments: Any) -> None:
        """Do the shares in Numba's threads. The result has the same bits."""
        address = self._address(arguments)
        _share_out(loop_address(), RELAX, address, _note(), stages.start, stages.stop, threads, *arguments)

    def noted(self, arguments: tuple[Any, ...]) -> Note:
        """What :func:`play` needs to call the kernel with these arguments."""
        memory = np.zeros(NOTE_BYTES, np.uint8)
        share = _share_out(loop_address(), RELAX, self._address(arguments), memory, 0, 0, 1, *arguments)
        return Note(share, memory, arguments)

    def _address(self, arguments: tuple[Any, ...]) -> int:
        """Where the machine code for such arguments is."""
        key = tuple([value.dtype if isinstance(value, np.ndarray) else type(value) for value in arguments])
        if key not in self._addresses:
            signature = (*map(numba.typeof, arguments), types.intp, types.intp, types.intp)
            self._addresses[key] = address_of(self.run, signature)
        return self._addresses[key]


class Note(NamedTuple):
    """The address of a function of few integers, and a note that tells it a kernel and its arguments."""

    share: int
    memory: np.ndarray
    arguments: tuple[Any, ...]  # so that they stay where they are


def kernel(stages: int = 1, allocates: bool = False, lasting: bool = False) -> Callable[[Callable[..., Any]], Kernel]:
    """:class:`Kernel` with parameters."""
    return lambda function: Kernel(function, stages, allocates, lasting)


@device
def share(count, thread, threads):  # type: ignore[no-untyped-def]
    """One thread's share of so many independent pieces of work, a range."""
    return range(thread * count // threads, (thread + 1) * count // threads)


#: So long is a note at most.
NOTE_BYTES = 2048
_notes = threading.local()


def _note() -> np.ndarray:
    """Memory for a launch's note, its row in a table, and its team, which nobody needs when it has ended."""
    memory: np.ndarray | None = getattr(_notes, "memory", None)
    if memory is None:
        size = NOTE_BYTES + 8 * (COLUMNS + team_size(numba.config.NUMBA_NUM_THREADS))
        memory = _notes.memory = np.zeros(size, np.uint8)
    return memory


@intrinsic
def _prepared(typing_context: Any, address: Any, memory: Any, arguments: Any) -> Any:
    """Write a note to an address; the address of a function for :func:`numbaconv.team.call` that can read it.

    The note holds the kernel's address and arguments, for the loop's table cannot hold them. That somebody holds the
    arrays is left out: whoever has the note must see to it.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kernel, place, packed = values
        for k, kind in enumerate(signature.args[2]):
            if isinstance(kind, types.Array):
                array = cgutils.create_struct_proxy(kind)(context, builder, builder.extract_value(packed, k))
                array.meminfo, array.parent = array.meminfo.type(None), array.parent.type(None)
                packed = builder.insert_value(packed, array._getvalue(), k)
        note = ir.LiteralStructType([kernel.type, packed.type])
        if context.get_abi_sizeof(note) > NOTE_BYTES:
            raise NotImplementedError(f"a kernel has more arguments than {NOTE_BYTES} bytes can hold")
        function = ir.Function(builder.module, SHARE, builder.module.get_unique_name("share"))
        function.linkage = "internal"
        inner = ir.IRBuilder(function.append_basic_block())
        start, *shares = function.args
        found = inner.load(inner.inttoptr(start, note.as_pointer()))
        kernel_address, told = inner.extract_value(found, 0), inner.extract_value(found, 1)
        kinds = [*signature.args[2], *[types.intp] * 3]
        kernel_type = context.call_conv.get_function_type(types.none, kinds)
        code_pointer = inner.inttoptr(kernel_address, kernel_type.as_pointer())
        unpacked = [inner.extract_value(told, k) for k in range(len(kinds) - 3)]
        context.call_conv.call_function(inner, code_pointer, types.none, kinds, [*unpacked, *shares])
        inner.ret_void()
        there = builder.inttoptr(place, note.as_pointer())
        for k, value in enumerate((kernel, packed)):
            builder.store(value, cgutils.gep_inbounds(builder, there, 0, k))
        return builder.ptrtoint(function, INTEGER)

    return types.intp(types.intp, types.intp, arguments), code


@compiled
def _share_out(loop, relax, address, memory, first, last, threads, *arguments):  # type: ignore[no-untyped-def]
    """Run some stages of the kernel at an address by a team of threads; the address of what can read the note."""
    note = memory.ctypes.data
    share, table = _prepared(address, note, arguments), note + NOTE_BYTES
    if last > first:
        write_row(table, share, note, first, last, threads)
        go_through(loop, relax, table, 1, table + 8 * COLUMNS, threads)
    return share


@compiled
def play(loop, relax, calls, state, threads):  # type: ignore[no-untyped-def]
    """Make the calls of a table (calls, COLUMNS), in order, by a team of as many threads as any of them has shares.

    ``state`` has :func:`numbaconv.team.team_size` elements.
    """
    if threads > 1:
        go_through(loop, relax, calls.ctypes.data, len(calls), state.ctypes.data, threads)
    else:
        for k in range(len(calls)):
            for stage in range(calls[k, 2], calls[k, 3]):
                call(calls[k, 0], calls[k, 1], stage, 0, 1)
