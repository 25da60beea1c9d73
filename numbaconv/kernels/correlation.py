"""The direct forward pass and the direct input gradient: one kernel, for they are one sum.

Both correlate an image with some taps of the weights. The forward pass takes all taps for every output pixel. The
input gradient of a strided convolution takes, for the pixels of one *phase* (those that agree modulo the stride), only
the taps that reach them, and finds its source pixels next to each other: dense again, with no zero inserted and none
multiplied. The forward pass is a single phase.

Three taps of a kernel row that find neighbouring pixels are summed together (:mod:`numbaconv.kernels.tiles`). With a
dilation, pixels that lie as far apart as taps do are neighbours in this sense; so those make a phase then.

The work is cut into tasks, a band of rows of one group of one image each::

    task:   pack the band of the source into a slab, channels innermost, zeros as padding; unless it lies so already
            for some blocks of target channels, each phase, each row, each tile of pixels, each of the blocks:
                tile  = bias
                tile += source pixels x packed weights        (tiles.accumulate, accumulate_taps)
                target pixels = tile

Taps that find nothing but rows of padding are left out. Source pixels come from the first cache for all blocks but one;
so do the weights, of as many blocks as fit there. Where a max pooling follows, a band of target rows is a task's own,
and pooled as soon as it is there.

In this file "input" and "output" are the correlation's: for the input gradient they are the gradients of the
convolution's output and input.
"""

from __future__ import annotations

from numbaconv.jit import ZERO, device, inlined, kernel, routine, share
from numbaconv.kernels.packing import pack_block, pack_slab, unpack_tile
from numbaconv.kernels.pooling import pool_rows
from numbaconv.kernels.records import read, record
from numbaconv.kernels.tiles import (
    EVEN,
    HALF,
    HIGH,
    LOW,
    MIDDLE,
    ODD,
    SHORT,
    SINGLE,
    TALL,
    THREE,
    accumulate,
    accumulate_taps,
)
from numbaconv.simd import rectify, spread, store

#: The integers that the kernel needs, as one record; :mod:`numbaconv.plan` makes it.
CORRELATION = record(
    "G",  # groups
    "ICG",  # input channels of a group: the slab's innermost extent
    "OCG",
    "IH",
    "IW",
    "OH",
    "x_n",  # strides of the input
    "x_c",
    "x_h",
    "x_w",
    "y_n",  # strides of the output
    "y_c",
    "y_h",
    "y_w",
    "w_group",  # strides of the weight
    "w_lane",
    "w_channel",
    "lanes",  # lanes of one vector
    "width",  # lanes of a block
    "blocks",  # blocks of a group
    "block_size",  # elements of a packed block
    "together",  # blocks that are computed tile by tile
    "slabs",  # where in the scratch memory the threads' own parts begin
    "own",  # elements of such a part
    "stage",  # where in it the staged row begins
    "bands",  # bands of an image
    "band",  # rows of a band, counted in pixels of a phase
    "top",  # source row and column that pixel (0, 0) of a phase reaches first
    "left",
    "span",  # slab rows that a single pixel reaches
    "direct",  # 1: the image lies as a slab does, and needs no padding: it is read where it is
    "columns",  # slab columns
    "pieces",  # stretches of image columns that a slab row is made of
    "apart",  # image columns from a stretch to the next
    "in_h",  # slab rows and columns from a pixel to the next
    "in_w",
    "out_h",  # target rows and columns from a pixel of a phase to the next
    "out_w",
    "relu",  # 1: instead of what is below 0, 0 is written
    "rows",  # where in a thread's part rows begin that are to be pooled
    "tasks",
)


@kernel(stages=2)
def correlate(x, w, bias, y, packed, scratch, numbers, taps, runs, phases, tiles, stage, thread, threads):
    """Fill ``y``; all arrays of elements are flat, and ``bias`` is filled up by zeros.

    The first stage packs the weights ``w`` to ``packed``, which may be the beginning of ``scratch``.

    Parameters
    ----------
    numbers : int array
        A CORRELATION.
    taps : int array (taps,)
        Where in a filter each tap lies.
    runs : int array (runs, 5)
        Offset in the slab, offset in a packed block, steps: neighbouring taps whose memory is contiguous are one run.
        The first and the last slab row that the first pixel finds there.
    phases : int array (phases, 8)
        First row and rows, first column and columns of the phase's pixels; its runs; its tiles.
    tiles : int array (tiles, 3)
        First pixel, height of the tile, pixels of it that exist.
    """
    _correlate(x, w, bias, y, packed, scratch, numbers, taps, runs, phases, tiles, SINGLE, stage, thread, threads)


