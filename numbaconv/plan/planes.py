"""Plans with lanes along the pixels of planes: those of :mod:`numbaconv.kernels.planes` and ``weight_planes``."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from numbaconv import simd
from numbaconv.kernels.planes import PLANES, TAPS, correlate_planes
from numbaconv.kernels.tiles import PLANE_TILES
from numbaconv.kernels.weight_planes import WEIGHT_PLANES, weight_gradient_planes
from numbaconv.plan import common
from numbaconv.plan.axes import Correlation, Side, reach
from numbaconv.plan.common import Plan, band, round_up, table

#: Tasks that a weight gradient is cut into at least.
LEAST = 4
#: Vectors of a pixel's channels that should be turned together: caches fetch the lines of some neighbours at once.
NEXT = 2
#: A plane's size should not be a multiple of this: its pixels would compete with those of other planes for few places
#: of the first cache.
PAGE = 4096
#: What it takes to write a part of a vector, and to pack a vector.
PART_COST, PACK_COST = 1.25, 3
#: Times that a step of a tile with a single row takes longer than its multiply-adds, for it loads as much as it adds.
LOADING = 2.0
#: The same where what is loaded meets all taps of a column of the kernel.
SWEEPING = 1.2
#: The same for a weight gradient, which reads the planes of a tile again and again: from the first cache, where they do
#: not take more than so many bytes, or from the second.
READING, FIRST_CACHE = (1.4, 2.2), 30_000
#: To add one lane of a sum to another.
LANE_COST = 1
#: What writing every second pixel of a vector takes, and reading or writing pixels that lie further apart.
WIDEN_COST, STRIDE_COST = 12, 50
#: What reading every second pixel takes in addition.
SECOND_COST = 8


class Packing(NamedTuple):
    """How planes are packed: each has a part for every remainder, modulo the step, of the rows and columns it holds."""

    top: int  # source row and column that pixel (0, 0) of a phase reaches first
    left: int
    remainders: list[tuple[int, int]]
    span: int  # rows of a part that a single pixel reaches
    columns: int  # of a part


def cost(work: Correlation) -> float:
    """What a correlation takes in this form."""
    g, lanes = work.g, simd.lanes(work.dtype)
    packing = _packing(work)
    writing = {1: 0, 2: WIDEN_COST}.get(work.stride[1], STRIDE_COST)
    # Not of the height that threads can share: the order of a sum must not depend on how many images there are.
    sums = min(_sums(work, packing, height) for height in _heights(work, packing))
    return g.N * (sums * g.G + _reading(work, lanes) + _turning(work.target, lanes, writing))


def _heights(work: Correlation, packing: Packing) -> set[int]:
    """How many rows a band may have: as many as the cache holds, or fewer."""
    rows = max(1, work.pixels[0])
    groups, _ = _bundle(work)
    row = groups * work.ICG * len(packing.remainders) * packing.columns * work.dtype.itemsize
    turned = groups * work.OCG * work.stride[0] * work.target.W * work.dtype.itemsize * _turns(work.target)
    fewest = -(-rows // common.fitting(rows, 1, packing.span, row, turned))
    return {-(-rows // bands) for bands in range(fewest, min(rows, fewest + common.TASKS) + 1)}


def _height(work: Correlation, packing: Packing) -> int:
    """Rows of a band: those that tiles cover best, and threads can share."""
    g, rows, images = work.g, max(1, work.pixels[0]), work.g.N * _bundle(work)[1]
    return min(
        _heights(work, packing),
        key=lambda height: (_sums(work, packing, height) * common.idling(g, images * -(-rows // height)), -height),
    )


def _bundle(work: Correlation) -> tuple[int, int]:
    """Groups of a task, and how many such bundles there are.

    Where channels are innermost, so many as fill some vectors that are next to each other; of very long rows, as many
    as the cache holds.
    """
    row = (work.ICG * work.source.W + work.OCG * work.target.W) * work.dtype.itemsize
    sides = (work.source, work.ICG), (work.target, work.OCG)
    filled = [-(-NEXT * simd.lanes(work.dtype) // channels) for side, channels in sides if _turns(side)]
    bundles = -(-work.g.G // max(1, min(max(filled, default=1), common.SLAB_BYTES // max(1, row))))
    return -(-work.g.G // bundles), bundles  # of equal size


def _turns(side: Side) -> bool:
    """Whether the channels of a pixel lie next to each other, not its pixels."""
    return side.layout == "NHWC" and side.C > 1


def _sums(work: Correlation, packing: Packing, height: int) -> float:
    """What all tiles of a group of an image take, in bands of so many rows; and to pack what these have in common."""
    lanes, total, tiles = simd.lanes(work.dtype), 0.0, rows_of(work.OCG)
    for rows, columns in product(work.rows, work.columns):
        steps = work.ICG * len(rows.taps) * len(columns.taps)
        bands, left = divmod(rows.pixels, height)
        for _, tile, _ in tiles:
            total += bands * min(_tilings(height, columns.pixels, packing.columns, tile, steps, lanes))
            if left:
                total += min(_tilings(left, columns.pixels, packing.columns, tile, steps, lanes))
    again = (-(-work.pixels[0] // height) - 1) * (packing.span - 1)
    return total + again * work.ICG * len(packing.remainders) * packing.columns / lanes * PACK_COST


def weight_cost(work: Correlation) -> float:
    """What a weight gradient takes in this form."""
    g, lanes = work.g, simd.lanes(work.dtype)
    part = g.OC * g.ICG * g.KH * g.KW * lanes * work.dtype.itemsize
    _, bundles = _bundle(work)
    if part > common.PARTS_BYTES * bundles or max(1, common.PARTS_BYTES // part) * bundles < LEAST:
        return float("inf")  # too many sums for a task, or too few tasks
    vectors = -(-((g.OH - 1) * _packing(work).columns + g.OW) // lanes)
    weights = work.ICG * len(work.rows[0].taps) * len(work.columns[0].taps)
    total = 0.0
    for _, height, _ in rows_of(work.OCG):
        far = height * vectors * lanes * work.dtype.itemsize > FIRST_CACHE
        time = 2 * height * READING[far] if height > 1 else 8  # a sum whose next addition waits for the last takes 8
        total += -(-weights // 2) * (vectors * time + 6 * height + 2 * common.TILE_COST)
    whole = g.OC * weights * lanes * LANE_COST
    return g.N * (total * g.G + _reading(work, lanes) + _turning(work.target, lanes, 0)) + whole


def _reading(work: Correlation, lanes: int) -> float:
    """What reading the source takes: of its rows, only those that some tap finds."""
    rows = len({row for row, _ in _packing(work).remainders}) / work.step[0]
    cost = {1: common.READ_COST, 2: common.READ_COST + SECOND_COST}.get(work.step[1], STRIDE_COST)
    return rows * _turning(work.source, lanes, cost)


def _turning(side: Side, lanes: int, stride_cost: float) -> float:
    """What reading or writing an image takes, beyond that of planes whose pixels are neighbours."""
    return side.C * side.H * side.W / lanes * (common.TURN_COST if side.layout == "NHWC" else stride_cost)


def plan(work: Correlation) -> Plan:
    """The plan of a forward pass or an input gradient."""
    g, lanes, ICG = work.g, simd.lanes(work.dtype), work.ICG
    packing = _packing(work)
    most_rows, most_columns = work.pixels
    parts, columns = len(packing.remainders), packing.columns
    height = _height(work, packing)
    part = (height - 1 + packing.span) * columns
    plane = _plane(parts * part, work.dtype)
    rows = rows_of(work.OCG)
    bundle, bundles = _bundle(work)
    steps, phases = _steps(work, packing, part, plane)
    along, below = _tilings(height, most_columns, columns, rows[0][1], steps.shape[1] // max(1, len(phases)), lanes)
    runs, phases = _runs(steps, phases, columns)
    heights = sum(tile for _, tile, _ in rows)
    # The last tile may hang over the end, and reads on from there.
    stage = round_up(bundle * ICG * plane + max(PLANE_TILES.values()) * max(columns, lanes) + lanes, lanes)
    planes = own = stage + max(height * vectors for height, vectors in PLANE_TILES.items()) * lanes
    strides, turned = work.target.strides("y"), _turns(work.target)
    del strides["y_w"]  # pixels are neighbours: in planes, or as the only channel
    if turned:
        target_plane = _plane(min(height * work.stride[0], work.target.H) * work.target.W, work.dtype)
        strides |= {"y_c": target_plane, "y_h": work.target.W}
        own += bundle * work.OCG * target_plane
    bands = -(-most_rows // height)
    one, channel, _ = _filter(work)
    values = dict(
        G=g.G, ICG=ICG, OCG=work.OCG, IH=work.source.H, IW=work.source.W,
        **work.source.strides("x"), **strides,
        w_group=g.OCG * one, w_row=one if work.forward else channel, joined=_joined(steps[0], ICG),
        heights=heights, lanes=lanes, slabs=round_up(g.G * heights * steps.shape[1], lanes), own=own, stage=stage,
        bundle=bundle, bundles=bundles, turned=int(turned), planes=planes, pixel=work.target.C,
        holes=int(work.fill), OH=work.target.H, bands=bands, band=height, top=packing.top, left=packing.left,
        plane=plane, part=part, rows=height - 1 + packing.span, columns=columns, in_h=work.step[0], in_w=work.step[1],
        out_h=work.stride[0], out_w=work.stride[1], stacked=int(below <= along), relu=int(work.relu),
        tasks=g.N * bundles * bands,
    )  # fmt: skip
    tables = (table(packing.remainders, 2), steps, table(runs, 3), table(phases, 9), table(rows, 3))
    return common.plan(correlate_planes, PLANES, values, tables, work, work.fill, work.padded, (g.G, heights))


def weight_plan(work: Correlation) -> Plan:
    """The plan of a weight gradient."""
    g, dtype, lanes, ICG = work.g, work.dtype, simd.lanes(work.dtype), work.ICG
    packing = _packing(work)
    remainders, columns = packing.remainders, packing.columns
    row = columns * dtype.itemsize
    bundle, bundles = _bundle(work)
    height = band(g, g.OH, g.N, 1, packing.span, bundle * ICG * len(remainders) * row, bundle * work.OCG * row)
    part = (height - 1 + packing.span) * columns
    plane = _plane(len(remainders) * part, dtype)
    steps, _ = _steps(work, packing, part, plane)
    rows = rows_of(work.OCG)
    heights = sum(tile for _, tile, _ in rows)
    block = heights * round_up(steps.shape[1], 2) * lanes
    bands = -(-g.OH // height)
    fit = common.PARTS_BYTES // max(1, g.G * block * dtype.itemsize)
    parts = common.shareable(max(1, min(-(-common.TASKS // bundles), g.N * bands, fit)))
    vectors = -(-((height - 1) * columns + g.OW) // lanes)
    z_plane = _plane(vectors * lanes, dtype)
    one, _, _ = _filter(work)
    gradient = round_up(bundle * ICG * plane + lanes, lanes)
    gradients = (bundle - 1) * work.OCG + heights  # the last tile may hang over the end
    sums = gradient + gradients * z_plane
    lane_sums, shared = (sums + bundle * block, 0) if parts == 1 else (sums, parts * g.G * block)
    values = dict(
        G=g.G, ICG=ICG, OCG=work.OCG, IH=g.IH, IW=g.IW, OH=g.OH, OW=g.OW,
        **work.source.strides("x"), **work.target.strides("z"), w_group=g.OCG * one, w_row=one, lanes=lanes,
        block=block, parts=parts, slabs=shared, own=lane_sums + lanes * lanes, gradient=gradient, sums=sums,
        lane_sums=lane_sums, bundle=bundle, bundles=bundles,
        units=g.N * bands, bands=bands, band=height, top=packing.top, left=packing.left, plane=plane, part=part,
        rows=height - 1 + packing.span, columns=columns, in_h=work.step[0], in_w=work.step[1],
        z_plane=z_plane, vectors=vectors, tasks=parts * bundles,
    )  # fmt: skip
    tables = (table(remainders, 2), steps, table(rows, 3))
    fill = steps.shape[1] < ICG * g.KH * g.KW
    zeros = True  # rows of the gradient are filled up
    return common.plan(weight_gradient_planes, WEIGHT_PLANES, values, tables, work, fill, zeros)


def _packing(work: Correlation) -> Packing:
    """Which rows and columns of the source a plane has to hold."""
    (top, span_h), (left, span_w), (step_h, step_w) = reach(work.rows), reach(work.columns), work.step
    rows, columns = (
        {(offset - first) % step for axis in phases for _, offset in axis.taps} or {0}
        for phases, first, step in ((work.rows, top, step_h), (work.columns, left, step_w))
    )
    remainders = sorted((row, column) for row in rows for column in columns)
    return Packing(top, left, remainders, (span_h - 1) // step_h + 1, work.pixels[1] + (span_w - 1) // step_w)


def _plane(elements: int, dtype: np.dtype) -> int:
    """From a plane of so many elements to the next."""
    lanes = simd.lanes(dtype)
    plane = round_up(elements, lanes)
    return plane + lanes if plane * dtype.itemsize % PAGE == 0 else plane


def _tilings(rows: int, columns: int, pitch: int, height: int, steps: int, lanes: int) -> tuple[float, float]:
    """What tiles take that find their vectors along the rows of a plane, and what those with rows below each other do.

    Vectors that run on from row to row are written in parts.
    """
    vectors = PLANE_TILES[height]
    along = -(-((rows - 1) * pitch + columns) // (vectors * lanes))
    below = -(-rows // vectors) * -(-columns // lanes)
    time, below_time = (height * vectors * factor for factor in ((LOADING, SWEEPING) if height == 1 else (1.0, 1.0)))
    writing = PART_COST * height * vectors * (1 + lanes / max(1, pitch))
    return along * (time * steps + writing + common.TILE_COST), below * (below_time * steps + common.TILE_COST)


def rows_of(channels: int) -> list[tuple[int, int, int]]:
    """Tiles that cover a group's output channels: (first channel, height, channels that exist)."""
    return common.cover(channels, {height: height * (LOADING if height == 1 else 1.0) + 0.5 for height in PLANE_TILES})


