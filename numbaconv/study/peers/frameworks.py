"""Frameworks that can train: PyTorch, JAX, TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.parameters import Layout
from numbaconv.study.layers import Layer
from numbaconv.study.peers.base import Arrays, Peer, parameters


class Torch(Peer):
    """PyTorch, eager; NCHW is its default layout, NHWC its ``channels_last``."""

    name = "torch"
    module = "torch"

    def start(self) -> None:
        self.library.set_num_threads(self.threads)
        self.library.set_num_interop_threads(1)

    def says(self) -> int:
        return int(self.library.get_num_threads())

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        torch = self.library
        # A tensor of channels_last is one whose shape is NCHW and whose memory is NHWC.
        order = (0, 1, 2, 3) if layout == "NCHW" else (0, 3, 1, 2)
        x, w, dy = (torch.from_numpy(array).permute(order) for array in arrays)
        conv2d, backward, how = torch.nn.functional.conv2d, torch.ops.aten.convolution_backward, parameters(layer)
        rest = None, layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups

        def without_tape(call: Callable[[], Any]) -> Callable[[], Any]:
            return torch.inference_mode()(call)

        return {
            "forward": without_tape(lambda: conv2d(x, w, **how)),
            "grad_input": without_tape(lambda: backward(dy, x, w, *rest, (True, False, False))[0]),
            "grad_weight": without_tape(lambda: backward(dy, x, w, *rest, (False, True, False))[1]),
        }

    def result(self, value: Any, work: str, layout: Layout) -> np.ndarray:
        return np.asarray(value.numpy() if layout == "NCHW" else value.permute(0, 2, 3, 1).numpy())


class Jax(Peer):
    """JAX, compiled by XLA. Its weights are HWIO for NHWC images, as its own libraries have them."""

    name = "jax"
    module = "jax"

    @staticmethod
    def environment(threads: int) -> dict[str, str]:
        # XLA makes as many threads as there are cores to run on, so it is our pinning that it keeps to.
        return {"JAX_PLATFORMS": "cpu", "NPROC": str(threads)}

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        jax = self.library
        names = (layout, "OIHW", layout) if layout == "NCHW" else (layout, "HWIO", layout)

        def forward(x: Any, w: Any) -> Any:
            return jax.lax.conv_general_dilated(
                x,
                w,
                layer.stride,
                [(p, p) for p in layer.padding],
                rhs_dilation=layer.dilation,
                feature_group_count=layer.groups,
                dimension_numbers=names,
            )

        grad_input = jax.jit(lambda x, w, dy: jax.vjp(lambda x: forward(x, w), x)[1](dy)[0])
        grad_weight = jax.jit(lambda x, w, dy: jax.vjp(lambda w: forward(x, w), w)[1](dy)[0])
        forward_jitted = jax.jit(forward)
        x, w, dy = map(jax.numpy.asarray, arrays)
        w = w if layout == "NCHW" else jax.numpy.transpose(w, (1, 2, 3, 0)).block_until_ready()
        return {
            "forward": lambda: forward_jitted(x, w).block_until_ready(),
            "grad_input": lambda: grad_input(x, w, dy).block_until_ready(),
            "grad_weight": lambda: grad_weight(x, w, dy).block_until_ready(),
        }

    def result(self, value: Any, work: str, layout: Layout) -> np.ndarray:
        return _with_weights_first(np.asarray(value), work, layout)


class TensorFlow(Peer):
    """TensorFlow, graphs of one operation. On a CPU its layout is NHWC."""

    name = "tensorflow"
    module = "tensorflow"
    layouts = ("NHWC",)
    depthwise = False

    @staticmethod
    def environment(threads: int) -> dict[str, str]:
        return {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

    def start(self) -> None:
        threading = self.library.config.threading
        threading.set_intra_op_parallelism_threads(self.threads)
        threading.set_inter_op_parallelism_threads(1)

    def says(self) -> int:
        return int(self.library.config.threading.get_intra_op_parallelism_threads())

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        tf, raw = self.library, self.library.raw_ops
        self.depthwise = layer.groups == layer.IC > 1
        x, w, dy = (tf.constant(array) for array in arrays)
        w = tf.transpose(w, (1, 2, 3, 0))
        if self.depthwise:  # (KH, KW, 1, OC) becomes (KH, KW, IC, OC / IC)
            w = tf.reshape(w, (*layer.kernel, layer.IC, -1))
        (PH, PW), one = layer.padding, [1]
        how = {
            "strides": one + [*layer.stride] + one,
            "padding": "EXPLICIT",
            "explicit_paddings": [0, 0, PH, PH, PW, PW, 0, 0],
            "dilations": one + [*layer.dilation] + one,
        }
        if self.depthwise:
            forward, input_gradient = raw.DepthwiseConv2dNative, raw.DepthwiseConv2dNativeBackpropInput
            weight_gradient = raw.DepthwiseConv2dNativeBackpropFilter
        else:
            forward, input_gradient, weight_gradient = raw.Conv2D, raw.Conv2DBackpropInput, raw.Conv2DBackpropFilter
        sizes, filter_sizes = tf.constant(x.shape), tf.constant(w.shape)
        graphs = {
            "forward": tf.function(lambda x, w, dy: forward(input=x, filter=w, **how)),
            "grad_input": tf.function(
                lambda x, w, dy: input_gradient(input_sizes=sizes, filter=w, out_backprop=dy, **how)
            ),
            "grad_weight": tf.function(
                lambda x, w, dy: weight_gradient(input=x, filter_sizes=filter_sizes, out_backprop=dy, **how)
            ),
        }
        return {work: lambda graph=graph: graph(x, w, dy) for work, graph in graphs.items()}  # type: ignore[misc]

    def result(self, value: Any, work: str, layout: Layout) -> np.ndarray:
        array = value.numpy()
        if work == "grad_weight" and self.depthwise:
            array = array.reshape(*array.shape[:2], 1, -1)
        return _with_weights_first(array, work, layout)


def _with_weights_first(array: np.ndarray, work: str, layout: Layout) -> np.ndarray:
    """A gradient of weights that are HWIO as OHWI; anything else as it is."""
    return array.transpose(3, 0, 1, 2) if work == "grad_weight" and layout == "NHWC" else array
