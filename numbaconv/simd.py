"""A register tile for Numba: the vector vocabulary in which the kernels are written.

A **tile** is a small matrix that lives in vector registers: ``rows`` × ``vectors`` × lanes. It is made by
:func:`zeros`, :func:`spread` or :func:`fill`, grows by :func:`outer`, :func:`dot` or :func:`hadamard`, and ends in
:func:`store`, :func:`put` or :func:`add`. :func:`copy`, :func:`move`, :func:`transpose` and :func:`clear` move memory.
Arrays are flat, positions in them are counted in elements.

Every word stands here twice. The Python function says what it *means*, in NumPy, and is what runs under
``NUMBA_DISABLE_JIT=1``; the lowering below it says what it *compiles to*, in LLVM. No other file knows LLVM.

The number of lanes follows the CPU that Numba compiles for: 512-bit vectors with AVX-512, 256-bit ones with AVX2,
128-bit ones on NEON and everything else.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from fractions import Fraction
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


def lanes_of(array: np.ndarray) -> int:
    """The same for the elements of an array, as a constant in compiled code."""
    return lanes(array.dtype)


#: A tile may hang over what there is to compute, and sum whatever its memory held before; nothing of that is kept.
_silent = np.errstate(over="ignore", invalid="ignore")

# --- What the words mean --------------------------------------------------------------------------------------------


def zeros(rows: int, vectors: int, like: np.ndarray) -> Any:
    """A tile of zeros, of the dtype of the array ``like``. ``rows`` and ``vectors`` are compile-time constants."""
    return np.zeros((rows, vectors * lanes(like.dtype)), like.dtype)


def spread(rows: int, vectors: int, array: np.ndarray, start: int) -> Any:
    """A tile whose rows all hold the elements of ``array`` from ``start`` on."""
    return np.tile(_cut(array, start, vectors * lanes(array.dtype)), (rows, 1))


def load(rows: int, array: np.ndarray, start: int, pitch: int) -> Any:
    """A tile of single vectors: its row ``p`` holds the elements of ``array`` from ``start + p * pitch`` on."""
    return np.stack([_cut(array, start + p * pitch, lanes(array.dtype)) for p in range(rows)])


def fill(rows: int, vectors: int, array: np.ndarray, start: int) -> Any:
    """A tile whose row ``p`` is filled with ``array[start + p]``."""
    return np.tile(_cut(array, start, rows)[:, None], (1, vectors * lanes(array.dtype)))


@_silent
def outer(tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int, apart: int) -> Any:
    """Add an outer product of scalars that lie ``pitch`` apart and vectors that lie ``apart``.

    ``tile[p, v, lane] += a[i + p * pitch] * b[j + v * apart + lane]``
    """
    rows, width = tile.shape
    size = lanes(b.dtype)
    row = np.concatenate([_cut(b, j + v * apart, size) for v in range(width // size)])
    return tile + np.outer([a[i + p * pitch] for p in range(rows)], row)


@_silent
def hadamard(tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int) -> Any:
    """Add products lane by lane: ``tile[p, lane] += a[i + p * pitch + lane] * b[j + lane]``."""
    rows, width = tile.shape
    return tile + np.stack([_cut(a, i + p * pitch, width) for p in range(rows)]) * _cut(b, j, width)


@_silent
def slide(
    tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int, b_pitch: int, taps: int, rows: int, along: int
) -> Any:
    """Add products lane by lane, of ``taps`` vectors each, loading those that neighbouring rows share but once.

    ``tile[p, lane] += a[i + (p * rows + k * along) * pitch + lane] * b[j + k * b_pitch + lane]`` for each ``k`` below
    ``taps``. The last three arguments are compile-time constants.
    """
    for k in range(taps):
        tile = hadamard(tile, a, i + k * along * pitch, rows * pitch, b, j + k * b_pitch)
    return tile


@_silent
def dot(tile: Any, a: np.ndarray, i: int, pitch: int, b: np.ndarray, j: int, apart: int) -> Any:
    """Add a step of the dot products of all rows and vectors.

    ``tile[p, v, lane] += a[i + p * pitch + lane] * b[j + v * apart + lane]``
    """
    rows, width = tile.shape
    size = lanes(b.dtype)
    left = [_cut(a, i + p * pitch, size) for p in range(rows)]
    right = [_cut(b, j + v * apart, size) for v in range(width // size)]
    return tile + np.array([np.concatenate([row * vector for vector in right]) for row in left])


@_silent
def plus(tile: Any, other: Any) -> Any:
    """The sum of two tiles."""
    return tile + other


def store(tile: Any, array: np.ndarray, start: int, pitch: int, apart: int) -> None:
    """Write the vectors of a tile: ``array[start + p * pitch + v * apart + lane] = tile[p, v, lane]``."""
    size = lanes(array.dtype)
    for p, row in enumerate(tile):
        for v in range(row.size // size):
            _cut(array, start + p * pitch + v * apart, size)[:] = row[v * size : (v + 1) * size]


def put(tile: Any, array: np.ndarray, start: int, pitch: int, rows: int, first: int, last: int) -> None:
    """Write a part of a tile: ``array[start + p * pitch + k] = tile[p, k]``.

    For ``p`` below ``rows``, and ``k``, which counts the lanes of all vectors, from ``first`` to below ``last``.
    """
    for p, row in enumerate(tile[: max(0, rows)]):
        for k in range(max(0, first), min(last, row.size)):
            _cut(array, start + p * pitch + k, 1)[:] = row[k]


def add(tile: Any, array: np.ndarray, start: int, pitch: int) -> None:
    """Add the rows of a tile to what is there: ``array[start + p * pitch + lane] += tile[p, lane]``."""
    for p, row in enumerate(tile):
        _cut(array, start + p * pitch, row.size)[:] += row


def linear(matrix: tuple[tuple[Fraction, ...], ...]) -> Callable[[Any], Any]:
    """A word of its own for a constant matrix: ``word(tile)[p] = sum(matrix[p][k] * tile[k])``."""
    rows = len(matrix)

    @_silent
    def word(tile: Any) -> Any:
        return np.array(matrix, tile.dtype) @ tile

    @type_callable(word)
    def typed(context: Any) -> Callable:
        return lambda tile: Tile(tile.dtype, rows, tile.vectors) if tile.rows == len(matrix[0]) else None

    @lower_builtin(word, Tile)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        code = _Code(context, builder, sig.args[0])
        _keep_rolled(builder)
        columns = zip(*code.rows(args[0]), strict=True)
        products = [_lower_linear(code, matrix, column) for column in columns]
        return code.tile_of([row for rows in zip(*products, strict=True) for row in rows])

    return word


def copy(to: np.ndarray, i: int, i_step: int, source: np.ndarray, j: int, j_step: int, count: int) -> None:
    """Copy elements that lie some steps apart: ``to[i + k * i_step] = source[j + k * j_step]``, ``count`` of them."""
    for k in range(count):
        _cut(to, i + k * i_step, 1)[:] = _cut(source, j + k * j_step, 1)


def move(to: np.ndarray, i: int, i_pitch: int, source: np.ndarray, j: int, j_pitch: int, rows: int, count: int) -> None:
    """Copy a block of memory: ``to[i + r * i_pitch + k] = source[j + r * j_pitch + k]``, for ``k`` below ``count``."""
    for r in range(rows):
        copy(to, i + r * i_pitch, 1, source, j + r * j_pitch, 1, count)


def narrow(
    to: np.ndarray, i: int, i_pitch: int, source: np.ndarray, j: int, j_pitch: int, rows: int, count: int
) -> None:
    """Copy every second element: ``to[i + r * i_pitch + k] = source[j + r * j_pitch + 2 * k]``."""
    for r in range(rows):
        copy(to, i + r * i_pitch, 1, source, j + r * j_pitch, 2, count)


def widen(
    to: np.ndarray, i: int, i_pitch: int, source: np.ndarray, j: int, j_pitch: int, rows: int, count: int
) -> None:
    """Copy to every second element: ``to[i + r * i_pitch + 2 * k] = source[j + r * j_pitch + k]``."""
    for r in range(rows):
        copy(to, i + r * i_pitch, 2, source, j + r * j_pitch, 1, count)


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
@type_callable(fill)
def _type_spread(context: Any) -> Callable:
    return lambda rows, vectors, array, start: _tile_type(rows, vectors, array)


@type_callable(lanes_of)
def _type_lanes_of(context: Any) -> Callable:
    return lambda array: types.intp


@type_callable(load)
def _type_load(context: Any) -> Callable:
    return lambda rows, array, start, pitch: _tile_type(rows, types.literal(1), array)


@type_callable(plus)
def _type_plus(context: Any) -> Callable:
    return lambda tile, other: tile if tile == other else None


@type_callable(outer)
@type_callable(dot)
def _type_outer(context: Any) -> Callable:
    return lambda tile, a, i, pitch, b, j, apart: tile


@type_callable(hadamard)
def _type_hadamard(context: Any) -> Callable:
    return lambda tile, a, i, pitch, b, j: tile


@type_callable(slide)
def _type_slide(context: Any) -> Callable:
    def typed(
        tile: Any, a: Any, i: Any, pitch: Any, b: Any, j: Any, b_pitch: Any, taps: Any, rows: Any, along: Any
    ) -> Any:
        return tile if all(isinstance(size, types.IntegerLiteral) for size in (taps, rows, along)) else None

    return typed


@type_callable(store)
def _type_store(context: Any) -> Callable:
    return lambda tile, array, start, pitch, apart: types.none


@type_callable(put)
def _type_put(context: Any) -> Callable:
    return lambda tile, array, start, pitch, rows, first, last: types.none


@type_callable(add)
def _type_add(context: Any) -> Callable:
    return lambda tile, array, start, pitch: types.none


@type_callable(move)
@type_callable(narrow)
@type_callable(widen)
def _type_move(context: Any) -> Callable:
    return lambda to, i, i_pitch, source, j, j_pitch, rows, count: types.none


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
    apart = ir.Constant(ir.IntType(64), code.tile.lanes)
    row = [code.load(code.pointer(pointer, v, apart)) for v in range(code.tile.vectors)]
    return code.tile_of(row * code.tile.rows)


@lower_builtin(fill, types.Integer, types.Integer, types.Array, types.Integer)
def _lower_fill(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    code = _Code(context, builder, sig.return_type)
    pointer = _pointer(code.context, code.builder, sig.args[2], args[2], args[3])
    one = ir.Constant(ir.IntType(64), 1)
    rows = [code.broadcast(code.pointer(pointer, p, one)) for p in range(code.tile.rows)]
    return code.tile_of([row for row in rows for _ in range(code.tile.vectors)])


@lower_builtin(lanes_of, types.Array)
def _lower_lanes_of(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return context.get_constant(types.intp, VECTOR_BYTES * 8 // sig.args[0].dtype.bitwidth)


@lower_builtin(load, types.Integer, types.Array, types.Integer, types.Integer)
def _lower_load(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    code = _Code(context, builder, sig.return_type)
    pointer = _pointer(context, builder, sig.args[1], args[1], args[2])
    return code.tile_of([code.load(code.pointer(pointer, p, args[3])) for p in range(code.tile.rows)])


@lower_builtin(plus, Tile, Tile)
def _lower_plus(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    code = _Code(context, builder, sig.return_type)
    pairs = ((builder.extract_value(args[0], k), builder.extract_value(args[1], k)) for k in range(args[0].type.count))
    return code.tile_of([builder.fadd(a, b) for a, b in pairs])


@lower_builtin(outer, Tile, types.Array, types.Integer, types.Integer, types.Array, types.Integer, types.Integer)
def _lower_outer(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_rank_one(_Code(context, builder, sig.args[0]), sig, args, _Code.broadcast)


@lower_builtin(dot, Tile, types.Array, types.Integer, types.Integer, types.Array, types.Integer, types.Integer)
def _lower_dot(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_rank_one(_Code(context, builder, sig.args[0]), sig, args, _Code.load)


def _lower_rank_one(code: _Code, sig: Any, args: Any, factor_at: Callable) -> Any:
    """Add the products of a column of factors, broadcast or loaded, and a row of vectors."""
    tile, a, i, pitch, b, j, apart = args
    left = _pointer(code.context, code.builder, sig.args[1], a, i)
    right = _pointer(code.context, code.builder, sig.args[4], b, j)
    _keep_rolled(code.builder)
    vectors = [code.load(code.pointer(right, v, apart)) for v in range(code.tile.vectors)]
    here = code.column(left, pitch, code.tile.rows)
    result = []
    for p, row in enumerate(code.rows(tile)):
        factor = factor_at(code, here[p])
        result += [code.fma(factor, vector, total) for vector, total in zip(vectors, row, strict=True)]
    return code.tile_of(result)


@lower_builtin(hadamard, Tile, types.Array, types.Integer, types.Integer, types.Array, types.Integer)
def _lower_hadamard(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, a, i, pitch, b, j = args
    code = _Code(context, builder, sig.args[0])
    left, right = _pointer(context, builder, sig.args[1], a, i), _pointer(context, builder, sig.args[4], b, j)
    _keep_rolled(builder)
    apart = ir.Constant(ir.IntType(64), code.tile.lanes)
    weights = [code.load(code.pointer(right, v, apart)) for v in range(code.tile.vectors)]
    here = code.column(left, pitch, code.tile.rows)
    result = []
    for p, row in enumerate(code.rows(tile)):
        values = [code.load(code.pointer(here[p], v, apart)) for v in range(code.tile.vectors)]
        result += [code.fma(*factors) for factors in zip(values, weights, row, strict=True)]
    return code.tile_of(result)


@lower_builtin(slide, Tile, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 5)
def _lower_slide(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, a, i, pitch, b, j, b_pitch = args[:7]
    taps, rows, along = (size.literal_value for size in sig.args[7:])
    code = _Code(context, builder, sig.args[0])
    left, right = _pointer(context, builder, sig.args[1], a, i), _pointer(context, builder, sig.args[4], b, j)
    _keep_rolled(builder)
    weights = [code.load(code.pointer(right, k, b_pitch)) for k in range(taps)]
    sums = [row[0] for row in code.rows(tile)]
    count = (len(sums) - 1) * rows + (taps - 1) * along + 1
    for position, here in enumerate(code.column(left, pitch, count)):
        pairs = [(p, k) for p in range(len(sums)) for k in range(taps) if p * rows + k * along == position]
        if pairs:
            vector = code.load(here)
            for p, k in pairs:
                sums[p] = code.fma(vector, weights[k], sums[p])
    return code.tile_of(sums)


@lower_builtin(store, Tile, types.Array, types.Integer, types.Integer, types.Integer)
def _lower_store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, array, start, pitch, apart = args
    code = _Code(context, builder, sig.args[0])
    first = _pointer(context, builder, sig.args[1], array, start)
    for p, row in enumerate(code.rows(tile)):
        for v, vector in enumerate(row):
            code.store(vector, code.pointer(code.pointer(first, p, pitch), v, apart))
    return context.get_dummy_value()


@lower_builtin(put, Tile, types.Array, *[types.Integer] * 5)
def _lower_put(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Vector by vector from above to below; leaps over vectors and rows of which nothing is to be written."""
    tile, array, start, pitch, rows, first, last = args
    code = _Code(context, builder, sig.args[0])
    pointer = _pointer(context, builder, sig.args[1], array, start)
    table = code.rows(tile)
    for v in range(code.tile.vectors):
        lane = first.type(v * code.tile.lanes)
        low, high = builder.sub(first, lane), builder.sub(last, lane)
        begins = builder.icmp_signed("<", low, low.type(code.tile.lanes))
        some = builder.and_(begins, builder.icmp_signed(">", high, high.type(0)))
        with builder.if_then(some):
            mask = builder.and_(code.mask(high), builder.not_(code.mask(low)))
            here = builder.gep(pointer, [lane])
            end = builder.append_basic_block("rows_end")
            for p, row in enumerate(table):
                exists = builder.append_basic_block("row")
                builder.cbranch(builder.icmp_signed(">", rows, rows.type(p)), exists, end)
                builder.position_at_end(exists)
                code.store_masked(row[v], code.pointer(here, p, pitch), mask)
            builder.branch(end)
            builder.position_at_end(end)
    return context.get_dummy_value()