@kernel(stages=2)
def correlate_three(x, w, bias, y, packed, scratch, numbers, taps, runs, phases, tiles, stage, thread, threads):
    """The same where three taps of a kernel row find their pixels next to each other.

    A run is then one of all three: its offsets are those of the first, its steps are the channels of the input. So
    a scalar that is broadcast serves three times as many multiply-adds, of pixels that are neighbours in the tile.
    """
    _correlate(x, w, bias, y, packed, scratch, numbers, taps, runs, phases, tiles, THREE, stage, thread, threads)


@kernel(stages=2)
def correlate_pooled(
    x, w, bias, y, packed, scratch, numbers, taps, runs, phases, tiles, winner, windows, stage, thread, threads
):  # fmt: skip
    """:func:`correlate` where a max pooling follows.

    It takes each band while that is in the cache, and nobody else sees it. ``y`` and ``winner`` are what
    :func:`numbaconv.kernels.pooling.max_pool` fills.
    """
    _correlate_pooled(
        x, w, bias, y, packed, scratch, numbers, taps, runs, phases, tiles, winner, windows, SINGLE, stage, thread,
        threads,
    )  # fmt: skip


@kernel(stages=2)
def correlate_three_pooled(
    x, w, bias, y, packed, scratch, numbers, taps, runs, phases, tiles, winner, windows, stage, thread, threads
):  # fmt: skip
    """:func:`correlate_three` where a max pooling follows."""
    _correlate_pooled(
        x, w, bias, y, packed, scratch, numbers, taps, runs, phases, tiles, winner, windows, THREE, stage, thread,
        threads,
    )  # fmt: skip


#: The kernels by the number of taps that they sum together, and by whether a max pooling follows.
KERNELS = {
    (SINGLE, False): correlate,
    (THREE, False): correlate_three,
    (SINGLE, True): correlate_pooled,
    (THREE, True): correlate_three_pooled,
}


@inlined
def _correlate(
    x, w, bias, y, packed, scratch, numbers, taps, runs, phases, tiles, joined, stage, thread, threads
):  # fmt: skip
    plan = read(numbers, CORRELATION)
    if stage != 1:
        _pack_share(w, packed, plan, taps, thread, threads)
    if stage != 0:
        for task in share(plan.tasks, thread, threads):
            n, g, first = _place(plan, task)
            image = n * plan.y_n + g * plan.OCG * plan.y_c
            _correlate_band(x, bias, y, image, packed, scratch, plan, runs, phases, tiles, n, g, first, thread, joined)


@inlined
def _correlate_pooled(
    x, w, bias, y, packed, scratch, numbers, taps, runs, phases, tiles, winner, windows, joined, stage, thread, threads
):  # fmt: skip
    plan = read(numbers, CORRELATION)
    if stage != 1:
        _pack_share(w, packed, plan, taps, thread, threads)
    if stage != 0:
        at = plan.slabs + thread * plan.own + plan.rows
        for task in share(plan.tasks, thread, threads):
            n, g, first = _place(plan, task)
            image = at - first * plan.y_h
            _correlate_band(
                x, bias, scratch, image, packed, scratch, plan, runs, phases, tiles, n, g, first, thread, joined
            )
            rows = min(plan.band, plan.OH - first)
            pool_rows(y, winner, windows, n, first, rows, scratch, at, plan.y_h, plan.OCG, ZERO, plan.OCG)


@inlined
def _place(plan, task):
    """The image of a task, its group, and the first row of its band."""
    return task // (plan.G * plan.bands), task // plan.bands % plan.G, task % plan.bands * plan.band


@inlined
def _pack_share(w, packed, plan, taps, thread, threads):
    """One thread's share of the packed weights."""
    for block in share(plan.G * plan.blocks, thread, threads):
        _pack_weights(w, packed, plan, taps, block)


@routine
def _pack_weights(w, packed, plan, taps, block):
    """Pack one block of weights, with zeros in the lanes that have no channel."""
    g = block // plan.blocks
    channel = block % plan.blocks * plan.width
    lanes = min(plan.width, plan.OCG - channel)
    start = g * plan.w_group + channel * plan.w_lane
    pack_block(
        w, start, plan.w_lane, plan.w_channel, plan.ICG, taps, packed, block * plan.block_size, lanes, plan.width,
        plan.lanes,
    )  # fmt: skip


@routine
def _correlate_band(x, bias, y, image, packed, scratch, plan, runs, phases, tiles, n, g, first, thread, joined):
    """One task: a band of rows, all output channels of a group, all phases; the target's image begins at ``image``."""
    own = plan.slabs + thread * plan.own
    start = n * plan.x_n + g * plan.ICG * plan.x_c
    rows = (plan.band - 1) * plan.in_h + plan.span
    if plan.direct:
        slab, begin = x, start + (plan.top + first * plan.in_h) * plan.x_h + plan.left * plan.x_w
    else:
        slab, begin = scratch, own
        pack_slab(
            x, start, plan.x_c, plan.x_h, plan.x_w, plan.ICG, plan.IH, plan.IW,
            scratch, own, plan.top + first * plan.in_h, rows, plan.left, plan.columns // plan.pieces,
            plan.pieces, plan.apart, plan.ICG, plan.lanes,
        )  # fmt: skip
    for block in range(0, plan.blocks, plan.together):
        end = min(block + plan.together, plan.blocks)
        for phase in range(len(phases)):
            for row in range(first, min(first + plan.band, phases[phase, 1])):
                source = begin + (row - first) * plan.in_h * plan.columns * plan.ICG
                oh = phases[phase, 0] + row * plan.out_h
                target = image + oh * plan.y_h + phases[phase, 2] * plan.y_w
                _correlate_row(
                    bias, y, target, packed, scratch, slab, source, own + plan.stage, g * plan.blocks, block, end,
                    plan, runs, phases, tiles, phase, plan.top + row * plan.in_h, joined,
                )  # fmt: skip


