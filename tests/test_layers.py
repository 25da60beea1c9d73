"""Layer descriptors and the NumPy baseline that layers are compared with."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import reference
from numbaconv.parameters import Layout
from numbaconv.study.baselines import Im2col
from numbaconv.study.layers import PUBLIC, Layer


@pytest.mark.parametrize("descriptor", [*PUBLIC.values(), "n1 c4 h5x7 k6 r1x3 s2x1 p0x1 d1x2 g2"])
def test_descriptors_say_what_was_parsed(descriptor: str) -> None:
    assert str(Layer.parse(descriptor)) == descriptor


@pytest.mark.parametrize(
    ("descriptor", "message"),
    [
        ("n1 c1 h28 k8", "does not say r"),
        ("n1 c1 h28 k8 r3 z1", "'z1' in layer"),
        ("n1 c1 h28 k8 r", "'r' in layer"),
        ("n1 c1 h28 k8 r3 r3", "'r' comes twice"),
        ("n1 c1x2 h28 k8 r3", "'c1x2' in layer"),
        ("n1 c3 h28 k8 r3 g2", "3 input channels can't be split into 2 groups"),
        ("n1 c1 h2 k8 r3", "the output height would be less than 1"),
    ],
)
def test_bad_descriptors_are_refused(descriptor: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layer.parse(descriptor)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("descriptor", ["n2 c4 h6x5 k6 r3x2 s2x1 p1 d1x2 g2", "n1 c3 h4 k3 r3 p1 g3", "n1 c2 h1 k2 r1"])
def test_im2col_equals_the_reference(descriptor: str, layout: Layout) -> None:
    layer = Layer.parse(descriptor)
    geometry = layer.geometry(layout)
    rng = np.random.default_rng(0)
    shapes = (geometry.input_shape, geometry.weight_shape, geometry.output_shape)
    x, w, dy = (rng.integers(-4, 5, shape).astype(float) for shape in shapes)
    baseline = Im2col(geometry)
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    np.testing.assert_array_equal(baseline.forward(x, w), reference.conv2d(x, w, None, *how, layout=layout))
    np.testing.assert_array_equal(
        baseline.grad_input(w, dy), reference.conv2d_input(x.shape, w, dy, *how, layout=layout)
    )
    np.testing.assert_array_equal(
        baseline.grad_weight(x, dy), reference.conv2d_weight(x, w.shape, dy, *how, layout=layout)
    )
