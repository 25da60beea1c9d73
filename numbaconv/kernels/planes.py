"""The direct forward pass and input gradient once more, with lanes along pixels.

The same sum as in :mod:`numbaconv.kernels.correlation`, with the roles of the tile exchanged: its rows are output
channels, whose weights are broadcast, and its lanes are neighbouring output pixels, which are read as vectors from
planes: one image of one channel after the other. It suits few channels, and arrays that hold planes (NCHW) to begin
with::

    task:   pack the band of the source into planes, zeros as padding
            for each phase, each few output channels, each tile of pixels:
                tile  = bias
                tile += packed weights x source pixels
                target pixels = tile
            turn the target's planes, if its channels are innermost

Turning takes whole vectors, of channels on one side and of pixels on the other. So where groups are narrower than that,
a task has a bundle of them.

A plane is packed so that an output pixel's source lies at the same place for every tap, but for an offset of the tap:
for a stride of 2, even and odd columns lie apart, and even and odd rows. So a vector may run on from the end of an
output row through the padding into the next row (what it finds in between is not kept)::

    source   0 a b c d 0 0 e f g h 0         (one row of padding and image after the other)
    tile       [ 1 2 3 4 - - 5 6 ...         (7 pixels between the first of a row and the first of the next)

Or, where rows are as long as vectors, a tile takes its vectors from rows below each other. Those of a tile of a single
output channel then find what one tap reads for a row where the tap above it reads for the next: each vector that is
loaded meets all taps of a column of the kernel.
"""

from __future__ import annotations

import numpy as np

from numbaconv.jit import ONE, device, inlined, kernel, routine, share
from numbaconv.kernels.packing import pack_band, pack_weights, unpack_planes
from numbaconv.kernels.records import read, record
from numbaconv.kernels.tiles import MIDDLE, PLANE_TILES, SHORT, TALL
from numbaconv.simd import fill, outer, put, rectify, store, sweep, trim, turn

#: Rows of a tile of a single output channel, and how many of its taps are summed together.
ROWS, TAPS = PLANE_TILES[1], (5, 3, 2, 1)
#: The integers that the kernel needs, as one record; :mod:`numbaconv.plan` makes it.
PLANES = record(
    "G",  # groups
    "ICG",  # input channels of a group
    "OCG",
    "IH",
    "IW",
    "x_n",  # strides of the input
    "x_c",
    "x_h",
    "x_w",
    "y_n",  # strides of the output, or of the planes that are turned; pixels of a row are neighbours
    "y_c",
    "y_h",
    "w_group",  # elements of the weight from a group to the next, and from an output channel to the next
    "w_row",
    "heights",  # rows of all tiles of a group
    "lanes",  # lanes of a vector
    "bundle",  # groups of a task
    "bundles",
    "slabs",  # where in the scratch memory the threads' own parts begin
    "own",  # elements of such a part
    "stage",  # where in it the staged tile begins
    "turned",  # 1: tiles are written to planes in the thread's part, which are turned
    "planes",  # where those begin
    "pixel",  # elements from a pixel of the output to the next
    "holes",  # 1: there are target pixels that no tap reaches
    "OH",
    "bands",  # bands of an image
    "band",  # rows of a band, counted in pixels of a phase
    "top",  # source row and column that pixel (0, 0) of a phase reaches first
    "left",
    "plane",  # elements of a packed plane
    "part",  # elements of the part of it that has the rows and columns of one remainder
    "rows",  # rows and columns of such a part
    "columns",
    "in_h",  # source rows and columns from a pixel to the next
    "in_w",
    "out_h",  # target rows and columns from a pixel of a phase to the next
    "out_w",
    "joined",  # steps whose weights follow each other in memory
    "stacked",  # 1: a tile's vectors come from rows below each other
    "relu",  # 1: instead of what is below 0, 0 is written
    "tasks",
)


@kernel(stages=2)
def correlate_planes(
    x, w, bias, y, packed, scratch, numbers, remainders, steps, runs, phases, rows, stage, thread, threads
):  # fmt: skip
    """Fill ``y``; all arrays of elements are flat, and ``bias`` is filled up by zeros.

    The first stage packs the weights ``w`` to ``packed``, which may be the beginning of ``scratch``.

    Parameters
    ----------
    numbers : int array
        A PLANES.
    remainders : int array (remainders, 2)
        The remainders of rows and columns that taps read.
    steps : int array (2, steps)
        Where in a filter a weight lies, and in the slab what it is multiplied by.
    runs : int array (runs, 3)
        The same steps, those together that read rows of a part below each other: the first of them, where in the slab
        it reads, how many they are.
    phases : int array (phases, 9)
        First row and rows, first column and columns of the phase's pixels; its steps; its runs; from a step of a run
        to the next.
    rows : int array (tiles, 3)
        First output channel of the tile's rows, how many rows it has, how many of them exist.
    """
    plan = read(numbers, PLANES)
    if stage != 1:
        for tile in share(plan.G * len(rows), thread, threads):
            pack_weights(w, packed, plan, steps[0], rows, tile)
    if stage != 0:
        _correlate_share(x, bias, y, packed, scratch, plan, remainders, steps[1], runs, phases, rows, thread, threads)


