"""Malformed calls over the whole public face: what must be raised, and what the message must say."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import numbaconv
from numbaconv import data, nn, reference, textbook
from numbaconv.arrays import FLOATS
from numbaconv.nn import models
from numbaconv.study.layers import Layer
from numbaconv.study.results import Study

F = np.float32


class Row(NamedTuple):
    """A malformed call, what it must raise, and a pattern of the message: the rule, and the value that breaks it."""

    name: str
    call: Callable[[], Any]
    error: type[Exception] | tuple[type[Exception], ...]
    message: str


def fixed(*shape: int, dtype: Any = F) -> np.ndarray:
    """An array that must be the same after every call."""
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    UNTOUCHED.append(array)
    return array


UNTOUCHED: list[np.ndarray] = []
X, W, Z, B = fixed(1, 1, 3, 3), fixed(1, 1, 2, 2), fixed(1, 1, 2, 2), fixed(1)
OUT = fixed(1, 1, 2, 2)
IMAGES, LABELS = fixed(4, 1, 8, 8), fixed(4, dtype=np.int64)
X2 = fixed(2, 2, 6, 6)
RAGGED: Any = [[1, 2], [3]]
ITSELF: list[Any] = []
ITSELF.append(ITSELF)
STRUCTURED = np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")])
HUGE = 10**30


def refused_by(name: str, *rows: tuple[str, dict[str, Any], Any, str], **good: Any) -> list[Row]:
    """Rows of one function of ``numbaconv``: each replaces some arguments of a good call."""
    function = getattr(numbaconv, name)
    return [
        Row(f"{name}: {what}", lambda bad=bad: function(**(good | bad)), error, message)
        for what, bad, error, message in rows
    ]


# fmt: off
GEOMETRY: list[tuple[str, dict[str, Any], Any, str]] = [
    ("stride 0", {"stride": 0}, ValueError, "stride must be from 1 to 2147483647, got 0"),
    ("stride nan", {"stride": float("nan")}, TypeError, "stride must be an integer or a pair of them, got nan"),
    ("stride 2**63", {"stride": 2**63}, ValueError, "stride must be from 1 .* got 9223372036854775808"),
    ("stride text", {"stride": "2"}, TypeError, "stride must be an integer or a pair of them, got '2'"),
    ("stride dict", {"stride": {1: 1}}, TypeError, r"stride must be .*, got \{1: 1\} \(dict\)"),
    ("stride set", {"stride": {1, 2}}, TypeError, r"stride must be .*, got \{1, 2\} \(set\)"),
    ("stride of three", {"stride": (1, 1, 1)}, ValueError, r"stride must be .*, got 3 values: \(1, 1, 1\)"),
    ("stride Decimal", {"stride": Decimal(1)}, TypeError, r"stride must be .*, got Decimal\('1'\)"),
    ("stride Fraction", {"stride": (Fraction(1), 1)}, TypeError, r"stride must be an integer, got Fraction\(1, 1\)"),
    ("stride memoryview", {"stride": memoryview(b"\1\1")}, TypeError,
        "stride must be an integer or a pair .*memoryview"),
    ("stride generator", {"stride": (i for i in (1, 1))}, TypeError, "stride must be an integer or a pair .*generator"),
    ("stride itself", {"stride": ITSELF}, ValueError, r"stride must be .*, got 1 values"),
    ("stride numpy bool", {"stride": np.True_}, TypeError, r"stride must be .* np.True_"),
    ("stride complex", {"stride": 1j}, TypeError, "stride must be .* got 1j"),
    ("dilation 0", {"dilation": (1, 0)}, ValueError, "dilation must be from 1 .* got 0"),
    ("dilation -1", {"dilation": -1}, ValueError, "dilation must be from 1 .* got -1"),
    ("dilation 10**30", {"dilation": HUGE}, ValueError, "dilation must be from 1 .* got 1" + "0" * 30),
    ("dilation 2-D", {"dilation": np.ones((2, 2), int)}, TypeError, r"dilation must be .*, got array\(\[\[1, 1\]"),
    ("padding -1", {"padding": (0, -1)}, ValueError, "padding must be from 0 .* got -1"),
    ("padding mixed", {"padding": (1, (1, 1))}, TypeError,
        r"padding must be an int, \(PH, PW\), .* got \(1, \(1, 1\)\)"),
    ("padding mixed 2", {"padding": ((1, 1), 1)}, TypeError, r"padding must be .* got \(\(1, 1\), 1\)"),
    ("padding short", {"padding": ((1,), (1, 1))}, ValueError, r"padding must be .* got 1 values: \(1,\)"),
    ("padding nested", {"padding": (((1, 1), 1), (1, 1))}, TypeError, r"padding must be an integer, got \(1, 1\)"),
    ("padding SAME", {"padding": "SAME"}, ValueError, "padding='SAME' is unknown|padding='SAME' has no single"),
    ("padding None", {"padding": None}, TypeError, "padding must be .* got None"),
    ("groups 0", {"groups": 0}, ValueError, "groups must be from 1 .* got 0"),
    ("groups True", {"groups": True}, TypeError, "groups must be an integer, got True"),
    ("groups pair", {"groups": (1, 1)}, TypeError, r"groups must be an integer, got \(1, 1\)"),
    ("groups 2", {"groups": 2}, ValueError, "channels, but weight|divisible by groups: 1 % 2"),
    ("layout lower", {"layout": "nchw"}, ValueError, 'layout=\'nchw\' is unknown: it is "NCHW" or "NHWC"'),
    ("layout None", {"layout": None}, ValueError, "layout=None is unknown"),
    ("layout bytes", {"layout": b"NCHW"}, ValueError, "layout=b'NCHW' is unknown"),
    ("algorithm", {"algorithm": "plain"}, ValueError, "algorithm='plain' is unknown: it is \"auto\""),
    ("algorithm list", {"algorithm": ["auto"]}, ValueError, r"algorithm=\['auto'\] is unknown"),
]
# fmt: on


def array_rows(name: str) -> list[tuple[str, dict[str, Any], Any, str]]:
    """What no array argument may be."""
    wrong: list[tuple[Any, type[Exception], str]] = [
        (None, TypeError, "must be a numpy.ndarray, got NoneType"),
        ([[[[1.0]]]], TypeError, "must be a numpy.ndarray, got list"),
        ("x", TypeError, "must be a numpy.ndarray, got str"),
        (np.float32(1), TypeError, "must be a numpy.ndarray, got float32"),
        (np.ones((1, 1, 3, 3), bool), TypeError, "has dtype bool; float16, float32 and float64 are taken"),
        (np.ones((1, 1, 3, 3), np.int8), TypeError, "has dtype int8; float16"),
        (np.ones((1, 1, 3, 3), complex), TypeError, "has dtype complex128; float16"),
        (np.ones((1, 1, 3, 3), np.longdouble), TypeError, "has dtype (float128|float96|longdouble); float16")
        if np.dtype(np.longdouble) not in FLOATS
        else (b"", TypeError, "must be a numpy.ndarray, got bytes"),
        (np.full((1, 1, 3, 3), None), TypeError, "has dtype object; float16"),
        (STRUCTURED, TypeError, "has dtype .*'a'.*; float16"),
        (np.zeros(3, "M8[s]"), TypeError, r"has dtype datetime64\[s\]; float16"),
        (np.ma.masked_array(np.ones((1, 1, 3, 3))), TypeError, "is a masked array"),
        (np.array(1.0), ValueError, "must have 4 dimensions, got 0"),
        (np.matrix([[1.0]]), ValueError, "must have 4 dimensions, got 2"),
        (np.ones((1,) * 32), ValueError, "must have 4 dimensions, got 32"),
    ]
    return [(f"{name} {i}", {name: value}, error, f"{name} {words}") for i, (value, error, words) in enumerate(wrong)]


# fmt: off
OUTS: list[tuple[str, dict[str, Any], Any, str]] = [
    ("out list", {"out": [[0.0]]}, TypeError, "out must be a numpy.ndarray, got list"),
    ("out shape", {"out": np.zeros((1, 1, 1, 1), F)}, ValueError,
        r"out has shape \(1, 1, 1, 1\) and dtype float32, but"),
    ("out dtype", {"out": np.zeros((1, 1, 2, 2))}, ValueError, "out has shape .* dtype float64, but .* float32"),
    ("out order", {"out": np.zeros((1, 1, 2, 2), ">f4")}, ValueError, "out has shape .* dtype >f4, but .* float32"),
    ("out fixed", {"out": np.broadcast_to(F(0), (1, 1, 2, 2))}, ValueError, "out is read-only"),
    ("out masked", {"out": np.ma.zeros((1, 1, 2, 2), F)}, TypeError, "out is a masked array"),
    ("out shared", {"out": X[:, :, :2, :2]}, ValueError, "out shares memory with an input"),
    ("out, and no such algorithm", {"out": OUT, "algorithm": "fft"}, ValueError, "algorithm='fft' is unknown"),
    ("out, and stride", {"out": OUT, "stride": 0}, ValueError, "stride must be from 1"),
    ("out, and a bias", {"out": OUT, "bias": np.ones(2, F)}, ValueError, r"bias has shape \(2,\), but must be \(1,\)"),
]
# fmt: on

# fmt: off
FUNCTIONS = [
    *refused_by("conv2d", *GEOMETRY, *OUTS, *array_rows("input"), *array_rows("weight"), input=X, weight=W, bias=B),
    *refused_by(
        "conv2d",
        ("no weight", {"weight": W[:0]}, ValueError, r"weight has shape \(0, 1, 2, 2\): every size must be at least 1"),
        ("no rows", {"input": X[:, :, :0]}, ValueError, r"input has shape \(1, 1, 0, 3\): every size"),
        ("large kernel", {"weight": np.ones((1, 1, 4, 4), F)}, ValueError, "height would be less than 1: .* spans 4"),
        ("bias 2-D", {"bias": np.ones((1, 1), F)}, ValueError, r"bias has shape \(1, 1\), but must be \(1,\)"),
        ("bias list", {"bias": [1.0]}, TypeError, "bias must be a numpy.ndarray, got list"),
        ("bias integers", {"bias": np.ones(1, int)}, TypeError, "bias has dtype int64|bias has dtype int32"),
        ("winograd", {"algorithm": "winograd"}, ValueError, r"serves 3 x 3 and 5 x 5 kernels .* got kernel \(2, 2\)"),
        ("unknown name", {"strides": 1}, TypeError, "unexpected keyword argument 'strides'"),
        input=X,
        weight=W,
    ),
    *refused_by("prepack", *array_rows("weight"), weight=W),
    Row("prepack nothing", lambda: numbaconv.prepack(W[:0]), ValueError, r"weight has shape \(0, .* every size"),
    *refused_by(
        "conv2d_input",
        ("size text", {"input_size": "1133"}, TypeError, "the shape of input must be four integers, got '1133'"),
        ("size None", {"input_size": None}, TypeError, "the shape of input must be four integers, got None"),
        ("size 3", {"input_size": (1, 3, 3)}, ValueError, r"input must have 4 dimensions, got 3: \(1, 3, 3\)"),
        ("size float", {"input_size": (1, 1, 3.0, 3)}, TypeError, r"four integers, got \(1, 1, 3.0, 3\)"),
        ("size bool", {"input_size": (True, 1, 3, 3)}, TypeError, r"four integers, got \(True, 1, 3, 3\)"),
        ("size -1", {"input_size": (1, 1, -1, 3)}, ValueError, r"input has shape \(1, 1, -1, 3\): every size"),
        ("size huge", {"input_size": (1, 1, HUGE, 3)}, ValueError, "grad_output has shape .* but this convolution has"),
        ("size nan", {"input_size": (1, 1, float("nan"), 3)}, TypeError, "four integers, got .*nan"),
        ("gradient's shape", {"grad_output": X}, ValueError,
            r"grad_output has shape \(1, 1, 3, 3\), but .*\(1, 1, 2, 2\)"),
        *GEOMETRY[:9],
        *array_rows("grad_output")[:12],
        input_size=(1, 1, 3, 3),
        weight=W,
        grad_output=Z,
    ),
    *refused_by(
        "conv2d_weight",
        ("size int", {"weight_size": 4}, TypeError, "the shape of weight must be four integers, got 4"),
        ("size 5", {"weight_size": (1, 1, 1, 2, 2)}, ValueError, "weight must have 4 dimensions, got 5"),
        ("size 0", {"weight_size": (0, 1, 2, 2)}, ValueError, r"weight has shape \(0, 1, 2, 2\): every size"),
        ("size huge", {"weight_size": (1, 1, HUGE, 1)}, ValueError, "kernel spans 1" + "0" * 30),
        ("gradient's shape", {"grad_output": X}, ValueError, "grad_output has shape"),
        *GEOMETRY[12:20],
        input=X,
        weight_size=(1, 1, 2, 2),
        grad_output=Z,
    ),
    *refused_by(
        "conv2d_backward",
        ("mask of two", {"output_mask": (True, False)}, ValueError, r"three bools, .* got 2 values: \(True, False\)"),
        ("mask of ints", {"output_mask": [1, 1, 1]}, TypeError, r"three bools, .* got \[1, 1, 1\]"),
        ("mask None", {"output_mask": None}, TypeError, "three bools, .* got None"),
        ("mask text", {"output_mask": "yes"}, TypeError, "three bools, .* got 'yes'"),
        ("mask dict", {"output_mask": {0: True}}, TypeError, r"three bools, .* got \{0: True\}"),
        ("gradient's shape", {"grad_output": X}, ValueError, "grad_output has shape"),
        *GEOMETRY[20:28],
        input=X,
        weight=W,
        grad_output=Z,
    ),
    *refused_by(
        "conv_transpose2d",
        ("output_padding", {"output_padding": 1}, ValueError, r"output_padding=1 .* smaller than the stride \(1\)"),
        ("output_padding -1", {"output_padding": -1}, ValueError, "output_padding must be from 0 .* got -1"),
        ("output_padding text", {"output_padding": "x"}, TypeError, "output_padding must be .* got 'x'"),
        ("output_padding nan", {"output_padding": (0, float("nan"))}, TypeError, "output_padding must be .* got nan"),
        ("too much padding", {"padding": 9}, ValueError, "the output would be -15 x -15, but must be at least 1 x 1"),
        ("weight's channels", {"weight": np.ones((2, 1, 2, 2), F)}, ValueError, "input has 1 channels, but weight"),
        *GEOMETRY[28:],
        input=Z,
        weight=W,
    ),
    *refused_by(
        "conv2d_output_size",
        ("size 0", {"input_size": 0}, ValueError, "input_size must be from 1 .* got 0"),
        ("size text", {"input_size": "28"}, TypeError, "input_size must be an integer or a pair of them, got '28'"),
        ("kernel 4", {"kernel_size": 4}, ValueError, "kernel spans 4"),
        ("kernel None", {"kernel_size": None}, TypeError, "kernel_size must be .* got None"),
        ("padding full", {"padding": "full"}, ValueError, "padding='full' is unknown"),
        input_size=3,
        kernel_size=2,
    ),
    Row("threads 0", lambda: numbaconv.set_num_threads(0), ValueError, "number of threads, must be from 1 .* got 0"),
    Row(
        "threads 10**6", lambda: numbaconv.set_num_threads(10**6), ValueError, r"must be at most \d+ here, got 1000000"
    ),
    Row("threads 1.0", lambda: numbaconv.set_num_threads(1.0), TypeError, "must be an integer, got 1.0"),
    Row("set_algorithm", lambda: numbaconv.set_algorithm("winograd"), ValueError, "'winograd' can't be the default"),
    Row(
        "warmup integers", lambda: numbaconv.warmup([int]), TypeError, "dtypes must be some of .* one is <class 'int'>"
    ),
    Row("warmup text", lambda: numbaconv.warmup("float32"), TypeError, "dtypes must be some of .* got 'float32'"),
    Row("warmup None", lambda: numbaconv.warmup([None]), TypeError, "dtypes must be some of .* one is None"),
]
# fmt: on


def layer(make: Callable[[], nn.Module], x: Any = X2, grad: Any = None) -> Callable[[], Any]:
    """A layer made, and run forward, and back where there is a gradient."""

    def call() -> Any:
        made = make()
        y = made(x)
        return y if grad is None else made.backward(grad)

    return call


# fmt: off
LAYERS = [
    Row("Conv2d channels 0", lambda: nn.Conv2d(0, 1, 3), ValueError, "in_channels must be from 1 .* got 0"),
    Row("Conv2d channels 1.5", lambda: nn.Conv2d(1.5, 1, 3), TypeError, "in_channels must be an integer, got 1.5"),
    Row("Conv2d out None", lambda: nn.Conv2d(1, None, 3), TypeError, "out_channels must be an integer, got None"),
    Row("Conv2d kernel", lambda: nn.Conv2d(1, 1, (3, 3, 3)), ValueError, "kernel_size must be .* got 3 values"),
    Row("Conv2d kernel 0", lambda: nn.Conv2d(1, 1, 0), ValueError, "kernel_size must be from 1 .* got 0"),
    Row("Conv2d padding", lambda: nn.Conv2d(1, 1, 3, padding=(1, (1, 1))), TypeError,
        r"padding must be .*\(1, \(1, 1\)\)"),
    Row(
        "Conv2d groups", lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels=3 must be divisible by groups=2"
    ),
    Row("Conv2d bias", lambda: nn.Conv2d(1, 1, 3, bias=1), TypeError, r"bias must be True or False, got 1 \(int\)"),
    Row("Conv2d dtype", lambda: nn.Conv2d(1, 1, 3, dtype="float16"), TypeError, "dtype must be .* got 'float16'"),
    Row("Conv2d dtype odd", lambda: nn.Conv2d(1, 1, 3, dtype="\udcff"), TypeError, "dtype must be float32 or float64"),
    Row("Conv2d rng text", lambda: nn.Conv2d(1, 1, 3, rng="0"), TypeError,
        "rng must be a numpy.random.Generator, .* '0'"),
    Row("Conv2d rng matrix", lambda: nn.Conv2d(1, 1, 3, rng=np.matrix([[1]])), TypeError, "rng must be .* matrix"),
    Row("Conv2d rng -1", lambda: nn.Conv2d(1, 1, 3, rng=-1), ValueError, "rng must be at least 0 .* got -1"),
    Row(
        "Conv2d too large", lambda: nn.Conv2d(2**31 - 1, 2**31 - 1, 99), (ValueError, MemoryError), "parameter of shape"
    ),
    Row("Conv2d x channels", layer(lambda: nn.Conv2d(3, 1, 3)), ValueError, r"x has 2 channels .* Conv2d\(3, 1"),
    Row("Conv2d x 2-D", layer(lambda: nn.Conv2d(2, 1, 3), X2[0, 0]), ValueError, "x must have 4 dimensions"),
    Row("Conv2d x list", layer(lambda: nn.Conv2d(2, 1, 3), [1.0]), TypeError, "x must be a numpy.ndarray, got list"),
    Row("Conv2d x int", layer(lambda: nn.Conv2d(2, 1, 3), 3), TypeError, "x must be a numpy.ndarray, got int"),
    Row("Conv2d small x", layer(lambda: nn.Conv2d(2, 1, 7)), ValueError,
        "height would be less than 1: the kernel spans 7"),
    Row("Conv2d gradient", layer(lambda: nn.Conv2d(2, 1, 3), grad=X2), ValueError,
        r"grad_output has shape \(2, 2, 6, 6\)"),
    Row(
        "Conv2d no forward", lambda: nn.Conv2d(2, 1, 3).backward(X2), RuntimeError, "backward was called before forward"
    ),
    Row("ConvTranspose2d same", lambda: nn.ConvTranspose2d(1, 1, 3, padding="same"), ValueError, "give it in numbers"),
    Row("ConvTranspose2d extra", layer(lambda: nn.ConvTranspose2d(2, 1, 3, output_padding=1)), ValueError,
        "output_padding=1"),
    Row("Linear 0", lambda: nn.Linear(3, 0), ValueError, "out_features must be from 1 .* got 0"),
    Row("Linear x", layer(lambda: nn.Linear(3, 1), np.ones((2, 4), F)), ValueError, "x has 4 features .* takes 3"),
    Row(
        "Linear x 1-D", layer(lambda: nn.Linear(3, 1), np.ones(3, F)), ValueError, r"x must have 2 dimensions .*\(3,\)"
    ),
    Row("Linear bias", lambda: nn.Linear(3, 1, bias="no"), TypeError, "bias must be True or False, got 'no'"),
    Row("BatchNorm2d x", layer(lambda: nn.BatchNorm2d(3)), ValueError,
        r"x of shape \(2, 2, 6, 6\) must be \(N, 3, H, W\)"),
    Row("BatchNorm2d eps", lambda: nn.BatchNorm2d(3, eps=-1), ValueError, "eps must be at least 0 and finite, got -1"),
    Row("BatchNorm2d nan", lambda: nn.BatchNorm2d(3, eps=float("nan")), ValueError, "eps must be .* got nan"),
    Row("BatchNorm2d momentum", lambda: nn.BatchNorm2d(3, momentum=2), ValueError,
        "momentum must be from 0 to 1 .* got 2"),
    Row("BatchNorm2d affine", lambda: nn.BatchNorm2d(3, affine=None), TypeError,
        "affine must be True or False, got None"),
    Row("BatchNorm2d single", layer(lambda: nn.BatchNorm2d(1), np.ones((1, 1, 1, 1), F)), ValueError,
        "1 values a channel"),
    Row("Dropout 2", lambda: nn.Dropout(2), ValueError, "p, the probability of a zero, must be from 0 to 1 .* got 2"),
    Row("Dropout nan", lambda: nn.Dropout(float("nan")), ValueError, "must be from 0 to 1 and finite, got nan"),
    Row("Dropout text", lambda: nn.Dropout("half"), TypeError, "must be a number, got 'half'"),
    Row("ReLU inplace", lambda: nn.ReLU("yes"), TypeError, "inplace must be True or False, got 'yes'"),
    Row("ReLU x", layer(nn.ReLU, None), TypeError, "x must be a numpy.ndarray, got NoneType"),
    Row("Flatten 1.0", lambda: nn.Flatten(1.0), TypeError, "start_dim must be an integer, got 1.0"),
    Row("Flatten 9", layer(lambda: nn.Flatten(9)), ValueError, "cannot flatten dimensions 9 to 3"),
    Row("MaxPool2d 0", lambda: nn.MaxPool2d(0), ValueError, "kernel_size must be from 1 .* got 0"),
    Row(
        "MaxPool2d huge", lambda: nn.MaxPool2d(2**31 - 1), ValueError, "kernel_size=.* is too large: .* 16777216 pixels"
    ),
    Row("MaxPool2d padding", lambda: nn.MaxPool2d(2, padding=2), ValueError,
        "padding=2 must be at most half of the window"),
    Row("MaxPool2d ceil", lambda: nn.MaxPool2d(2, ceil_mode=1), TypeError, "ceil_mode must be True or False, got 1"),
    Row("MaxPool2d small x", layer(lambda: nn.MaxPool2d(7)), ValueError, "does not fit .*: it is too large"),
    Row("MaxPool2d far", layer(lambda: nn.MaxPool2d(2, dilation=HUGE)), ValueError, "dilation must be from 1"),
    Row(
        "AvgPool2d divisor", lambda: nn.AvgPool2d(2, divisor_override=0), ValueError, "divisor_override must be from 1"
    ),
    Row("GlobalAvgPool2d", layer(nn.GlobalAvgPool2d, X2[:, :, :0]), ValueError, "every size but the batch's"),
    Row("Sequential int", lambda: nn.Sequential(3), TypeError, r"Sequential is made of modules, got 3 \(int\)"),
    Row("Sequential class", lambda: nn.Sequential(nn.ReLU), TypeError, "Sequential is made of modules, got <class"),
    Row("Sequential twice", lambda: nn.Sequential(*[nn.ReLU()] * 2), ValueError, r"ReLU\(\) occurs twice"),
    Row("Residual", lambda: nn.Residual(None), TypeError, "Residual is made of modules, got None"),
    Row("Residual shapes", layer(lambda: nn.Residual(nn.MaxPool2d(2))), ValueError, "they must be alike to be added"),
    Row("Parameter list", lambda: nn.Parameter([1.0]), TypeError, "must be an array of float32 or float64, got list"),
    Row("Parameter int", lambda: nn.Parameter(np.ones(2, int)), TypeError, "float32 or float64, got int"),
    Row("astype", lambda: nn.ReLU().astype("int8"), TypeError, "dtype must be float32 or float64, got 'int8'"),
    Row("state list", lambda: nn.Linear(1, 1).load_state_dict([]), TypeError, r"state must be a mapping, .* got \[\]"),
    Row("state names", lambda: nn.Linear(1, 1).load_state_dict({"w": 1}), ValueError,
        "missing 'weight', 'bias'; unexpected 'w'"),
    Row("state shape", lambda: nn.Linear(1, 1).load_state_dict({"weight": Z, "bias": B}), ValueError,
        r"weight has shape \(1, 1, 2, 2\)"),
    Row("state ragged", lambda: nn.Linear(1, 1).load_state_dict({"weight": RAGGED, "bias": B}), ValueError,
        r"state\['weight'\] cannot be made an array"),
    Row("state text", lambda: nn.Linear(1, 1).load_state_dict({"weight": "x", "bias": B}), TypeError,
        r"state\['weight'\] must be an array of real numbers"),
    Row("torch state", lambda: nn.load_torch_state_dict(nn.Linear(1, 1), 3), TypeError, "state_dict must be a mapping"),
    Row("torch model", lambda: nn.load_torch_state_dict(3, {}), TypeError,
        "model must be an instance of nn.Module, got 3"),
    Row("model too small", lambda: models.lenet5(image_size=8), ValueError, "image_size=8 is too small: .* 12 x 12"),
    Row("model classes", lambda: models.resnet20(num_classes=0), ValueError, "out_features must be from 1 .* got 0"),
    Row("model size text", lambda: models.digits_cnn(image_size="8"), TypeError, "image_size must be .* got '8'"),
]
# fmt: on


def bound(optimizer: nn.Optimizer) -> nn.Optimizer:
    optimizer.bind([nn.Parameter(np.ones(2, F))])
    return optimizer


def trained(method: str, **arguments: Any) -> Callable[[], Any]:
    """A method of a trainer, whose model must be the same afterwards."""

    def call() -> None:
        trainer = nn.Trainer(models.digits_cnn(rng=0), nn.SGD(0.1, momentum=0.9))
        before = trainer.model.state_dict()
        try:
            getattr(trainer, method)(**arguments)
        finally:
            for name, value in trainer.model.state_dict().items():
                np.testing.assert_array_equal(value, before[name])

    return call


def fit(**arguments: Any) -> Callable[[], Any]:
    return trained("fit", **({"x": IMAGES, "y": LABELS, "seed": 0} | arguments))


LOSS = nn.CrossEntropyLoss
P = fixed(2, 3)
# fmt: off
TRAINING = [
    Row("smoothing 2", lambda: LOSS(2), ValueError, "label_smoothing must be from 0 to 1 and finite, got 2"),
    Row("smoothing nan", lambda: LOSS(float("nan")), ValueError, "label_smoothing must be .* got nan"),
    Row("labels floats", lambda: LOSS()(P, np.ones(2)), TypeError, "target must be integer labels, got dtype float64"),
    Row("labels list", lambda: LOSS()(P, [0, 1]), TypeError,
        "target must be a numpy.ndarray of integer labels, got list"),
    Row("labels 2-D", lambda: LOSS()(P, np.ones((2, 3), int)), ValueError,
        r"one label an image, \(N,\), got shape \(2, 3\)"),
    Row("labels too large", lambda: LOSS()(P, np.array([0, 3])), ValueError, "labels from 0 to 2 .* got 0 to 3"),
    Row("labels negative", lambda: LOSS()(P, np.array([0, -1])), ValueError, "labels from 0 to 2 .* got -1 to 0"),
    Row("labels few", lambda: LOSS()(P, np.array([0])), ValueError, "there are 2 predictions, but 1 targets"),
    Row("prediction 1-D", lambda: LOSS()(P[0], np.array([0])), ValueError, r"prediction must be \(N, classes\)"),
    Row("prediction none", lambda: LOSS()(P[:0], np.zeros(0, int)), ValueError, r"each at least 1, got shape \(0, 3\)"),
    Row("loss first", lambda: LOSS().backward(), RuntimeError, "backward was called before forward"),
    Row("MSE shapes", lambda: nn.MSELoss()(P, P[:1]), ValueError, r"prediction has shape \(2, 3\), target \(1, 3\)"),
    Row("MSE text", lambda: nn.MSELoss()(P, "x"), TypeError, "target must be a numpy.ndarray, got str"),
    Row("SGD -1", lambda: nn.SGD(-1), ValueError, "lr must be at least 0 and finite, got -1"),
    Row("SGD nan", lambda: nn.SGD(float("nan")), ValueError, "lr must be at least 0 and finite, got nan"),
    Row("SGD inf", lambda: nn.SGD(float("inf")), ValueError, "lr must be at least 0 and finite, got inf"),
    Row("SGD 10**400", lambda: nn.SGD(10**400), ValueError, "lr must be at least 0 and finite, got inf"),
    Row("SGD text", lambda: nn.SGD("0.1"), TypeError, r"lr must be a number, got '0.1' \(str\)"),
    Row("SGD True", lambda: nn.SGD(True), TypeError, "lr must be a number, got True"),
    Row("SGD array", lambda: nn.SGD(np.array([0.1])), TypeError, r"lr must be a number, got array"),
    Row("SGD nesterov", lambda: nn.SGD(0.1, nesterov=True), ValueError, "nesterov needs a momentum above 0"),
    Row("SGD nesterov 1", lambda: nn.SGD(0.1, 0.9, nesterov=1), TypeError, "nesterov must be True or False, got 1"),
    Row("Adam betas", lambda: nn.Adam(betas=0.9), TypeError, "betas must be a pair of numbers, got 0.9"),
    Row("Adam betas 1", lambda: nn.Adam(betas=(0.9, 1)), ValueError, r"betas must be below 1, got \(0.9, 1\)"),
    Row("AdamW decay", lambda: nn.AdamW(weight_decay=-1), ValueError, "weight_decay must be at least 0 .* got -1"),
    Row("bind None", lambda: nn.SGD(0.1).bind(None), TypeError,
        "parameters must be an iterable of nn.Parameter, got None"),
    Row("bind arrays", lambda: nn.SGD(0.1).bind([X]), TypeError, "parameters must be instances of nn.Parameter"),
    Row("bind nothing", lambda: nn.SGD(0.1).bind([]), ValueError, "there are no parameters to train"),
    Row("step unbound", lambda: nn.SGD(0.1).step(), RuntimeError, "this SGD is not bound"),
    Row(
        "optimizer state", lambda: bound(nn.SGD(0.1)).load_state_dict(3), TypeError, "state must be a mapping, .* got 3"
    ),
    Row("optimizer slot", lambda: bound(nn.SGD(0.1)).load_state_dict({"0.x": B}), ValueError, "the state has '0.x'"),
    Row("optimizer number", lambda: bound(nn.SGD(0.1)).load_state_dict({"9.momentum_buffer": B}), ValueError,
        "the state has '9.mom"),
    Row("optimizer shape", lambda: bound(nn.SGD(0.1)).load_state_dict({"0.momentum_buffer": Z}), ValueError,
        r"has shape \(1, 1, 2, 2\)"),
    Row("clip", lambda: nn.clip_grad_norm([], -1), ValueError, "max_norm must be at least 0 and finite, got -1"),
    Row("clip None", lambda: nn.clip_grad_norm(None, 1), TypeError, "parameters must be an iterable of nn.Parameter"),
    Row("StepLR", lambda: nn.StepLR(0), ValueError, "step_size must be from 1 .* got 0"),
    Row("StepLR gamma", lambda: nn.StepLR(1, gamma=2), ValueError, "gamma must be from 0 to 1 and finite, got 2"),
    Row("MultiStepLR", lambda: nn.MultiStepLR([3, 2]), ValueError, r"milestones must be ascending, got \[3, 2\]"),
    Row("MultiStepLR int", lambda: nn.MultiStepLR(3), TypeError, "milestones must be epochs, .* got 3"),
    Row("CosineLR", lambda: nn.CosineLR(float("inf")), ValueError, "eta_min must be at least 0 and finite, got inf"),
    Row("OneCycleLR", lambda: nn.OneCycleLR(1.5), ValueError, "pct_start must be from 0 to 1 .* got 1.5"),
    Row("OneCycleLR div", lambda: nn.OneCycleLR(div_factor=0), ValueError, "div_factor must be at least 1 .* got 0"),
    Row("LinearWarmup", lambda: nn.LinearWarmup(1, after=3), TypeError, "after must be a Schedule, got 3"),
    Row("EarlyStopping", lambda: nn.EarlyStopping(0), ValueError, "patience must be from 1 .* got 0"),
    Row("EarlyStopping what", lambda: nn.EarlyStopping(monitor="loss"), ValueError,
        "monitor must be one of .* got 'loss'"),
    Row("EarlyStopping list", lambda: nn.EarlyStopping(monitor=[]), ValueError, r"monitor must be one of .* got \[\]"),
    Row(
        "EarlyStopping best", lambda: nn.EarlyStopping(restore_best=2), TypeError, "restore_best must be True or False"
    ),
    Row(
        "Trainer model", lambda: nn.Trainer(3, nn.SGD(0.1)), TypeError, "model must be an instance of nn.Module, got 3"
    ),
    Row("Trainer class", lambda: nn.Trainer(nn.Linear(1, 1), nn.SGD), TypeError,
        "optimizer must be an instance of nn.Opt"),
    Row("Trainer loss", lambda: nn.Trainer(nn.Linear(1, 1), nn.SGD(0.1), len), TypeError,
        "loss must be an instance of nn.L"),
    Row("Trainer no parameters", lambda: nn.Trainer(nn.ReLU(), nn.SGD(0.1)), ValueError, "no parameters to train"),
    Row("step lists", trained("step", x=[1.0], y=[1]), TypeError, "x must be a numpy.ndarray, got list"),
    Row("step no labels", trained("step", x=IMAGES, y=None), TypeError, "y must be a numpy.ndarray, got NoneType"),
    Row(
        "step few labels", trained("step", x=IMAGES, y=LABELS[:3]), ValueError, r"4 images in x, but y has shape \(3,\)"
    ),
    Row("step labels", trained("step", x=IMAGES, y=LABELS + 9), ValueError, "labels from 0 to 9 .* got 9 to 12"),
    Row("step size", trained("step", x=IMAGES[:, :, 4:], y=LABELS), ValueError, "features"),
    Row("step none", trained("step", x=IMAGES[:0], y=LABELS[:0]), ValueError, r"x holds no images: .*\(0, 1, 8, 8\)"),
    Row("predict batch", trained("predict", x=IMAGES, batch_size=0), ValueError, "batch_size must be from 1 .* got 0"),
    Row("evaluate batch", trained("evaluate", x=IMAGES, y=LABELS, batch_size=1.0), TypeError,
        "batch_size must be an integer"),
    Row("fit epochs", fit(epochs=0), ValueError, "epochs must be from 1 .* got 0"),
    Row("fit epochs nan", fit(epochs=float("nan")), TypeError, "epochs must be an integer, got nan"),
    Row("fit batch", fit(batch_size=HUGE), ValueError, "batch_size must be from 1 to 2147483647"),
    Row("fit validation", fit(validation=IMAGES), TypeError, "validation must be a pair of arrays"),
    Row("fit validation y", fit(validation=(IMAGES, LABELS[:1])), ValueError, "4 images in x, but y has shape"),
    Row("fit shuffle", fit(shuffle=None), TypeError, "shuffle must be True or False, got None"),
    Row("fit seed", fit(seed="0"), TypeError, "seed must be a numpy.random.Generator, .* got '0'"),
    Row("fit seed -1", fit(seed=-1), ValueError, "seed must be at least 0 .* got -1"),
    Row("fit augment", fit(augment="flip"), TypeError, "augment must be callable, got 'flip'"),
    Row(
        "fit augment gives", fit(augment=lambda x, rng: None), TypeError, "augment must give an array of 4 images here"
    ),
    Row("fit schedule", fit(schedule="cosine"), TypeError, "schedule must be an instance of nn.Schedule, got 'cosine'"),
    Row("fit clip", fit(clip_norm=-1), ValueError, "clip_norm must be at least 0 and finite, got -1"),
    Row("fit patience", fit(early_stopping=3), TypeError,
        "early_stopping must be an instance of nn.EarlyStopping, got 3"),
    Row(
        "fit no validation", fit(early_stopping=nn.EarlyStopping()), ValueError, "early_stopping needs validation data"
    ),
    Row("fit checkpoint", fit(checkpoint=3), TypeError, "checkpoint must be an instance of nn.Checkpoint, got 3"),
    Row("fit checkpoint name", fit(checkpoint="a.bin"), ValueError, "a.bin must end in .safetensors or .npz"),
    Row("fit resume", fit(resume=3), TypeError, "path must be a path, a str or an os.PathLike, got 3"),
    Row("fit resume nowhere", fit(resume="nowhere.npz"), FileNotFoundError, "nowhere.npz"),
    Row("fit on_epoch", fit(on_epoch=3), TypeError, "on_epoch must be callable, got 3"),
    Row("fit unknown", fit(epoch=3), TypeError, "unexpected keyword argument 'epoch'"),
]
# fmt: on

RNG = np.random.default_rng(0)
# fmt: off
FILES = [
    Row("Checkpoint seconds", lambda: nn.Checkpoint("a.npz", seconds=-1), ValueError,
        "seconds must be at least 0 .* got -1"),
    Row("Checkpoint path", lambda: nn.Checkpoint(None), TypeError, "path must be a path, .* got None"),
    Row("Checkpoint bytes", lambda: nn.Checkpoint(b"a.npz"), TypeError, "path must be a path, .* got b'a.npz'"),
    Row("Checkpoint metadata", lambda: nn.Checkpoint("a.npz", 1, 3), TypeError, "metadata must be a mapping, .* got 3"),
    Row("save_model", lambda: nn.save_model("a.npz", 3), TypeError, "model must be an instance of nn.Module, got 3"),
    Row(
        "save_model path", lambda: nn.save_model("a.pt", nn.ReLU()), ValueError, "a.pt must end in .safetensors or .npz"
    ),
    Row("save_model metadata", lambda: nn.save_model("a.npz", nn.ReLU(), "x"), TypeError, "metadata must be a mapping"),
    Row("save_model name", lambda: nn.save_model("a.npz", nn.ReLU(), {"model": "x"}), ValueError, "x"),
    Row("save_model JSON", lambda: nn.save_model("a.npz", nn.ReLU(), {"a": X}), TypeError, "JSON serializable"),
    Row("load_model", lambda: nn.load_model("nowhere.npz"), FileNotFoundError, "nowhere.npz"),
    Row("load_model path", lambda: nn.load_model(3), TypeError, "path must be a path, .* got 3"),
    Row("load_model junk", lambda: nn.load_model(junk("a.npz")), ValueError, "a.npz is damaged, or no .npz file"),
    Row(
        "load_model junk 2", lambda: nn.load_model(junk("a.safetensors")), ValueError, "a.safetensors is damaged, or no"
    ),
    Row("load_state suffix", lambda: nn.load_state("a.txt"), ValueError, "a.txt must end in .safetensors or .npz"),
    Row("load_safetensors", lambda: nn.load_safetensors(junk("b.safetensors")), ValueError, "b.safetensors is .*no"),
    Row("History", lambda: nn.History().save("h.txt"), ValueError, "h.txt must end in .csv or .json"),
    Row("History path", lambda: nn.History().save(3), TypeError, "path must be a path, .* got 3"),
    Row("plot", lambda: nn.plot_training("p.gif", nn.History()), ValueError, "p.gif must end in .png, .svg or .pdf"),
    Row("plot nothing", lambda: nn.plot_training("p.png", nn.History()), ValueError, "there are no epochs to draw"),
    Row("plot history", lambda: nn.plot_training("p.png", [1]), TypeError,
        r"history must be a list of nn.Epoch, .* \[1\]"),
    Row("data.load", lambda: data.load("nowhere"), FileNotFoundError, "nowhere: there is no such file or folder"),
    Row("data.load None", lambda: data.load(None), TypeError, "spec must be a path, .* got None"),
    Row("data.load size", lambda: data.load("digits", size=0), ValueError, "size must be from 1 .* got 0"),
    Row("data.load size text", lambda: data.load("digits", size="8"), TypeError, "size must be an integer or a pair"),
    Row("data.load junk", lambda: data.load(junk("j")), ValueError, "j: is none of a .npz archive"),
    Row("open_source", lambda: data.open_source("digits", channels=0), ValueError, "channels must be from 1 .* got 0"),
    Row("load_npz", lambda: data.load_npz(3), TypeError, "path must be a path, .* got 3"),
    Row("load_npz junk", lambda: data.load_npz(junk("a.npz")), ValueError, "a.npz: is not a .npz archive"),
    Row("load_idx_folder", lambda: data.load_idx_folder("nowhere"), (ValueError, OSError), "nowhere"),
    Row("load_cifar_folder", lambda: data.load_cifar_folder("nowhere"), (ValueError, OSError), "nowhere"),
    Row("load_image_folder", lambda: data.load_image_folder("nowhere"), (ValueError, OSError), "nowhere"),
    Row(
        "from_arrays list", lambda: data.Dataset.from_arrays([[1]], LABELS), TypeError, "images must be a numpy.ndarray"
    ),
    Row(
        "from_arrays labels", lambda: data.Dataset.from_arrays(IMAGES, [0]), TypeError, "labels must be a numpy.ndarray"
    ),
    Row("from_arrays few", lambda: data.Dataset.from_arrays(IMAGES, LABELS[:2]), ValueError, "2 labels for 4 images"),
    Row("from_arrays 2-D", lambda: data.Dataset.from_arrays(P, LABELS), ValueError,
        r"images must be \(N, H, W\), .* \(2, 3\)"),
    Row("from_arrays nan", lambda: data.Dataset.from_arrays(IMAGES * np.nan, LABELS), ValueError,
        "must be finite .* 256 are"),
    Row("from_arrays test", lambda: data.Dataset.from_arrays(IMAGES, LABELS, None, LABELS), ValueError,
        "test_labels, but no test_i"),
    Row("from_arrays objects", lambda: data.Dataset.from_arrays(IMAGES.astype(object), LABELS), ValueError,
        "integers or floats, got object"),
    Row("prepare list", lambda: data.prepare([1], 1, [0.0], [1.0]), TypeError,
        "images must be a numpy.ndarray, got list"),
    Row("prepare scale", lambda: data.prepare(IMAGES, 0, [0.0], [1.0]), ValueError, "scale must be above 0, got 0"),
    Row("prepare scale nan", lambda: data.prepare(IMAGES, float("nan"), [0], [1]), ValueError,
        "scale must be .* got nan"),
    Row("prepare std", lambda: data.prepare(IMAGES, 1, [0.0], [0.0]), ValueError,
        r"std above 0: got \[0.0\] and \[0.0\]"),
    Row(
        "prepare channels", lambda: data.prepare(IMAGES, 1, [0.0] * 3, [1.0] * 3), ValueError, "1 channels, .* is for 3"
    ),
    Row("split", lambda: data.stratified_split(np.zeros(0, int)), ValueError, r"labels must be integers, .* \(0,\)"),
    Row("split floats", lambda: data.stratified_split(P[0]), ValueError, "labels must be integers, .* float32"),
    Row(
        "split fraction", lambda: data.stratified_split(LABELS, 2), ValueError, "fraction must be from 0 to 1 .* got 2"
    ),
    Row("split seed", lambda: data.stratified_split(LABELS, 0.5, -1), ValueError, "seed must be from 0 .* got -1"),
    Row("RandomCrop", lambda: data.RandomCrop(-1), ValueError, "padding must be from 0 .* got -1"),
    Row("RandomCrop nan", lambda: data.RandomCrop(1, float("nan")), ValueError,
        "fill must be a finite number .* got nan"),
    Row("RandomCrop images", lambda: data.RandomCrop(1)(LABELS, RNG), TypeError,
        "images must be an array of floats, got int"),
    Row("RandomCrop rng", lambda: data.RandomCrop(1)(IMAGES, 0), TypeError,
        "rng must be a numpy.random.Generator, got int"),
    Row("RandomShift", lambda: data.RandomShift("1"), TypeError, "pixels must be a number, got '1'"),
    Row("Flip", lambda: data.RandomHorizontalFlip(2), ValueError, "p must be a finite number from 0 to 1, got 2"),
    Row("Cutout", lambda: data.Cutout(1.5), TypeError, "size must be an integer, got 1.5"),
    Row("Compose", lambda: data.Compose([3]), TypeError, "transforms must be callables f.*, but one is 3"),
    Row("Layer", lambda: Layer.parse("n1 c1 h3 k1"), ValueError, "'n1 c1 h3 k1' does not say r"),
    Row("Layer None", lambda: Layer.parse(None), TypeError, "descriptor must be a str .* got None"),
    Row("Layer word", lambda: Layer.parse("n1 c1 h3 k1 r-2"), ValueError, "'r-2' in layer"),
    Row("Study", lambda: Study.load(junk("s.json")), ValueError, "s.json is not a study saved by numbaconv"),
    Row("Study path", lambda: Study.load(3), TypeError, "path must be a path, .* got 3"),
    Row("textbook ragged", lambda: textbook.rot180(RAGGED), ValueError, "W cannot be made an array"),
    Row("textbook bool", lambda: textbook.rot180([[True]]), TypeError,
        "W must be a matrix of real numbers, got dtype bool"),
    Row("textbook huge", lambda: textbook.dilate(np.ones((9, 9)), 2**31 - 1), ValueError,
        "matrix of shape .* would take"),
    Row("reference", lambda: reference.conv2d([1], W), TypeError, "input must be a numpy.ndarray, got list"),
]
# fmt: on


def classifier(**parameters: Any) -> Callable[[], Any]:
    def call() -> Any:
        from numbaconv.sklearn import CNNClassifier

        rows, labels = RNG.random((12, 16)), np.arange(12) % 3
        X_, y_ = parameters.pop("X", rows), parameters.pop("y", labels)
        return CNNClassifier(**({"epochs": 1, "random_state": 0} | parameters)).fit(X_, y_)

    return call


# fmt: off
SKLEARN = [
    ("model", {"model": "vgg"}, ValueError, "model must be one of 'digits_cnn', .* got 'vgg'"),
    ("model 3", {"model": 3}, ValueError, "model must be one of .* got 3"),
    ("optimizer", {"optimizer": "adagrad"}, ValueError, "optimizer must be 'adam', 'adamw' or 'sgd', got 'adagrad'"),
    ("optimizer list", {"optimizer": np.array([1, 2])}, ValueError, "optimizer must be .* got array"),
    ("epochs", {"epochs": 0}, ValueError, "epochs must be from 1 .* got 0"),
    ("epochs 1.5", {"epochs": 1.5}, TypeError, "epochs must be an integer, got 1.5"),
    ("batch_size", {"batch_size": -1}, ValueError, "batch_size must be from 1 .* got -1"),
    ("lr", {"lr": float("nan")}, ValueError, "lr must be at least 0 and finite, got nan"),
    ("image_shape", {"image_shape": (3, 3)}, ValueError, r"image_shape=\(3, 3\) does not fit X"),
    ("image_shape text", {"image_shape": "4x4"}, ValueError, r"image_shape must be \(H, W\) or \(C, H, W\), got '4x4'"),
    ("normalize", {"normalize": np.ones(2)}, TypeError, "normalize must be True or False, got array"),
    ("early_stopping", {"early_stopping": "yes"}, TypeError, "early_stopping must be True or False, got 'yes'"),
    ("validation_fraction", {"early_stopping": True, "validation_fraction": 1}, ValueError,
        "validation_fraction must leave"),
    ("n_iter_no_change", {"n_iter_no_change": 0}, ValueError, "n_iter_no_change must be from 1 .* got 0"),
    ("random_state", {"random_state": "x"}, ValueError, "'x' cannot be used to seed"),
]
# fmt: on

#: Arguments of the command, and a pattern of the line that it says.
COMMANDS = [
    ("", "required: train"), ("bogus", "invalid choice: 'bogus'"), ("train --bogus", "unrecognized arguments: --bogus"),
    ("train extra", "unrecognized arguments: extra"), ("train --data nowhere", "nowhere: there is no such file"),
    ("train --data ''", "empty: holds no PNG or JPEG images"), ("train --data empty", "empty: there are no idx files"),
    ("train --data junk.npz", "junk.npz: is none of"), ("train --model vgg", "--model: invalid choice: 'vgg'"),
    ("train --epochs 0", "--epochs: must be an integer from 1 .* got '0'"), ("train --epochs 1.5", "got '1.5'"),
    ("train --epochs 99999999999999999999", "--epochs: must be an integer from 1 to 2147483647"),
    ("train --batch-size x", "--batch-size: must be an integer from 1 .* got 'x'"), ("train --seed -1", "got '-1'"),
    ("train --threads 0", "--threads: must be"), ("train --threads 99999", "--threads must be from 1 to"),
    ("train --optimizer rmsprop", "invalid choice: 'rmsprop'"), ("train --lr nan", "finite number above 0, got 'nan'"),
    ("train --lr inf", "finite number above 0, got 'inf'"), ("train --momentum 1", "from 0 to below 1, got '1'"),
    ("train --momentum 0.5 --optimizer adam", "--momentum is for sgd"), ("train --milestones 3", "--schedule step"),
    ("train --schedule step --milestones 3 2", "must be ascending, got 3 2"), ("train --warmup -1", "at least 0"),
    ("train --warmup 9 --epochs 9", "--warmup must be below --epochs, 9, got 9"), ("train --clip-norm 0", "above 0"),
    ("train --augment spin", "there is no 'spin'"), ("train --augment crop=-1", "padding must be from 0 .* got -1"),
    ("train --augment none flip", "none stands alone"), ("train --label-smoothing 1", "below 1, got '1'"),
    ("train --validation 0.6", "from 0 to 0.5, got '0.6'"), ("train --patience 0", "--patience: must be an integer"),
    ("train --output model.bin", "--output must end in .safetensors or .npz"), ("train --plot p.gif", "got 'p.gif'"),
    ("train --output nowhere/model.npz", "there is no folder nowhere"), ("train --history h.txt", "got 'h.txt'"),
    ("train --resume nowhere.npz", "nowhere.npz: No such file"), ("train --resume junk.npz", "junk.npz is damaged"),
    ("predict", "required: MODEL, DATA"), ("predict nowhere.npz digits", "nowhere.npz: No such file"),
    ("predict junk.npz digits", "junk.npz is damaged"), ("predict junk.npz digits --rows -1", "from 0 .* got '-1'"),
    ("predict junk.npz digits --output p.txt", "--output must end in .csv or .npz"),
    ("compare --suite bogus", "--suite: invalid choice: 'bogus'"), ("compare --layer x", "'x' in layer 'x'"),
    ("compare --layer 'n1 c1 h3 k1 r9'", "the kernel spans 9"), ("compare --threads 0", "--threads: must be"),
    ("compare --peers bogus", "there is no peer 'bogus'"), ("compare --peers os:path", "is not a subclass of"),
    ("compare --algorithm fft", "invalid choice: 'fft'"), ("compare --rounds 1001", "from 1 to 1000, got '1001'"),
    ("compare --train bogus", "there is no model 'bogus'"), ("compare --train --suite public", "does not go with it"),
    ("compare --json out.txt", "--json must end in .json"), ("compare --from nowhere.json", "No such file"),
    ("compare --from junk.json", "junk.json is not a study"), ("compare --against junk.npz", "junk.npz is not a study"),
    ("info extra", "unrecognized arguments: extra"),
]  # fmt: skip


def junk(name: str) -> str:
    """A file, in the folder of the test, that holds nothing of use."""
    Path(name).write_bytes(b"junk" * 9)
    return name


TABLE = FUNCTIONS + LAYERS + TRAINING + FILES
