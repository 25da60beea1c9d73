"""The forward pass and the input gradient of depthwise convolutions, in which every channel has a filter of its own.

Nothing is summed over channels, so lanes are channels on both sides, and the outer product of the other kernels becomes
one that is taken lane by lane. As in :mod:`numbaconv.kernels.correlation`, the input gradient is a correlation too, of
some phases. The work is cut into tasks, a band of rows of one image, of some channels each::

    task:   for each row of the band:
                pack the source rows that it is the first to need into a slab, channels innermost, zeros as padding;
                unless they lie so already
                for each phase, each tile of its pixels, each vector of channels:
                    tile  = bias
                    for each row of the kernel:
                        tile += source pixels x weights of its taps      (simd.stencil)
                    target pixels = tile

A multiply-add needs a pixel of its own here, and loading it takes longer than the multiply-add does. But the taps of a
kernel row share most of their pixels, so those are loaded together, once. What takes longest are the ways between the
caches: that of the source, and there and back that of the target. A slab would double them. So where channels are
innermost, the image is read where it is, tiles are low, and all channels of one are computed before the next: then
memory is read and written almost in its order. In a tile that reaches beyond the edge of the image, or beyond the end
of a short row, pixels that do not exist are zeros.
"""

from __future__ import annotations

from numbaconv.jit import inlined, kernel, routine, share
from numbaconv.kernels.packing import pack_slab, transpose_all, unpack_tile
from numbaconv.kernels.records import read, record
from numbaconv.kernels.tiles import write
from numbaconv.simd import clear, rectify, spread, stencil, stencil_within, store

#: Pixels of a tile.
PIXELS = 8
#: So many taps of a row share the pixels that they load, where pixels are one or two taps apart.
SHARED = (3, 5, 7)

#: The integers that the kernel needs, as one record; :mod:`numbaconv.plan` makes it.
DEPTHWISE = record(
    "C",  # channels
    "IH",
    "IW",
    "OH",
    "OW",
    "x_n",  # strides of the input
    "x_c",
    "x_h",
    "x_w",
    "y_n",  # strides of the output
    "y_c",
    "y_h",
    "y_w",
    "taps",  # weights of a channel, and so from a channel to the next
    "lanes",  # lanes of one vector
    "pitch",  # channels of a group, which are packed together: whole vectors
    "groups",
    "nothing",  # where among the packed weights there is a vector of zeros
    "slabs",  # where in the scratch memory the threads' own parts begin
    "own",  # elements of such a part
    "stage",  # where in it the staged band begins
    "holes",  # 1: there are target pixels that no tap reaches
    "bands",  # bands of an image
    "band",  # rows of a band, counted in pixels of a phase
    "rows",  # rows of the largest phase
    "direct",  # 1: there is no slab, and the image is read where it is
    "top",  # source row and column that pixel (0, 0) of a phase reaches first
    "left",
    "span",  # slab rows that a single pixel reaches
    "columns",  # slab columns
    "pieces",  # stretches of image columns that a slab row is made of
    "apart",  # image columns from a stretch to the next
    "in_h",  # slab rows and columns from a pixel to the next, or those of the image
    "in_w",
    "line",  # elements of a row of the slab, or of the image, and of a pixel
    "pixel",
    "out_h",  # target rows and columns from a pixel of a phase to the next
    "out_w",
    "tap_h",  # rows from a tap to that of the next kernel row
    "tap_pixel",  # elements from a tap to the next of its row
    "weight_row",  # and of the packed weights
    "tap_weight",
    "relu",  # 1: instead of what is below 0, 0 is written
    "tasks",
)


@kernel(stages=2)
def correlate_depthwise(x, w, bias, y, packed, scratch, numbers, phases, tiles, stage, thread, threads):
    """Fill ``y``; all arrays of elements are flat, and ``bias`` is filled up by zeros.

    The first stage packs the weights ``w`` to ``packed``, which may be the beginning of ``scratch``.

    Parameters
    ----------
    numbers : int array
        A DEPTHWISE.
    phases : int array (phases, 13)
        First row and rows, first column and columns of the phase's pixels; source row and column (of the slab, if there
        is one) that its first tap finds for the first of them, and where its weights are; rows of its taps; its tiles;
        the taps of a row if they share the pixels that they load, else 0, and how many taps a pixel and the next are
        apart then; the taps of a row.
    tiles : int array (tiles, 4)
        First pixel; pixels that exist, or 0 if all do and all taps find something; how many columns after what the
        first tap of the first pixel finds the row begins, and ends.
    """
    plan = read(numbers, DEPTHWISE)
    if stage != 1:
        for group in share(plan.groups, thread, threads):
            _pack_weights(w, packed, plan, group)
    if stage != 0:
        _correlate_share(x, bias, y, packed, scratch, plan, phases, tiles, thread, threads)


