"""Plans with lanes along channels: those of :mod:`numbaconv.kernels.correlation` and ``weight_gradient``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from numbaconv import simd
from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels.correlation import CORRELATION, KERNELS
from numbaconv.kernels.tiles import HEIGHTS, SINGLE, TALL, THREE, TRAIL_HEIGHTS
from numbaconv.kernels.weight_gradient import (
    FEW_ROWS,
    WEIGHT_GRADIENT,
    WINDOWS,
    weight_gradient,
    weight_gradient_pooled,
)
from numbaconv.plan import common
from numbaconv.plan.axes import FAR, Axis, Correlation, products, reach, stretch
from numbaconv.plan.common import Plan, band, round_up, table
from numbaconv.simd.words import Taps

#: Steps of a sum, at least, in the mean over the rows of a phase: fewer take as long, for their loops are left before
#: anybody expects it.
FEWEST = 16
#: To begin a row of pixels in a tile of a weight gradient.
RUN_COST = 14
#: To copy a pixel of a target whose channels do not fill a vector, and to pack one of its gradient.
COPY_COST, PACK_COST = 4, 14
#: Pixels of a band that stays in the L1 cache, at least: each tile adds its sums to those of the bands before.
BAND = 48
#: Blocks whose pixels need not be packed to be read: of more, those of one take too few of the cache's sets.
NEAR = 4
#: Tasks that a weight gradient is cut into at least: more than one for each part have to pack the same input.
LEAST = 8


class Blocking(NamedTuple):
    """How the target channels of a group are cut into blocks."""

    lanes: int  # of a vector
    width: int  # lanes of a block
    blocks: int  # of a group


class Filter(NamedTuple):
    """Elements from a group, lane, summed channel, row and column of the weight to the next."""

    group: int
    lane: int
    channel: int
    row: int
    column: int


def cost(work: Correlation) -> float:
    """What a correlation takes in this form."""
    g, cut = work.g, _blocking(work)
    each, joined = _way(work, cut)
    return g.N * (_sum_cost(each, cut, joined) * g.G + _turning(work, cut))


def joined_taps(work: Correlation) -> Taps:
    """Which taps of a kernel row are summed together. They are the innermost of the sum then, else channels are."""
    return _way(work, _blocking(work))[1]


def _sum_cost(work: Correlation, cut: Blocking, joined: Taps) -> float:
    """What the sums of a group take, where so many neighbouring taps are summed together."""
    total = 0.0
    alike = Counter((columns.pixels, len(columns.taps)) for columns in work.columns)
    for (vectors, blocks), ((pixels, taps), phases) in product(_shapes(work, cut), alike.items()):
        tiles = cover(pixels, vectors, _heights(vectors, joined))
        steps = taps * work.ICG
        sums = sum(
            max(products(phase, work.step[0], work.source.H) * steps, phase.pixels * FEWEST)
            for phase in work.rows if phase.taps
        )  # fmt: skip
        total += blocks * phases * sum(sums * _time(height, vectors, joined) for _, height, _ in tiles)
        total += blocks * phases * sum(phase.pixels for phase in work.rows) * len(tiles) * common.TILE_COST
    return total


def _way(work: Correlation, cut: Blocking) -> tuple[Correlation, Taps]:
    """Tap by tap, or three of a kernel row together, where each reads what the one before it reads a pixel further on.

    All blocks of channels have to be of one width then. What costs less is taken.
    """
    dealt = _dealt(work)
    even = cut.width == cut.lanes or (work.OCG - 1) % cut.width >= cut.lanes
    found = [[offset - columns.taps[0][1] for _, offset in columns.taps] for columns in dealt.columns]
    near = all(offsets == [k * dealt.step[1] for k in range(len(THREE))] for offsets in found)
    ways = [(work, SINGLE)] + [(dealt, THREE)] * (even and near and dealt.pixels[1] > 1)
    return min(ways, key=lambda way: _sum_cost(way[0], cut, way[1]))


def _dealt(work: Correlation) -> Correlation:
    """The same where taps lie some columns apart: so do the pixels of a phase, and each phase begins a column later.

    Only where channels are innermost, for it is slow to write to every second column of a plane.
    """
    single = len(work.columns) == 1 and len(work.columns[0].taps) > 1
    if not single or (work.step[1], work.stride[1]) != (1, 1) or work.target.layout == "NCHW":
        return work
    _, pixels, taps = work.columns[0]
    apart = taps[1][1] - taps[0][1]
    columns = [
        Axis(first, -(-(pixels - first) // apart), tuple([(tap, first + offset) for tap, offset in taps]))
        for first in range(min(apart, pixels))
    ]
    return work._replace(columns=tuple(columns), step=(work.step[0], apart), stride=(work.stride[0], apart))


def weight_cost(work: Correlation) -> float:
    """What a weight gradient takes in this form."""
    work = _turned_round(work)
    g, cut = work.g, _blocking(work)
    windows, taps, total = _windows(work)[1], len(work.rows[0].taps), 0.0
    rows = g.OH if _few(work) else products(work.rows[0], g.SH, g.IH) / max(1, taps)  # of a window
    for vectors, blocks in _shapes(work, cut):
        tiles, time = _window_tiles(work, vectors)
        total += blocks * windows * (rows * (g.OW * time + len(tiles) * RUN_COST) + len(tiles) * common.TILE_COST)
    return g.N * (total * g.G + _turning(work, cut, PACK_COST))


def _window_tiles(work: Correlation, vectors: int) -> tuple[list[tuple[int, int, int]], float]:
    """The tiles that cover the rows of a window of a weight gradient, and what a step of them takes."""
    few = _few(work)
    if few:
        return [(0, few, few)], few * vectors * (1.2 if FEW_ROWS[few] == 1 else 1.0)
    tiles = cover(_windows(work)[0] * work.g.ICG, vectors)
    return tiles, sum(_time(height, vectors) for _, height, _ in tiles)


def _few(work: Correlation) -> int:
    """The rows of a window of a weight gradient, if they are so few that three windows are summed together, else 0.

    Only where that takes no longer than tiles of a window by itself would: they may fit its rows better.
    """
    joined, windows = _windows(work)
    rows, vectors = joined * work.g.ICG, _blocking(work).width // simd.lanes(work.dtype)
    few = min((most for most in FEW_ROWS if rows <= most), default=0)
    pays = few * vectors <= sum(_time(height, vectors) for _, height, _ in cover(rows, vectors))
    return few if pays and windows % WINDOWS == 0 and windows > 0 else 0


def _turning(work: Correlation, cut: Blocking, copy_cost: float = COPY_COST) -> float:
    """What reading and writing images takes, beyond that of images whose channels are neighbours."""
    turned = [side.C * side.H * side.W for side in (work.source, work.target) if side.layout == "NCHW"]
    target = work.target
    staged = target.layout == "NHWC" and work.OCG % cut.lanes > 0  # of vectors that are not whole
    copied = target.H * target.W * work.g.G * copy_cost if staged else 0
    return sum(turned) / cut.lanes * common.TURN_COST + copied


def _windows(work: Correlation) -> tuple[int, int]:
    """Neighbouring taps of a kernel row make one window, where the tile's rows can run on from one to the next.

    How many taps a window has, and how many windows there are.
    """
    rows, columns = len(work.rows[0].taps), len(work.columns[0].taps)
    joined = max(1, columns) if work.g.DW == 1 else 1
    return joined, rows * -(-columns // joined)


def _shapes(work: Correlation, cut: Blocking) -> list[tuple[int, int]]:
    """The numbers of vectors of a group's blocks, and how many blocks have so many."""
    if cut.width == cut.lanes:
        return [(1, cut.blocks)]
    single = int((work.OCG - 1) % cut.width < cut.lanes)
    return [(2, cut.blocks - single), (1, single)]


