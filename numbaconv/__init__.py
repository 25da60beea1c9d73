"""2-D convolutions on a CPU, forward and both gradients, as explicit loops compiled by Numba.

>>> import numpy as np, numbaconv
>>> images = np.ones((2, 3, 32, 32), np.float32)
>>> filters = np.ones((8, 3, 3, 3), np.float32)
>>> numbaconv.conv2d(images, filters, padding=1).shape
(2, 8, 32, 32)
"""

from numbaconv import environment as environment  # first: before anything imports Numba
from numbaconv.algorithms import get_algorithm, set_algorithm
from numbaconv.functional import (
    conv2d,
    conv2d_backward,
    conv2d_input,
    conv2d_output_size,
    conv2d_weight,
    conv_transpose2d,
    warmup,
)
from numbaconv.packed import PackedWeight, prepack
from numbaconv.threads import get_num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "PackedWeight",
    "__version__",
    "conv2d",
    "conv2d_backward",
    "conv2d_input",
    "conv2d_output_size",
    "conv2d_weight",
    "conv_transpose2d",
    "get_algorithm",
    "get_num_threads",
    "prepack",
    "set_algorithm",
    "set_num_threads",
    "warmup",
]
