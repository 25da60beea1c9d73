"""Charts of a study, as PNG and SVG: ratios, the roofline, images a second, scaling over threads.

Colours are Okabe and Ito's, which all kinds of colour vision tell apart; every library has a marker of its own as well.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numbaconv.study import roofline
from numbaconv.study.reading import (
    by_setting,
    count,
    is_baseline,
    layer_cells,
    model_cells,
    others,
    said,
    works,
)
from numbaconv.study.results import OURS, Cell, Study, geomean
from numbaconv.study.roofline import fixed_ticks, legend_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

#: Ours first.
BLUE, PEER_COLOURS = "#0072B2", ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A7A00", "#000000")
PEER_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
GREYS, BASELINE_MARKERS = ("#8C8C8C", "#5C5C5C", "#ADADAD"), ("1", "2", "3")
#: Baselines may be this many times slower and still stretch the axis of ratios.
FARTHEST_BASELINE = 20.0

STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.titlesize": 15,
    "figure.titleweight": "bold",
    "savefig.dpi": 150,
    # Text stays text: it can be searched, and the same study gives the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "numbaconv",
}


def draw(study: Study, folder: Path) -> list[Path]:
    """Draw what the study has into a folder, which is made if need be; the files that were written.

    Raises
    ------
    ImportError
        matplotlib is missing.
    """
    try:
        from matplotlib import style
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "numbaconv[study]"') from error
    folder.mkdir(parents=True, exist_ok=True)
    # Figures are made without pyplot, in a style of their own: the user's backend and settings stay as they are.
    with style.context(["default", STYLE]):
        figures = {**_ratio_figures(study), **_rooflines(study), **_speed_figures(study), **_scaling_figures(study)}
        return [path for name, figure in figures.items() for path in _save(figure, folder / name)]


def _save(figure: Figure, path: Path) -> list[Path]:
    paths = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "svg")]
    for target in paths:
        # The second file has the layout of the first; finding it takes longer than drawing.
        figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
        figure.set_layout_engine("none")
    return paths


def _figure(width: float, height: float, title: str) -> Figure:
    """A figure with a title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr,call-arg]
    figure.suptitle("\n".join(textwrap.wrap(title, int(7.5 * width))), x=0.01, ha="left")
    return figure


def _machine(study: Study) -> str:
    """The CPU and the day."""
    facts = [study.machine.get("CPU", "").partition(" (LLVM")[0], str(study.settings.get("date", ""))[:10]]
    return ", ".join(fact for fact in facts if fact)


def looks(study: Study) -> dict[str, dict[str, Any]]:
    """Colour and marker of each library; the same in all figures of a study."""
    styles: dict[str, dict[str, Any]] = {OURS: {"color": BLUE, "marker": "*"}}
    peers = [name for name in others(study.cells) if not is_baseline(name)]
    baselines = [name for name in others(study.cells) if is_baseline(name)]
    for index, name in enumerate(peers):
        colour, marker = PEER_COLOURS[index % len(PEER_COLOURS)], PEER_MARKERS[index % len(PEER_MARKERS)]
        styles[name] = {"color": colour, "marker": marker}
    for index, name in enumerate(baselines):
        styles[name] = {"color": GREYS[index % len(GREYS)], "marker": BASELINE_MARKERS[index % len(BASELINE_MARKERS)]}
    return styles


# -------------------------------------------------------------------------------------------------------------- ratios


def _ratio_figures(study: Study) -> dict[str, Figure]:
    """A figure for each layout and number of threads, with a panel for each pass."""
    groups = by_setting(layer_cells(study))
    return {
        f"ratio-{layout}-{threads}-thread{'s' if threads > 1 else ''}": _ratio_figure(study, cells)
        for (threads, layout), cells in groups.items()
        if any(cell.ratio(name) > 0 for cell in cells for name in others(cells))
    }


