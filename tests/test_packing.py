"""The copies that kernels read, where other tests would not notice what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv.jit import ALL, Kernel
from numbaconv.kernels.packing import pack_slab


@Kernel
def pack(x, slab, channel, row, column, stage, thread, threads):  # type: ignore[no-untyped-def]
    """An image of 5 channels, 3 rows and 4 columns, a pixel of zeros around it, 8 elements a pixel."""
    pack_slab(x, 0, channel, row, column, 5, 3, 4, slab, 0, -1, 5, -1, 6, 1, 0, 8, 8)


@pytest.mark.parametrize(("order", "strides"), [((0, 1, 2), (1, 20, 5)), ((2, 0, 1), (12, 4, 1))])
def test_what_a_slab_has_beyond_the_channels_is_zero(order: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """There it is multiplied, and dropped; what calls have left in that memory may be NaN, or slow denormals."""
    image = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    slab, wanted = np.full(5 * 6 * 8, np.nan, np.float32), np.zeros((5, 6, 8), np.float32)
    wanted[1:4, 1:5, :5] = image
    pack.run(image.transpose(order).reshape(-1), slab, *strides, ALL, 0, 1)
    np.testing.assert_array_equal(slab, wanted.reshape(-1))
