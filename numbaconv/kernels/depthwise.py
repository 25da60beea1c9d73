"""The forward pass and the input gradient of depthwise convolutions, in which every channel has a filter of its own.

Nothing is summed over channels, so lanes are channels on both sides, and the outer product of the other kernels becomes
one that is taken lane by lane. As in :mod:`numbaconv.kernels.correlation`, the input gradient is a correlation too, of
some phases. The work is cut into tasks, a band of rows of one image, of some channels each::

    task:   pack the band of the source into a slab, channels innermost, zeros as padding
            for each row, each phase, each tile of its pixels, each vector of channels:
                tile  = bias
                for each row of the kernel:
                    tile += source pixels x weights of its taps      (simd.slide)
                target pixels = tile

A multiply-add needs a pixel of its own here, and loading it takes longer than the multiply-add does. But the taps of a
kernel row share most of their pixels, so those are loaded together, once.
"""

from __future__ import annotations

from numbaconv.jit import device, inlined, kernel, routine, share
from numbaconv.kernels.packing import pack_slab, transpose_all, unpack_tile
from numbaconv.kernels.records import read, record
from numbaconv.kernels.tiles import write
from numbaconv.simd import clear, hadamard, rectify, slide, spread, store

#: How many pixels a tile may have.
PIXELS = (8, 4, 1)
#: So many taps, next to each other, share the pixels that they load: with a step of one pixel, and with one of two.
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
    "slabs",  # where in the scratch memory the threads' own parts begin
    "own",  # elements of such a part
    "stage",  # where in it the staged band begins
    "holes",  # 1: there are target pixels that no tap reaches
    "bands",  # bands of an image
    "band",  # rows of a band, counted in pixels of a phase
    "rows",  # rows of the largest phase
    "top",  # source row and column that pixel (0, 0) of a phase reaches first
    "left",
    "span",  # slab rows that a single pixel reaches
    "columns",  # slab columns
    "pieces",  # stretches of image columns that a slab row is made of
    "apart",  # image columns from a stretch to the next
    "in_h",  # slab rows and columns from a pixel to the next
    "in_w",
    "out_h",  # target rows and columns from a pixel of a phase to the next
    "out_w",
    "tap_pixel",  # elements of the slab from a tap of a kernel row to the next
    "tap_weight",  # and of the packed weights
    "relu",  # 1: instead of what is below 0, 0 is written
    "tasks",
)


@kernel(stages=2)
def correlate_depthwise(x, w, bias, y, packed, scratch, numbers, runs, phases, tiles, stage, thread, threads):
    """Fill ``y``; all arrays of elements are flat, and ``bias`` is filled up by zeros.

    The first stage packs the weights ``w`` to ``packed``, which may be the beginning of ``scratch``.

    Parameters
    ----------
    numbers : int array
        A DEPTHWISE.
    runs : int array (runs, 2)
        For each kernel row of each phase, where in the slab its first tap finds its pixel, and where its weights are.
    phases : int array (phases, 10)
        First row and rows, first column and columns of the phase's pixels; its runs; its tiles; the taps of a run, and
        1 where they may share what they load.
    tiles : int array (tiles, 2)
        First pixel, height of the tile.
    """
    plan = read(numbers, DEPTHWISE)
    if stage != 1:
        for group in share(plan.groups, thread, threads):
            _pack_weights(w, packed, plan, group)
    if stage != 0:
        _correlate_share(x, bias, y, packed, scratch, plan, runs, phases, tiles, thread, threads)


@routine
def _pack_weights(w, packed, plan, group):
    """Pack the weights of some channels, ``[tap][channel]``."""
    first = group * plan.pitch
    channels = min(plan.pitch, plan.C - first)
    to = first * plan.taps
    clear(packed, to, plan.taps * plan.pitch)
    transpose_all(packed, to, plan.pitch, w, first * plan.taps, plan.taps, channels, plan.taps, plan.lanes)


