"""Malformed calls over the whole public face: each is refused with a clear error, and leaves everything as it was.

First the table of ``malformed.py``, whose messages are looked at; then every argument of everything that can be called
gets values that it is not made for, and whatever is raised must be of a kind that was promised.
"""

from __future__ import annotations

import gc
import io
import shlex
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from malformed import (
    COMMANDS,
    FUNCTIONS,
    HUGE,
    IMAGES,
    ITSELF,
    LABELS,
    LAYERS,
    LOSS,
    RNG,
    SKLEARN,
    STRUCTURED,
    TABLE,
    TRAINING,
    UNTOUCHED,
    X2,
    B,
    F,
    P,
    Row,
    W,
    X,
    Z,
    bound,
    classifier,
    junk,
    trained,
)

import numbaconv
from numbaconv import data, nn, reference, textbook
from numbaconv.cli import main
from numbaconv.study.layers import Layer

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of numpy.matrix, which is tried as well


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = [array.tobytes() for array in UNTOUCHED]
    yield
    assert [array.tobytes() for array in UNTOUCHED] == before


def test_the_table_is_as_long_as_promised() -> None:
    assert len(TABLE) + len(SKLEARN) + len(COMMANDS) >= 250


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_a_malformed_call_is_refused_with_the_value_and_the_rule(row: Row) -> None:
    with pytest.raises(row.error, match=row.message) as caught:
        row.call()
    assert not type(caught.value).__module__.startswith("numba.")
    assert not [path for path in Path.cwd().iterdir() if path.read_bytes() != b"junk" * 9]  # nothing was written


@pytest.mark.parametrize(("name", "parameters", "error", "message"), SKLEARN, ids=[row[0] for row in SKLEARN])
def test_the_classifier_refuses_bad_parameters(name: str, parameters: Any, error: Any, message: str) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(error, match=message):
        classifier(**parameters)()


@pytest.mark.parametrize(("line", "message"), COMMANDS, ids=[line or "nothing" for line, _ in COMMANDS])
def test_the_command_line_says_what_is_wrong_in_one_line(line: str, message: str) -> None:
    pytest.importorskip("rich")
    Path("empty").mkdir()
    junk("junk.npz"), junk("junk.json")
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(shlex.split(line))
    said = err.getvalue()
    assert (status, said.count("\n"), out.getvalue()) == (2, 1, "")
    assert said.startswith("numbaconv: error: ")
    with pytest.raises(AssertionError, match=message):  # for its explanation of what does not match
        raise AssertionError(said)
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["empty", "junk.json", "junk.npz"]


def outcome(call: Callable[..., Any], **arguments: Any) -> Exception | None:
    """What a call raises, without what leads there."""
    try:
        call(**arguments)
    except Exception as error:
        return error.with_traceback(None)
    return None


def test_errors_leak_nothing() -> None:
    rows = [row for row in FUNCTIONS + LAYERS + TRAINING if "fit" not in row.name]
    counts = []
    tracemalloc.start()
    try:
        for _ in range(4):
            for row in rows:
                outcome(row.call)
            gc.collect()
            counts.append((tracemalloc.get_traced_memory()[0], [sys.getrefcount(array) for array in UNTOUCHED]))
    finally:
        tracemalloc.stop()
    assert counts[3][1] == counts[1][1]
    assert counts[3][0] - counts[1][0] < 20_000, [count[0] for count in counts]


# --- every argument, every value --------------------------------------------------------------------------------------


class Sub(np.ndarray):
    """A subclass of arrays."""