def _time(height: int, vectors: int, joined: Taps = SINGLE) -> float:
    """Of a step of a tile: a multiply-add for each of its vectors, but never less than their latency allows."""
    slow = (1.0 if vectors == 2 else 1.2) if joined == SINGLE else (0.95 if height * vectors > 8 else 1.2)
    return max(height * vectors, 8) * slow


def plan(work: Correlation) -> Plan:
    """The plan of a forward pass or an input gradient."""
    cut, weight = _blocking(work), _filter(work)
    work, joined = _way(work, cut)
    g, dtype, source, target, step = work.g, work.dtype, work.source, work.target, work.step
    top, span = reach(work.rows)
    left, span_w = reach(work.columns)
    most_rows, most_columns = work.pixels
    line = stretch(most_columns, step[1], span_w)
    pixel = work.ICG  # elements of a slab's pixel
    vectors = cut.width // cut.lanes
    heights = _heights(vectors, joined)
    direct = _direct(work, (top, left), (span, span_w), vectors, heights)
    if direct:
        line = line._replace(columns=source.W)

    taps: dict[int, int] = {}  # where in a filter each lies, and its number among those that are packed
    runs: list[list[int]] = []
    phases: list[tuple[int, ...]] = []
    tiles: list[tuple[int, int, int]] = []
    for rows in work.rows:
        for columns in work.columns:
            first_run = len(runs)
            for kh, row in rows.taps:
                for number, (kw, column) in enumerate(columns.taps):
                    offset = ((row - top) * line.columns + column - left) * pixel
                    tap = taps.setdefault(kh * weight.row + kw * weight.column, len(taps))
                    if joined == SINGLE and len(runs) > first_run and runs[-1][0] + runs[-1][2] == offset:
                        runs[-1][2] += work.ICG  # this tap's pixels follow the last one's in memory
                        runs[-1][4] = row - top
                    elif number % len(joined) == 0:
                        runs.append([offset, tap * work.ICG * cut.width, work.ICG, row - top, row - top])
            first_tile = len(tiles)
            tiles += cover(columns.pixels, vectors, heights)
            ends = first_run, len(runs), first_tile, len(tiles)
            phases.append((rows.first, rows.pixels, columns.first, columns.pixels, *ends))

    block_size = len(taps) * work.ICG * cut.width
    near = common.NEAR_BYTES // max(1, block_size * dtype.itemsize)
    together = max(1, near) if target.layout == "NHWC" else 1  # planes are better written one after the other
    row, output_row = line.columns * pixel * dtype.itemsize, target.W * target.C
    if work.pooled is None:
        height = band(g, most_rows, g.N * g.G, step[0], span, row)
    else:
        height = band(g, most_rows, g.N, step[0], span, row, output_row * dtype.itemsize, common.BAND_BYTES)
    height = round_up(height, work.window_rows)
    bands = -(-most_rows // height)
    slab = 0 if direct else ((height - 1) * step[0] + span) * line.columns * pixel
    # The last tile of a row may hang over its end, and reads on from there.
    memory = common.Memory(cut.lanes)
    memory.add(slab + max(heights) * line.in_w * pixel + cut.width)
    stage, staged_rows = memory.add(max(heights) * cut.width), memory.add(height * output_row if work.pooled else 0)
    values = dict(
        G=g.G, ICG=work.ICG, OCG=work.OCG, IH=source.H, IW=source.W, OH=target.H,
        **source.strides("x"), **target.strides("y"),
        w_group=weight.group, w_lane=weight.lane, w_channel=weight.channel,
        lanes=cut.lanes, width=cut.width, blocks=cut.blocks,
        block_size=block_size, together=together, slabs=round_up(g.G * cut.blocks * block_size, cut.lanes),
        own=memory.size, stage=stage, rows=staged_rows, bands=bands, band=height, top=top, left=left, span=span,
        direct=int(direct), **line._asdict(), in_h=step[0], out_h=work.stride[0], out_w=work.stride[1],
        relu=int(work.relu), tasks=g.N * g.G * bands,
    )  # fmt: skip
    tables = (table(list(taps), 0), table(runs, 5), table(phases, 8), table(tiles, 3))
    kernel = KERNELS[joined, work.pooled is not None]
    return common.plan(kernel, CORRELATION, values, tables, work, work.fill, work.padded, (g.G, cut.blocks * cut.width))


def pools(work: Correlation) -> bool:
    """Whether a kernel of this form can pool what it gives, or take the gradient of what was pooled."""
    cut = _blocking(work)
    return work.forward and work.g.G == 1 and work.OCG % cut.lanes == 0 and cut.blocks <= NEAR


def _direct(
    work: Correlation, first: tuple[int, int], span: tuple[int, int], vectors: int, heights: tuple[int, ...]
) -> bool:
    """Whether the source can be read where it is.

    A tile that hangs over the end of a row would read on from there, and so beyond the end of the memory.
    """
    whole = all(height == exist for axis in work.columns for _, height, exist in cover(axis.pixels, vectors, heights))
    return _inside(work, first, span) and whole


def _inside(work: Correlation, first: tuple[int, int], span: tuple[int, int]) -> bool:
    """Whether the source lies as a slab does, and every pixel between those that are read is worth it, and inside."""
    inside = all(
        start >= 0 and start + (pixels - 1) * step + reached <= size
        for start, pixels, step, reached, size in zip(
            first, work.pixels, work.step, span, (work.source.H, work.source.W), strict=True
        )
    )
    near = work.step[1] <= FAR * span[1]
    return work.source.layout == "NHWC" and work.g.G == 1 and inside and near


def weight_plan(work: Correlation) -> Plan:
    """The plan of a weight gradient."""
    work = _turned_round(work)
    g, dtype = work.g, work.dtype
    rows, columns = work.rows[0], work.columns[0]
    cut, weight = _blocking(work), _filter(work)
    top, span = reach(work.rows)
    left, span_w = reach(work.columns)
    line = stretch(g.OW, g.SW, span_w)
    pixel = work.ICG  # elements of a slab's pixel

    joined, _ = _windows(work)
    few = _few(work)
    tiles = [(0, few, joined * g.ICG)] if few else cover(joined * g.ICG, cut.width // cut.lanes)
    direct = _inside(work, (top, left), (span, span_w)) and all(height == exist for _, height, exist in tiles)
    if direct:
        line = line._replace(columns=g.IW)
    # Where there are more taps, the gradient is read so often that it is worth packing, unless there are few blocks.
    whole = work.target.layout == "NHWC" and g.G == 1 and g.OC % cut.lanes == 0
    z_direct = whole and (g.KH * g.KW == 1 or cut.blocks <= NEAR) and not work.pooled
    by_pixels = z_direct or work.pooled is not None  # blocks of a pixel lie next to each other
    z_step = g.OC if by_pixels else cut.width
    window = tiles[-1][0] + tiles[-1][1]
    taps: list[tuple[int, int]] = []
    windows: list[tuple[int, int, int]] = []
    for kh, row in rows.taps:
        for number, (kw, column) in enumerate(columns.taps):
            if number % joined == 0:
                offset = ((row - top) * line.columns + column - left) * pixel
                windows.append((offset, len(windows) * window, row - top))
            taps.append((kh * weight.row + kw * weight.column, windows[-1][1] + number % joined * work.ICG))

    block_size = len(windows) * window * cut.width
    packed = g.G * cut.blocks * block_size
    row, block_row = line.columns * pixel * dtype.itemsize, g.OW * cut.width * dtype.itemsize
    height = _weight_band(g, span, row, block_row, cut.blocks, len(windows) // (WINDOWS if few else 1) * len(tiles))
    height = round_up(height, work.window_rows)
    bands = -(-g.OH // height)
    fit = common.PARTS_BYTES // max(1, packed * dtype.itemsize)
    parts = common.shareable(max(1, min(common.TASKS, g.N * bands, fit)))
    sums = parts * g.G
    enough = (n for n in range(1, cut.blocks) if sums * n >= LEAST and common.shareable(sums * n) == sums * n)
    splits = next(enough, cut.blocks)
    slab = 0 if direct else ((height - 1) * g.SH + span) * line.columns * pixel
    # The last tile of a window may hang over its end, and reads on from there.
    gradient = round_up(slab + TALL + cut.width, cut.lanes)
    z_block = cut.width if by_pixels else height * g.OW * cut.width
    gradients = height * g.OW * g.OC if work.pooled else 0 if z_direct else -(-cut.blocks // splits) * z_block
    values = dict(
        G=g.G, ICG=g.ICG, OCG=g.OCG, IH=g.IH, IW=g.IW, OH=g.OH, OW=g.OW,
        **work.source.strides("x"), **work.target.strides("z"),
        w_group=weight.group, w_lane=weight.lane, w_channel=weight.channel,
        joined=joined, few=few, lanes=cut.lanes, width=cut.width, blocks=cut.blocks, block_size=block_size, parts=parts,
        splits=splits, slabs=round_up(parts * packed, cut.lanes), own=gradient + gradients, gradient=gradient,
        direct=int(direct), z_direct=int(z_direct), z_block=z_block, z_step=z_step, units=g.N * bands, bands=bands,
        band=height, in_h=g.SH, top=top, left=left, span=span, **line._asdict(), tasks=parts * g.G * splits,
    )  # fmt: skip
    runs = [(row * g.SH * line.columns * pixel, row * g.OW * z_step, g.OW) for row in range(height)]
    tables = (table(taps, 2), table(runs, 3), table(windows, 3), table(tiles, 3))
    kernel = weight_gradient_pooled if work.pooled else weight_gradient
    return common.plan(kernel, WEIGHT_GRADIENT, values, tables, work, len(taps) < g.KH * g.KW, work.padded)


def _turned_round(work: Correlation) -> Correlation:
    """The same weight gradient, of whose factors the one with more channels is the gradient: its channels are lanes.

    The other one is packed more than once, and read element by element.
    """
    g = work.g
    if not common.pointwise(g) or g.G > 1 or g.IC <= g.OC or work.pooled is not None:
        return work
    g = replace(g, IC=g.OC, OC=g.IC)
    return work._replace(g=g, source=work.target, target=work.source, swapped=True)


def _weight_band(g: Conv2dGeometry, span: int, row_bytes: int, block_bytes: int, blocks: int, times: int) -> int:
    """Rows of a band of a weight gradient, where an output row has so many bytes of each block.

    What one block reads of it is read so many ``times``, so it should stay in the L1 cache. Where that would be too few
    pixels to be worth it, or too many rows would be packed more than once, the L2 cache should hold what all read.
    """
    near = band(g, g.OH, g.N, g.SH, span, row_bytes, block_bytes, common.BAND_BYTES)
    pays = times > 1 and near * g.OW >= BAND and near * g.SH >= span - g.SH
    return near if pays else band(g, g.OH, g.N, g.SH, span, row_bytes, blocks * block_bytes)


def _heights(vectors: int, joined: Taps) -> tuple[int, ...]:
    """The tiles of so many vectors a row that there are."""
    return HEIGHTS if joined == SINGLE else TRAIL_HEIGHTS[vectors]


def cover(count: int, vectors: int, heights: tuple[int, ...] = HEIGHTS) -> list[tuple[int, int, int]]:
    """Tiles that cover a row of ``count`` pixels at the least cost: (first pixel, height, pixels that exist).

    A tile costs its height, but never less than eight vectors would: so many additions can be under way before the
    first is done. And it costs a little to start and to store.
    """
    return common.cover(count, {height: max(height, 8 // vectors) + 2 for height in heights})


def _blocking(work: Correlation) -> Blocking:
    lanes = simd.lanes(work.dtype)
    width = lanes * min(2, -(-work.OCG // lanes))
    return Blocking(lanes, width, -(-work.OCG // width))


def _filter(work: Correlation) -> Filter:
    """The weight as the kernel sees it: lanes are target channels, and the sum is over source channels."""
    g = work.g
    one = g.ICG * g.KH * g.KW  # elements of a filter
    channel, row, column = (g.KH * g.KW, g.KW, 1) if g.layout == "NCHW" else (1, g.KW * g.ICG, g.ICG)
    if work.swapped:
        return Filter(0, 1, g.OC, 1, 1)
    lane, channel = (one, channel) if work.forward else (channel, one)
    return Filter(g.OCG * one, lane, channel, row, column)
