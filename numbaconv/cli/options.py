"""What can be typed: commands, options, and the range of every number."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

import numbaconv
from numbaconv.cli import cache, compare, info, predict, train
from numbaconv.cli.errors import UsageError
from numbaconv.cli.recipes import OPTIMIZERS, RECIPES, SCHEDULES, augmentation
from numbaconv.study.layers import SUITES
from numbaconv.study.peers import ALGORITHMS, LAYOUTS, PEERS, WORKS

LARGEST = 2**31 - 1


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are those of every other mistake: one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help tells more)")


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; ``run`` in its result is the function of the command."""
    top = Parser(
        prog="numbaconv",
        description="2-D convolutions on the CPU: train a small CNN, predict with it, compare speeds, tell about the "
        "machine.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"numbaconv {numbaconv.__version__}")
    commands = top.add_subparsers(dest="command", metavar="train | predict | compare | info | cache", required=True)
    _add_train(commands)
    _add_predict(commands)
    _add_compare(commands)
    about = commands.add_parser(
        "info",
        help="tell about this machine",
        description="Tell the CPU, its vectors, the threads, the folder of compiled kernels, and all versions.",
        allow_abbrev=False,
    )
    about.set_defaults(run=info.run)
    _add_cache(commands)
    return top


def whole(low: int, high: int = LARGEST) -> Callable[[str], int]:
    """The type of an option that is an integer from ``low`` to ``high``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be an integer from {low} to {high}, got {text!r}")
        return value

    return parse


def real(rule: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    """The type of an option that is a finite number for which a rule holds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and holds(value)):
            raise argparse.ArgumentTypeError(f"must be a finite number {rule}, got {text!r}")
        return value

    return parse


def augment(text: str) -> str:
    """The type of ``--augment``: ``none``, or the name of a random change, with or without its strength."""
    try:
        if text != "none":
            augmentation(text)
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return text


def _add_train(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "train",
        help="train a model on images",
        description="Train a model on labelled images and save it.",
        epilog="Whatever is not said suits the images and the model. Ctrl-C and SIGTERM save a checkpoint, from which "
        "--resume goes on.",
        allow_abbrev=False,
    )
    # What is not given is None, so that --resume can tell; train.set_defaults fills it in.
    command.set_defaults(run=train.run, parser=command)
    add = command.add_argument_group("what to train").add_argument
    add(
        "--data",
        metavar="digits|mnist|fashion|cifar10|PATH",
        help="a data set by its name (default: digits, which come with numbaconv), or a path: a .npz archive with "
        "images and labels, a folder of idx files (the format of MNIST), of CIFAR batches, or of PNG and JPEG images "
        "in a sub-folder for each class",
    )
    add("--model", choices=RECIPES, metavar="NAME", help=", ".join(RECIPES))
    add("--epochs", type=whole(1), metavar="N", help="how often every image is seen")
    add("--batch-size", type=whole(1), metavar="N", help="images a step")
    add("--seed", type=whole(0, 2**32 - 1), metavar="N", help="of all that is random (default: 0)")
    _add_threads(add)

    add = command.add_argument_group("how the weights move").add_argument
    add("--optimizer", choices=OPTIMIZERS, help="default: sgd, with Nesterov momentum")
    add("--lr", type=real("above 0", lambda lr: lr > 0), metavar="X", help="the largest learning rate")
    add(
        "--momentum",
        type=real("from 0 to below 1", lambda momentum: 0 <= momentum < 1),
        metavar="X",
        help="of sgd (default: 0.9)",
    )
    add(
        "--schedule",
        choices=SCHEDULES,
        help="of the learning rate: down along half a cosine (default), up and then down, down in steps, or constant",
    )
    add(
        "--milestones",
        type=whole(1),
        nargs="+",
        metavar="EPOCH",
        help="of the schedule step: after so many epochs the rate falls to a tenth (default: after half and three "
        "quarters of them)",
    )
    add(
        "--warmup",
        type=real("of at least 0", lambda epochs: epochs >= 0),
        metavar="EPOCHS",
        help="let the learning rate grow from near 0 for so long, before the schedule (default: 0)",
    )
    add(
        "--clip-norm",
        type=real("above 0", lambda norm: norm > 0),
        metavar="X",
        help="shrink gradients whose norm is larger (default: no limit)",
    )

    add = command.add_argument_group("against overfitting").add_argument
    add(
        "--augment",
        type=augment,
        nargs="+",
        metavar="CHANGE",
        help="change training images at random: shift=PIXELS (fractions too), crop=PADDING, flip (left and right), "
        "cutout=SIZE, or none",
    )
    add(
        "--weight-decay",
        type=real("of at least 0", lambda decay: decay >= 0),
        metavar="X",
        help=f"default: {', '.join(f'{decay:g} for {name}' for name, decay in OPTIMIZERS.items())}",
    )
    add(
        "--label-smoothing",
        type=real("from 0 to below 1", lambda share: 0 <= share < 1),
        metavar="X",
        help="the share of each label that is spread over all classes",
    )
    add(
        "--validation",
        type=real("from 0 to 0.5", lambda share: 0 <= share <= 0.5),
        metavar="SHARE",
        help="training images to hold back and measure every epoch on (default: 0.1 with --patience; else 0, and "
        "epochs are measured on the test images)",
    )
    add(
        "--patience",
        type=whole(1),
        metavar="EPOCHS",
        help="stop when the validation loss has not fallen for so long, and keep the best weights",
    )

    add = command.add_argument_group("files").add_argument
    add(
        "--output",
        metavar="FILE",
        help="where to save the model, .safetensors or .npz (default: MODEL.safetensors in the current folder)",
    )
    add("--history", metavar="FILE", help="save losses and accuracies of all epochs, .csv or .json")
    add(
        "--plot",
        metavar="FILE",
        help="draw them, the confusion matrix, and the filters of the first layer, .png, .svg or .pdf",
    )
    add(
        "--checkpoint",
        metavar="FILE",
        help="where to save what --resume needs, .safetensors or .npz (default: OUTPUT with .checkpoint in its name, "
        "removed at the end)",
    )
    add(
        "--checkpoint-every",
        type=real("of at least 0", lambda seconds: seconds >= 0),
        metavar="SECONDS",
        help="the most work that can be lost (default: 60)",
    )
    add(
        "--resume",
        metavar="FILE",
        help="go on from a checkpoint, with the options of then, and end with the same bits as without interruption",
    )