def values() -> Iterator[Any]:
    """What arguments are not made for; some of it is taken by some of them."""
    yield from (
        None,
        True,
        "x",
        "",
        b"x",
        "\udcff",
        1.5,
        float("nan"),
        float("-inf"),
        -1,
        0,
        2**31,
        2**63,
        HUGE,
        10**400,
    )
    yield from (np.int64(3), np.uint8(1), np.float32(1), np.True_, 1j, Decimal(1), Fraction(1, 2), np.str_("NCHW"))
    yield from (
        [],
        (),
        [1, 2, 3],
        (1, (1, 1)),
        ((1, 1), (1, 1)),
        (1.0, 1),
        [[1]],
        {},
        {"a": 1},
        {1, 2},
        range(2),
        ITSELF,
    )
    yield from ((i for i in (1, 1)), object(), int, len, memoryview(b"ab"), Path("nothing"), slice(1, 2), Ellipsis, RNG)
    yield from (
        np.array(2),
        np.array([1, 2]),
        np.array([[1]]),
        np.array(None),
        np.array("a"),
        STRUCTURED,
        np.array(1.0),
    )
    yield from (np.full((1, 1, 1, 1), None), np.ma.masked_array([1.0]), np.matrix([[1.0]]), np.zeros(3, "M8[s]"))
    for dtype in (complex, np.longdouble, bool, int, ">f4", F):
        yield np.ones((1, 1, 3, 3), dtype)
    yield np.ones((1, 1, 3, 3), F).view(Sub)
    for axis in range(3):
        yield np.ones((1, 1, 3, 3), F).take([], axis)
    yield np.ones((1,) * 32, F)


def run(kind: type[nn.Module], x: Any, **arguments: Any) -> Any:
    made = kind(**arguments)
    repr(made)
    return made.backward(np.ones_like(made(x)))


def run_optimizer(kind: Any, **arguments: Any) -> None:
    optimizer, parameter = kind(**arguments), nn.Parameter(np.ones(2, F))
    optimizer.bind([parameter])
    parameter.grad = np.ones(2, F)
    optimizer.step()


