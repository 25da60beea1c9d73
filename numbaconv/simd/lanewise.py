"""What the words compile to that multiply vectors lane by lane, and load those once which several rows take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from numbaconv.simd.code import Code, Tile, keep_rolled, pointer_of
from numbaconv.simd.words import hadamard, slide, slide_within, stencil, stencil_within, sweep


@type_callable(hadamard)
def _type_hadamard(context: Any) -> Callable:
    return lambda tile, a, i, pitch, b, j: tile


@type_callable(slide)
def _type_slide(context: Any) -> Callable:
    def typed(
        tile: Any, a: Any, i: Any, pitch: Any, b: Any, j: Any, b_pitch: Any, taps: Any, rows: Any, along: Any
    ) -> Any:
        return _if_literal(tile, taps, rows, along)

    return typed


@type_callable(slide_within)
def _type_slide_within(context: Any) -> Callable:
    def typed(
        tile: Any, a: Any, i: Any, pitch: Any, b: Any, j: Any, b_pitch: Any, taps: Any, rows: Any, along: Any,
        low: Any, high: Any, count: Any, zero: Any, nothing: Any,
    ) -> Any:  # fmt: skip
        return _if_literal(tile, taps, rows, along)

    return typed


@type_callable(stencil)
def _type_stencil(context: Any) -> Callable:
    def typed(
        tile: Any, a: Any, i: Any, across: Any, tap: Any, line: Any, b: Any, j: Any, b_tap: Any, b_line: Any,
        lines: Any, taps: Any, shared: Any, apart: Any,
    ) -> Any:  # fmt: skip
        return _if_literal(tile, shared, apart)

    return typed


@type_callable(stencil_within)
def _type_stencil_within(context: Any) -> Callable:
    def typed(
        tile: Any, a: Any, i: Any, across: Any, tap: Any, line: Any, b: Any, j: Any, b_tap: Any, b_line: Any,
        lines: Any, taps: Any, shared: Any, apart: Any, low: Any, high: Any, nothing: Any,
    ) -> Any:  # fmt: skip
        return _if_literal(tile, shared, apart)

    return typed


def _if_literal(tile: Any, *sizes: Any) -> Any:
    """None, "not like this", until Numba offers the sizes as literals."""
    return tile if all(isinstance(size, types.IntegerLiteral) for size in sizes) else None


@type_callable(sweep)
def _type_sweep(context: Any) -> Callable:
    return lambda tile, a, i, pitch, b, j, b_pitch, taps: tile if isinstance(taps, types.IntegerLiteral) else None


@lower_builtin(hadamard, Tile, types.Array, types.Integer, types.Integer, types.Array, types.Integer)
def _lower_hadamard(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, a, i, pitch, b, j = args
    code = Code(context, builder, sig.args[0])
    left, right = pointer_of(context, builder, sig.args[1], a, i), pointer_of(context, builder, sig.args[4], b, j)
    keep_rolled(builder)
    apart = ir.Constant(ir.IntType(64), code.tile.lanes)
    weights = [code.load(code.pointer(right, v, apart)) for v in range(code.tile.vectors)]
    here = code.column(left, pitch, code.tile.rows)
    result = []
    for p, row in enumerate(code.rows(tile)):
        values = [code.load(code.pointer(here[p], v, apart)) for v in range(code.tile.vectors)]
        result += [code.fma(*factors) for factors in zip(values, weights, row, strict=True)]
    return code.tile_of(result)


@lower_builtin(slide, Tile, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 5)
@lower_builtin(
    slide_within, Tile, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 8, types.Array, types.Integer
)
def _lower_slide(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, a, i, pitch, b, j, b_pitch = args[:7]
    taps, rows, along = (size.literal_value for size in sig.args[7:10])
    code = Code(context, builder, sig.args[0])
    left, right = pointer_of(context, builder, sig.args[1], a, i), pointer_of(context, builder, sig.args[4], b, j)
    keep_rolled(builder)
    places, within = [code.pointer(right, k, b_pitch) for k in range(taps)], None
    if len(args) > 10:
        low, high, count, zero, nothing = args[10:]
        within = _Within(code, low, high, pointer_of(context, builder, sig.args[13], zero, nothing))
        exist = [builder.icmp_signed(">", count, count.type(k)) for k in range(taps)]
        places = [builder.select(*choice, within.nothing) for choice in zip(exist, places, strict=True)]
    return _shared(code, tile, left, pitch, [code.load(place) for place in places], rows, along, within)


@lower_builtin(stencil, Tile, types.Array, *[types.Integer] * 4, types.Array, *[types.Integer] * 7)
@lower_builtin(stencil_within, Tile, types.Array, *[types.Integer] * 4, types.Array, *[types.Integer] * 10)
def _lower_stencil(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, a, i, across, tap, line, b, j, b_tap, b_line, lines, taps = args[:12]
    shared, apart = (size.literal_value for size in sig.args[12:14])
    code, within = Code(context, builder, sig.args[0]), None
    left, right = pointer_of(context, builder, sig.args[1], a, i), pointer_of(context, builder, sig.args[6], b, j)
    if len(args) > 14:
        low, high, nothing = args[14:]
        within = _Within(code, low, high, pointer_of(context, builder, sig.args[6], b, nothing))
    sums = cgutils.alloca_once_value(builder, tile)
    with _lines(code, left, right, line, b_line, lines) as (here, there):
        if shared:
            weights = [code.load(code.pointer(there, k, b_tap)) for k in range(shared)]
            builder.store(_shared(code, builder.load(sums), here, tap, weights, apart, 1, within), sums)
        else:
            with cgutils.for_range(builder, taps) as k:
                keep_rolled(builder)
                weight = code.load(builder.gep(there, [builder.mul(k.index, b_tap)]))
                offset = builder.mul(k.index, tap)
                places = code.column(builder.gep(here, [offset]), across, code.tile.rows)
                if within is not None:
                    places = [within.place(p, across, offset, place) for p, place in enumerate(places)]
                rows = code.rows(builder.load(sums))
                products = [code.fma(code.load(place), weight, row[0]) for place, row in zip(places, rows, strict=True)]
                builder.store(code.tile_of(products), sums)
    return builder.load(sums)


class _Within:
    """Which vectors exist, by how many elements after the first they begin, and where to read zeros instead."""

    def __init__(self, code: Code, low: Any, high: Any, nothing: Any) -> None:
        self.builder, self.low, self.high, self.nothing = code.builder, low, high, nothing

    def place(self, number: int, apart: Any, offset: Any, place: Any) -> Any:
        """``place``, which lies ``number * apart + offset`` elements after the first, if there is something."""
        there = self.builder.add(self.builder.mul(apart, apart.type(number)), offset)
        behind = self.builder.icmp_signed(">=", there, self.low)
        exists = self.builder.and_(behind, self.builder.icmp_signed("<", there, self.high))
        return self.builder.select(exists, place, self.nothing)


@contextmanager
def _lines(code: Code, left: Any, right: Any, line: Any, b_line: Any, lines: Any) -> Iterator[tuple[Any, Any]]:
    """A loop over the lines of a kernel: where what it reads begins, on both sides."""
    with cgutils.for_range(code.builder, lines) as loop:
        keep_rolled(code.builder)
        here, there = (code.builder.mul(loop.index, step) for step in (line, b_line))
        yield code.builder.gep(left, [here]), code.builder.gep(right, [there])


@lower_builtin(sweep, Tile, types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 3)
def _lower_sweep(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    tile, a, i, pitch, b, j, b_pitch = args[:7]
    code = Code(context, builder, sig.args[0])
    left, right = pointer_of(context, builder, sig.args[1], a, i), pointer_of(context, builder, sig.args[4], b, j)
    keep_rolled(builder)
    weights = [code.broadcast(code.pointer(right, k, b_pitch)) for k in range(sig.args[7].literal_value)]
    return _shared(code, tile, left, pitch, weights, 1, 1, None)


def _shared(
    code: Code, tile: Any, left: Any, pitch: Any, weights: list[Any], rows: int, along: int, within: _Within | None
) -> Any:
    """A tile plus the products of the weights and vectors, each of which is loaded once for all rows that take it."""
    taps = len(weights)
    sums = [row[0] for row in code.rows(tile)]
    count = (len(sums) - 1) * rows + (taps - 1) * along + 1
    for position, here in enumerate(code.column(left, pitch, count)):
        pairs = [(p, k) for p in range(len(sums)) for k in range(taps) if p * rows + k * along == position]
        if pairs:
            place = here if within is None else within.place(position, pitch, pitch.type(0), here)
            vector = code.load(place)
            for p, k in pairs:
                sums[p] = code.fma(vector, weights[k], sums[p])
    return code.tile_of(sums)
