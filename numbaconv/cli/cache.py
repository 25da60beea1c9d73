"""``numbaconv cache``: what has been compiled and kept on this machine, to be shown, filled and cleared."""

from __future__ import annotations

import re
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np

import numbaconv
from numbaconv import cache, nn
from numbaconv.arrays import compute_dtype
from numbaconv.cache import Entry
from numbaconv.cli.errors import UsageError, user_errors
from numbaconv.data import RandomShift
from numbaconv.nn import models, steps
from numbaconv.nn.replay import TIMES

_WIDTH = 48  # of the names of kernels
DTYPES = ("float16", "float32", "float64")


def show(options: Namespace) -> int:
    """Print where compiled kernels are, how many, and what of it is of no use any more."""
    with user_errors():
        found = list(cache.entries())
    usable, stale = [e for e in found if not e.stale], [e for e in found if e.stale]
    if options.list:
        _print_rows(usable)
    elsewhere = sorted({str(e.path.parent) for e in found} - {_folders()})
    facts = {
        "folder": "".join([_folders(), *(f", and to read only {path}" for path in elsewhere)]),
        "usable": _files(usable),
        "stale": _files(stale) + ("; numbaconv cache clear --stale removes them" if stale else ""),
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    for reason, count in sorted(Counter(_reason(entry.header) for entry in stale).items()):
        print(f"{'':<{width}}  {count} {reason}")
    return 0


def fill(options: Namespace) -> int:
    """Compile what a program may come to need, or see that it is there."""
    if numba.config.DISABLE_JIT:
        raise UsageError("nothing is compiled where NUMBA_DISABLE_JIT is set")
    if cache.folder() is None:
        raise UsageError(f"nothing can be kept: {_folders()}")
    start, compiled, loaded = time.perf_counter(), 0, 0

    def tell(kernel: str, seconds: float | None) -> None:
        nonlocal compiled, loaded
        if seconds is None:
            loaded += 1
        else:
            compiled += 1
            print(f"{dtype}  {kernel:<{_WIDTH}}  {seconds:5.1f} s", flush=True)

    with _telling(tell):
        for dtype in dict.fromkeys(compute_dtype(np.dtype(name)) for name in options.dtype):
            numbaconv.warmup([dtype])
            _train(dtype)
            _predict(dtype)
    if cache.failures:
        raise UsageError(cache.failures[0])
    print(f"{compiled} compiled, {loaded} were there, in {time.perf_counter() - start:.1f} s: {_folders()}")
    return 0


def clear(options: Namespace) -> int:
    """Remove compiled kernels, and no file that is not this package's."""
    with user_errors():
        removed = cache.clear(stale_only=options.stale)
    print(f"removed {_files(removed)}: {_folders()}")
    return 0


@contextmanager
def _telling(tell: Any) -> Iterator[None]:
    cache.listener = tell
    try:
        yield
    finally:
        cache.listener = None


def _train(dtype: np.dtype) -> None:
    """Steps of each optimizer, and predictions, by each layer that has kernels, for one thread and for several.

    There are as many of them as it takes until they are played from a tape.
    """
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1, dtype=dtype, rng=0),
        nn.Conv2d(3, 16, 3, padding=1, dtype=dtype, rng=0),
        nn.BatchNorm2d(16, dtype=dtype),
        nn.Residual(nn.ReLU()),
        nn.Residual(
            nn.Sequential(
                nn.Conv2d(16, 16, 1, bias=False, dtype=dtype),
                nn.BatchNorm2d(16, dtype=dtype),
                nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1, bias=False, dtype=dtype),
                nn.BatchNorm2d(16, dtype=dtype),
            )
        ),
        nn.ReLU(),
        nn.Conv2d(16, 16, 1, dtype=dtype, rng=0),
        nn.AvgPool2d(3, stride=1, padding=1),
        nn.MaxPool2d(2),
        nn.Dropout(),
        nn.Residual(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, dtype=dtype, rng=0))),
        nn.Conv2d(16, 16, 1, stride=2, dtype=dtype, rng=0),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 64, dtype=dtype, rng=0),
    )
    for optimizer in (nn.SGD(lr=0.1), nn.SGD(lr=0.1, momentum=0.9), nn.Adam()):
        trainer = nn.Trainer(model, optimizer)
        for count in (2, 64):
            images = rng.standard_normal((count, 1, 16, 16)).astype(dtype)
            for _ in range(steps.TIMES + 2):
                trainer.step(RandomShift(1)(images, rng), np.zeros(count, np.int64))
            trainer.predict(images, batch_size=count // 2)
    pooled = nn.Trainer(models.mnist_cnn(dtype=dtype), nn.SGD(lr=0.1, momentum=0.9))
    for _ in range(steps.TIMES + 2):
        pooled.step(np.zeros((64, 1, 28, 28), dtype), np.zeros(64, np.int64))
    pooled.predict(np.zeros((64, 1, 28, 28), dtype))
    colours = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, dtype=dtype, rng=0),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10, dtype=dtype, rng=0),
    )
    nn.Trainer(colours, nn.SGD(lr=0.1)).step(np.zeros((2, 3, 16, 16), dtype), np.zeros(2, np.int64))
    large = np.zeros((64, 16, 16, 16), dtype)
    RandomShift(1)(large, rng)
    numbaconv.conv2d_backward(
        large, large, np.zeros((16, 1, 1, 16), dtype), output_mask=(False, False, True), layout="NHWC"
    )


