"""How kernels are compiled: once, for one thread or for many, and kept by :mod:`numbaconv.cache`.

A kernel computes one thread's share of the work. Serially it is called like any compiled function. In parallel a loop
of Numba's, which is compiled once for all kernels, calls the machine code through its address, on every thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

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
    """

    def __init__(self, function: Callable[..., Any], stages: int = 1, allocates: bool = False) -> None:
        self.__doc__ = function.__doc__
        self.name = function.__name__
        self.stages = range(stages)
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
        _share_out(_loop_address(), self._address(arguments), stages.start, stages.stop, threads, *arguments)

    def _address(self, arguments: tuple[Any, ...]) -> int:
        """Where the machine code for such arguments is."""
        key = tuple([value.dtype if isinstance(value, np.ndarray) else type(value) for value in arguments])
        if key not in self._addresses:
            signature = (*map(numba.typeof, arguments), types.intp, types.intp, types.intp)
            self._addresses[key] = _address_of(self.run, signature)
        return self._addresses[key]


def kernel(stages: int = 1, allocates: bool = False) -> Callable[[Callable[..., Any]], Kernel]:
    """:class:`Kernel` with parameters."""
    return lambda function: Kernel(function, stages, allocates)


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


_INTEGER = ir.IntType(64)
_SHARE = ir.FunctionType(ir.VoidType(), [_INTEGER] * 4)


def _address_of(dispatcher: Any, signature: tuple[Any, ...]) -> int:
    """Where the machine code of a compiled function is."""
    with global_compiler_lock:  # to ask for an address makes LLVM finish whatever another thread has begun
        dispatcher.compile(signature)
        code = dispatcher.overloads[signature]
        return code.library.get_pointer_to_function(code.fndesc.llvm_func_name)


@functools.cache
def _loop_address() -> int:
    return _address_of(_loop, (types.intp,) * 5)


@intrinsic
def _call(typing_context: Any, share: Any, call: Any, stage: Any, thread: Any, threads: Any) -> Any:
    """Call the function at the address ``share``."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.call(builder.inttoptr(values[0], _SHARE.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.none(*[types.intp] * 5), code


@intrinsic
def _prepared(typing_context: Any, address: Any, arguments: Any) -> Any:
    """What :func:`_call` needs to call a kernel: the addresses of a function of few integers, and of a note for it.

    The note, on the stack, holds the kernel's address and arguments, for Numba's loop cannot hand them on.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        note = ir.LiteralStructType([value.type for value in values])
        function = ir.Function(builder.module, _SHARE, builder.module.get_unique_name("share"))
        function.linkage = "internal"
        inner = ir.IRBuilder(function.append_basic_block())
        start, *place = function.args
        found = inner.load(inner.inttoptr(start, note.as_pointer()))
        kernel_address, packed = inner.extract_value(found, 0), inner.extract_value(found, 1)
        kinds = [*signature.args[1], *[types.intp] * 3]
        kernel_type = context.call_conv.get_function_type(types.none, kinds)
        kernel = inner.inttoptr(kernel_address, kernel_type.as_pointer())
        unpacked = [inner.extract_value(packed, k) for k in range(len(kinds) - 3)]
        context.call_conv.call_function(inner, kernel, types.none, kinds, [*unpacked, *place])
        inner.ret_void()
        memory = cgutils.alloca_once(builder, note)
        for k, value in enumerate(values):
            builder.store(value, cgutils.gep_inbounds(builder, memory, 0, k))
        addresses = [builder.ptrtoint(pointer, _INTEGER) for pointer in (function, memory)]
        return context.make_tuple(builder, signature.return_type, addresses)

    return types.UniTuple(types.intp, 2)(types.intp, arguments), code


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
def _share_out(loop, address, first, last, threads, *arguments):  # type: ignore[no-untyped-def]
    """Run the kernel at an address in Numba's threads, by the loop at an address."""
    share, call = _prepared(address, arguments)
    _enter(loop, share, call, first, last, threads)
