"""Numba's type of a tile, and what its instructions are made of."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

from numbaconv.simd.cpu import FUSED, VECTOR_BYTES


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


def not_negative(builder: Any, count: Any) -> Any:
    return builder.select(builder.icmp_signed(">", count, count.type(0)), count, count.type(0))


def pointer_of(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """The address of an element of a flat array."""
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def keep_rolled(builder: Any) -> None:
    """Stop LLVM from copying the loop around this place: it would cost time to compile, and a tile its registers."""
    nothing = ir.FunctionType(ir.VoidType(), [])
    builder.asm(nothing, "", "", [], side_effect=True).attributes.add("convergent")


class Code:
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

    def places(self, first: Any, pitch: Any, apart: Any) -> list[list[Any]]:
        """The addresses of a tile's vectors in memory, row by row."""
        rows = [self.pointer(first, p, pitch) for p in range(self.tile.rows)]
        if self.tile.vectors <= 2:
            return [[self.pointer(row, v, apart) for v in range(self.tile.vectors)] for row in rows]
        return [self.column(row, apart, self.tile.vectors) for row in rows]

    def column(self, first: Any, apart: Any, rows: int) -> list[Any]:
        """The addresses of some rows, as few registers can hold them.

        LLVM would count up every one of them in a register of its own. So the address of each fourth row is hidden from
        it; those between are written as that one plus a register, which instructions can add themselves. A distance
        that is known when this is compiled is a part of the instruction.
        """
        if isinstance(apart, ir.Constant):
            return [self.pointer(first, p, apart) for p in range(rows)]
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

    def load_integers(self, pointer: Any, vector: ir.VectorType, mask: Any) -> Any:
        """As many integers as a vector has lanes; those that ``mask`` leaves out, if there is one, are not read."""
        place = self.builder.bitcast(pointer, vector.as_pointer())
        align = vector.element.width // 8
        if mask is None:
            return self.builder.load(place, align=align)
        name = f"llvm.masked.load.v{self.tile.lanes}i{vector.element.width}.p0"
        arguments = [place, ir.IntType(32)(align), mask, ir.Constant(vector, None)]
        signature = ir.FunctionType(vector, [argument.type for argument in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, signature, name), arguments)

    def store_integers(self, vector: Any, pointer: Any, mask: Any) -> None:
        """Store as many integers; but for those that ``mask`` leaves out, if there is one."""
        kind = vector.type
        place, align = self.builder.bitcast(pointer, kind.as_pointer()), kind.element.width // 8
        if mask is None:
            self.builder.store(vector, place, align=align)
            return
        arguments = [vector, place, ir.IntType(32)(align), mask]
        signature = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        name = f"llvm.masked.store.v{self.tile.lanes}i{kind.element.width}.p0"
        self.builder.call(cgutils.get_or_insert_function(self.builder.module, signature, name), arguments)

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
        return self.call(FUSED, self.vector, [a, b, c])
