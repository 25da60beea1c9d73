"""Plans with lanes along the images of a batch: those of :mod:`numbaconv.kernels.images`."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from numbaconv import simd
from numbaconv.kernels.images import IMAGES, correlate_images
from numbaconv.kernels.tiles import HEIGHTS, TALL
from numbaconv.kernels.weight_images import ROWS, TAPS, WEIGHT_IMAGES, weight_gradient_images
from numbaconv.plan import channels, common, planes
from numbaconv.plan.axes import Axis, Correlation, Side, reach
from numbaconv.plan.common import Plan, round_up, table

#: Bytes that the turned rows of a task should stay below, so that they stay in the L2 cache; and may not exceed.
TURNED_BYTES, MOST_BYTES = 384 * 1024, 1536 * 1024
#: Pieces of work that a large call is cut into: fewer than elsewhere, for every cut turns some rows twice.
TASKS = 8
#: The most pixels along an axis, for each has an entry in a table.
MOST_PIXELS = 512
#: So many partial sums a weight gradient has at most, and so many must fit into the bytes that they may take.
PARTS, FEWEST_PARTS = 8, 4
#: Times that a step of a weight gradient takes longer than its multiply-adds, for it loads much. What it takes to begin
#: a row of such steps, to begin to turn a row, and to sum up the lanes of a weight.
READING, LINE_COST, ROW_COST, SUM_COST = 1.2, 25, 100, 20
#: What turning a vector takes, and a round of the loops around the innermost; to begin a tile and to write it.
TURN_COST, ROUND_COST, TILE_COST = 10, 4, 16
#: The same for what is read and written where the images of a block compete for few places of the first cache.
CROWDED_READ_COST, CROWDED_WRITE_COST = 22, 45
#: Bytes after which the places of the first cache repeat, how many lines find a place there, and bytes of images that
#: the second cache makes up for it.
PERIOD, WAYS, SMALL_BYTES = 4096, 8, 256 * 1024


class Turned(NamedTuple):
    """How an image lies in memory, as pieces that are contiguous from row to row; and how it does when turned.

    Turned, an element is one of each image of the block. The fields are those of ``kernels.images.TURNED``.
    """

    n: int  # elements from an image to the next
    pieces: int
    step: int  # elements from a piece to the next
    row: int  # elements of a row of a piece
    piece: int  # turned elements from a piece, channel, row and column to the next
    c: int
    h: int
    w: int

    @classmethod
    def of(cls, side: Side, rows: int, width: int, zeros: int = 0) -> Turned:
        """For so many rows, each with so many zeros around it, and images of a block."""
        C, H, W, layout = side
        line = (W + zeros) * width
        if layout == "NCHW":
            return cls(C * H * W, C, H * W, W, rows * line, rows * line, line, width)
        return cls(C * H * W, 1, 0, W * C, rows * line * C, width, line * C, C * width)

    def named(self, name: str) -> dict[str, int]:
        """As a kernel's plan names them."""
        return {f"{name}_{field}": value for field, value in self._asdict().items()}


class Reads(NamedTuple):
    """What the pixels along an axis read, and the order in which it is summed."""

    taps: list[int]  # those of a phase, one after the other
    apart: int  # source pixels from what a tap of a phase reads to what the next one does
    pixels: list[tuple[int, int, int]]  # for each: the source pixel and the number of its first tap, and how many taps


def cost(work: Correlation) -> float:
    """What a correlation takes in this form."""
    lanes = simd.lanes(work.dtype)
    width, blocks = _blocks(work, lanes)
    vectors = width // lanes
    if max(work.target.H, work.target.W) > MOST_PIXELS or _rows_that_fit(work, width, MOST_BYTES) < 1:
        return float("inf")
    if _by_channel(work) and any(height == 1 for _, height, _ in planes.rows_of(work.OCG)):
        return float("inf")  # there is no kernel that sums in the order of that one
    rows, columns = _axes(work)
    bands = _bands(work, rows, width, blocks)
    taps = [sum(count for *_, count in axis.pixels) for axis in (rows, columns)]
    pixels = work.target.H * work.target.W
    rounds = work.ICG if not _by_channel(work) and _by_row(work) else 1  # of a kernel row
    total = 0.0
    for _, height, _ in _tiles(work.OCG, vectors):
        total += taps[0] * taps[1] * work.ICG * _time(height, vectors)
        total += taps[0] * work.target.W * ROUND_COST * rounds + pixels * (TILE_COST + height * vectors)
    reading = work.source.C * work.source.W * sum(high for *_, high in bands)
    writing = work.target.C * pixels
    turning = reading * common.READ_COST if work.source.layout == "NCHW" else 0
    turning += reading * (CROWDED_READ_COST if _crowded(work.source, width, work.dtype) else TURN_COST)
    turning += writing * (CROWDED_WRITE_COST if _crowded(work.target, width, work.dtype) else TURN_COST)
    return blocks * (total * work.g.G + turning * vectors)


