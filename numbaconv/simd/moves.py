"""What the words that move memory compile to."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from numbaconv.simd.code import Code, Tile, keep_rolled, not_negative, pointer_of
from numbaconv.simd.cpu import CACHE_LINE
from numbaconv.simd.words import clear, copy, deal, move, narrow, peak, prefetch, restore, transpose, widen


@type_callable(move)
@type_callable(narrow)
@type_callable(widen)
def _type_move(context: Any) -> Callable:
    return lambda to, i, i_pitch, source, j, j_pitch, rows, count: types.none


@type_callable(deal)
def _type_deal(context: Any) -> Callable:
    return lambda to, i, i_pitch, source, j, j_pitch, marks, mark, rows, count: types.none


@type_callable(peak)
def _type_peak(context: Any) -> Callable:
    def typer(
        to, marks, i, i_pitch, source, j, j_pitch, rows, row_pitch, columns, column_pitch, mark, mark_pitch, windows,
        count, nobody,
    ):  # fmt: skip
        return types.none

    return typer


@type_callable(restore)
def _type_restore(context: Any) -> Callable:
    def typer(
        to, i, i_pitch, rows, row_pitch, columns, column_pitch, source, marks, j, j_pitch, windows, count
    ):  # fmt: skip
        return types.none

    return typer


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


@lower_builtin(
    deal, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 3
)
def _lower_deal(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Whole vectors, all rows of each, and what is left over."""
    to, i, i_pitch, source, j, j_pitch, marks, mark, rows, count = args
    code = Code(context, builder, Tile(sig.args[0].dtype, 1, 1))
    arrays = ((sig.args[0], to, i), (sig.args[3], source, j), (sig.args[6], marks, j))
    left, right, marked = (pointer_of(context, builder, *array) for array in arrays)
    numbers = ir.VectorType(context.get_value_type(sig.args[6].dtype), code.tile.lanes)
    wanted = code.splat(context.cast(builder, mark, sig.args[7], sig.args[6].dtype), numbers)

    def deal_rows(start: Any, mask: Any) -> None:
        with cgutils.for_range(builder, rows) as down:
            keep_rolled(builder)
            there = builder.gep(left, [builder.add(builder.mul(down.index, i_pitch), start)])
            here = builder.add(builder.mul(down.index, j_pitch), start)
            found = code.load_integers(builder.gep(marked, [here]), numbers, mask)
            chosen = builder.icmp_signed("==", found, wanted)
            chosen = chosen if mask is None else builder.and_(chosen, mask)
            value, total = code.load_masked(builder.gep(right, [here]), chosen), code.load_masked(there, chosen)
            code.store_masked(builder.fadd(total, value), there, chosen)

    _each_vector(code, count, deal_rows)
    return context.get_dummy_value()


@lower_builtin(peak, *[types.Array] * 2, *[types.Integer] * 2, types.Array, *[types.Integer] * 11)
def _lower_peak(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    to, marks, i, i_pitch, source, j, j_pitch, rows, row_pitch, columns, column_pitch, *rest = args
    mark, mark_pitch, windows, count, nobody = rest
    code = Code(context, builder, Tile(sig.args[0].dtype, 1, 1))
    arrays = ((sig.args[0], to, i), (sig.args[1], marks, i), (sig.args[4], source, j))
    left, marked, right = (pointer_of(context, builder, *array) for array in arrays)
    numbers = ir.VectorType(context.get_value_type(sig.args[1].dtype), code.tile.lanes)
    zero, least = (ir.Constant(code.vector, [value] * code.tile.lanes) for value in (0.0, float("-inf")))
    best_place, tap_place = cgutils.alloca_once(builder, code.vector), cgutils.alloca_once(builder, numbers)
    shows = builder.icmp_signed(">=", nobody, nobody.type(0))

    def marks_of(number: Any) -> Any:
        short = builder.trunc(number, numbers.element) if numbers.element.width < number.type.width else number
        return code.splat(short, numbers)

    def compare(here: Any, mask: Any, r: Any, c: Any) -> None:
        place = builder.gep(here, [builder.add(builder.mul(r, row_pitch), builder.mul(c, column_pitch))])
        value = code.load(place) if mask is None else code.load_masked(place, mask)
        best = builder.load(best_place)
        larger, no_number = builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value)
        wins = builder.or_(larger, no_number)
        builder.store(builder.select(wins, value, best), best_place)
        tap = marks_of(builder.add(mark, builder.add(builder.mul(r, mark_pitch), c)))
        builder.store(builder.select(wins, tap, builder.load(tap_place)), tap_place)

    def window(there: Any, here: Any, mask: Any) -> None:
        builder.store(least, best_place)
        builder.store(marks_of(mark), tap_place)
        _each_tap(builder, rows, columns, lambda r, c: compare(here, mask, r, c))
        best, tap = builder.load(best_place), builder.load(tap_place)
        bits = ir.VectorType(ir.IntType(1), code.tile.lanes)
        above = builder.or_(builder.fcmp_ordered(">", best, zero), code.splat(builder.not_(shows), bits))
        low = builder.and_(builder.fcmp_ordered("<=", best, zero), code.splat(shows, bits))
        best, tap = builder.select(low, zero, best), builder.select(above, tap, marks_of(nobody))
        if mask is None:
            code.store(best, builder.gep(left, [there]))
        else:
            code.store_masked(best, builder.gep(left, [there]), mask)
        code.store_integers(tap, builder.gep(marked, [there]), mask)

    def vector(start: Any, mask: Any) -> None:
        with cgutils.for_range(builder, windows) as along:
            keep_rolled(builder)
            there = builder.add(builder.mul(along.index, i_pitch), start)
            window(there, builder.gep(right, [builder.add(builder.mul(along.index, j_pitch), start)]), mask)

    _each_vector(code, count, vector)
    return context.get_dummy_value()


