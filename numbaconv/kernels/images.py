"""The direct forward pass and the direct input gradient a third time, with lanes along the images of a batch.

The images of a block, as many as one vector has lanes, or two, are turned so that the same element of all of them lies
together; and so is the result, back. In between, whatever else an image has, its channels, rows and columns, is but a
number of vectors::

    [image][element]   ->   [element][image]   ->   the sum, all images at once   ->   [element][image]   ->   ...

So no lane is ever empty, however few the channels or small the images are, and every pixel has a tile of its own, for
which taps that meet nothing but padding are left out rather than multiplied by zeros. The tile's rows are target
channels, as where lanes are pixels (:mod:`numbaconv.kernels.planes`)::

    task:   turn the source rows that a band of target rows reads
            for each few target channels, each target pixel, each group:
                tile  = bias
                tile += packed filters x source pixels          (tiles.accumulate)
            turn the band of target rows back
"""

from __future__ import annotations

from numbaconv.jit import device, inlined, kernel, routine, share
from numbaconv.kernels.packing import pack_weights, transpose_all
from numbaconv.kernels.records import read, record
from numbaconv.kernels.tiles import MIDDLE, SHORT, TALL, extend
from numbaconv.simd import fill, rectify, store

#: Of images that are turned, as plans name them. An image has pieces that are contiguous from row to row: planes of
#: channels, or all of it. How far it is from an image to the next; how many pieces there are, and how far it is from
#: one to the next; how long a row of a piece is; and how far it is between turned pieces, channels, rows and columns.
TURNED = ("n", "pieces", "step", "row", "piece", "c", "h", "w")


def turned(name: str) -> tuple[str, ...]:
    """These names for one of the images of a record."""
    return tuple(f"{name}_{field}" for field in TURNED)


#: The integers that the kernel needs, as one record; :mod:`numbaconv.plan.images` makes it.
IMAGES = record(
    "N",
    "G",  # groups
    "ICG",  # source channels of a group
    "OCG",
    "W",  # target columns
    *turned("x"),  # the source
    *turned("y"),  # the target
    "w_group",  # elements of the weight from a group to the next, and from a target channel to the next
    "w_row",
    "joined",  # steps whose weights follow each other in memory
    "heights",  # rows of all tiles of a group
    "lanes",  # lanes of a vector
    "width",  # images that are computed together: lanes of one vector, or of two
    "slabs",  # where the threads' own parts of the scratch memory begin
    "own",  # elements of such a part: the turned source, then the turned target
    "stage",  # where the turned target begins
    "a_row",  # packed steps from a tap to the tap in the next row of the kernel, and in the next column
    "a_column",
    "a_outer",  # packed steps, and turned elements, from a round to the next of the three loops over what is summed
    "b_outer",
    "a_middle",
    "b_middle",
    "a_inner",
    "b_inner",
    "relu",  # 1: instead of what is below 0, 0 is written
    "tasks",
)


@kernel(stages=2)
def correlate_images(
    x, w, bias, y, packed, scratch, numbers, steps, bands, rows, columns, tiles, stage, thread, threads
):
    """Fill ``y``; all arrays of elements are flat, and ``bias`` is filled up by zeros.

    The first stage packs the weights ``w`` to ``packed``, which may be the beginning of ``scratch``.

    Parameters
    ----------
    numbers : int array
        An IMAGES.
    steps : int array (steps,)
        Where in a filter each weight lies, in the order in which they are packed.
    bands : int array (bands, 4)
        First target row, how many rows; first source row that they read, how many rows.
    rows : int array (target rows, 4)
        The source row that the first tap of a row reads; which tap that is; rounds of the outer loop, and of the middle
        one for each of those that the column asks for.
    columns : int array (target columns, 4)
        The same for a column, but rounds of the middle and of the inner loop.
    tiles : int array (tiles, 3)
        First target channel of the tile's rows, how many rows it has, how many of them exist.
    """
    plan = read(numbers, IMAGES)
    if stage != 1:
        for tile in share(plan.G * len(tiles), thread, threads):
            pack_weights(w, packed, plan, steps, tiles, tile)
    if stage != 0:
        own = plan.slabs + thread * plan.own
        for task in share(plan.tasks, thread, threads):
            _correlate_band(x, bias, y, packed, scratch, own, plan, len(steps), bands, rows, columns, tiles, task)


