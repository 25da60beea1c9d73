"""Small networks of the literature, for small images.

Every one takes the same arguments: ``num_classes``, ``in_channels``, ``image_size`` (height and width, or one integer
for both), and by keyword ``dtype`` and ``rng``, a generator or a seed for the initial weights. The defaults are those
of the data the network was made for. A ValueError says when the images are too small for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from numbaconv.nn.activation import ReLU
from numbaconv.nn.containers import Residual, Sequential
from numbaconv.nn.convolution import Conv2d
from numbaconv.nn.initialisation import Rng, generator
from numbaconv.nn.linear import Flatten, Linear
from numbaconv.nn.module import Module
from numbaconv.nn.normalisation import BatchNorm2d
from numbaconv.nn.pooling import GlobalAvgPool2d, MaxPool2d
from numbaconv.parameters import IntOrPair, pair


def digits_cnn(
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: IntOrPair = 8,
    *,
    dtype: Any = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Two convolutions and a linear layer, for the 8×8 digits that come with numbaconv: 3,818 parameters.

    Examples
    --------
    >>> from numbaconv.nn.models import digits_cnn
    >>> digits_cnn().num_parameters
    3818
    """
    options: Any = {"dtype": dtype, "rng": generator(rng)}
    height, width = _halved(image_size, 1, smallest=1, up=True)
    return Sequential(
        Conv2d(in_channels, 8, 3, padding=1, **options),
        ReLU(),
        Conv2d(8, 16, 3, stride=2, padding=1, **options),
        ReLU(),
        Flatten(),
        Linear(16 * height * width, num_classes, **options),
    )


def lenet5(
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: IntOrPair = 28,
    *,
    dtype: Any = np.float32,
    rng: Rng = None,
) -> Sequential:
    """LeNet-5 as it is written today, with ReLU and max pooling, for 28×28 images: 61,706 parameters.

    References
    ----------
    LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998.

    Examples
    --------
    >>> from numbaconv.nn.models import lenet5
    >>> lenet5().num_parameters
    61706
    """
    options: Any = {"dtype": dtype, "rng": generator(rng)}
    height, width = ((size - 4) // 2 for size in _halved(image_size, 1, smallest=6))
    return Sequential(
        Conv2d(in_channels, 6, 5, padding=2, **options),
        ReLU(),
        MaxPool2d(2),
        Conv2d(6, 16, 5, **options),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Linear(16 * height * width, 120, **options),
        ReLU(),
        Linear(120, 84, **options),
        ReLU(),
        Linear(84, num_classes, **options),
    )


def mnist_cnn(
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: IntOrPair = 28,
    *,
    dtype: Any = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Two convolutions and two linear layers, for 28×28 images: 421,642 parameters.

    Examples
    --------
    >>> from numbaconv.nn.models import mnist_cnn
    >>> mnist_cnn().num_parameters
    421642
    """
    options: Any = {"dtype": dtype, "rng": generator(rng)}
    height, width = _halved(image_size, 2, smallest=1)
    return Sequential(
        Conv2d(in_channels, 32, 3, padding=1, **options),
        ReLU(),
        MaxPool2d(2),
        Conv2d(32, 64, 3, padding=1, **options),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Linear(64 * height * width, 128, **options),
        ReLU(),
        Linear(128, num_classes, **options),
    )


def resnet20(
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: IntOrPair = 32,
    *,
    dtype: Any = np.float32,
    rng: Rng = None,
) -> Sequential:
    """The ResNet-20 of CIFAR, with 1×1 convolutions on the shortcuts that change shape: 272,474 parameters.

    Images of any size will do, for the last pooling is global.

    References
    ----------
    He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, arXiv:1512.03385, section 4.2.

    Examples
    --------
    >>> from numbaconv.nn.models import resnet20
    >>> resnet20().num_parameters
    272474
    """
    pair(image_size, "image_size", 1)
    options: Any = {"dtype": dtype, "rng": generator(rng)}
    layers: list[Module] = [*_conv_bn(in_channels, 16, 3, 1, options), ReLU()]
    channels = 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):  # the three stages, of three blocks each
        for block in range(3):
            layers += _basic_block(channels, width, stride if block == 0 else 1, options)
            channels = width
    return Sequential(*layers, GlobalAvgPool2d(), Linear(64, num_classes, **options))


def _basic_block(in_channels: int, channels: int, stride: int, options: Any) -> list[Module]:
    first, second = _conv_bn(in_channels, channels, 3, stride, options), _conv_bn(channels, channels, 3, 1, options)
    changes = stride != 1 or in_channels != channels
    shortcut = Sequential(*_conv_bn(in_channels, channels, 1, stride, options)) if changes else None
    return [Residual(Sequential(*first, ReLU(), *second), shortcut), ReLU()]


def _conv_bn(in_channels: int, channels: int, kernel_size: int, stride: int, options: Any) -> list[Module]:
    """A convolution that keeps the size (but for its stride), without the bias that batch norm would take away."""
    convolution = Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False, **options)
    return [convolution, BatchNorm2d(channels, dtype=options["dtype"])]


def _halved(image_size: IntOrPair, times: int, smallest: int, up: bool = False) -> tuple[int, int]:
    """Height and width after halving them some times, at least ``smallest``, rounded down or up."""
    height, width = ((size + (2**times - 1) * up) // 2**times for size in pair(image_size, "image_size", 1))
    if min(height, width) < smallest:
        least = smallest * 2**times
        raise ValueError(f"image_size={image_size} is too small: this model needs at least {least} x {least}")
    return height, width


#: The models by their names.
MODELS: Mapping[str, Callable[..., Sequential]] = {
    model.__name__: model for model in (digits_cnn, lenet5, mnist_cnn, resnet20)
}