@lower_builtin(restore, types.Array, *[types.Integer] * 6, *[types.Array] * 2, *[types.Integer] * 4)
def _lower_restore(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    to, i, i_pitch, rows, row_pitch, columns, column_pitch, source, marks, j, j_pitch, windows, count = args
    code = Code(context, builder, Tile(sig.args[0].dtype, 1, 1))
    arrays = ((sig.args[0], to, i), (sig.args[7], source, j), (sig.args[8], marks, j))
    left, right, marked = (pointer_of(context, builder, *array) for array in arrays)
    numbers = ir.VectorType(context.get_value_type(sig.args[8].dtype), code.tile.lanes)
    nothing = ir.Constant(code.vector, None)

    def vector(start: Any, mask: Any) -> None:
        with cgutils.for_range(builder, windows) as along:
            keep_rolled(builder)
            here = builder.add(builder.mul(along.index, j_pitch), start)
            value = builder.gep(right, [here])
            value = code.load(value) if mask is None else code.load_masked(value, mask)
            tap = code.load_integers(builder.gep(marked, [here]), numbers, mask)
            there = builder.gep(left, [builder.add(builder.mul(along.index, i_pitch), start)])

            def fill(r: Any, c: Any) -> None:
                number = builder.add(builder.mul(r, columns), c)
                number = builder.trunc(number, numbers.element) if numbers.element.width < 64 else number
                chosen = builder.icmp_signed("==", tap, code.splat(number, numbers))
                apart = builder.add(builder.mul(r, row_pitch), builder.mul(c, column_pitch))
                place, filled = builder.gep(there, [apart]), builder.select(chosen, value, nothing)
                if mask is None:
                    code.store(filled, place)
                else:
                    code.store_masked(filled, place, mask)

            _each_tap(builder, rows, columns, fill)

    _each_vector(code, count, vector)
    return context.get_dummy_value()


def _each_tap(builder: Any, rows: Any, columns: Any, visit: Callable[[Any, Any], None]) -> None:
    """Emit ``visit`` for every row and column of a window; without loops for the commonest, of 2 x 2."""
    two = rows.type(2)
    few = builder.and_(builder.icmp_signed("==", rows, two), builder.icmp_signed("==", columns, two))
    with builder.if_else(few) as (four, any_number):
        with four:
            for r, c in product(range(2), repeat=2):
                visit(rows.type(r), rows.type(c))
        with any_number, cgutils.for_range(builder, rows) as down, cgutils.for_range(builder, columns) as across:
            keep_rolled(builder)
            visit(down.index, across.index)


def _each_vector(code: Code, count: Any, vector: Callable[[Any, Any], None]) -> None:
    """Emit ``vector`` for whole vectors of so many elements, and with a mask for what is left over."""
    builder, lanes = code.builder, count.type(code.tile.lanes)
    whole = builder.sdiv(not_negative(builder, count), lanes)
    rest = builder.sub(count, builder.mul(whole, lanes))
    with cgutils.for_range(builder, whole) as across:
        vector(builder.mul(across.index, lanes), None)
    with builder.if_then(builder.icmp_signed(">", rest, rest.type(0))):
        vector(builder.mul(whole, lanes), code.mask(rest))


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