@routine
def _correlate_band(x, bias, y, packed, scratch, own, plan, steps, bands, rows, columns, tiles, task):
    """One task: a band of rows of some images.

    A tile that hangs over the last channel is written whole. So tiles are taken from the last to the first, and pixels
    in the order of memory: what it wrote beyond its channels is written again, or lies behind all.
    """
    n, band = task // len(bands) * plan.width, task % len(bands)
    images = min(plan.width, plan.N - n)
    first, count, top, high = bands[band, 0], bands[band, 1], bands[band, 2], bands[band, 3]
    turn_images(
        scratch, own, plan.x_piece, x, n * plan.x_n + top * plan.x_row, plan.x_pieces, plan.x_step, plan.x_n, images,
        high * plan.x_row, plan.width, plan.lanes,
    )  # fmt: skip
    stage = own + plan.stage
    for tile in range(len(tiles) - 1, -1, -1):
        _sum_pixels(bias, packed, scratch, own, stage, plan, steps, rows, columns, first, count, top, tiles, tile)
    target = n * plan.y_n + first * plan.y_row
    for piece in range(plan.y_pieces):
        transpose_all(
            y, target + piece * plan.y_step, plan.y_n, scratch, stage + piece * plan.y_piece, plan.width,
            count * plan.y_row, images, plan.lanes,
        )  # fmt: skip


@routine
def turn_images(slab, to, to_piece, x, start, pieces, step, image, images, count, width, lanes):
    """Copy ``count`` elements of each piece of some ``images``, ``[image][element]``, to ``[element][image]``."""
    for piece in range(pieces):
        transpose_all(slab, to + piece * to_piece, width, x, start + piece * step, image, images, count, lanes)


@inlined
def _sum_pixels(bias, packed, scratch, slab, stage, plan, steps, rows, columns, first, count, top, tiles, tile):
    """All pixels of some rows, for the target channels of one tile."""
    channel, height = tiles[tile, 0], tiles[tile, 1]
    for row in range(count):
        outer = rows[first + row, 2]
        for column in range(plan.W):
            middle, inner = rows[first + row, 3] * columns[column, 2], columns[column, 3]
            tap = rows[first + row, 1] * plan.a_row + columns[column, 1] * plan.a_column
            source = slab + (rows[first + row, 0] - top) * plan.x_h + columns[column, 0] * plan.x_w
            to = stage + channel * plan.y_c + row * plan.y_h + column * plan.y_w
            for g in range(plan.G):
                first_row = g * plan.heights + channel
                _sum_tile(
                    bias, first_row, scratch, to + g * plan.OCG * plan.y_c, packed, first_row * steps + tap * height,
                    source + g * plan.ICG * plan.x_c, plan, height, outer, middle, inner,
                )  # fmt: skip


@routine
def _sum_tile(bias, channel, scratch, to, packed, weights, source, plan, height, outer, middle, inner):
    """Sum one tile, of one of the shapes that exist, and write it."""
    if plan.width > plan.lanes:
        if height == TALL:
            tile = fill(TALL, 2, bias, channel)
            _sum(tile, scratch, to, packed, weights, source, plan, TALL, outer, middle, inner)
        elif height == MIDDLE:
            tile = fill(MIDDLE, 2, bias, channel)
            _sum(tile, scratch, to, packed, weights, source, plan, MIDDLE, outer, middle, inner)
        else:
            tile = fill(SHORT, 2, bias, channel)
            _sum(tile, scratch, to, packed, weights, source, plan, SHORT, outer, middle, inner)
    elif height == TALL:
        tile = fill(TALL, 1, bias, channel)
        _sum(tile, scratch, to, packed, weights, source, plan, TALL, outer, middle, inner)
    elif height == MIDDLE:
        tile = fill(MIDDLE, 1, bias, channel)
        _sum(tile, scratch, to, packed, weights, source, plan, MIDDLE, outer, middle, inner)
    else:
        tile = fill(SHORT, 1, bias, channel)
        _sum(tile, scratch, to, packed, weights, source, plan, SHORT, outer, middle, inner)


@device
def _sum(tile, scratch, to, packed, weights, source, plan, height, outer, middle, inner):
    for _ in range(outer):
        i, j = weights, source
        for _ in range(middle):
            tile = extend(tile, packed, i, 1, plan.a_inner * height, scratch, j, plan.lanes, plan.b_inner, inner)
            i += plan.a_middle * height
            j += plan.b_middle
        weights += plan.a_outer * height
        source += plan.b_outer
    if plan.relu:
        tile = rectify(tile)
    store(tile, scratch, to, plan.y_c, plan.lanes)
