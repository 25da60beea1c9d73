"""The direct weight gradient once more, with lanes along pixels.

Source and output gradient are packed into planes of one pitch (:mod:`numbaconv.kernels.planes` has the picture), the
latter with zeros beyond the end of its rows. So for one output channel, one input channel and one tap, the gradient is
a dot product of two stretches of memory as long as the whole band. The tile holds those of some output channels (its
rows) and two taps or input channels at a time::

    task:   for each of its bands: pack the band of the input, and that of the output gradient
                for each few output channels, each two weights of a filter:
                    tile  = 0
                    tile += output gradient * input pixels, lane by lane
                    part += tile

At the end the parts are added up in a fixed order, and the lanes of what they hold; by the tasks themselves, if there
is a single part. It suits few channels: every weight takes a vector of a part.
"""

from __future__ import annotations

from numbaconv.jit import ONE, ZERO, device, inlined, kernel, routine, share
from numbaconv.kernels.packing import pack_band, pack_planes
from numbaconv.kernels.records import read, record
from numbaconv.kernels.tiles import MIDDLE, SHORT, TALL
from numbaconv.simd import add, clear, dot, pile, spread, store, transpose, zeros

#: The integers that the kernel needs, as one record; :mod:`numbaconv.plan.planes` makes it.
WEIGHT_PLANES = record(
    "G",  # groups
    "ICG",  # input channels of a group
    "OCG",
    "IH",
    "IW",
    "OH",
    "OW",
    "x_n",  # strides of the input
    "x_c",
    "x_h",
    "x_w",
    "z_n",  # strides of the output's gradient
    "z_c",
    "z_h",
    "z_w",
    "w_group",  # elements of the weight from a group to the next, and from an output channel to the next
    "w_row",
    "bundle",  # groups of a task
    "bundles",
    "lanes",  # lanes of a vector
    "block",  # elements of a group's part
    "parts",  # partial sums; if there are more than one, all threads add them up at the end
    "slabs",  # where the threads' own parts of the scratch memory begin
    "own",  # elements of such a part
    "gradient",  # where in it the packed output gradient begins
    "sums",  # where sums of a task are, if no others have to be added
    "lane_sums",  # where vectors are turned, to add up their lanes
    "units",  # bands of all images
    "bands",  # bands of an image
    "band",  # output rows of a band
    "top",  # source row and column that pixel (0, 0) reaches first
    "left",
    "plane",  # elements of a packed plane of the input
    "part",  # elements of the part of it that has the rows and columns of one remainder
    "rows",  # rows and columns of such a part
    "columns",
    "in_h",  # source rows and columns from a pixel to the next
    "in_w",
    "z_plane",  # elements of a packed plane of the output's gradient
    "vectors",  # of such a plane
    "tasks",
)


@kernel(stages=2)
def weight_gradient_planes(x, z, w, scratch, numbers, remainders, steps, rows, stage, thread, threads):
    """Fill ``w``, the gradient of the weight, from the input ``x`` and the output's gradient ``z``; all are flat.

    Parameters
    ----------
    numbers : int array
        A WEIGHT_PLANES.
    remainders : int array (remainders, 2)
        The remainders of rows and columns that taps read, (0, 0) first.
    steps : int array (2, steps)
        Where in a filter a weight lies, and in the slab what its gradient is made of.
    rows : int array (tiles, 3)
        First output channel of the tile's rows, how many rows it has, how many of them exist.
    """
    plan = read(numbers, WEIGHT_PLANES)
    if stage != 1:
        _sum_share(x, z, w, scratch, plan, remainders, steps, rows, thread, threads)
    if stage != 0 and plan.parts > 1:
        for tile in share(plan.G * len(rows), thread, threads):
            group = tile // len(rows)
            _unpack_sums(
                w, scratch, group * plan.block, plan.slabs + thread * plan.own + plan.lane_sums, plan, steps, rows,
                group, tile % len(rows),
            )  # fmt: skip


