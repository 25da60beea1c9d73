"""A register tile for Numba: the vector vocabulary in which the kernels are written.

A **tile** is a small matrix that lives in vector registers: ``rows`` × ``vectors`` × lanes. It is made by
:func:`zeros` or :func:`spread`, grows by :func:`outer` or :func:`hadamard`, and ends in :func:`store` or :func:`add`.
:func:`copy` and :func:`clear` move memory. Arrays are flat, positions in them are counted in elements.

Every word stands here twice. The Python function says what it *means*, in NumPy, and is what runs under
``NUMBA_DISABLE_JIT=1``; the lowering below it says what it *compiles to*, in LLVM. No other file knows LLVM.

The number of lanes follows the CPU that Numba compiles for: 512-bit vectors with AVX-512, 256-bit ones with AVX2,
128-bit ones on NEON and everything else.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen, config
from numba.extending import lower_builtin, models, register_model, type_callable


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
_ARM = platform.machine().lower() in ("arm64", "aarch64")
#: Bytes of a vector register.
VECTOR_BYTES = 64 if "avx512f" in _FEATURES else 32 if "avx2" in _FEATURES else 16
#: How many vector registers there are.
VECTOR_REGISTERS = 32 if _ARM or "avx512f" in _FEATURES else 16
#: Without the instruction, an exact fused operation would be a call into the C library for every lane.
_FUSED = "llvm.fma" if _ARM or "fma" in _FEATURES or "avx512f" in _FEATURES else "llvm.fmuladd"


def lanes(dtype: Any) -> int:
    """How many elements of ``dtype`` a vector holds."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


# --- What the words mean --------------------------------------------------------------------------------------------


def zeros(rows: int, vectors: int, like: np.ndarray) -> Any:
    """A tile of zeros, of the dtype of the array ``like``. ``rows`` and ``vectors`` are compile-time constants."""
    return np.zeros((rows, vectors * lanes(like.dtype)), like.dtype)


def spread(rows: int, vectors: int, array: np.ndarray, start: int) -> Any:
    """A tile whose rows all hold the elements of ``array`` from ``start`` on."""
    return np.tile(_cut(array, start, vectors * lanes(array.dtype)), (rows, 1))


def outer(tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int) -> Any:
    """Add an outer product: ``tile[p, lane] += a[i + p * pitch] * b[j + lane]``."""
    rows, width = tile.shape
    return tile + np.outer([a[i + p * pitch] for p in range(rows)], _cut(b, j, width))


def hadamard(tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int) -> Any:
    """Add products lane by lane: ``tile[p, lane] += a[i + p * pitch + lane] * b[j + lane]``."""
    rows, width = tile.shape
    return tile + np.stack([_cut(a, i + p * pitch, width) for p in range(rows)]) * _cut(b, j, width)


def store(tile: Any, array: np.ndarray, start: int, pitch: int) -> None:
    """Write the rows of a tile: ``array[start + p * pitch + lane] = tile[p, lane]``."""
    for p, row in enumerate(tile):
        _cut(array, start + p * pitch, row.size)[:] = row


def add(tile: Any, array: np.ndarray, start: int, pitch: int) -> None:
    """Add the rows of a tile to what is there: ``array[start + p * pitch + lane] += tile[p, lane]``."""
    for p, row in enumerate(tile):
        _cut(array, start + p * pitch, row.size)[:] += row


def copy(to: np.ndarray, i: int, i_step: int, source: np.ndarray, j: int, j_step: int, count: int) -> None:
    """Copy elements that lie some steps apart: ``to[i + k * i_step] = source[j + k * j_step]``, ``count`` of them."""
    for k in range(count):
        _cut(to, i + k * i_step, 1)[:] = _cut(source, j + k * j_step, 1)


def transpose(
    to: np.ndarray, i: int, i_pitch: int, source: np.ndarray, j: int, j_pitch: int, rows: int, columns: int
) -> None:
    """Copy a block the other way round: ``to[i + c * i_pitch + r] = source[j + r * j_pitch + c]``.

    For ``r`` below ``rows`` and ``c`` below ``columns``, neither of which is above the number of lanes.
    """
    if max(rows, columns) > lanes(source.dtype):
        raise IndexError(f"a block of {rows} x {columns} elements is larger than {lanes(source.dtype)} vectors")
    for r in range(rows):
        for c in range(columns):
            _cut(to, i + c * i_pitch + r, 1)[:] = _cut(source, j + r * j_pitch + c, 1)


