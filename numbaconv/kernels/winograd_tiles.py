"""What Winograd's algorithm reads, cut into tiles and transformed: what all three passes have in common.

Tasks count first the rows of tiles of a strip, then the strips of an image, then images; some of them are a batch.
``plan`` is the record of either kernel, whose names mean the same in both. :mod:`numbaconv.kernels.winograd` says why
low tiles come first in a batch, and thin ones last.
"""

from __future__ import annotations

from numbaconv.jit import ONE, ZERO, device, inlined, routine, share, standalone
from numbaconv.kernels.normalisation import normalise_slab
from numbaconv.kernels.packing import pack_slab
from numbaconv.kernels.pooling import spread_slab
from numbaconv.kernels.transforms import transform_input, transform_small_input
from numbaconv.simd import prefetch

#: The integers that both kernels need; :mod:`numbaconv.plan` makes them.
TILING = (
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
    "w_group",  # strides of the weight, or of its gradient
    "w_lane",
    "w_channel",
    "side",  # taps along either axis
    "lanes",  # lanes of one vector
    "width",  # lanes of a block
    "blocks",  # blocks of a group
    "block_size",  # elements of a block: of transformed weights, or of a partial sum
    "by_blocks",  # 1: threads share blocks, and the transformed input is everybody's; 0: each makes its own of a batch
    "slabs",  # where in the scratch memory the threads' own parts begin
    "own",  # elements of such a part
    "inputs",  # where the transformed input begins: of all memory if it is everybody's, else of a thread's part
    "sums",  # where in a thread's part the sums begin
    "tile",  # output pixels of a tile, along either axis
    "points",  # input pixels that it reaches, and points, along either axis
    "pitch",  # transformed channels of the input from a tile to the next
    "input_point",  # elements from a point to the next, of the transformed input, and of the sums
    "sum_point",
    "tall",  # rows of tiles of a phase of an image
    "wide",  # tiles of such a row
    "row_tiles",  # tiles of a row, of all phases
    "strip",  # tiles of a row that are transformed together
    "strips",  # of an image
    "low",  # 1: the last row of tiles is half as high, and has but 4 points along that axis
    "thin",  # 1: and so has the last column
    "batch",  # so many rows of strips are transformed together
    "DH",  # rows and columns from a tap to the next
    "DW",
    "phases",  # DH * DW: the taps of a pixel find pixels of one phase only
    "top",  # input row and column that output pixel (0, 0) reaches first
    "left",
    "columns",  # of a slab of the input
    "units",  # rows of strips, of all images
    "ahead",  # 1: what is read and written next is prefetched
    "x_ahead",  # elements from what a batch reads to what is prefetched meanwhile
    "x_unit",  # elements of an image for each of its rows of strips
    "y_ahead",  # the same for the output, or its gradient
    "y_unit",
    "rectified",  # 1: where the input is normalised, it also goes through a ReLU
    "tasks",  # what threads share
)