@routine
def _correlate_share(x, bias, y, packed, scratch, plan, remainders, reads, runs, phases, rows, thread, threads):
    """One thread's share of the tasks."""
    own = plan.slabs + thread * plan.own
    for task in share(plan.tasks, thread, threads):
        _correlate_band(x, bias, y, packed, scratch, own, plan, remainders, reads, runs, phases, rows, task)


@inlined
def _correlate_band(x, bias, y, packed, scratch, own, plan, remainders, reads, runs, phases, rows, task):
    """One task: a band of rows, all output channels of a bundle of groups, all phases."""
    n = task // (plan.bundles * plan.bands)
    first_group = task // plan.bands % plan.bundles * plan.bundle
    groups = min(plan.bundle, plan.G - first_group)
    first = task % plan.bands * plan.band
    pack_band(x, scratch, own, plan, remainders, n, first_group, groups, first)
    to, target = y, n * plan.y_n + first_group * plan.OCG * plan.y_c + first * plan.out_h * plan.y_h
    if plan.turned:
        to, target = scratch, own + plan.planes
        if plan.holes:
            _fill_planes(bias, scratch, target, plan, first_group, groups)
    for group in range(groups):
        _correlate_group(
            bias, to, target + group * plan.OCG * plan.y_c, packed, scratch, own, own + group * plan.ICG * plan.plane,
            plan, reads, runs, phases, rows, (first_group + group) * plan.heights, first,
        )  # fmt: skip
    if plan.turned:
        top = first * plan.out_h
        unpack_planes(
            scratch, target, plan.y_c, groups * plan.OCG, min(plan.band * plan.out_h, plan.OH - top) * plan.y_h, y,
            n * plan.y_n + top * plan.y_h * plan.pixel + first_group * plan.OCG, ONE, plan.pixel, plan.lanes,
        )  # fmt: skip


