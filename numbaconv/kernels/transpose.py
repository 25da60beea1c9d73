"""Images from one layout in memory to the other."""

from __future__ import annotations

from numbaconv.jit import Kernel, share
from numbaconv.kernels.packing import transpose_all
from numbaconv.simd import lanes_of


@Kernel
def transpose_images(x, y, sizes, stage, thread, threads):
    """``y[n, column, row] = x[n, row, column]``; ``sizes`` are the images, and the rows and columns of each."""
    N, rows, columns = sizes
    lanes = lanes_of(x)
    for n in share(N, thread, threads):
        start = n * rows * columns
        transpose_all(y, start, rows, x, start, columns, rows, columns, lanes)
