"""The weight gradient of 3 x 3 and 5 x 5 convolutions, by Winograd's minimal filtering.

The gradient of a filter is a correlation too, of the input with the output's gradient; a tile of the gradient's 4 x 4
pixels are its taps, and the nine weights its outputs. So ``F(3, 4)`` takes the place of ``F(4, 3)``, and ``F(5, 2)``
that of ``F(2, 5)``: they read the same 6 x 6 pixels of the input, and transform them in the same way. As the transform
back is linear, it is done but once, for the sum over all tiles::

    part:   for each batch of tiles:
                V[point][tile][input channels]  = B.T x input pixels x B           (transforms.transform_input)
                Z[point][tile][output channels] = G x gradient's pixels x G.T      (transforms.transform_gradient)
                for each point:
                    M[point][input channel][output channels] += V[point].T x Z[point]      (the microkernel)
            sums = A.T x M x A                                                     (transforms.transform_output)

The sum over tiles takes the place of the sum over channels: the rows of the register tile are input channels. At the
end the parts are added up in a fixed order; how many there are does not depend on the number of threads.
"""

from __future__ import annotations

from numbaconv.jit import ALL, ONE, ZERO, device, inlined, kernel, routine, share
from numbaconv.kernels.packing import pack_slab, unpack_block
from numbaconv.kernels.pooling import spread_slab
from numbaconv.kernels.records import read, record
from numbaconv.kernels.tiles import MIDDLE, SHORT, TALL, extend
from numbaconv.kernels.transforms import transform_gradient, transform_output, transform_small_gradient
from numbaconv.kernels.winograd_tiles import (
    TILING,
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
from numbaconv.simd import add, clear, zeros

#: The integers that the kernel needs, as one record; :mod:`numbaconv.plan` makes it.
WEIGHT_WINOGRAD = record(
    *TILING,
    "z_n",  # strides of the output's gradient
    "z_c",
    "z_h",
    "z_w",
    "joined",  # taps that lie next to each other in the weight's gradient
    "splits",  # shares of a group's blocks
    "together",  # of which so many may be taken together
    "parts",  # partial sums
    "gradients",  # where in a thread's part the transformed gradient begins
    "z_pitch",  # its channels from a tile to the next
    "gradient_point",  # its elements from a point to the next
    "sum_block",  # elements of the sums from a block to the next
)


@kernel(stages=3)
def weight_gradient_winograd(x, z, w, scratch, numbers, taps, tiles, stage, thread, threads):
    """Fill ``w``, the gradient of the weight, from the input ``x`` and the output's gradient ``z``; all are flat.

    Parameters
    ----------
    numbers : int array
        A WEIGHT_WINOGRAD.
    taps : int array (taps, 2)
        Where in a filter each tap lies, and the first of its rows in a block.
    tiles : int array (tiles, 3)
        First input channel, height of the register tile, rows of it that exist; the others are summed, and never read.
    """
    _weight_gradient(x, z, w, scratch, numbers, taps, tiles, None, None, stage, thread, threads)


@kernel(stages=3)
def weight_gradient_winograd_pooled(
    x, z, w, scratch, numbers, taps, tiles, winner, windows, stage, thread, threads
):  # fmt: skip
    """The same where a max pooling follows the convolution: ``z`` is the gradient of what that makes of the output.

    ``winner`` says where it goes (see :func:`numbaconv.kernels.pooling.max_pool_backward`).
    """
    _weight_gradient(x, z, w, scratch, numbers, taps, tiles, (winner, windows), None, stage, thread, threads)


@kernel(stages=3)
def weight_gradient_winograd_normed(x, z, w, scratch, numbers, taps, tiles, norm, stage, thread, threads):
    """The same where a batch normalisation comes before, which is made where ``x`` is read.

    ``norm`` is what :func:`numbaconv.kernels.normalisation.lay_out` made.
    """
    _weight_gradient(x, z, w, scratch, numbers, taps, tiles, None, norm, stage, thread, threads)


@inlined
def _weight_gradient(x, z, w, scratch, numbers, taps, tiles, pool, norm, stage, thread, threads):
    plan = read(numbers, WEIGHT_WINOGRAD)
    if stage == ALL or stage == 0:
        if plan.by_blocks:
            transform_all(x, scratch, plan.slabs + thread * plan.own, plan, None, thread, threads)
    if stage == ALL or stage == 1:
        _sum_share(x, z, scratch, plan, tiles, pool, norm, thread, threads)
    if stage == ALL or stage == 2:
        for block in share(plan.G * plan.blocks, thread, threads):
            _unpack_sums(w, scratch, plan, taps, block)


@routine
def _unpack_sums(w, scratch, plan, taps, block):
    """Add up the parts of one block, and put it where it belongs."""
    channel = block % plan.blocks * plan.width
    unpack_block(
        scratch, block * plan.block_size, plan.G * plan.blocks * plan.block_size, plan.parts, taps, plan.joined,
        plan.ICG, min(plan.width, plan.OCG - channel), plan.width, plan.lanes,
        w, block // plan.blocks * plan.w_group + channel * plan.w_lane, plan.w_lane, plan.w_channel,
    )  # fmt: skip


@routine
def _sum_share(x, z, scratch, plan, tiles, pool, norm, thread, threads):
    """One thread's share of the tasks: one partial sum of one share of the blocks of one group each.

    Shares of the same part that follow each other are taken together, for they read the same input.
    """
    own = plan.slabs + thread * plan.own
    task, tasks_end = thread * plan.tasks // threads, (thread + 1) * plan.tasks // threads
    while task < tasks_end:
        part, g, split = task // (plan.G * plan.splits), task // plan.splits % plan.G, task % plan.splits
        splits = min(tasks_end - task, plan.splits - split, plan.together)
        first, last = split * plan.blocks // plan.splits, (split + splits) * plan.blocks // plan.splits
        task += splits
        clear(scratch, own + plan.sums, plan.points * plan.points * plan.sum_point)
        unit, end = part * plan.units // plan.parts, (part + 1) * plan.units // plan.parts
        while unit < end:
            batch = min(end - unit, plan.batch)
            if plan.by_blocks:
                inputs = plan.inputs + g * plan.points * plan.points * plan.input_point
                inputs += unit * plan.row_tiles * plan.pitch
            else:
                inputs = own + plan.inputs
                transform_images(x, scratch, own, inputs, plan, None, norm, g, unit, batch, ZERO, plan.ICG)
            _transform_gradients(z, scratch, own, plan, pool, g, first, last, unit, batch)
            hints, runs = batch if plan.ahead else 0, runs_of_tiles(plan, unit, batch)
            _multiply(scratch, own, inputs, plan, last - first, tiles, runs, x, z, unit, hints)
            unit += batch
        sums = ((part * plan.G + g) * plan.blocks + first) * plan.block_size
        _transform_sums(scratch, own, plan, last - first, sums)


@routine
def _transform_gradients(z, scratch, own, plan, pool, g, first_block, last_block, unit, batch):
    """Transform some rows of strips of the output's gradient, of the blocks that are given.

    Their tiles are counted as those of the input are.
    """
    nexts = first_tiles(plan, unit, batch)
    end, begin = unit + batch, first_block * plan.width
    channels = min(plan.OCG, last_block * plan.width) - begin
    while unit < end:
        n, strip, first, rows, columns, thin_columns = some_rows(plan, unit, end)
        height, width = rows * plan.tile * plan.DH, columns * plan.tile * plan.DW
        channel, top, edge = g * plan.OCG + begin, first * plan.tile * plan.DH, strip * plan.strip * plan.tile * plan.DW
        if pool is not None:
            spread_slab(scratch, own, z, pool[0], pool[1], n, top, height, edge, width, channel, channels)
        else:
            pack_slab(
                z, n * plan.z_n + channel * plan.z_c, plan.z_c, plan.z_h, plan.z_w, channels, plan.OH, plan.OW,
                scratch, own, top, height, edge, width, ONE, ZERO, channels, plan.lanes,
            )  # fmt: skip
        for row in range(rows * plan.phases):
            oh, left = first_pixel(plan, row)
            low, tile, thin_tile, nexts = row_of_tiles(
                plan, first * plan.phases + row, columns, thin_columns, nexts
            )  # fmt: skip
            full = 0 if low else columns - thin_columns
            pixel, step = own + (oh * width + left) * channels, plan.tile * plan.DW * channels
            to = own + plan.gradients + tile * plan.z_pitch
            for _ in range(full):
                for channel in range(0, channels, plan.lanes):
                    transform_gradient(
                        plan.points, plan.tile, scratch, pixel + channel, plan.DH * width * channels,
                        plan.DW * channels, scratch, to + channel, plan.gradient_point,
                    )  # fmt: skip
                pixel += step
                to += plan.z_pitch
            for column in range(full, columns):
                is_thin = column >= columns - thin_columns
                if is_thin:
                    to = own + plan.gradients + thin_tile * plan.z_pitch
                transform_small_gradient(
                    is_thin, scratch, pixel, plan.DH * width * channels, plan.DW * channels, scratch, to,
                    plan.gradient_point, channels, plan.lanes,
                )  # fmt: skip
                pixel += step
                to += plan.z_pitch
        unit += rows


@routine
def _multiply(scratch, own, inputs, plan, blocks, tiles, runs, x, z, unit, units):
    """Add the products of the tiles of the image to the sums of some blocks, at every point."""
    vectors = 1 if plan.width == plan.lanes else 2
    points, row, column = plan.points * plan.points, 0, 0
    for point in range(points):
        if units > 0:
            look_ahead(x, plan.x_ahead + unit * plan.x_unit, units * plan.x_unit, point, points)
            look_ahead(z, plan.y_ahead + unit * plan.y_unit, units * plan.y_unit, point, points)
        begin, end = run_of_point(row, column, runs)
        row, column = (row, column + 1) if column < plan.points - 1 else (row + 1, 0)
        a = inputs + point * plan.input_point + begin * plan.pitch
        b = own + plan.gradients + point * plan.gradient_point + begin * plan.z_pitch
        to = own + plan.sums + point * plan.sum_point
        for block in range(blocks):
            for k in range(len(tiles)):
                start = to + block * plan.sum_block + tiles[k, 0] * plan.width
                _multiply_tile(
                    scratch, a + tiles[k, 0], b + block * plan.width, start, tiles[k, 1], vectors, plan, end - begin
                )


@inlined
def _multiply_tile(scratch, a, b, to, height, vectors, plan, count):
    if vectors == 2:
        if height == TALL:
            _sum(zeros(TALL, 2, scratch), scratch, a, b, to, plan, count)
        elif height == MIDDLE:
            _sum(zeros(MIDDLE, 2, scratch), scratch, a, b, to, plan, count)
        else:
            _sum(zeros(SHORT, 2, scratch), scratch, a, b, to, plan, count)
    elif height == TALL:
        _sum(zeros(TALL, 1, scratch), scratch, a, b, to, plan, count)
    elif height == MIDDLE:
        _sum(zeros(MIDDLE, 1, scratch), scratch, a, b, to, plan, count)
    else:
        _sum(zeros(SHORT, 1, scratch), scratch, a, b, to, plan, count)


@device
def _sum(tile, scratch, a, b, to, plan, count):
    tile = extend(tile, scratch, a, 1, plan.pitch, scratch, b, plan.lanes, plan.z_pitch, count)
    add(tile, scratch, to, plan.width)


@routine
def _transform_sums(scratch, own, plan, blocks, to):
    """Transform the sums of some blocks back."""
    for block in range(blocks):
        source = own + plan.sums + block * plan.sum_block
        for lane in range(0, plan.ICG * plan.width, plan.lanes):
            transform_output(
                plan.side, plan.points, scratch, source + lane, plan.sum_point,
                scratch, to + lane, plan.side * plan.ICG * plan.width, plan.ICG * plan.width,
            )  # fmt: skip
        to += plan.block_size
