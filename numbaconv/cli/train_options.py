"""The options of ``numbaconv train``: defaults, contradictions, files, and what a checkpoint remembers of them."""

from __future__ import annotations

import shlex
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numbaconv.cli.errors import UsageError, user_errors
from numbaconv.cli.files import output_file
from numbaconv.cli.recipes import OPTIMIZERS, RECIPES, default_augment, default_model
from numbaconv.data import Dataset
from numbaconv.data.named import NAMES
from numbaconv.nn.checkpoints import read_metadata

SUFFIXES = (".safetensors", ".npz")
#: What a checkpoint remembers. When it is resumed, only what is in the second line may be another.
# fmt: off
WHAT = (
    "model", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "schedule", "milestones", "warmup", "augment",
    "label_smoothing", "clip_norm", "patience", "validation", "seed",
)
# fmt: on
WRITTEN = ("output", "history", "plot")
WHERE = ("data", "epochs", "checkpoint_every", *WRITTEN)


def recall(options: Namespace) -> None:
    """Take the options of the training that is to be resumed; those that are given as well must not change it."""
    with user_errors(ImportError):
        stored = read_metadata(Path(options.resume).expanduser()).get("options")
    if not isinstance(stored, list) or not all(isinstance(word, str) for word in stored):
        raise UsageError(f"{options.resume}: was not saved by numbaconv train")
    then = _parsed(stored, options)
    for name in WHAT + WHERE:
        given, before = getattr(options, name), getattr(then, name)
        if given is None:
            setattr(options, name, before)
            if name in WRITTEN and before is not None and not _is_here(before):
                raise UsageError(f"{flag(name)} was {before}, which is not below this folder: give it again")
        elif name in WHAT and given != before:
            raise UsageError(f"{flag(name)} {said(given)}: the training that is resumed has {said(before) or 'none'}")


def _parsed(stored: list[str], options: Namespace) -> Namespace:
    """The options in a checkpoint, held to the same rules as those that are typed."""
    try:
        for word in stored:
            if word.startswith("-") and word not in map(flag, WHAT + WHERE):
                raise UsageError(f"there is no option {word}")
        then: Namespace = options.parser.parse_args(stored)
    except UsageError as error:
        raise UsageError(f"{options.resume}: is damaged: {error}") from None
    return then


def _is_here(name: str) -> bool:
    """Whether a file is below the current folder: a checkpoint from anywhere must not say what is overwritten there."""
    path = Path(name)
    return not (path.is_absolute() or name.startswith("~") or ".." in path.parts)


def resume_command(checkpoint: Path, options: Namespace) -> str:
    """What to type to go on with a training."""
    again = [(flag(name), getattr(options, name)) for name in WRITTEN if getattr(options, name)]
    more = [word for name, value in again if not _is_here(value) for word in (name, value)]
    return shlex.join(["numbaconv", "train", "--resume", str(checkpoint), *more])


def words(options: Namespace) -> list[str]:
    """The options that a checkpoint remembers, as they would be typed."""
    values = {name: getattr(options, name) for name in WHAT + WHERE}
    if values["data"] not in NAMES:  # it may be resumed in another folder
        values["data"] = str(Path(values["data"]).expanduser().absolute())
    known = {name: value if isinstance(value, list) else [value] for name, value in values.items() if value is not None}
    return [word for name, value in known.items() for word in (flag(name), *map(str, value))]


def flag(name: str) -> str:
    """The option of this name."""
    return "--" + name.replace("_", "-")


def said(value: Any) -> str:
    """A value as it would be typed."""
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def check(options: Namespace) -> None:
    """Refuse options that contradict each other."""
    if options.momentum is not None and options.optimizer not in (None, "sgd"):
        raise UsageError(f"--momentum is for sgd, not for {options.optimizer}")
    if options.milestones is not None and options.schedule != "step":
        raise UsageError(f"--milestones are for --schedule step, not for {options.schedule or 'cosine'}")
    if options.milestones is not None and options.milestones != sorted(set(options.milestones)):
        raise UsageError(f"--milestones must be ascending, got {said(options.milestones)}")
    if options.warmup and options.schedule == "onecycle":
        raise UsageError("--warmup is not for --schedule onecycle, which begins with one")
    if options.augment is not None and "none" in options.augment and len(options.augment) > 1:
        raise UsageError(f"--augment {said(options.augment)}: none stands alone")
    if options.patience is not None and options.validation == 0:
        raise UsageError("--patience needs images to measure the loss on: --validation must be above 0")


def set_defaults(options: Namespace, data: Dataset) -> None:
    """Fill in what was not asked for with what suits the data, the model and the optimizer."""
    options.model = options.model or default_model(data.image_shape)
    options.optimizer = options.optimizer or "sgd"
    recipe = RECIPES[options.model]
    suffix = SUFFIXES[0 if find_spec("safetensors") else 1]
    defaults = {
        "data": "digits",
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "seed": 0,
        "lr": recipe.sgd_lr if options.optimizer == "sgd" else recipe.adam_lr,
        "momentum": 0.9 if options.optimizer == "sgd" else None,
        "weight_decay": OPTIMIZERS[options.optimizer],
        "schedule": "cosine",
        "warmup": 0.0,
        "augment": default_augment(options.model, data.image_shape) or ["none"],
        "label_smoothing": recipe.label_smoothing,
        "validation": 0.0 if options.patience is None else 0.1,
        "output": options.model + suffix,
        "checkpoint_every": 60.0,
    }
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.warmup >= options.epochs:
        raise UsageError(f"--warmup must be below --epochs, {options.epochs}, got {options.warmup:g}")
    if options.schedule == "step" and options.milestones is None:
        rest = options.epochs - options.warmup
        options.milestones = sorted({max(1, int(rest / 2)), max(1, int(rest * 3 / 4))})


def output_files(options: Namespace) -> dict[str, Path]:
    """Where everything will be written, by option, once it is known that it can be; an error if not."""
    inputs = [name for name in (options.data, options.resume) if name is not None]
    output = output_file(options.output, SUFFIXES, *inputs)
    files = {"--output": output, "--checkpoint": default_checkpoint(output)}
    checkpoint = options.checkpoint or options.resume
    for option, name, suffixes, read in (
        ("--checkpoint", checkpoint, SUFFIXES, [options.data]),
        ("--history", options.history, (".csv", ".json"), inputs),
        ("--plot", options.plot, (".png", ".svg", ".pdf"), inputs),
    ):
        if name is not None:
            files[option] = output_file(name, suffixes, *read, option=option)
    seen: dict[Path, str] = {}
    for option, path in files.items():
        other = seen.setdefault(path.absolute(), option)
        if other != option:
            raise UsageError(f"{other} and {option} are the same file, {path}")
        if path.suffix.lower() == ".safetensors" and not find_spec("safetensors"):
            raise UsageError(f'{option} {path} needs safetensors: pip install "numbaconv[cli]", or choose an .npz file')
    if options.plot is not None and not find_spec("matplotlib"):
        raise UsageError('--plot needs matplotlib: pip install "numbaconv[study]"')
    return files


def default_checkpoint(output: Path) -> Path:
    """Where the checkpoints are that are removed when the model is saved."""
    return output.with_suffix(f".checkpoint{output.suffix}")