def _filter(work: Correlation) -> tuple[int, int, int]:
    """Elements of the weight from an output channel, an input channel and a tap of it to the next."""
    g = work.g
    one = g.ICG * g.KH * g.KW
    return (one, g.KH * g.KW, 1) if g.layout == "NCHW" else (one, 1, g.ICG)


def _steps(work: Correlation, packing: Packing, part: int, plane: int) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """For every phase, input channel and tap: the weight, and in the slab what it is multiplied by; and the phases."""
    one, channel, tap = _filter(work)
    steps = [np.empty((0, 2), np.int64)]
    phases: list[tuple[int, ...]] = []
    first = 0
    for rows in work.rows:
        for columns in work.columns:
            taps = [
                (kh * work.g.KW * tap + kw * tap, _offset(work, packing, part, row, column))
                for kh, row in sorted(rows.taps) for kw, column in sorted(columns.taps)
            ]  # fmt: skip
            channels = np.arange(work.ICG)[:, None, None] * np.array([channel if work.forward else one, plane])
            steps.append((channels + np.array(taps, np.int64).reshape(-1, 2)).reshape(-1, 2))
            last = first + len(steps[-1])
            phases.append((rows.first, rows.pixels, columns.first, columns.pixels, first, last))
            first = last
    return np.ascontiguousarray(np.concatenate(steps).T), phases


