"""Plans with lanes along channels: those of :mod:`numbaconv.kernels.correlation` and ``weight_gradient``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from numbaconv import simd
from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels.correlation import CORRELATION, correlate
from numbaconv.kernels.tiles import HEIGHTS, MIDDLE, SHORT, TALL
from numbaconv.kernels.weight_gradient import WEIGHT_GRADIENT, weight_gradient
from numbaconv.plan import common
from numbaconv.plan.axes import Correlation, reach
from numbaconv.plan.common import Plan, band, round_up, table

#: Vectors of channels that are packed together where every channel has its own filter.
LANEWISE_BLOCKS = 8
#: A stride of so many times what is read at each step is not worth packing what lies between.
FAR = 8


class Blocking(NamedTuple):
    """How channels are cut into groups and blocks."""

    lanes: int  # of a vector
    width: int  # lanes of a block
    elementwise: int  # 1: every channel has its own filter, so lanes run over both; some blocks are made a group
    G: int
    source: int  # source channels of a group
    target: int  # target channels of a group
    reduced: int  # source channels that are summed for a target channel
    blocks: int  # of a group
    heights: tuple[int, ...]  # of the tiles that the kernel has for it


class Stretch(NamedTuple):
    """The image columns that are packed into a slab's row."""

    columns: int
    pieces: int
    apart: int
    in_w: int  # slab columns from a pixel to the next


class Filter(NamedTuple):
    """Elements from a group, lane, summed channel, row and column of the weight to the next."""

    group: int
    lane: int
    channel: int
    row: int
    column: int


def cost(work: Correlation) -> float:
    """What a correlation takes in this form."""
    g, (cut, _) = work.g, _cut(work)
    rows = sum(phase.pixels * len(phase.taps) for phase in work.rows)
    total = 0.0
    for vectors, blocks in _shapes(cut):
        for columns in work.columns:
            tiles = cover(columns.pixels, vectors, cut.heights)
            steps = len(columns.taps) * cut.reduced
            total += blocks * sum(rows * steps * _time(height, vectors, cut) for _, height, _ in tiles)
            total += blocks * sum(phase.pixels for phase in work.rows) * len(tiles) * common.TILE_COST
    return g.N * (total * cut.G + _turning(work, cut))


def weight_cost(work: Correlation) -> float:
    """What a weight gradient takes in this form."""
    g, (cut, _) = work.g, _cut(work)
    joined, windows = _windows(work, cut)
    total = 0.0
    for vectors, blocks in _shapes(cut):
        tiles = cover(joined * cut.reduced, vectors, _heights(cut, joined))
        time = sum(_time(height, vectors, cut) for _, height, _ in tiles)
        total += blocks * windows * (g.OH * g.OW * time + len(tiles) * common.TILE_COST)
    return g.N * (total * cut.G + _turning(work, cut))


def _turning(work: Correlation, cut: Blocking) -> float:
    """What reading and writing images takes, beyond that of images whose channels are neighbours."""
    turned = [side.C * side.H * side.W for side in (work.source, work.target) if side.layout == "NCHW"]
    return sum(turned) / cut.lanes * common.TURN_COST


