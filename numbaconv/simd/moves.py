"""What the words that move memory compile to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from numbaconv.simd.code import Code, Tile, keep_rolled, not_negative, pointer_of
from numbaconv.simd.cpu import CACHE_LINE
from numbaconv.simd.words import clear, copy, move, narrow, prefetch, transpose, widen


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


@type_callable(prefetch)
def _type_prefetch(context: Any) -> Callable:
    return lambda array, start, count: types.none


@lower_builtin(prefetch, types.Array, types.Integer, types.Integer)
def _lower_prefetch(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    array, start, count = args
    line = count.type(CACHE_LINE * 8 // sig.args[0].dtype.bitwidth)
    first = pointer_of(context, builder, sig.args[0], array, start)
    byte, kind = ir.IntType(8).as_pointer(), ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [byte, kind, kind, kind])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    lines = builder.sdiv(builder.add(not_negative(builder, count), builder.sub(line, line.type(1))), line)
    with cgutils.for_range(builder, lines) as loop:
        keep_rolled(builder)
        here = builder.bitcast(builder.gep(first, [builder.mul(loop.index, line)]), byte)
        builder.call(function, [here, kind(0), kind(2), kind(1)])  # to be read, into the second cache, data
    return context.get_dummy_value()


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
    """Load the rows, shuffle them, store the columns. Few rows or columns share vectors, two in each."""
    to, i, i_pitch, source, j, j_pitch, rows, columns = args
    code = Code(context, builder, Tile(sig.args[0].dtype, 1, 1))
    left, right = pointer_of(context, builder, sig.args[0], to, i), pointer_of(context, builder, sig.args[3], source, j)
    all_, half = rows.type(code.tile.lanes), rows.type(code.tile.lanes // 2)
    whole = builder.and_(builder.icmp_signed("==", rows, all_), builder.icmp_signed("==", columns, all_))
    with builder.if_else(whole) as (full, part):
        with full:
            block = [code.load(code.pointer(right, r, j_pitch)) for r in range(code.tile.lanes)]
            for c, column in enumerate(_riffled(code, block, code.tile.lanes)):
                code.store(column, code.pointer(left, c, i_pitch))
        with part:
            from_, to_ = _Rows(code, right, j_pitch, rows, columns), _Rows(code, left, i_pitch, columns, rows)
            with builder.if_else(builder.icmp_signed("<=", rows, half)) as (few_rows, many):
                with few_rows:
                    to_.store_pairs(_riffled(code, from_.load(code.tile.lanes // 2), code.tile.lanes // 2))
                with many, builder.if_else(builder.icmp_signed("<=", columns, half)) as (few_columns, others):
                    with few_columns:
                        to_.store(_riffled(code, from_.load_pairs(), code.tile.lanes))
                    with others:
                        to_.store(_riffled(code, from_.load(code.tile.lanes), code.tile.lanes))
    return context.get_dummy_value()


class _Rows:
    """Rows of a block in memory, of which some exist, and some elements of each."""

    def __init__(self, code: Code, first: Any, pitch: Any, rows: Any, elements: Any) -> None:
        self.code, self.first, self.pitch, self.rows = code, first, pitch, rows
        self.inside = code.mask(elements)

    def load(self, count: int) -> list[Any]:
        """The first so many rows; zeros where nothing exists."""
        return [self.code.load_masked(*self._place(r)) for r in range(count)]

    def load_pairs(self) -> list[Any]:
        """All rows, two in a vector: the second in its upper half."""
        lanes = self.code.tile.lanes
        order = [*range(lanes // 2), *range(lanes, lanes + lanes // 2)]
        rows = self.load(lanes)
        return [self.code.shuffle(rows[r], rows[r + 1], order) for r in range(0, lanes, 2)]

    def store(self, vectors: list[Any]) -> None:
        """Write what exists of the rows."""
        for r, vector in enumerate(vectors):
            self.code.store_masked(vector, *self._place(r))

    def store_pairs(self, pairs: list[Any]) -> None:
        """The same for rows that come two in a vector."""
        builder, half = self.code.builder, self.code.tile.lanes // 2
        nothing = ir.Constant(self.inside.type, None)
        upper = self.code.shuffle(nothing, self.inside, [*range(half), *range(2 * half, 3 * half)])
        for r, pair in enumerate(pairs):
            self.code.store_masked(pair, *self._place(2 * r))
            here, mask = self._place(2 * r + 1, upper)
            self.code.store_masked(pair, builder.gep(here, [self.pitch.type(-half)]), mask)

    def _place(self, row: int, inside: Any = None) -> tuple[Any, Any]:
        """The address of a row, and which of its elements exist."""
        builder, inside = self.code.builder, self.inside if inside is None else inside
        exists = builder.icmp_signed(">", self.rows, self.rows.type(row))
        here = builder.select(exists, self.code.pointer(self.first, row, self.pitch), self.first)
        return here, builder.select(exists, inside, ir.Constant(inside.type, None))


def _riffled(code: Code, block: list[Any], times: int) -> list[Any]:
    """Vectors whose first half was riffled with the second, element by element, log2(times) times.

    Each time, one more bit of the numbers of rows and elements changes sides: in a square block, they are its columns
    in the end, and of half as many rows, two columns a vector. (Exchanging elements within 128 bits first, by
    unpacking, and then such pieces, takes as many instructions and was slower.)
    """
    lanes, half = code.tile.lanes, len(block) // 2
    low = [k // 2 + k % 2 * lanes for k in range(lanes)]
    for _ in range(times.bit_length() - 1):
        pairs = [(block[k], block[k + half]) for k in range(half)]
        block = [code.shuffle(a, b, [n + part for n in low]) for a, b in pairs for part in (0, lanes // 2)]
    return block


@lower_builtin(clear, types.Array, types.Integer, types.Integer)
def _lower_clear(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    to, start, count = args
    size = builder.mul(not_negative(builder, count), count.type(sig.args[0].dtype.bitwidth // 8))
    cgutils.memset(builder, pointer_of(context, builder, sig.args[0], to, start), size, 0)
    return context.get_dummy_value()
