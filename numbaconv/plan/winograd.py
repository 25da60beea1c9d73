"""Plans of Winograd's algorithm: those of :mod:`numbaconv.kernels.winograd` and ``weight_winograd``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from numbaconv import simd
from numbaconv.geometry import WINOGRAD_DILATION, Conv2dGeometry
from numbaconv.jit import Kernel
from numbaconv.kernels.tiles import HEIGHTS, TALL
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
from numbaconv.plan import common
from numbaconv.plan.axes import Correlation
from numbaconv.plan.common import Memory, Plan, round_up

#: Output pixels of a tile along either axis, by the taps along it. Together they make the points, less one.
TILES = {3: (2, 4), 5: (2,)}
#: Bytes of a batch, transformed, and its sums: with the weights of a point, they should stay in the L2 cache.
BATCH_BYTES = 640 * 1024
#: Bytes of transformed weights that every thread makes for itself, rather than wait, and have them from other cores.
PRIVATE_BYTES = 1408 * 1024
#: Tiles of a batch: enough that weights, which it reads once, are used often.
BATCH = 2 * TALL
#: Tiles of a row that are transformed together, at most.
STRIP = 4 * TALL
#: What the transforms of one vector of channels take for a tile of 4 x 4: those of the input, of the sums, of taps.
INPUT_COST, SUMS_COST, TAPS_COST = 300, 260, 320
#: What it takes to read the transformed taps of a vector that were made long ago, and are in no near cache any more.
FAR_COST = 288
#: Tiles that a partial sum of a weight gradient should have at least, for it is transformed back on its own: where
#: there are several, and where there are two.
PART, HALF = 96, 64
#: Tasks that a weight gradient is cut into at least.
LEAST = 4


#: Bytes of two images that are small enough for memory to be prefetched, however many channels they have.
AHEAD_BYTES = 128 * 1024


class Cut(NamedTuple):
    """How the pixels and channels are cut."""

    side: int
    tile: int
    points: int
    tall: int
    wide: int
    strip: int
    strips: int
    phases: int
    lanes: int
    width: int
    blocks: int
    pitch: int
    low: int  # 1: the last row of tiles is half as high
    thin: int

    @property
    def tiles(self) -> int:
        """Tiles of an image."""
        return self.tall * self.wide * self.phases

    def units(self, g: Conv2dGeometry) -> int:
        """Rows of strips, of all images."""
        return g.N * self.tall * self.strips

    def columns(self, g: Conv2dGeometry) -> int:
        """Columns of the input that a strip reaches."""
        return g.DW * (self.strip * self.tile + self.side - 1)

    @property
    def products(self) -> int:
        """Points of all tiles of an image, the one in the corner being thin."""
        wide, tall, points = self.wide - self.thin, self.tall - self.low, self.points
        small = self.low * wide + self.thin * self.tall
        return (tall * wide * points + small * (points - 2)) * points * self.phases


def cuts(work: Correlation) -> list[Cut]:
    """The ways that there are kernels for."""
    g = work.g
    serves = g.KH == g.KW and (g.SH, g.SW) == (1, 1) and max(g.DH, g.DW) <= WINOGRAD_DILATION
    return [_cut(work, tile) for tile in TILES.get(g.KH, ())] if serves else []


def _cut(work: Correlation, tile: int) -> Cut:
    """For tiles of ``tile`` x ``tile`` output pixels, as many of each phase as the first needs."""
    side, lanes, phases = work.g.KH, simd.lanes(work.dtype), work.g.DH * work.g.DW
    tall, wide = -(-work.target.H // (work.g.DH * tile)), -(-work.target.W // (work.g.DW * tile))
    strip = -(-wide // -(-wide // max(1, STRIP // phases)))  # as even as can be
    width = min(2, -(-work.OCG // lanes)) * lanes
    c = Cut(
        side, tile, tile + side - 1, tall, wide, strip, -(-wide // strip), phases, lanes, width,
        -(-work.OCG // width), round_up(work.ICG, lanes), 0, 0,
    )  # fmt: skip
    if tile != 4:
        return c
    left = work.target.H - (tall - 1) * 4 * work.g.DH, work.target.W - (wide - 1) * 4 * work.g.DW
    return c._replace(low=int(left[0] <= 2 * work.g.DH), thin=int(left[1] <= 2 * work.g.DW))


def _cheapest(work: Correlation, cost: Callable[[Correlation, Cut], float]) -> Cut:
    """The way that costs least."""
    return min(cuts(work), key=lambda c: cost(work, c))


def cost(work: Correlation) -> float:
    """What a correlation takes in this form."""
    return min((_cost(work, c) for c in cuts(work)), default=float("inf"))


def _cost(work: Correlation, c: Cut) -> float:
    g = work.g
    size = c.points**2 / 36
    vectors = -(-work.OCG // c.lanes)
    products = work.ICG * vectors * (1.0 if vectors > 1 else 1.2) + 4 * vectors
    transforms = (INPUT_COST * c.pitch / c.lanes + SUMS_COST * vectors) / 36
    weights = size * (FAR_COST if work.packed else TAPS_COST) * work.ICG * vectors
    return g.G * (g.N * c.products * (products + transforms) + weights) + g.N * _turned(work, c, 1)


def plan(work: Correlation) -> Plan:
    """The plan of a forward pass or an input gradient."""
    g, target = work.g, work.target
    c = _cheapest(work, _cost)
    by_blocks, points = _by_blocks(work, c), c.points**2
    units = c.units(g)
    rows = _batch(work, c, (0 if by_blocks else c.pitch) + c.width, units)
    tiles = rows * c.strip * c.phases
    beyond, filter_size = c.side - 1, c.side**2
    slab = g.DH * (min(rows, c.tall) * c.tile + beyond) * c.columns(g) * work.ICG + c.lanes
    slab += _whole_windows(work, c) * work.ICG
    stage = min(rows, c.tall) * c.strip * c.phases * c.tile**2 * c.width + c.width
    taps = filter_size * c.lanes * c.width
    input_point = ((g.N * c.tiles if by_blocks else tiles) + TALL) * c.pitch + c.lanes
    sum_point, weight_point = (tiles + TALL) * c.width + c.lanes, work.ICG * c.width + c.lanes
    shared, own = Memory(c.lanes), Memory(c.lanes)
    own.add(max(slab, stage, taps))
    inputs = shared.add(g.G * points * input_point) if by_blocks else own.add(points * input_point)
    block_size = points * weight_point
    all_weights = g.G * c.blocks * block_size
    private = not by_blocks and not work.packed and all_weights * work.dtype.itemsize <= PRIVATE_BYTES
    weights = own.add(block_size) if by_blocks else (own if private else shared).add(all_weights)
    sums = own.add(points * sum_point)
    one = g.ICG * filter_size
    lane, channel, column = (one, filter_size, 1) if g.layout == "NCHW" else (one, 1, g.ICG)
    if not work.forward:
        lane, channel = channel, lane
    values = dict(
        **_tiling(work, c), **target.strides("y"), w_lane=lane, w_channel=channel, w_column=column,
        turned=int(not work.forward), block_size=block_size, by_blocks=int(by_blocks), slabs=shared.size, own=own.size,
        inputs=inputs, weights=weights, sums=sums, input_point=input_point, weight_point=weight_point,
        private=int(private), sum_point=sum_point, batch=rows, top=-g.PT if work.forward else g.PT - g.DH * beyond,
        left=-g.PL if work.forward else g.PL - g.DW * beyond, **_ahead(work, c, rows, both=False),
        relu=int(work.relu and not work.summed), sum_relu=int(work.relu and work.summed),
        pooled=0 if work.pooled is None else 1 if work.forward else 2, tasks=g.G * (c.blocks if by_blocks else units),
    )  # fmt: skip
    kernel = correlate_winograd_summed if work.summed else _kernel(
        work, correlate_winograd, correlate_winograd_pooled, correlate_winograd_normed
    )  # fmt: skip
    return common.plan(
        kernel, WINOGRAD, values, (_heights(tiles),), work, False, True, (g.G, c.blocks * c.width),
        first=int(private),
    )  # fmt: skip


def weight_cost(work: Correlation) -> float:
    """What a weight gradient takes in this form."""
    return min((_weight_cost(work, c) for c in cuts(work)), default=float("inf"))


def _weight_cost(work: Correlation, c: Cut) -> float:
    g = work.g
    size = c.points**2 / 36
    vectors = -(-work.OCG // c.lanes)
    parts, splits, together = _parts(work, c)
    splits //= together
    rows = sum(height for _, height, _ in _registers(work))
    step = max(rows * vectors, 8) * (1.0 if vectors > 1 else 1.2)  # at least what the latency of additions allows
    products = step + 4 * work.ICG * vectors / BATCH
    transforms = (INPUT_COST * splits * c.pitch / c.lanes + INPUT_COST * vectors) / 36
    sums = size * parts * SUMS_COST * work.ICG * vectors
    return g.G * (g.N * c.products * (products + transforms) + sums) + g.N * _turned(work, c, splits)


def weight_plan(work: Correlation) -> Plan:
    """The plan of a weight gradient."""
    g = work.g
    c = _cheapest(work, _weight_cost)
    parts, splits, together = _parts(work, c)
    by_blocks, points = _weight_by_blocks(work, c), c.points**2
    blocks = -(-c.blocks * together // splits)
    z_pitch = blocks * c.width
    units = c.units(g)
    mine = -(-units // parts)  # of a part, which batches of equal size should share
    rows = _batch(work, c, (0 if by_blocks else c.pitch) + z_pitch, mine)
    rows = -(-mine // -(-mine // rows))
    tiles = rows * c.strip * c.phases
    joint = min(rows, c.tall)
    slab = g.DH * (joint * c.tile + c.side - 1) * c.columns(g) * work.ICG + c.lanes
    z_slab = joint * c.tile * c.strip * c.tile * c.phases * z_pitch + c.lanes
    registers = _registers(work)
    sum_block = (registers[-1][0] + registers[-1][1]) * c.width
    input_point = (units * c.wide * c.phases if by_blocks else tiles) * c.pitch + round_up(TALL, c.lanes) + c.lanes
    gradient_point, sum_point = tiles * z_pitch + c.lanes, blocks * sum_block + c.lanes
    filter_size = c.side**2
    block_size = filter_size * work.ICG * c.width
    shared, own = Memory(c.lanes), Memory(c.lanes)
    shared.add(parts * g.G * c.blocks * block_size)
    own.add(max(slab, z_slab))
    inputs = shared.add(g.G * points * input_point) if by_blocks else own.add(points * input_point)
    gradients, sums = own.add(points * gradient_point), own.add(points * sum_point)
    one = g.ICG * filter_size
    channel, tap = (filter_size, 1) if g.layout == "NCHW" else (1, g.ICG)
    values = dict(
        **_tiling(work, c), **work.target.strides("z"), w_lane=one, w_channel=channel, joined=filter_size,
        splits=splits, together=together, block_size=block_size, by_blocks=int(by_blocks), parts=parts,
        slabs=shared.size, own=own.size, inputs=inputs, gradients=gradients, sums=sums, z_pitch=z_pitch,
        input_point=input_point, gradient_point=gradient_point, sum_point=sum_point, sum_block=sum_block, batch=rows,
        top=-g.PT, left=-g.PL, **_ahead(work, c, rows, both=True), tasks=parts * g.G * splits,
    )  # fmt: skip
    taps = [(k * tap, k * work.ICG) for k in range(filter_size)]
    tables = (common.table(taps, 2), common.table(registers, 3))
    kernel = _kernel(work, weight_gradient_winograd, weight_gradient_winograd_pooled, weight_gradient_winograd_normed)
    return common.plan(kernel, WEIGHT_WINOGRAD, values, tables, work, False, True, first=int(not by_blocks))


def pools(work: Correlation) -> bool:
    """Whether a kernel of this form can pool what it gives, or take the gradient of what was pooled."""
    g = work.g
    inside = work.forward or max(g.PL, g.PR) < g.KW  # the slab has all columns of what was pooled
    return inside and all(c.phases == c.strips == 1 and c.tile % work.window_rows == 0 for c in cuts(work))


def sums(work: Correlation) -> bool:
    """Whether the kernel for a forward pass can add an image: where a thread has all channels of a pixel."""
    return work.g.G == 1 and not _by_blocks(work, _cheapest(work, _cost))


def norms(work: Correlation) -> bool:
    """Whether the kernels for a forward pass and its weight gradient can normalise what they read.

    Each thread does that for itself, and to all channels of a pixel.
    """
    return sums(work) and not _weight_by_blocks(work, _cheapest(work, _weight_cost))


def _kernel(work: Correlation, alone: Kernel, pooled: Kernel, normed: Kernel) -> Kernel:
    """The kernel for what comes behind a convolution, or before it."""
    return pooled if work.pooled else normed if work.normed else alone


def _whole_windows(work: Correlation, c: Cut) -> int:
    """Pixels of a slab beyond those that are read, so that it begins and ends with whole windows."""
    return 2 * (work.window_rows - 1) * c.columns(work.g)


def _tiling(work: Correlation, c: Cut) -> dict[str, int]:
    """What the records of both kernels say of the images, the channels, and the tiles."""
    g, source, target = work.g, work.source, work.target
    return dict(
        G=g.G, ICG=work.ICG, OCG=work.OCG, IH=source.H, IW=source.W, OH=target.H, OW=target.W, **source.strides("x"),
        w_group=g.OCG * g.ICG * c.side**2, side=c.side, lanes=c.lanes, width=c.width, blocks=c.blocks, tile=c.tile,
        points=c.points, pitch=c.pitch, tall=c.tall, wide=c.wide, row_tiles=c.wide * c.phases, strip=c.strip,
        strips=c.strips, low=c.low, thin=c.thin, DH=g.DH, DW=g.DW, phases=c.phases, columns=c.columns(g),
        units=c.units(g), rectified=int(work.rectified),
    )  # fmt: skip


def _parts(work: Correlation, c: Cut) -> tuple[int, int, int]:
    """How many partial sums there are, into how many shares blocks are split, and how many of these stay in the cache.

    Those may be taken together, where there are few threads.
    """
    g = work.g
    tiles = g.N * c.tiles
    fit = common.PARTS_BYTES // (c.side**2 * g.OC * work.ICG * work.dtype.itemsize)
    parts = common.shareable(max(1, min(common.TASKS, max(tiles // PART, min(2, tiles // HALF)), c.units(g), fit)))
    block = c.points**2 * work.ICG * c.width * work.dtype.itemsize
    most = max(1, BATCH_BYTES // block)  # blocks whose sums stay in the cache
    splits = min(c.blocks, max(-(-c.blocks // most), -(-LEAST // (parts * g.G))))
    return parts, splits, max([1, *(n for n in range(2, splits + 1) if -(-c.blocks * n // splits) <= most)])


def _registers(work: Correlation) -> list[tuple[int, int, int]]:
    """The register tiles of a weight gradient, whose rows are input channels."""
    return common.cover(work.ICG, {height: height + 2.0 for height in HEIGHTS})


def _by_blocks(work: Correlation, c: Cut) -> bool:
    """Whether the transformed input is smaller than the transformed weights, and these are not there already."""
    return not work.packed and work.g.N * c.tiles < work.OCG and c.strips == 1


def _weight_by_blocks(work: Correlation, c: Cut) -> bool:
    """Whether several shares of blocks read the same transformed input, of all images."""
    parts, splits, together = _parts(work, c)
    return parts == 1 and splits > together and c.strips == 1


def _batch(work: Correlation, c: Cut, channels: int, most: int) -> int:
    """How many rows of strips are transformed together, where so many transformed channels of a tile are kept."""
    row_bytes = c.points**2 * c.strip * c.phases * channels * work.dtype.itemsize
    return max(1, min(BATCH_BYTES // row_bytes, -(-BATCH // (c.strip * c.phases)), most))


def _ahead(work: Correlation, c: Cut, batch: int, both: bool) -> dict[str, int]:
    """What is prefetched: of what is read, the next batch, and of what is written, this one; of planes, the next image.

    With ``both``, both are read. Where there are many channels, or images are large, it costs more than it brings.
    """
    source, target, values = work.source, work.target, {}
    pooled = {} if work.pooled is None else {"y" if work.forward else "x": math.prod(work.pooled)}
    for name, side, next_batch in (("x", source, True), ("y", target, both)):
        image = side.C * side.H * side.W // pooled.get(name, 1)
        values[f"{name}_unit"] = unit = image // (c.tall * c.strips)
        values[f"{name}_ahead"] = image if side.layout == "NCHW" else batch * unit * next_batch
    images = (source.C * source.H * source.W + target.C * target.H * target.W) * work.dtype.itemsize
    pays = min(source.C, target.C) <= 2 * c.lanes or images <= AHEAD_BYTES
    return {"ahead": int(pays and work.g.G == 1), **values}


def _turned(work: Correlation, c: Cut, splits: int) -> float:
    """What reading or writing planes takes."""
    sides = ((work.source, splits), (work.target, 1))
    turned = sum(side.C * side.H * side.W * times for side, times in sides if side.layout == "NCHW")
    return turned / c.lanes * common.TURN_COST


def _heights(tiles: int) -> np.ndarray:
    """For each number of tiles that may be left, the height of the register tile that is best taken next."""
    best = [(0.0, 0)]
    for left in range(1, tiles + 1):
        best.append(min((best[max(0, left - height)][0] + height + 0.5, -height) for height in HEIGHTS))
    return np.array([-height for _, height in best], np.int64)