@routine
def _correlate_share(x, bias, y, packed, scratch, plan, runs, phases, tiles, thread, threads):
    """One thread's share of the tasks."""
    own = plan.slabs + thread * plan.own
    for task in share(plan.tasks, thread, threads):
        n, group = task // (plan.groups * plan.bands), task // plan.bands % plan.groups
        first = task % plan.bands * plan.band
        rows = min(plan.band, plan.rows - first)
        channel = group * plan.pitch
        channels = min(plan.pitch, plan.C - channel)
        pack_slab(
            x, n * plan.x_n + channel * plan.x_c, plan.x_c, plan.x_h, plan.x_w, channels, plan.IH, plan.IW,
            scratch, own, plan.top + first * plan.in_h, (rows - 1) * plan.in_h + plan.span, plan.left,
            plan.columns // plan.pieces, plan.pieces, plan.apart, plan.pitch, plan.lanes,
        )  # fmt: skip
        target = n * plan.y_n + channel * plan.y_c + first * plan.out_h * plan.y_h
        if plan.y_c == 1:
            _correlate_band(
                bias, y, target, plan.y_h, plan.y_w, channels, packed, scratch, own, group, plan, runs, phases, tiles,
                first, rows,
            )  # fmt: skip
        else:
            stage, pixels = own + plan.stage, min(rows * plan.out_h, plan.OH - first * plan.out_h) * plan.OW
            if plan.holes:
                _fill_stage(bias, channel, scratch, stage, pixels, plan)
            _correlate_band(
                bias, scratch, stage, plan.OW * plan.pitch, plan.pitch, plan.pitch, packed, scratch, own, group, plan,
                runs, phases, tiles, first, rows,
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
    bias, to, target, line, pixel, channels, packed, scratch, slab, group, plan, runs, phases, tiles, first, rows
):  # fmt: skip
    """All rows of a band, to memory that has channels innermost: the output, or the stage."""
    for row in range(rows):
        source = slab + row * plan.in_h * plan.columns * plan.pitch
        for phase in range(len(phases)):
            if first + row < phases[phase, 1]:
                at = target + (phases[phase, 0] + row * plan.out_h) * line + phases[phase, 2] * pixel
                _correlate_pixels(
                    bias, to, at, plan.out_w * pixel, packed, scratch, source, group, channels, plan, runs, phases,
                    phase, tiles,
                )  # fmt: skip


@routine
def _correlate_pixels(
    bias, to, at, step, packed, scratch, source, group, channels, plan, runs, phases, phase, tiles
):  # fmt: skip
    """One row of one phase, tile by tile, all channels of a group."""
    weights, first = group * plan.pitch * plan.taps, group * plan.pitch
    for k in range(phases[phase, 6], phases[phase, 7]):
        here, there, height = source + tiles[k, 0] * plan.in_w * plan.pitch, at + tiles[k, 0] * step, tiles[k, 1]
        for c in range(0, channels, plan.lanes):
            i, j, exist = here + c, weights + c, channels - c
            if height == 8:
                tile = _sum(spread(8, 1, bias, first + c), packed, scratch, i, j, plan, runs, phases, phase)
                write(tile, to, there + c, step, True, 8, exist, plan.lanes)
            elif height == 4:
                tile = _sum(spread(4, 1, bias, first + c), packed, scratch, i, j, plan, runs, phases, phase)
                write(tile, to, there + c, step, True, 4, exist, plan.lanes)
            else:
                tile = _sum(spread(1, 1, bias, first + c), packed, scratch, i, j, plan, runs, phases, phase)
                write(tile, to, there + c, step, True, 1, exist, plan.lanes)


@device
def _sum(tile, packed, scratch, i, j, plan, runs, phases, phase):
    """Add what the taps find, those of a kernel row together where they may share it."""
    first, last, taps, step, pitch, apart = (
        phases[phase, 4], phases[phase, 5], phases[phase, 8], plan.in_w, plan.pitch, plan.tap_weight
    )  # fmt: skip
    if phases[phase, 9] == 0:
        for k in range(first, last):
            here, there = i + runs[k, 0], j + runs[k, 1]
            for _ in range(taps):
                tile = hadamard(tile, scratch, here, step * pitch, packed, there)
                here += plan.tap_pixel
                there += apart
    elif taps == 3 and step == 1:
        for k in range(first, last):
            tile = slide(tile, scratch, i + runs[k, 0], pitch, packed, j + runs[k, 1], apart, 3, 1, 1)
    elif taps == 3:
        for k in range(first, last):
            tile = slide(tile, scratch, i + runs[k, 0], pitch, packed, j + runs[k, 1], apart, 3, 2, 1)
    elif taps == 5 and step == 1:
        for k in range(first, last):
            tile = slide(tile, scratch, i + runs[k, 0], pitch, packed, j + runs[k, 1], apart, 5, 1, 1)
    elif taps == 5:
        for k in range(first, last):
            tile = slide(tile, scratch, i + runs[k, 0], pitch, packed, j + runs[k, 1], apart, 5, 2, 1)
    elif step == 1:
        for k in range(first, last):
            tile = slide(tile, scratch, i + runs[k, 0], pitch, packed, j + runs[k, 1], apart, 7, 1, 1)
    else:
        for k in range(first, last):
            tile = slide(tile, scratch, i + runs[k, 0], pitch, packed, j + runs[k, 1], apart, 7, 2, 1)
    if plan.relu:
        tile = rectify(tile)
    return tile
