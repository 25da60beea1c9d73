"""Copies that put memory into the order in which the microkernel walks it.

Whatever the layout of the user's arrays, kernels with lanes along channels know two orders,

- a **slab**: some rows of one image, channels innermost, with its padding as zeros, ``[row][column][channel]``;
- **packed weights**: ``[group][block][tap][channel][lane]``, a block being the lanes that a tile covers;

and so do those with lanes along pixels,

- **planes**: the same rows, channels outermost, ``[channel][remainder of row and column][row][column]``;
- **packed filters**: ``[group][tile][channel][tap][row of the tile]``.
"""

from __future__ import annotations

from numbaconv.jit import routine, standalone
from numbaconv.simd import add, clear, copy, move, narrow, spread, store, transpose, widen


@standalone
def pack_slab(
    x, start, sc, sh, sw, channels, IH, IW, slab, to, top, rows, left, columns, pieces, apart, pitch, lanes
):  # fmt: skip
    """Copy rows ``top`` to ``top + rows`` and columns ``left`` to ``left + columns`` of an image, zeros outside of it.

    The image begins at ``x[start]``; ``sc``, ``sh`` and ``sw`` are its strides. The slab begins at ``slab[to]``; a
    pixel of it has ``pitch`` elements, of which those beyond ``channels`` are zeros. ``lanes`` is those of a vector.
    Where strides leap over much of the image, a row comes in ``pieces`` of so many columns each, ``apart`` columns from
    each other in the image, and next to each other in the slab.
    """
    turns = sw == 1 and channels > 1
    for row in range(rows):
        line = to + row * pieces * columns * pitch
        inside = 0 <= top + row < IH
        if not inside or channels < pitch:
            clear(slab, line, pieces * columns * pitch)
        if inside and not turns:
            for piece in range(pieces):
                _pack_row(
                    x, start + (top + row) * sh, sc, sw, channels, IW, slab, line + piece * columns * pitch,
                    left + piece * apart, columns, pitch, lanes,
                )  # fmt: skip
    if turns:
        first, last = max(0, -top), min(rows, IH - top)
        for piece in range(pieces):
            _turn_rows(
                x, start + (top + first) * sh, sc, sh, channels, IW, slab,
                to + (first * pieces + piece) * columns * pitch, pieces * columns * pitch, last - first,
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
    if (sc == 1 or channels == 1) and sw == pitch:
        copy(slab, target, 1, x, source, 1, (last - first) * pitch)
    elif sc == 1:
        whole = channels // lanes * lanes  # vector by vector: for so few bytes, calling memcpy would take longer
        if whole > 0:
            for column in range(last - first):
                for c in range(0, whole, lanes):
                    store(spread(1, 1, x, source + column * sw + c), slab, target + column * pitch + c, 0, 0)
        move(slab, target + whole, pitch, x, source + whole, sw, last - first, channels - whole)
    else:
        for c in range(channels):
            copy(slab, target + c, pitch, x, source + c * sc, sw, last - first)


@routine
def _turn_rows(x, start, sc, sh, channels, IW, slab, to, to_row, rows, left, columns, pitch, lanes):
    """The same for rows whose pixels lie next to each other, channels apart.

    Some channels at a time are read from the first row to the last, as memory likes it.
    """
    first = min(max(-left, 0), columns)
    last = max(min(IW - left, columns), first)
    whole = last - first == IW and sh == IW and to_row == columns * pitch and pitch % lanes == 0
    if whole and -IW % lanes * 4 >= IW:
        # Rows leave many lanes empty. So they are turned as one row, to the end of the slab, and then moved up.
        flat = to + rows * (columns - IW) * pitch
        transpose_all(slab, flat, pitch, x, start, sc, channels, rows * IW, lanes)
        for row in range(rows):
            for i in range(0, IW * pitch, lanes):
                store(
                    spread(1, 1, slab, flat + row * IW * pitch + i), slab, to + row * to_row + first * pitch + i, 0, 0
                )
    else:
        for c in range(0, channels, lanes):
            for row in range(rows):
                transpose_all(
                    slab, to + row * to_row + first * pitch + c, pitch, x, start + row * sh + c * sc + left + first,
                    sc, min(lanes, channels - c), last - first, lanes,
                )  # fmt: skip
    for row in range(rows):
        clear(slab, to + row * to_row, first * pitch)
        clear(slab, to + row * to_row + last * pitch, (columns - last) * pitch)


@standalone
def pack_blocks(x, start, sc, sh, sw, channels, slab, to, rows, columns, width, apart, lanes):
    """Copy ``rows`` of an image into blocks of ``width`` channels, ``[row][column][channel]``, that lie ``apart``.

    One pass over the image serves all blocks. What a block has beyond ``channels`` is zeros as far as its last vector.
    """
    for row in range(rows):
        source, target = start + row * sh, to + row * columns * width
        if sc == 1:
            whole = channels // lanes * lanes
            last = target + whole // width * apart
            if whole < channels:
                clear(slab, last, columns * width)
            if whole > 0:
                for column in range(columns):
                    pixel, here = source + column * sw, target + column * width
                    for block in range(0, whole, width):
                        for c in range(0, min(width, whole - block), lanes):
                            store(spread(1, 1, x, pixel + block + c), slab, here + c, 0, 0)
                        here += apart
            move(slab, last + whole % width, width, x, source + whole, sw, columns, channels - whole)
        else:
            for c in range(0, channels, width):
                here = target + c // width * apart
                if c + width > channels:
                    clear(slab, here, columns * width)
                transpose_all(
                    slab, here, width, x, source + c * sc, sc, min(width, channels - c), columns, lanes
                )  # fmt: skip


@standalone
def transpose_all(to, i, i_pitch, source, j, j_pitch, rows, columns, lanes):
    """The same as :func:`numbaconv.simd.transpose` for any numbers of rows and columns."""
    for r in range(0, rows, lanes):
        for c in range(0, columns, lanes):
            transpose(
                to, i + c * i_pitch + r, i_pitch, source, j + r * j_pitch + c, j_pitch,
                min(lanes, rows - r), min(lanes, columns - c),
            )  # fmt: skip


@standalone
def pack_block(w, start, s_lane, s_channel, channels, taps, packed, to, lanes, width, vector):
    """Copy one block of weights, ``lanes`` of its ``width`` lanes, the others as zeros.

    ``vector`` is how many lanes a vector has.
    """
    if lanes < width:
        clear(packed, to, len(taps) * channels * width)
    for tap in range(len(taps)):
        source, target = start + taps[tap], to + tap * channels * width
        if s_lane == 1:
            move(packed, target, width, w, source, s_channel, channels, lanes)
        elif s_channel == 1:
            transpose_all(packed, target, width, w, source, s_lane, lanes, channels, vector)
        else:
            for c in range(channels):
                copy(packed, target + c * width, 1, w, source + c * s_channel, s_lane, lanes)


@standalone
def unpack_block(
    packed, start, step, parts, taps, joined, channels, lanes, width, vector, w, to, s_lane, s_channel
):  # fmt: skip
    """The other way round: sum ``parts`` packed blocks that lie ``step`` apart, in order, into the weights.

    ``vector`` is how many lanes a vector has. Packed rows of a tap begin at ``taps[tap, 1]``; those of ``joined`` taps
    at a time lie ``channels`` rows apart, and their weights next to each other unless it is channels that do.
    """
    for tap in range(0, len(taps), joined):
        first = start + taps[tap, 1] * width
        for part in range(1, parts):
            for lane in range(first, first + joined * channels * width, vector):
                add(spread(1, 1, packed, lane + part * step), packed, lane, 0)
        if s_lane == 1 and joined == 1:
            move(w, to + taps[tap, 0], s_channel, packed, first, width, channels, lanes)
        elif s_channel == 1 and channels > 1:
            for t in range(tap, tap + joined):
                transpose_all(
                    w, to + taps[t, 0], s_lane, packed, start + taps[t, 1] * width, width, channels, lanes, vector
                )
        else:
            for c in range(channels):
                transpose_all(
                    w, to + taps[tap, 0] + c * s_channel, s_lane, packed, first + c * width, channels * width,
                    joined, lanes, vector,
                )  # fmt: skip


@routine
def unpack_tile(stage, start, width, pixels, channels, y, to, s_channel, s_pixel, lanes):
    """Copy what exists of a tile, channels innermost, to where channels lie ``s_channel`` apart."""
    if s_channel == 1:
        move(y, to, s_pixel, stage, start, width, pixels, channels)
    elif s_pixel == 1:
        for c in range(0, channels, lanes):  # some channels at a time, from the first pixel to the last
            transpose_all(
                y, to + c * s_channel, s_channel, stage, start + c, width, pixels, min(lanes, channels - c), lanes
            )
    else:
        for channel in range(channels):
            copy(y, to + channel * s_channel, s_pixel, stage, start + channel, width, pixels)


@standalone
def pack_planes(
    x, start, sc, sh, sw, channels, IH, IW, slab, to, plane, part, remainders, count, top, step_h, rows, left, step_w,
    columns, lanes,
):  # fmt: skip
    """Copy some rows of an image into planes, one for each channel, zeros outside of the image.

    A plane has a part for each of the first ``count`` ``remainders`` of rows modulo ``step_h`` and columns modulo
    ``step_w``, counted from row ``top`` and column ``left`` of the image: ``rows`` times ``columns`` elements. Planes
    lie ``plane`` elements apart, and parts of a plane ``part``.
    """
    clear(slab, to, channels * plane)
    for p in range(count):
        h, w = top + remainders[p, 0], left + remainders[p, 1]
        above = min(max(-(h // step_h), 0), rows)
        below = max(min(-((h - IH) // step_h), rows), above)
        first = min(max(-(w // step_w), 0), columns)
        last = max(min(-((w - IW) // step_w), columns), first)
        source = start + h * sh + w * sw
        pitch, step = step_h * sh, step_w * sw
        here = source + above * pitch + first * step
        there = to + p * part + above * columns + first
        if step <= 2:
            for c in range(channels):
                if step == 1:
                    move(slab, there + c * plane, columns, x, here + c * sc, pitch, below - above, last - first)
                else:
                    narrow(slab, there + c * plane, columns, x, here + c * sc, pitch, below - above, last - first)
        else:
            for row in range(below - above):
                if sc == 1:
                    transpose_all(
                        slab, there + row * columns, plane, x, here + row * pitch, step, last - first, channels, lanes
                    )
                else:
                    for c in range(channels):
                        copy(
                            slab, there + c * plane + row * columns, 1, x, here + c * sc + row * pitch, step,
                            last - first,
                        )  # fmt: skip


@routine
def pack_band(x, slab, to, plan, remainders, n, first_group, groups, first):
    """Pack what a band of image ``n`` reads for some groups, ``first`` being its first row of pixels."""
    pack_planes(
        x, n * plan.x_n + first_group * plan.ICG * plan.x_c, plan.x_c, plan.x_h, plan.x_w, groups * plan.ICG, plan.IH,
        plan.IW, slab, to, plan.plane, plan.part, remainders, len(remainders), plan.top + first * plan.in_h, plan.in_h,
        plan.rows, plan.left, plan.in_w, plan.columns, plan.lanes,
    )  # fmt: skip


@routine
def pack_filters(w, start, s_row, steps, joined, packed, to, height, exist, lanes):
    """Copy the weights of ``exist`` output channels to ``[step][row]``, zeros up to ``height`` rows.

    ``joined`` steps at a time have weights that follow each other in memory.
    """
    if exist < height:
        clear(packed, to, len(steps) * height)
    for step in range(0, len(steps), joined):
        source, target = start + steps[step], to + step * height
        if joined > 1:
            transpose_all(packed, target, height, w, source, s_row, exist, joined, lanes)
        else:
            copy(packed, target, 1, w, source, s_row, exist)


@routine
def pack_weights(w, packed, plan, steps, tiles, tile):
    """Pack the weights of one of all groups' tiles of target channels, (first channel, rows, rows that exist)."""
    g = tile // len(tiles)
    first, height, exist = tiles[tile % len(tiles), 0], tiles[tile % len(tiles), 1], tiles[tile % len(tiles), 2]
    pack_filters(
        w, g * plan.w_group + first * plan.w_row, plan.w_row, steps, plan.joined,
        packed, (g * plan.heights + first) * len(steps), height, exist, plan.lanes,
    )  # fmt: skip


@routine
def unpack_planes(stage, start, pitch, channels, pixels, y, to, s_channel, s_pixel, lanes):
    """Copy pixels of planes that lie ``pitch`` apart to where channels lie ``s_channel`` and pixels ``s_pixel``."""
    if s_channel == 1:
        transpose_all(y, to, s_pixel, stage, start, pitch, channels, pixels, lanes)
    elif s_pixel == 2:
        widen(y, to, s_channel, stage, start, pitch, channels, pixels)
    else:
        for c in range(channels):
            copy(y, to + c * s_channel, s_pixel, stage, start + c * pitch, 1, pixels)