@inlined
def _correlate_row(
    bias, y, target, packed, scratch, slab, source, stage, group, first_block, end, plan, runs, phases, tiles, phase,
    top, joined,
):  # fmt: skip
    """One row of one phase, tile by tile, of some blocks of channels; the first source row that it reaches is ``top``.

    A tile is written whole: to the output where that has room for its last pixel and its last lane and has channels
    innermost, else to the stage, from where what exists of it is copied.
    """
    pitch = plan.out_w * plan.y_w
    first, last = _runs_inside(runs, phases[phase, 4], phases[phase, 5], top, plan.IH)
    for k in range(phases[phase, 6], phases[phase, 7]):
        pixels = source + tiles[k, 0] * plan.in_w * plan.ICG
        height, exist = tiles[k, 1], tiles[k, 2]
        for block in range(first_block, end):
            at = target + tiles[k, 0] * pitch + block * plan.width * plan.y_c
            count = min(plan.width, plan.OCG - block * plan.width)
            vectors = 2 if count > plan.lanes else 1
            whole = plan.y_c == 1 and exist == height and count == vectors * plan.lanes
            to, start, step = (y, at, pitch) if whole else (scratch, stage, plan.width)
            _correlate_tile(
                bias, to, start, step, packed, slab, pixels, group + block, vectors, height, plan, runs, first, last,
                joined,
            )  # fmt: skip
            if not whole:
                unpack_tile(scratch, stage, plan.width, exist, count, y, at, plan.y_c, pitch, plan.lanes)


@inlined
def _runs_inside(runs, first, last, top, IH):
    """Those of some runs that find more than padding, where slab row 0 of the first pixel is row ``top`` of the image.

    Runs are in the order of their rows.
    """
    while first < last and top + runs[first, 4] < 0:
        first += 1
    while first < last and top + runs[last - 1, 3] >= IH:
        last -= 1
    return first, last


@routine
def _correlate_tile(bias, to, at, step, packed, x, source, block, vectors, height, plan, runs, first, last, taps):
    """Sum one tile, of one of the shapes that exist for so many taps, starting from the bias, and write it."""
    weights, lane = block * plan.block_size, block * plan.width
    if len(taps) == 1:  # known when this is compiled
        if vectors == 2:
            if height == TALL:
                _sum(spread(TALL, 2, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last)
            elif height == MIDDLE:
                _sum(spread(MIDDLE, 2, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last)
            else:
                _sum(spread(SHORT, 2, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last)
        elif height == TALL:
            _sum(spread(TALL, 1, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last)
        elif height == MIDDLE:
            _sum(spread(MIDDLE, 1, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last)
        else:
            _sum(spread(SHORT, 1, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last)
    elif vectors == 2:
        if height == HALF:
            _trail(spread(HALF, 2, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last, taps)
        elif height == ODD:
            _trail(spread(ODD, 2, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last, taps)
        else:
            _trail(spread(LOW, 2, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last, taps)
    elif height == HIGH:
        _trail(spread(HIGH, 1, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last, taps)
    elif height == EVEN:
        _trail(spread(EVEN, 1, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last, taps)
    else:
        _trail(spread(HALF, 1, bias, lane), to, at, step, packed, x, source, weights, plan, runs, first, last, taps)


@device
def _sum(tile, to, at, step, packed, x, source, weights, plan, runs, first, last):
    tile = accumulate(
        tile, x, source, plan.in_w * plan.ICG, 1, packed, weights, plan.lanes, plan.width, runs, first, last
    )  # fmt: skip
    _finish(tile, to, at, step, plan)


@device
def _trail(tile, to, at, step, packed, x, source, weights, plan, runs, first, last, taps):
    tile = accumulate_taps(
        tile, x, source, plan.in_w * plan.ICG, packed, weights, plan.lanes, plan.ICG * plan.width, plan.width, runs,
        first, last, taps,
    )  # fmt: skip
    _finish(tile, to, at, step, plan)


@device
def _finish(tile, to, at, step, plan):
    if plan.relu:
        tile = rectify(tile)
    store(tile, to, at, step, plan.lanes)
