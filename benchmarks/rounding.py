"""Measure rounding errors, and write the tables and the figure of docs/winograd.md.

    python benchmarks/rounding.py

What is measured are float32 and float64 results of ``algorithm="winograd"``, of ``"direct"`` and, where it is
installed, of PyTorch. They are held against the same sums in NumPy, tap by tap, in float64 and in ``numpy.longdouble``
(of 64 bits of precision on x86; elsewhere it may be no wider than float64, whose errors then can't be told).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

import numbaconv
from numbaconv.kernels import cook_toom
from numbaconv.study.figures import BLUE, PEER_COLOURS, STYLE

DOCS = Path(__file__).parent.parent / "docs"
PAGE, FIGURE = DOCS / "winograd.md", DOCS / "figures" / "rounding.svg"
PASSES = ("forward", "grad input", "grad weight")
#: What ``auto`` keeps in float32, of the largest output.
BOUND = 2e-5

Library = Callable[[str, "Arrays"], np.ndarray]


class Arrays(NamedTuple):
    """The operands of a 3 x 3 convolution with stride 1."""

    x: np.ndarray
    w: np.ndarray
    z: np.ndarray
    padding: int = 1

    def astype(self, dtype: Any) -> Arrays:
        return Arrays(*(array.astype(dtype) for array in self[:3]), self.padding)


class Case(NamedTuple):
    """Channels (as many of the output, unless it says otherwise), some images, and what kind of numbers."""

    channels: int = 64
    size: tuple[int, int] = (14, 14)
    images: int = 4
    kind: str = "normal"
    scale: float = 1.0
    outputs: int = 0

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(14)
        outputs = self.outputs or self.channels
        image, result = ((self.images, channels, *self.size) for channels in (self.channels, outputs))
        shapes = image, (outputs, self.channels, 3, 3), result
        x, w, z = (rng.standard_normal(shape) for shape in shapes)
        if self.kind == "uniform":
            x, z = rng.random(image), np.where(rng.random(result) < 0.5, z, 0.0)
        elif self.kind == "positive":
            x, w, z = (rng.random(shape) for shape in shapes)
        elif self.kind == "outlier":
            x[0, 0, 6, 6] = z[0, 0, 6, 6] = 1e4
        return Arrays(x * self.scale, w, z * self.scale)


CHANNELS, SIZES = (16, 32, 64, 128, 256, 512), ((7, 7), (14, 14), (32, 32), (56, 56))
CASES = {
    **{f"{channels} channels": Case(channels) for channels in CHANNELS},
    **{f"{h} × {w} pixels": Case(size=(h, w)) for h, w in (*SIZES, (17, 23))},
    "256 channels, 7 × 7 pixels": Case(256, (7, 7), 16),
    "1 image, 129 × 127 pixels": Case(32, (129, 127), 1),
    "numbers around 1e-20": Case(scale=1e-20),
    "numbers around 1e12": Case(scale=1e12),
    "uniform in 0 … 1, as after ReLU; half the gradients 0": Case(kind="uniform"),
    "weights and gradients positive too": Case(kind="positive"),
    "one number of 10,000 among normal ones": Case(kind="outlier"),
}
CASES_64 = {
    **{f"{channels} channels": Case(channels, images=1) for channels in (16, 64, 256)},
    "17 × 23 pixels": Case(size=(17, 23), images=1),
    "uniform in 0 … 1, as after ReLU; half the gradients 0": Case(images=1, kind="uniform"),
    "one number of 10,000 among normal ones": Case(images=1, kind="outlier"),
}


def exact(work: str, arrays: Arrays) -> np.ndarray:
    """The pass as products of matrices, one for each tap, in the dtype of the arrays."""
    x, w, z, padding = arrays
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    H, W = z.shape[2:]
    pixels = z.reshape(*z.shape[:2], H * W)
    result = np.zeros({"forward": z, "grad input": x, "grad weight": w}[work].shape, z.dtype)
    for kh, kw in np.ndindex(3, 3):
        rows, columns = slice(kh, kh + H), slice(kw, kw + W)
        if work == "forward":
            patch = x[:, :, rows, columns].reshape(*x.shape[:2], H * W)
            result += (w[:, :, kh, kw] @ patch).reshape(z.shape)
        elif work == "grad input":
            result[:, :, rows, columns] += (w[:, :, kh, kw].T @ pixels).reshape(*x.shape[:2], H, W)
        else:
            patch = x[:, :, rows, columns].reshape(*x.shape[:2], H * W)
            result[:, :, kh, kw] = (pixels @ patch.transpose(0, 2, 1)).sum(0)
    return result[:, :, padding:-padding, padding:-padding] if work == "grad input" and padding else result


def ours(algorithm: Any) -> Library:
    def run(work: str, arrays: Arrays) -> np.ndarray:
        x, w, z, padding = arrays
        if work == "forward":
            return numbaconv.conv2d(x, w, padding=padding, algorithm=algorithm)
        if work == "grad input":
            return numbaconv.conv2d_input(x.shape, w, z, padding=padding, algorithm=algorithm)
        return numbaconv.conv2d_weight(x, w.shape, z, padding=padding, algorithm=algorithm)

    return run


def torch(work: str, arrays: Arrays) -> np.ndarray:
    import torch
    from torch.nn import functional, grad

    x, w, z = (torch.from_numpy(array) for array in arrays[:3])
    if work == "forward":
        return functional.conv2d(x, w, padding=arrays.padding).numpy()
    if work == "grad input":
        return grad.conv2d_input(x.shape, w, z, padding=arrays.padding).numpy()
    return grad.conv2d_weight(x, w.shape, z, padding=arrays.padding).numpy()


LIBRARIES: dict[str, Library] = {"winograd": ours("winograd"), "direct": ours("direct")}
if find_spec("torch"):
    LIBRARIES["PyTorch"] = torch


class Error(NamedTuple):
    """Largest |error| over largest |output|, and mean |error| over mean |output|."""

    largest: float
    mean: float


def error(result: np.ndarray, right: np.ndarray) -> Error:
    off, size = abs(result - right), abs(right)
    return Error(float(off.max() / size.max()), float(off.mean() / size.mean()))


def errors(arrays: Arrays, dtype: Any) -> Iterator[Error]:
    """Of every library, pass by pass; both sides begin with the same rounded numbers."""
    rounded = arrays.astype(dtype)
    precise = rounded.astype(np.float64 if dtype == np.float32 else np.longdouble)
    for work in PASSES:
        right = exact(work, precise)
        yield from (error(run(work, rounded), right) for run in LIBRARIES.values())


# --- What is written --------------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of Markdown, and an empty one."""
    return [f"| {' | '.join(row)} |" for row in (head, [":--", *["--:"] * (len(head) - 1)], *rows)] + [""]


