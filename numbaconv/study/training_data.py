"""What models are trained on in a study, and how much arithmetic that is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from numbaconv.geometry import conv2d_output_size
from numbaconv.nn import Conv2d, Flatten, GlobalAvgPool2d, Linear, MaxPool2d, Module, Residual, Sequential
from numbaconv.nn.models import MODELS
from numbaconv.parameters import Shape

#: Batches that training goes through in turn.
BATCHES = 4
#: Images at a time in inference.
INFERENCE = (1, 64)


class Subject(NamedTuple):
    """Images a training step, and the shape of one."""

    batch: int
    image: tuple[int, int, int]


#: Each model as people train it.
SUBJECTS = {
    "digits_cnn": Subject(32, (1, 8, 8)),
    "lenet5": Subject(64, (1, 28, 28)),
    "mnist_cnn": Subject(64, (1, 28, 28)),
    "resnet20": Subject(64, (3, 32, 32)),
}


class Data(NamedTuple):
    """A model with its initial weights, and batches for it: the same ones in every process."""

    model: Sequential
    #: (batches, N, C, H, W), standard normal, so none of them denormal.
    images: np.ndarray
    #: (batches, N)
    labels: np.ndarray

    @classmethod
    def random(cls, name: str, batch: int) -> Data:
        """Drawn from a fixed seed."""
        rng = np.random.default_rng(14)
        model = MODELS[name](rng=rng)
        images = rng.standard_normal((BATCHES, batch, *SUBJECTS[name].image), np.float32)
        return cls(model, images, rng.integers(0, 10, (BATCHES, batch)))


def operations(network: Sequential, image: Shape, training: bool) -> int:
    """Floating-point operations for one image, of convolutions and linear layers, a multiply-add counted as two.

    Training computes a gradient of the weight and one of the input beside the output, but none of the images.
    """
    products, _ = _products(network, image)
    return 2 * (3 * sum(products) - products[0] if training else sum(products))


def _products(module: Module, shape: Shape) -> tuple[list[int], Shape]:
    """Multiply-adds of each layer inside, and the shape of what comes out, for one image."""
    match module:
        case Sequential():
            products = []
            for layer in module:
                more, shape = _products(layer, shape)
                products += more
            return products, shape
        case Residual():
            products, end = _products(module.main, shape)
            return products + (_products(module.shortcut, shape)[0] if module.shortcut else []), end
        case Conv2d():
            size = conv2d_output_size(shape[1:], module.kernel_size, module.stride, module.padding, module.dilation)
            return [module.weight.data.size * math.prod(size)], (module.out_channels, *size)
        case MaxPool2d():
            size = conv2d_output_size(shape[1:], module.kernel_size, module.stride, module.padding)
            return [], (shape[0], *size)
        case Linear():
            return [module.weight.data.size], (module.out_features,)
        case Flatten():
            return [], (math.prod(shape),)
        case GlobalAvgPool2d():
            return [], shape[:1]
        case _:
            return [], shape
