"""The weight gradient of depthwise convolutions.

For every tap it sums, over all output pixels, the input pixel that the tap reads there times the gradient of the output
pixel, lane by lane: lanes are channels. The taps of a kernel row are one *window*, or a few. The sums of three windows
are taken together, so that a 3 x 3 kernel reads the gradient once; those of four pixels too, for the taps of a window
share most of what they read there. The work is cut into tasks, some bands of rows of some images, of some channels
each. A task sums into a part of its own::

    task:   for each of its bands: pack the band of the input and of the gradient into slabs
                for each row, each three windows, each vector of channels:
                    tiles  = part
                    tiles += input pixels x output gradient, for all pixels of the row      (simd.slide)
                    part   = tiles

At the end the parts are added up in a fixed order.

Where channels are innermost in both and fill vectors, there are no slabs: both are read where they are. A window whose
row is not in the image is left out; of pixels near the edge, those products are added that there are.
"""

from __future__ import annotations

from numbaconv.jit import device, inlined, kernel, routine, share
from numbaconv.kernels.packing import pack_slab, unpack_block
from numbaconv.kernels.records import read, record
from numbaconv.simd import clear, hadamard, load, slide, store

#: How many taps a window may have, and how many windows are summed together.
WINDOW_SIZES = (7, 5, 3, 1)
WINDOWS = 3

#: The integers that the kernel needs, as one record; :mod:`numbaconv.plan` makes it.
WEIGHT_DEPTHWISE = record(
    "C",  # channels
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
    "taps",  # weights of a channel, and so from a channel to the next
    "lanes",  # lanes of one vector
    "pitch",  # channels of a group, which are packed together: whole vectors
    "groups",
    "block_size",  # elements of the sums of a group
    "parts",  # partial sums
    "slabs",  # where the threads' own parts of the scratch memory begin
    "own",  # elements of such a part
    "gradient",  # where in it the packed output gradient begins
    "units",  # bands of all images
    "bands",  # bands of an image
    "band",  # output rows of a band
    "in_h",  # slab rows and columns from a pixel to the next
    "in_w",
    "top",  # input row and column that output pixel (0, 0) reaches first
    "left",
    "span",  # slab rows that a single pixel reaches
    "direct",  # 1: there are no slabs
    "whole",  # the first and one past the last pixel of a row whose taps all find something
    "whole_end",
    "pixel",  # elements from a pixel to the next, in both
    "line",  # and from a row of the input to the next
    "tap_w",  # columns from a tap to the next
    "columns",  # slab columns
    "pieces",  # stretches of image columns that a slab row is made of
    "apart",  # image columns from a stretch to the next
    "tap_pixel",  # elements of the slab from a tap to the next
    "shared",  # 1: the pixels that neighbouring taps read overlap, so that they are loaded but once
    "tasks",
)


@kernel(stages=2)
def weight_gradient_depthwise(x, z, w, scratch, numbers, taps, triples, stage, thread, threads):
    """Fill ``w``, the gradient of the weight, from the input ``x`` and the output's gradient ``z``; all are flat.

    Parameters
    ----------
    numbers : int array
        A WEIGHT_DEPTHWISE.
    taps : int array (1, 2)
        Where in a filter its taps begin, and where in its sums.
    triples : int array (triples, 10)
        Taps of a window; for each of three windows where in a row it finds its first pixel, and where its sums are; and
        in which row of those that an output row reaches.
    """
    plan = read(numbers, WEIGHT_DEPTHWISE)
    if stage != 1:
        _sum_share(x, z, scratch, plan, triples, thread, threads)
    if stage != 0:
        for group in share(plan.groups, thread, threads):
            _unpack_sums(w, scratch, plan, taps, group)


@routine
def _unpack_sums(w, scratch, plan, taps, group):
    """Add up the parts of one group, and put it where it belongs."""
    channel = group * plan.pitch
    unpack_block(
        scratch, group * plan.block_size, plan.groups * plan.block_size, plan.parts, taps, plan.taps, 1,
        min(plan.pitch, plan.C - channel), plan.pitch, plan.lanes, w, channel * plan.taps, plan.taps, 1,
    )  # fmt: skip


