"""A register tile for Numba: the vector vocabulary in which the kernels are written.

A **tile** is a small matrix that lives in vector registers: ``rows`` × ``vectors`` × lanes. It is made by
:func:`zeros`, :func:`spread`, :func:`load` or :func:`fill`, grows by :func:`outer`, :func:`trail`, :func:`dot`,
:func:`hadamard`, :func:`slide`, :func:`slide_within`, :func:`stencil`, :func:`stencil_within`, :func:`sweep` or
:func:`pile`, is changed by :func:`turn`, :func:`lift`, :func:`rectify` and words for a matrix (:func:`linear`), and
ends in :func:`store`, :func:`put`, :func:`trim` or :func:`add`. :func:`copy`, :func:`move`, :func:`deal`, :func:`peak`,
:func:`restore`, :func:`transpose` and :func:`clear` move memory, and :func:`prefetch` asks for it.
Arrays are flat, positions in them are counted in elements.

Every word is said twice. A Python function says what it *means*, in NumPy, and is what runs under
``NUMBA_DISABLE_JIT=1`` (:mod:`numbaconv.simd.words`); a lowering says what it *compiles to*, in LLVM
(:mod:`numbaconv.simd.tiles`, :mod:`numbaconv.simd.lanewise`, :mod:`numbaconv.simd.moves`,
:mod:`numbaconv.simd.windows`). Nothing outside of this package knows LLVM.

The number of lanes follows the CPU that Numba compiles for: 512-bit vectors with AVX-512, 256-bit ones with AVX2,
128-bit ones on NEON and everything else.
"""

from numbaconv.simd import lanewise as lanewise  # so that Numba knows what the words compile to
from numbaconv.simd import moves as moves
from numbaconv.simd import windows as windows
from numbaconv.simd.cpu import CPU_NAME, MULTIPLY_ADDS, VECTOR_BYTES, VECTOR_REGISTERS, lanes, lanes_of
from numbaconv.simd.tiles import linear
from numbaconv.simd.words import (
    add,
    clear,
    copy,
    deal,
    dot,
    fill,
    hadamard,
    lift,
    load,
    move,
    narrow,
    outer,
    peak,
    pile,
    prefetch,
    put,
    rectify,
    restore,
    slide,
    slide_within,
    spread,
    stencil,
    stencil_within,
    store,
    sweep,
    trail,
    transpose,
    trim,
    turn,
    widen,
    zeros,
)

__all__ = [
    "CPU_NAME",
    "MULTIPLY_ADDS",
    "VECTOR_BYTES",
    "VECTOR_REGISTERS",
    "lanes",
    "lanes_of",
    "zeros",
    "spread",
    "load",
    "fill",
    "outer",
    "trail",
    "hadamard",
    "slide",
    "slide_within",
    "stencil",
    "stencil_within",
    "sweep",
    "dot",
    "lift",
    "pile",
    "prefetch",
    "rectify",
    "linear",
    "turn",
    "store",
    "put",
    "trim",
    "add",
    "copy",
    "move",
    "narrow",
    "deal",
    "peak",
    "restore",
    "widen",
    "transpose",
    "clear",
]
