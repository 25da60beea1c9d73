"""The microkernel: one register tile, summed over runs of memory. All three passes are made of it.

=============  ===================================  =================  ==========================================
pass           rows ``p`` of the tile run over      lanes run over     summed over
=============  ===================================  =================  ==========================================
forward        output pixels of an image row        output channels    taps of the kernel, input channels
grad input     input pixels of one stride phase     input channels     the taps of that phase, output channels
grad weight    taps and input channels              output channels    output pixels
=============  ===================================  =================  ==========================================

In each step of the sum the tile takes an outer product: some scalars are broadcast, each against the same few vectors::

                b[j : j + lanes]        two vectors, loaded once a step
               +-----------------+
    a[i]       |                 |
    a[i+pitch] |  rows x vectors |      every cell is a multiply-add whose sum stays in its register
    ...        |                 |
               +-----------------+

Where three taps of a kernel row find pixels that are neighbours, a step takes them together. Pixels of the tile share
what they read: a scalar that is broadcast once serves up to three of its rows, each with the vectors of another tap::

    scalar of pixel    0      1      2      3      ...
    tap of row 0       first  second third
    tap of row 1              first  second third
    ...

Then a tile of 8 x 2 vectors does 48 multiply-adds with 16 loads, where single taps need 30, and a tile of one vector
48 with 21 instead of 51, more than a core can load in that time. The vectors of all three taps take registers, too.

Where every channel has a filter of its own (depthwise), lanes are channels on both sides, and the broadcast becomes a
load: the product is taken lane by lane.

Few channels would leave most lanes empty. So each pass exists once more, with the roles exchanged (``planes.py``,
``weight_planes.py``): there, lanes run over pixels that lie next to each other in an image of a single channel; and
where images are small, over the images of a batch (``images.py``).

=============  ===================================  =================  ==========================================
pass           rows ``p`` of the tile run over      lanes run over     summed over
=============  ===================================  =================  ==========================================
forward        output channels                      output pixels      input channels, taps
grad input     input channels                       input pixels       output channels, the taps of the phase
grad weight    output channels                      output pixels      output pixels, and in the end the lanes
=============  ===================================  =================  ==========================================

A step of these takes about as long as its multiply-adds, as long as every vector that is loaded meets enough others: in
a tile of 8 x 2 vectors, 16 multiply-adds need 10 loads, and a core does two of each at a time.
"""

from __future__ import annotations

from numbaconv import simd
from numbaconv.jit import device
from numbaconv.simd import outer, put, store, trail

#: Vectors in a tile's row, at most. With two, each broadcast is used twice; with more, fewer rows are left.
VECTORS = 2
#: The tile heights that kernels are compiled for, where taps come one by one. The tallest fills the registers, but
#: for two vectors and a broadcast.
TALL = (simd.VECTOR_REGISTERS - 4) // VECTORS
MIDDLE, SHORT = (8, 4) if TALL > 8 else (4, 2)
HEIGHTS = (TALL, MIDDLE, SHORT)
#: Taps of a kernel row that are summed together, where as many find their pixels next to each other.
SINGLE, THREE = (1,), (1,) * 3
#: The heights of tiles for more than one tap, by the vectors of their rows: the weights of all take registers, too.
HIGH, EVEN = simd.VECTOR_REGISTERS // 2, simd.VECTOR_REGISTERS // 2 - 2
HALF, ODD, LOW = HIGH // 2, EVEN // 2, HIGH // 4
TRAIL_HEIGHTS = {1: (HIGH, EVEN, HALF), 2: (HALF, ODD, LOW)}
#: Where lanes are pixels, there are enough of them for low tiles to be wide: the vectors of a tile, by its height.
PLANE_TILES = {TALL: 2, MIDDLE: 2, SHORT: 4, 1: 8}


@device
def accumulate(tile, a, a_start, a_pitch, a_step, b, b_start, b_apart, b_step, runs, first, last):
    """Add to ``tile`` the outer products along the runs ``first`` to ``last``, and return it.

    A run is ``(offset in a, offset in b, steps)``. From a step to the next, ``a`` advances by ``a_step``, ``b`` by
    ``b_step``. A step reads scalars of ``a`` that lie ``a_pitch`` apart, and vectors of ``b`` that lie ``b_apart``.
    """
    for run in range(first, last):
        i, j = a_start + runs[run, 0], b_start + runs[run, 1]
        tile = extend(tile, a, i, a_pitch, a_step, b, j, b_apart, b_step, runs[run, 2])
    return tile


@device
def accumulate_taps(tile, a, a_start, a_pitch, b, b_start, b_apart, b_tap, b_step, runs, first, last, taps):
    """The same for runs of some ``taps`` each, those of neighbouring pixels, so that each scalar serves all of them.

    The scalars of a tap lie ``a_pitch`` behind those of the tap before it, and its vectors ``b_tap``.
    """
    for run in range(first, last):
        i, j = a_start + runs[run, 0], b_start + runs[run, 1]
        for _ in range(runs[run, 2]):
            tile = trail(tile, a, i, a_pitch, b, j, b_tap, b_apart, taps)
            i += 1
            j += b_step
    return tile


@device
def extend(tile, a, i, a_pitch, a_step, b, j, b_apart, b_step, steps):
    """Add to ``tile`` the outer products of one run of so many ``steps``, and return it."""
    for _ in range(steps):
        tile = outer(tile, a, i, a_pitch, b, j, b_apart)
        i += a_step
        j += b_step
    return tile


@device
def write(tile, to, start, pitch, whole, rows, channels, lanes):
    """Write a tile of one vector a row: ``whole``, or as many rows as exist, and as many channels."""
    if whole and channels >= lanes:
        store(tile, to, start, pitch, 0)
    else:
        put(tile, to, start, pitch, rows, 0, channels)
