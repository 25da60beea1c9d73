"""The weight gradient of depthwise convolutions.

For every tap it sums, over all output pixels, the input pixel that the tap reads there times the gradient of the output
pixel, lane by lane: lanes are channels. The taps of a kernel row are one *window*, or a few. The sums of three windows
are taken together, so that a 3 x 3 kernel reads the gradient once; and those of four pixels, for the taps of a window
share most of what they read there. The work is cut into tasks, some bands of rows of some images, of some channels
each. A task sums into a part of its own::

    task:   for each of its bands: pack the band of the input and of the gradient into slabs
                for each row, each three windows, each four pixels, each vector of channels:
                    tiles  = part
                    tiles += input pixels x output gradient      (simd.slide)
                    part   = tiles

At the end the parts are added up in a fixed order.

Where channels are innermost in both and fill vectors, there are no slabs: both are read where they are, almost in the
order of memory. A window whose row is not in the image is left out; for pixels that do not exist, zeros are read. Where
taps are so far apart that they share nothing, there always are slabs, and pixels are taken one after the other.
"""

from __future__ import annotations

from numbaconv.jit import ONE, ZERO, device, inlined, kernel, routine, share
from numbaconv.kernels.packing import pack_slab, unpack_block
from numbaconv.kernels.records import read, record
from numbaconv.simd import clear, hadamard, load, slide, slide_within, store

#: How many taps a window may have, and how many windows are summed together.
WINDOW_SIZES = (7, 5, 3, 1)
WINDOWS = 3
#: How many pixels share what they load.
QUAD = 4

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
    "nothing",  # where there is a vector of zeros
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
    "pixel",  # elements from a pixel to the next, in both
    "line",  # and from a row of the input to the next
    "columns",  # slab columns, or those of the image
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
    triples : int array (triples, 13)
        Taps of a window; for each of three windows where it finds its first pixel, and where its sums are; in which row
        of those that an output row reaches; and where in that row.
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
        scratch, group * plan.block_size, plan.groups * plan.block_size, plan.parts, taps, plan.taps, ONE,
        min(plan.pitch, plan.C - channel), plan.pitch, plan.lanes, w, channel * plan.taps, plan.taps, ONE,
    )  # fmt: skip


@routine
def _sum_share(x, z, scratch, plan, triples, thread, threads):
    """One thread's share of the tasks: one partial sum of one group each."""
    own = plan.slabs + thread * plan.own
    clear(scratch, own + plan.nothing, plan.lanes)
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
            there, first, rows, ZERO, plan.OW, ONE, ZERO, plan.pitch, plan.lanes,
        )  # fmt: skip
    for row in range(rows):
        where = start, at + row * plan.in_h, reached
        _sum_row(
            source, where, gradient, there + row * plan.OW * plan.pixel, scratch, sums, own + plan.nothing, plan,
            triples, channels,
        )  # fmt: skip


@routine
def _sum_row(x, where, z, gradient, to, sums, nothing, plan, triples, channels):
    """Add one row's share: where the input begins, the first row of it that is reached, and how many there are.

    The sums of a window whose row is not there are put where nobody reads them.
    """
    nowhere = sums + plan.taps * plan.pitch
    for k in range(len(triples)):
        taps = triples[k, 0]
        a, to_a = _window(where, triples[k, 7], triples[k, 1], sums + triples[k, 4], nowhere, plan)
        b, to_b = _window(where, triples[k, 8], triples[k, 2], sums + triples[k, 5], nowhere, plan)
        c, to_c = _window(where, triples[k, 9], triples[k, 3], sums + triples[k, 6], nowhere, plan)
        places, firsts = (a, b, c, gradient, to_a, to_b, to_c), (triples[k, 10], triples[k, 11], triples[k, 12])
        if taps == 7:
            _sum_7(x, z, to, places, firsts, nothing, plan, channels)
        elif taps == 5:
            _sum_5(x, z, to, places, firsts, nothing, plan, channels)
        elif taps == 3:
            _sum_3(x, z, to, places, firsts, nothing, plan, channels)
        else:
            _sum_1(x, z, to, places, firsts, nothing, plan, channels)


@inlined
def _window(where, row, place, sums, nowhere, plan):
    """Where a window begins to read, and where its sums are."""
    start, first, rows = where
    found = first + row
    inside = 0 <= found < rows
    return start + min(max(found, 0), rows - 1) * plan.line + place, sums if inside else nowhere


