"""Copies that put memory into the order in which the microkernel walks it.

Two orders exist, whatever the layout of the user's arrays:

- a **slab**: some rows of one image, channels innermost, with its padding as zeros, ``[row][column][channel]``;
- **packed weights**: ``[group][block][tap][channel][lane]``, a block being the lanes that a tile covers.
"""

from __future__ import annotations

from numbaconv.jit import routine
from numbaconv.simd import add, clear, copy, spread, store, transpose


@routine
def pack_slab(
    x, start, sc, sh, sw, channels, IH, IW, slab, to, top, rows, left, columns, pieces, apart, pitch, lanes
):  # fmt: skip
    """Copy rows ``top`` to ``top + rows`` and columns ``left`` to ``left + columns`` of an image, zeros outside of it.

    The image begins at ``x[start]``; ``sc``, ``sh`` and ``sw`` are its strides. The slab begins at ``slab[to]``; a
    pixel of it has ``pitch`` elements, of which those beyond ``channels`` are zeros. ``lanes`` is those of a vector.
    Where strides leap over much of the image, a row comes in ``pieces`` of so many columns each, ``apart`` columns from
    each other in the image, and next to each other in the slab.
    """
    for row in range(rows):
        line = to + row * pieces * columns * pitch
        inside = 0 <= top + row < IH
        if not inside or channels < pitch:
            clear(slab, line, pieces * columns * pitch)
        if inside:
            for piece in range(pieces):
                _pack_row(
                    x, start + (top + row) * sh, sc, sw, channels, IW, slab, line + piece * columns * pitch,
                    left + piece * apart, columns, pitch, lanes,
                )  # fmt: skip


@routine
def _pack_row(x, start, sc, sw, channels, IW, slab, to, left, columns, pitch, lanes):
    """Copy columns ``left`` to ``left + columns`` of the image row that begins at ``x[start]``."""
    first = min(max(-left, 0), columns)
    last = max(min(IW - left, columns), first)
    clear(slab, to, first * pitch)
    clear(slab, to + last * pitch, (columns - last) * pitch)
    source = start + (left + first) * sw
    target = to + first * pitch
    if sc == 1 and sw == pitch:
        copy(slab, target, 1, x, source, 1, (last - first) * pitch)
    elif sc == 1:
        whole = channels // lanes * lanes  # vector by vector: for so few bytes, calling memcpy would take longer
        for column in range(last - first):
            for c in range(0, whole, lanes):
                store(spread(1, 1, x, source + column * sw + c), slab, target + column * pitch + c, 0)
            copy(slab, target + column * pitch + whole, 1, x, source + column * sw + whole, 1, channels - whole)
    elif sw == 1:
        transpose_all(slab, target, pitch, x, source, sc, channels, last - first, lanes)
    else:
        for c in range(channels):
            copy(slab, target + c, pitch, x, source + c * sc, sw, last - first)


@routine
def transpose_all(to, i, i_pitch, source, j, j_pitch, rows, columns, lanes):
    """The same as :func:`numbaconv.simd.transpose` for any numbers of rows and columns."""
    for r in range(0, rows, lanes):
        for c in range(0, columns, lanes):
            transpose(
                to, i + c * i_pitch + r, i_pitch, source, j + r * j_pitch + c, j_pitch,
                min(lanes, rows - r), min(lanes, columns - c),
            )  # fmt: skip


@routine
def pack_block(w, start, s_lane, s_channel, channels, taps, packed, to, lanes, width):
    """Copy one block of weights, ``lanes`` of its ``width`` lanes, the others as zeros."""
    for tap in range(len(taps)):
        for c in range(channels):
            target = to + (tap * channels + c) * width
            copy(packed, target, 1, w, start + taps[tap] + c * s_channel, s_lane, lanes)
            clear(packed, target + lanes, width - lanes)


@routine
def unpack_block(packed, start, step, parts, taps, channels, lanes, width, vector, w, to, s_lane, s_channel):
    """The other way round: sum ``parts`` packed blocks that lie ``step`` apart, in order, into the weights.

    ``vector`` is how many lanes a vector has. Packed rows of a tap begin at ``taps[tap, 1]``.
    """
    for tap in range(len(taps)):
        for c in range(channels):
            source = start + (taps[tap, 1] + c) * width
            for part in range(1, parts):
                for lane in range(source, source + width, vector):
                    add(spread(1, 1, packed, lane + part * step), packed, lane, 0)
            copy(w, to + taps[tap, 0] + c * s_channel, s_lane, packed, source, 1, lanes)


@routine
def unpack_tile(stage, start, width, pixels, channels, y, to, s_channel, s_pixel, lanes):
    """Copy what exists of a tile, channels innermost, to where channels lie ``s_channel`` apart."""
    if s_channel == 1:
        for pixel in range(pixels):
            copy(y, to + pixel * s_pixel, 1, stage, start + pixel * width, 1, channels)
    elif s_pixel == 1:
        transpose_all(y, to, s_channel, stage, start, width, pixels, channels, lanes)
    else:
        for channel in range(channels):
            copy(y, to + channel * s_channel, s_pixel, stage, start + channel, width, pixels)