@routine
def _pack_weights(w, packed, plan, group):
    """Pack the weights of some channels, ``[tap][channel]``."""
    first = group * plan.pitch
    channels = min(plan.pitch, plan.C - first)
    to = first * plan.taps
    clear(packed, to, plan.taps * plan.pitch)
    if group == 0:
        clear(packed, plan.nothing, plan.lanes)
    transpose_all(packed, to, plan.pitch, w, first * plan.taps, plan.taps, channels, plan.taps, plan.lanes)


@routine
def _correlate_share(x, bias, y, packed, scratch, plan, phases, tiles, thread, threads):
    """One thread's share of the tasks."""
    own = plan.slabs + thread * plan.own
    for task in share(plan.tasks, thread, threads):
        n, group = task // (plan.groups * plan.bands), task // plan.bands % plan.groups
        first = task % plan.bands * plan.band
        rows = min(plan.band, plan.rows - first)
        channel = group * plan.pitch
        channels = min(plan.pitch, plan.C - channel)
        source, target = n * plan.x_n + channel * plan.x_c, n * plan.y_n + channel * plan.y_c
        target += first * plan.out_h * plan.y_h
        if plan.y_c == 1:
            _correlate_band(
                x, source, bias, y, target, plan.y_h, plan.y_w, channels, packed, scratch, own, group, channels, plan,
                phases, tiles, first, rows,
            )  # fmt: skip
        else:
            stage, pixels = own + plan.stage, min(rows * plan.out_h, plan.OH - first * plan.out_h) * plan.OW
            if plan.holes:
                _fill_stage(bias, channel, scratch, stage, pixels, plan)
            _correlate_band(
                x, source, bias, scratch, stage, plan.OW * plan.pitch, plan.pitch, plan.pitch, packed, scratch, own,
                group, channels, plan, phases, tiles, first, rows,
            )  # fmt: skip
            unpack_tile(scratch, stage, plan.pitch, pixels, channels, y, target, plan.y_c, plan.y_w, plan.lanes)


@routine
def _fill_stage(bias, channel, scratch, stage, pixels, plan):
    """Write the bias to all pixels, for those that no tap reaches."""
    for c in range(0, plan.pitch, plan.lanes):
        tile = spread(1, 1, bias, channel + c)
        if plan.relu:
            tile = rectify(tile)
        for pixel in range(pixels):
            store(tile, scratch, stage + pixel * plan.pitch + c, 0, 0)


@inlined
def _correlate_band(
    x, start, bias, to, target, line, pixel, written, packed, scratch, slab, group, channels, plan, phases, tiles,
    first, rows,
):  # fmt: skip
    """All rows of a band, to memory that has channels innermost: the output, or the stage.

    A source row is packed when the first row needs it, and so is in the first cache still when it is read. But planes
    are turned better all at once.
    """
    top, there = plan.top + first * plan.in_h, 0
    for row in range(rows):
        needed = (row if plan.x_c == 1 else rows - 1) * plan.in_h + plan.span
        if there < needed and not plan.direct:
            pack_slab(
                x, start, plan.x_c, plan.x_h, plan.x_w, channels, plan.IH, plan.IW, scratch, slab + there * plan.line,
                top + there, needed - there, plan.left, plan.columns // plan.pieces, plan.pieces, plan.apart,
                plan.pitch, plan.lanes,
            )  # fmt: skip
            there = needed
        for phase in range(len(phases)):
            if first + row < phases[phase, 1]:
                at = target + (phases[phase, 0] + row * plan.out_h) * line + phases[phase, 2] * pixel
                source_row = (first + row) * plan.in_h + phases[phase, 4]
                low, high = _taps_inside(plan, source_row, phases[phase, 7])
                source, begin = scratch, slab + (source_row - top) * plan.line
                if plan.direct:
                    source, begin = x, start + (source_row + low * plan.tap_h) * plan.line
                _correlate_pixels(
                    bias, to, at, plan.out_w * pixel, packed, low, high - low, source,
                    begin + phases[phase, 5] * plan.pixel, group, written, plan, phases, phase, tiles,
                )  # fmt: skip