@routine
def transform_all(x, scratch, own, plan, pool, thread, threads):
    """One thread's share of the whole input: batches as they are used later; of few of them, some of the channels."""
    batches, vectors = -(-plan.units // plan.batch), -(-plan.ICG // plan.lanes)
    pieces = min(vectors, -(-threads // batches))
    for task in share(plan.G * batches * pieces, thread, threads):
        g, first, piece = task // pieces // batches, task // pieces % batches * plan.batch, task % pieces
        to = plan.inputs + g * plan.points * plan.points * plan.input_point + first * plan.row_tiles * plan.pitch
        begin, end = vectors * piece // pieces * plan.lanes, vectors * (piece + 1) // pieces * plan.lanes
        batch = min(plan.units - first, plan.batch)
        transform_images(x, scratch, own, to, plan, pool, None, g, first, batch, begin, min(end, plan.ICG) - begin)


@device
def some_rows(plan, task, end):
    """The rows of tiles from ``task`` up to ``end`` that lie in one strip.

    Image, strip, and first row; how many rows, how many columns, and how many of these are thin.
    """
    n, strip, first = task // (plan.tall * plan.strips), task // plan.tall % plan.strips, task % plan.tall
    columns = min(plan.strip, plan.wide - strip * plan.strip)
    thin_columns = plan.thin if strip == plan.strips - 1 else 0
    return n, strip, first, min(plan.tall - first, end - task), columns, thin_columns


@device
def first_pixel(plan, row):
    """Where the first tile of a row of tiles begins, the rows of all phases being counted before those below them."""
    return row // plan.phases * plan.tile * plan.DH + row // plan.DW % plan.DH, row % plan.DW


@routine
def runs_of_tiles(plan, task, batch):
    """Of the tiles of some rows of strips, how many are low, how many come before those that are thin, and all."""
    low, thin, total = 0, 0, 0
    end = task + batch
    while task < end:
        _, _, first, rows, columns, thin_columns = some_rows(plan, task, end)
        low += columns - thin_columns if plan.low == 1 and first + rows == plan.tall else 0
        thin += rows * thin_columns
        total += rows * columns
        task += rows
    return low * plan.phases, (total - thin) * plan.phases, total * plan.phases


@device
def run_of_point(row, column, runs):
    """The first, and one past the last, of the tiles that have a point."""
    return runs[0] if row >= 4 else 0, runs[1] if column >= 4 else runs[2]


@device
def first_tiles(plan, task, batch):
    """The numbers of the first low, full, and thin tile of some rows of strips."""
    full, thin, _ = runs_of_tiles(plan, task, batch)
    return ZERO, full, thin


@device
def row_of_tiles(plan, row, columns, thin_columns, nexts):
    """A row of tiles of an image, those of all phases being counted: whether it is low, and the first of its numbers.

    ``nexts`` are the numbers of the next low, full, and thin tile, which are returned as they are afterwards.
    """
    low, full, thin = nexts
    if plan.low == 1 and row // plan.phases == plan.tall - 1:
        return True, low, thin, (low + columns - thin_columns, full, thin + thin_columns)
    return False, full, thin, (low, full + columns - thin_columns, thin + thin_columns)


@standalone
def transform_images(x, scratch, own, to, plan, pool, norm, g, task, batch, begin, channels):
    """Transform what some rows of strips read, of some channels from ``begin`` on, to ``scratch[to]`` on.

    Some rows are often of one strip, and are packed together. ``pool`` is what is known of a pooling, or None, and
    ``norm`` what is known of the channels, where a batch normalisation is still to be made, or None.
    """
    nexts = first_tiles(plan, task, batch)
    line, end = plan.columns * channels, task + batch
    while task < end:
        n, strip, first, rows, columns, thin_columns = some_rows(plan, task, end)
        channel, edge = g * plan.ICG + begin, plan.left + strip * plan.strip * plan.tile * plan.DW
        top, high = plan.top + first * plan.tile * plan.DH, ((rows - 1) * plan.tile + plan.points) * plan.DH
        slab, spreads = own, False
        if pool is not None:
            spreads = plan.pooled == 2
            if spreads:
                slab = spread_slab(
                    scratch, own, x, pool[0], pool[1], n, top, high, edge, plan.columns, channel, channels
                )  # fmt: skip
        if not spreads:
            pack_slab(
                x, n * plan.x_n + channel * plan.x_c, plan.x_c, plan.x_h, plan.x_w, channels, plan.IH, plan.IW,
                scratch, own, top, high, edge, plan.columns, ONE, ZERO, channels, plan.lanes,
            )  # fmt: skip
            if norm is not None:
                normalise_slab(
                    scratch, own, top, high, edge, plan.columns, channels, plan.IH, plan.IW, norm, plan.rectified == 1
                )
        for row in range(rows * plan.phases):
            oh, left = first_pixel(plan, row)
            low, tile, thin_tile, nexts = row_of_tiles(
                plan, first * plan.phases + row, columns, thin_columns, nexts
            )  # fmt: skip
            full = 0 if low else columns - thin_columns
            pixel, step = slab + oh * line + left * channels, plan.tile * plan.DW * channels
            here = to + begin + tile * plan.pitch
            for _ in range(full):
                for channel in range(0, channels, plan.lanes):
                    transform_input(
                        plan.points, scratch, pixel + channel, plan.DH * line, plan.DW * channels,
                        scratch, here + channel, plan.input_point,
                    )  # fmt: skip
                pixel += step
                here += plan.pitch
            for column in range(full, columns):
                is_thin = column >= columns - thin_columns
                if is_thin:
                    here = to + begin + thin_tile * plan.pitch
                transform_small_input(
                    is_thin, scratch, pixel, plan.DH * line, plan.DW * channels, scratch, here, plan.input_point,
                    channels, plan.lanes,
                )  # fmt: skip
                pixel += step
                here += plan.pitch
        task += rows


@inlined
def look_ahead(array, start, count, part, parts):
    """Prefetch one of so many parts of a piece of memory, as much of it as exists."""
    first, last = start + count * part // parts, start + count * (part + 1) // parts
    prefetch(array, first, min(last, len(array)) - first)


@routine
def add_rows(y, plus, plan, task, batch):
    """Add the pixels of ``plus`` to those of some rows of strips, which have been written, channels innermost."""
    zero, relu, end = y.dtype.type(0), plan.sum_relu == 1, task + batch
    while task < end:
        n, strip, first, rows, tiles, _ = some_rows(plan, task, end)
        oh, ow = first * plan.tile * plan.DH, strip * plan.strip * plan.tile * plan.DW
        count = min(tiles * plan.tile * plan.DW, plan.OW - ow) * plan.y_w
        for row in range(oh, min(oh + rows * plan.tile * plan.DH, plan.OH)):
            start = n * plan.y_n + row * plan.y_h + ow * plan.y_w
            to, other = y[start : start + count], plus[start : start + count]
            for i in range(len(to)):
                value = to[i] + other[i]
                to[i] = zero if relu and value <= 0 else value
        task += rows
