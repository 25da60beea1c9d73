"""What all plans are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from numbaconv import simd
from numbaconv.geometry import Conv2dGeometry
from numbaconv.jit import Kernel
from numbaconv.kernels.records import filled
from numbaconv.kernels.tiles import HEIGHTS, TALL
from numbaconv.plan.axes import Correlation

#: Bytes that a band of an image may take when packed: with the weights that meet it, it should stay in the L2 cache.
SLAB_BYTES = 256 * 1024
#: Bytes of weights that stay in the L1 cache while tiles come and go.
NEAR_BYTES = 32 * 1024
#: Bytes of a band that one block of a weight gradient reads, where they are to stay in the L1 cache.
BAND_BYTES = 36 * 1024
#: Bytes that all partial sums of a weight gradient may take together.
PARTS_BYTES = 1024 * 1024
#: Times that a source row may be packed, about, because bands are so low that each reaches over many rows.
FARTHEST = 4
#: Independent pieces of work that a call is cut into where it is large enough: some for each of many threads.
TASKS = 32
#: The same where fewer are worth it, because rows of fewer pixels would leave tiles half empty.
SOME_TASKS, SHORT_ROW = 8, 4 * TALL
#: Numbers of threads that such work should suit.
THREADS = (1, 2, 4, 8, 16)
#: Operations below which a call is over before a second thread has woken up, and where that is awake and waits for it.
SERIAL_FLOPS, TEAM_FLOPS = 4_000_000, 2_000_000

# Costs, in the time of one vector's multiply-add. They were measured; only how they compare matters.
#: To begin a tile, and to write it.
TILE_COST = 30
#: To bring a vector's elements from channels that lie next to each other to pixels that do, or back.
TURN_COST = 24
#: To read a vector of planes, which come from far, whatever a core could add meanwhile. Where a slab is made of them,
#: it is part of turning.
READ_COST = 15 * simd.MULTIPLY_ADDS


@dataclass(frozen=True, eq=False)
class Plan:
    """A kernel and what it is called with, beside the arrays of the user."""

    kernel: Kernel
    numbers: np.ndarray
    tables: tuple[np.ndarray, ...]
    #: Elements of scratch memory: those that all threads share, and those of each.
    shared: int
    own: int
    #: How many threads may share the work; 0 if there is none.
    threads: int
    #: The same for a team, which need not be called.
    team: int
    #: Some elements of the result are reached by no tap, and must be filled before the kernel runs.
    fill: bool
    #: Weights, or gradients of them, meet zeros that are in no array: those of padding, say. 0 * inf is NaN.
    zeros: bool
    #: Zeros where a bias is read if there is none: for each group that is computed by itself, whole vectors.
    no_bias: np.ndarray
    #: The first stage of the kernel that has anything to do.
    first: int = 0
    #: A weight gradient's kernel takes the output's gradient for the input, and the other way round.
    swapped: int = 0

    def stages(self, threads: int) -> range | None:
        """The stages of the kernel that have anything to do; None, all in one call, on a single thread."""
        return None if threads == 1 else self.kernel.stages[self.first :]

    def factors(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The input and the output's gradient, in the order in which the kernel of a weight gradient takes them."""
        return (z, x) if self.swapped else (x, z)

    @cached_property
    def arguments(self) -> tuple[np.ndarray, ...]:
        """The last arguments of the kernel."""
        return (self.numbers, *self.tables)


class Memory:
    """Memory that is given out piece by piece, each of which begins with a whole vector."""

    def __init__(self, lanes: int) -> None:
        self.lanes, self.size = lanes, 0

    def add(self, elements: int) -> int:
        """Where a piece of so many elements begins."""
        start = self.size
        self.size += round_up(elements, self.lanes)
        return start


def plan(
    kernel: Kernel,
    record: np.dtype,
    values: dict[str, int],
    tables: Any,
    work: Correlation,
    fill: bool,
    zeros: bool,
    bias: tuple[int, int] = (0, 0),
    first: int = 0,
) -> Plan:
    """The plan of a kernel whose record has the fields ``slabs``, ``own`` and ``tasks``."""
    return Plan(
        kernel,
        filled(record, **values),
        tables,
        shared=values["slabs"],
        own=values["own"],
        **sharing(work.g, values["tasks"]),
        fill=fill,
        zeros=zeros,
        no_bias=np.zeros(bias, work.dtype),
        first=first,
        swapped=int(work.swapped),
    )


def pointwise(g: Conv2dGeometry) -> bool:
    """Whether every output pixel is made of the input pixel of the same place."""
    return (g.KH, g.KW, g.SH, g.SW) == (1, 1, 1, 1) and (g.OH, g.OW) == (g.IH, g.IW)