def _runs(
    steps: np.ndarray, phases: list[tuple[int, ...]], pitch: int
) -> tuple[list[tuple[int, int, int]], list[tuple[int, ...]]]:
    """Runs of steps that read rows below each other, ``pitch`` elements apart; and the phases with theirs."""
    runs: list[tuple[int, int, int]] = []
    with_runs = []
    for phase in phases:
        first, last = phase[4:6]
        place = {offset: step for step, offset in enumerate(steps[1, first:last].tolist(), first)}
        below = {step: place.get(offset + pitch) for offset, step in place.items()}
        apart = next((after - step for step, after in below.items() if after is not None), 0)
        begins = set(place.values()) - {after for step, after in below.items() if after == step + apart}
        start = len(runs)
        for step in sorted(begins):
            length, after = 1, step
            while below[after] == after + apart:
                length, after = length + 1, after + apart
            for taps in _summed(length):
                runs.append((step, int(steps[1, step]), taps))
                step += taps * apart
        with_runs.append((*phase, start, len(runs), apart))
    return runs, with_runs


def _summed(taps: int) -> list[int]:
    """A run of taps as those that there are loops for."""
    parts = []
    while taps:
        parts.append(next(size for size in TAPS if size <= taps))
        taps -= parts[-1]
    return parts


def _offset(work: Correlation, packing: Packing, part: int, row: int, column: int) -> int:
    """Where in a plane the first pixel finds what a tap reads."""
    i, r = divmod(row - packing.top, work.step[0])
    j, c = divmod(column - packing.left, work.step[1])
    return packing.remainders.index((r, c)) * part + i * packing.columns + j


def _joined(offsets: np.ndarray, channels: int) -> int:
    """How many steps at a time read weights that follow each other: all, those of a channel, or one."""
    for joined in (len(offsets), len(offsets) // channels):
        if joined and len(offsets) % joined == 0 and (np.diff(offsets.reshape(-1, joined)) == 1).all():
            return joined
    return 1
