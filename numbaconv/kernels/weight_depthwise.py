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
    triples : int array (triples, 7)
        Taps of a window; for each of three windows where it finds its first pixel, and where its sums are.
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
    pack_slab(
        x, n * plan.x_n + channel * plan.x_c, plan.x_c, plan.x_h, plan.x_w, channels, plan.IH, plan.IW, scratch, own,
        plan.top + first * plan.in_h, (rows - 1) * plan.in_h + plan.span, plan.left, plan.columns // plan.pieces,
        plan.pieces, plan.apart, plan.pitch, plan.lanes,
    )  # fmt: skip
    gradient = own + plan.gradient
    pack_slab(
        z, n * plan.z_n + channel * plan.z_c, plan.z_c, plan.z_h, plan.z_w, channels, plan.OH, plan.OW, scratch,
        gradient, first, rows, 0, plan.OW, 1, 0, plan.pitch, plan.lanes,
    )  # fmt: skip
    for row in range(rows):
        source = own + row * plan.in_h * plan.columns * plan.pitch
        _sum_row(scratch, source, gradient + row * plan.OW * plan.pitch, sums, plan, triples, channels)


@routine
def _sum_row(scratch, source, gradient, sums, plan, triples, channels):
    """Add one row's share."""
    for k in range(len(triples)):
        taps = triples[k, 0]
        for c in range(0, channels, plan.lanes):
            if taps == 7:
                _sum(7, scratch, source + c, gradient + c, sums + c, plan, triples, k)
            elif taps == 5:
                _sum(5, scratch, source + c, gradient + c, sums + c, plan, triples, k)
            elif taps == 3:
                _sum(3, scratch, source + c, gradient + c, sums + c, plan, triples, k)
            else:
                _sum(1, scratch, source + c, gradient + c, sums + c, plan, triples, k)


@device
def _sum(taps, scratch, source, z, sums, plan, triples, k):
    """The pixels of a row, one after the other or four at a time, for ``taps`` times three vectors of sums."""
    a, b, c = source + triples[k, 1], source + triples[k, 2], source + triples[k, 3]
    to_a, to_b, to_c = sums + triples[k, 4], sums + triples[k, 5], sums + triples[k, 6]
    pitch, left, step = plan.pitch, plan.OW, plan.in_w * plan.pitch
    one, two = load(taps, 1, scratch, to_a, pitch, 0), load(taps, 1, scratch, to_b, pitch, 0)
    three = load(taps, 1, scratch, to_c, pitch, 0)
    if plan.shared and taps > 1:
        if plan.in_w == 1:
            for _ in range(plan.OW // 4):
                one = slide(one, scratch, a, pitch, scratch, z, pitch, 4, 1, 1)
                two = slide(two, scratch, b, pitch, scratch, z, pitch, 4, 1, 1)
                three = slide(three, scratch, c, pitch, scratch, z, pitch, 4, 1, 1)
                a += 4 * pitch
                b += 4 * pitch
                c += 4 * pitch
                z += 4 * pitch
        else:
            for _ in range(plan.OW // 4):
                one = slide(one, scratch, a, pitch, scratch, z, pitch, 4, 1, 2)
                two = slide(two, scratch, b, pitch, scratch, z, pitch, 4, 1, 2)
                three = slide(three, scratch, c, pitch, scratch, z, pitch, 4, 1, 2)
                a += 8 * pitch
                b += 8 * pitch
                c += 8 * pitch
                z += 4 * pitch
        left = plan.OW % 4
    for _ in range(left):
        one = hadamard(one, scratch, a, plan.tap_pixel, scratch, z)
        two = hadamard(two, scratch, b, plan.tap_pixel, scratch, z)
        three = hadamard(three, scratch, c, plan.tap_pixel, scratch, z)
        a += step
        b += step
        c += step
        z += pitch
    store(one, scratch, to_a, pitch, 0)
    store(two, scratch, to_b, pitch, 0)
    store(three, scratch, to_c, pitch, 0)
