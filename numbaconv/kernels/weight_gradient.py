"""The direct weight gradient.

For every tap and input channel (the tile's rows) and every output channel (its lanes) it sums, over all output pixels,
the input pixel that the tap reads there times the gradient of the output pixel. The work is cut into tasks: some bands
of rows of some images, one group, some blocks of output channels. A task sums into a part of its own::

    task:   for each of its bands: pack the band of the input into a slab, that of the output gradient into blocks
                for each of its blocks:
                    for each tile of taps and input channels:
                        tile  = 0
                        tile += input pixels x output gradient      (tiles.accumulate)
                        part += tile

Rows of padding are left out. Where the rows of a window are few, those of three windows are summed together: the input
has one channel or three, say, and a kernel row has three taps. Then what is read of the gradient meets all of them.

At the end the parts are added up in a fixed order. How the work is cut never depends on the number of threads, so
neither does a single bit of the result.
"""

from __future__ import annotations

from numbaconv import simd
from numbaconv.jit import ZERO, device, inlined, kernel, routine, share
from numbaconv.kernels.packing import pack_blocks, pack_slab, unpack_block
from numbaconv.kernels.pooling import inside, spread_slab
from numbaconv.kernels.records import read, record
from numbaconv.kernels.tiles import MIDDLE, SHORT, TALL, accumulate
from numbaconv.simd import add, clear, outer, zeros

#: So many windows are summed together where they have but so many rows, and how many vectors those may have then.
WINDOWS = 3
HIGH, LOW = (9, 3) if simd.VECTOR_REGISTERS >= 32 else (4, 2)
FEW_ROWS = {LOW: 2, HIGH: 1}

#: The integers that the kernel needs, as one record; :mod:`numbaconv.plan` makes it.
WEIGHT_GRADIENT = record(
    "G",  # groups
    "ICG",  # input channels of a group: the slab's innermost extent
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
    "w_group",  # strides of the weight's gradient
    "w_lane",
    "w_channel",
    "joined",  # taps of a window
    "few",  # rows of a window, if three windows are summed together, else 0
    "lanes",  # lanes of one vector
    "width",  # lanes of a block
    "blocks",  # blocks of a group
    "block_size",  # elements of a packed block
    "parts",  # partial sums
    "splits",  # shares of a group's blocks
    "slabs",  # where the threads' own parts of the scratch memory begin
    "own",  # elements of such a part
    "gradient",  # where in it the packed output gradient begins
    "direct",  # 1: the input is read where it is
    "z_direct",  # 1: and so is the output's gradient
    "z_block",  # elements of what is read of that from a block to the next, and from a pixel to the next
    "z_step",
    "units",  # bands of all images
    "bands",  # bands of an image
    "band",  # output rows of a band
    "in_h",  # slab rows and columns from a pixel to the next
    "in_w",
    "top",  # input row and column that output pixel (0, 0) reaches first
    "left",
    "span",  # slab rows that a single pixel reaches
    "columns",  # slab columns
    "pieces",  # stretches of image columns that a slab row is made of
    "apart",  # image columns from a stretch to the next
    "tasks",
)


@kernel(stages=2)
def weight_gradient(x, z, w, scratch, numbers, taps, runs, windows, tiles, stage, thread, threads):
    """Fill ``w``, the gradient of the weight, from the input ``x`` and the output's gradient ``z``; all are flat.

    Parameters
    ----------
    numbers : int array
        A WEIGHT_GRADIENT.
    taps : int array (taps, 2)
        Where in a filter each tap lies, and the first of its rows in a packed block.
    runs : int array (rows of a band, 3)
        Offset in the slab, offset in the packed gradient, pixels: one run an output row.
    windows : int array (windows, 3)
        Offset in the slab, first row in a packed block: neighbouring taps whose memory is contiguous are one window.
        The slab row that the first output row finds there.
    tiles : int array (tiles, 3)
        First row in the window, height of the tile, rows of it that exist; the others are summed, and never read.
    """
    plan = read(numbers, WEIGHT_GRADIENT)
    if stage != 1:
        _sum_share(x, z, scratch, plan, runs, windows, tiles, None, thread, threads)
    if stage != 0:
        _unpack_share(w, scratch, plan, taps, thread, threads)


