"""Shapes and parameters of a 2-D convolution, checked against each other in this one place.

Every public operation starts here. A :class:`Conv2dGeometry` holds a consistent set of sizes; whoever has one need not
check again. The letters are oneDNN's: ``N`` batch, ``G`` groups, ``IC``/``OC`` input and output channels, ``IH IW``/
``OH OW`` input and output height and width, ``KH KW`` kernel, ``SH SW`` stride, ``DH DW`` dilation (1 is dense), and
``PT PB PL PR`` the zeros added at the top, bottom, left and right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from numbaconv.parameters import (
    IntOrPair,
    Layout,
    Padding,
    Pair,
    Shape,
    are_plain,
    check_layout,
    integer,
    pads,
    pair,
    shape_of,
)

Algorithm: TypeAlias = Literal["auto", "direct", "winograd"]

ALGORITHMS = ("auto", "direct", "winograd")
#: The largest dilation that Winograd's algorithm serves: a tile reaches over so many times the pixels.
WINOGRAD_DILATION = 4


@dataclass(frozen=True, slots=True)
class Conv2dGeometry:
    """All sizes of one 2-D convolution, checked against each other.

    The three passes share it: the forward pass maps ``input_shape`` and ``weight_shape`` to ``output_shape``, the two
    gradients go back. Make one with :meth:`forward` or :meth:`transposed`, which validate; the constructor does not.

    Examples
    --------
    >>> geometry = Conv2dGeometry.forward((1, 3, 28, 28), (8, 3, 3, 3), stride=2, padding=1)
    >>> geometry.output_shape
    (1, 8, 14, 14)
    """

    N: int
    G: int
    IC: int
    OC: int
    IH: int
    IW: int
    OH: int
    OW: int
    KH: int
    KW: int
    SH: int
    SW: int
    PT: int
    PB: int
    PL: int
    PR: int
    DH: int
    DW: int
    layout: Layout = "NCHW"

    @classmethod
    def forward(
        cls,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        stride: IntOrPair = 1,
        padding: Padding = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        layout: Layout = "NCHW",
    ) -> Conv2dGeometry:
        """The geometry of ``conv2d(input, weight, ...)`` and of its two gradients.

        Raises
        ------
        TypeError
            An argument that must be an integer, or a sequence of them, is something else.
        ValueError
            A size or parameter is out of range, or two of them do not fit each other.
        """
        arguments = (input_shape, weight_shape, stride, padding, dilation, groups, layout)
        return _remembered(cls._forward, *arguments) if are_plain(arguments) else cls._forward(*arguments)

    @classmethod
    def _forward(
        cls, input_shape: Any, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: Any, layout: Any
    ) -> Conv2dGeometry:
        layout = check_layout(layout)
        input_shape, weight_shape = shape_of(input_shape, "input"), shape_of(weight_shape, "weight")
        N, IC, IH, IW = _split_image(input_shape, layout)
        OC, ICG, KH, KW = _split_image(weight_shape, layout)
        (SH, SW), (DH, DW) = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
        G = integer(groups, "groups", 1)
        _check_sizes("input", input_shape, (IC, IH, IW), batch=N)
        _check_sizes("weight", weight_shape, (OC, ICG, KH, KW))
        if IC != ICG * G:
            raise ValueError(
                f"input has {IC} channels, but weight {weight_shape} with groups={G} takes {ICG} * {G} = "
                f"{ICG * G} (weight is (OC, IC/groups, KH, KW), or (OC, KH, KW, IC/groups) for NHWC)"
            )
        _check_divisible("OC, the output channels of weight,", OC, G)
        (PT, PB), (PL, PR) = pads(padding, (IH, IW), (KH, KW), (SH, SW), (DH, DW))
        return cls(
            N=N, G=G, IC=IC, OC=OC, IH=IH, IW=IW,
            OH=_output_size("height", IH, KH, SH, PT, PB, DH),
            OW=_output_size("width", IW, KW, SW, PL, PR, DW),
            KH=KH, KW=KW, SH=SH, SW=SW, PT=PT, PB=PB, PL=PL, PR=PR, DH=DH, DW=DW, layout=layout,
        )  # fmt: skip

    @classmethod
    def transposed(
        cls,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        stride: IntOrPair = 1,
        padding: Padding = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        dilation: IntOrPair = 1,
        layout: Layout = "NCHW",
    ) -> Conv2dGeometry:
        """The geometry of the convolution whose input gradient ``conv_transpose2d(input, weight, ...)`` is.

        What ``conv_transpose2d`` calls its input is this geometry's *output*, and the other way round.

        Raises
        ------
        TypeError
            An argument that must be an integer, or a sequence of them, is something else.
        ValueError
            A size or parameter is out of range, or two of them do not fit each other.
        """
        arguments = (input_shape, weight_shape, stride, padding, output_padding, groups, dilation, layout)
        return _remembered(cls._transposed, *arguments) if are_plain(arguments) else cls._transposed(*arguments)

    @classmethod
    def _transposed(
        cls, input_shape: Any, weight_shape: Any, stride: Any, padding: Any, output_padding: Any, groups: Any,
        dilation: Any, layout: Any,
    ) -> Conv2dGeometry:  # fmt: skip
        layout = check_layout(layout)
        input_shape, weight_shape = shape_of(input_shape, "input"), shape_of(weight_shape, "weight")
        N, IC, IH, IW = _split_image(input_shape, layout)
        weight_IC, OCG, KH, KW = _split_image(weight_shape, layout)
        (SH, SW), (DH, DW) = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
        G = integer(groups, "groups", 1)
        _check_sizes("input", input_shape, (IC, IH, IW), batch=N)
        _check_sizes("weight", weight_shape, (weight_IC, OCG, KH, KW))
        if weight_IC != IC:
            raise ValueError(
                f"input has {IC} channels, but weight {weight_shape} takes {weight_IC} "
                "(the weight of a transposed convolution is (IC, OC/groups, KH, KW), for NHWC (IC, KH, KW, OC/groups))"
            )
        _check_divisible("IC, the input channels,", IC, G)
        if isinstance(padding, str):
            raise ValueError(
                f"padding={padding!r} has no single meaning for a transposed convolution: give it in numbers, "
                "as an int, (PH, PW) or ((top, bottom), (left, right))"
            )
        (PT, PB), (PL, PR) = pads(padding, (1, 1), (KH, KW), (SH, SW), (DH, DW))
        EH, EW = pair(output_padding, "output_padding", 0)
        for name, extra, S, D in (("height", EH, SH, DH), ("width", EW, SW, DW)):
            if extra >= max(S, D):
                raise ValueError(
                    f"output_padding={extra} of the {name} must be smaller than the stride ({S}) or the dilation ({D})"
                )
        OH = (IH - 1) * SH - PT - PB + DH * (KH - 1) + EH + 1
        OW = (IW - 1) * SW - PL - PR + DW * (KW - 1) + EW + 1
        if OH < 1 or OW < 1:
            raise ValueError(
                f"the output would be {OH} x {OW}, but must be at least 1 x 1: input {IH} x {IW}, kernel {KH} x {KW}, "
                f"stride {(SH, SW)}, padding {((PT, PB), (PL, PR))}, dilation {(DH, DW)}, output_padding {(EH, EW)}"
            )
        return cls(
            N=N, G=G, IC=OCG * G, OC=IC, IH=OH, IW=OW, OH=IH, OW=IW, KH=KH, KW=KW, SH=SH, SW=SW,
            PT=PT, PB=PB, PL=PL, PR=PR, DH=DH, DW=DW, layout=layout,
        )  # fmt: skip

    @property
    def ICG(self) -> int:
        """Input channels of a group."""
        return self.IC // self.G

    @property
    def OCG(self) -> int:
        """Output channels of a group."""
        return self.OC // self.G

    @property
    def input_shape(self) -> Shape:
        """Shape of the input in this geometry's layout."""
        return self._image(self.IC, self.IH, self.IW)

    @property
    def output_shape(self) -> Shape:
        """Shape of the output in this geometry's layout."""
        return self._image(self.OC, self.OH, self.OW)

    @property
    def weight_shape(self) -> Shape:
        """Shape of the weight in this geometry's layout."""
        if self.layout == "NCHW":
            return (self.OC, self.ICG, self.KH, self.KW)
        return (self.OC, self.KH, self.KW, self.ICG)

    @property
    def flops(self) -> int:
        """Floating-point operations of any one pass, a multiplication and an addition counted as two."""
        return 2 * self.N * self.OC * self.OH * self.OW * self.ICG * self.KH * self.KW

    def _image(self, C: int, H: int, W: int) -> Shape:
        return (self.N, C, H, W) if self.layout == "NCHW" else (self.N, H, W, C)

    def check_shape(self, name: str, shape: Shape, expected: Shape) -> None:
        """Raise a ValueError unless ``shape``, that of the argument ``name``, is the ``expected`` one."""
        if shape != expected:
            raise ValueError(
                f"{name} has shape {shape}, but this convolution has {expected} there: input {self.input_shape}, "
                f"weight {self.weight_shape}, output {self.output_shape}, stride {(self.SH, self.SW)}, padding "
                f"{((self.PT, self.PB), (self.PL, self.PR))}, dilation {(self.DH, self.DW)}, groups {self.G}, "
                f"layout {self.layout}"
            )


