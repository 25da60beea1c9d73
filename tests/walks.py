"""What kernels do with a plan, walked through as far as it decides where memory is touched.

Nothing is computed. Every offset that a kernel would make is made, and must lie in the piece of memory that it is meant
for; every pixel and every weight must be met once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

import numpy as np

from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels.correlation import (
    CORRELATION,
    _runs_inside,
    correlate,
    correlate_pooled,
    correlate_three,
    correlate_three_pooled,
)
from numbaconv.kernels.depthwise import DEPTHWISE, PIXELS, SHARED, correlate_depthwise
from numbaconv.kernels.images import IMAGES, correlate_images
from numbaconv.kernels.planes import PLANES, TAPS, correlate_planes
from numbaconv.kernels.tiles import HEIGHTS, PLANE_TILES
from numbaconv.kernels.weight_depthwise import QUAD, WEIGHT_DEPTHWISE, WINDOW_SIZES, weight_gradient_depthwise
from numbaconv.kernels.weight_gradient import (
    FEW_ROWS,
    WEIGHT_GRADIENT,
    WINDOWS,
    weight_gradient,
    weight_gradient_pooled,
)
from numbaconv.kernels.weight_images import ROWS, WEIGHT_IMAGES, weight_gradient_images
from numbaconv.kernels.weight_planes import WEIGHT_PLANES, weight_gradient_planes
from numbaconv.kernels.weight_winograd import (
    WEIGHT_WINOGRAD,
    weight_gradient_winograd,
    weight_gradient_winograd_normed,
    weight_gradient_winograd_pooled,
)
from numbaconv.kernels.winograd import (
    WINOGRAD,
    correlate_winograd,
    correlate_winograd_normed,
    correlate_winograd_pooled,
    correlate_winograd_summed,
)
from numbaconv.nn.normalisation import Normalised
from numbaconv.plan import Plan, depthwise, winograd
from numbaconv.plan.axes import forward_axis

RECORDS = {
    correlate: CORRELATION,
    weight_gradient: WEIGHT_GRADIENT,
    correlate_planes: PLANES,
    weight_gradient_planes: WEIGHT_PLANES,
    correlate_images: IMAGES,
    weight_gradient_images: WEIGHT_IMAGES,
    correlate_depthwise: DEPTHWISE,
    weight_gradient_depthwise: WEIGHT_DEPTHWISE,
    correlate_winograd: WINOGRAD,
    weight_gradient_winograd: WEIGHT_WINOGRAD,
    correlate_pooled: CORRELATION,
    correlate_three: CORRELATION,
    correlate_three_pooled: CORRELATION,
    weight_gradient_pooled: WEIGHT_GRADIENT,
    correlate_winograd_pooled: WINOGRAD,
    weight_gradient_winograd_pooled: WEIGHT_WINOGRAD,
    correlate_winograd_normed: WINOGRAD,
    weight_gradient_winograd_normed: WEIGHT_WINOGRAD,
    correlate_winograd_summed: WINOGRAD,
}


def record(plan: Plan) -> Any:
    """The integers of a plan, by name."""
    return np.asarray(plan.numbers).view(RECORDS[plan.kernel])[0]


def assert_rows_cover(rows: Any, channels: int) -> None:
    """Every channel is in one tile, tiles are packed one after the other, and only the last one may hang over."""
    assert [first + p for first, _, exist in rows for p in range(exist)] == list(range(channels))
    assert [first for first, *_ in rows] == [sum(row[1] for row in rows[:k]) for k in range(len(rows))]
    assert all(height in PLANE_TILES and 1 <= exist <= height for _, height, exist in rows)


def check_correlation(plan: Plan, g: Conv2dGeometry, name: str, window_rows: int = 1) -> None:
    """Walk through what ``correlate`` does with a plan, as far as it decides where memory is touched.

    With the rows of a window, what ``correlate_pooled`` does.
    """
    n = record(plan)
    taps, runs, phases, tiles = plan.tables
    joined = 3 if plan.kernel in (correlate_three, correlate_three_pooled) else 1  # taps of a run
    H, W = (g.OH, g.OW) if name == "forward" else (g.IH, g.IW)
    slab = ((n.band - 1) * n.in_h + n.span) * n.columns * n.ICG

    # shared memory: packed weights, then the threads' parts
    assert n.G * n.blocks * n.block_size <= n.slabs <= plan.shared
    assert plan.no_bias.shape == (n.G, n.blocks * n.width)
    # a thread's part: the slab, unless the image itself is read, then the staged tile
    if n.direct:
        assert (n.x_c, n.x_w, n.x_h, n.columns, n.pieces) == (1, n.ICG, n.IW * n.ICG, n.IW, 1)
        slab = beyond = n.IH * n.x_h - n.top * n.x_h - n.left * n.x_w
    else:
        assert slab <= n.stage
        beyond = n.own
    assert n.stage + max(tiles[:, 1], default=0) * n.width <= n.rows <= n.own == plan.own
    assert n.OH == H
    if plan.kernel in (correlate_pooled, correlate_three_pooled):
        assert n.band % window_rows == H % window_rows == 0
        assert (n.G, n.y_c, n.y_h) == (1, 1, W * n.OCG)
        assert n.rows + n.band * n.y_h <= n.own
    assert len(taps) * n.ICG * n.width <= n.block_size

    reached, summed = set(), set()
    for first_row, rows, first_column, columns, first_run, last_run, first_tile, last_tile in phases:
        mine, pixels = runs[first_run:last_run], tiles[first_tile:last_tile]
        assert len(mine) or name == "forward"  # which has its bias to write, if nothing else
        assert sum(exist for *_, exist in pixels) == columns
        assert rows <= n.bands * n.band
        row = ((rows if n.direct else min(n.band, rows)) - 1) * n.in_h * n.columns * n.ICG
        for offset, weights, steps, first_reached, last_reached in mine:
            summed.update(range(weights // n.width, weights // n.width + joined * steps))
            assert first_reached == offset // (n.columns * n.ICG)
            assert last_reached == (offset + steps - 1) // (n.columns * n.ICG) < n.span
            assert offset >= 0
            assert joined == 1 or steps == n.ICG
            assert 0 <= weights <= n.block_size - joined * steps * n.width
            last = offset + (joined - 1) * n.in_w * n.ICG + steps - 1 + row
            for start, height, exist in pixels:
                # pixels that exist are in the slab; those that do not are read, too, but only from this thread's part
                assert last + (start + exist - 1) * n.in_w * n.ICG < slab
                assert last + (start + height - 1) * n.in_w * n.ICG < beyond
        for q in range(rows):
            reached.update((first_row + q * n.out_h, first_column + p * n.out_w) for p in range(columns))
            check_runs_inside(runs, first_run, last_run, n.top + q * n.in_h, n.IH)
        assert first_row + (rows - 1) * n.out_h < H
        assert first_column + (columns - 1) * n.out_w < W
    # pixels that no phase writes are filled before
    assert len(reached) == sum(phase[1] * phase[3] for phase in phases)
    assert plan.fill == (len(reached) < H * W)

    # weights that exist, all of them once where no tap is left out
    assert summed == set(range(len(taps) * n.ICG))
    used: Counter[int] = Counter()
    for group in range(n.G):
        for block in range(n.blocks):
            channel = block * n.width
            lanes = min(n.width, n.OCG - channel)
            start = group * n.w_group + channel * n.w_lane
            for c in range(n.ICG):
                used.update((start + taps[:, None] + c * n.w_channel + np.arange(lanes) * n.w_lane).ravel().tolist())
    assert_weights_once(used, len(taps), g)
    assert n.tasks == g.N * n.G * n.bands
    assert plan.threads <= n.tasks


def check_runs_inside(runs: np.ndarray, first: int, last: int, top: int, IH: int) -> None:
    """Of the taps that a row needs, none is left out; those that find only padding are."""
    choose = getattr(_runs_inside, "py_func", _runs_inside)
    kept = range(*choose(runs, first, last, top, IH))
    for run in range(first, last):
        rows = range(top + runs[run, 3], top + runs[run, 4] + 1)
        assert (run in kept) == any(0 <= row < IH for row in rows)


def check_weight_gradient(plan: Plan, g: Conv2dGeometry, name: str, window_rows: int = 1) -> None:
    """The same for ``weight_gradient``."""
    n = record(plan)
    taps, runs, windows, tiles = plan.tables
    slab = ((n.band - 1) * n.in_h + n.span) * n.columns * n.ICG

    assert n.parts * n.G * n.blocks * n.block_size <= n.slabs <= plan.shared
    assert len(runs) == n.band
    whole = (n.bands - 1) * n.band  # rows before the last band
    if n.direct:  # the image itself is read, and the last band must not leave it
        assert (n.x_c, n.x_w, n.x_h, n.columns, n.pieces) == (1, n.ICG, n.IW * n.ICG, n.IW, 1)
        slab = beyond = (n.IH - n.top - whole * n.in_h) * n.x_h - n.left * n.x_w
    else:
        assert slab <= n.gradient
        beyond = n.own
    if n.z_direct:
        assert (n.G, n.z_c, n.z_w, n.z_block, n.z_step) == (1, 1, n.OCG, n.width, n.OCG)
        assert n.OCG % n.lanes == 0
    elif plan.kernel is weight_gradient_pooled:
        assert n.band % window_rows == g.OH % window_rows == 0
        assert (n.G, n.z_block, n.z_step, n.OCG % n.lanes) == (1, n.width, n.OCG, 0)
        assert n.gradient + n.band * n.OW * n.OCG <= n.own == plan.own
    else:
        assert n.gradient + -(-n.blocks // n.splits) * n.z_block <= n.own == plan.own
    for row, (offset, gradient, steps) in enumerate(runs):
        if n.z_direct or plan.kernel is weight_gradient_pooled:
            assert (gradient, steps) == (row * n.OW * n.OCG, n.OW)
        else:
            assert 0 <= gradient <= n.z_block - steps * n.width
        if n.direct and whole + row >= n.OH:
            continue
        last = offset + (steps - 1) * n.in_w * n.ICG
        for window, row, reached in windows:
            assert reached == window // (n.columns * n.ICG) < n.span
            for start, height, exist in tiles:
                assert window >= 0
                assert last + window + start + exist - 1 < slab
                assert last + window + start + height - 1 < beyond
                assert (row + start + height) * n.width <= n.block_size
    if n.few:  # three windows are summed together, each of them in a tile
        assert len(windows) % WINDOWS == 0
        assert n.few in FEW_ROWS
        assert [(start, height) for start, height, _ in tiles] == [(0, n.few)]
    # every tap has rows of its own, and they are summed in some tile
    summed = {row + start + p for _, row, _ in windows for start, _, exist in tiles for p in range(exist)}
    rows = Counter(row + c for _, row in taps for c in range(n.ICG))
    assert set(rows.values()) <= {1}
    assert set(rows) == summed

    check_unpacking(n, taps, g)
    assert plan.fill == (len(taps) < g.KH * g.KW)

    assert n.units == g.N * n.bands
    assert (n.bands - 1) * n.band < g.OH <= n.bands * n.band
    check_parts(n)


def check_unpacking(n: Any, taps: np.ndarray, g: Conv2dGeometry) -> None:
    """What ``unpack_block`` writes is weights that exist, all of them once where no tap is left out."""
    assert len(taps) % n.joined == 0
    steps = np.diff(taps.reshape(-1, n.joined, 2), axis=1)
    assert (steps[..., 1] == n.ICG).all()
    if n.w_channel != 1 or n.ICG == 1:  # weights of joined taps are taken as if they followed each other
        assert (steps[..., 0] == 1).all()
    used: Counter[int] = Counter()
    for group in range(n.G):
        for block in range(n.blocks):
            channel = block * n.width
            lanes = min(n.width, n.OCG - channel)
            assert lanes > 0
            start = group * n.w_group + channel * n.w_lane
            for c in range(n.ICG):
                used.update((start + taps[:, :1] + c * n.w_channel + np.arange(lanes) * n.w_lane).ravel().tolist())
    assert_weights_once(used, len(taps), g)


def check_parts(n: Any) -> None:
    """Every unit of work, for every group and block of channels, is one task's."""
    assert n.tasks == n.parts * n.G * n.splits
    work: Counter[tuple[int, int, int]] = Counter()
    for task in range(n.tasks):
        part, group, split = task // (n.G * n.splits), task // n.splits % n.G, task % n.splits
        for unit in range(part * n.units // n.parts, (part + 1) * n.units // n.parts):
            for block in range(split * n.blocks // n.splits, (split + 1) * n.blocks // n.splits):
                work[unit, group, block] += 1
    assert len(work) == n.units * n.G * n.blocks
    assert set(work.values()) <= {1}


def check_planes(plan: Plan, g: Conv2dGeometry, name: str) -> None:
    """The same for ``correlate_planes``."""
    n = record(plan)
    remainders, (weights, reads), runs, phases, rows = plan.tables
    steps = np.stack((weights, reads), 1)
    H, W = (g.OH, g.OW) if name == "forward" else (g.IH, g.IW)
    slab = n.bundle * n.ICG * n.plane

    # shared memory: packed weights, then the threads' parts
    assert_rows_cover(rows, n.OCG)
    assert n.heights == sum(rows[:, 1])
    assert n.G * n.heights * len(steps) <= n.slabs <= plan.shared
    assert plan.no_bias.shape == (n.G, n.heights)
    # a thread's part: the planes, then the staged tile, then the target's planes if those are turned
    assert_planes_hold_their_parts(n, remainders)
    assert slab <= n.stage
    assert n.stage + max(height * PLANE_TILES[height] for height in rows[:, 1]) * n.lanes <= n.planes <= n.own
    assert n.own == plan.own
    assert (n.OH, n.holes) == (H, plan.fill)
    if n.turned:
        assert (n.y_h, n.pixel) == (W, n.G * n.OCG)
        assert n.y_c % n.lanes == 0
        assert min(n.band * n.out_h, H) * W <= n.y_c
        assert n.planes + n.bundle * n.OCG * n.y_c <= n.own
    else:
        assert n.y_h == W
        assert n.y_c == H * W or n.G * n.OCG == 1

    reached, last_of_before, last_run = set(), 0, 0
    for first_row, count, first_column, columns, first, last, first_run, end, below in phases:
        assert (first, first_run) == (last_of_before, last_run)
        last_of_before, last_run = last, end
        check_runs(n, steps, runs[first_run:end], int(below), range(first, last))
        assert last > first or name == "forward"  # which has its bias to write, if nothing else
        assert count <= n.bands * n.band
        assert columns <= n.columns
        for left in {min(n.band, count), (count - 1) % n.band + 1}:  # rows of the first band, and of the last
            check_steps(n, remainders, steps[first:last], left, columns)
            for height in set(rows[:, 1].tolist()):
                check_pixels(n, steps[first:last, 1], PLANE_TILES[height], left, columns)
        for q in range(count):  # a band's rows are turned with that band
            top = q // n.band * n.band * n.out_h
            assert top <= first_row + q * n.out_h < min(top + n.band * n.out_h, H)
            reached.update((first_row + q * n.out_h, first_column + p * n.out_w) for p in range(columns))
        assert first_row + (count - 1) * n.out_h < H
        assert first_column + (columns - 1) * n.out_w < W
    assert (last_of_before, last_run) == (len(steps), len(runs))
    assert len(reached) == sum(phase[1] * phase[3] for phase in phases)
    assert plan.fill == (len(reached) < H * W)

    # so many steps at a time are read as if their weights followed each other
    assert len(steps) % n.joined == 0
    assert (np.diff(steps[:, 0].reshape(-1, n.joined)) == 1).all()
    check_filters(n, steps, n.w_row, g)
    assert_bundles_cover(n)
    assert n.tasks == g.N * n.bundles * n.bands
    assert plan.threads <= n.tasks


def assert_bundles_cover(n: Any) -> None:
    """Every group is in one bundle, and no bundle is empty."""
    assert (n.bundles - 1) * n.bundle < n.G <= n.bundles * n.bundle


def assert_planes_hold_their_parts(n: Any, remainders: np.ndarray) -> None:
    """All that ``pack_planes`` writes lies in its plane, and no two parts share an element."""
    assert n.rows * n.columns <= n.part
    assert len(remainders) * n.part <= n.plane
    found = [tuple(pair) for pair in remainders.tolist()]
    assert found[0] == (0, 0)  # the output's gradient is packed with this one alone
    assert len(set(found)) == len(found)
    assert all(0 <= h < n.in_h and 0 <= w < n.in_w for h, w in found)


def check_steps(n: Any, remainders: np.ndarray, steps: np.ndarray, count: int, columns: int) -> None:
    """What pixels that exist read lies in the plane of one channel, in one part, and in rows and columns of it."""
    channel, rest = np.divmod(steps[:, 1], n.plane)
    part, rest = np.divmod(rest, n.part)
    row, column = np.divmod(rest, n.columns)
    assert ((channel >= 0) & (channel < n.ICG)).all()
    assert (part < len(remainders)).all()
    assert (row + count <= n.rows).all()
    assert (column + columns <= n.columns).all()
    # every channel is read by the same taps
    assert set(Counter(channel.tolist()).values()) <= {len(steps) // n.ICG}


def check_runs(n: Any, steps: np.ndarray, runs: np.ndarray, below: int, wanted: range) -> None:
    """Every step of a phase is in one run, as far below the step before it as a row is long."""
    assert set(runs[:, 2].tolist()) <= set(TAPS)
    taken = [(first + k * below, offset + k * int(n.columns)) for first, offset, taps in runs for k in range(taps)]
    assert sorted(step for step, _ in taken) == list(wanted)
    assert all(steps[step, 1] == offset for step, offset in taken)


def check_pixels(n: Any, offsets: np.ndarray, vectors: int, count: int, columns: int) -> None:
    """The tiles of a phase hold every pixel, once unless they end with the image; what they read is a thread's own."""
    width = vectors * n.lanes
    lane = np.arange(width)
    if n.stacked:
        chunks = -(-columns // n.lanes)
        k = np.arange(-(-count // vectors) * chunks)[:, None]
        row = np.clip(k // chunks * vectors, 0, max(0, count - vectors)) + lane // n.lanes
        column = np.clip(k % chunks * n.lanes, 0, max(0, columns - n.lanes)) + lane % n.lanes
    else:
        k = np.arange(-(-((count - 1) * n.columns + columns) // width))[:, None]
        row, column = np.divmod(k * width + lane, n.columns)
    exist = (row < count) & (column < columns)
    held = sorted((row * columns + column)[exist].tolist())
    again = n.stacked and ((count > vectors and count % vectors > 0) or (columns > n.lanes and columns % n.lanes > 0))
    assert (sorted(set(held)) if again else held) == list(range(count * columns))
    if len(offsets):
        assert min(offsets) >= 0
        assert (row * n.columns + column).max() + max(offsets) < n.own


def check_filters(n: Any, steps: np.ndarray, w_row: int, g: Conv2dGeometry) -> None:
    """The steps of all output channels are weights that exist, all of them once where no tap is left out."""
    first = np.arange(n.G)[:, None] * n.w_group + np.arange(n.OCG) * w_row
    used = Counter((first[..., None] + steps[:, 0]).ravel().tolist())
    assert len(steps) % n.ICG == 0
    assert_weights_once(used, len(steps) // n.ICG, g)


def check_images(plan: Plan, g: Conv2dGeometry, name: str) -> None:
    """The same for ``correlate_images``."""
    n = record(plan)
    steps, bands, rows, columns, tiles = plan.tables
    steps = steps[:, None]
    forward = name == "forward"
    source, target = (g.IC, g.IH, g.IW), (g.OC, g.OH, g.OW)
    (xC, xH, xW), (C, H, W) = (source, target) if forward else (target, source)
    ICG = xC // g.G
    assert (n.N, n.G, n.ICG, n.OCG, n.W) == (g.N, g.G, ICG, C // g.G, W)
    assert (n.x_n, n.y_n) == (xC * xH * xW, C * H * W)

    # shared memory: packed weights, then the threads' parts
    assert [first + p for first, _, exist in tiles for p in range(exist)] == list(range(n.OCG))
    assert [first for first, *_ in tiles] == [sum(tile[1] for tile in tiles[:k]) for k in range(len(tiles))]
    assert all(height in HEIGHTS and 1 <= exist <= height for _, height, exist in tiles)
    assert n.heights == sum(tiles[:, 1])
    assert n.G * n.heights * steps.size <= n.slabs <= plan.shared
    assert plan.no_bias.shape == (n.G, n.heights)
    # a thread's part: the turned source, then the turned target, which the last tile may hang over
    read, written = bands[:, 3].max(), bands[:, 1].max()
    assert n.width in (n.lanes, 2 * n.lanes)
    assert (n.x_pieces - 1) * n.x_piece + read * n.x_row * n.width <= n.stage
    last = (n.G - 1) * n.OCG * n.y_c + (written - 1) * n.y_h + (W - 1) * n.y_w
    assert n.stage + last + (n.heights - 1) * n.y_c + n.width <= n.own == plan.own
    assert n.stage + (n.y_pieces - 1) * n.y_piece + written * n.y_row * n.width <= n.own
    sides = (n.x_pieces, n.x_row, n.x_step, (xC, xH, xW)), (n.y_pieces, n.y_row, n.y_step, (C, H, W))
    for pieces, row, step, shape in sides:
        assert pieces * row == shape[0] * shape[2]
        assert (pieces - 1) * step + shape[1] * row <= np.prod(shape)

    # every row is in one band, which holds what it reads
    assert [row for first, count, *_ in bands for row in range(first, first + count)] == list(range(H))
    loops = n.a_outer, n.a_middle, n.a_inner, n.b_outer, n.b_middle, n.b_inner
    met: Counter[tuple[int, int, int, int]] = Counter()
    for first, count, top, high in bands.tolist():
        assert 0 <= top <= top + high <= xH
        for row in range(first, first + count):
            for column in range(W):
                sums = list(summed(rows[row].tolist(), columns[column].tolist(), loops, n, top))
                for step, offset in sums:
                    assert 0 <= step < steps.size
                    c, y, x = turned_place(offset, n)
                    assert (y < high, x < xW, c < ICG) == (True, True, True)
                    met[row, column, int(steps[step, 0]), (c * xH + top + y) * xW + x] += 1
    assert set(met.values()) <= {1}
    assert set(met) == set(products(g, forward))
    assert len(steps) % n.joined == 0
    assert (np.diff(steps[:, 0].reshape(-1, n.joined)) == 1).all()
    check_filters(n, steps, n.w_row, g)
    assert n.tasks == -(-g.N // n.width) * len(bands)
    assert plan.threads <= n.tasks
    assert not plan.fill
    assert not plan.zeros


def summed(row: list[int], column: list[int], loops: Any, n: Any, top: int) -> Iterator[tuple[int, int]]:
    """The packed steps, and the turned elements of a group, that the loops of ``correlate_images`` meet at a pixel."""
    a_outer, a_middle, a_inner, b_outer, b_middle, b_inner = loops
    tap, source = row[1] * n.a_row + column[1] * n.a_column, (row[0] - top) * n.x_h + column[0] * n.x_w
    for i in range(row[2]):
        for j in range(row[3] * column[2]):
            for k in range(column[3]):
                yield (
                    tap + i * a_outer + j * a_middle + k * a_inner,
                    source + i * b_outer + j * b_middle + k * b_inner,
                )


def turned_place(offset: int, n: Any) -> tuple[int, int, int]:
    """Channel, row and column of a turned element."""
    if n.x_pieces > 1:  # planes
        return offset // n.x_piece, offset % n.x_piece // n.x_h, offset % n.x_h // n.x_w
    return offset % n.x_w // n.width, offset // n.x_h, offset % n.x_h // n.x_w


def products(g: Conv2dGeometry, forward: bool) -> Iterator[tuple[int, int, int, int]]:
    """Target row and column, the weight, and the source element of one group: all products of one target channel."""
    row, column, channel = (g.KW, 1, g.KH * g.KW) if g.layout == "NCHW" else (g.KW * g.ICG, g.ICG, 1)
    for oh, ow, kh, kw in product(range(g.OH), range(g.OW), range(g.KH), range(g.KW)):
        ih, iw = oh * g.SH + kh * g.DH - g.PT, ow * g.SW + kw * g.DW - g.PL
        if 0 <= ih < g.IH and 0 <= iw < g.IW:
            tap = kh * row + kw * column
            for c in range(g.ICG if forward else g.OCG):
                if forward:
                    yield oh, ow, tap + c * channel, (c * g.IH + ih) * g.IW + iw
                else:
                    yield ih, iw, tap + c * g.ICG * g.KH * g.KW, (c * g.OH + oh) * g.OW + ow


def check_weight_images(plan: Plan, g: Conv2dGeometry, name: str) -> None:
    """The same for ``weight_gradient_images``."""
    n = record(plan)
    units, rows, columns, tiles = plan.tables
    assert (n.N, n.G, n.ICG, n.OCG, n.columns) == (g.N, g.G, g.ICG, g.OCG, g.OW)
    assert (n.x_n, n.z_n) == (g.IC * g.IH * g.IW, g.OC * g.OH * g.OW)
    assert (n.in_h, n.in_w) == (g.SH, g.SW)

    # sums: of all parts and groups; every output channel and tap of a row is in one tile
    met: Counter[tuple[int, int]] = Counter()
    ends = [0]
    for channel, exist, first, taps, start in tiles.tolist():
        assert start == ends[-1]
        ends.append(start + ROWS[taps] * taps * len(rows) * int(n.ICG * n.lanes))
        assert 1 <= exist <= ROWS[taps]
        met.update((channel + p, first + k) for p in range(exist) for k in range(taps))
    assert met == Counter(product(range(n.OCG), range(len(columns))))
    assert ends[-1] == n.block
    assert n.parts * n.G * n.block <= n.slabs <= plan.shared
    assert n.tasks == n.parts <= len(units)
    assert plan.threads <= n.tasks

    # a thread's part: the turned source, then the turned gradient, beyond whose channels the last tile reads
    most = max((exist * taps for _, exist, _, taps, _ in tiles.tolist()), default=0)
    assert n.own == plan.own >= n.lanes**2 + -(-most // n.lanes) * n.lanes
    assert (n.x_pieces - 1) * n.x_piece + units[:, 4].max() * n.x_h <= n.gradient
    highest = max((channel + ROWS[taps] for channel, _, _, taps, _ in tiles.tolist()), default=1) - 1
    last = (units[:, 2].max() - 1) * n.z_h + (n.columns - 1) * n.z_w + ((n.G - 1) * n.OCG + highest) * n.z_c
    assert n.gradient + last + n.lanes <= n.own
    assert n.gradient + (n.z_pieces - 1) * n.z_piece + units[:, 2].max() * n.z_row * n.lanes <= n.own

    # every output row of every block of images is in one unit, which holds what the taps read that meet the image
    blocks = range(0, g.N, int(n.lanes))
    found = [(image, row) for image, first, count, *_ in units.tolist() for row in range(first, first + count)]
    assert found == list(product(blocks, range(g.OH)))
    for (kh, first, last, offset), k in zip(rows.tolist(), live_rows(g), strict=True):
        assert kh == k * (g.KW if g.layout == "NCHW" else g.KW * g.ICG)
        reads = [oh * g.SH + k * g.DH - g.PT for oh in range(g.OH)]
        assert [oh for oh, ih in enumerate(reads) if 0 <= ih < g.IH] == list(range(first, last))
        assert offset == reads[0]
        for _, row, count, top, high in units.tolist():
            inside = reads[max(row, first) : min(row + count, last)]
            assert all(top <= ih < top + high <= g.IH for ih in inside)
    width = n.x_h // n.x_w
    assert n.left + g.IW <= width
    for kw, offset in columns.tolist():
        k = kw if g.layout == "NCHW" else kw // g.ICG
        assert offset - n.left == k * g.DW - g.PL
        assert 0 <= offset <= offset + (g.OW - 1) * g.SW < width
    assert len(columns) < 2 or set(np.diff(columns[:, 1]).tolist()) == {n.tap_w}
    used = Counter(
        int(group * n.w_group + oc * n.w_row + c * n.w_channel + kh + kw)
        for group, oc, c in product(range(n.G), range(n.OCG), range(n.ICG))
        for kh, kw in product(rows[:, 0], columns[:, 0])
    )
    assert_weights_once(used, len(rows) * len(columns), g)
    assert plan.fill == (len(rows) * len(columns) < g.KH * g.KW)


def live_rows(g: Conv2dGeometry) -> list[int]:
    """The rows of taps from the first to the last that meets the image."""
    return [k for k, _ in forward_axis(g.IH, g.KH, g.SH, g.PT, g.DH, g.OH).taps]


def check_weight_planes(plan: Plan, g: Conv2dGeometry, name: str) -> None:
    """The same for ``weight_gradient_planes``."""
    n = record(plan)
    remainders, (weights, reads), rows = plan.tables
    steps = np.stack((weights, reads), 1)
    slab = n.bundle * n.ICG * n.plane
    pairs = -(-len(steps) // 2)

    # sums: of all parts, groups, and tiles of output channels
    assert_rows_cover(rows, n.OCG)
    heights = int(sum(rows[:, 1]))
    assert heights * pairs * 2 * n.lanes <= n.block
    assert n.slabs == plan.shared
    if n.parts > 1:
        assert n.parts * n.G * n.block <= n.slabs
    else:  # they are a task's own
        assert n.sums + n.bundle * n.block <= n.lane_sums
    assert n.lane_sums + n.lanes**2 <= n.own == plan.own
    # a thread's part: the planes of the input, then those of the output's gradient, of all rows of the tiles
    assert_planes_hold_their_parts(n, remainders)
    assert slab <= n.gradient
    last = n.gradient + (n.bundle - 1) * n.OCG * n.z_plane  # where the last group's begin
    assert last + (heights - 1) * n.z_plane + n.vectors * n.lanes <= n.sums <= n.lane_sums
    assert last + n.OCG * n.z_plane <= n.sums  # what is cleared
    # the gradient's pixels are in what is summed, and what is summed beyond them is zeros of the same plane
    assert n.columns >= n.OW
    assert (n.band - 1) * n.columns + n.OW <= n.vectors * n.lanes <= n.z_plane
    check_steps(n, remainders, steps, n.band, n.OW)
    if len(steps):
        # those zeros meet something finite: the planes, or what is cleared behind them
        assert min(steps[:, 1]) >= 0
        assert max(steps[:, 1]) + n.vectors * n.lanes <= n.ICG * n.plane + n.lanes
        assert slab + n.lanes <= n.gradient
    check_filters(n, steps, n.w_row, g)
    assert plan.fill == (len(steps) < n.ICG * g.KH * g.KW)

    # every band of every image, for every group, is one task's work
    assert n.units == g.N * n.bands
    assert (n.bands - 1) * n.band < g.OH <= n.bands * n.band
    assert_bundles_cover(n)
    assert n.tasks == n.parts * n.bundles
    assert plan.threads <= n.tasks
    units = [unit for p in range(n.parts) for unit in range(p * n.units // n.parts, (p + 1) * n.units // n.parts)]
    assert units == list(range(n.units))


def check_depthwise(plan: Plan, g: Conv2dGeometry, name: str) -> None:
    """The same for ``correlate_depthwise``."""
    n = record(plan)
    phases, tiles = plan.tables
    H, W = (g.OH, g.OW) if name == "forward" else (g.IH, g.IW)
    assert (n.OH, n.OW) == (H, W)

    # shared memory: packed weights, then the threads' parts
    check_groups(n, g)
    assert n.groups * n.taps * n.pitch <= n.nothing <= n.slabs - n.lanes
    assert n.slabs <= plan.shared
    assert plan.no_bias.shape == (1, n.groups * n.pitch)
    # a thread's part: the slab, if there is one, then the staged band
    if n.direct:
        assert (n.x_c, n.line, n.pixel) == (1, n.x_h, n.x_w)
        assert n.C % n.lanes == 0
    else:
        assert (n.line, n.pixel) == (n.columns * n.pitch, n.pitch)
        assert ((n.band - 1) * n.in_h + n.span) * n.line <= n.stage
    assert n.stage <= n.own == plan.own
    if n.y_c != 1 and n.tasks:
        assert min(n.band * n.out_h, H) * W * n.pitch <= n.own - n.stage

    reached = np.zeros((H, W), int)
    used: Counter[int] = Counter()
    for phase in phases.tolist():
        first_row, rows, first_column, columns, row, column, weights, tap_rows, first, last, *rest = phase
        shared, apart, taps = rest
        pixels = tiles[first:last].tolist()
        assert rows <= n.rows <= n.bands * n.band
        heights = [exist or PIXELS for _, exist, _, _ in pixels]
        computed = {start + p for (start, *_), height in zip(pixels, heights, strict=True) for p in range(height)}
        assert computed == set(range(columns))
        if shared:  # the loop that is taken knows these numbers
            assert shared in SHARED
            assert shared == taps
            assert n.in_w * n.pixel == apart * n.tap_pixel
        for start, exist, low, high in pixels:
            assert exist <= PIXELS
            reads = [p * n.in_w + k * n.tap_pixel // n.pixel for p in range(PIXELS) for k in range(taps)]
            begin = column + start * n.in_w
            assert (low, high) == (-begin, (n.IW if n.direct else n.columns) - begin)
            if exist == 0:
                assert all(low <= read < high for read in reads)
            if not n.direct:  # a slab holds all that pixels read which exist
                assert all(low <= read < high for read in reads[: (exist or PIXELS) * taps])
        if not n.direct:  # all rows of taps are in the slab
            assert all(0 <= row + k * n.tap_h - n.top < n.span for k in range(tap_rows))
        assert weights % n.pitch == 0
        for i, k in product(range(tap_rows), range(taps)):
            used[(weights + i * n.weight_row + k * n.tap_weight) // n.pitch] += 1
        for q in range(rows):  # a band's rows are staged, and copied, with that band
            top = q // n.band * n.band * n.out_h
            assert top <= first_row + q * n.out_h < min(top + n.band * n.out_h, H)
        if columns:
            assert first_column + (columns - 1) * n.out_w < W
        reached[np.ix_(first_row + np.arange(rows) * n.out_h, first_column + np.arange(columns) * n.out_w)] += 1
    assert reached.max(initial=0) <= 1
    # pixels that no phase writes are filled before, and so is the stage
    assert plan.fill == bool(n.holes) == (reached == 0).any()
    check_taps(used, g)
    assert n.tasks == g.N * n.groups * n.bands
    assert plan.threads <= n.tasks


def check_groups(n: Any, g: Conv2dGeometry) -> None:
    """Groups of whole vectors hold every channel, and none is empty."""
    assert n.C == g.IC == g.OC
    assert n.taps == g.KH * g.KW
    assert n.pitch % n.lanes == 0
    assert n.pitch <= depthwise.GROUP * n.lanes
    assert (n.groups - 1) * n.pitch < n.C <= n.groups * n.pitch


def check_window(n: Any, offset: int, pixels: int, taps: int) -> None:
    """What some taps of a kernel row read for a row of pixels lies in a row of the slab."""
    row, column = divmod(offset // n.pitch, int(n.columns))
    assert offset % n.pitch == 0
    assert 0 <= row < n.span
    assert n.tap_pixel >= 0
    if taps and pixels:
        assert column + (pixels - 1) * n.in_w + (taps - 1) * n.tap_pixel // n.pitch < n.columns


def check_taps(used: Counter[int], g: Conv2dGeometry) -> None:
    """No tap is taken twice, and none that meets a pixel is left out."""
    axes = (g.OH, g.IH, g.KH, g.SH, g.DH, g.PT), (g.OW, g.IW, g.KW, g.SW, g.DW, g.PL)
    rows, columns = (
        [
            k
            for k in range(kernel)
            if ((met := np.arange(output) * stride + k * dilation - before) >= 0)[met < image].any()
        ]
        for output, image, kernel, stride, dilation, before in axes
    )
    assert {kh * g.KW + kw for kh in rows for kw in columns} <= set(used) <= set(range(g.KH * g.KW))
    assert set(used.values()) <= {1}


def check_weight_depthwise(plan: Plan, g: Conv2dGeometry, name: str) -> None:
    """The same for ``weight_gradient_depthwise``."""
    n = record(plan)
    taps, triples = plan.tables
    assert taps.tolist() == [[0, 0]]  # all taps of a filter, which follow each other in both places

    check_groups(n, g)
    assert n.parts * n.groups * n.block_size <= n.slabs <= plan.shared
    if n.direct:  # the images are read as they are
        assert n.C % n.lanes == 0
        assert n.pixel == n.C == n.x_w == n.z_w
        assert n.nothing + n.lanes <= n.own == plan.own
        assert n.line == n.IW * n.C == n.x_h
        assert n.z_h == n.OW * n.C
        assert (n.in_h, n.top, n.columns) == (g.SH, 0, g.IW)
        assert n.in_w == g.SW or n.OW == 1
        assert n.shared
    else:  # the slabs of the input and of the gradient
        assert ((n.band - 1) * n.in_h + n.span) * n.columns * n.pitch <= n.gradient
        assert n.gradient + n.band * n.OW * n.pitch <= n.nothing <= n.own - n.lanes
        assert n.own == plan.own
        assert n.pixel == n.pitch
    if n.shared:
        assert n.tap_pixel == n.pixel
        assert n.in_w in (1, 2)
        if n.OW % QUAD:  # zeros stand for the pixels that do not exist
            assert plan.zeros

    used: Counter[int] = Counter()
    for size, *rest in triples.tolist():
        assert size in WINDOW_SIZES
        for offset, sums, row, begin in zip(rest[:3], rest[3:6], rest[6:9], rest[9:], strict=True):
            first = sums // n.pitch
            if n.direct:
                assert offset == begin
                if first < n.taps:
                    column = first % g.KW * g.DW - g.PL
                    assert (row, begin) == (first // g.KW * g.DH - g.PT, column * n.C)
            else:
                check_window(n, offset, int(n.OW), size)
                assert row == 0
                assert begin == offset % n.line
            assert sums % n.pitch == 0
            assert 0 <= sums <= n.block_size - size * n.pitch
            if first < n.taps:
                used.update(range(first, first + size))
    check_taps(used, g)

    assert n.units == g.N * n.bands
    assert (n.bands - 1) * n.band < g.OH <= n.bands * n.band
    assert n.tasks == n.parts * n.groups
    assert plan.threads <= n.tasks
    assert not plan.fill
    units = [unit for p in range(n.parts) for unit in range(p * n.units // n.parts, (p + 1) * n.units // n.parts)]
    assert units == list(range(n.units))


#: Numbers of threads that work is shared by.
THREADS = (1, 2, 3, 5, 64)


def check_winograd(plan: Plan, g: Conv2dGeometry, name: str, window_rows: int = 1) -> None:
    """The same for ``correlate_winograd``, in both orders of work."""
    n = record(plan)
    (heights,) = plan.tables
    H, W = (g.OH, g.OW) if name == "forward" else (g.IH, g.IW)
    assert (n.OH, n.OW) == (H, W)
    check_tiles(n, g)
    units, points = int(n.units), int(n.points) ** 2
    assert units == g.N * n.tall * n.strips
    assert n.tasks == n.G * (n.blocks if n.by_blocks else units)
    assert plan.threads <= n.tasks

    # register tiles: every tile of a batch is in one, and they hang over its end by less than one
    most = int(n.batch * n.strip * n.phases)
    beyond = 0
    for tiles in range(1, most + 1):
        left = tiles
        while left > 0:
            assert heights[left] in HEIGHTS
            left -= heights[left]
        beyond = max(beyond, tiles - left)

    # what a point takes: the transformed input, with whole vectors of channels; weights; sums
    tiles = units * int(n.wide * n.phases) if n.by_blocks else most
    channels = -(-n.ICG // n.lanes) * n.lanes
    assert channels <= n.pitch
    assert (tiles - 1) * n.pitch + channels <= n.input_point
    assert (tiles - most + beyond - 1) * n.pitch + n.ICG <= n.input_point  # read from the last batch
    assert n.ICG * n.width <= n.weight_point
    assert beyond * n.width <= n.sum_point
    assert points * n.weight_point <= n.block_size

    rows, blocks = min(n.batch, n.tall), n.G * n.blocks
    staged, high = n.y_c != 1, (rows - 1) * n.tile + n.points
    if plan.kernel is correlate_winograd_pooled:
        assert n.tile % window_rows == (n.OH if name == "forward" else n.IH) % window_rows == 0
        assert n.pooled == (1 if name == "forward" else 2)
        assert (n.strips, n.phases) == (1, 1)
        staged = name == "forward"
        if not staged:  # whole windows are written, of which some rows may lie outside
            high += 2 * (window_rows - 1)
            assert n.left <= 0 <= n.columns + n.left - n.IW
    else:
        assert n.pooled == 0
    check_normed(plan, n, g)
    check_summed(plan, n, g)
    slab = n.DH * high * n.columns * n.ICG + channels - n.ICG
    stage = min(rows * n.tile * n.DH, n.OH) * min(n.strip * n.tile * n.DW, n.OW) * n.width if staged else 0
    taps = n.side**2 * n.lanes * n.width
    inputs, all_weights = (n.inputs, points * n.input_point), (n.weights, blocks * n.block_size)
    own, shared = [(0, max(slab, stage, taps)), (n.sums, points * n.sum_point)], []
    if n.by_blocks:
        shared.append((n.inputs, n.G * inputs[1]))
        own.append((n.weights, points * n.weight_point))
    else:
        own.append(inputs)
        (own if n.private else shared).append(all_weights)
    assert n.own == plan.own
    assert_apart(n.own, own)
    assert_apart(n.slabs, shared)
    assert (plan.first > 0) == bool(n.private) == (not shared)  # what has made everybody's memory has to be waited for
    assert n.private * own[-1][1] * plan.no_bias.itemsize <= winograd.PRIVATE_BYTES
    assert n.slabs <= plan.shared
    assert plan.no_bias.shape == (n.G, n.blocks * n.width)

    # every row of strips is transformed once, and multiplied once with every block
    for threads in THREADS:
        assert_shared_once(n, threads)
    if n.by_blocks:
        assert n.strips == 1  # where a row of strips has its place among the tiles is counted so
        whole = batches(0, units, units, int(n.batch))
        assert [unit for start, batch in whole for unit in range(start, start + batch)] == list(range(units))

    used: Counter[int] = Counter()
    for group in range(n.G):
        for block in range(n.blocks):
            channel = block * n.width
            lanes = min(n.width, n.OCG - channel)
            assert lanes > 0
            start = group * n.w_group + channel * n.w_lane
            first = start + np.arange(n.ICG)[:, None, None] * n.w_channel + np.arange(n.side**2)[:, None] * n.w_column
            used.update((first + np.arange(lanes) * n.w_lane).ravel().tolist())
    assert_weights_once(used, int(n.side) ** 2, g)
    assert not plan.fill


def check_normed(plan: Plan, n: Any, g: Conv2dGeometry) -> None:
    """What is normalised is all that a slab has of an image, and each channel meets its own numbers."""
    if plan.kernel not in (correlate_winograd_normed, weight_gradient_winograd_normed):
        assert n.rectified == 0
        return
    assert n.rectified in (0, 1)
    assert (n.G, n.by_blocks, n.ICG) == (1, 0, g.IC)  # all channels of a pixel, and each thread for itself
    assert (n.x_n, n.x_c, n.x_h, n.x_w) == (g.IH * g.IW * g.IC, 1, g.IW * g.IC, g.IC)
    assert (n.IH, n.IW) == (g.IH, g.IW)
    length = numbers_of_a_norm(g.IC).shape[1]
    for first in range(n.tall):
        for strip in range(n.strips):
            top, left = n.top + first * n.tile * n.DH, n.left + strip * n.strip * n.tile * n.DW
            high = (min(n.batch, n.tall - first) - 1) * n.tile + n.points
            check_normed_slab(n, int(top), int(high * n.DH), int(left), length)


def check_summed(plan: Plan, n: Any, g: Conv2dGeometry) -> None:
    """What ``_add_rows`` adds is the whole output, every element once, after all channels of it have been written."""
    if plan.kernel is not correlate_winograd_summed:
        assert n.sum_relu == 0
        return
    assert n.sum_relu in (0, 1)
    assert n.relu == 0  # of the sum, not of what is summed
    assert (n.G, n.by_blocks) == (1, 0)  # all channels of a pixel
    assert (n.y_c, n.y_w, n.y_h, n.y_n) == (1, g.OC, g.OW * g.OC, g.OH * g.OW * g.OC)
    for threads in THREADS:
        done = np.zeros(g.N * g.OH * g.OW * g.OC, np.int64)
        ends = [thread * int(n.units) // threads for thread in range(threads + 1)]
        for first, last in pairwise(ends):
            for start, batch in batches(first, last, int(n.units), int(n.batch)):
                check_added(n, start, start + batch, done)
        assert (done == 1).all()


def check_added(n: Any, task: int, end: int, done: np.ndarray) -> None:
    """Walk through what ``_add_rows`` does with the rows of strips that a thread has just written."""
    tall, high, wide = int(n.tall), int(n.tile * n.DH), int(n.strip * n.tile * n.DW)
    while task < end:
        image, strip, first = task // (tall * n.strips), task // tall % n.strips, task % tall
        rows = min(tall - first, end - task)
        columns = min(int(n.strip), int(n.wide - strip * n.strip)) * int(n.tile * n.DW)
        count = min(columns, int(n.OW - strip * wide))
        assert count > 0
        for row in range(first * high, min((first + rows) * high, int(n.OH))):
            start = int(image * n.y_n + row * n.y_h + strip * wide * n.y_w)
            assert 0 <= start < start + count * n.y_w <= len(done)
            done[start : start + count * int(n.y_w)] += 1
        task += rows


def check_normed_slab(n: Any, top: int, rows: int, left: int, length: int) -> None:
    """Walk through what ``normalise_slab`` does with a slab."""
    columns, channels = int(n.columns), int(n.ICG)
    first, last = max(0, -left), min(columns, int(n.IW) - left)
    done = np.zeros(rows * columns * channels, np.int64)
    for row in range(max(0, -top), min(rows, int(n.IH) - top)):
        start, end = (row * columns + first) * channels, (row * columns + last) * channels
        for k in range(start, end, length):
            assert k % channels == 0  # where the first channel lies, as in the rows of numbers
            assert 0 <= k < min(k + length, end) <= len(done)
            done[k : min(k + length, end)] += 1
    high, wide = top + np.arange(rows), left + np.arange(columns)
    inside = np.outer((high >= 0) & (high < n.IH), (wide >= 0) & (wide < n.IW))
    assert np.array_equal(done.reshape(rows, columns, channels), np.repeat(inside[..., None], channels, 2))


@lru_cache
def numbers_of_a_norm(channels: int) -> np.ndarray:
    """What ``normalise_slab`` reads, made by ``lay_out``: three rows of the numbers of some pixels."""
    coefficients = np.arange(3.0 * channels).reshape(3, channels)
    x = np.empty((1, channels, 1, 1))
    rows = Normalised(x, False, tuple(coefficients)).rows().reshape(3, -1)
    assert rows.shape[1] >= channels
    assert np.array_equal(rows, np.tile(coefficients, rows.shape[1] // channels))
    return rows


def assert_shared_once(n: Any, threads: int) -> None:
    """The units of all groups, some at a time, are each one thread's."""
    total = int(n.G * n.units)
    ends = [thread * total // threads for thread in range(threads + 1)]
    done = [
        unit
        for first, last in pairwise(ends)
        for start, batch in batches(first, last, int(n.units), int(n.batch))
        for unit in range(start, start + batch)
    ]
    assert done == list(range(total))


def check_tiles(n: Any, g: Conv2dGeometry) -> None:
    """Tiles cover every phase of the output, strips its tiles, and the columns of a slab the points of a strip."""
    assert n.tile in winograd.TILES[int(n.side)]
    assert n.points == n.tile + n.side - 1
    assert n.row_tiles == n.wide * n.phases
    assert (n.DH, n.DW, n.phases) == (g.DH, g.DW, g.DH * g.DW)
    assert (n.tall - 1) * n.tile * n.DH < n.OH <= n.tall * n.tile * n.DH
    assert (n.wide - 1) * n.tile * n.DW < n.OW <= n.wide * n.tile * n.DW
    assert (n.strips - 1) * n.strip < n.wide <= n.strips * n.strip
    assert n.DW * ((n.strip - 1) * n.tile + n.points) <= n.columns
    assert n.batch >= 1


def batches(first: int, last: int, group: int, most: int) -> Iterator[tuple[int, int]]:
    """The units from ``first`` to ``last``, some of one group at a time: the first of them, and how many."""
    while first < last:
        batch = min(min(last, (first // group + 1) * group) - first, most)
        yield first, batch
        first += batch


def assert_apart(size: int, pieces: Sequence[tuple[int, int]]) -> None:
    """Pieces of memory, (first element, elements), neither overlap nor leave what there is."""
    end = 0
    for start, elements in sorted(pieces):
        assert start >= end
        end = start + elements
    assert end <= size


def check_weight_winograd(plan: Plan, g: Conv2dGeometry, name: str, window_rows: int = 1) -> None:
    """The same for ``weight_gradient_winograd``."""
    n = record(plan)
    assert n.tile % window_rows == n.OH % window_rows == 0
    if plan.kernel is weight_gradient_winograd_pooled:
        assert (n.strips, n.phases) == (1, 1)
    check_normed(plan, n, g)
    taps, registers = plan.tables
    assert (n.OH, n.OW) == (g.OH, g.OW)
    check_tiles(n, g)
    assert n.units == g.N * n.tall * n.strips
    assert plan.threads <= n.tasks
    points, most = int(n.points) ** 2, int(n.batch * n.strip * n.phases)

    assert [start + p for start, _, exist in registers for p in range(exist)] == list(range(n.ICG))
    assert all(height in HEIGHTS for _, height, _ in registers)
    beyond = max(start + height for start, height, _ in registers)
    assert 1 <= n.together <= n.splits <= n.blocks
    shares = [
        (s + k) * n.blocks // n.splits - s * n.blocks // n.splits
        for k in range(1, n.together + 1)
        for s in range(n.splits - k + 1)
    ]
    assert max(shares) * n.width <= n.z_pitch
    tiles = int(n.units * n.wide * n.phases) if n.by_blocks else most
    channels = -(-n.ICG // n.lanes) * n.lanes
    assert channels <= n.pitch
    assert (tiles - 1) * n.pitch + max(channels, beyond) <= n.input_point
    assert most * n.z_pitch <= n.gradient_point
    assert beyond * n.width <= n.sum_block
    assert max(shares) * n.sum_block <= n.sum_point
    assert n.side**2 * n.ICG * n.width <= n.block_size

    rows = min(n.batch, n.tall)
    slab = n.DH * ((rows - 1) * n.tile + n.points) * n.columns * n.ICG + channels - n.ICG
    gradients = min(n.OCG, max(shares) * n.width)
    gradient_slab = rows * n.tile * n.strip * n.tile * n.phases * gradients + -gradients % n.lanes
    inputs = points * n.input_point
    assert n.own == plan.own
    assert_apart(
        n.own,
        [
            (0, max(slab, gradient_slab)),
            (n.gradients, points * n.gradient_point),
            (n.sums, points * n.sum_point),
            *([] if n.by_blocks else [(n.inputs, inputs)]),
        ],
    )
    sums = n.parts * n.G * n.blocks * n.block_size
    assert_apart(n.slabs, [(0, sums), (n.inputs, n.G * inputs)] if n.by_blocks else [(0, sums)])
    assert n.slabs <= plan.shared
    assert plan.first == (not n.by_blocks)

    if n.by_blocks:
        assert n.strips == 1
        for threads in THREADS:
            assert_shared_once(n, threads)
    check_unpacking(n, taps, g)
    assert len(taps) == n.side**2 == g.KH * g.KW
    assert not plan.fill
    check_parts(n)


CHECKS = {
    correlate: check_correlation,
    weight_gradient: check_weight_gradient,
    correlate_planes: check_planes,
    weight_gradient_planes: check_weight_planes,
    correlate_images: check_images,
    weight_gradient_images: check_weight_images,
    correlate_depthwise: check_depthwise,
    weight_gradient_depthwise: check_weight_depthwise,
    correlate_winograd: check_winograd,
    weight_gradient_winograd: check_weight_winograd,
    correlate_pooled: check_correlation,
    correlate_three: check_correlation,
    correlate_three_pooled: check_correlation,
    weight_gradient_pooled: check_weight_gradient,
    correlate_winograd_pooled: check_winograd,
    weight_gradient_winograd_pooled: check_weight_winograd,
    correlate_winograd_normed: check_winograd,
    weight_gradient_winograd_normed: check_weight_winograd,
    correlate_winograd_summed: check_winograd,
}


def assert_weights_once(used: Counter[int], taps: int, g: Conv2dGeometry) -> None:
    """Every weight of the taps that are there has its place, and no other memory is touched."""
    size = g.OC * g.ICG * g.KH * g.KW
    assert set(used.values()) <= {1}
    assert all(0 <= index < size for index in used)
    assert len(used) == taps * g.OC * g.ICG
