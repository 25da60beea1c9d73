"""Which taps meet which pixels, along each axis of an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from numbaconv.geometry import Conv2dGeometry
from numbaconv.parameters import Layout

#: A stride of so many times what is read at each step is not worth packing what lies between.
FAR = 8


class Axis(NamedTuple):
    """One axis of a correlation, for the pixels of one phase.

    Pixel ``q`` of the phase is target pixel ``first + q * stride`` (the phases' stride: 1 where there is but one).
    Tap ``k`` finds it at source pixel ``q * step + offset``, for each ``(k, offset)`` of ``taps``, ordered by offset.
    """

    first: int
    pixels: int
    taps: tuple[tuple[int, int], ...]


class Side(NamedTuple):
    """An image in memory: its channels, height and width, and the layout that it lies in."""

    C: int
    H: int
    W: int
    layout: Layout

    def strides(self, name: str) -> dict[str, int]:
        """Elements from an image, channel, row and column to the next, as a kernel's plan names them."""
        C, H, W, layout = self
        c, h, w = (H * W, W, 1) if layout == "NCHW" else (1, W * C, C)
        return {f"{name}_n": C * H * W, f"{name}_c": c, f"{name}_h": h, f"{name}_w": w}


class Correlation(NamedTuple):
    """A forward pass or an input gradient: a correlation of the image ``source`` with some taps into ``target``.

    The weight gradient is described by its forward pass, ``target`` being the output's gradient.
    """

    g: Conv2dGeometry
    dtype: np.dtype
    rows: tuple[Axis, ...]  # the phases along each axis
    columns: tuple[Axis, ...]
    step: tuple[int, int]  # source rows and columns from a pixel of a phase to the next
    stride: tuple[int, int]  # target rows and columns
    source: Side
    target: Side
    forward: bool
    packed: bool  # the weights are held in the order of the kernels: see numbaconv.packed
    relu: bool  # of the result, nothing below 0 is written
    pooled: tuple[int, int] | None = None  # rows and columns of the windows of a max pooling that follows, if one does
    swapped: bool = False  # of a weight gradient, input and output's gradient have changed places
    summed: bool = False  # another image is added to the target, before the ReLU
    normed: bool = False  # a batch normalisation comes before, and is made where the source is read
    rectified: bool = False  # and a ReLU behind that

    @property
    def ICG(self) -> int:
        """Source channels of a group."""
        return self.source.C // self.g.G

    @property
    def OCG(self) -> int:
        """Target channels of a group."""
        return self.target.C // self.g.G

    @property
    def pixels(self) -> tuple[int, int]:
        """Rows and columns of the largest phase."""
        most_rows = max((phase.pixels for phase in self.rows), default=0)
        return most_rows, max((phase.pixels for phase in self.columns), default=0)

    @property
    def window_rows(self) -> int:
        """Rows that are pooled together."""
        return 1 if self.pooled is None else self.pooled[0]

    @property
    def padded(self) -> bool:
        """Whether some tap of some pixel finds nothing but padding."""
        axes = zip((self.rows, self.columns), self.step, (self.source.H, self.source.W), strict=True)
        return any(
            offset < 0 or offset + (phase.pixels - 1) * step >= size
            for phases, step, size in axes
            for phase in phases
            for _, offset in phase.taps
        )

    @property
    def fill(self) -> bool:
        """Whether some target pixels belong to no phase."""
        reached = sum(axis.pixels for axis in self.rows) * sum(axis.pixels for axis in self.columns)
        return reached < self.target.H * self.target.W


def forward_axis(image: int, kernel: int, stride: int, before: int, dilation: int, output: int) -> Axis:
    """One axis of a forward pass; taps that meet nothing but padding are left out."""
    taps = [(k, k * dilation - before) for k in _live(image, kernel, stride, before, dilation, output)]
    return Axis(0, output, tuple(taps))


def backward_axes(image: int, kernel: int, stride: int, before: int, dilation: int, output: int) -> list[Axis]:
    """The phases of an input gradient along an axis: the image's pixels by their remainder modulo the stride.

    Tap ``k`` reaches image pixel ``i`` from output pixel ``(i + before - k * dilation) / stride`` if that is a whole
    number, so only the taps of the right remainder belong to a phase. A phase that no tap reaches is left out.
    """
    taps_of: dict[int, list[tuple[int, int]]] = {}
    for k in reversed(_live(image, kernel, stride, before, dilation, output)):
        first = (k * dilation - before) % stride
        taps_of.setdefault(first, []).append((k, (first + before - k * dilation) // stride))
    phases = []
    for first, taps in sorted(taps_of.items()):
        pixels = -(-(image - first) // stride)
        live = tuple((k, offset) for k, offset in taps if offset < output and offset + pixels > 0)
        if pixels > 0 and live:
            phases.append(Axis(first, pixels, live))
    return phases


def _live(image: int, kernel: int, stride: int, before: int, dilation: int, output: int) -> range:
    """The taps between the first and the last that meet a pixel of the image.

    Of a kernel that is far larger than the image these are few, and the others are never looked at.
    """
    first = -(((output - 1) * stride - before) // dilation)  # the first that the last output finds not before the image
    last = (image - 1 + before) // dilation  # the last that the first output finds not behind it
    return range(max(0, first), min(kernel, last + 1))


def reach(phases: tuple[Axis, ...]) -> tuple[int, int]:
    """The first source pixel that pixel 0 of any phase reaches, and how many there are from it to the last."""
    offsets = [offset for phase in phases for _, offset in phase.taps] or [0]
    return min(offsets), max(offsets) - min(offsets) + 1


def products(phase: Axis, step: int, size: int) -> int:
    """How often a tap of a phase meets a pixel of a source of this size, and not only padding."""
    return sum(
        max(0, min(phase.pixels, -((offset - size) // step)) - max(0, -(offset // step))) for _, offset in phase.taps
    )


class Stretch(NamedTuple):
    """The image columns that are packed into a slab's row."""

    columns: int
    pieces: int
    apart: int
    in_w: int  # slab columns from a pixel to the next


def stretch(pixels: int, step: int, span: int) -> Stretch:
    """All columns from the first to the last that is read; piece by piece where few of those between are."""
    if pixels <= 1:
        return Stretch(span, 1, 0, 1)
    if step > FAR * span:
        return Stretch(pixels * span, pixels, step, span)
    return Stretch((pixels - 1) * step + span, 1, 0, step)
