"""How many multiply-adds this machine can do: the yardstick beside which every cell stands.

The tile of the kernels takes outer products of the same few numbers over and over, which stay in the first cache:
nothing is left to wait for but the multiply-adds themselves.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

from numbaconv import simd
from numbaconv.kernels.tiles import TALL, VECTORS
from numbaconv.simd import outer

LANES = simd.lanes(np.float32)
WIDTH = VECTORS * LANES


@numba.njit(nogil=True)
def _multiply_add(steps: Any, a: Any, b: Any, out: Any) -> None:
    tile = simd.zeros(TALL, VECTORS, a)
    for _ in range(steps):
        tile = outer(tile, a, 0, 1, b, 0, LANES)
    simd.store(tile, out, 0, WIDTH, LANES)


def measure(threads: int, seconds: float = 0.04, repeats: int = 5) -> float:
    """The float32 peak of ``threads`` cores in GFLOP/s: the best of some tries.

    Parameters
    ----------
    threads : int
        How many to use; the caller sees to it that as many cores are free.
    seconds : float
        How long a try takes, roughly.
    repeats : int
        How many tries.

    Returns
    -------
    float
        Billions of floating-point operations a second, a multiply-add counted as two.
    """
    a, b = np.full(TALL, 1e-3, np.float32), np.full(WIDTH, 1e-3, np.float32)
    outputs = [np.empty(TALL * WIDTH, np.float32) for _ in range(threads)]
    _multiply_add(1, a, b, outputs[0])
    flop, steps = 2 * TALL * WIDTH, 100_000
    with ThreadPoolExecutor(threads) as pool:

        def attempt(steps: int) -> float:
            start = time.perf_counter()
            list(pool.map(lambda out: _multiply_add(steps, a, b, out), outputs))
            return time.perf_counter() - start

        attempt(steps)
        steps = max(steps, int(steps * seconds / attempt(steps)))
        best = min(attempt(steps) for _ in range(repeats))
    return flop * steps * threads / best / 1e9