@routine
def _sum_share(x, z, scratch, plan, triples, thread, threads):
    """One thread's share of the tasks: one partial sum of one group each."""
    own = plan.slabs + thread * plan.own
    for task in share(plan.tasks, thread, threads):
        part, group = task // plan.groups, task % plan.groups
        clear(scratch, task * plan.block_size, plan.block_size)
        for unit in range(part * plan.units // plan.parts, (part + 1) * plan.units // plan.parts):
            _sum_band(x, z, scratch, own, task * plan.block_size, plan, triples, group, unit)


@inlined
def _sum_band(x, z, scratch, own, sums, plan, triples, group, unit):
    """Add one band's share to the sums of one group."""
    n, first = unit // plan.bands, unit % plan.bands * plan.band
    rows = min(plan.band, plan.OH - first)
    channel = group * plan.pitch
    channels = min(plan.pitch, plan.C - channel)
    source, gradient, reached = x, z, plan.IH
    start, there, at = n * plan.x_n + channel, n * plan.z_n + channel + first * plan.OW * plan.pixel, first * plan.in_h
    if not plan.direct:
        source, gradient, reached = scratch, scratch, (rows - 1) * plan.in_h + plan.span
        start, there, at = own, own + plan.gradient, 0
        pack_slab(
            x, n * plan.x_n + channel * plan.x_c, plan.x_c, plan.x_h, plan.x_w, channels, plan.IH, plan.IW, scratch,
            start, plan.top + first * plan.in_h, reached, plan.left, plan.columns // plan.pieces, plan.pieces,
            plan.apart, plan.pitch, plan.lanes,
        )  # fmt: skip
        pack_slab(
            z, n * plan.z_n + channel * plan.z_c, plan.z_c, plan.z_h, plan.z_w, channels, plan.OH, plan.OW, scratch,
            there, first, rows, 0, plan.OW, 1, 0, plan.pitch, plan.lanes,
        )  # fmt: skip
    for row in range(rows):
        where = start, at + row * plan.in_h, reached
        _sum_row(
            source, where, gradient, there + row * plan.OW * plan.pixel, scratch, sums, plan, triples, channels
        )  # fmt: skip


@routine
def _sum_row(x, where, z, gradient, to, sums, plan, triples, channels):
    """Add one row's share: where the input begins, the first row of it that is reached, and how many there are.

    The sums of a window whose row is not there are put where nobody reads them.
    """
    nowhere = sums + plan.taps * plan.pitch
    for k in range(len(triples)):
        taps = triples[k, 0]
        a, to_a = _window(where, triples[k, 7], triples[k, 1], sums + triples[k, 4], nowhere, plan)
        b, to_b = _window(where, triples[k, 8], triples[k, 2], sums + triples[k, 5], nowhere, plan)
        c, to_c = _window(where, triples[k, 9], triples[k, 3], sums + triples[k, 6], nowhere, plan)
        if plan.whole > 0 or plan.whole_end < plan.OW:
            _sum_edges(taps, x, a, z, gradient, to, to_a, triples[k, 1], plan, channels)
            _sum_edges(taps, x, b, z, gradient, to, to_b, triples[k, 2], plan, channels)
            _sum_edges(taps, x, c, z, gradient, to, to_c, triples[k, 3], plan, channels)
        begin = plan.whole * plan.in_w * plan.pixel
        a, b, c, there = a + begin, b + begin, c + begin, gradient + plan.whole * plan.pixel
        for lane in range(0, channels, plan.lanes):
            places = a + lane, b + lane, c + lane, there + lane, to_a + lane, to_b + lane, to_c + lane
            if taps == 7:
                _sum(7, x, z, to, places, plan)
            elif taps == 5:
                _sum(5, x, z, to, places, plan)
            elif taps == 3:
                _sum(3, x, z, to, places, plan)
            else:
                _sum(1, x, z, to, places, plan)


@inlined
def _window(where, row, place, sums, nowhere, plan):
    """Where a window begins to read, and where its sums are."""
    start, first, rows = where
    found = first + row
    inside = 0 <= found < rows
    return start + min(max(found, 0), rows - 1) * plan.line + place, sums if inside else nowhere


@routine
def _sum_edges(taps, x, a, z, gradient, to, sums, first, plan, channels):
    """Add what there is of those pixels of a row that do not find all taps."""
    for ow in range(plan.OW):
        if ow < plan.whole or ow >= plan.whole_end:
            for tap in range(taps):
                column = ow * plan.in_w + first // plan.pixel + tap * plan.tap_w
                if 0 <= column < plan.IW:
                    here, there = a + ow * plan.in_w * plan.pixel + tap * plan.tap_pixel, gradient + ow * plan.pixel
                    for lane in range(0, channels, plan.lanes):
                        place = sums + tap * plan.pitch + lane
                        tile = hadamard(load(1, 1, to, place, 0, 0), x, here + lane, 0, z, there + lane)
                        store(tile, to, place, 0, 0)


@device
def _sum(taps, x, x_z, to, places, plan):
    """The pixels of a row, one after the other or four at a time, for ``taps`` times three vectors of sums."""
    a, b, c, z, to_a, to_b, to_c = places
    pitch, left, pixel, tap = plan.pitch, plan.whole_end - plan.whole, plan.pixel, plan.tap_pixel
    one, two = load(taps, 1, to, to_a, pitch, 0), load(taps, 1, to, to_b, pitch, 0)
    three = load(taps, 1, to, to_c, pitch, 0)
    step = plan.in_w * pixel
    if plan.shared and taps > 1:
        for _ in range(left // 4):
            if plan.in_w == 1:
                one = slide(one, x, a, pixel, x_z, z, pixel, 4, 1, 1)
                two = slide(two, x, b, pixel, x_z, z, pixel, 4, 1, 1)
                three = slide(three, x, c, pixel, x_z, z, pixel, 4, 1, 1)
            else:
                one = slide(one, x, a, pixel, x_z, z, pixel, 4, 1, 2)
                two = slide(two, x, b, pixel, x_z, z, pixel, 4, 1, 2)
                three = slide(three, x, c, pixel, x_z, z, pixel, 4, 1, 2)
            a += 4 * step
            b += 4 * step
            c += 4 * step
            z += 4 * pixel
        left = left % 4
    for _ in range(left):
        one = hadamard(one, x, a, tap, x_z, z)
        two = hadamard(two, x, b, tap, x_z, z)
        three = hadamard(three, x, c, tap, x_z, z)
        a += step
        b += step
        c += step
        z += pixel
    store(one, to, to_a, pitch, 0)
    store(two, to, to_b, pitch, 0)
    store(three, to, to_c, pitch, 0)