def _ratio_figure(study: Study, cells: list[Cell]) -> Figure:
    layers = list(dict.fromkeys(cell.name for cell in cells))
    height = 2.6 + 0.3 * (len(layers) + 1)
    title = f"Time of each library over {OURS}'s: {cells[0].layout}, {count(cells[0].threads, 'thread')}"
    passes = works(cells)
    figure = _figure(2.3 + 3.7 * len(passes), height, title)
    panels = figure.subplots(1, len(passes), sharex=True, sharey=True, squeeze=False)[0]
    low, high = _ratio_limits(cells)
    for axes, work in zip(panels, passes, strict=True):
        _ratio_panel(axes, layers, [cell for cell in cells if cell.work == work], looks(study), high)
        axes.set_title(said(work))
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        _times_ticks(axes.xaxis, low, high)
    panels[0].set_yticks(range(len(layers) + 1), [*layers, "geometric mean"])
    panels[0].set_ylim(len(layers) + 0.5, -0.5)
    panels[0].get_yticklabels()[-1].set_fontweight("bold")
    shown = [name for name in others(cells) if any(cell.ratio(name) > 0 for cell in cells)]
    _below(figure, _ratio_caption(study, cells), looks(study), shown)
    return figure


def _ratio_panel(
    axes: Axes, layers: list[str], cells: list[Cell], styles: dict[str, dict[str, Any]], high: float
) -> None:
    names = others(cells)
    axes.axvspan(1, high, color=BLUE, alpha=0.06, linewidth=0)
    axes.axvline(1, color="#333333", linewidth=1.5)
    axes.axhline(len(layers) - 0.5, color="#333333", linewidth=0.8)
    axes.grid(axis="y", visible=False)
    for row in range(0, len(layers), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.035, linewidth=0)
    for index, name in enumerate(names):
        # Libraries have their own heights within a row, so that equal ratios don't hide each other.
        shift = 0.5 * ((index + 0.5) / len(names) - 0.5)
        points = [(cell.ratio(name), layers.index(cell.name)) for cell in cells if cell.ratio(name) > 0]
        points.append((geomean([ratio for ratio, _ in points]), len(layers)))
        _dots(axes, [(ratio, row + shift) for ratio, row in points if ratio > 0], styles[name], high)
    axes.tick_params(axis="y", length=0)


def _dots(axes: Axes, points: list[tuple[float, float]], look: dict[str, Any], high: float) -> None:
    """Points of a library; those beyond the axis become arrows at its edge."""
    edge = high / 1.06
    inside = [point for point in points if point[0] <= edge]
    beyond = [row for ratio, row in points if ratio > edge]
    baseline = look["marker"] in BASELINE_MARKERS
    rim: dict[str, Any] = {} if baseline else {"edgecolors": "white", "linewidths": 0.5}
    xs, ys = [ratio for ratio, _ in inside], [row for _, row in inside]
    axes.scatter(xs, ys, s=50 if baseline else 42, zorder=2 if baseline else 3, **look, **rim)
    axes.scatter([edge] * len(beyond), beyond, s=22, marker=">", color=look["color"], zorder=2)


def _ratio_limits(cells: list[Cell]) -> tuple[float, float]:
    ratios = {name: [cell.ratio(name) for cell in cells if cell.ratio(name) > 0] for name in others(cells)}
    peers = [ratio for name, found in ratios.items() if not is_baseline(name) for ratio in found]
    yardsticks = [ratio for name, found in ratios.items() if is_baseline(name) for ratio in found]
    if peers:
        yardsticks = [min(ratio, FARTHEST_BASELINE) for ratio in yardsticks]
    shown = peers + yardsticks
    return min(0.45, min(shown) / 1.2), max(1.5, max(shown) * 1.2)


def _times_ticks(axis: Axis, low: float, high: float) -> None:
    """The ticks 0.5×, 1×, 2×, 5×, 10×, …"""
    steps = (1, 2, 5) if high / low < 300 else (1,)
    ticks = [step * 10.0**power for power in range(-4, 6) for step in steps]
    fixed_ticks(axis, {tick: f"{tick:g}×" for tick in ticks if low <= tick <= high})


