"""Images from one layout in memory to the other."""

from __future__ import annotations

import numba

from numbaconv.jit import Kernel
from numbaconv.kernels.packing import transpose_all
from numbaconv.simd import lanes_of


@Kernel
def transpose_images(x, y, sizes, workers):
    """``y[n, column, row] = x[n, row, column]``; ``sizes`` are the images, and the rows and columns of each."""
    N, rows, columns = sizes
    lanes = lanes_of(x)
    for worker in numba.prange(workers):
        for n in range(worker * N // workers, (worker + 1) * N // workers):
            start = n * rows * columns
            transpose_all(y, start, rows, x, start, columns, rows, columns, lanes)