def clear(to: np.ndarray, start: int, count: int) -> None:
    """Set ``count`` elements to zero; none if that is negative."""
    _cut(to, start, max(0, count))[:] = 0


def _cut(array: np.ndarray, start: int, count: int) -> np.ndarray:
    """A slice that must lie inside the array: compiled code would not notice if it did not."""
    if start < 0 or start + count > array.size:
        raise IndexError(f"elements {start} to {start + count} of an array of {array.size}")
    return array[start : start + count]


# --- What they compile to -------------------------------------------------------------------------------------------


class Tile(types.Type):
    """Numba's type of a tile; its shape is part of the type, so that loops over it are unrolled."""

    def __init__(self, dtype: types.Type, rows: int, vectors: int) -> None:
        self.dtype, self.rows, self.vectors = dtype, rows, vectors
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Tile({dtype}, {rows}, {vectors}, {self.lanes})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Tile) -> None:
        vector = ir.VectorType(dmm.lookup(fe_type.dtype).get_value_type(), fe_type.lanes)
        super().__init__(dmm, fe_type, ir.ArrayType(vector, fe_type.rows * fe_type.vectors))


@type_callable(zeros)
def _type_zeros(context: Any) -> Callable:
    return lambda rows, vectors, like: _tile_type(rows, vectors, like)


@type_callable(spread)
def _type_spread(context: Any) -> Callable:
    return lambda rows, vectors, array, start: _tile_type(rows, vectors, array)


@type_callable(outer)
@type_callable(hadamard)
def _type_product(context: Any) -> Callable:
    return lambda tile, a, i, pitch, b, j: tile


@type_callable(store)
@type_callable(add)
def _type_store(context: Any) -> Callable:
    return lambda tile, array, start, pitch: types.none


@type_callable(copy)
def _type_copy(context: Any) -> Callable:
    return lambda to, i, i_step, source, j, j_step, count: types.none


@type_callable(transpose)
def _type_transpose(context: Any) -> Callable:
    return lambda to, i, i_pitch, source, j, j_pitch, rows, columns: types.none


@type_callable(clear)
def _type_clear(context: Any) -> Callable:
    return lambda to, start, count: types.none


def _tile_type(rows: Any, vectors: Any, array: Any) -> Tile | None:
    """None, "not like this", until Numba offers the two sizes as literals."""
    if isinstance(rows, types.IntegerLiteral) and isinstance(vectors, types.IntegerLiteral):
        return Tile(array.dtype, rows.literal_value, vectors.literal_value)
    return None