def _ratio_caption(study: Study, cells: list[Cell]) -> str:
    lines = [f"right of 1×, on blue: {OURS} is faster      left of it: the other one is"]
    farthest = max(cell.ratio(name) for cell in cells for name in others(cells) if cell.ratio(name) > 0)
    if farthest > _ratio_limits(cells)[1]:
        lines[0] += f"      ▶ at the edge: beyond it, up to {farthest:,.0f}×"
    left_out: dict[str, list[str]] = {}
    for cell in cells:
        for name, timing in cell.timings.items():
            if timing.status != "ok":
                left_out.setdefault(name, []).append(timing.status)
    if left_out:
        texts = [
            f"{name} in {count(len(why), 'cell')} ({', '.join(sorted(set(why)))})" for name, why in left_out.items()
        ]
        lines.append(f"Not shown: {'; '.join(texts)}")
    return "\n".join([*lines, _machine(study)])


def _below(figure: Figure, caption: str, styles: dict[str, dict[str, Any]], names: Sequence[str]) -> None:
    """A caption and a legend below the panels."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle="", markersize=8, label=name, **styles[name]) for name in names]
    legend_below(figure, caption, handles)


# ------------------------------------------------------------------------------------------------------------ roofline


def _rooflines(study: Study) -> dict[str, Figure]:
    """A figure for each number of threads, with a panel for each layout."""
    figures = {}
    for threads in sorted({cell.threads for cell in study.cells}):
        points = roofline.points(study, threads)
        if points:
            figure = _figure(13.3, 7.5, f"Roofline: {OURS} and the fastest peer, {count(threads, 'thread')}")
            roofline.draw(figure, study, threads, points, _machine(study))
            figures[f"roofline-{threads}-thread{'s' if threads > 1 else ''}"] = figure
    return figures


# -------------------------------------------------------------------------------------------------------------- models


def _speed_figures(study: Study) -> dict[str, Figure]:
    """Images a second of models: a figure for each work, a panel for each model and number of threads."""
    cells = [cell for cell in model_cells(study) if any(cell.seconds(name) > 0 for name in cell.timings)]
    return {
        f"{work.replace(' ', '-')}-images-per-second": _speed_figure(study, work, [c for c in cells if c.work == work])
        for work in works(cells)
    }


def _speed_figure(study: Study, work: str, cells: list[Cell]) -> Figure:
    across = min(len(dict.fromkeys((cell.name, cell.layout) for cell in cells)), 4)
    down = math.ceil(len(cells) / across)
    bars = max(len(cell.timings) for cell in cells)
    figure = _figure(
        max(6.7, 0.9 + 3.1 * across), 1.3 + down * (0.9 + 0.34 * bars), _capital(f"{work}: images a second")
    )
    panels = figure.subplots(down, across, squeeze=False)
    several = len({cell.layout for cell in cells}) > 1
    ordered = sorted(cells, key=lambda cell: cell.threads)
    names = [name for name in study.libraries() if any(cell.seconds(name) > 0 for cell in cells)]
    for index, axes in enumerate(panels.flat):
        if index >= len(ordered):
            axes.set_axis_off()
            continue
        cell = ordered[index]
        _bars(axes, cell, names, looks(study), labelled=index % across == 0)
        layout = f", {cell.layout}" if several else ""
        axes.set_title(f"{cell.name}{layout}, {count(cell.threads, 'thread')}", fontsize=11)
    legend_below(figure, _machine(study), [])
    return figure


def _bars(axes: Axes, cell: Cell, names: list[str], styles: dict[str, dict[str, Any]], labelled: bool) -> None:
    speeds = [cell.images / cell.seconds(name) for name in names]
    fastest = max(speed for speed in speeds if speed > 0)
    for row, (name, speed) in enumerate(zip(names, speeds, strict=True)):
        if speed > 0:
            axes.barh(row, speed, height=0.7, color=styles[name]["color"])
        axes.text((speed if speed > 0 else 0) + 0.02 * fastest, row, _speed(cell, name), va="center", fontsize=10)
    axes.set_xlim(0, fastest * 1.3)
    axes.set_yticks(range(len(names)), names if labelled else [""] * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)


def _speed(cell: Cell, library: str) -> str:
    timing = cell.timings.get(library)
    if timing is not None and timing.status != "ok":
        return timing.status
    speed = cell.images / cell.seconds(library)
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}" if speed > 0 else "–"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# ------------------------------------------------------------------------------------------------------------- scaling


def _scaling_figures(study: Study) -> dict[str, Figure]:
    """Speed over threads, a panel for each work; nothing where one number of threads was measured."""
    curves = {work: _curves([cell for cell in study.cells if cell.work == work]) for work in works(study.cells)}
    curves = {work: found for work, found in curves.items() if found}
    if not curves:
        return {}
    across = min(len(curves), 3)
    down = math.ceil(len(curves) / across)
    figure = _figure(max(6.7, 1 + 4.1 * across), 1.5 + 3.7 * down, "Speed over threads")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    for axes, (work, found) in zip(panels, curves.items(), strict=False):
        _scaling_panel(axes, found, looks(study))
        axes.set_title(_capital(said(work)))
    fewest = count(min(cell.threads for cell in study.cells), "thread")
    figure.supylabel(f"speed relative to {OURS} on {fewest}", fontsize=11)
    caption = [
        "geometric means over cells measured with every number of threads; dotted: in proportion to threads",
        f"beside the names: how many times as fast as the same library on {fewest}",
        _machine(study),
    ]
    legend_below(figure, "\n".join(caption), [])
    return {"scaling": figure}


#: A library's speed for each number of threads.
Curve = dict[int, float]


def _curves(cells: list[Cell]) -> dict[str, Curve]:
    """For each library its speed by threads, where ours with the fewest threads is 1 in every cell."""
    threads = sorted({cell.threads for cell in cells})
    if len(threads) < 2:
        return {}
    groups: dict[tuple[str, str, str], dict[int, Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.name, cell.what, cell.layout), {})[cell.threads] = cell
    whole = [group for group in groups.values() if len(group) == len(threads) and group[threads[0]].seconds(OURS) > 0]
    found: dict[str, Curve] = {}
    for name in dict.fromkeys([OURS, *others(cells)]):
        valid = [group for group in whole if all(cell.seconds(name) > 0 for cell in group.values())]
        if valid:
            found[name] = {
                number: geomean([group[threads[0]].seconds(OURS) / group[number].seconds(name) for group in valid])
                for number in threads
            }
    return found


def _scaling_panel(axes: Axes, found: dict[str, Curve], styles: dict[str, dict[str, Any]]) -> None:
    threads = sorted(next(iter(found.values())))
    speeds = [speed for curve in found.values() for speed in curve.values()]
    low, high = min(speeds) / 1.5, max(speeds) * 1.5
    for name, curve in found.items():
        axes.plot(threads, [curve[number] for number in threads], linewidth=1.8, markersize=8, **styles[name])
        ideal = [curve[threads[0]] * number / threads[0] for number in threads]
        axes.plot(threads, ideal, color=styles[name]["color"], linestyle=(0, (2, 3)), linewidth=0.9, zorder=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _times_ticks(axes.yaxis, low, high)
    axes.set_ylim(low, high)
    margin = (threads[-1] / threads[0]) ** 0.08
    axes.set_xlim(threads[0] / margin, threads[-1] * margin)
    fixed_ticks(axes.xaxis, {number: str(number) for number in threads})
    axes.set_xlabel("threads")
    _name_curves(axes, found, styles, low, high)


def _name_curves(
    axes: Axes, found: dict[str, Curve], styles: dict[str, dict[str, Any]], low: float, high: float
) -> None:
    """Names at the right ends of the curves, moved apart where they would overlap."""
    ends = sorted((curve[max(curve)], name) for name, curve in found.items())
    wanted = [math.log(end / low) / math.log(high / low) for end, _ in ends]
    for (_, name), at, place in zip(ends, wanted, roofline.spread(wanted, 0.07), strict=True):
        curve, colour = found[name], styles[name]["color"]
        gain = curve[max(curve)] / curve[min(curve)]
        axes.plot([1, 1.04], [at, place], transform=axes.transAxes, color=colour, linewidth=0.8, clip_on=False)
        text = f"{name} {gain:.2f}×"
        weight = "bold" if name == OURS else "normal"
        axes.text(1.05, place, text, transform=axes.transAxes, va="center", fontsize=10, weight=weight)
