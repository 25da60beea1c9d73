"""Small convolutional networks, trained on the CPU with explicit layers: no tape, every backward written out.

A layer has ``forward(x)`` and ``backward(grad_output)``, and parameters with gradients. Images are ``(N, C, H, W)``.
Constructor arguments, initial values and names in the state dict are those of ``torch.nn``.
"""

from numbaconv.nn import models
from numbaconv.nn.activation import Dropout, ReLU
from numbaconv.nn.checkpoints import Checkpoint, CheckpointError
from numbaconv.nn.containers import Residual, Sequential
from numbaconv.nn.convolution import Conv2d, ConvTranspose2d
from numbaconv.nn.interop import load_safetensors, load_torch_state_dict, to_torch_state_dict
from numbaconv.nn.linear import Flatten, Linear
from numbaconv.nn.losses import CrossEntropyLoss, Loss, MSELoss
from numbaconv.nn.module import Module, Parameter
from numbaconv.nn.normalisation import BatchNorm2d
from numbaconv.nn.optim import SGD, Adam, AdamW, Optimizer, clip_grad_norm
from numbaconv.nn.plots import plot_training
from numbaconv.nn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from numbaconv.nn.records import Epoch, Evaluation, History, Progress
from numbaconv.nn.schedules import CosineLR, LinearWarmup, MultiStepLR, OneCycleLR, Schedule, StepLR
from numbaconv.nn.serialization import load_model, load_state, save_model
from numbaconv.nn.stopping import EarlyStopping, StopTraining
from numbaconv.nn.trainer import Trainer

__all__ = [
    "Adam",
    "AdamW",
    "AvgPool2d",
    "BatchNorm2d",
    "Checkpoint",
    "CheckpointError",
    "Conv2d",
    "ConvTranspose2d",
    "CosineLR",
    "CrossEntropyLoss",
    "Dropout",
    "EarlyStopping",
    "Epoch",
    "Evaluation",
    "Flatten",
    "GlobalAvgPool2d",
    "History",
    "Linear",
    "LinearWarmup",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "MultiStepLR",
    "OneCycleLR",
    "Optimizer",
    "Parameter",
    "Progress",
    "ReLU",
    "Residual",
    "SGD",
    "Schedule",
    "Sequential",
    "StepLR",
    "StopTraining",
    "Trainer",
    "clip_grad_norm",
    "load_model",
    "load_safetensors",
    "load_state",
    "load_torch_state_dict",
    "models",
    "plot_training",
    "save_model",
    "to_torch_state_dict",
]
