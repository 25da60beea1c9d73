"""The forward pass and the input gradient of 3 x 3 and 5 x 5 convolutions, by Winograd's minimal filtering.

The output is cut into small tiles. For each tile the pixels that it reads are transformed, channel by channel; the
transformed pixels are multiplied with the transformed weights, *point by point*, and summed over channels; and the sums
are transformed back (:mod:`numbaconv.kernels.cook_toom` says why that is the convolution). For 3 x 3 taps and tiles of
4 x 4 pixels, 36 multiplications do the work of 144; for 5 x 5 taps and 2 x 2 pixels, which read as many, that of 100.

At one point, the sums over channels of many tiles are a product of matrices: the register tile once more, whose rows
are tiles of the image, and whose lanes are output channels::

    block:  for each tile of some rows of tiles, each vector of input channels:
                V[point][tile][channels] = B.T x pixels x B         (transforms.transform_input)
            for each block of output channels:
                for each point:
                    M[point][tile][channels] = V[point] x U[point]      (the microkernel)
                for each tile:
                    target pixels = A.T x M[...][tile] x A + bias       (transforms.transform_output)

``U`` holds the transformed weights. ``V`` and ``M`` are as large as fits into the L2 cache. Where all of ``U`` fits as
well, every thread makes it for itself, which takes less time than to have it from the caches of other cores.

Where there are fewer tiles than output channels, ``U`` is the larger operand, and would only go through memory to be
written and to be read again. Then all threads transform the whole input first, and each transforms the weights of a
block of output channels when it comes to it::

    block of output channels:
                U[point][channel][lanes] = G x taps x G.T                  (transforms.transform_taps)
                for each block of tiles: M = V x U, and the target pixels from M, as above

Where two rows or columns at most are left for the last tiles of an image, these are half as large, ``low`` or ``thin``,
and have 4 points along that axis instead of 6. The 4 are among the 6, so the same ``U`` serves them. A batch has first
its low tiles, then those of full size, then the thin ones: so the tiles that have a point follow each other at every
point. The tile in the corner is thin.

With a dilation, an output pixel depends on none but the input pixels of one *phase*: those that agree modulo the
dilation. So each phase is cut into tiles of its own, whose pixels lie ``DH`` rows and ``DW`` columns apart.

As in :mod:`numbaconv.kernels.correlation`, "input" and "output" are the correlation's, and the input gradient is one
whose weights are turned by 180 degrees.
"""

from __future__ import annotations

from numbaconv.jit import ONE, ZERO, device, inlined, kernel, routine, share, standalone
from numbaconv.kernels.packing import transpose_all, unpack_tile
from numbaconv.kernels.pooling import pool_rows
from numbaconv.kernels.records import read, record
from numbaconv.kernels.tiles import MIDDLE, SHORT, TALL, extend
from numbaconv.kernels.transforms import transform_small_sums, transform_sums, transform_taps
from numbaconv.kernels.winograd_tiles import (
    TILING,
    add_rows,
    first_pixel,
    first_tiles,
    look_ahead,
    row_of_tiles,
    run_of_point,
    runs_of_tiles,
    some_rows,
    transform_all,
    transform_images,
)
from numbaconv.simd import clear, move, store, zeros

#: The integers that the kernel needs, as one record; :mod:`numbaconv.plan` makes it.
WINOGRAD = record(
    *TILING,
    "y_n",  # strides of the output
    "y_c",
    "y_h",
    "y_w",
    "w_column",  # from a tap to the next, the rows of a filter being one run
    "turned",  # 1: the taps are in reverse order
    "private",  # 1: every thread transforms all weights for itself
    "weights",  # where the transformed weights begin: of packed memory, or of a thread's part
    "weight_point",  # elements of them from a point to the next
    "relu",  # 1: instead of what is below 0, 0 is written
    "sum_relu",  # 1: the same of the sum, where another image is added
    "pooled",  # 1: the output is pooled, 2: the input is the gradient of what was pooled
)


@kernel(stages=2)
def correlate_winograd(x, w, bias, y, packed, scratch, numbers, heights, stage, thread, threads):
    """Fill ``y``; all arrays of elements are flat, and ``bias`` is filled up by zeros.

    The first stage packs the weights ``w`` to ``packed``, which may be the beginning of ``scratch``.

    Parameters
    ----------
    numbers : int array
        A WINOGRAD.
    heights : int array (tiles + 1,)
        The height of the register tile to begin with, where so many tiles of the image are left.
    """
    _correlate(x, w, bias, y, packed, scratch, numbers, heights, None, None, None, stage, thread, threads)


