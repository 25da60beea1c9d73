"""How kernels are compiled: once, for one thread or for many, and kept by :mod:`numbaconv.cache`.

A kernel computes one thread's share of the work. Serially it is called like any compiled function. In parallel a loop
of Numba's, which is compiled once for all kernels, calls the machine code through its address, on every thread.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from numbaconv import cache
from numbaconv.linking import Linked

#: Options of every compiled function. ``nogil`` lets Python threads compute side by side; the numpy error model leaves
#: out checks for divisions by zero; ``fastmath`` stays off, for it would make results depend on the compiler's mood.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}


#: What a kernel is told for its stage where it is to go through all of them.
ALL = -1


def compiled(function: Callable[..., Any], allocates: bool = False) -> Any:
    """Decorator for a function that is called from Python, and runs in the calling thread.

    Where it ``allocates`` nothing, it need not count who holds its arguments, which would take half of a short call.
    """
    return cache.keep(numba.njit(no_cfunc_wrapper=True, _nrt=allocates, **_OPTIONS)(function))


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
        loop, address = loop_address(), self._address(arguments)
        _share_out(loop, address, _note(), stages.start, stages.stop, threads, *arguments)

    def noted(self, arguments: tuple[Any, ...]) -> Note:
        """What :func:`play` needs to call the kernel with these arguments."""
        memory = np.zeros(NOTE_BYTES, np.uint8)
        return Note(
            _share_out(loop_address(), self._address(arguments), memory, 0, 0, 1, *arguments), memory, arguments
        )

    def _address(self, arguments: tuple[Any, ...]) -> int:
        """Where the machine code for such arguments is."""
        key = tuple([value.dtype if isinstance(value, np.ndarray) else type(value) for value in arguments])
        if key not in self._addresses:
            signature = (*map(numba.typeof, arguments), types.intp, types.intp, types.intp)
            self._addresses[key] = _address_of(self.run, signature)
        return self._addresses[key]


class Note(NamedTuple):
    """The address of a function of few integers, and a note that tells it a kernel and its arguments."""

    share: int
    memory: np.ndarray
    arguments: tuple[Any, ...]  # so that they stay where they are


def kernel(stages: int = 1, allocates: bool = False, lasting: bool = False) -> Callable[[Callable[..., Any]], Kernel]:
    """:class:`Kernel` with parameters."""
    return lambda function: Kernel(function, stages, allocates, lasting)


#: Decorator for what kernels are made of and takes vectors or constants: Numba inlines it, which takes it a while.
device = numba.njit(inline="always", **_OPTIONS)


def routine(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a step that is too large to be inlined everywhere; called from kernels only.

    It allocates nothing, so it need not count who holds an array: that would lock the memory bus at every call.
    """
    return numba.njit(_nrt=False, pipeline_class=Linked, **_OPTIONS)(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a routine that LLVM inlines."""
    return numba.njit(_nrt=False, forceinline=True, pipeline_class=Linked, **_OPTIONS)(function)


@device
def share(count, thread, threads):  # type: ignore[no-untyped-def]
    """One thread's share of so many independent pieces of work, a range."""
    return range(thread * count // threads, (thread + 1) * count // threads)


#: So long is a note at most.
NOTE_BYTES = 2048
_notes = threading.local()


def _note() -> np.ndarray:
    """Memory for the note of a launch, which nobody needs when it has ended."""
    memory: np.ndarray | None = getattr(_notes, "memory", None)
    if memory is None:
        memory = _notes.memory = np.zeros(NOTE_BYTES, np.uint8)
    return memory


_INTEGER = ir.IntType(64)
_SHARE = ir.FunctionType(ir.VoidType(), [_INTEGER] * 4)


def _address_of(dispatcher: Any, signature: tuple[Any, ...]) -> int:
    """Where the machine code of a compiled function is."""
    with global_compiler_lock:  # to ask for an address makes LLVM finish whatever another thread has begun
        dispatcher.compile(signature)
        code = dispatcher.overloads[signature]
        return code.library.get_pointer_to_function(code.fndesc.llvm_func_name)


@functools.cache
def loop_address() -> int:
    """Where the machine code of the parallel loop is."""
    return _address_of(_loop, (types.intp,) * 5)


@intrinsic
def _call(typing_context: Any, share: Any, call: Any, stage: Any, thread: Any, threads: Any) -> Any:
    """Call the function at the address ``share``."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.call(builder.inttoptr(values[0], _SHARE.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.none(*[types.intp] * 5), code


@intrinsic
def _prepared(typing_context: Any, address: Any, memory: Any, arguments: Any) -> Any:
    """Write a note for :func:`_call` to an address; the address of the function of few integers that can read it.

    The note holds the kernel's address and arguments, for Numba's loop cannot hand them on. That somebody holds the
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
        function = ir.Function(builder.module, _SHARE, builder.module.get_unique_name("share"))
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
        return builder.ptrtoint(function, _INTEGER)

    return types.intp(types.intp, types.intp, arguments), code


@intrinsic
def _enter(typing_context: Any, loop: Any, share: Any, call: Any, first: Any, last: Any, threads: Any) -> Any:
    """Call the loop at an address: where it were linked, every kernel would bring a copy of it."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kinds = signature.args[1:]
        loop_type = context.call_conv.get_function_type(types.none, kinds)
        loop = builder.inttoptr(values[0], loop_type.as_pointer())
        context.call_conv.call_function(builder, loop, types.none, kinds, values[1:])
        return context.get_dummy_value()

    return types.none(*[types.intp] * 6), code


def _loop(share, call, first, last, threads):  # type: ignore[no-untyped-def]
    """Call a share of every thread and stage: the only parallel loop there is."""
    for stage in range(first, last):
        for thread in prange(threads):
            _call(share, call, stage, thread, threads)


_loop = cache.keep(numba.njit(parallel=True, **_OPTIONS)(_loop))


@compiled
def _share_out(loop, address, memory, first, last, threads, *arguments):  # type: ignore[no-untyped-def]
    """Run the kernel at an address in Numba's threads, by the loop at an address; what can read the note in memory."""
    note = memory.ctypes.data
    share = _prepared(address, note, arguments)
    _enter(loop, share, note, first, last, threads)
    return share


@compiled
def play(loop, calls):  # type: ignore[no-untyped-def]
    """Call kernels one after the other; of each, the addresses of a :class:`Note`, the stages, and how many threads."""
    for k in range(len(calls)):
        share, note, first, last, threads = calls[k, 0], calls[k, 1], calls[k, 2], calls[k, 3], calls[k, 4]
        if threads == 1:
            for stage in range(first, last):
                _call(share, note, stage, 0, 1)
        else:
            _enter(loop, share, note, first, last, threads)