@kernel(stages=2)
def weight_gradient_pooled(
    x, z, w, scratch, numbers, taps, runs, windows, tiles, winner, pooling, stage, thread, threads
):  # fmt: skip
    """The same where a max pooling follows the convolution: ``z`` is the gradient of what that makes of the output.

    A band of the output's gradient is written to the cache, and nowhere else; ``winner`` says where the pooling's
    gradients go (see :func:`numbaconv.kernels.pooling.max_pool_backward`).
    """
    plan = read(numbers, WEIGHT_GRADIENT)
    if stage != 1:
        _sum_share(x, z, scratch, plan, runs, windows, tiles, (winner, pooling), thread, threads)
    if stage != 0:
        _unpack_share(w, scratch, plan, taps, thread, threads)


@inlined
def _unpack_share(w, scratch, plan, taps, thread, threads):
    """One thread's share of the blocks of the result."""
    for block in share(plan.G * plan.blocks, thread, threads):
        _unpack_sums(w, scratch, plan, taps, block)


@routine
def _unpack_sums(w, scratch, plan, taps, block):
    """Add up the parts of one block, and put it where it belongs."""
    g = block // plan.blocks
    channel = block % plan.blocks * plan.width
    lanes = min(plan.width, plan.OCG - channel)
    unpack_block(
        scratch, block * plan.block_size, plan.G * plan.blocks * plan.block_size, plan.parts, taps, plan.joined,
        plan.ICG, lanes, plan.width, plan.lanes, w, g * plan.w_group + channel * plan.w_lane, plan.w_lane,
        plan.w_channel,
    )  # fmt: skip


@routine
def _sum_share(x, z, scratch, plan, runs, windows, tiles, pool, thread, threads):
    """One thread's share of the tasks; ``pool`` is what is known of a pooling, or None."""
    own = plan.slabs + thread * plan.own
    for task in share(plan.tasks, thread, threads):
        _sum_part(x, z, scratch, own, plan, runs, windows, tiles, pool, task)