def _add_predict(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "predict",
        help="classify images with a trained model",
        description="Classify images with a trained model, and tell the accuracy where the data has labels.",
        allow_abbrev=False,
    )
    command.set_defaults(run=predict.run)
    add = command.add_argument
    add("model", metavar="MODEL", help="a file that numbaconv train saved")
    add(
        "data",
        metavar="DATA",
        help="what train --data takes, a .npy array or idx file of images, a PNG or JPEG image or a folder of them; "
        "where the data has a test part, that one",
    )
    add("--batch-size", type=whole(1), default=256, metavar="N", help="images at a time (default: %(default)s)")
    add("--rows", type=whole(0), default=10, metavar="N", help="predictions to show (default: %(default)s)")
    add("--output", metavar="FILE", help="write all predictions to a file, .csv or .npz")
    _add_threads(add)


def _add_compare(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "compare",
        help="compare the speed with other libraries",
        description="Compare the speed of convolutions with that of other libraries, by fair rules: each in a process "
        "of its own, on the same cores, with the same number of threads, in turns, after comparing results.",
        epilog="Exit status 1 if something became slower than in the study that --against names.",
        allow_abbrev=False,
    )
    command.set_defaults(run=compare.run)
    add = command.add_argument
    add("--suite", nargs="+", choices=SUITES, metavar="NAME", help=f"{', '.join(SUITES)} (default: public)")
    add(
        "--layer",
        action="append",
        metavar="DESCRIPTOR",
        help='a layer such as "n32 c16 h32 k16 r3 p1": images, input channels, height and width, output channels, '
        "kernel, and s, p, d, g for stride, padding, dilation, groups; may be given several times",
    )
    add("--threads", type=whole(1), nargs="+", metavar="N", help="one or several (default: all physical cores)")
    add("--layout", choices=LAYOUTS, nargs="+", metavar="LAYOUT", help="NCHW, NHWC (default: both)")
    add(
        "--pass",
        dest="works",
        choices=WORKS,
        nargs="+",
        metavar="PASS",
        help="forward, grad_input, grad_weight (default: all)",
    )
    add(
        "--peers",
        nargs="+",
        metavar="NAME",
        help=f"{', '.join(list(PEERS)[1:])}, or package.module:Class (default: all that are installed)",
    )
    add(
        "--algorithm",
        choices=ALGORITHMS,
        metavar="NAME",
        help="which kernels of ours take part: auto (default), direct or winograd, which leaves out the layers that it "
        "does not serve, and is not for --train",
    )
    add("--quick", action="store_true", help="few and short rounds, for a first look")
    add("--rounds", type=whole(1, 1000), metavar="N", help="turns of each library (default: 7, or 3 with --quick)")
    add("--train", nargs="*", metavar="MODEL", help="compare training steps of models (default: all) instead of layers")
    add("--json", metavar="FILE", help="save everything that was measured")
    add("--figures", metavar="DIR", help="draw charts, PNG and SVG, into a folder")
    add("--from", dest="source", metavar="FILE", help="show an earlier run that --json saved; nothing is measured")
    add("--against", metavar="OLD", help="show what changed since an earlier run")


def _add_cache(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "cache",
        help="show, fill or clear the compiled kernels",
        description="Kernels are compiled when they are first called, and kept on disk for later processes. Show what "
        "is kept; compile everything ahead of time; or remove it.",
        allow_abbrev=False,
    )
    command.set_defaults(run=cache.show, list=False)
    works = command.add_subparsers(metavar="show | fill | clear")

    show = works.add_parser("show", help="the folder and its size (default)", allow_abbrev=False)
    show.add_argument("--list", action="store_true", help="a line for every kernel: files, size, dtypes")
    show.set_defaults(run=cache.show)

    fill = works.add_parser(
        "fill",
        help="compile all kernels now",
        description="Compile all kernels now, or see that they are there: when a container is built, say. It takes "
        "some minutes, and writes to the folder that numbaconv cache shows.",
        allow_abbrev=False,
    )
    fill.add_argument(
        "--dtype",
        nargs="+",
        choices=cache.DTYPES,
        default=["float32", "float64"],
        help="what for (default: float32 float64); float16 is computed by the kernels of float32",
    )
    fill.set_defaults(run=cache.fill)

    clear = works.add_parser(
        "clear",
        help="remove compiled kernels",
        description="Remove the compiled kernels of this installation, and no other file. They are compiled again when "
        "they are needed.",
        allow_abbrev=False,
    )
    clear.add_argument(
        "--stale",
        action="store_true",
        help="only what cannot be loaded here: compiled from other sources, by another version of Python, Numba, "
        "llvmlite or NumPy, for another CPU, or damaged",
    )
    clear.set_defaults(run=cache.clear)


def _add_threads(add: Callable[..., Any]) -> None:
    add("--threads", type=whole(1), metavar="N", help="how many to use (default: all cores)")
