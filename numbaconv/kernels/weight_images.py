"""The direct weight gradient a third time, with lanes along the images of a batch.

Source and output gradient are turned so that the same element of as many images as a vector has lanes lies together
(:mod:`numbaconv.kernels.images` has the picture), the source with its padding at the ends of rows as zeros. So for one
output channel, one input channel and one tap, the gradient is a dot product over the output pixels, whose lanes are
added up in the end. The tile holds those of some output channels (its rows) and some taps next to each other (its
vectors), so that what is loaded once meets several::

    task:   for each of its bands: turn the band of the input, and that of the output gradient
                for each few taps of a row, each few output channels, each row of taps, each input channel:
                    tile  = 0
                    tile += output gradient * input pixels, image by image
                    part += tile

At the end the parts are added up in a fixed order, and the lanes of what they hold.
"""

from __future__ import annotations

from numbaconv import simd
from numbaconv.jit import device, inlined, kernel, routine, share
from numbaconv.kernels.images import turned
from numbaconv.kernels.packing import transpose_all
from numbaconv.kernels.records import read, record
from numbaconv.simd import add, clear, copy, dot, lift, spread, store, transpose, zeros

#: Taps that a tile may have, most first, and how many output channels it has then: so many sums as there are registers.
TAPS = (5, 3, 1)
ROWS = {taps: 1 << (max(1, (simd.VECTOR_REGISTERS - 2 - taps) // taps).bit_length() - 1) for taps in TAPS}
FIVE, THREE, ONE = ROWS[5], ROWS[3], min(8, ROWS[1])
ROWS = {5: FIVE, 3: THREE, 1: ONE}

#: The integers that the kernel needs, as one record; :mod:`numbaconv.plan.images` makes it.
WEIGHT_IMAGES = record(
    "N",
    "G",  # groups
    "ICG",  # input channels of a group
    "OCG",
    *turned("x"),  # the input
    *turned("z"),  # the output's gradient
    "w_group",  # elements of the weight from a group, output channel, input channel to the next
    "w_row",
    "w_channel",
    "lanes",  # lanes of a vector: images that are computed together
    "block",  # elements of a group's part
    "parts",  # partial sums
    "slabs",  # where the threads' own parts of the scratch memory begin
    "own",  # elements of such a part: the turned input, then the turned output gradient
    "gradient",  # where that begins
    "left",  # turned columns of zeros before the first of an image
    "columns",  # output columns
    "in_h",  # input rows and columns from a pixel to the next
    "in_w",
    "tap_w",  # input columns from a tap to the next
    "tasks",
)


@kernel(stages=2)
def weight_gradient_images(x, z, w, scratch, numbers, units, rows, columns, tiles, stage, thread, threads):
    """Fill ``w``, the gradient of the weight, from the input ``x`` and the output's gradient ``z``; all are flat.

    Parameters
    ----------
    numbers : int array
        A WEIGHT_IMAGES.
    units : int array (units, 5)
        The bands of all blocks of images: first image; first output row, how many rows; first input row that they
        read, how many rows.
    rows : int array (taps along rows, 4)
        Where in a filter the tap lies; the first output row for which it meets the image, and the first one after that
        for which it does not; the input row that it reads for output row 0.
    columns : int array (taps along columns, 2)
        Where in a filter the tap lies; the turned column that it reads for output column 0.
    tiles : int array (tiles, 5)
        First output channel, how many of the tile's exist; first tap, how many taps; where in a group's part its sums
        begin.
    """
    plan = read(numbers, WEIGHT_IMAGES)
    if stage != 1:
        own = plan.slabs + thread * plan.own
        clear(scratch, own, plan.own)
        for part in share(plan.tasks, thread, threads):
            sums = part * plan.G * plan.block
            begin = part * len(units) // plan.parts
            for unit in range(begin, (part + 1) * len(units) // plan.parts):
                _sum_unit(x, z, scratch, own, sums, plan, units, unit, rows, columns, tiles, unit == begin)
    if stage != 0:
        for piece in share(plan.G * len(tiles), thread, threads):
            _unpack_sums(w, scratch, plan.slabs + thread * plan.own, plan, rows, columns, tiles, piece)


@routine
def _sum_unit(x, z, scratch, own, sums, plan, units, unit, rows, columns, tiles, fresh):
    """Add one band's share to all sums, which are not there yet where they are ``fresh``."""
    n, first, count, top, high = units[unit, 0], units[unit, 1], units[unit, 2], units[unit, 3], units[unit, 4]
    images, gradient = min(plan.lanes, plan.N - n), own + plan.gradient
    if images < plan.lanes:  # the others must not add to any sum
        clear(scratch, own, plan.own)
    for piece in range(plan.x_pieces):
        for row in range(high):
            transpose_all(
                scratch, own + piece * plan.x_piece + row * plan.x_h + plan.left * plan.x_w, plan.lanes, x,
                n * plan.x_n + piece * plan.x_step + (top + row) * plan.x_row, plan.x_n, images, plan.x_row, plan.lanes,
            )  # fmt: skip
    for piece in range(plan.z_pieces):
        transpose_all(
            scratch, gradient + piece * plan.z_piece, plan.lanes, z,
            n * plan.z_n + piece * plan.z_step + first * plan.z_row, plan.z_n, images, count * plan.z_row, plan.lanes,
        )  # fmt: skip
    for g in range(plan.G):
        for tile in range(len(tiles)):
            taps, to = tiles[tile, 3], sums + g * plan.block + tiles[tile, 4]
            for kh in range(len(rows)):
                row, last = max(first, rows[kh, 1]), min(first + count, rows[kh, 2])
                i = gradient + (row - first) * plan.z_h + (g * plan.OCG + tiles[tile, 0]) * plan.z_c
                j = own + (rows[kh, 3] + row * plan.in_h - top) * plan.x_h + columns[tiles[tile, 2], 1] * plan.x_w
                for c in range(plan.ICG):
                    to = _sum_tile(scratch, to, i, j + (g * plan.ICG + c) * plan.x_c, plan, taps, last - row, fresh)


@routine
def _sum_tile(scratch, to, i, j, plan, taps, rows, fresh):
    """Add the dot products of one tile, of one of the shapes that exist, to the sums; where those of the next begin."""
    if taps == 5:
        _sum(zeros(FIVE, 5, scratch), scratch, to, i, j, plan, 5, rows, fresh)
        return to + FIVE * 5 * plan.lanes
    if taps == 3:
        _sum(zeros(THREE, 3, scratch), scratch, to, i, j, plan, 3, rows, fresh)
        return to + THREE * 3 * plan.lanes
    _sum(zeros(ONE, 1, scratch), scratch, to, i, j, plan, 1, rows, fresh)
    return to + ONE * plan.lanes


@device
def _sum(tile, scratch, to, i, j, plan, taps, rows, fresh):
    for _ in range(rows):
        z, x = i, j
        for _ in range(plan.columns):
            tile = dot(tile, scratch, z, plan.z_c, scratch, x, plan.tap_w * plan.x_w)
            z += plan.z_w
            x += plan.in_w * plan.x_w
        i += plan.z_h
        j += plan.in_h * plan.x_h
    if fresh:
        store(tile, scratch, to, taps * plan.lanes, plan.lanes)
    else:
        add(tile, scratch, to, taps * plan.lanes)


@inlined
def _height(taps):
    """Rows of a tile of so many taps."""
    return FIVE if taps == 5 else THREE if taps == 3 else ONE


@routine
def _unpack_sums(w, scratch, own, plan, rows, columns, tiles, piece):
    """Add up the parts of one tile's sums, then their lanes, and put them where they belong."""
    g, tile = piece // len(tiles), piece % len(tiles)
    channel, exist, first, taps = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2], tiles[tile, 3]
    sums, size = g * plan.block + tiles[tile, 4], _height(taps) * taps
    for at in range(sums, sums + len(rows) * plan.ICG * size * plan.lanes, plan.lanes):
        total = spread(1, 1, scratch, at)
        for part in range(1, plan.parts):
            total = lift(total, scratch, at + part * plan.G * plan.block)
        store(total, scratch, at, 0, 0)
    stage, step = own + plan.lanes * plan.lanes, columns[first + 1, 0] - columns[first, 0] if taps > 1 else 0
    for kh in range(len(rows)):
        for c in range(plan.ICG):
            for start in range(0, exist * taps, plan.lanes):
                transpose(
                    scratch, own, plan.lanes, scratch, sums + start * plan.lanes, plan.lanes,
                    min(plan.lanes, exist * taps - start), plan.lanes,
                )  # fmt: skip
                total = zeros(1, 1, scratch)
                for lane in range(plan.lanes):
                    total = lift(total, scratch, own + lane * plan.lanes)
                store(total, scratch, stage + start, 0, 0)
            target = g * plan.w_group + channel * plan.w_row + c * plan.w_channel + rows[kh, 0] + columns[first, 0]
            for row in range(exist):
                copy(w, target + row * plan.w_row, step, scratch, stage + row * taps, 1, taps)
            sums += size * plan.lanes
