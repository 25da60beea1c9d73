"""How a convolution is run: which taps meet which pixels, how the work is cut, how large the tiles are.

The only place where heuristics live. A plan is made once for a geometry, a dtype and the memory order of the arrays,
and kept. Nothing in it depends on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from numbaconv import simd
from numbaconv.geometry import Conv2dGeometry, Layout
from numbaconv.jit import Kernel
from numbaconv.kernels.correlation import CORRELATION, correlate
from numbaconv.kernels.records import filled
from numbaconv.kernels.tiles import HEIGHTS, MIDDLE, SHORT, TALL
from numbaconv.kernels.weight_gradient import WEIGHT_GRADIENT, weight_gradient

#: Bytes that a band of an image may take when packed: with the weights that meet it, it should stay in the L2 cache.
SLAB_BYTES = 256 * 1024
#: Bytes that all partial sums of a weight gradient may take together.
PARTS_BYTES = 4 * 1024 * 1024
#: Independent pieces of work that a call is cut into where it is large enough: some for each of many threads.
TASKS = 32
#: Vectors of channels that are packed together where every channel has its own filter.
LANEWISE_BLOCKS = 8
#: A stride of so many times what is read at each step is not worth packing what lies between.
FAR = 8
#: Operations below which a call is over before a second thread has woken up.
SERIAL_FLOPS = 4_000_000


@dataclass(frozen=True)
class Plan:
    """A kernel and what it is called with, beside the arrays of the user."""

    kernel: Kernel
    numbers: np.ndarray
    tables: tuple[np.ndarray, ...]
    #: Elements of scratch memory: those that all threads share, and those of each.
    shared: int
    own: int
    #: How many threads may share the work; 0 if there is none.
    threads: int
    #: Some elements of the result are reached by no tap, and must be filled before the kernel runs.
    fill: bool


class Axis(NamedTuple):
    """One axis of a correlation, for the pixels of one phase.

    Pixel ``q`` of the phase is target pixel ``first + q * stride`` (the phases' stride: 1 where there is but one).
    Tap ``k`` finds it at source pixel ``q * step + offset``, for each ``(k, offset)`` of ``taps``, ordered by offset.
    """

    first: int
    pixels: int
    taps: tuple[tuple[int, int], ...]


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


class Side(NamedTuple):
    """An image in memory: its channels, height and width, and the layout that it lies in."""

    C: int
    H: int
    W: int
    layout: Layout

    def strides(self, name: str) -> dict[str, int]:
        """Elements from an image, channel, row and column to the next, as a kernel's plan names them."""
        C, H, W, layout = self
        c, h, w = (H * W, W, 1) if layout == "NCHW" else (1, W * C, C)
        return {f"{name}_n": C * H * W, f"{name}_c": c, f"{name}_h": h, f"{name}_w": w}


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


@lru_cache(maxsize=1024)
def forward_plan(geometry: Conv2dGeometry, dtype: np.dtype, x: Layout, y: Layout) -> Plan:
    """The plan of ``conv2d``, for an input and an output that lie in memory as ``x`` and ``y`` say."""
    g = geometry
    rows = forward_axis(g.IH, g.KH, g.SH, g.PT, g.DH, g.OH)
    columns = forward_axis(g.IW, g.KW, g.SW, g.PL, g.DW, g.OW)
    blocking = _blocking(g, dtype, g.ICG, g.OCG)
    source, target = Side(g.IC, g.IH, g.IW, x), Side(g.OC, g.OH, g.OW, y)
    weight = _filter(g, blocking)
    return _correlation(g, dtype, [rows], [columns], (g.SH, g.SW), (1, 1), source, target, blocking, weight)


@lru_cache(maxsize=1024)
def input_gradient_plan(geometry: Conv2dGeometry, dtype: np.dtype, z: Layout, x: Layout) -> Plan:
    """The plan of ``conv2d_input``, for an output gradient and an input gradient that lie as ``z`` and ``x`` say."""
    g = geometry
    rows = backward_axes(g.IH, g.KH, g.SH, g.PT, g.DH, g.OH)
    columns = backward_axes(g.IW, g.KW, g.SW, g.PL, g.DW, g.OW)
    blocking = _blocking(g, dtype, g.OCG, g.ICG)
    source, target = Side(g.OC, g.OH, g.OW, z), Side(g.IC, g.IH, g.IW, x)
    weight = _filter(g, blocking)
    if not blocking.elementwise:  # lanes are input channels now, and the sum is over output channels
        weight = weight._replace(lane=weight.channel, channel=weight.lane)
    return _correlation(g, dtype, rows, columns, (1, 1), (g.SH, g.SW), source, target, blocking, weight)


@lru_cache(maxsize=1024)
def weight_gradient_plan(geometry: Conv2dGeometry, dtype: np.dtype, x: Layout, z: Layout) -> Plan:
    """The plan of ``conv2d_weight``, for an input and an output gradient that lie in memory as ``x`` and ``z`` say."""
    g = geometry
    rows = forward_axis(g.IH, g.KH, g.SH, g.PT, g.DH, g.OH)
    columns = forward_axis(g.IW, g.KW, g.SW, g.PL, g.DW, g.OW)
    cut = _blocking(g, dtype, g.ICG, g.OCG)
    weight = _filter(g, cut)
    top, span = _reach([rows])
    left, span_w = _reach([columns])
    stretch = _stretch(g.OW, g.SW, span_w)
    pixel = cut.source  # elements of a slab's pixel

    # Neighbouring taps of a kernel row make one window, where the tile's rows can run on from one to the next.
    row_pitch = (g.DW * pixel if len(columns.taps) > 1 else pixel) if cut.elementwise else 1
    joined = max(1, len(columns.taps)) if cut.elementwise or g.DW == 1 else 1
    heights = (SHORT,) if cut.elementwise and joined <= SHORT else cut.heights
    tiles = cover(joined * cut.reduced, cut.width // cut.lanes, heights)
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
    band = _band(g, g.OH, g.N, g.SH, span, (stretch.columns * pixel + g.OW * cut.width) * dtype.itemsize)
    bands = -(-g.OH // band)
    parts = max(1, min(TASKS, g.N * bands, PARTS_BYTES // max(1, packed * dtype.itemsize)))
    splits = min(cut.blocks, -(-TASKS // (parts * cut.G)))
    slab = ((band - 1) * g.SH + span) * stretch.columns * pixel
    # The last tile of a window may hang over its end, and reads on from there.
    gradient = _round_up(slab + TALL * row_pitch + cut.width, cut.lanes)
    values = dict(
        G=cut.G, IC=g.IC, OC=g.OC, ICG=cut.source, OCG=cut.target, IH=g.IH, IW=g.IW, OH=g.OH, OW=g.OW,
        **Side(g.IC, g.IH, g.IW, x).strides("x"), **Side(g.OC, g.OH, g.OW, z).strides("z"),
        w_group=weight.group, w_lane=weight.lane, w_channel=weight.channel,
        elementwise=cut.elementwise, reduced=cut.reduced, row_pitch=row_pitch,
        lanes=cut.lanes, width=cut.width, blocks=cut.blocks, block_size=block_size, parts=parts, splits=splits,
        slabs=_round_up(parts * packed, cut.lanes), own=gradient + _round_up(band * g.OW * cut.width, cut.lanes),
        gradient=gradient, units=g.N * bands, bands=bands, band=band, in_h=g.SH, top=top, left=left, span=span,
        **stretch._asdict(), tasks=parts * cut.G * splits,
    )  # fmt: skip
    runs = [(row * g.SH * stretch.columns * pixel, row * g.OW * cut.width, g.OW) for row in range(band)]
    tables = (_table(taps, 2), _table(runs, 3), _table(windows, 2), _table(tiles, 3))
    fill = len(taps) < g.KH * g.KW
    return _plan(weight_gradient, WEIGHT_GRADIENT, values, tables, g, fill)


def forward_axis(image: int, kernel: int, stride: int, before: int, dilation: int, output: int) -> Axis:
    """One axis of a forward pass; taps that meet nothing but padding are left out."""
    taps = [(k, k * dilation - before) for k in range(kernel)]
    return Axis(0, output, _live(taps, stride, output, image))


def backward_axes(image: int, kernel: int, stride: int, before: int, dilation: int, output: int) -> list[Axis]:
    """The phases of an input gradient along an axis: the image's pixels by their remainder modulo the stride.

    Tap ``k`` reaches image pixel ``i`` from output pixel ``(i + before - k * dilation) / stride`` if that is a whole
    number, so only the taps of the right remainder belong to a phase. A phase that no tap reaches is left out.
    """
    taps_of: dict[int, list[tuple[int, int]]] = {}
    for k in reversed(range(kernel)):
        first = (k * dilation - before) % stride
        taps_of.setdefault(first, []).append((k, (first + before - k * dilation) // stride))
    phases = []
    for first, taps in sorted(taps_of.items()):
        pixels = -(-(image - first) // stride)
        live = _live(taps, 1, pixels, output)
        if pixels > 0 and live:
            phases.append(Axis(first, pixels, live))
    return phases


def _live(taps: list[tuple[int, int]], step: int, count: int, source: int) -> tuple[tuple[int, int], ...]:
    return tuple((k, offset) for k, offset in taps if offset < source and offset + (count - 1) * step >= 0)


def _correlation(
    g: Conv2dGeometry,
    dtype: np.dtype,
    row_phases: list[Axis],
    column_phases: list[Axis],
    step: tuple[int, int],
    stride: tuple[int, int],
    source: Side,
    target: Side,
    cut: Blocking,
    weight: Filter,
) -> Plan:
    """The plan of a forward pass or an input gradient, described as a correlation of ``source`` into ``target``."""
    top, span = _reach(row_phases)
    left, span_w = _reach(column_phases)
    most_rows = max((phase.pixels for phase in row_phases), default=0)
    most_columns = max((phase.pixels for phase in column_phases), default=0)
    stretch = _stretch(most_columns, step[1], span_w)
    pixel = cut.source  # elements of a slab's pixel

    taps: list[int] = []
    runs: list[list[int]] = []
    phases: list[tuple[int, ...]] = []
    tiles: list[tuple[int, int, int]] = []
    for rows in row_phases:
        for columns in column_phases:
            first_run, first_tile = len(runs), len(tiles)
            for kh, row in rows.taps:
                for kw, column in columns.taps:
                    offset = ((row - top) * stretch.columns + column - left) * pixel
                    if len(runs) > first_run and runs[-1][0] + runs[-1][2] == offset and not cut.elementwise:
                        runs[-1][2] += cut.reduced  # this tap's pixels follow the last one's in memory
                    else:
                        runs.append([offset, len(taps) * cut.reduced * cut.width, cut.reduced])
                    taps.append(kh * weight.row + kw * weight.column)
            tiles += cover(columns.pixels, cut.width // cut.lanes, cut.heights)
            ends = first_run, len(runs), first_tile, len(tiles)
            phases.append((rows.first, rows.pixels, columns.first, columns.pixels, *ends))

    block_size = len(taps) * cut.reduced * cut.width
    band = _band(g, most_rows, g.N * cut.G, step[0], span, stretch.columns * pixel * dtype.itemsize)
    bands = -(-most_rows // band)
    slab = ((band - 1) * step[0] + span) * stretch.columns * pixel
    # The last tile of a row may hang over its end, and reads on from there.
    stage = _round_up(slab + TALL * stretch.in_w * pixel + cut.width, cut.lanes)
    bias = _round_up(cut.G * cut.blocks * block_size, cut.lanes)
    values = dict(
        G=cut.G, IC=source.C, OC=target.C, ICG=cut.source, OCG=cut.target, IH=source.H, IW=source.W,
        **source.strides("x"), **target.strides("y"),
        w_group=weight.group, w_lane=weight.lane, w_channel=weight.channel,
        elementwise=cut.elementwise, reduced=cut.reduced, lanes=cut.lanes, width=cut.width, blocks=cut.blocks,
        block_size=block_size, bias=bias, slabs=bias + cut.G * cut.blocks * cut.width,
        own=stage + TALL * cut.width, stage=stage, bands=bands, band=band, top=top, left=left, span=span,
        **stretch._asdict(), in_h=step[0], out_h=stride[0], out_w=stride[1],
        tasks=g.N * cut.G * bands,
    )  # fmt: skip
    tables = (_table(taps, 0), _table(runs, 3), _table(phases, 8), _table(tiles, 3))
    reached = sum(rows.pixels for rows in row_phases) * sum(columns.pixels for columns in column_phases)
    fill = reached < target.H * target.W
    return _plan(correlate, CORRELATION, values, tables, g, fill)


def cover(count: int, vectors: int, heights: tuple[int, ...] = HEIGHTS) -> list[tuple[int, int, int]]:
    """Tiles that cover a row of ``count`` pixels at the least cost: (first pixel, height, pixels that exist).

    A tile costs its height, but never less than eight vectors would: so many additions can be under way before the
    first is done. And it costs a little to start and to store. Only the last tile may hang over the end.
    """
    costs = {height: max(height, 8 // vectors) + 2 for height in heights}
    tall = max(heights)
    full = max(0, count - tall * tall) // tall  # beyond some length, the cheapest way begins with the tallest tile
    best = [(0, 0)]  # for each number of pixels: the cost, and the height of one of its tiles, negative
    for pixels in range(1, count - full * tall + 1):
        best.append(min((best[max(0, pixels - height)][0] + cost, -height) for height, cost in costs.items()))
    chosen = [tall] * full
    left = count - full * tall
    while left > 0:
        chosen.append(-best[left][1])
        left -= chosen[-1]
    tiles = []
    start = 0
    for height in sorted(chosen, reverse=True):
        tiles.append((start, height, min(height, count - start)))
        start += height
    return tiles


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


def _reach(phases: list[Axis]) -> tuple[int, int]:
    """The first source pixel that pixel 0 of any phase reaches, and how many there are from it to the last."""
    offsets = [offset for phase in phases for _, offset in phase.taps] or [0]
    return min(offsets), max(offsets) - min(offsets) + 1


def _stretch(pixels: int, step: int, span: int) -> Stretch:
    """All columns from the first to the last that is read; piece by piece where few of those between are."""
    if pixels <= 1:
        return Stretch(span, 1, 0, 1)
    if step > FAR * span:
        return Stretch(pixels * span, pixels, step, span)
    return Stretch((pixels - 1) * step + span, 1, 0, step)


def _band(g: Conv2dGeometry, rows: int, images: int, step: int, span: int, row_bytes: int) -> int:
    """Rows of a band: as many as fit into the cache, but few enough that there is work for many threads."""
    fit = (SLAB_BYTES // row_bytes - span) // step + 1
    bands = 1 if g.flops < SERIAL_FLOPS else -(-TASKS // images)
    return max(1, min(rows, fit, max(-(-rows // bands), 2)))


def _plan(kernel: Kernel, record: np.dtype, values: dict[str, int], tables: Any, g: Conv2dGeometry, fill: bool) -> Plan:
    tasks = values["tasks"]
    threads = min(tasks, 1) if g.flops < SERIAL_FLOPS else tasks
    return Plan(kernel, filled(record, **values), tables, values["slabs"], values["own"], threads, fill)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _table(rows: list[Any], columns: int) -> np.ndarray:
    """An int64 table, well-shaped even when it is empty; one-dimensional where ``columns`` is 0."""
    return np.array(rows, np.int64).reshape((-1, columns) if columns else (-1,))
