"""What the words for windows of pixels compile to: those of pooling where channels are innermost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from numbaconv.simd.code import Code, Tile, keep_rolled, not_negative, pointer_of
from numbaconv.simd.words import deal, peak, restore


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