def _summing(taps):
    """The pixels of a row, for ``taps`` times three windows: ``firsts`` says where in a row those begin."""

    @routine
    def one_window(x, a, first, z, there, to, sums, exist, nothing, plan, channels):
        """Some pixels that do not all exist, or whose taps do not all find something: those of one window."""
        pixel, low, high = plan.pixel, -first, plan.columns * plan.pixel - first
        for lane in range(0, channels, plan.lanes):
            tile, here = load(taps, 1, to, sums + lane, plan.pitch, 0), a + lane
            if plan.in_w == 1:
                tile = slide_within(
                    tile, x, here, pixel, z, there + lane, pixel, QUAD, 1, 1, low, high, exist, to, nothing
                )  # fmt: skip
            else:
                tile = slide_within(
                    tile, x, here, pixel, z, there + lane, pixel, QUAD, 1, 2, low, high, exist, to, nothing
                )  # fmt: skip
            store(tile, to, sums + lane, plan.pitch, 0)

    @routine
    def three_windows(x, z, to, places, firsts, nothing, plan, channels):
        if not plan.shared:
            for lane in range(0, channels, plan.lanes):
                _sum_one_by_one(taps, x, z, to, places, lane, plan)
            return
        a, b, c, gradient, to_a, to_b, to_c = places
        low, high = min(firsts[0], firsts[1], firsts[2]), max(firsts[0], firsts[1], firsts[2])
        reach = ((QUAD - 1) * plan.in_w + taps) * plan.pixel
        for pixel in range(0, plan.OW, QUAD):
            at, there, exist = pixel * plan.in_w * plan.pixel, gradient + pixel * plan.pixel, min(plan.OW - pixel, QUAD)
            if exist < QUAD or low + at < 0 or high + at + reach > plan.columns * plan.pixel:
                one_window(x, a + at, firsts[0] + at, z, there, to, to_a, exist, nothing, plan, channels)
                one_window(x, b + at, firsts[1] + at, z, there, to, to_b, exist, nothing, plan, channels)
                one_window(x, c + at, firsts[2] + at, z, there, to, to_c, exist, nothing, plan, channels)
            else:
                for lane in range(0, channels, plan.lanes):
                    if plan.in_w == 1:
                        _sum_pixels(taps, 1, x, z, to, places, at, there + lane, lane, plan)
                    else:
                        _sum_pixels(taps, 2, x, z, to, places, at, there + lane, lane, plan)

    return three_windows


@device
def _sum_pixels(taps, step, x, z, to, places, begin, there, lane, plan):
    """Some pixels, all of whose taps find something."""
    a, b, c, _, to_a, to_b, to_c = places
    pixel, pitch, at = plan.pixel, plan.pitch, begin + lane
    one = load(taps, 1, to, to_a + lane, pitch, 0)
    two = load(taps, 1, to, to_b + lane, pitch, 0)
    three = load(taps, 1, to, to_c + lane, pitch, 0)
    store(slide(one, x, a + at, pixel, z, there, pixel, QUAD, 1, step), to, to_a + lane, pitch, 0)
    store(slide(two, x, b + at, pixel, z, there, pixel, QUAD, 1, step), to, to_b + lane, pitch, 0)
    store(slide(three, x, c + at, pixel, z, there, pixel, QUAD, 1, step), to, to_c + lane, pitch, 0)


@device
def _sum_one_by_one(taps, x, z, to, places, lane, plan):
    """All pixels of a row, one after the other."""
    a, b, c, there, to_a, to_b, to_c = places
    pitch, pixel, tap, step = plan.pitch, plan.pixel, plan.tap_pixel, plan.in_w * plan.pixel
    one = load(taps, 1, to, to_a + lane, pitch, 0)
    two = load(taps, 1, to, to_b + lane, pitch, 0)
    three = load(taps, 1, to, to_c + lane, pitch, 0)
    for ow in range(plan.OW):
        one = hadamard(one, x, a + ow * step + lane, tap, z, there + ow * pixel + lane)
        two = hadamard(two, x, b + ow * step + lane, tap, z, there + ow * pixel + lane)
        three = hadamard(three, x, c + ow * step + lane, tap, z, there + ow * pixel + lane)
    store(one, to, to_a + lane, pitch, 0)
    store(two, to, to_b + lane, pitch, 0)
    store(three, to, to_c + lane, pitch, 0)


_sum_7, _sum_5, _sum_3, _sum_1 = _summing(7), _summing(5), _summing(3), _summing(1)
