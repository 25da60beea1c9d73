"""A figure of a training: its curves, what the model confuses, and what its first layer looks for.

matplotlib is needed. Colours are Okabe and Ito's, which all kinds of colour vision tell apart.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numbaconv.nn.files import write_file
from numbaconv.nn.module import Module
from numbaconv.nn.records import Epoch, Evaluation
from numbaconv.values import as_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
BLUE, ORANGE = "#0072B2", "#D55E00"
STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "legend.edgecolor": "none",
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "numbaconv",
}
#: More classes than this are not written into the cells of a confusion matrix, nor each on its axes.
MOST_NUMBERS, MOST_NAMES = 12, 20
#: More filters than this would be too small to be seen.
MOST_FILTERS = 64
#: With fewer epochs than this every one gets a dot.
FEW_EPOCHS = 25
#: Losses that span more than this are drawn on a logarithmic axis.
WIDE = 20.0


def plot_training(
    path: str | os.PathLike[str],
    history: Sequence[Epoch],
    evaluation: Evaluation | None = None,
    model: Module | None = None,
    *,
    title: str = "",
    measured_on: str = "validation",
    class_names: Sequence[str] | None = None,
) -> None:
    """Draw a training into a file.

    Parameters
    ----------
    path : path-like
        Ends in ``.png``, ``.svg`` or ``.pdf``.
    history : sequence of Epoch
        What :meth:`Trainer.fit` gave: curves of the loss and of the accuracy.
    evaluation : Evaluation, optional
        What :meth:`Trainer.evaluate` gave: the confusion matrix.
    model : Module, optional
        The filters of its first convolution.
    title : str
        Stands above everything.
    measured_on : str
        What the ``validation`` of the history was.
    class_names : sequence of str, optional
        By default the classes are numbers.

    Raises
    ------
    ModuleNotFoundError
        matplotlib is not installed.
    TypeError
        The path is no path, or the history no list of epochs.
    ValueError
        The path ends in something else, or the history is empty.
    OSError
        The file cannot be written.
    """
    path = as_path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} must end in .png, .svg or .pdf")
    if not isinstance(history, Sequence) or not all(isinstance(epoch, Epoch) for epoch in history):
        raise TypeError(f"history must be a list of nn.Epoch, as Trainer.fit gives it, got {history!r}")
    if not history:
        raise ValueError("there are no epochs to draw")
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('figures need matplotlib: pip install "numbaconv[study]"') from error
    filters = None if model is None else first_filters(model)
    labelled = evaluation is not None and evaluation.labels is not None
    rows = 1 + (labelled or filters is not None)
    content = io.BytesIO()
    # Figures are made without pyplot, in a style of their own: the user's backend and settings stay as they are.
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(10, 4 if rows == 1 else 9), layout="constrained")
        figure.suptitle(title)
        grid = figure.add_gridspec(rows, 2, height_ratios=[1, 1.35][:rows])
        classified = history[0].accuracy is not None
        _draw_loss(figure.add_subplot(grid[0, 0] if classified else grid[0, :]), history, measured_on)
        if classified:
            _draw_accuracy(figure.add_subplot(grid[0, 1]), history, measured_on)
        if evaluation is not None and labelled:
            area = grid[1, 0] if filters is not None else grid[1, :]
            _draw_confusion(figure, figure.add_subplot(area), evaluation, class_names)
        if filters is not None:
            _draw_filters(figure.add_subplot(grid[1, 1] if labelled else grid[1, :]), filters)
        # Without dates in it, the same training gives the same file.
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
        figure.savefig(content, format=path.suffix[1:].lower(), metadata=metadata)
    write_file(path, content.getvalue())


def first_filters(model: Module) -> np.ndarray | None:
    """The weight ``(OC, C, KH, KW)`` of the first convolution; None where there is none."""
    return next((parameter.data for parameter in model.parameters() if parameter.data.ndim == 4), None)


def _draw_loss(axes: Axes, history: Sequence[Epoch], measured_on: str) -> None:
    training = [epoch.loss for epoch in history]
    validation = [math.nan if epoch.validation_loss is None else epoch.validation_loss for epoch in history]
    _draw_curves(axes, history, training, validation, measured_on)
    known = [loss for loss in training + validation if math.isfinite(loss)]
    if known and min(known) > 0 and max(known) / min(known) > WIDE:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set(title="Loss", xlabel="epoch")


def _draw_accuracy(axes: Axes, history: Sequence[Epoch], measured_on: str) -> None:
    axes.set(title="Accuracy", xlabel="epoch")
    training, validation = (
        [math.nan if share is None else 100 * share for share in shares]
        for shares in ([epoch.accuracy for epoch in history], [epoch.validation_accuracy for epoch in history])
    )
    _draw_curves(axes, history, training, validation, measured_on)
    axes.yaxis.set_major_formatter("{x:g}%")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 101))


def _draw_curves(
    axes: Axes, history: Sequence[Epoch], training: list[float], validation: list[float], measured_on: str
) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = [epoch.epoch for epoch in history]
    marker = "o" if len(epochs) <= FEW_EPOCHS else ""
    axes.plot(epochs, training, color=BLUE, marker=marker, markersize=4, label="training")
    if not all(map(math.isnan, validation)):
        axes.plot(epochs, validation, color=ORANGE, marker=marker, markersize=4, label=measured_on)
        axes.legend()
    axes.grid()
    if len(epochs) == 1:
        axes.set_xticks(epochs)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_confusion(figure: Figure, axes: Axes, evaluation: Evaluation, class_names: Sequence[str] | None) -> None:
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator

    counts, classes = evaluation.confusion_matrix, evaluation.classes
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # A power below 1 spreads the low end: most errors are rare, and would all look white.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, 0, 100), interpolation="nearest")
    axes.set(title="Confusion matrix", xlabel="prediction", ylabel="label")
    axes.spines[:].set_visible(False)
    if classes <= MOST_NAMES:
        names = [str(name) for name in class_names or range(classes)]
        axes.set_xticks(range(classes), names)
        axes.set_yticks(range(classes), names)
        axes.tick_params(length=0)
        if max(map(len, names)) > 2:
            for label in axes.get_xticklabels():
                label.set(rotation=45, ha="right", rotation_mode="anchor")
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(10, integer=True))
    if classes <= MOST_NUMBERS:
        size = min(9.0, 90 / classes) - 2 * (counts.max() >= 1000)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 30 else "black"
                axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=size)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, ticks=[0, 1, 5, 20, 50, 100], format="{x:g}%")
    bar.set_label("of the images of a label")
    bar.outline.set_visible(False)


def _draw_filters(axes: Axes, filters: np.ndarray) -> None:
    """One image of all filters: in colour where there are three channels, else the mean over them, blue below 0."""
    shown = filters[:MOST_FILTERS].astype(np.float64)
    count, channels, KH, KW = shown.shape
    columns = math.ceil(math.sqrt(count * KH / KW))
    rows = math.ceil(count / columns)
    gap = 1 if max(KH, KW) > 2 else 0.5
    if channels == 3:
        tiles = (shown / (np.abs(shown).max() or 1.0) + 1).transpose(0, 2, 3, 1) / 2
        colours: dict[str, Any] = {}
    else:
        tiles = shown.mean(1)
        bound = np.abs(tiles).max() or 1.0
        colours = {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}
    for i, tile in enumerate(tiles):
        left, top = (i % columns) * (KW + gap), (i // columns) * (KH + gap)
        axes.imshow(tile, extent=(left, left + KW, top + KH, top), interpolation="nearest", **colours)
    title = f"First layer: {len(filters)} filters of {KH}×{KW}"
    title += f", {count} of them" if count < len(filters) else ""
    axes.set(title=title, xlim=(-gap, columns * (KW + gap)), ylim=(rows * (KH + gap), -gap), aspect="equal")
    axes.axis("off")