@inlined
def _sum_part(x, z, scratch, own, plan, runs, windows, tiles, pool, task):
    """One task: one partial sum of one share of the blocks of one group."""
    part = task // (plan.G * plan.splits)
    g = task // plan.splits % plan.G
    split = task % plan.splits
    blocks = range(split * plan.blocks // plan.splits, (split + 1) * plan.blocks // plan.splits)
    sums = (part * plan.G + g) * plan.blocks * plan.block_size
    for block in blocks:
        start = sums + block * plan.block_size
        clear(scratch, start, plan.block_size)
    for unit in range(part * plan.units // plan.parts, (part + 1) * plan.units // plan.parts):
        n = unit // plan.bands
        first = unit % plan.bands * plan.band
        rows = min(plan.band, plan.OH - first)
        start = n * plan.x_n + g * plan.ICG * plan.x_c
        if plan.direct:
            slab, begin = x, start + (plan.top + first * plan.in_h) * plan.x_h + plan.left * plan.x_w
        else:
            slab, begin = scratch, own
            pack_slab(
                x, start, plan.x_c, plan.x_h, plan.x_w, plan.ICG, plan.IH, plan.IW, scratch, own,
                plan.top + first * plan.in_h, (rows - 1) * plan.in_h + plan.span, plan.left,
                plan.columns // plan.pieces, plan.pieces, plan.apart, plan.ICG, plan.lanes,
            )  # fmt: skip
        channel = blocks.start * plan.width
        z_start = n * plan.z_n + first * plan.z_h + (g * plan.OCG + channel) * plan.z_c
        if pool is not None:
            gradients, z_begin = scratch, own + plan.gradient + channel
            spread_slab(
                scratch, own + plan.gradient, z, pool[0], pool[1], n, first, rows, ZERO, plan.OW, ZERO, plan.OCG
            )  # fmt: skip
        elif plan.z_direct:
            gradients, z_begin = z, z_start
        else:
            gradients, z_begin = scratch, own + plan.gradient
            pack_blocks(
                z, z_start, plan.z_c, plan.z_h, plan.z_w, min(plan.OCG, blocks.stop * plan.width) - channel,
                scratch, z_begin, rows, plan.OW, plan.width, plan.z_block, plan.lanes,
            )  # fmt: skip
        for block in blocks:
            channel = block * plan.width
            count = min(plan.width, plan.OCG - channel)
            gradient = z_begin + (block - blocks.start) * plan.z_block
            vectors = 2 if count > plan.lanes else 1
            _sum_block(
                scratch, slab, begin, gradients, gradient, sums + block * plan.block_size, vectors, plan, runs, rows,
                plan.top + first * plan.in_h, windows, tiles,
            )  # fmt: skip


@routine
def _sum_block(scratch, x, slab, z, gradient, start, vectors, plan, runs, rows, top, windows, tiles):
    """Add one band's share to one packed block: all windows, all tiles. The slab begins at row ``top`` of the input."""
    if plan.few > 0:
        for window in range(0, len(windows), WINDOWS):
            _sum_windows(scratch, x, slab, z, gradient, start, vectors, plan, runs, rows, windows, window)
        return
    for window in range(len(windows)):
        first, last = inside(top + windows[window, 2], plan.in_h, plan.IH, 0, rows)
        if first == last:  # all rows find nothing but padding
            continue
        for k in range(len(tiles)):
            source = slab + windows[window, 0] + tiles[k, 0]
            to = start + (windows[window, 1] + tiles[k, 0]) * plan.width
            height = tiles[k, 1]
            if vectors == 2:
                if height == TALL:
                    _sum(zeros(TALL, 2, scratch), scratch, to, x, source, z, gradient, plan, runs, first, last)
                elif height == MIDDLE:
                    _sum(zeros(MIDDLE, 2, scratch), scratch, to, x, source, z, gradient, plan, runs, first, last)
                else:
                    _sum(zeros(SHORT, 2, scratch), scratch, to, x, source, z, gradient, plan, runs, first, last)
            elif height == TALL:
                _sum(zeros(TALL, 1, scratch), scratch, to, x, source, z, gradient, plan, runs, first, last)
            elif height == MIDDLE:
                _sum(zeros(MIDDLE, 1, scratch), scratch, to, x, source, z, gradient, plan, runs, first, last)
            else:
                _sum(zeros(SHORT, 1, scratch), scratch, to, x, source, z, gradient, plan, runs, first, last)


@device
def _sum(tile, scratch, to, x, source, z, gradient, plan, runs, first, last):
    tile = accumulate(
        tile, x, source, 1, plan.in_w * plan.ICG, z, gradient, plan.lanes, plan.z_step, runs, first, last
    )  # fmt: skip
    add(tile, scratch, to, plan.width)


@routine
def _sum_windows(scratch, x, slab, z, gradient, start, vectors, plan, runs, rows, windows, first):
    """The same for three windows of few rows."""
    a, b, c = slab + windows[first, 0], slab + windows[first + 1, 0], slab + windows[first + 2, 0]
    where = a, b, c, gradient, rows
    to_a, to_b, to_c = windows[first, 1], windows[first + 1, 1], windows[first + 2, 1]
    to = start + to_a * plan.width, start + to_b * plan.width, start + to_c * plan.width
    if plan.few == LOW and vectors == 2:
        _sum_few(zeros(LOW, 2, scratch), scratch, to, 0, x, z, where, plan, runs)
    elif plan.few == LOW:
        _sum_few(zeros(LOW, 1, scratch), scratch, to, 0, x, z, where, plan, runs)
    else:
        for vector in range(vectors):
            _sum_few(zeros(HIGH, 1, scratch), scratch, to, vector * plan.lanes, x, z, where, plan, runs)


@device
def _sum_few(nothing, scratch, to, lane, x, z, where, plan, runs):
    one, two, three = nothing, nothing, nothing
    a, b, c, gradient, rows = where
    step, z_step, apart = plan.in_w * plan.ICG, plan.z_step, plan.lanes
    for run in range(rows):
        i, j = runs[run, 0], gradient + runs[run, 1] + lane
        for _ in range(runs[run, 2]):
            one = outer(one, x, a + i, 1, z, j, apart)
            two = outer(two, x, b + i, 1, z, j, apart)
            three = outer(three, x, c + i, 1, z, j, apart)
            i += step
            j += z_step
    add(one, scratch, to[0] + lane, plan.width)
    add(two, scratch, to[1] + lane, plan.width)
    add(three, scratch, to[2] + lane, plan.width)
