"""Convolution layers as short strings, and the suites made of them.

A descriptor such as ``"n32 c16 h32 k32 r3 s2 p1"`` says a layer in words of a letter and a number:

======  =====================================  ==================
letter  meaning                                default
======  =====================================  ==================
``n``   images in a batch
``c``   input channels
``h``   height and width of an image
``k``   output channels
``r``   height and width of the kernel
``s``   stride                                 1
``p``   padding                                0
``d``   dilation                               1
``g``   groups                                 1
======  =====================================  ==================

Two numbers, height and width, are joined by an ``x``: ``h28x30``, ``r1x7``, ``p0x3``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from numbaconv.geometry import Conv2dGeometry
from numbaconv.parameters import Layout, Pair

_WORD = re.compile(r"([nchkrspdg])(\d{1,9})(?:x(\d{1,9}))?")
_PAIRS = "hrspd"
_DEFAULTS: dict[str, Pair] = {"s": (1, 1), "p": (0, 0), "d": (1, 1), "g": (1, 1)}

#: Layers of small networks, as people train them on a CPU.
PUBLIC: dict[str, str] = {
    "lenet-c1": "n64 c1 h28 k6 r5 p2",
    "lenet-c2": "n64 c6 h14 k16 r5",
    "mnist-c1": "n64 c1 h28 k32 r3 p1",
    "mnist-c2": "n64 c32 h14 k64 r3 p1",
    "resnet20-stem": "n32 c3 h32 k16 r3 p1",
    "resnet20-16": "n32 c16 h32 k16 r3 p1",
    "resnet20-16-32s2": "n32 c16 h32 k32 r3 s2 p1",
    "resnet20-32": "n32 c32 h16 k32 r3 p1",
    "resnet20-64": "n32 c64 h8 k64 r3 p1",
    "resnet20-1x1s2": "n32 c32 h16 k64 r1 s2",
    "vgg-128": "n16 c64 h16 k128 r3 p1",
    "dilated-2": "n32 c32 h16 k32 r3 p2 d2",
    "mobilenet-dw": "n32 c64 h32 k64 r3 p1 g64",
    "mobilenet-dw-s2": "n32 c64 h32 k64 r3 s2 p1 g64",
    "mobilenet-pw": "n32 c64 h16 k128 r1",
    "resnet50-3x3": "n4 c64 h56 k64 r3 p1",
    "resnet18-stem": "n2 c3 h224 k64 r7 s2 p3",
    "tiny": "n1 c1 h28 k8 r3 p1",
}


#: LeNet-5 as it was published: its third layer is a convolution that covers the whole image.
LENET: dict[str, str] = {
    "c1": "n64 c1 h28 k6 r5 p2",
    "c3": "n64 c6 h14 k16 r5",
    "c5": "n64 c16 h5 k120 r5",
}

#: ResNet-20 for CIFAR, every convolution that differs from the others.
RESNET20: dict[str, str] = {
    "stem": "n64 c3 h32 k16 r3 p1",
    "16": "n64 c16 h32 k16 r3 p1",
    "16-32-s2": "n64 c16 h32 k32 r3 s2 p1",
    "16-32-shortcut": "n64 c16 h32 k32 r1 s2",
    "32": "n64 c32 h16 k32 r3 p1",
    "32-64-s2": "n64 c32 h16 k64 r3 s2 p1",
    "32-64-shortcut": "n64 c32 h16 k64 r1 s2",
    "64": "n64 c64 h8 k64 r3 p1",
}

#: MobileNet (the first one) on 224×224 images: depthwise layers, and pointwise ones that mix the channels.
MOBILENET: dict[str, str] = {
    "stem": "n4 c3 h224 k32 r3 s2 p1",
    "dw-32": "n4 c32 h112 k32 r3 p1 g32",
    "pw-32-64": "n4 c32 h112 k64 r1",
    "dw-64-s2": "n4 c64 h112 k64 r3 s2 p1 g64",
    "pw-64-128": "n4 c64 h56 k128 r1",
    "dw-128": "n4 c128 h56 k128 r3 p1 g128",
    "pw-128": "n4 c128 h56 k128 r1",
    "dw-128-s2": "n4 c128 h56 k128 r3 s2 p1 g128",
    "pw-128-256": "n4 c128 h28 k256 r1",
    "dw-256": "n4 c256 h28 k256 r3 p1 g256",
    "pw-256": "n4 c256 h28 k256 r1",
    "dw-256-s2": "n4 c256 h28 k256 r3 s2 p1 g256",
    "pw-256-512": "n4 c256 h14 k512 r1",
    "dw-512": "n4 c512 h14 k512 r3 p1 g512",
    "pw-512": "n4 c512 h14 k512 r1",
    "dw-512-s2": "n4 c512 h14 k512 r3 s2 p1 g512",
    "pw-512-1024": "n4 c512 h7 k1024 r1",
    "dw-1024": "n4 c1024 h7 k1024 r3 p1 g1024",
    "pw-1024": "n4 c1024 h7 k1024 r1",
}

#: ResNet-50 on 224×224 images, with the strides on the 3×3 layers as everybody has them today.
RESNET50: dict[str, str] = {
    "stem": "n4 c3 h224 k64 r7 s2 p3",
    "56-64-64": "n4 c64 h56 k64 r1",
    "56-3x3": "n4 c64 h56 k64 r3 p1",
    "56-64-256": "n4 c64 h56 k256 r1",
    "56-256-64": "n4 c256 h56 k64 r1",
    "56-256-128": "n4 c256 h56 k128 r1",
    "56-3x3-s2": "n4 c128 h56 k128 r3 s2 p1",
    "56-shortcut": "n4 c256 h56 k512 r1 s2",
    "28-128-512": "n4 c128 h28 k512 r1",
    "28-512-128": "n4 c512 h28 k128 r1",
    "28-3x3": "n4 c128 h28 k128 r3 p1",
    "28-512-256": "n4 c512 h28 k256 r1",
    "28-3x3-s2": "n4 c256 h28 k256 r3 s2 p1",
    "28-shortcut": "n4 c512 h28 k1024 r1 s2",
    "14-256-1024": "n4 c256 h14 k1024 r1",
    "14-1024-256": "n4 c1024 h14 k256 r1",
    "14-3x3": "n4 c256 h14 k256 r3 p1",
    "14-1024-512": "n4 c1024 h14 k512 r1",
    "14-3x3-s2": "n4 c512 h14 k512 r3 s2 p1",
    "14-shortcut": "n4 c1024 h14 k2048 r1 s2",
    "7-512-2048": "n4 c512 h7 k2048 r1",
    "7-2048-512": "n4 c2048 h7 k512 r1",
    "7-3x3": "n4 c512 h7 k512 r3 p1",
}

#: VGG-16 on 224×224 images.
VGG: dict[str, str] = {
    "224-3-64": "n2 c3 h224 k64 r3 p1",
    "224-64": "n2 c64 h224 k64 r3 p1",
    "112-64-128": "n2 c64 h112 k128 r3 p1",
    "112-128": "n2 c128 h112 k128 r3 p1",
    "56-128-256": "n2 c128 h56 k256 r3 p1",
    "56-256": "n2 c256 h56 k256 r3 p1",
    "28-256-512": "n2 c256 h28 k512 r3 p1",
    "28-512": "n2 c512 h28 k512 r3 p1",
    "14-512": "n2 c512 h14 k512 r3 p1",
}

#: All suites by name. A layer's name starts with its suite's, but for the public one.
SUITES: dict[str, dict[str, str]] = {
    "public": PUBLIC,
    **{
        name: {f"{name}-{layer}": descriptor for layer, descriptor in layers.items()}
        for name, layers in {
            "lenet": LENET,
            "resnet20": RESNET20,
            "mobilenet": MOBILENET,
            "resnet50": RESNET50,
            "vgg": VGG,
        }.items()
    },
}


def suite(name: str) -> dict[str, str]:
    """The descriptors of a suite, by the names of the layers.

    Raises
    ------
    ValueError
        There is no such suite.

    Examples
    --------
    >>> suite("lenet")["lenet-c3"]
    'n64 c6 h14 k16 r5'
    """
    if name not in SUITES:
        raise ValueError(f"there is no suite {name!r}: choose from {', '.join(SUITES)}")
    return dict(SUITES[name])


@dataclass(frozen=True)
class Layer:
    """A convolution layer.

    Examples
    --------
    >>> layer = Layer.parse("n32 c16 h32 k32 r3 s2 p1")
    >>> layer.stride, layer.geometry().output_shape
    ((2, 2), (32, 32, 16, 16))
    >>> str(layer)
    'n32 c16 h32 k32 r3 s2 p1'
    """

    N: int
    IC: int
    image: Pair
    OC: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @classmethod
    def parse(cls, descriptor: str) -> Layer:
        """The layer that ``descriptor`` says.

        Raises
        ------
        TypeError
            It is no string.
        ValueError
            A word is not of the form above, comes twice or is missing, or the sizes do not fit each other.
        """
        if not isinstance(descriptor, str):
            raise TypeError(f"descriptor must be a str such as 'n32 c16 h32 k16 r3 p1', got {descriptor!r}")
        said: dict[str, Pair] = {}
        for word in descriptor.split():
            match = _WORD.fullmatch(word)
            if match is None or (match[3] and match[1] not in _PAIRS):
                raise ValueError(f"{word!r} in layer {descriptor!r} is not a letter of nchkrspdg and a number")
            if match[1] in said:
                raise ValueError(f"{match[1]!r} comes twice in layer {descriptor!r}")
            said[match[1]] = int(match[2]), int(match[3] or match[2])
        missing = [letter for letter in "nchkr" if letter not in said]
        if missing:
            raise ValueError(f"layer {descriptor!r} does not say {', '.join(missing)}")
        n, c, h, k, r, s, p, d, g = ({**_DEFAULTS, **said}[letter] for letter in "nchkrspdg")
        layer = cls(n[0], c[0], h, k[0], r, s, p, d, g[0])
        layer.geometry()
        return layer

    def geometry(self, layout: Layout = "NCHW") -> Conv2dGeometry:
        """All its sizes."""
        if self.groups < 1 or self.IC % self.groups:
            raise ValueError(f"{self.IC} input channels can't be split into {self.groups} groups")
        N, C, ICG, K = self.N, self.IC, self.IC // self.groups, self.OC
        nchw = layout == "NCHW"
        return Conv2dGeometry.forward(
            (N, C, *self.image) if nchw else (N, *self.image, C),
            (K, ICG, *self.kernel) if nchw else (K, *self.kernel, ICG),
            self.stride, self.padding, self.dilation, self.groups, layout,
        )  # fmt: skip

    def __str__(self) -> str:
        words: dict[str, int | Pair] = {"n": self.N, "c": self.IC, "h": self.image, "k": self.OC, "r": self.kernel}
        rest: dict[str, Pair] = {
            "s": self.stride,
            "p": self.padding,
            "d": self.dilation,
            "g": (self.groups, self.groups),
        }
        words |= {letter: value for letter, value in rest.items() if value != _DEFAULTS[letter]}
        return " ".join(f"{letter}{_joined(value)}" for letter, value in words.items())


def _joined(value: int | Pair) -> str:
    if isinstance(value, int):
        return str(value)
    return str(value[0]) if value[0] == value[1] else f"{value[0]}x{value[1]}"