@routine
def _sum_share(x, z, w, scratch, plan, remainders, steps, rows, thread, threads):
    """One thread's share of the tasks."""
    own = plan.slabs + thread * plan.own
    for task in share(plan.tasks, thread, threads):
        part, first_group = task // plan.bundles, task % plan.bundles * plan.bundle
        groups = min(plan.bundle, plan.G - first_group)
        sums = own + plan.sums if plan.parts == 1 else (part * plan.G + first_group) * plan.block
        clear(scratch, sums, groups * plan.block)
        clear(scratch, own + groups * plan.ICG * plan.plane, plan.lanes)  # the last vector reads it
        for unit in range(part * plan.units // plan.parts, (part + 1) * plan.units // plan.parts):
            _sum_band(x, z, scratch, own, sums, plan, remainders, steps, rows, first_group, groups, unit)
        if plan.parts == 1:
            for group in range(groups):
                for tile in range(len(rows)):
                    _unpack_sums(
                        w, scratch, sums + group * plan.block, own + plan.lane_sums, plan, steps, rows,
                        first_group + group, tile,
                    )  # fmt: skip


@inlined
def _sum_band(x, z, scratch, own, sums, plan, remainders, steps, rows, first_group, groups, unit):
    """Add one band's share to the sums of some groups."""
    n, first = unit // plan.bands, unit % plan.bands * plan.band
    pack_band(x, scratch, own, plan, remainders, n, first_group, groups, first)
    pack_planes(
        z, n * plan.z_n + first_group * plan.OCG * plan.z_c, plan.z_c, plan.z_h, plan.z_w, groups * plan.OCG, plan.OH,
        plan.OW, scratch, own + plan.gradient, plan.z_plane, ZERO, remainders, ONE, first, ONE,
        min(plan.band, plan.OH - first), ZERO, ONE, plan.columns, plan.lanes,
    )  # fmt: skip
    for group in range(groups):
        _sum_group(
            scratch, own + group * plan.ICG * plan.plane, own + plan.gradient + group * plan.OCG * plan.z_plane,
            sums + group * plan.block, plan, steps, rows,
        )  # fmt: skip


@routine
def _sum_group(scratch, slab, gradients, sums, plan, steps, rows):
    """The same for one group, whose planes begin at ``slab`` and ``gradients``."""
    for tile in range(len(rows)):
        height = rows[tile, 1]
        gradient = gradients + rows[tile, 0] * plan.z_plane
        to = sums + rows[tile, 0] * (steps.shape[1] + steps.shape[1] % 2) * plan.lanes
        for step in range(0, steps.shape[1], 2):
            source = slab + steps[1, step]
            apart = slab + steps[1, min(step + 1, steps.shape[1] - 1)] - source
            _sum_tile(scratch, gradient, source, apart, to, plan, height)
            to += height * 2 * plan.lanes


@routine
def _sum_tile(scratch, gradient, source, apart, to, plan, height):
    """Add the dot products of one tile, of one of the shapes that exist, to the sums."""
    if height == TALL:
        _sum(zeros(TALL, 2, scratch), scratch, gradient, source, apart, to, plan)
    elif height == MIDDLE:
        _sum(zeros(MIDDLE, 2, scratch), scratch, gradient, source, apart, to, plan)
    elif height == SHORT:
        _sum(zeros(SHORT, 2, scratch), scratch, gradient, source, apart, to, plan)
    else:
        _sum(zeros(1, 2, scratch), scratch, gradient, source, apart, to, plan)


@device
def _sum(tile, scratch, gradient, source, apart, to, plan):
    pitch, lanes = plan.z_plane, plan.lanes
    for _ in range(plan.vectors):
        tile = dot(tile, scratch, gradient, pitch, scratch, source, apart)
        gradient += lanes
        source += lanes
    add(tile, scratch, to, 2 * plan.lanes)


@routine
def _unpack_sums(w, scratch, sums, turned, plan, steps, rows, group, tile):
    """Add up the parts of one tile's weights, then their lanes, and put them where they belong.

    The first part of the group's sums begins at ``sums``; at ``turned`` there is room for as many vectors as they have
    lanes. Those of so many weights are added up at once, lane after lane, once they are turned.
    """
    first, height, exist = rows[tile, 0], rows[tile, 1], rows[tile, 2]
    pairs = (steps.shape[1] + 1) // 2
    sums += first * pairs * 2 * plan.lanes
    for part in range(1, plan.parts):
        for at in range(sums, sums + pairs * height * 2 * plan.lanes, plan.lanes):
            add(spread(1, 1, scratch, at + part * plan.G * plan.block), scratch, at, 0)
    vectors, lanes = pairs * height * 2, plan.lanes
    for begin in range(0, vectors, lanes):
        count = min(lanes, vectors - begin)
        transpose(scratch, turned, lanes, scratch, sums + begin * lanes, lanes, count, lanes)
        total = spread(1, 1, scratch, turned)
        for lane in range(1, lanes):
            total = pile(total, scratch, turned + lane * lanes, 0, 0)
        store(total, scratch, sums + begin, 0, 0)  # where vectors were that have been read
    for row in range(exist):
        to = group * plan.w_group + (first + row) * plan.w_row
        for step in range(steps.shape[1]):
            w[to + steps[0, step]] = scratch[sums + (step // 2 * height + row) * 2 + step % 2]