HOW: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "layout": "NCHW", "algorithm": "auto"}
POOL: dict[str, Any] = {"kernel_size": 2, "stride": 2, "padding": 0, "ceil_mode": False}
CONV: dict[str, Any] = {"in_channels": 2, "out_channels": 2, "kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1}
SEEDED: dict[str, Any] = {"bias": True, "dtype": F, "rng": 0}

#: What can be called, and good arguments for it.
# fmt: off
GOOD: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
    *(
        (f"{face.__name__}.{name}", getattr(face, name), {**good, **HOW})
        for face in (numbaconv, reference)
        for name, good in {
            "conv2d": {"input": X, "weight": W, "bias": B, "out": None},
            "conv2d_input": {"input_size": (1, 1, 3, 3), "weight": W, "grad_output": Z, "out": None},
            "conv2d_weight": {"input": X, "weight_size": (1, 1, 2, 2), "grad_output": Z, "out": None},
            "conv2d_backward": {"input": X, "weight": W, "grad_output": Z, "output_mask": (True,) * 3},
            "conv_transpose2d": {"input": Z, "weight": W, "bias": B, "output_padding": 0, "out": None},
        }.items()
    ),
    ("prepack", numbaconv.prepack, {"weight": W}),
    ("conv2d_output_size", numbaconv.conv2d_output_size, {"input_size": 3, "kernel_size": 2, "padding": 0}),
    ("Conv2d", lambda **a: run(nn.Conv2d, **a), {"x": X2, **CONV, "groups": 1, **SEEDED}),
    ("ConvTranspose2d", lambda **a: run(nn.ConvTranspose2d, **a), {"x": X2, **CONV, "output_padding": 0, **SEEDED}),
    ("Linear", lambda **a: run(nn.Linear, **a), {"x": P, "in_features": 3, "out_features": 2, **SEEDED}),
    ("BatchNorm2d", lambda **a: run(nn.BatchNorm2d, **a), {"x": X2, "num_features": 2, "eps": 1e-5, "momentum": 0.1}),
    ("ReLU", lambda **a: run(nn.ReLU, **a), {"x": X2, "inplace": False}),
    ("Dropout", lambda **a: run(nn.Dropout, **a), {"x": X2, "p": 0.5, "rng": 0}),
    ("Flatten", lambda **a: run(nn.Flatten, **a), {"x": X2, "start_dim": 1, "end_dim": -1}),
    ("MaxPool2d", lambda **a: run(nn.MaxPool2d, **a), {"x": X2, "dilation": 1, **POOL}),
    ("AvgPool2d", lambda **a: run(nn.AvgPool2d, **a), {"x": X2, "divisor_override": None, **POOL}),
    ("GlobalAvgPool2d", lambda **a: run(nn.GlobalAvgPool2d, **a), {"x": X2}),
    ("CrossEntropyLoss", lambda p, y, s: LOSS(s)(p, y), {"p": P, "y": LABELS[:2], "s": 0.0}),
    ("MSELoss", lambda p, y: nn.MSELoss()(p, y), {"p": P, "y": P}),
    ("SGD", lambda **a: run_optimizer(nn.SGD, **a), {"lr": 0.1, "momentum": 0.9, "nesterov": False}),
    ("AdamW", lambda **a: run_optimizer(nn.AdamW, **a), {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8}),
    ("state", lambda s: nn.Linear(1, 1).load_state_dict(s), {"s": {}}),
    ("state value", lambda v: nn.Linear(1, 1).load_state_dict({"weight": v, "bias": B}), {"v": np.ones((1, 1), F)}),
    ("optimizer state", lambda s: bound(nn.SGD(0.1)).load_state_dict(s), {"s": {}}),
    ("EarlyStopping", nn.EarlyStopping, {"patience": 1, "monitor": "validation_loss", "min_delta": 0.0}),
    ("StepLR", nn.StepLR, {"step_size": 1, "gamma": 0.1}),
    ("MultiStepLR", nn.MultiStepLR, {"milestones": [1], "gamma": 0.1}),
    ("predict", lambda **a: trained("predict", **a)(), {"x": IMAGES, "batch_size": 2}),
    ("evaluate", lambda **a: trained("evaluate", **a)(), {"x": IMAGES, "y": LABELS, "batch_size": 2}),
    ("load_state", nn.load_state, {"path": "nowhere.npz"}),
    ("Checkpoint", nn.Checkpoint, {"path": "a.npz", "seconds": 1.0, "metadata": None}),
    ("open_source", data.open_source, {"spec": "digits", "size": None, "channels": None}),
    ("load_npz", data.load_npz, {"path": "nowhere"}),
    ("from_arrays", data.Dataset.from_arrays, {"images": IMAGES, "labels": LABELS, "test_images": None}),
    ("prepare", data.prepare, {"images": IMAGES, "scale": 255.0, "mean": (0.0,), "std": (1.0,), "own_scale": None}),
    ("stratified_split", data.stratified_split, {"labels": LABELS, "fraction": 0.5, "seed": 0}),
    ("RandomCrop", lambda x, rng, **a: data.RandomCrop(**a)(x, rng), {"x": IMAGES, "rng": RNG, "padding": 1}),
    ("RandomShift", lambda x, rng, **a: data.RandomShift(**a)(x, rng), {"x": IMAGES, "rng": RNG, "pixels": 1}),
    ("Cutout", lambda x, rng, **a: data.Cutout(**a)(x, rng), {"x": IMAGES, "rng": RNG, "size": 1}),
    ("dilate", textbook.dilate, {"matrix": [[1, 2]], "stride": 2}),
    ("Layer", Layer.parse, {"descriptor": "n1 c1 h3 k1 r2"}),
]
# fmt: on
PROMISED = (TypeError, ValueError, MemoryError, OSError)


@pytest.mark.parametrize(("call", "good"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_whatever_an_argument_is_only_promised_errors_are_raised(call: Any, good: dict[str, Any]) -> None:
    refused = 0
    for name in good:
        for value in values():
            error = outcome(call, **{**good, name: value})
            assert error is None or isinstance(error, PROMISED), (name, value, error)
            assert error is None or (str(error) and not type(error).__module__.startswith("numba.")), (name, value)
            refused += error is not None
    assert refused >= 20 * len(good) > 0