def measured(cases: dict[str, Case], dtype: Any, unit: float) -> tuple[list[str], dict[str, list[Error]]]:
    """A table, "largest (mean)" in a unit, and what it is made of."""
    found = {title: list(errors(case.arrays(), dtype)) for title, case in cases.items()}
    rows = [[title, *(f"{e.largest / unit:.2f} ({e.mean / unit:.2f})" for e in row)] for title, row in found.items()]
    worst = [max(row[i].largest for row in found.values()) for i in range(len(PASSES) * len(LIBRARIES))]
    rows.append(["**the largest of all**", *(f"**{value / unit:.2f}**" for value in worst)])
    return table(["", *(f"{work}, {name}" for work in PASSES for name in LIBRARIES)], rows), found


def limits() -> list[str]:
    """Largest errors on numbers that are hard on Winograd's algorithm, or on every sum in float32."""

    def row(title: str, arrays: Arrays, work: str, part: Any = ...) -> list[str]:
        rounded = arrays.astype(np.float32)
        right = exact(work, rounded.astype(np.float64))[part]
        return [title, *(f"{error(run(work, rounded)[part], right).largest:.1e}" for run in LIBRARIES.values())]

    rows = []
    for size in (100, 10_000, 1_000_000):
        arrays = Case().arrays()
        arrays.x[0, 0, 0, 0] = size  # reaches the outputs (0, 0) to (1, 1); its tile is (0, 0) to (3, 3)
        beside = (0, slice(None), slice(2, 4), slice(2, 4))
        rows.append(row(f"forward, only what lies beside an outlier of {size:,}", arrays, "forward", beside))
    for mean in (100, 10_000):
        x, w, z, _ = Case().arrays()
        w = (8 * w).round() / 8  # so that rounding leaves the sums at 0
        w[:, :, 1, 1] -= w.sum((2, 3))
        arrays = Arrays(x + mean, w, z[:, :, 1:-1, 1:-1], padding=0)
        rows.append(row(f"forward, images around {mean:,}, taps that add up to 0", arrays, "forward"))
    for channels in (2_048, 8_192):
        x, w, z, _ = Case(channels, (8, 8), 1, outputs=32).arrays()
        rows.append(row(f"forward, {channels:,} input channels", Arrays(x, w, z), "forward"))
    for kind in ("normal", "positive"):
        arrays = Case(16, (56, 56), 128, kind).arrays()
        rows.append(row(f"grad weight, {128 * 56 * 56:,} pixels, {kind} numbers", arrays, "grad weight"))
    return table(["", *LIBRARIES], rows)