def conv2d_output_size(
    input_size: IntOrPair,
    kernel_size: IntOrPair,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
) -> Pair:
    """Height and width of a convolution's output.

    Per axis ``(input + before + after - dilation * (kernel - 1) - 1) // stride + 1``, the formula of torch's
    ``Conv2d`` and of the chapter's section 14.3.4.

    Parameters
    ----------
    input_size, kernel_size : int or (int, int)
        Height and width of the image and of the kernel; one integer stands for both.
    stride, padding, dilation
        As for :func:`numbaconv.conv2d`.

    Returns
    -------
    (int, int)
        ``(OH, OW)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`numbaconv.conv2d`; a ValueError where the output would be empty.

    Examples
    --------
    >>> conv2d_output_size(28, 3, stride=2)
    (13, 13)
    >>> conv2d_output_size((5, 7), 3, padding="same", stride=2)
    (3, 4)
    """
    (IH, IW), (KH, KW) = pair(input_size, "input_size", 1), pair(kernel_size, "kernel_size", 1)
    (SH, SW), (DH, DW) = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    (PT, PB), (PL, PR) = pads(padding, (IH, IW), (KH, KW), (SH, SW), (DH, DW))
    return _output_size("height", IH, KH, SH, PT, PB, DH), _output_size("width", IW, KW, SW, PL, PR, DW)


