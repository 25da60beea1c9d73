"""What the words that make, change and write a tile compile to."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, type_callable

from numbaconv.simd.code import Code, Tile, keep_rolled, pointer_of
from numbaconv.simd.cpu import VECTOR_BYTES, lanes_of
from numbaconv.simd.words import (
    add,
    dot,
    fill,
    lift,
    load,
    outer,
    pile,
    put,
    rectify,
    silent,
    spread,
    store,
    trail,
    trim,
    turn,
    zeros,
)


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
    return lambda rows, vectors, array, start, pitch, apart: _tile_type(rows, vectors, array)


@type_callable(turn)
def _type_turn(context: Any) -> Callable:
    return lambda tile: Tile(tile.dtype, tile.vectors, tile.rows)


@type_callable(rectify)
def _type_rectify(context: Any) -> Callable:
    return lambda tile: tile


@type_callable(lift)
def _type_lift(context: Any) -> Callable:
    return lambda tile, array, start: tile


@type_callable(pile)
def _type_pile(context: Any) -> Callable:
    return lambda tile, array, start, pitch, apart: tile


@type_callable(outer)
@type_callable(dot)
def _type_outer(context: Any) -> Callable:
    return lambda tile, a, i, pitch, b, j, apart: tile


@type_callable(trail)
def _type_trail(context: Any) -> Callable:
    return lambda tile, a, i, pitch, b, j, b_pitch, apart, taps: tile


@type_callable(store)
def _type_store(context: Any) -> Callable:
    return lambda tile, array, start, pitch, apart: types.none


@type_callable(put)
def _type_put(context: Any) -> Callable:
    return lambda tile, array, start, pitch, rows, first, last: types.none


@type_callable(trim)
def _type_trim(context: Any) -> Callable:
    return lambda tile, array, start, pitch, apart, rows, vectors, last: types.none


@type_callable(add)
def _type_add(context: Any) -> Callable:
    return lambda tile, array, start, pitch: types.none


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
    code = Code(context, builder, sig.return_type)
    pointer = pointer_of(code.context, code.builder, sig.args[2], args[2], args[3])
    apart = ir.Constant(ir.IntType(64), code.tile.lanes)
    row = [code.load(code.pointer(pointer, v, apart)) for v in range(code.tile.vectors)]
    return code.tile_of(row * code.tile.rows)


@lower_builtin(fill, types.Integer, types.Integer, types.Array, types.Integer)
def _lower_fill(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    code = Code(context, builder, sig.return_type)
    pointer = pointer_of(code.context, code.builder, sig.args[2], args[2], args[3])
    one = ir.Constant(ir.IntType(64), 1)
    rows = [code.broadcast(code.pointer(pointer, p, one)) for p in range(code.tile.rows)]
    return code.tile_of([row for row in rows for _ in range(code.tile.vectors)])


@lower_builtin(lanes_of, types.Array)
def _lower_lanes_of(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return context.get_constant(types.intp, VECTOR_BYTES * 8 // sig.args[0].dtype.bitwidth)


@lower_builtin(load, types.Integer, types.Integer, types.Array, types.Integer, types.Integer, types.Integer)
def _lower_load(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    code = Code(context, builder, sig.return_type)
    array, start, pitch, apart = args[2:]
    keep_rolled(builder)
    pointer = pointer_of(context, builder, sig.args[2], array, start)
    return code.tile_of([code.load(place) for row in code.places(pointer, pitch, apart) for place in row])


@lower_builtin(turn, Tile)
def _lower_turn(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    code = Code(context, builder, sig.args[0])
    columns = zip(*code.rows(args[0]), strict=True)
    return code.tile_of([vector for column in columns for vector in column])


@lower_builtin(lift, Tile, types.Array, types.Integer)
def _lower_lift(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, array, start = args
    code = Code(context, builder, sig.args[0])
    other = code.load(pointer_of(context, builder, sig.args[1], array, start))
    return code.tile_of([builder.fadd(vector, other) for row in code.rows(tile) for vector in row])


@lower_builtin(pile, Tile, types.Array, types.Integer, types.Integer, types.Integer)
def _lower_pile(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, array, start, pitch, apart = args
    code = Code(context, builder, sig.args[0])
    keep_rolled(builder)
    places = code.places(pointer_of(context, builder, sig.args[1], array, start), pitch, apart)
    rows = zip(code.rows(tile), places, strict=True)
    return code.tile_of(
        [builder.fadd(vector, code.load(place)) for row, here in rows for vector, place in zip(row, here, strict=True)]
    )


@lower_builtin(rectify, Tile)
def _lower_rectify(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    code = Code(context, builder, sig.args[0])
    zero = ir.Constant(code.vector, None)
    vectors = [vector for row in code.rows(args[0]) for vector in row]
    return code.tile_of([builder.select(builder.fcmp_unordered(">", v, zero), v, zero) for v in vectors])


@lower_builtin(outer, Tile, types.Array, types.Integer, types.Integer, types.Array, types.Integer, types.Integer)
def _lower_outer(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_rank_one(Code(context, builder, sig.args[0]), sig, args, Code.broadcast)


@lower_builtin(dot, Tile, types.Array, types.Integer, types.Integer, types.Array, types.Integer, types.Integer)
def _lower_dot(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _lower_rank_one(Code(context, builder, sig.args[0]), sig, args, Code.load)


def _lower_rank_one(code: Code, sig: Any, args: Any, factor_at: Callable) -> Any:
    """Add the products of a column of factors, broadcast or loaded, and a row of vectors."""
    tile, a, i, pitch, b, j, apart = args
    left = pointer_of(code.context, code.builder, sig.args[1], a, i)
    right = pointer_of(code.context, code.builder, sig.args[4], b, j)
    keep_rolled(code.builder)
    vectors = [code.load(code.pointer(right, v, apart)) for v in range(code.tile.vectors)]
    here = code.column(left, pitch, code.tile.rows)
    result = []
    for p, row in enumerate(code.rows(tile)):
        factor = factor_at(code, here[p])
        result += [code.fma(factor, vector, total) for vector, total in zip(vectors, row, strict=True)]
    return code.tile_of(result)


@lower_builtin(
    trail, Tile, types.Array, types.Integer, types.Integer, types.Array, *[types.Integer] * 3, types.UniTuple
)
def _lower_trail(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, a, i, pitch, b, j, b_pitch, apart, _ = args
    code, taps = Code(context, builder, sig.args[0]), sig.args[8].count
    left, right = pointer_of(context, builder, sig.args[1], a, i), pointer_of(context, builder, sig.args[4], b, j)
    keep_rolled(builder)
    places = [code.pointer(right, k, b_pitch) for k in range(taps)]
    vectors = [[code.load(code.pointer(place, v, apart)) for v in range(code.tile.vectors)] for place in places]
    sums = code.rows(tile)
    for position, here in enumerate(code.column(left, pitch, len(sums) + taps - 1)):
        factor = code.broadcast(here)
        for k in range(max(0, position - len(sums) + 1), min(taps, position + 1)):
            row = sums[position - k]
            row[:] = [code.fma(factor, vector, total) for vector, total in zip(vectors[k], row, strict=True)]
    return code.tile_of([vector for row in sums for vector in row])


@lower_builtin(store, Tile, types.Array, types.Integer, types.Integer, types.Integer)
def _lower_store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, array, start, pitch, apart = args
    code = Code(context, builder, sig.args[0])
    first = pointer_of(context, builder, sig.args[1], array, start)
    for row, places in zip(code.rows(tile), code.places(first, pitch, apart), strict=True):
        for vector, place in zip(row, places, strict=True):
            code.store(vector, place)
    return context.get_dummy_value()


@lower_builtin(put, Tile, types.Array, *[types.Integer] * 5)
def _lower_put(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Vector by vector from above to below; leaps over vectors and rows of which nothing is to be written."""
    tile, array, start, pitch, rows, first, last = args
    code = Code(context, builder, sig.args[0])
    pointer = pointer_of(context, builder, sig.args[1], array, start)
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