@routine
def _fill_planes(bias, scratch, to, plan, first_group, groups):
    """Write the bias to all pixels of the planes of some groups, for those that no tap reaches."""
    for c in range(groups * plan.OCG):
        channel = (first_group + c // plan.OCG) * plan.heights + c % plan.OCG
        tile = fill(1, 1, bias, channel)
        if plan.relu:
            tile = rectify(tile)
        for pixel in range(0, plan.y_c, plan.lanes):
            store(tile, scratch, to + c * plan.y_c + pixel, 0, 0)


@routine
def _correlate_group(
    bias, y, target, packed, scratch, own, slab, plan, reads, runs, phases, rows, first_channel, first
):  # fmt: skip
    """All phases and output channels of one group, whose planes begin at ``slab``."""
    for phase in range(len(phases)):
        count = min(plan.band, phases[phase, 1] - first)
        row = target + phases[phase, 0] * plan.y_h + phases[phase, 2]
        for tile in range(len(rows)):
            channel, to = first_channel + rows[tile, 0], row + rows[tile, 0] * plan.y_c
            if plan.stacked and rows[tile, 1] == 1:
                _correlate_plane(
                    bias, y, to, packed, channel * len(reads), scratch, own, slab, plan, runs, phases, phase, count,
                    channel,
                )  # fmt: skip
            else:
                _correlate_phase(
                    bias, y, to, packed, scratch, own, slab, plan, reads, phases, phase, count, channel, rows, tile
                )


@routine
def _correlate_phase(
    bias, y, target, packed, scratch, own, slab, plan, reads, phases, phase, count, channel, rows, tile
):  # fmt: skip
    """All pixels of one phase in ``count`` rows, for the output channels of one tile."""
    height, exist, columns = rows[tile, 1], rows[tile, 2], phases[phase, 3]
    weights = channel * len(reads) + phases[phase, 4] * height
    vectors = _vectors(height)
    tiles = -(-((count - 1) * plan.columns + columns) // (vectors * plan.lanes))
    across = -(-columns // plan.lanes)
    if plan.stacked:
        tiles = -(-count // vectors) * across
    if count <= 0:
        tiles = 0
    for k in range(tiles):
        if plan.stacked:
            row = _fitting(k // across * vectors, vectors, count)
            column = _fitting(k % across * plan.lanes, plan.lanes, columns)
        else:
            first = k * vectors * plan.lanes
            row, column = first // plan.columns, first % plan.columns
        if height == TALL:
            tile = fill(TALL, 2, bias, channel)
            _sum(
                tile, y, target, packed, scratch, own, slab, weights, height, plan, reads, phases, phase, row, column,
                count, exist,
            )  # fmt: skip
        elif height == MIDDLE:
            tile = fill(MIDDLE, 2, bias, channel)
            _sum(
                tile, y, target, packed, scratch, own, slab, weights, height, plan, reads, phases, phase, row, column,
                count, exist,
            )  # fmt: skip
        elif height == SHORT:
            tile = fill(SHORT, 4, bias, channel)
            _sum(
                tile, y, target, packed, scratch, own, slab, weights, height, plan, reads, phases, phase, row, column,
                count, exist,
            )  # fmt: skip
        else:
            tile = fill(1, 8, bias, channel)
            _sum(
                tile, y, target, packed, scratch, own, slab, weights, height, plan, reads, phases, phase, row, column,
                count, exist,
            )  # fmt: skip
        if plan.out_w != 1:
            _unpack(y, target, scratch, own + plan.stage, height, plan, row, column, count, exist, columns)


@routine
def _correlate_plane(
    bias, y, target, packed, weights, scratch, own, slab, plan, runs, phases, phase, count, channel
):  # fmt: skip
    """The same for a single output channel, with vectors from rows below each other."""
    columns, y_h, below = phases[phase, 3], plan.out_h * plan.y_h, phases[phase, 8]
    for first_row in range(0, count, ROWS):
        for first_column in range(0, columns, plan.lanes):
            row, column = _fitting(first_row, ROWS, count), _fitting(first_column, plan.lanes, columns)
            source = slab + row * plan.columns + column
            tile = turn(fill(1, ROWS, bias, channel))
            for run in range(phases[phase, 6], phases[phase, 7]):
                j, i, taps = weights + runs[run, 0], source + runs[run, 1], runs[run, 2]  # taps: one of TAPS
                if taps == 3:
                    tile = sweep(tile, scratch, i, plan.columns, packed, j, below, 3)
                elif taps == 5:
                    tile = sweep(tile, scratch, i, plan.columns, packed, j, below, 5)
                elif taps == 2:
                    tile = sweep(tile, scratch, i, plan.columns, packed, j, below, 2)
                else:
                    tile = sweep(tile, scratch, i, plan.columns, packed, j, below, 1)
            if plan.relu:
                tile = rectify(tile)
            if plan.out_w != 1:
                store(tile, scratch, own + plan.stage, plan.lanes, 0)
                _unpack(y, target, scratch, own + plan.stage, ONE, plan, row, column, count, ONE, columns)
            elif row + ROWS <= count and column + plan.lanes <= columns:
                store(tile, y, target + row * y_h + column, y_h, 0)
            else:
                put(tile, y, target + row * y_h + column, y_h, min(ROWS, count - row), 0, columns - column)


@device
def _sum(
    tile, y, target, packed, scratch, own, slab, weights, height, plan, reads, phases, phase, row, column, count, exist
):  # fmt: skip
    """Sum the tile that begins at a pixel of a phase, and write it.

    It goes straight to the output where that has pixels next to each other: whole, or what exists of it row by row of
    the image. Else it goes to the stage.
    """
    columns, vectors = phases[phase, 3], _vectors(height)
    source = slab + row * plan.columns + column
    apart = plan.columns if plan.stacked else plan.lanes
    for step in range(np.uintp(phases[phase, 4]), np.uintp(phases[phase, 5])):
        tile = outer(tile, packed, weights, 1, scratch, source + reads[step], apart)
        weights += height
    if plan.relu:
        tile = rectify(tile)
    y_h = plan.out_h * plan.y_h
    if plan.out_w != 1:
        store(tile, scratch, own + plan.stage, vectors * plan.lanes, plan.lanes)
    elif plan.stacked:
        at, below, right = target + row * y_h + column, count - row, columns - column
        if exist == height and below >= vectors and right >= plan.lanes:
            store(tile, y, at, plan.y_c, y_h)
        else:
            trim(tile, y, at, plan.y_c, y_h, exist, below, right)
    else:
        lane = 0
        while lane < vectors * plan.lanes and row < count:
            run = min(plan.columns - column, vectors * plan.lanes - lane)
            if column < columns:
                last = lane + min(run, columns - column)
                put(tile, y, target + row * y_h + column - lane, plan.y_c, exist, lane, last)
            lane, row, column = lane + run, row + 1, 0


@inlined
def _fitting(first, size, end):
    """Where a tile of this size begins that shall not hang over the end, if there is room for it at all.

    What it computes once more has the same bits, and a whole tile is written in half the time of a part of one.
    """
    return max(0, min(first, end - size))


@routine
def _vectors(height):
    """Of a tile of so many rows: see ``PLANE_TILES``."""
    return 2 if height > SHORT else 4 if height == SHORT else 8


@routine
def _unpack(y, target, scratch, stage, height, plan, row, column, count, exist, columns):
    """Copy what exists of a tile from the stage to the output, row by row of the image."""
    y_h, y_w = plan.out_h * plan.y_h, plan.out_w
    width = _vectors(height) * plan.lanes
    lane = 0
    while lane < width and row < count:
        run = plan.lanes if plan.stacked else min(plan.columns - column, width - lane)
        if column < columns:
            unpack_planes(
                scratch, stage + lane, width, exist, min(run, columns - column), y,
                target + row * y_h + column * y_w, plan.y_c, y_w, plan.lanes,
            )  # fmt: skip
        lane += run
        row += 1
        if not plan.stacked:
            column = 0
