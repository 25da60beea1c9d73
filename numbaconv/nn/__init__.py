"""Small convolutional networks, trained on the CPU with explicit layers: no tape, every backward written out.

A layer has ``forward(x)`` and ``backward(grad_output)``, and parameters with gradients. Images are ``(N, C, H, W)``.
Constructor arguments, initial values and names in the state dict are those of ``torch.nn``.
"""

from numbaconv.nn import models
from numbaconv.nn.activation import Dropout, ReLU
from numbaconv.nn.containers import Residual, Sequential
from numbaconv.nn.convolution import Conv2d, ConvTranspose2d
from numbaconv.nn.interop import load_safetensors, load_torch_state_dict, to_torch_state_dict
from numbaconv.nn.linear import Flatten, Linear
from numbaconv.nn.losses import CrossEntropyLoss, Loss, MSELoss
from numbaconv.nn.module import Module, Parameter
from numbaconv.nn.normalisation import BatchNorm2d
from numbaconv.nn.optim import SGD, Adam, AdamW, Optimizer
from numbaconv.nn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from numbaconv.nn.records import Epoch, Evaluation, Progress
from numbaconv.nn.serialization import load_model, load_state, save_model
from numbaconv.nn.trainer import Trainer

__all__ = [
    "Adam",
    "AdamW",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Epoch",
    "Evaluation",
    "Flatten",
    "GlobalAvgPool2d",
    "Linear",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "Optimizer",
    "Parameter",
    "Progress",
    "ReLU",
    "Residual",
    "SGD",
    "Sequential",
    "Trainer",
    "load_model",
    "load_safetensors",
    "load_state",
    "load_torch_state_dict",
    "models",
    "save_model",
    "to_torch_state_dict",
]
