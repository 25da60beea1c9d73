"""Runtimes that serve trained models: the forward pass alone, with weights that they may rearrange beforehand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from numbaconv.parameters import Layout
from numbaconv.study.layers import Layer
from numbaconv.study.peers.base import Arrays, Peer


class OnnxRuntime(Peer):
    """ONNX Runtime, a model of one node."""

    name = "onnxruntime"
    module = "onnxruntime"
    needs = ("onnx",)
    works = ("forward",)
    layouts = ("NCHW",)

    def says(self) -> int:
        return int(self._options().intra_op_num_threads)

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        session = self.library.InferenceSession(
            _onnx_model(layer, arrays.weight), self._options(), providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        binding.bind_cpu_input("x", arrays.input)
        binding.bind_output("y", "cpu")

        def forward() -> Any:
            session.run_with_iobinding(binding)
            return binding.get_outputs()[0]

        return {"forward": forward}

    def result(self, value: Any, work: str, layout: Layout) -> np.ndarray:
        return np.asarray(value.numpy())

    def _options(self) -> Any:
        options = self.library.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        return options


def _onnx_model(layer: Layer, weight: np.ndarray) -> bytes:
    from onnx import helper, numpy_helper

    g = layer.geometry()
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        strides=layer.stride,
        pads=layer.padding * 2,
        dilations=layer.dilation,
        group=layer.groups,
        kernel_shape=layer.kernel,
    )
    return serialized([node], g.input_shape, g.output_shape, [numpy_helper.from_array(weight, "w")])


def serialized(nodes: list[Any], x: Sequence[Any], y: Sequence[Any], weights: list[Any]) -> bytes:
    """A model of some nodes, from an ``x`` of one shape to a ``y`` of another, as ONNX writes it."""
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "numbaconv", ends[:1], ends[1:], weights)
    # Old enough that every runtime of the last years can read it.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class OpenVino(Peer):
    """OpenVINO, held to float32 and tuned for latency."""

    name = "openvino"
    module = "openvino"
    works = ("forward",)
    layouts = ("NCHW",)
    said = 0

    def says(self) -> int:
        return self.said

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        ov, ops, g = self.library, self.library.opset8, layer.geometry()
        x = ops.parameter(g.input_shape, np.float32)
        where = layer.stride, layer.padding, layer.padding, layer.dilation
        if layer.groups == 1:
            y = ops.convolution(x, ops.constant(arrays.weight), *where)
        else:
            filters = arrays.weight.reshape(layer.groups, -1, *arrays.weight.shape[1:])
            y = ops.group_convolution(x, ops.constant(filters), *where)
        config = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = ov.Core().compile_model(ov.Model([y], [x], "convolution"), "CPU", config)
        self.said = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        request = compiled.create_infer_request()
        request.set_input_tensor(ov.Tensor(arrays.input, shared_memory=True))

        def forward() -> Any:
            request.infer()
            return request.get_output_tensor()

        return {"forward": forward}

    def result(self, value: Any, work: str, layout: Layout) -> np.ndarray:
        return np.array(value.data)


class Ncnn(Peer):
    """ncnn, in float32. It takes image by image, so a batch is a loop in Python."""

    name = "ncnn"
    module = "ncnn"
    works = ("forward",)
    layouts = ("NCHW",)

    def says(self) -> int:
        return self.threads  # the option is all that there is to ask

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        ncnn, net = self.library, self.library.Net()
        net.opt.num_threads = self.threads
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        if net.load_param_mem(_ncnn_graph(layer)) != 0:
            raise RuntimeError("ncnn can't read the description of this layer")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.bin"
            tag = np.zeros(1, np.int32)  # "float32 follows"; the weights of a depthwise layer have one too
            path.write_bytes(tag.tobytes() + arrays.weight.tobytes())
            if net.load_model(str(path)) != 0:
                raise RuntimeError("ncnn can't read the weights of this layer")
        images = [ncnn.Mat(image) for image in arrays.input]

        def forward() -> Any:
            results = []
            for image in images:
                extractor = net.create_extractor()
                extractor.input("x", image)
                status, result = extractor.extract("y")
                if status != 0:
                    raise RuntimeError(f"ncnn's extract returned {status}")
                results.append(result)
            return results

        return {"forward": forward}

    def result(self, value: Any, work: str, layout: Layout) -> np.ndarray:
        return np.stack([np.array(image) for image in value])


def _ncnn_graph(layer: Layer) -> str:
    """The layer in ncnn's own words: a magic number, how many layers and blobs, a line each."""
    kind = "Convolution" if layer.groups == 1 else "ConvolutionDepthWise"
    (KH, KW), (SH, SW), (PH, PW), (DH, DW) = layer.kernel, layer.stride, layer.padding, layer.dilation
    size = layer.OC * (layer.IC // layer.groups) * KH * KW
    words = {0: layer.OC, 1: KW, 11: KH, 2: DW, 12: DH, 3: SW, 13: SH, 4: PW, 14: PH, 15: PW, 16: PH, 5: 0, 6: size}
    if layer.groups > 1:
        words[7] = layer.groups
    settings = " ".join(f"{key}={value}" for key, value in words.items())
    return f"7767517\n2 2\nInput in 0 1 x\n{kind} convolution 1 1 x y {settings}\n"