@lower_builtin(trim, Tile, types.Array, *[types.Integer] * 6)
def _lower_trim(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Row by row, until one does not exist; in each, vector by vector, until one does not exist."""
    tile, array, start, pitch, apart, rows, vectors, last = args
    code = Code(context, builder, sig.args[0])
    pointer = pointer_of(context, builder, sig.args[1], array, start)
    mask = code.mask(last)
    end = builder.append_basic_block("end")
    for p, row in enumerate(code.rows(tile)):
        exists, next_row = builder.append_basic_block("row"), builder.append_basic_block("next_row")
        builder.cbranch(builder.icmp_signed(">", rows, rows.type(p)), exists, end)
        builder.position_at_end(exists)
        first = code.pointer(pointer, p, pitch)
        for v, vector in enumerate(row):
            here = builder.append_basic_block("vector")
            builder.cbranch(builder.icmp_signed(">", vectors, vectors.type(v)), here, next_row)
            builder.position_at_end(here)
            code.store_masked(vector, code.pointer(first, v, apart), mask)
        builder.branch(next_row)
        builder.position_at_end(next_row)
    builder.branch(end)
    builder.position_at_end(end)
    return context.get_dummy_value()


@lower_builtin(add, Tile, types.Array, types.Integer, types.Integer)
def _lower_add(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, array, start, pitch = args
    code = Code(context, builder, sig.args[0])
    first = pointer_of(context, builder, sig.args[1], array, start)
    apart = ir.Constant(ir.IntType(64), code.tile.lanes)
    for p, row in enumerate(code.rows(tile)):
        for v, vector in enumerate(row):
            here = code.pointer(code.pointer(first, p, pitch), v, apart)
            code.store(builder.fadd(code.load(here), vector), here)
    return context.get_dummy_value()


def _lower_linear(code: Code, matrix: tuple[tuple[Fraction, ...], ...], column: tuple[Any, ...]) -> list[Any]:
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


def linear(matrix: tuple[tuple[Fraction, ...], ...]) -> Callable[[Any], Any]:
    """A word of its own for a constant matrix: ``word(tile)[p] = sum(matrix[p][k] * tile[k])``."""
    rows = len(matrix)

    @silent
    def word(tile: Any) -> Any:
        return np.array(matrix, tile.dtype) @ tile

    @type_callable(word)
    def typed(context: Any) -> Callable:
        return lambda tile: Tile(tile.dtype, rows, tile.vectors) if tile.rows == len(matrix[0]) else None

    @lower_builtin(word, Tile)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        code = Code(context, builder, sig.args[0])
        keep_rolled(builder)
        columns = zip(*code.rows(args[0]), strict=True)
        products = [_lower_linear(code, matrix, column) for column in columns]
        return code.tile_of([row for rows in zip(*products, strict=True) for row in rows])

    return word
