"""The networks of ``nn.models``, trained by the libraries that numbaconv is compared with: one small class a library.

Each is built from the layers of our own model, so that a new model needs nothing here, and each keeps its arrays in the
layout that is quickest for it. A library is imported when its class is made, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import numbaconv
from numbaconv import nn
from numbaconv.parameters import pair
from numbaconv.study.peers import find as find_peer
from numbaconv.study.peers import frameworks, own
from numbaconv.study.training_base import State, TrainingPeer
from numbaconv.study.training_runtimes import OnnxRuntime

#: Of the SGD that all of them train with.
LEARNING_RATE, MOMENTUM = 0.01, 0.9


class Numbaconv(TrainingPeer, own.Numbaconv):
    """The trainer, as anybody calls it."""

    def build(self, model: nn.Sequential) -> None:
        self.model = model
        self.trainer = nn.Trainer(model, nn.SGD(lr=LEARNING_RATE, momentum=MOMENTUM))

    def parameters(self) -> int:
        return self.model.num_parameters

    def load(self, state: State) -> None:
        self.model.load_state_dict(state)
        momentum = self.trainer.optimizer.state_dict()
        self.trainer.optimizer.load_state_dict({name: np.zeros_like(array) for name, array in momentum.items()})

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        return self.trainer.step(x, y)

    def infer(self, x: np.ndarray) -> np.ndarray:
        return self.trainer.predict(x)


class NumbaconvDirect(Numbaconv):
    """The same with direct kernels only."""

    def start(self) -> None:
        super().start()
        numbaconv.set_algorithm("direct")


class Torch(TrainingPeer, frameworks.Torch):
    """PyTorch as its tutorials write it: eager, images ``(N, C, H, W)``."""

    def build(self, model: nn.Sequential) -> None:
        self.model = self._placed(_torch_module(self.library, model))

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def load(self, state: State) -> None:
        self.model.load_state_dict({name: self.library.from_numpy(value) for name, value in state.items()})
        self.optimizer = self._optimizer()

    def batch(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        return self._placed(self.library.from_numpy(x)), self.library.from_numpy(y)

    def step(self, x: Any, y: Any) -> float:
        self._set_training(True)
        self.optimizer.zero_grad()
        loss = self._loss(x, y)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def infer(self, x: Any) -> Any:
        self._set_training(False)
        with self.library.inference_mode():
            return self._logits(x)

    def _set_training(self, training: bool) -> None:
        if self.model.training != training:  # it visits every layer, which takes a while
            self.model.train(training)

    def _placed(self, tensor_or_module: Any) -> Any:
        """The same in the memory format of this peer."""
        return tensor_or_module

    def _optimizer(self) -> Any:
        return self.library.optim.SGD(self.model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def _logits(self, x: Any) -> Any:
        return self.model(x)

    def _loss(self, x: Any, y: Any) -> Any:
        return self.library.nn.functional.cross_entropy(self.model(x), y)


class TorchChannelsLast(Torch):
    """PyTorch, eager, with images and weights in the memory format channels_last."""

    name = "torch channels_last"

    def _placed(self, tensor_or_module: Any) -> Any:
        return tensor_or_module.to(memory_format=self.library.channels_last)


class TorchCompile(TorchChannelsLast):
    """PyTorch with all that it has: ``torch.compile``, channels_last, the fused optimizer. Needs a C++ compiler."""

    name = "torch.compile"

    @staticmethod
    def environment(threads: int) -> dict[str, str]:
        return {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # no pool of compilers beside what is timed

    def build(self, model: nn.Sequential) -> None:
        super().build(model)
        self.library._dynamo.reset()  # what was compiled for the model before
        # Two functions, so that training and inference don't throw each other's code away.
        self._compiled_loss = self.library.compile(super()._loss, dynamic=False)
        self._compiled_logits = self.library.compile(super()._logits, dynamic=False)

    def _optimizer(self) -> Any:
        return self.library.optim.SGD(self.model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)

    def _logits(self, x: Any) -> Any:
        return self._compiled_logits(x)

    def _loss(self, x: Any, y: Any) -> Any:
        return self._compiled_loss(x, y)


class Jax(TrainingPeer, frameworks.Jax):
    """JAX: the whole step under one ``jit``, channels last (XLA's own order on a CPU), weights updated in place."""

    def build(self, model: nn.Sequential) -> None:
        jax, self.model = self.library, model
        # Donated: XLA may write the new weights over the old ones.
        self._step = jax.jit(_jax_step(jax, model), donate_argnums=(0, 1, 2))
        self._infer = jax.jit(lambda weights, stats, x: _JaxModel(jax, weights, stats, False)(model, x))

    def parameters(self) -> int:
        return sum(weight.size for weight in self.weights.values())

    def load(self, state: State) -> None:
        trained = {name for name, _ in self.model.named_parameters()}
        arrays = {name: self.library.numpy.array(_hwio(value)) for name, value in state.items()}
        self.weights = {name: value for name, value in arrays.items() if name in trained}
        self.stats = {name: value for name, value in arrays.items() if name.split(".")[-1].startswith("running_")}
        self.velocity = {name: self.library.numpy.zeros_like(value) for name, value in self.weights.items()}

    def batch(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        return self.library.numpy.array(x.transpose(0, 2, 3, 1)), self.library.numpy.array(y)

    def step(self, x: Any, y: Any) -> float:
        state = self._step(self.weights, self.velocity, self.stats, x, y)
        self.weights, self.velocity, self.stats, loss = self.library.block_until_ready(state)
        return float(loss)

    def infer(self, x: Any) -> Any:
        return self.library.block_until_ready(self._infer(self.weights, self.stats, x))


#: By the names that they have in a study, in the order of their turns.
PEERS: dict[str, type[TrainingPeer]] = {
    peer.name: peer for peer in (Numbaconv, Torch, TorchChannelsLast, TorchCompile, Jax, OnnxRuntime)
}

#: We ourselves, by the algorithm that is to be compared. Winograd's alone serves no whole model.
ALGORITHMS: dict[str, type[TrainingPeer]] = {"auto": Numbaconv, "direct": NumbaconvDirect}


def find(name: str) -> type[TrainingPeer]:
    """The peer of this name, or at this address: ``package.module:Class``.

    Raises
    ------
    ValueError
        There is none.
    """
    if name in PEERS:
        return PEERS[name]
    if ":" not in name:
        raise ValueError(f"there is no peer {name!r}: choose from {', '.join(PEERS)}, or say package.module:Class")
    found = find_peer(name)
    if not issubclass(found, TrainingPeer):
        raise ValueError(f"{name!r} is not a subclass of numbaconv.study.training_base.TrainingPeer")
    return found


# -- torch -------------------------------------------------------------------------------------------------------------


def _torch_module(torch: Any, module: nn.Module) -> Any:
    """Our module made of torch's, with the same names in its state dict."""
    match module:
        case nn.Sequential():
            return torch.nn.Sequential(*(_torch_module(torch, layer) for layer in module))
        case nn.Residual():
            return _torch_residual(torch, module)
        case nn.Conv2d():
            options = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
            return torch.nn.Conv2d(module.in_channels, module.out_channels, *options, bias=module.bias is not None)
        case nn.BatchNorm2d():
            return torch.nn.BatchNorm2d(module.num_features, module.eps, module.momentum)
        case nn.Linear():
            return torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        case nn.MaxPool2d():
            return torch.nn.MaxPool2d(module.kernel_size, module.stride, module.padding)
        case nn.GlobalAvgPool2d():
            return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        case nn.ReLU():
            return torch.nn.ReLU()
        case nn.Flatten():
            return torch.nn.Flatten()
        case _:
            raise NotImplementedError(f"{type(module).__name__} has no counterpart in torch here")


def _torch_residual(torch: Any, module: nn.Residual) -> Any:
    class Residual(torch.nn.Module):  # known only when torch has been imported
        def __init__(self) -> None:
            super().__init__()
            self.main = _torch_module(torch, module.main)
            self.shortcut = None if module.shortcut is None else _torch_module(torch, module.shortcut)

        def forward(self, x: Any) -> Any:
            return self.main(x) + (x if self.shortcut is None else self.shortcut(x))

    return Residual()


# -- JAX ---------------------------------------------------------------------------------------------------------------


class _JaxModel:
    """One pass through our model's layers in JAX, the arrays by their names in the state dict.

    ``stats`` are the running statistics; those after this pass are in ``moved``.
    """

    def __init__(self, jax: Any, weights: Mapping[str, Any], stats: Mapping[str, Any], training: bool) -> None:
        self.jax, self.weights, self.stats, self.training = jax, weights, stats, training
        self.moved = dict(stats)

    def __call__(self, module: nn.Module, x: Any, prefix: str = "") -> Any:
        match module:
            case nn.Sequential():
                for name, layer in module.named_children():
                    x = self(layer, x, f"{prefix}{name}.")
                return x
            case nn.Residual():
                shortcut = x if module.shortcut is None else self(module.shortcut, x, f"{prefix}shortcut.")
                return self(module.main, x, f"{prefix}main.") + shortcut
            case nn.Conv2d():
                return self._convolution(module, x, prefix)
            case nn.BatchNorm2d():
                return self._batch_norm(module, x, prefix)
            case nn.Linear():
                return x @ self.weights[prefix + "weight"].T + self._bias(prefix)
            case nn.MaxPool2d():
                return self._max_pool(module, x)
            case nn.GlobalAvgPool2d():
                return x.mean((1, 2))
            case nn.ReLU():
                return self.jax.nn.relu(x)
            case nn.Flatten():  # the weights that come after it count channels first
                return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
            case _:
                raise NotImplementedError(f"{type(module).__name__} has no counterpart in JAX here")

    def _bias(self, prefix: str) -> Any:
        return self.weights.get(prefix + "bias", 0)

    def _convolution(self, module: nn.Conv2d, x: Any, prefix: str) -> Any:
        PH, PW = pair(module.padding, "padding", 0)  # the models pad nothing but alike on both sides
        y = self.jax.lax.conv_general_dilated(
            x,
            self.weights[prefix + "weight"],
            module.stride,
            ((PH, PH), (PW, PW)),
            rhs_dilation=module.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=module.groups,
        )
        return y + self._bias(prefix)

    def _max_pool(self, module: nn.MaxPool2d, x: Any) -> Any:
        (N, H, W, C), (KH, KW), (PH, PW) = x.shape, module.kernel_size, module.padding
        if (H % KH, W % KW, PH, PW) == (0, 0, 0, 0) and module.stride == module.kernel_size:
            # Windows that tile the image: XLA's gradient of reduce_window takes several times as long on a CPU.
            return x.reshape(N, H // KH, KH, W // KW, KW, C).max((2, 4))
        window, stride, padding = (1, KH, KW, 1), (1, *module.stride, 1), ((0, 0), (PH, PH), (PW, PW), (0, 0))
        return self.jax.lax.reduce_window(x, -np.inf, self.jax.lax.max, window, stride, padding)

    def _batch_norm(self, module: nn.BatchNorm2d, x: Any, prefix: str) -> Any:
        mean, variance = self.stats[prefix + "running_mean"], self.stats[prefix + "running_var"]
        if self.training:
            share, count = module.momentum, x.size // x.shape[-1]
            batch_mean, batch_variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            unbiased = batch_variance * (count / (count - 1))
            self.moved[prefix + "running_mean"] = mean + share * (batch_mean - mean)
            self.moved[prefix + "running_var"] = variance + share * (unbiased - variance)
            mean, variance = batch_mean, batch_variance
        scale = self.jax.lax.rsqrt(variance + module.eps) * self.weights[prefix + "weight"]
        return (x - mean) * scale + self._bias(prefix)


def _jax_step(jax: Any, model: nn.Sequential) -> Callable[..., Any]:
    """A whole training step as a function of weights, velocity, statistics and a batch."""

    def loss_of(weights: Any, stats: Any, x: Any, y: Any) -> Any:
        network = _JaxModel(jax, weights, stats, True)
        logits = network(model, x)
        picked = jax.numpy.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)
        return -picked.mean(), network.moved

    def step(weights: Any, velocity: Any, stats: Any, x: Any, y: Any) -> Any:
        (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights, stats, x, y)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradients)
        weights = jax.tree.map(lambda w, v: w - LEARNING_RATE * v, weights, velocity)
        return weights, velocity, stats, loss

    return step


def _hwio(array: np.ndarray) -> np.ndarray:
    """The filters of a convolution in the order in which JAX takes them; anything else as it is."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