@kernel(stages=2)
def correlate_winograd_pooled(
    x, w, bias, y, packed, scratch, numbers, heights, winner, windows, stage, thread, threads
):  # fmt: skip
    """The same where the convolution is followed by a max pooling, and what lies between them is nowhere in memory.

    In a forward pass, ``y`` and ``winner`` are what :func:`numbaconv.kernels.pooling.max_pool` fills. In an input
    gradient, ``x`` is the gradient of that, and ``winner`` says where it goes.
    """
    _correlate(x, w, bias, y, packed, scratch, numbers, heights, (winner, windows), None, None, stage, thread, threads)


@kernel(stages=2)
def correlate_winograd_normed(x, w, bias, y, packed, scratch, numbers, heights, norm, stage, thread, threads):
    """The same where a batch normalisation comes before, and what lies between them is nowhere in memory.

    ``norm`` is what :func:`numbaconv.kernels.normalisation.lay_out` made. Each thread makes its own transformed input.
    """
    _correlate(x, w, bias, y, packed, scratch, numbers, heights, None, norm, None, stage, thread, threads)


@kernel(stages=2)
def correlate_winograd_summed(x, w, bias, y, packed, scratch, numbers, heights, plus, stage, thread, threads):
    """The same where another image is added to the output, ``plus``, while that is in the cache.

    All channels of some rows of tiles are one thread's.
    """
    _correlate(x, w, bias, y, packed, scratch, numbers, heights, None, None, plus, stage, thread, threads)


@inlined
def _correlate(x, w, bias, y, packed, scratch, numbers, heights, pool, norm, plus, stage, thread, threads):
    plan = read(numbers, WINOGRAD)
    if stage != 1:
        _prepare(x, w, packed, scratch, plan, pool, thread, threads)
    if stage != 0:
        _correlate_share(x, w, bias, y, packed, scratch, plan, heights, pool, norm, plus, thread, threads)


@routine
def _prepare(x, w, packed, scratch, plan, pool, thread, threads):
    """One thread's share of what is everybody's: the transformed weights, or the transformed input."""
    own = plan.slabs + thread * plan.own
    if plan.by_blocks:
        transform_all(x, scratch, own, plan, pool, thread, threads)
    elif not plan.private:
        _transform_all_weights(w, scratch, own, plan, packed, plan.weights, thread, threads)


