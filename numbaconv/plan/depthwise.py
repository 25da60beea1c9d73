"""Plans of depthwise convolutions: those of :mod:`numbaconv.kernels.depthwise` and ``weight_depthwise``."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from numbaconv import simd
from numbaconv.kernels.depthwise import DEPTHWISE, PIXELS, SHARED, correlate_depthwise
from numbaconv.kernels.weight_depthwise import WEIGHT_DEPTHWISE, WINDOW_SIZES, WINDOWS, weight_gradient_depthwise
from numbaconv.plan import common
from numbaconv.plan.axes import Axis, Correlation, reach, stretch
from numbaconv.plan.common import Plan, band, table

#: Vectors of channels that are packed together.
GROUP = 8
#: An image is read where it is if, of so many pixels of a row, one may meet padding: it is computed by itself.
EDGE = 8
#: What writing a vector takes, turning one, of many channels, and a multiply-add with what it loads.
WRITE_COST, TURN_COST, TAP_COST = 2, 5, 0.9


def serves(work: Correlation) -> bool:
    """Whether there are kernels for it: each channel has one filter of its own."""
    return work.g.G > 1 and work.ICG == work.OCG == 1


def cost(work: Correlation) -> float:
    """What a correlation takes in this form."""
    if not serves(work):
        return float("inf")
    taps = [sum(axis.pixels * len(axis.taps) for axis in axes) for axes in (work.rows, work.columns)]
    pixels = taps[0] * taps[1] * TAP_COST + work.target.H * work.target.W * WRITE_COST
    return work.g.N * _vectors(work) * (pixels + _turning(work))


def weight_cost(work: Correlation) -> float:
    """What a weight gradient takes in this form."""
    if not serves(work):
        return float("inf")
    g = work.g
    products = g.OH * g.OW * len(work.rows[0].taps) * len(work.columns[0].taps)
    return g.N * _vectors(work) * (products * TAP_COST + _turning(work))


def _vectors(work: Correlation) -> int:
    """Of all channels of a pixel."""
    return -(-work.source.C // simd.lanes(work.dtype))


def _turning(work: Correlation) -> float:
    """What bringing a vector of all pixels into the order of the kernels takes, or back."""
    return sum(side.H * side.W * TURN_COST for side in (work.source, work.target) if side.layout == "NCHW")


def plan(work: Correlation) -> Plan:
    """The plan of a forward pass or an input gradient."""
    g, source, target, step, lanes = work.g, work.source, work.target, work.step, simd.lanes(work.dtype)
    pitch, groups = _groups(work)
    top, span = reach(work.rows)
    left, span_w = reach(work.columns)
    most_rows, most_columns = work.pixels
    line = stretch(most_columns, step[1], span_w)
    (tap_h, weight_row), (tap, weight) = _apart(work.rows), _apart(work.columns)
    direct = _direct(work)
    in_w, columns_before, pixel = (step[1], 0, source.C) if direct else (line.in_w, left, pitch)

    phases: list[tuple[int, ...]] = []
    tiles: list[tuple[int, int, int, int]] = []
    for rows in work.rows:
        for columns in work.columns:
            first_tile, taps = len(tiles), len(columns.taps)
            (kh, row), (kw, column) = [*rows.taps, (0, top)][0], [*columns.taps, (0, left)][0]
            tiles += _inside(columns, step[1], source.W) if direct else _tiles(0, columns.pixels, taps)
            found = row, column - columns_before, (kh * g.KW + kw) * pitch
            shared = taps in SHARED and in_w in (tap, 2 * tap)
            ends = len(rows.taps) if taps else 0, first_tile, len(tiles), taps * shared, in_w // tap
            phases.append((rows.first, rows.pixels, columns.first, columns.pixels, *found, *ends))

    tall = min(work.stride[0], target.H)  # target rows from a row of a phase to the next, as far as there are any
    staged = 0 if target.layout == "NHWC" else tall * target.W * pitch
    height = band(g, most_rows, g.N * groups, step[0], span, (line.columns * pitch + staged) * work.dtype.itemsize)
    bands = -(-most_rows // height)
    stage = 0 if direct else ((height - 1) * step[0] + span) * line.columns * pitch
    values = dict(
        C=source.C, IH=source.H, IW=source.W, OH=target.H, OW=target.W, **source.strides("x"), **target.strides("y"),
        taps=g.KH * g.KW, lanes=lanes, pitch=pitch, groups=groups, slabs=groups * g.KH * g.KW * pitch,
        own=stage + height * staged, stage=stage, holes=int(work.fill), bands=bands, band=height, rows=most_rows,
        top=top, left=left, span=span, **line._asdict() | {"in_w": in_w}, in_h=step[0], out_h=work.stride[0],
        out_w=work.stride[1], direct=int(direct), line=source.W * source.C if direct else line.columns * pitch,
        pixel=pixel, tap_h=tap_h, tap_pixel=tap * pixel, weight_row=weight_row * g.KW * pitch,
        tap_weight=weight * pitch, relu=int(work.relu), tasks=g.N * groups * bands,
    )  # fmt: skip
    tables = (table(phases, 12), table(tiles, 4))
    return common.plan(
        correlate_depthwise,
        DEPTHWISE,
        values,
        tables,
        work,
        work.fill,
        work.padded and not direct,
        (1, groups * pitch),
    )


def weight_plan(work: Correlation) -> Plan:
    """The plan of a weight gradient."""
    g, lanes = work.g, simd.lanes(work.dtype)
    pitch, groups = _groups(work)
    top, span = reach(work.rows)
    left, span_w = reach(work.columns)
    line = stretch(g.OW, g.SW, span_w)
    tap, _ = _apart(work.columns)
    direct = _direct(work) and work.target.layout == "NHWC"
    whole = _whole(work.columns[0], g.SW, g.IW) if direct else range(g.OW)
    height = band(g, g.OH, g.N, g.SH, span, (line.columns + g.OW) * pitch * work.dtype.itemsize)
    bands = -(-g.OH // height)
    block_size = (g.KH * g.KW + max(WINDOW_SIZES)) * pitch  # the last sums are those of windows that only fill up
    fit = common.PARTS_BYTES // (groups * block_size * work.dtype.itemsize)
    parts = common.shareable(max(1, min(common.TASKS, g.N * bands, fit)))
    gradient = ((height - 1) * g.SH + span) * line.columns * pitch
    in_w, pixel = (g.SW, g.OC) if direct else (line.in_w, pitch)
    own = 0 if direct else gradient + height * g.OW * pitch
    values = dict(
        C=g.OC, IH=g.IH, IW=g.IW, OH=g.OH, OW=g.OW, **work.source.strides("x"), **work.target.strides("z"),
        taps=g.KH * g.KW, lanes=lanes, pitch=pitch, groups=groups, block_size=block_size, parts=parts,
        slabs=parts * groups * block_size, own=own, gradient=gradient, units=g.N * bands,
        bands=bands, band=height, in_h=g.SH, top=0 if direct else top, left=left, span=span,
        **line._asdict() | {"in_w": in_w}, direct=int(direct), whole=whole.start, whole_end=whole.stop, pixel=pixel,
        line=(g.IW if direct else line.columns) * pixel, tap_w=tap, tap_pixel=tap * pixel,
        shared=int(tap == 1 and in_w <= 2), tasks=parts * groups,
    )  # fmt: skip
    triples = _triples(work, (0, 0) if direct else (top, left), 0 if direct else line.columns, pitch, pixel)
    return common.plan(
        weight_gradient_depthwise, WEIGHT_DEPTHWISE, values, (table([(0, 0)], 2), triples), work, False, work.padded
    )


def _groups(work: Correlation) -> tuple[int, int]:
    """Channels that are packed together, and how often that happens."""
    vectors = _vectors(work)
    groups = -(-vectors // GROUP)
    pitch = -(-vectors // groups) * simd.lanes(work.dtype)
    return pitch, -(-work.source.C // pitch)


def _apart(axes: tuple[Axis, ...]) -> tuple[int, int]:
    """From a tap to the next: source pixels, and pixels of the kernel. In all phases they are the same."""
    for axis in axes:
        for (k, offset), (next_k, next_offset) in pairwise(axis.taps):
            return next_offset - offset, next_k - k
    return 1, 1


def _triples(work: Correlation, first: tuple[int, int], slab_columns: int, pitch: int, pixel: int) -> np.ndarray:
    """All windows, three by three: their taps, where they find their first pixel, and where their sums are.

    Without a slab, of no columns, the row in which that is comes last; in a slab, all are counted from one row.
    """
    g = work.g
    windows: dict[int, list[tuple[int, int, int]]] = {size: [] for size in WINDOW_SIZES}
    for kh, row in work.rows[0].taps:
        left = list(work.columns[0].taps)
        while left:
            size = next(size for size in WINDOW_SIZES if size <= len(left))
            kw, column = left[0]
            place = (row - first[0]) * slab_columns + column - first[1]
            windows[size].append((place * pixel, (kh * g.KW + kw) * pitch, row * (slab_columns == 0)))
            left = left[size:]
    triples = []
    for size, alike in windows.items():
        alike += [(alike[-1][0], g.KH * g.KW * pitch, alike[-1][2])] * (-len(alike) % WINDOWS) if alike else []
        for k in range(0, len(alike), WINDOWS):
            three = alike[k : k + WINDOWS]
            triples.append((size, *(values[column] for column in range(3) for values in three)))
    return table(triples, 10)


def _direct(work: Correlation) -> bool:
    """Whether the source is read where it is: its channels are whole vectors, and few pixels of a row meet padding."""
    source, (_, pixels) = work.source, work.pixels
    whole = [_whole(axis, work.step[1], source.W) for axis in work.columns]
    edges = max((axis.pixels - len(inside) for axis, inside in zip(work.columns, whole, strict=True)), default=0)
    return source.layout == "NHWC" and source.C % simd.lanes(work.dtype) == 0 and edges * EDGE <= pixels


def _whole(axis: Axis, step: int, size: int) -> range:
    """The pixels of a row whose taps all find something."""
    offsets = [offset for _, offset in axis.taps] or [0]
    first, last = max(0, -(offsets[0] // step)), min(axis.pixels, (size - 1 - offsets[-1]) // step + 1)
    return range(first, last) if first < last else range(0)


def _inside(axis: Axis, step: int, size: int) -> list[tuple[int, int, int, int]]:
    """Tiles that cover a row: a pixel that meets padding has one of its own, with those taps that find something."""
    whole, alone = _whole(axis, step, size), []
    for pixel in [*range(whole.start), *range(whole.stop, axis.pixels)]:
        found = [t for t, (_, offset) in enumerate(axis.taps) if 0 <= offset + pixel * step < size]
        alone.append((pixel, 1, found[0] if found else 0, len(found)))
    return alone + _tiles(whole.start, len(whole), len(axis.taps))


def _tiles(first: int, pixels: int, taps: int) -> list[tuple[int, int, int, int]]:
    """Tiles that cover so many pixels: (first pixel, height, first tap, taps).

    None leaves them, so the last may compute some pixels again.
    """
    tiles, start = [], 0
    while start < pixels:
        most = min(pixels, 2 * (pixels - start) - 1)  # of a longer one, less than half would be new
        height = next(height for height in PIXELS if height <= most)
        tiles.append((first + min(start, pixels - height), height, 0, taps))
        start += height
    return tiles