def check_algorithm(algorithm: Any, geometry: Conv2dGeometry) -> Algorithm:
    """``algorithm`` itself; a ValueError unless it exists and serves ``geometry``."""
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(f'algorithm={algorithm!r} is unknown: it is "auto", "direct" or "winograd"')
    if algorithm == "winograd":
        g = geometry
        if (g.KH, g.KW) not in ((3, 3), (5, 5)) or (g.SH, g.SW) != (1, 1) or max(g.DH, g.DW) > WINOGRAD_DILATION:
            raise ValueError(
                f'algorithm="winograd" serves 3 x 3 and 5 x 5 kernels with stride 1 and dilations up to '
                f"{WINOGRAD_DILATION}, got kernel {(g.KH, g.KW)}, stride {(g.SH, g.SW)}, dilation {(g.DH, g.DW)}"
            )
    return algorithm  # type: ignore[return-value]


def _output_size(axis: str, image: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    room = image + before + after - dilation * (kernel - 1) - 1
    if room < 0:
        raise ValueError(
            f"the output {axis} would be less than 1: the kernel spans {dilation * (kernel - 1) + 1} "
            f"(size {kernel}, dilation {dilation}), the image with its padding {image + before + after} "
            f"({image} + {before} + {after})"
        )
    return room // stride + 1


def _split_image(shape: Shape, layout: Layout) -> tuple[int, int, int, int]:
    """(N, C, H, W) of an image, or (first channels, second channels, KH, KW) of a weight, whatever the layout."""
    return shape if layout == "NCHW" else (shape[0], shape[3], shape[1], shape[2])  # type: ignore[return-value]


@lru_cache(maxsize=1024)
def _remembered(make: Any, *arguments: Any) -> Conv2dGeometry:
    """What ``make`` made of these arguments the last time, for a network calls the same few convolutions for ever."""
    return make(*arguments)


def _check_sizes(name: str, shape: Sequence[int], sizes: Sequence[int], batch: int = 0) -> None:
    if min(sizes) < 1 or batch < 0:
        raise ValueError(f"{name} has shape {shape}: every size must be at least 1 (the batch may be 0)")


def _check_divisible(what: str, channels: int, groups: int) -> None:
    if channels % groups:
        raise ValueError(f"{what} must be divisible by groups: {channels} % {groups} is {channels % groups}")