def merged(
    g: Conv2dGeometry, dtype: np.dtype, one_run: bool = False, budget: int = SLAB_BYTES
) -> Conv2dGeometry:  # fmt: skip
    """The same convolution of fewer and longer rows, which tiles cover with less waste, where rows do not matter.

    That is so for convolutions that are :func:`pointwise`. Where the pixels of all images are
    ``one_run``, they make a single tall image. There should still be work for many threads, or for some if a row were
    hardly longer than a tile; and a row should take no more bytes than that.

    And it is so where taps lie in one column, whose pixels are some rows apart in a single row of all of them.
    """
    if _upright(g, dtype):
        return replace(
            g, IH=1, OH=1, KH=1, SH=1, DH=1, PT=0, PB=0, IW=g.IH * g.IW, OW=g.OH * g.OW, KW=g.KH, SW=g.SH,
            DW=g.DH * g.IW, PL=g.PT * g.IW, PR=g.PB * g.IW,
        )  # fmt: skip
    if not pointwise(g):
        return g
    if one_run and max(g.IC, g.OC) >= simd.lanes(dtype):  # of fewer channels, lanes may lie along the images
        g = replace(g, N=min(g.N, 1), IH=g.IH * max(g.N, 1), OH=g.OH * max(g.N, 1))
    fit = budget // (max(g.IC, g.OC) * g.IW * dtype.itemsize)
    many, some = (g.IH, g.IH) if g.flops < TEAM_FLOPS else (g.IH * g.N // TASKS, g.IH * g.N // SOME_TASKS)
    most = max(min(fit, many), min(SHORT_ROW // g.IW, some))
    costs = {height: height + 2.0 for height in HEIGHTS}

    def cost(rows: int) -> tuple[float, int]:
        return sum(costs[height] for _, height, _ in cover(rows * g.IW, costs)) / rows, -rows

    rows = min((rows for rows in range(1, min(most, g.IH) + 1) if g.IH % rows == 0), key=cost, default=1)
    return replace(g, IH=g.IH // rows, OH=g.OH // rows, IW=g.IW * rows, OW=g.OW * rows)


def _upright(g: Conv2dGeometry, dtype: np.dtype) -> bool:
    """Whether taps lie in one column, and rows are so short that all should be one, which stays in the cache.

    Rows of a single pixel always should; others where images are work enough for some threads.
    """
    column = g.KH > 1 and g.OW == g.IW and (g.KW, g.SW, g.PL, g.PR) == (1, 1, 0, 0)
    size = (g.IH + g.PT + g.PB) * g.IW * max(g.IC, g.OC) * dtype.itemsize
    shared = g.N >= SOME_TASKS or g.flops < TEAM_FLOPS
    short = g.IW == 1 or (g.SH == 1 and g.IW < SHORT_ROW and shared and not depthwise(g))
    return column and short and size <= SLAB_BYTES


def depthwise(g: Conv2dGeometry) -> bool:
    """Whether each channel has one filter of its own."""
    return g.G > 1 and g.ICG == g.OCG == 1


def sharing(g: Conv2dGeometry, tasks: int) -> dict[str, int]:
    """How many threads may share so many tasks, as a plan says it."""
    least = {"threads": SERIAL_FLOPS, "team": TEAM_FLOPS}
    return {name: min(tasks, 1) if g.flops < flops else tasks for name, flops in least.items()}


def band(
    g: Conv2dGeometry, rows: int, images: int, step: int, span: int, row_bytes: int, other_bytes: int = 0,
    budget: int = SLAB_BYTES,
) -> int:  # fmt: skip
    """Rows of a band: as many as fit into the cache, but few enough that there is work for many threads.

    A row reads ``span`` rows of a slab, ``step`` of which are new, and as many ``other_bytes`` that no other row needs.
    Where a pixel reaches over very many rows, more than fit: each band packs all of those again.
    """
    bands = 1 if g.flops < TEAM_FLOPS else -(-TASKS // images)
    most = min(fitting(rows, step, span, row_bytes, other_bytes, budget), max(-(-rows // bands), 2))
    return -(-max(1, rows) // max(1, -(-rows // most)))  # as many bands, of equal height


def fitting(rows: int, step: int, span: int, row_bytes: int, other_bytes: int = 0, budget: int = SLAB_BYTES) -> int:
    """The same without a look at threads: at least one row."""
    fit = (budget - (span - step) * row_bytes) // max(1, step * row_bytes + other_bytes)
    return max(1, min(rows, max(fit, span // (FARTHEST * step))))


def idling(g: Conv2dGeometry, tasks: int) -> float:
    """How much longer threads take for so many equal tasks because some of them wait, the mean over numbers of threads.

    A call that one thread makes alone has nobody to wait for.
    """
    if g.flops < SERIAL_FLOPS:
        return 1.0
    return sum(-(-tasks // threads) * threads / tasks for threads in THREADS) / len(THREADS)


def shareable(parts: int) -> int:
    """At most so many parts, that two and four threads can share evenly if there are four or more."""
    return parts if parts < 4 else parts // 4 * 4


def cover(count: int, costs: dict[int, float]) -> list[tuple[int, int, int]]:
    """Tiles that cover ``count`` rows at the least cost: (first row, height, rows that exist).

    ``costs`` says what a tile of each height takes; the tallest has to be the cheapest for its height. Only the last
    tile may hang over the end.
    """
    tall = max(costs)
    full = max(0, count - tall * tall) // tall  # beyond some length, the cheapest way begins with the tallest tile
    best: list[tuple[float, int]] = [(0, 0)]  # for each number of rows: the cost, and a tile's height, negative
    for rows in range(1, count - full * tall + 1):
        best.append(min((best[max(0, rows - height)][0] + cost, -height) for height, cost in costs.items()))
    chosen = [tall] * full
    left = count - full * tall
    while left > 0:
        chosen.append(-best[left][1])
        left -= chosen[-1]
    tiles, start = [], 0
    for height in sorted(chosen, reverse=True):
        tiles.append((start, height, min(height, count - start)))
        start += height
    return tiles


def round_up(number: int, multiple: int) -> int:
    """The least multiple that is not below ``number``."""
    return -(-number // multiple) * multiple


def table(rows: Any, columns: int) -> np.ndarray:
    """An int64 table, well-shaped even when it is empty; one-dimensional where ``columns`` is 0."""
    return np.array(rows, np.int64).reshape((-1, columns) if columns else (-1,))
