"""What the words that move memory compile to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from numbaconv.simd.code import Code, Tile, keep_rolled, not_negative, pointer_of
from numbaconv.simd.words import clear, copy, move, narrow, transpose, widen


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


@lower_builtin(copy, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 3)
def _lower_copy(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    to, i, i_step, source, j, j_step, count = args
    left, right = pointer_of(context, builder, sig.args[0], to, i), pointer_of(context, builder, sig.args[3], source, j)
    one = count.type(1)
    dense = builder.and_(builder.icmp_signed("==", i_step, one), builder.icmp_signed("==", j_step, one))
    with builder.if_else(dense) as (whole, single):
        with whole:
            cgutils.raw_memcpy(builder, left, right, not_negative(builder, count), sig.args[0].dtype.bitwidth // 8)
        with single, cgutils.for_range(builder, count) as loop:
            keep_rolled(builder)
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
    code = Code(context, builder, Tile(sig.args[0].dtype, 1, 1))
    left, right = pointer_of(context, builder, sig.args[0], to, i), pointer_of(context, builder, sig.args[3], source, j)
    lanes, most = count.type(code.tile.lanes), count.type(code.tile.lanes - 1)
    vectors = builder.sdiv(builder.add(not_negative(builder, count), most), lanes)
    with cgutils.for_range(builder, vectors) as across:
        start = builder.mul(across.index, lanes)
        copy_row = step(code, start, builder.sub(count, start))
        with cgutils.for_range(builder, rows) as down:
            keep_rolled(builder)
            here, there = (builder.mul(down.index, pitch) for pitch in (j_pitch, i_pitch))
            copy_row(builder.gep(right, [here]), builder.gep(left, [there]))
    return context.get_dummy_value()


def _move(code: Code, start: Any, left: Any) -> Callable[[Any, Any], None]:
    """What copies a vector from one row to another, where ``left`` elements are left from ``start``."""
    mask = code.mask(left)

    def copy_row(source: Any, to: Any) -> None:
        vector = code.load_masked(code.builder.gep(source, [start]), mask)
        code.store_masked(vector, code.builder.gep(to, [start]), mask)

    return copy_row


def _narrow(code: Code, start: Any, left: Any) -> Callable[[Any, Any], None]:
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


def _widen(code: Code, start: Any, left: Any) -> Callable[[Any, Any], None]:
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
    code = Code(context, builder, Tile(sig.args[0].dtype, 1, 1))
    left, right = pointer_of(context, builder, sig.args[0], to, i), pointer_of(context, builder, sig.args[3], source, j)
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


def _lower_part(code: Code, to: Any, to_pitch: Any, source: Any, pitch: Any, rows: Any, columns: Any) -> None:
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


def _turned(code: Code, rows: list[Any]) -> list[Any]:
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
    size = builder.mul(not_negative(builder, count), count.type(sig.args[0].dtype.bitwidth // 8))
    cgutils.memset(builder, pointer_of(context, builder, sig.args[0], to, start), size, 0)
    return context.get_dummy_value()