def points() -> list[str]:
    """Errors of F(4 x 4, 3 x 3) with other points, in NumPy's float32: 400 tiles, 64 channels to 8."""
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal((64, 400, 1, 6, 6), np.float32), rng.standard_normal((64, 1, 8, 3, 3), np.float32)
    single, right = (sum_of_taps(d.astype(dtype), g.astype(dtype)) for dtype in (np.float32, np.float64))
    found = {"none: direct sums": error(single, right)}
    choices = {
        "0, ±1, ±2, as in textbooks": "0 1 -1 2 -2",
        "0, ±1, 1/2, -2": "0 1 -1 1/2 -2",
        "**0, ±5/8, ±3/2**, which are ours": "0 5/8 -5/8 3/2 -3/2",
    }
    for title, finite in choices.items():
        with patch.dict(cook_toom.POINTS, {6: tuple(map(Fraction, finite.split()))}):
            matrices = cook_toom.input_matrix(6), cook_toom.tap_matrix(6, 3), cook_toom.output_matrix(4, 6)
        B, G, A = (np.array(matrix, float).astype(np.float32) for matrix in matrices)
        M = np.zeros((400, 8, 6, 6), np.float32)
        for pixels, taps in zip(d, g, strict=True):
            M += (B @ pixels @ B.T) * (G @ taps @ G.T)
        found[title] = error(A @ M @ A.T, right)
    rows = [[title, f"{e.largest:.1e}", f"{e.mean:.1e}"] for title, e in found.items()]
    return table(["points, beside infinity", "largest error", "mean error"], rows)


def sum_of_taps(d: np.ndarray, g: np.ndarray) -> np.ndarray:
    """4 x 4 outputs of tiles of 6 x 6 pixels, product by product."""
    y = np.zeros((d.shape[1], g.shape[2], 4, 4), d.dtype)
    for pixels, taps in zip(d, g, strict=True):
        for i, j in np.ndindex(3, 3):
            y += pixels[..., i : i + 4, j : j + 4] * taps[..., i, j, None, None]
    return y


def draw(found: dict[str, list[Error]]) -> None:
    """Errors by channels, and by the size of the image, a column a pass."""
    from matplotlib import style
    from matplotlib.figure import Figure

    looks = dict(zip(LIBRARIES, ((BLUE, "o"), (PEER_COLOURS[0], "s"), (PEER_COLOURS[1], "^")), strict=False))
    rows = {
        "channels (14 × 14 pixels)": (CHANNELS, [f"{channels} channels" for channels in CHANNELS]),
        "height and width (64 channels)": ([h for h, _ in SIZES], [f"{h} × {w} pixels" for h, w in SIZES]),
    }
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(11, 6.6), layout="constrained")
        axes = figure.subplots(2, 3, sharey=True)
        for axis, work in zip(axes[0], PASSES, strict=True):
            axis.set_title(work)
        for line, (label, (ticks, titles)) in zip(axes, rows.items(), strict=True):
            for column, axis in enumerate(line):
                for number, (name, (colour, marker)) in enumerate(looks.items()):
                    values = [found[title][column * len(LIBRARIES) + number] for title in titles]
                    axis.plot(ticks, [e.largest for e in values], color=colour, marker=marker, label=f"{name}, largest")
                    axis.plot(ticks, [e.mean for e in values], color=colour, marker=marker, ls=":", mfc="none",
                              label=f"{name}, mean")  # fmt: skip
                axis.axhline(BOUND, color="#555555", ls="--", label="bound of the largest")
                axis.set(xscale="log", yscale="log", xlabel=label, ylim=(5e-8, 4e-5))
                axis.set_xticks(ticks, ticks)
                axis.minorticks_off()
            line[0].set_ylabel("error / output")
        figure.suptitle("Rounding errors in float32, normal numbers", x=0.01, ha="left")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        FIGURE.parent.mkdir(exist_ok=True)
        figure.savefig(FIGURE, metadata={"Date": None})


def write(parts: dict[str, list[str]]) -> None:
    """Put every part between its marks in the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in parts.items():
        mark = f"<!-- {name}: written by benchmarks/rounding.py -->\n"
        new = "\n".join(lines)
        text, times = re.subn(
            f"({re.escape(mark)}).*?(<!-- end -->)", lambda m, new=new: f"{m[1]}\n{new}\n{m[2]}", text, flags=re.S
        )
        assert times == 1, f"{PAGE} has no part {name!r}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    single, found = measured(CASES, np.float32, 1e-6)
    double, _ = measured(CASES_64, np.float64, 1e-15)
    draw(found)
    write({"float32": single, "float64": double, "limits": limits(), "points": points()})


if __name__ == "__main__":
    main()