@lower_builtin(add, Tile, types.Array, types.Integer, types.Integer)
def _lower_add(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, array, start, pitch = args
    code = _Code(context, builder, sig.args[0])
    first = _pointer(context, builder, sig.args[1], array, start)
    apart = ir.Constant(ir.IntType(64), code.tile.lanes)
    for p, row in enumerate(code.rows(tile)):
        for v, vector in enumerate(row):
            here = code.pointer(code.pointer(first, p, pitch), v, apart)
            code.store(builder.fadd(code.load(here), vector), here)
    return context.get_dummy_value()


def _lower_linear(code: _Code, matrix: tuple[tuple[Fraction, ...], ...], column: tuple[Any, ...]) -> list[Any]:
    """A constant matrix times a column of vectors.

    Two rows that differ only in the signs of some elements share their work: the sum over the elements that agree, and
    that over the others, which the one row adds and the other subtracts.
    """
    result: dict[int, Any] = {}
    for i, row in enumerate(matrix):
        if i in result:
            continue
        for j in range(i + 1, len(matrix)):
            pairs = list(zip(row, matrix[j], strict=True))
            same, other = [a * (a == b) for a, b in pairs], [a * (a == -b) for a, b in pairs]
            if any(same) and any(other) and all(abs(a) == abs(b) for a, b in pairs):
                even, odd = code.combination(same, column), code.combination(other, column)
                result[i], result[j] = code.builder.fadd(even, odd), code.builder.fsub(even, odd)
                break
        else:
            result[i] = code.combination(row, column)
    return [result[i] for i in range(len(matrix))]


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


@lower_builtin(move, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 4)
def _lower_move(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_rows(context, builder, sig, args, _move)


@lower_builtin(narrow, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 4)
def _lower_narrow(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_rows(context, builder, sig, args, _narrow)


@lower_builtin(widen, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 4)
def _lower_widen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_rows(context, builder, sig, args, _widen)


def _lower_rows(context: Any, builder: Any, sig: Any, args: Any, step: Callable) -> Any:
    """Vectors next to each other, for each of them all rows: their masks are made once."""
    to, i, i_pitch, source, j, j_pitch, rows, count = args
    code = _Code(context, builder, Tile(sig.args[0].dtype, 1, 1))
    left, right = _pointer(context, builder, sig.args[0], to, i), _pointer(context, builder, sig.args[3], source, j)
    lanes, most = count.type(code.tile.lanes), count.type(code.tile.lanes - 1)
    vectors = builder.sdiv(builder.add(_not_negative(builder, count), most), lanes)
    with cgutils.for_range(builder, vectors) as across:
        start = builder.mul(across.index, lanes)
        copy_row = step(code, start, builder.sub(count, start))
        with cgutils.for_range(builder, rows) as down:
            _keep_rolled(builder)
            here, there = (builder.mul(down.index, pitch) for pitch in (j_pitch, i_pitch))
            copy_row(builder.gep(right, [here]), builder.gep(left, [there]))
    return context.get_dummy_value()


def _move(code: _Code, start: Any, left: Any) -> Callable[[Any, Any], None]:
    """What copies a vector from one row to another, where ``left`` elements are left from ``start``."""
    mask = code.mask(left)

    def copy_row(source: Any, to: Any) -> None:
        vector = code.load_masked(code.builder.gep(source, [start]), mask)
        code.store_masked(vector, code.builder.gep(to, [start]), mask)

    return copy_row


def _narrow(code: _Code, start: Any, left: Any) -> Callable[[Any, Any], None]:
    """The same for every second element of the source: two vectors become one."""
    builder, lanes, two = code.builder, code.tile.lanes, start.type(2)
    reach = builder.sub(builder.mul(left, two), left.type(1))
    masks = code.mask(reach), code.mask(builder.sub(reach, left.type(lanes)))
    mask, begin = code.mask(left), builder.mul(start, two)

    def copy_row(source: Any, to: Any) -> None:
        here = builder.gep(source, [begin])
        first = code.load_masked(here, masks[0])
        second = code.load_masked(builder.gep(here, [start.type(lanes)]), masks[1])
        code.store_masked(code.shuffle(first, second, list(range(0, 2 * lanes, 2))), builder.gep(to, [start]), mask)

    return copy_row


def _widen(code: _Code, start: Any, left: Any) -> Callable[[Any, Any], None]:
    """The same for every second element of the target: each half of a vector is stored with gaps."""
    builder, lanes, two = code.builder, code.tile.lanes, start.type(2)
    seconds = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [lane % 2 == 0 for lane in range(lanes)])
    reach = [builder.sub(builder.mul(left, two), left.type(half * lanes)) for half in (0, 1)]
    masks = [builder.and_(seconds, code.mask(elements)) for elements in reach]
    mask, begin = code.mask(left), builder.mul(start, two)

    def copy_row(source: Any, to: Any) -> None:
        vector = code.load_masked(builder.gep(source, [start]), mask)
        here = builder.gep(to, [begin])
        for half in (0, 1):
            wide = code.shuffle(vector, vector, [half * lanes // 2 + lane // 2 for lane in range(lanes)])
            code.store_masked(wide, builder.gep(here, [start.type(half * lanes)]), masks[half])

    return copy_row


@lower_builtin(transpose, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 4)
def _lower_transpose(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Load the rows, shuffle them log2(lanes) times, store the columns."""
    to, i, i_pitch, source, j, j_pitch, rows, columns = args
    code = _Code(context, builder, Tile(sig.args[0].dtype, 1, 1))
    left, right = _pointer(context, builder, sig.args[0], to, i), _pointer(context, builder, sig.args[3], source, j)
    all_ = rows.type(code.tile.lanes)
    whole = builder.and_(builder.icmp_signed("==", rows, all_), builder.icmp_signed("==", columns, all_))
    with builder.if_else(whole) as (full, part):
        with full:
            block = [code.load(code.pointer(right, r, j_pitch)) for r in range(code.tile.lanes)]
            for c, column in enumerate(_turned(code, block)):
                code.store(column, code.pointer(left, c, i_pitch))
        with part:
            _lower_part(code, left, i_pitch, right, j_pitch, rows, columns)
    return context.get_dummy_value()


def _lower_part(code: _Code, to: Any, to_pitch: Any, source: Any, pitch: Any, rows: Any, columns: Any) -> None:
    """The same where some rows or columns do not exist: they are masked out."""
    builder, lanes = code.builder, code.tile.lanes
    inside = code.mask(columns)
    block = []
    for r in range(lanes):
        exists = builder.icmp_signed(">", rows, rows.type(r))
        mask = builder.select(exists, inside, ir.Constant(inside.type, None))
        block.append(code.load_masked(builder.select(exists, code.pointer(source, r, pitch), source), mask))
    inside = code.mask(rows)
    for c, column in enumerate(_turned(code, block)):
        exists = builder.icmp_signed(">", columns, columns.type(c))
        here = builder.select(exists, code.pointer(to, c, to_pitch), to)
        code.store_masked(column, here, builder.select(exists, inside, ir.Constant(inside.type, None)))


def _turned(code: _Code, rows: list[Any]) -> list[Any]:
    """The columns of a square block of vectors.

    The first half of the vectors is riffled with the second, element by element: after each time, one more bit of the
    numbers of rows and elements has changed sides. (Exchanging elements within 128 bits first, by unpacking, and then
    such pieces, takes as many instructions and was slower.)
    """
    lanes, block = code.tile.lanes, rows
    low = [k // 2 + k % 2 * lanes for k in range(lanes)]
    for _ in range(lanes.bit_length() - 1):
        pairs = [(block[k], block[k + lanes // 2]) for k in range(lanes // 2)]
        block = [code.shuffle(a, b, [n + part for n in low]) for a, b in pairs for part in (0, lanes // 2)]
    return block


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

    def pointer(self, first: Any, number: int, apart: Any) -> Any:
        """The address of the element that lies ``number`` times ``apart`` elements further on."""
        return self.builder.gep(first, [self.builder.mul(apart, ir.Constant(apart.type, number))]) if number else first

    def column(self, first: Any, apart: Any, rows: int) -> list[Any]:
        """The addresses of some rows, as few registers can hold them.

        LLVM would count up every one of them in a register of its own. So the address of each fourth row is hidden from
        it; those between are written as that one plus a register, which instructions can add themselves.
        """
        hidden = ir.FunctionType(first.type, [first.type])
        pointers: list[Any] = []
        for p in range(rows):
            if p % 4 == 0:
                first = self.builder.asm(
                    hidden, "", "=r,0", [self.pointer(first, 4, apart) if p else first], side_effect=False
                )
            pointers.append(self.pointer(first, p % 4, apart))
        return pointers

    def load(self, pointer: Any) -> Any:
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.align)

    def store(self, vector: Any, pointer: Any) -> None:
        self.builder.store(vector, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.align)

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
        """Which lanes are among the first ``count``, a number that may be negative or larger than a vector."""
        few, most = self.builder.icmp_signed("<", count, count.type(0)), count.type(self.tile.lanes)
        count = self.builder.select(few, count.type(0), count)
        count = self.builder.select(self.builder.icmp_signed("<", count, most), count, most)
        wide = ir.VectorType(ir.IntType(32), self.tile.lanes)
        numbers = ir.Constant(wide, list(range(self.tile.lanes)))
        return self.builder.icmp_signed("<", numbers, self.splat(self.builder.trunc(count, ir.IntType(32)), wide))

    def load_masked(self, pointer: Any, mask: Any) -> Any:
        arguments = [
            self.builder.bitcast(pointer, self.vector.as_pointer()),
            ir.IntType(32)(self.align),
            mask,
            ir.Constant(self.vector, None),
        ]
        return self.call("llvm.masked.load", self.vector, arguments, ".p0")

    def store_masked(self, vector: Any, pointer: Any, mask: Any) -> None:
        arguments = [vector, self.builder.bitcast(pointer, self.vector.as_pointer()), ir.IntType(32)(self.align), mask]
        self.call("llvm.masked.store", ir.VoidType(), arguments, ".p0")

    def call(self, intrinsic: str, result: Any, arguments: list[Any], suffix: str = "") -> Any:
        """Call an intrinsic of LLVM for vectors of this type."""
        name = f"{intrinsic}.v{self.tile.lanes}f{self.tile.dtype.bitwidth}{suffix}"
        signature = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, signature, name), arguments)

    def combination(self, factors: Sequence[Fraction], column: Sequence[Any]) -> Any:
        """The sum of vectors, each times a constant."""
        terms = sorted(((f, v) for f, v in zip(factors, column, strict=True) if f), key=lambda term: abs(term[0]) != 1)
        total = None
        for factor, vector in terms:
            constant = ir.Constant(self.vector, [float(factor)] * self.tile.lanes)
            if total is None:
                total = vector if factor == 1 else self.builder.fmul(vector, constant)
            else:
                total = self.fma(vector, constant, total)
        return total if total is not None else ir.Constant(self.vector, None)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.call(_FUSED, self.vector, [a, b, c])