@routine
def _transform_all_weights(w, scratch, own, plan, packed, to, thread, threads):
    """One thread's share of the weights of all blocks."""
    chunks = -(-plan.ICG // plan.lanes)
    for task in share(plan.G * plan.blocks * chunks, thread, threads):
        block, first = task // chunks, task % chunks * plan.lanes
        _transform_weights(w, scratch, own, plan, block, first, packed, to + block * plan.block_size)


@standalone
def _transform_weights(w, scratch, stage, plan, block, first, packed, to):
    """Transform the weights of some input channels, a vector of them from ``first``, of one block."""
    channel = block % plan.blocks * plan.width
    lanes = min(plan.width, plan.OCG - channel)
    start = block // plan.blocks * plan.w_group + channel * plan.w_lane + first * plan.w_channel
    channels = min(plan.lanes, plan.ICG - first)
    _pack_taps(w, start, plan, channels, lanes, scratch, stage)
    _transform_taps(scratch, stage, channels, plan, packed, to + first * plan.width)


@inlined
def _pack_taps(w, start, plan, channels, lanes, stage, to):
    """Copy the taps of some channels to ``[channel][row][column][lane]``."""
    taps = plan.side * plan.side
    pitch = taps * plan.width
    if lanes < plan.width:
        clear(stage, to, channels * pitch)
    if plan.w_lane != 1 and plan.w_channel == taps:
        transpose_all(stage, to, plan.width, w, start, plan.w_lane, lanes, channels * taps, plan.lanes)
    elif plan.w_column == 1:
        for c in range(channels):
            here = start + c * plan.w_channel
            transpose_all(stage, to + c * pitch, plan.width, w, here, plan.w_lane, lanes, taps, plan.lanes)
    else:
        for tap in range(taps):
            here, target = start + tap * plan.w_column, to + tap * plan.width
            if plan.w_lane == 1:
                move(stage, target, pitch, w, here, plan.w_channel, channels, lanes)
            else:
                transpose_all(stage, target, pitch, w, here, plan.w_lane, lanes, channels, plan.lanes)


@inlined
def _transform_taps(scratch, stage, channels, plan, packed, to):
    """Transform the packed taps of some channels."""
    side, taps, column = plan.side, plan.side * plan.side, plan.width
    if plan.turned:
        stage, column = stage + (taps - 1) * column, -column
    for channel in range(channels):
        for lane in range(0, plan.width, plan.lanes):
            transform_taps(
                plan.points, side, scratch, stage + channel * taps * plan.width + lane, side * column, column,
                packed, to + channel * plan.width + lane, plan.weight_point,
            )  # fmt: skip


@routine
def _correlate_share(x, w, bias, y, packed, scratch, plan, heights, pool, norm, plus, thread, threads):
    """One thread's share of the work: some blocks of weights, or some of the input, batch by batch."""
    own, group = plan.slabs + thread * plan.own, plan.units
    task, end = thread * plan.tasks // threads, (thread + 1) * plan.tasks // threads
    if plan.by_blocks:
        for block in range(task, end):
            g = block // plan.blocks
            for first in range(0, plan.ICG, plan.lanes):
                _transform_weights(w, scratch, own, plan, block, first, scratch, own + plan.weights)
            inputs = plan.inputs + g * plan.points * plan.points * plan.input_point
            for unit in range(0, group, plan.batch):
                batch = min(group - unit, plan.batch)
                _multiply(
                    scratch, inputs + unit * plan.row_tiles * plan.pitch, scratch, own + plan.weights, own + plan.sums,
                    plan, block % plan.blocks, runs_of_tiles(plan, unit, batch), heights, x, y, None, ZERO, ZERO, ZERO,
                )  # fmt: skip
                _transform_sums(bias, y, scratch, own, plan, pool, g, block % plan.blocks, unit, batch)
    else:
        all_weights = plan.weights
        if plan.private:
            packed, all_weights = scratch, own + plan.weights
            _transform_all_weights(w, scratch, own, plan, packed, all_weights, ZERO, ONE)
        while task < end:
            g = task // group
            batch = min(min(end, (g + 1) * group) - task, plan.batch)
            runs = runs_of_tiles(plan, task - g * group, batch)
            transform_images(
                x, scratch, own, own + plan.inputs, plan, pool, norm, g, task - g * group, batch, ZERO, plan.ICG
            )  # fmt: skip
            for block in range(plan.blocks):
                weights = all_weights + (g * plan.blocks + block) * plan.block_size
                reads = batch if plan.ahead and block == plan.blocks - 1 else 0
                writes = batch if plan.ahead and block == 0 else 0
                _multiply(
                    scratch, own + plan.inputs, packed, weights, own + plan.sums, plan, block, runs, heights, x, y,
                    plus, task, reads, writes,
                )  # fmt: skip
                _transform_sums(bias, y, scratch, own, plan, pool, g, block, task - g * group, batch)
            if plus is not None:
                add_rows(y, plus, plan, task, batch)
            task += batch


@standalone
def _multiply(scratch, inputs, packed, weights, sums, plan, block, runs, heights, x, y, plus, unit, reads, writes):
    """Multiply the transformed input with a block of transformed weights, at every point.

    Meanwhile, memory is prefetched that ``units`` rows of strips from ``unit`` on stand for.
    """
    vectors = 2 if plan.OCG - block * plan.width > plan.lanes else 1
    points, row, column = plan.points * plan.points, 0, 0
    for point in range(points):
        if reads > 0:
            look_ahead(x, plan.x_ahead + unit * plan.x_unit, reads * plan.x_unit, point, points)
        if writes > 0:
            look_ahead(y, plan.y_ahead + unit * plan.y_unit, writes * plan.y_unit, point, points)
            if plus is not None:
                look_ahead(plus, plan.y_ahead + unit * plan.y_unit, writes * plan.y_unit, point, points)
        begin, end = run_of_point(row, column, runs)
        row, column = (row, column + 1) if column < plan.points - 1 else (row + 1, 0)
        a = inputs + point * plan.input_point + begin * plan.pitch
        to, left = sums + point * plan.sum_point + begin * plan.width, end - begin
        while left > 0:
            height = heights[left]
            _multiply_tile(scratch, a, packed, weights, to, height, vectors, plan)
            a += height * plan.pitch
            to += height * plan.width
            left -= height
        weights += plan.weight_point


@inlined
def _multiply_tile(scratch, a, packed, b, to, height, vectors, plan):
    if vectors == 2:
        if height == TALL:
            _sum(zeros(TALL, 2, scratch), scratch, a, packed, b, to, plan)
        elif height == MIDDLE:
            _sum(zeros(MIDDLE, 2, scratch), scratch, a, packed, b, to, plan)
        else:
            _sum(zeros(SHORT, 2, scratch), scratch, a, packed, b, to, plan)
    elif height == TALL:
        _sum(zeros(TALL, 1, scratch), scratch, a, packed, b, to, plan)
    elif height == MIDDLE:
        _sum(zeros(MIDDLE, 1, scratch), scratch, a, packed, b, to, plan)
    else:
        _sum(zeros(SHORT, 1, scratch), scratch, a, packed, b, to, plan)


@device
def _sum(tile, scratch, a, packed, b, to, plan):
    tile = extend(tile, scratch, a, plan.pitch, 1, packed, b, plan.lanes, plan.width, plan.ICG)
    store(tile, scratch, to, plan.width, plan.lanes)


@routine
def _transform_sums(bias, y, scratch, own, plan, pool, g, block, task, batch):
    """Transform the sums of one block back, and write the pixels that exist.

    They go straight to the output where that has channels innermost, else to a stage, where the slab was, from which
    they are copied, or pooled.
    """
    channel = block * plan.width
    count = min(plan.width, plan.OCG - channel)
    lane = (g * plan.blocks + block) * plan.width
    nexts = first_tiles(plan, task, batch)
    end = task + batch
    while task < end:
        n, strip, first, rows, tiles, thin_tiles = some_rows(plan, task, end)
        oh, ow = first * plan.tile * plan.DH, strip * plan.strip * plan.tile * plan.DW
        height, width = min(rows * plan.tile * plan.DH, plan.OH - oh), min(tiles * plan.tile * plan.DW, plan.OW - ow)
        target = n * plan.y_n + (g * plan.OCG + channel) * plan.y_c + oh * plan.y_h + ow * plan.y_w
        pools = False
        if pool is not None:
            pools = plan.pooled == 1
        if plan.y_c == 1 and not pools:
            nexts = _transform_strip(
                bias, lane, y, target, plan.y_h, plan.y_w, count, scratch, own + plan.sums, nexts, plan, height, width,
                first, rows, tiles, thin_tiles,
            )  # fmt: skip
        else:
            pitch = plan.width
            nexts = _transform_strip(
                bias, lane, scratch, own, width * pitch, pitch, pitch, scratch, own + plan.sums, nexts, plan, height,
                width, first, rows, tiles, thin_tiles,
            )  # fmt: skip
            if pool is not None:
                if pools:
                    pool_rows(
                        y, pool[0], pool[1], n, oh, height, scratch, own, width * pitch, pitch, g * plan.OCG + channel,
                        count,
                    )  # fmt: skip
            if not pools:
                _unpack_strip(scratch, own, y, target, plan, height, width, count)
        task += rows


@inlined
def _unpack_strip(scratch, stage, y, target, plan, height, width, count):
    """Copy the pixels of a strip from the stage to the output."""
    pitch = plan.width
    if plan.strips == 1:  # rows follow each other in the output
        unpack_tile(scratch, stage, pitch, height * width, count, y, target, plan.y_c, plan.y_w, plan.lanes)
    else:
        for row in range(height):
            unpack_tile(
                scratch, stage + row * width * pitch, pitch, width, count, y, target + row * plan.y_h, plan.y_c,
                plan.y_w, plan.lanes,
            )  # fmt: skip


@standalone
def _transform_strip(
    bias, lane_0, to, start, line, pixel, channels, scratch, sums, nexts, plan, height, width, first, rows, columns,
    thin_columns,
):  # fmt: skip
    """Transform some rows of tiles, of all phases, that exist to a ``height`` and ``width`` of pixels.

    ``first`` is the first row of tiles, ``nexts`` as for :func:`row_of_tiles`.
    """
    for row in range(rows * plan.phases):
        oh, left = first_pixel(plan, row)
        low, tile, thin_tile, nexts = row_of_tiles(plan, first * plan.phases + row, columns, thin_columns, nexts)
        tall = min(plan.tile, -(-(height - oh) // plan.DH))
        full = 0 if low else columns - thin_columns
        source = sums + tile * plan.width
        for column in range(full):
            ow = column * plan.tile * plan.DW + left
            wide = min(plan.tile, -(-(width - ow) // plan.DW))
            if tall > 0 and wide > 0:
                for lane in range(0, channels, plan.lanes):
                    transform_sums(
                        plan.tile, plan.points, scratch, source + lane, plan.sum_point,
                        to, start + oh * line + ow * pixel + lane, plan.DH * line, plan.DW * pixel,
                        tall, wide, channels - lane, bias, lane_0 + lane, plan.relu,
                    )  # fmt: skip
            source += plan.width
        for column in range(full, columns):
            is_thin = column >= columns - thin_columns
            if is_thin:
                source = sums + thin_tile * plan.width
            ow = column * plan.tile * plan.DW + left
            wide = min(plan.tile, -(-(width - ow) // plan.DW))
            if tall > 0 and wide > 0:
                transform_small_sums(
                    is_thin, scratch, source, plan.sum_point, to, start + oh * line + ow * pixel, plan.DH * line,
                    plan.DW * pixel, tall, wide, channels, plan.lanes, bias, lane_0, plan.relu,
                )  # fmt: skip
            source += plan.width
    return nexts