@routine
def _taps_inside(plan, row, taps):
    """The first and one past the last row of taps that find a row of the image, or of the slab, from ``row`` on."""
    low, high = 0, taps
    if plan.direct:
        while low < high and row + low * plan.tap_h < 0:
            low += 1
        while low < high and row + (high - 1) * plan.tap_h >= plan.IH:
            high -= 1
    return low, high


@routine
def _correlate_pixels(
    bias, to, at, step, packed, low, rows, source, begin, group, channels, plan, phases, phase, tiles
):  # fmt: skip
    """One row of one phase, all channels of a group."""
    weights = group * plan.pitch * plan.taps + phases[phase, 6] + low * plan.weight_row
    where = at, step, begin, weights, group * plan.pitch, channels, rows, phases[phase, 12]
    span, shared, across = (phases[phase, 8], phases[phase, 9]), phases[phase, 10], phases[phase, 11]
    if shared == 3 and across == 1:
        _tiles_3_1(bias, to, packed, source, where, plan, tiles, span)
    elif shared == 3:
        _tiles_3_2(bias, to, packed, source, where, plan, tiles, span)
    elif shared == 5 and across == 1:
        _tiles_5_1(bias, to, packed, source, where, plan, tiles, span)
    elif shared == 5:
        _tiles_5_2(bias, to, packed, source, where, plan, tiles, span)
    elif shared == 7 and across == 1:
        _tiles_7_1(bias, to, packed, source, where, plan, tiles, span)
    elif shared == 7:
        _tiles_7_2(bias, to, packed, source, where, plan, tiles, span)
    else:
        _tiles_0(bias, to, packed, source, where, plan, tiles, span)


def _tiles(shared, apart):
    """The same, tile by tile, each with all channels, for so many taps that share what they load: see ``stencil``."""

    @routine
    def tiles_of_a_row(bias, to, packed, x, where, plan, tiles, span):
        at, step, begin, weights, first, channels, rows, taps = where
        # What does not change is read once: for all that the compiler knows, a store could change it.
        lanes, relu, pixel, tap, line, nothing = (
            plan.lanes, plan.relu, plan.pixel, plan.tap_pixel, plan.tap_h * plan.line, plan.nothing
        )  # fmt: skip
        across, tap_weight, weight_row = plan.in_w * pixel, plan.tap_weight, plan.weight_row
        for k in range(span[0], span[1]):
            exist, target, here = tiles[k, 1], at + tiles[k, 0] * step, begin + tiles[k, 0] * across
            low, high = tiles[k, 2] * pixel, tiles[k, 3] * pixel
            for c in range(0, channels, lanes):
                tile = spread(PIXELS, 1, bias, first + c)
                if exist == 0:
                    tile = stencil(
                        tile, x, here + c, across, tap, line, packed, weights + c, tap_weight, weight_row, rows, taps,
                        shared, apart,
                    )  # fmt: skip
                    write(rectify(tile) if relu else tile, to, target + c, step, True, PIXELS, channels - c, lanes)
                else:
                    tile = stencil_within(
                        tile, x, here + c, across, tap, line, packed, weights + c, tap_weight, weight_row, rows, taps,
                        shared, apart, low, high, nothing,
                    )  # fmt: skip
                    whole = exist == PIXELS
                    write(rectify(tile) if relu else tile, to, target + c, step, whole, exist, channels - c, lanes)

    return tiles_of_a_row


_tiles_0 = _tiles(0, 1)
_tiles_3_1, _tiles_3_2 = _tiles(3, 1), _tiles(3, 2)
_tiles_5_1, _tiles_5_2 = _tiles(5, 1), _tiles(5, 2)
_tiles_7_1, _tiles_7_2 = _tiles(7, 1), _tiles(7, 2)
