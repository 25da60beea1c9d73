"""Plans of depthwise convolutions: those of :mod:`numbaconv.kernels.depthwise` and ``weight_depthwise``."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from numbaconv import simd
from numbaconv.kernels.depthwise import DEPTHWISE, PIXELS, SHARED, correlate_depthwise
from numbaconv.kernels.weight_depthwise import (
    QUAD,
    WEIGHT_DEPTHWISE,
    WINDOW_SIZES,
    WINDOWS,
    weight_gradient_depthwise,
)
from numbaconv.plan import common
from numbaconv.plan.axes import Axis, Correlation, reach, stretch
from numbaconv.plan.common import Plan, band, table

#: Vectors of channels that are packed together.
GROUP = 8
#: What writing a vector takes, turning one, of many channels, and a multiply-add with what it loads.
WRITE_COST, TURN_COST, TAP_COST = 2, 5, 0.9


def cost(work: Correlation) -> float:
    """What a correlation takes in this form."""
    if not common.depthwise(work.g):
        return float("inf")
    taps = [sum(axis.pixels * len(axis.taps) for axis in axes) for axes in (work.rows, work.columns)]
    pixels = taps[0] * taps[1] * TAP_COST + work.target.H * work.target.W * WRITE_COST
    return work.g.N * _vectors(work) * (pixels + _turning(work))


def weight_cost(work: Correlation) -> float:
    """What a weight gradient takes in this form."""
    if not common.depthwise(work.g):
        return float("inf")
    g = work.g
    products = g.OH * g.OW * len(work.rows[0].taps) * len(work.columns[0].taps)
    return g.N * _vectors(work) * (products * TAP_COST + _turning(work))


def _vectors(work: Correlation) -> int:
    """Of all channels of a pixel."""
    return -(-work.source.C // simd.lanes(work.dtype))


def _turning(work: Correlation) -> float:
    """What bringing a vector of all pixels from planes into the order of the kernels takes, or back.

    For the source, reading it as well: other forms pay for that, too.
    """
    sides = (work.source, TURN_COST + common.READ_COST), (work.target, TURN_COST)
    return sum(side.H * side.W * cost for side, cost in sides if side.layout == "NCHW")


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
    in_w, before, columns_there, pixel = (
        (step[1], 0, source.W, source.C) if direct else (line.in_w, left, line.columns, pitch)
    )  # fmt: skip

    phases: list[tuple[int, ...]] = []
    tiles: list[tuple[int, int, int, int]] = []
    for rows in work.rows:
        for columns in work.columns:
            first_tile, taps = len(tiles), len(columns.taps)
            (kh, row), (kw, column) = [*rows.taps, (0, top)][0], [*columns.taps, (0, left)][0]
            tiles += _tiles(columns.pixels, in_w, column - before, (taps - 1) * tap, columns_there)
            found = row, column - before, (kh * g.KW + kw) * pitch
            shared = taps in SHARED and in_w in (tap, 2 * tap)
            ends = len(rows.taps) if taps else 0, first_tile, len(tiles), taps * shared, in_w // tap, taps
            phases.append((rows.first, rows.pixels, columns.first, columns.pixels, *found, *ends))

    tall = min(work.stride[0], target.H)  # target rows from a row of a phase to the next, as far as there are any
    staged = 0 if target.layout == "NHWC" else tall * target.W * pitch
    size = work.dtype.itemsize
    height = band(g, most_rows, g.N * groups, step[0], span, line.columns * pitch * size, staged * size)
    bands = -(-most_rows // height)
    stage = 0 if direct else ((height - 1) * step[0] + span) * line.columns * pitch
    weights = groups * g.KH * g.KW * pitch
    values = dict(
        C=source.C, IH=source.H, IW=source.W, OH=target.H, OW=target.W, **source.strides("x"), **target.strides("y"),
        taps=g.KH * g.KW, lanes=lanes, pitch=pitch, groups=groups, nothing=weights,
        slabs=weights + lanes,
        own=stage + height * staged, stage=stage, holes=int(work.fill), bands=bands, band=height, rows=most_rows,
        top=top, left=left, span=span, **line._asdict() | {"in_w": in_w}, in_h=step[0], out_h=work.stride[0],
        out_w=work.stride[1], direct=int(direct), line=source.W * source.C if direct else line.columns * pitch,
        pixel=pixel, tap_h=tap_h, tap_pixel=tap * pixel, weight_row=weight_row * g.KW * pitch,
        tap_weight=weight * pitch, relu=int(work.relu), tasks=g.N * groups * bands,
    )  # fmt: skip
    tables = (table(phases, 13), table(tiles, 4))
    return common.plan(
        correlate_depthwise, DEPTHWISE, values, tables, work, work.fill, work.padded, (1, groups * pitch)
    )


def weight_plan(work: Correlation) -> Plan:
    """The plan of a weight gradient."""
    g, lanes = work.g, simd.lanes(work.dtype)
    pitch, groups = _groups(work)
    top, span = reach(work.rows)
    left, span_w = reach(work.columns)
    line = stretch(g.OW, g.SW, span_w)
    tap, _ = _apart(work.columns)
    in_w = g.SW if g.OW > 1 else 1
    near = tap == 1 and in_w <= 2
    direct = near and _direct(work) and work.target.layout == "NHWC"
    vector = pitch * work.dtype.itemsize
    height = band(g, g.OH, g.N, g.SH, span, line.columns * vector, g.OW * vector)
    bands = -(-g.OH // height)
    columns = g.IW if direct else line.columns
    block_size = (g.KH * g.KW + max(WINDOW_SIZES)) * pitch  # the last sums are those of windows that only fill up
    fit = common.PARTS_BYTES // (groups * block_size * work.dtype.itemsize)
    parts = common.shareable(max(1, min(common.TASKS, g.N * bands, fit)))
    gradient = ((height - 1) * g.SH + span) * line.columns * pitch
    in_w, pixel = (in_w, g.OC) if direct else (line.in_w, pitch)
    slabs = 0 if direct else gradient + height * g.OW * pitch
    values = dict(
        C=g.OC, IH=g.IH, IW=g.IW, OH=g.OH, OW=g.OW, **work.source.strides("x"), **work.target.strides("z"),
        taps=g.KH * g.KW, lanes=lanes, pitch=pitch, groups=groups, block_size=block_size, parts=parts,
        slabs=parts * groups * block_size, own=slabs + lanes, nothing=slabs, gradient=gradient, units=g.N * bands,
        bands=bands, band=height, in_h=g.SH, top=0 if direct else top, left=left, span=span,
        **line._asdict() | {"in_w": in_w, "columns": columns}, direct=int(direct), pixel=pixel, line=columns * pixel,
        tap_pixel=tap * pixel, shared=int(near), tasks=parts * groups,
    )  # fmt: skip
    triples = _triples(work, (0, 0) if direct else (top, left), 0 if direct else line.columns, pitch, pixel)
    # Pixels beyond the end of a row are zeros that meet numbers which may be infinite.
    zeros = work.padded or (near and g.OW % QUAD > 0)
    tables = table([(0, 0)], 2), triples
    return common.plan(weight_gradient_depthwise, WEIGHT_DEPTHWISE, values, tables, work, False, zeros)


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

    Without a slab, of no columns, the row in which that is comes after those; in a slab, all are counted from one row.
    And last, where in its row each begins.
    """
    g = work.g
    windows: dict[int, list[tuple[int, int, int, int]]] = {size: [] for size in WINDOW_SIZES}
    for kh, row in work.rows[0].taps:
        left = list(work.columns[0].taps)
        while left:
            size = next(size for size in WINDOW_SIZES if size <= len(left))
            kw, column = left[0]
            begin = (column - first[1]) * pixel
            place = (row - first[0]) * slab_columns * pixel + begin
            windows[size].append((place, (kh * g.KW + kw) * pitch, row * (slab_columns == 0), begin))
            left = left[size:]
    triples = []
    for size, alike in windows.items():
        alike += [(alike[-1][0], g.KH * g.KW * pitch, *alike[-1][2:])] * (-len(alike) % WINDOWS) if alike else []
        for k in range(0, len(alike), WINDOWS):
            three = alike[k : k + WINDOWS]
            triples.append((size, *(values[column] for column in range(4) for values in three)))
    return table(triples, 13)


def _direct(work: Correlation) -> bool:
    """Whether the source is read where it is: its channels are whole vectors."""
    return work.source.layout == "NHWC" and work.source.C % simd.lanes(work.dtype) == 0


def _tiles(pixels: int, step: int, first: int, reach: int, columns: int) -> list[tuple[int, int, int, int]]:
    """Tiles that cover so many pixels of a row, as the kernel takes them.

    A pixel and the next are ``step`` of the row's ``columns`` apart, and the first finds ``first`` to ``first + reach``
    of them. The last tile may compute some pixels again, rather than leave the row.
    """
    tiles, exist = [], min(pixels, PIXELS)
    for start in range(0, pixels, PIXELS):
        pixel = min(start, pixels - exist)
        begin = first + pixel * step
        end = begin + (PIXELS - 1) * step + reach
        whole = exist == PIXELS and begin >= 0 and end < columns
        tiles.append((pixel, 0 if whole else exist, -begin, columns - begin))
    return tiles