def _predict(dtype: np.dtype) -> None:
    """Predictions of a few images, and steps on them, until they are played from a tape, by each layer that is."""
    options: Any = {"dtype": dtype, "rng": 0}
    path = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, **options), nn.BatchNorm2d(16, dtype=dtype))
    images = (nn.Conv2d(1, 16, 5, padding=2, **options), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(), nn.Residual(path))
    pixels = (nn.ReLU(), nn.Residual(nn.ReLU()), nn.Conv2d(16, 32, 3, stride=2, **options))
    vectors = (nn.Linear(32, 288, **options), nn.Linear(288, 10, **options))
    flat = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, **options), nn.Conv2d(8, 16, 3, stride=2, **options), nn.Flatten()
    )
    for model in (nn.Sequential(*images, *pixels, nn.GlobalAvgPool2d(), *vectors), flat):
        for count in (1, 32):
            for _ in range(TIMES + 2):
                model.eval()(np.ones((count, 1, 16, 16), dtype))
        trainer = nn.Trainer(model, nn.SGD(lr=0.1, momentum=0.9))
        for _ in range(steps.TIMES + 2):
            trainer.step(np.ones((2, 1, 16, 16), dtype), np.zeros(2, np.int64))


def _print_rows(entries: Iterable[Entry]) -> None:
    """A line for every form of a kernel."""
    forms: dict[str, list[Entry]] = {}
    for entry in entries:
        forms.setdefault(_kernel(entry), []).append(entry)
    for kernel, files in sorted(forms.items()):
        dtypes = {name for file in files for name in re.findall(r"float\d+", (file.header or {}).get("types", ""))}
        print(f"{kernel:<{_WIDTH}}  {len(files):>3}  {_size(files):>8}  {', '.join(sorted(dtypes))}")


def _kernel(entry: Entry) -> str:
    return str((entry.header or {}).get("kernel", "?"))


def _reason(header: dict[str, Any] | None) -> str:
    """Why a file cannot be loaded."""
    made = (header or {}).get("build")
    if not isinstance(made, dict):
        return "damaged"
    others = {name: value for name, value in made.items() if cache.build().get(name) != value}
    if not others:
        return "of another user"
    names = [f"{name} {others[name]}" for name in ("Python", "numba", "llvmlite", "numpy", "CPU") if name in others]
    return f"of {', '.join(names)}" if names else "of other sources or settings"


def _folders() -> str:
    """The folder that is written to, or those that could not be."""
    folder = cache.folder()
    return str(folder) if folder else f"{' and '.join(map(str, cache.folders()))} can't be written"


def _files(entries: list[Entry]) -> str:
    if not entries:
        return "none"
    kernels = {_kernel(entry) for entry in entries if entry.header}
    return f"{_count(entries, 'file')} of {_count(kernels, 'kernel')}, {_size(entries)}"


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _size(entries: Iterable[Entry]) -> str:
    size = sum(entry.size for entry in entries)
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