def _pieces(side: Side) -> int:
    """Of an image, those that are contiguous from row to row: planes of channels, or all of it."""
    return side.C if side.layout == "NCHW" else 1


def _crowded(side: Side, width: int, dtype: np.dtype) -> bool:
    """Whether images lie so far apart that their elements of one place compete for few places of the first cache."""
    image = side.C * side.H * side.W * dtype.itemsize
    return width * image > SMALL_BYTES and width * math.gcd(image, PERIOD) > WAYS * PERIOD


def weight_cost(work: Correlation) -> float:
    """What a weight gradient takes in this form."""
    g, lanes = work.g, simd.lanes(work.dtype)
    if max(g.OH, g.OW, *_margins(work)) > MOST_PIXELS or _rows_that_fit(work, lanes, MOST_BYTES) < 1:
        return float("inf")
    if g.G * _sums(work, lanes) * FEWEST_PARTS > _room(work.dtype):
        return float("inf")
    units = _units(work, lanes)
    rows = _rows(work)
    met = sum(last - first for _, first, last, _ in rows)
    total = 0.0
    for _, _, _, taps in _weight_tiles(work):
        time = max(ROWS[taps] * taps, 8) * READING
        total += -(-g.N // lanes) * met * work.ICG * (g.OW * time + LINE_COST)
        total += len(units) * len(rows) * work.ICG * (common.TILE_COST + 2 * time)
    read = CROWDED_READ_COST if _crowded(work.source, lanes, work.dtype) else TURN_COST
    turning = sum(high for *_, high in units) * (work.source.C * g.IW * read + _pieces(work.source) * ROW_COST)
    read = CROWDED_READ_COST if _crowded(work.target, lanes, work.dtype) else TURN_COST
    turning += sum(count for _, _, count, *_ in units) * g.OC * g.OW * read
    return total * g.G + turning + g.OC * g.ICG * g.KH * g.KW * SUM_COST


def plan(work: Correlation) -> Plan:
    """The plan of a forward pass or an input gradient."""
    g, source, target, ICG = work.g, work.source, work.target, work.ICG
    lanes = simd.lanes(work.dtype)
    width, blocks = _blocks(work, lanes)
    rows, columns = _axes(work)
    bands = _bands(work, rows, width, blocks)
    x = Turned.of(source, max(high for *_, high in bands), width)
    y = Turned.of(target, max(count for _, count, *_ in bands), width)
    tiles = _tiles(work.OCG, width // lanes)
    heights = sum(height for _, height, _ in tiles)

    one, channel, row, column = _filter(work)
    KH, KW = len(rows.taps), len(columns.taps)
    by_row, by_column, by_channel = (
        np.array(numbers) * step for numbers, step in ((rows.taps, row), (columns.taps, column), (range(ICG), channel))
    )
    b_row, b_column = rows.apart * x.h, columns.apart * x.w
    if _by_channel(work):
        steps = by_channel[:, None, None] + by_row[:, None] + by_column
        a_row, a_column = KW, 1
        a_loops, b_loops = (KH * KW, KW, 1), (x.c, b_row, b_column)
        row_rounds = [(ICG, count) for *_, count in rows.pixels]
        column_rounds = [(1, count) for *_, count in columns.pixels]
    elif _by_row(work):
        steps = by_row[:, None, None] + by_channel[:, None] + by_column
        a_row, a_column = KW * ICG, 1
        a_loops, b_loops = (a_row, KW, 1), (b_row, x.c, b_column)
        row_rounds = [(count, 1) for *_, count in rows.pixels]
        column_rounds = [(ICG, count) for *_, count in columns.pixels]
    else:
        steps = by_row[:, None, None] + by_column[:, None] + by_channel
        a_row, a_column = KW * ICG, ICG
        a_loops, b_loops = (a_row, ICG, 1), (b_row, b_column, x.c)
        row_rounds = [(count, 1) for *_, count in rows.pixels]
        one_line = x.c * ICG == b_column  # the channels of a tap are followed by those of the next
        column_rounds = [(1, count * ICG) if one_line else (count, ICG) for *_, count in columns.pixels]
    stage = round_up(x.pieces * x.piece, lanes)
    values = dict(
        N=g.N, G=g.G, ICG=ICG, OCG=work.OCG, W=target.W, **x.named("x"), **y.named("y"),
        w_group=g.OCG * g.ICG * g.KH * g.KW, w_row=one, joined=_joined(steps.ravel()), heights=heights, lanes=lanes,
        width=width, slabs=round_up(g.G * heights * steps.size, lanes),
        own=stage + y.pieces * y.piece + TALL * y.c, stage=stage, a_row=a_row, a_column=a_column,
        a_outer=a_loops[0], b_outer=b_loops[0], a_middle=a_loops[1], b_middle=b_loops[1], a_inner=a_loops[2],
        b_inner=b_loops[2], relu=int(work.relu), tasks=blocks * len(bands),
    )  # fmt: skip
    tables = (
        table(steps.ravel(), 0),
        table(bands, 4),
        table([(*pixel[:2], *rounds) for pixel, rounds in zip(rows.pixels, row_rounds, strict=True)], 4),
        table([(*pixel[:2], *rounds) for pixel, rounds in zip(columns.pixels, column_rounds, strict=True)], 4),
        table(tiles, 3),
    )
    return common.plan(correlate_images, IMAGES, values, tables, work, False, False, (g.G, heights))


def weight_plan(work: Correlation) -> Plan:
    """The plan of a weight gradient."""
    g, lanes = work.g, simd.lanes(work.dtype)
    units, rows = _units(work, lanes), _rows(work)
    before, after = _margins(work)
    x = Turned.of(work.source, max(high for *_, high in units), lanes, before + after)
    z = Turned.of(work.target, max(count for _, _, count, *_ in units), lanes)
    block = _sums(work, lanes)
    parts = common.shareable(max(1, min(PARTS, len(units), _room(work.dtype) // max(1, g.G * block))))
    gradient = round_up(x.pieces * x.piece, lanes)
    one, channel, row, column = _filter(work)
    columns = work.columns[0].taps
    tap_w = columns[1][1] - columns[0][1] if len(columns) > 1 else 0
    summed = round_up(max(rows * taps for taps, rows in ROWS.items()), lanes)
    tiles, sums = [], 0
    for tile in _weight_tiles(work):
        tiles.append((*tile, sums))
        sums += ROWS[tile[3]] * tile[3] * len(rows) * work.ICG * lanes
    values = dict(
        N=g.N, G=g.G, ICG=g.ICG, OCG=g.OCG, **x.named("x"), **z.named("z"), w_group=g.OCG * one, w_row=one,
        w_channel=channel, lanes=lanes, block=block, parts=parts, slabs=parts * g.G * block,
        own=max(gradient + z.pieces * z.piece + max(ROWS.values()) * z.c, lanes * lanes + summed), gradient=gradient,
        left=before, columns=g.OW, in_h=g.SH, in_w=g.SW, tap_w=tap_w, tasks=parts,
    )  # fmt: skip
    tables = (
        table(units, 5),
        table([(kh * row, *met) for kh, *met in rows], 4),
        table([(kw * column, offset + before) for kw, offset in columns], 2),
        table(tiles, 5),
    )
    fill = len(rows) * len(columns) < g.KH * g.KW
    return common.plan(weight_gradient_images, WEIGHT_IMAGES, values, tables, work, fill, True)


def _margins(work: Correlation) -> tuple[int, int]:
    """Columns that are read before the first of an image, and behind the last."""
    left, span = reach(work.columns)
    return max(0, -left), max(0, left + (work.g.OW - 1) * work.g.SW + span - work.g.IW)


def _weight_tiles(work: Correlation) -> list[tuple[int, int, int, int]]:
    """Tiles of the sums: first output channel, how many of the tile's exist; first tap of a row, how many taps."""
    tiles, first = [], 0
    columns = len(work.columns[0].taps)
    while first < columns:
        taps = next(taps for taps in TAPS if taps <= columns - first)
        for channel in range(0, work.OCG, ROWS[taps]):
            tiles.append((channel, min(ROWS[taps], work.OCG - channel), first, taps))
        first += taps
    return tiles


def _sums(work: Correlation, lanes: int) -> int:
    """Elements of the sums of a group: of each weight a vector."""
    sums = sum(ROWS[taps] * taps for *_, taps in _weight_tiles(work))
    return sums * len(work.rows[0].taps) * work.ICG * lanes


def _room(dtype: np.dtype) -> int:
    """How many elements all partial sums may have together."""
    return 2 * common.PARTS_BYTES // dtype.itemsize


def _rows(work: Correlation) -> list[tuple[int, int, int, int]]:
    """The taps along rows: from which to which target row each meets the source, and what it reads for row 0."""
    (axis,), step, size = work.rows, work.step[0], work.source.H
    return [
        (k, max(0, -(offset // step)), min(axis.pixels, (size - 1 - offset) // step + 1), offset)
        for k, offset in axis.taps
    ]


def _units(work: Correlation, lanes: int) -> list[tuple[int, int, int, int, int]]:
    """The bands of all blocks of images: the first image, and the band."""
    blocks = -(-work.g.N // lanes)
    bands = _bands(work, _axes(work)[0], lanes, blocks)
    return [(block * lanes, *band) for block in range(blocks) for band in bands]


def _blocks(work: Correlation, lanes: int) -> tuple[int, int]:
    """How many images are taken together, and how often."""
    width = min(2, -(-work.g.N // lanes)) * lanes
    return width, -(-work.g.N // width)


def _time(height: int, vectors: int) -> float:
    """Of a step of a tile: a multiply-add for each of its vectors, but never less than their latency allows."""
    return max(height * vectors, 8) * (1.0 if vectors == 2 else 1.2)


def _tiles(count: int, vectors: int) -> list[tuple[int, int, int]]:
    """Tiles that cover a group's target channels: (first channel, height, channels that exist)."""
    return common.cover(count, {height: _time(height, vectors) + 1 for height in HEIGHTS})


def _by_channel(work: Correlation) -> bool:
    """Whether to sum channel by channel: as the form does that computes a single image.

    So a batch has the bits of its images.
    """
    return planes.cost(work) < channels.cost(work)


def _by_row(work: Correlation) -> bool:
    """Where the sum is not channel by channel: whether it is so in each kernel row, or else tap by tap."""
    return len(channels.joined_taps(work)) > 1


def _axes(work: Correlation) -> tuple[Reads, Reads]:
    """What rows and columns of the target read."""
    backwards = not work.forward and _by_channel(work)
    return (
        _reads(work.rows, work.step[0], work.stride[0], work.source.H, work.target.H, backwards),
        _reads(work.columns, work.step[1], work.stride[1], work.source.W, work.target.W, backwards),
    )


def _reads(phases: tuple[Axis, ...], step: int, stride: int, source: int, target: int, backwards: bool) -> Reads:
    """What the pixels of an axis read, from the first source pixel to the last, or the other way round."""
    taps: list[int] = []
    pixels = [(0, 0, 0)] * target
    apart = 0
    for phase in phases:
        offsets = [offset for _, offset in phase.taps]
        for before, after in pairwise(offsets):
            apart = before - after if backwards else after - before  # the same for all phases
        for q in range(phase.pixels):
            first, last = bisect_left(offsets, -q * step), bisect_left(offsets, source - q * step)
            if first < last:
                tap, number = (last - 1, len(offsets) - last) if backwards else (first, first)
                pixels[phase.first + q * stride] = q * step + offsets[tap], len(taps) + number, last - first
        taps += [k for k, _ in (reversed(phase.taps) if backwards else phase.taps)]
    return Reads(taps, apart, pixels)


def _rows_that_fit(work: Correlation, width: int, most: int) -> int:
    """Target rows, together with the source rows that they read, that take no more than so many bytes when turned."""
    source, target = work.source, work.target
    read, written = (side.C * side.W * width * work.dtype.itemsize for side in (source, target))
    span = max((taps[-1][1] - taps[0][1] for _, _, taps in work.rows if taps), default=0) + 1
    per_row = written + read * work.step[0] // work.stride[0]
    return int((most - span * read) // max(1, per_row))


def _bands(work: Correlation, rows: Reads, width: int, blocks: int) -> list[tuple[int, int, int, int]]:
    """Bands of target rows: the first and how many; the first source row that they read, and how many."""
    H = work.target.H
    cuts = 1 if work.g.flops < common.SERIAL_FLOPS else -(-TASKS // blocks)
    most = max(1, min(-(-H // cuts), _rows_that_fit(work, width, TURNED_BYTES)))
    cuts = -(-H // most)
    bands = []
    for k in range(cuts):
        first, last = k * H // cuts, (k + 1) * H // cuts
        read = [row for row, _, count in rows.pixels[first:last] if count]
        read += [row + (count - 1) * rows.apart for row, _, count in rows.pixels[first:last] if count]
        top = min(read, default=0)
        bands.append((first, last - first, top, max(read, default=-1) - top + 1))
    return bands


def _filter(work: Correlation) -> tuple[int, int, int, int]:
    """Elements of the weight from a target channel, a source channel, a row and a column of a filter to the next."""
    g = work.g
    one = g.ICG * g.KH * g.KW
    channel, row, column = (g.KH * g.KW, g.KW, 1) if g.layout == "NCHW" else (1, g.KW * g.ICG, g.ICG)
    return (one, channel, row, column) if work.forward else (channel, one, row, column)


def _joined(steps: np.ndarray) -> int:
    """How many steps at a time have weights that follow each other: all of them, or one."""
    return max(1, len(steps)) if (np.diff(steps) == 1).all() else 1
