"""Our models in runtimes that serve trained ones: inference alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv import nn
from numbaconv.parameters import pair
from numbaconv.study.peers import runtimes
from numbaconv.study.training_base import State, TrainingPeer


class OnnxRuntime(TrainingPeer, runtimes.OnnxRuntime):
    """ONNX Runtime, which folds, fuses and packs what it can when it reads the model."""

    works = ("inference",)

    def build(self, model: nn.Sequential) -> None:
        self.model, self.shape = model, (1,)

    def parameters(self) -> int:
        trained = {name for name, _ in self.model.named_parameters()}
        return sum(size for name, size in self.graph.sizes.items() if name in trained)

    def batch(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        self.shape = x.shape
        return x, y

    def load(self, state: State) -> None:
        self.graph = _OnnxGraph(state)
        self.session = self.library.InferenceSession(
            self.graph.model(self.model, self.shape), self._options(), providers=["CPUExecutionProvider"]
        )
        self.binding, self.bound = self.session.io_binding(), np.empty(0)

    def infer(self, x: np.ndarray) -> np.ndarray:
        if x is not self.bound:
            self.binding.bind_cpu_input("x", x)
            self.binding.bind_output("y", "cpu")
            self.bound = x
        self.session.run_with_iobinding(self.binding)
        return np.asarray(self.binding.get_outputs()[0].numpy())


class _OnnxGraph:
    """The nodes of our layers, and the weights that they need."""

    def __init__(self, state: State) -> None:
        import onnx

        self.onnx, self.state = onnx, state
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.sizes: dict[str, int] = {}

    def model(self, module: nn.Module, shape: tuple[int, ...]) -> bytes:
        """The model for images of this shape, as ONNX writes it."""
        last = self.add(module, "x")
        self.nodes.append(self.onnx.helper.make_node("Identity", [last], ["y"]))
        batch, *rest = shape
        return runtimes.serialized(self.nodes, [batch, *rest], [batch, None], self.weights)

    def add(self, module: nn.Module, x: str, prefix: str = "") -> str:
        """Add a layer that reads ``x``; the name of what it gives."""
        match module:
            case nn.Sequential():
                for name, layer in module.named_children():
                    x = self.add(layer, x, f"{prefix}{name}.")
                return x
            case nn.Residual():
                shortcut = x if module.shortcut is None else self.add(module.shortcut, x, f"{prefix}shortcut.")
                return self._node("Add", self.add(module.main, x, f"{prefix}main."), shortcut)
            case nn.Conv2d():
                return self._node(
                    "Conv",
                    *(x, *self._own(prefix, "weight", "bias")),
                    strides=module.stride,
                    pads=pair(module.padding, "padding", 0) * 2,  # the models pad alike on both sides
                    dilations=module.dilation,
                    group=module.groups,
                    kernel_shape=module.kernel_size,
                )
            case nn.BatchNorm2d():
                own = self._own(prefix, "weight", "bias", "running_mean", "running_var")
                return self._node("BatchNormalization", x, *own, epsilon=module.eps)
            case nn.Linear():
                return self._node("Gemm", x, *self._own(prefix, "weight", "bias"), transB=1)
            case nn.MaxPool2d():
                window = {"kernel_shape": module.kernel_size, "strides": module.stride, "pads": module.padding * 2}
                return self._node("MaxPool", x, **window)
            case nn.GlobalAvgPool2d():
                return self._node("Flatten", self._node("GlobalAveragePool", x))
            case nn.ReLU():
                return self._node("Relu", x)
            case nn.Flatten():
                return self._node("Flatten", x)
            case _:
                raise NotImplementedError(f"{type(module).__name__} has no counterpart in ONNX here")

    def _own(self, prefix: str, *names: str) -> list[str]:
        """The arrays of a layer that there are, by their names in the state dict."""
        found = [prefix + name for name in names if prefix + name in self.state]
        for name in found:
            self.weights.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(self.state[name]), name))
            self.sizes[name] = self.state[name].size
        return found

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind} {len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name
