"""The public suite, each layer in all passes and both layouts: ``pytest benchmarks``.

One group a cell, so that libraries stand beside each other; ``--benchmark-save`` and ``--benchmark-compare`` record and
compare runs, ``-k`` chooses cells: ``pytest benchmarks -k "resnet20 and forward and NHWC"``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import numbaconv
from numbaconv.geometry import Layout
from numbaconv.study.baselines import Im2col
from numbaconv.study.layers import PUBLIC, Layer

PASSES = ["forward", "grad_input", "grad_weight"]


def compiled(layer: Layer, layout: Layout, arrays: tuple[np.ndarray, ...]) -> dict[str, Callable[[], Any]]:
    x, w, dy = arrays
    how: dict[str, Any] = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "layout": layout,
    }
    return {
        "forward": lambda: numbaconv.conv2d(x, w, **how),
        "grad_input": lambda: numbaconv.conv2d_input(x.shape, w, dy, **how),
        "grad_weight": lambda: numbaconv.conv2d_weight(x, w.shape, dy, **how),
    }


def im2col(layer: Layer, layout: Layout, arrays: tuple[np.ndarray, ...]) -> dict[str, Callable[[], Any]]:
    x, w, dy = arrays
    baseline = Im2col(layer.geometry(layout))
    return {
        "forward": lambda: baseline.forward(x, w),
        "grad_input": lambda: baseline.grad_input(w, dy),
        "grad_weight": lambda: baseline.grad_weight(x, dy),
    }


LIBRARIES = {"numbaconv": compiled, "im2col": im2col}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", PUBLIC)
def test_layer(benchmark: Any, name: str, which: str, layout: Layout, library: str) -> None:
    layer = Layer.parse(PUBLIC[name])
    geometry = layer.geometry(layout)
    rng = np.random.default_rng(0)
    shapes = (geometry.input_shape, geometry.weight_shape, geometry.output_shape)
    arrays = tuple(rng.standard_normal(shape, np.float32) for shape in shapes)
    run = LIBRARIES[library](layer, layout, arrays)[which]
    benchmark.group = f"{name} {which} {layout}"
    benchmark.extra_info.update(gflop=geometry.flops / 1e9, threads=numbaconv.get_num_threads())
    expected = compiled(layer, layout, arrays)[which]()  # compiles before anything is timed
    np.testing.assert_allclose(run(), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    benchmark.pedantic(run, rounds=7, iterations=max(1, int(2e8 / geometry.flops)), warmup_rounds=1)