@lower_builtin(zeros, types.Integer, types.Integer, types.Array)
def _lower_zeros(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return ir.Constant(context.get_value_type(sig.return_type), None)


@lower_builtin(spread, types.Integer, types.Integer, types.Array, types.Integer)
def _lower_spread(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    code = _Code(context, builder, sig.return_type)
    pointer = _pointer(code.context, code.builder, sig.args[2], args[2], args[3])
    row = [code.load(pointer, v) for v in range(code.tile.vectors)]
    return code.tile_of(row * code.tile.rows)


@lower_builtin(outer, Tile, types.Array, types.Integer, types.Integer, types.Array, types.Integer)
def _lower_outer(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_product(_Code(context, builder, sig.args[0]), sig, args, broadcast=True)


@lower_builtin(hadamard, Tile, types.Array, types.Integer, types.Integer, types.Array, types.Integer)
def _lower_hadamard(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_product(_Code(context, builder, sig.args[0]), sig, args, broadcast=False)


def _lower_product(code: _Code, sig: Any, args: Any, broadcast: bool) -> Any:
    tile, a, i, pitch, b, j = args
    left = _pointer(code.context, code.builder, sig.args[1], a, i)
    right = _pointer(code.context, code.builder, sig.args[4], b, j)
    _keep_rolled(code.builder)
    weights = [code.load(right, v) for v in range(code.tile.vectors)]
    result = []
    for p, row in enumerate(code.rows(tile)):
        here = code.row_pointer(left, p, pitch)
        factor = code.broadcast(here) if broadcast else None
        for v, vector in enumerate(row):
            result.append(code.fma(factor if broadcast else code.load(here, v), weights[v], vector))
    return code.tile_of(result)


@lower_builtin(store, Tile, types.Array, types.Integer, types.Integer)
def _lower_store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_write(_Code(context, builder, sig.args[0]), sig, args, onto=False)


@lower_builtin(add, Tile, types.Array, types.Integer, types.Integer)
def _lower_add(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_write(_Code(context, builder, sig.args[0]), sig, args, onto=True)


def _lower_write(code: _Code, sig: Any, args: Any, onto: bool) -> Any:
    tile, array, start, pitch = args
    first = _pointer(code.context, code.builder, sig.args[1], array, start)
    for p, row in enumerate(code.rows(tile)):
        here = code.row_pointer(first, p, pitch)
        for v, vector in enumerate(row):
            code.store(code.builder.fadd(code.load(here, v), vector) if onto else vector, here, v)
    return code.context.get_dummy_value()


@lower_builtin(copy, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 3)
def _lower_copy(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    to, i, i_step, source, j, j_step, count = args
    left, right = _pointer(context, builder, sig.args[0], to, i), _pointer(context, builder, sig.args[3], source, j)
    one = count.type(1)
    dense = builder.and_(builder.icmp_signed("==", i_step, one), builder.icmp_signed("==", j_step, one))
    with builder.if_else(dense) as (whole, single):
        with whole:
            cgutils.raw_memcpy(builder, left, right, _not_negative(builder, count), sig.args[0].dtype.bitwidth // 8)
        with single, cgutils.for_range(builder, count) as loop:
            _keep_rolled(builder)
            element = builder.load(builder.gep(right, [builder.mul(loop.index, j_step)]))
            builder.store(element, builder.gep(left, [builder.mul(loop.index, i_step)]))
    return context.get_dummy_value()


@lower_builtin(transpose, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 4)
def _lower_transpose(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Load the rows, shuffle them log2(lanes) times, store the columns; what is outside of the block is masked out."""
    to, i, i_pitch, source, j, j_pitch, rows, columns = args
    lanes = VECTOR_BYTES * 8 // sig.args[0].dtype.bitwidth
    code = _Code(context, builder, Tile(sig.args[0].dtype, 1, 1))
    first = _pointer(context, builder, sig.args[3], source, j)
    inside = code.mask(columns)
    block = []
    for r in range(lanes):
        here = builder.gep(first, [builder.mul(j_pitch, j_pitch.type(r))])
        exists = builder.icmp_signed(">", rows, rows.type(r))
        mask = builder.select(exists, inside, ir.Constant(inside.type, None))
        block.append(code.load_masked(builder.select(exists, here, first), mask))
    # Riffle the first half of the rows with the second: after each time, one more bit of the indices has changed sides.
    low = [k // 2 + k % 2 * lanes for k in range(lanes)]
    for _ in range(lanes.bit_length() - 1):
        pairs = [(block[k], block[k + lanes // 2]) for k in range(lanes // 2)]
        block = [code.shuffle(a, b, [n + part for n in low]) for a, b in pairs for part in (0, lanes // 2)]
    first = _pointer(context, builder, sig.args[0], to, i)
    inside = code.mask(rows)
    for c, column in enumerate(block):
        exists = builder.icmp_signed(">", columns, columns.type(c))
        here = builder.select(exists, builder.gep(first, [builder.mul(i_pitch, i_pitch.type(c))]), first)
        code.store_masked(column, here, builder.select(exists, inside, ir.Constant(inside.type, None)))
    return context.get_dummy_value()


@lower_builtin(clear, types.Array, types.Integer, types.Integer)
def _lower_clear(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    to, start, count = args
    size = builder.mul(_not_negative(builder, count), count.type(sig.args[0].dtype.bitwidth // 8))
    cgutils.memset(builder, _pointer(context, builder, sig.args[0], to, start), size, 0)
    return context.get_dummy_value()


def _not_negative(builder: Any, count: Any) -> Any:
    return builder.select(builder.icmp_signed(">", count, count.type(0)), count, count.type(0))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """The address of an element of a flat array."""
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def _keep_rolled(builder: Any) -> None:
    """Stop LLVM from copying the loop around this place: it would cost time to compile, and a tile its registers."""
    nothing = ir.FunctionType(ir.VoidType(), [])
    builder.asm(nothing, "", "", [], side_effect=True).attributes.add("convergent")


class _Code:
    """Emits the instructions for tiles of one type."""

    def __init__(self, context: Any, builder: Any, tile: Tile) -> None:
        self.context, self.builder, self.tile = context, builder, tile
        self.scalar = context.get_value_type(tile.dtype)
        self.vector = ir.VectorType(self.scalar, tile.lanes)
        self.align = tile.dtype.bitwidth // 8  # vectors start at any element

    def rows(self, tile: Any) -> list[list[Any]]:
        """The vectors of a tile, row by row."""
        V = self.tile.vectors
        vectors = [self.builder.extract_value(tile, k) for k in range(self.tile.rows * V)]
        return [vectors[k : k + V] for k in range(0, len(vectors), V)]

    def tile_of(self, vectors: list[Any]) -> Any:
        """The tile that is made of these vectors."""
        tile = ir.Constant(ir.ArrayType(self.vector, len(vectors)), ir.Undefined)
        for k, vector in enumerate(vectors):
            tile = self.builder.insert_value(tile, vector, k)
        return tile

    def row_pointer(self, pointer: Any, p: int, pitch: Any) -> Any:
        """The address ``p`` rows further on."""
        return self.builder.gep(pointer, [self.builder.mul(pitch, ir.Constant(pitch.type, p))]) if p else pointer

    def vector_pointer(self, pointer: Any, v: int) -> Any:
        """The address ``v`` vectors further on."""
        element = self.builder.gep(pointer, [ir.Constant(ir.IntType(64), v * self.tile.lanes)])
        return self.builder.bitcast(element, self.vector.as_pointer())

    def load(self, pointer: Any, v: int) -> Any:
        return self.builder.load(self.vector_pointer(pointer, v), align=self.align)

    def store(self, vector: Any, pointer: Any, v: int) -> None:
        self.builder.store(vector, self.vector_pointer(pointer, v), align=self.align)

    def broadcast(self, pointer: Any) -> Any:
        return self.splat(self.builder.load(pointer), self.vector)

    def splat(self, scalar: Any, vector: ir.VectorType) -> Any:
        undefined = ir.Constant(vector, ir.Undefined)
        single = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(single, undefined, [0] * self.tile.lanes)

    def shuffle(self, a: Any, b: Any, order: list[int]) -> Any:
        """Elements of ``a`` and, numbered on from there, of ``b``."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))

    def mask(self, count: Any) -> Any:
        """Which lanes are among the first ``count``."""
        wide = ir.VectorType(count.type, self.tile.lanes)
        numbers = ir.Constant(wide, list(range(self.tile.lanes)))
        return self.builder.icmp_signed("<", numbers, self.splat(count, wide))

    def load_masked(self, pointer: Any, mask: Any) -> Any:
        arguments = [self.vector_pointer(pointer, 0), ir.IntType(32)(self.align), mask, ir.Constant(self.vector, None)]
        return self.call("llvm.masked.load", self.vector, arguments, ".p0")

    def store_masked(self, vector: Any, pointer: Any, mask: Any) -> None:
        arguments = [vector, self.vector_pointer(pointer, 0), ir.IntType(32)(self.align), mask]
        self.call("llvm.masked.store", ir.VoidType(), arguments, ".p0")

    def call(self, intrinsic: str, result: Any, arguments: list[Any], suffix: str = "") -> Any:
        """Call an intrinsic of LLVM for vectors of this type."""
        name = f"{intrinsic}.v{self.tile.lanes}f{self.tile.dtype.bitwidth}{suffix}"
        signature = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, signature, name), arguments)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.call(_FUSED, self.vector, [a, b, c])