def _windows(work: Correlation, cut: Blocking) -> tuple[int, int]:
    """Neighbouring taps of a kernel row make one window, where the tile's rows can run on from one to the next.

    How many taps a window has, and how many windows there are.
    """
    rows, columns = len(work.rows[0].taps), len(work.columns[0].taps)
    joined = max(1, columns) if cut.elementwise or work.g.DW == 1 else 1
    return joined, rows * -(-columns // joined)


def _heights(cut: Blocking, joined: int) -> tuple[int, ...]:
    """Of the tiles that cover a window."""
    return (SHORT,) if cut.elementwise and joined <= SHORT else cut.heights


def _shapes(cut: Blocking) -> list[tuple[int, int]]:
    """The numbers of vectors of a group's blocks, and how many blocks have so many."""
    if cut.width == cut.lanes:
        return [(1, cut.blocks)]
    single = int((cut.target - 1) % cut.width < cut.lanes)
    return [(2, cut.blocks - single), (1, single)]


def _time(height: int, vectors: int, cut: Blocking) -> float:
    """Of a step of a tile: a multiply-add for each of its vectors, but never less than their latency allows."""
    if cut.elementwise:
        return height * 1.3
    return max(height * vectors, 8) * (1.0 if vectors == 2 else 1.2)


def _cut(work: Correlation) -> tuple[Blocking, Filter]:
    """How a correlation's channels are cut, and its weight as the kernel sees it."""
    cut = _blocking(work.g, work.dtype, work.ICG, work.OCG)
    weight = _filter(work.g, cut)
    if not work.forward and not cut.elementwise:
        # lanes are input channels now, and the sum is over output channels
        weight = weight._replace(lane=weight.channel, channel=weight.lane)
    return cut, weight


def plan(work: Correlation) -> Plan:
    """The plan of a forward pass or an input gradient."""
    g, dtype, source, target, step = work.g, work.dtype, work.source, work.target, work.step
    cut, weight = _cut(work)
    top, span = reach(work.rows)
    left, span_w = reach(work.columns)
    most_rows, most_columns = work.pixels
    stretch = _stretch(most_columns, step[1], span_w)
    pixel = cut.source  # elements of a slab's pixel

    taps: list[int] = []
    runs: list[list[int]] = []
    phases: list[tuple[int, ...]] = []
    tiles: list[tuple[int, int, int]] = []
    for rows in work.rows:
        for columns in work.columns:
            first_run = len(runs)
            for kh, row in rows.taps:
                for kw, column in columns.taps:
                    offset = ((row - top) * stretch.columns + column - left) * pixel
                    if len(runs) > first_run and runs[-1][0] + runs[-1][2] == offset and not cut.elementwise:
                        runs[-1][2] += cut.reduced  # this tap's pixels follow the last one's in memory
                    else:
                        runs.append([offset, len(taps) * cut.reduced * cut.width, cut.reduced])
                    taps.append(kh * weight.row + kw * weight.column)
            first_tile = len(tiles)
            tiles += cover(columns.pixels, cut.width // cut.lanes, cut.heights)
            ends = first_run, len(runs), first_tile, len(tiles)
            phases.append((rows.first, rows.pixels, columns.first, columns.pixels, *ends))

    block_size = len(taps) * cut.reduced * cut.width
    height = band(g, most_rows, g.N * cut.G, step[0], span, stretch.columns * pixel * dtype.itemsize)
    bands = -(-most_rows // height)
    slab = ((height - 1) * step[0] + span) * stretch.columns * pixel
    # The last tile of a row may hang over its end, and reads on from there.
    stage = round_up(slab + TALL * stretch.in_w * pixel + cut.width, cut.lanes)
    bias = round_up(cut.G * cut.blocks * block_size, cut.lanes)
    values = dict(
        G=cut.G, IC=source.C, OC=target.C, ICG=cut.source, OCG=cut.target, IH=source.H, IW=source.W,
        **source.strides("x"), **target.strides("y"),
        w_group=weight.group, w_lane=weight.lane, w_channel=weight.channel,
        elementwise=cut.elementwise, reduced=cut.reduced, lanes=cut.lanes, width=cut.width, blocks=cut.blocks,
        block_size=block_size, bias=bias, slabs=bias + cut.G * cut.blocks * cut.width,
        own=stage + TALL * cut.width, stage=stage, bands=bands, band=height, top=top, left=left, span=span,
        **stretch._asdict(), in_h=step[0], out_h=work.stride[0], out_w=work.stride[1],
        tasks=g.N * cut.G * bands,
    )  # fmt: skip
    tables = (table(taps, 0), table(runs, 3), table(phases, 8), table(tiles, 3))
    return common.plan(correlate, CORRELATION, values, tables, g, work.fill)


def weight_plan(work: Correlation) -> Plan:
    """The plan of a weight gradient."""
    g, dtype = work.g, work.dtype
    rows, columns = work.rows[0], work.columns[0]
    cut, weight = _cut(work)
    top, span = reach(work.rows)
    left, span_w = reach(work.columns)
    stretch = _stretch(g.OW, g.SW, span_w)
    pixel = cut.source  # elements of a slab's pixel

    row_pitch = (g.DW * pixel if len(columns.taps) > 1 else pixel) if cut.elementwise else 1
    joined, _ = _windows(work, cut)
    tiles = cover(joined * cut.reduced, cut.width // cut.lanes, _heights(cut, joined))
    window = tiles[-1][0] + tiles[-1][1]
    taps: list[tuple[int, int]] = []
    windows: list[tuple[int, int]] = []
    for kh, row in rows.taps:
        for number, (kw, column) in enumerate(columns.taps):
            if number % joined == 0:
                windows.append((((row - top) * stretch.columns + column - left) * pixel, len(windows) * window))
            taps.append((kh * weight.row + kw * weight.column, windows[-1][1] + number % joined * cut.reduced))

    block_size = len(windows) * window * cut.width
    packed = cut.G * cut.blocks * block_size
    wide = cut.blocks * cut.width
    height = band(g, g.OH, g.N, g.SH, span, (stretch.columns * pixel + g.OW * wide) * dtype.itemsize)
    bands = -(-g.OH // height)
    parts = max(1, min(common.TASKS, g.N * bands, common.PARTS_BYTES // max(1, packed * dtype.itemsize)))
    splits = min(cut.blocks, -(-common.TASKS // (parts * cut.G)))
    slab = ((height - 1) * g.SH + span) * stretch.columns * pixel
    # The last tile of a window may hang over its end, and reads on from there.
    gradient = round_up(slab + TALL * row_pitch + cut.width, cut.lanes)
    z_block = height * g.OW * cut.width
    values = dict(
        G=cut.G, IC=g.IC, OC=g.OC, ICG=cut.source, OCG=cut.target, IH=g.IH, IW=g.IW, OH=g.OH, OW=g.OW,
        **work.source.strides("x"), **work.target.strides("z"),
        w_group=weight.group, w_lane=weight.lane, w_channel=weight.channel,
        elementwise=cut.elementwise, joined=joined, reduced=cut.reduced, row_pitch=row_pitch,
        lanes=cut.lanes, width=cut.width, blocks=cut.blocks, block_size=block_size, parts=parts, splits=splits,
        slabs=round_up(parts * packed, cut.lanes), own=gradient + -(-cut.blocks // splits) * z_block,
        gradient=gradient, z_block=z_block, units=g.N * bands, bands=bands, band=height, in_h=g.SH, top=top, left=left,
        span=span, **stretch._asdict(), tasks=parts * cut.G * splits,
    )  # fmt: skip
    runs = [(row * g.SH * stretch.columns * pixel, row * g.OW * cut.width, g.OW) for row in range(height)]
    tables = (table(taps, 2), table(runs, 3), table(windows, 2), table(tiles, 3))
    return common.plan(weight_gradient, WEIGHT_GRADIENT, values, tables, g, len(taps) < g.KH * g.KW)


def cover(count: int, vectors: int, heights: tuple[int, ...] = HEIGHTS) -> list[tuple[int, int, int]]:
    """Tiles that cover a row of ``count`` pixels at the least cost: (first pixel, height, pixels that exist).

    A tile costs its height, but never less than eight vectors would: so many additions can be under way before the
    first is done. And it costs a little to start and to store.
    """
    return common.cover(count, {height: max(height, 8 // vectors) + 2 for height in heights})


def _blocking(g: Conv2dGeometry, dtype: np.dtype, source: int, target: int) -> Blocking:
    """For groups of ``source`` channels that are mapped to ``target`` channels."""
    lanes = simd.lanes(dtype)
    if g.ICG == 1 and g.OCG == 1 and g.G > 1:
        blocks = min(-(-g.G // lanes), LANEWISE_BLOCKS)
        group = blocks * lanes
        return Blocking(lanes, lanes, 1, -(-g.G // group), group, group, 1, blocks, (MIDDLE,))
    width = lanes * (2 if target > lanes else 1)
    return Blocking(lanes, width, 0, g.G, source, target, source, -(-target // width), HEIGHTS)


def _filter(g: Conv2dGeometry, cut: Blocking) -> Filter:
    """The weight as the forward pass sees it: lanes are output channels, and the sum is over input channels."""
    one = g.ICG * g.KH * g.KW  # elements of a filter
    group = one * (cut.target if cut.elementwise else g.OCG)
    if g.layout == "NCHW":
        return Filter(group, one, g.KH * g.KW, g.KW, 1)
    return Filter(group, one, 1, g.KW * g.ICG, g.ICG)


def _stretch(pixels: int, step: int, span: int) -> Stretch:
    """All columns from the first to the last that is read; piece by piece where few of those between are."""
    if pixels <= 1:
        return Stretch(span, 1, 0, 1)
    if step > FAR * span:
        return Stretch(pixels * span, pixels, step, span)
    return Stretch((pixels - 1) * step + span, 1, 0, step)
