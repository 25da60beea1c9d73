"""How functions are compiled; routines as far as LLVM's intermediate code, which becomes machine code with a kernel's.

Numba optimises every function and makes machine code of it before another may call it; the other is then optimised
and translated with a copy of it inside, and so on upwards. What is three calls deep would go through LLVM four times,
for machine code that nobody runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import NativeLowering

from numbaconv import cache

#: Options of every compiled function. ``nogil`` lets Python threads compute side by side; the numpy error model leaves
#: out checks for divisions by zero; ``fastmath`` stays off, for it would make results depend on the compiler's mood.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}
#: 0 and 1 as arguments of routines: Numba would compile a routine once more for a literal.
ZERO, ONE = np.int64(0), np.int64(1)


class _Library(JITCodeLibrary):
    """The intermediate code of a routine and of what it calls, to be linked with a kernel's."""

    def finalize(self) -> None:
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


@register_pass(mutates_CFG=False, analysis_only=True)
class _Registration(LoweringPass):
    """Let other functions call the routine, in place of machine code that Python could call."""

    _name = "numbaconv_registration"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        # Numba tells functions apart by a builtin that runs them. This one would take no argument, and harm nothing.
        entry = object().__sizeof__
        state.targetctx.insert_user_function(entry, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=entry)
        return False


class Linked(CompilerBase):
    """Numba's compiler, up to the intermediate code."""

    def define_pipelines(self) -> list[Any]:
        state = self.state
        state.flags.no_compile = state.flags.no_cpython_wrapper = state.flags.no_cfunc_wrapper = True
        state.library = _Library(state.targetctx.codegen(), state.func_id.func_qualname)
        passes = DefaultPassBuilder.define_nopython_pipeline(state)
        passes.add_pass_after(_Registration, NativeLowering)
        passes.finalize()
        return [passes]


def compiled(function: Callable[..., Any], allocates: bool = False) -> Any:
    """Decorator for a function that is called from Python, and runs in the calling thread.

    Where it ``allocates`` nothing, it need not count who holds its arguments, which would take half of a short call.
    """
    return cache.keep(numba.njit(no_cfunc_wrapper=True, _nrt=allocates, **OPTIONS)(function))


#: Decorator for what kernels are made of and takes vectors or constants: Numba inlines it, which takes it a while.
device = numba.njit(inline="always", **OPTIONS)


def routine(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a step of a kernel, called from kernels only; inlined if the first that calls it is.

    It allocates nothing, so it need not count who holds an array: that would lock the memory bus at every call.
    """
    return numba.njit(_nrt=False, pipeline_class=Linked, **OPTIONS)(function)


def standalone(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a routine that nothing has LLVM inline, so that a kernel has one copy for all places that call it.

    For large ones that do much at a call: many copies take long to compile, and do not fit into the cache.
    """
    return numba.njit(_nrt=False, forceinline=False, pipeline_class=Linked, **OPTIONS)(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a routine that LLVM inlines."""
    return numba.njit(_nrt=False, forceinline=True, pipeline_class=Linked, **OPTIONS)(function)


def address_of(dispatcher: Any, signature: tuple[Any, ...]) -> int:
    """Where the machine code of a compiled function is."""
    with global_compiler_lock:  # to ask for an address makes LLVM finish whatever another thread has begun
        dispatcher.compile(signature)
        code = dispatcher.overloads[signature]
        return code.library.get_pointer_to_function(code.fndesc.llvm_func_name)
