"""What denormal numbers cost, which some processors compute by microcode: ``pytest benchmarks -k denormal``.

One group a pass: the same call with numbers that are usual, denormal, or so small that their products are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from numbaconv.study.layers import Layer
from numbaconv.study.peers import PEERS, WORKS, Arrays
from numbaconv.study.results import OURS

TINY = float(np.finfo(np.float32).tiny)
SCALES = {"usual": (1.0, 1.0), "denormal numbers": (TINY, 1.0), "denormal products": ((TINY / 100) ** 0.5,) * 2}


@pytest.mark.parametrize("numbers", SCALES)
@pytest.mark.parametrize("work", WORKS)
def test_denormal(benchmark: Any, work: str, numbers: str) -> None:
    layer = Layer.parse("n4 c32 h16 k32 r3 p1")
    arrays = Arrays.random(layer, "NCHW")
    images, weights = (np.float32(scale) for scale in SCALES[numbers])
    scaled = Arrays(arrays.input * images, arrays.weight * weights, arrays.grad_output * images)
    benchmark.group = f"denormals: {work}"
    benchmark(PEERS[OURS](1).prepare(layer, "NCHW", scaled)[work])
