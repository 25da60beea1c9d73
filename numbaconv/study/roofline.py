"""Where cells stand under the machine's roofs: operations a byte against operations a second."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numbaconv.study.layers import Layer
from numbaconv.study.reading import PASSES, hardest, layer_cells, said
from numbaconv.study.results import OURS, Cell, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

#: Colour and marker of each pass.
PASS_LOOKS = {"forward": ("#0072B2", "o"), "grad_input": ("#D55E00", "s"), "grad_weight": ("#009E73", "^")}
BYTES = 4  # float32
#: Names of layers stand at least this far apart, as a share of the axis.
NAME_GAP = 0.0135


@dataclass
class Point:
    """A cell: operations a byte, our GFLOP/s and the fastest peer's (NaN where there is none)."""

    cell: Cell
    intensity: float
    ours: float
    peer: float


def points(study: Study, threads: int) -> list[Point]:
    """All cells on so many threads whose operations and bytes are known."""
    found = []
    for cell in layer_cells(study):
        if cell.threads == threads and cell.gflops(OURS) > 0:
            intensity = cell.flop / moved(cell.what) if moved(cell.what) else math.nan
            if intensity > 0:
                found.append(Point(cell, intensity, cell.gflops(OURS), cell.gflops(hardest(cell)[0])))
    return found


def moved(descriptor: str) -> int:
    """Bytes of input, weight and output, each moved once, as all three passes do; 0 if it is no descriptor."""
    try:
        geometry = Layer.parse(descriptor).geometry()
    except ValueError:
        return 0
    shapes = geometry.input_shape, geometry.weight_shape, geometry.output_shape
    return BYTES * sum(map(math.prod, shapes))


def bandwidth(study: Study, threads: int) -> float:
    """GB/s of the memory, where the study says it, for this number of threads if it says that; else NaN."""
    said_so = {name: value for name, value in study.machine.items() if "bandwidth" in name.lower()}
    # A name such as "memory bandwidth, 2 threads" is for 2 threads.
    exact = [value for name, value in said_so.items() if re.search(rf"\b{threads}\b", name)]
    general = [value for name, value in said_so.items() if not re.search(r"\d", name)]
    match = re.search(r"\d+(\.\d+)?", (exact + general + [""])[0])
    return float(match[0]) if match else math.nan


def draw(figure: Figure, study: Study, threads: int, found: list[Point], caption: str) -> None:
    """Draw it all, a panel for each layout."""
    layouts = list(dict.fromkeys(point.cell.layout for point in found))
    panels = figure.subplots(1, len(layouts), sharey=True, squeeze=False)[0]
    peak, speed = study.peak.get(str(threads), math.nan), bandwidth(study, threads)
    values = [value for p in found for value in (p.ours, p.peer, peak) if value > 0]
    for axes, layout in zip(panels, layouts, strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(*_limits([point.intensity for point in found]))
        axes.set_ylim(*_limits(values))
        mine = [point for point in found if point.cell.layout == layout]
        _roofs(axes, peak, speed)
        _cells(axes, mine)
        _names(axes, mine, NAME_GAP * len(layouts))
        _ticks(axes)
        axes.set_xlabel(f"{layout}: operations a byte")
    panels[0].set_ylabel("GFLOP/s of the direct algorithm")
    legend_below(figure, "\n".join([*_notes(peak, speed, max(values)), caption]), _handles(found))


def _limits(values: list[float]) -> tuple[float, float]:
    """Of an axis: room on both sides, and a decade at least."""
    low, high = min(values) / 1.5, max(values) * 1.5
    widen = math.sqrt(max(1.0, 10 * low / high))
    return low / widen, high * widen


def _notes(peak: float, speed: float, fastest: float) -> list[str]:
    notes = ["bytes: input, weight and output, each moved once, in float32"]
    if fastest > peak:
        notes[0] += "; above the peak: algorithms with fewer operations, an effective figure"
    roofs = [f"flat roof: the measured FMA peak, {peak:.0f} GFLOP/s"] if peak > 0 else ["no FMA peak was measured"]
    slant = f"slanted roof: memory, {speed:.0f} GB/s" if speed > 0 else "no slanted roof: memory was not measured"
    return [*notes, "; ".join([*roofs, slant])]


def _roofs(axes: Axes, peak: float, speed: float) -> None:
    low, high = axes.get_xlim()
    corner = low
    if speed > 0:
        # Caches may lift cells above the memory's roof; it meets the peak where the arithmetic becomes the limit.
        corner = min(peak / speed, high) if peak > 0 else high
        axes.plot([low, corner], [low * speed, corner * speed], color="#333333", linewidth=1.8)
    if peak > 0 and corner < high:
        axes.plot([max(corner, low), high], [peak, peak], color="#333333", linewidth=1.8)


def _cells(axes: Axes, found: list[Point]) -> None:
    """Ours in colour, the fastest peer in grey; a line joins the two of a cell."""
    for point in found:
        x = _beside(axes, point)
        if point.peer > 0:
            axes.plot([x, x], [point.ours, point.peer], color="#BBBBBB", linewidth=1, zorder=1.5)
            marker = PASS_LOOKS[point.cell.work][1]
            axes.scatter(x, point.peer, s=20, marker=marker, facecolors="white", edgecolors="#777777", zorder=2)
    for work, (colour, marker) in PASS_LOOKS.items():
        mine = [point for point in found if point.cell.work == work]
        xs, ys = [_beside(axes, point) for point in mine], [point.ours for point in mine]
        axes.scatter(xs, ys, s=40, marker=marker, color=colour, edgecolors="white", linewidths=0.5, zorder=3)


def _beside(axes: Axes, point: Point) -> float:
    """Passes of a layer have the same intensity; they are drawn a little apart."""
    low, high = axes.get_xlim()
    return point.intensity * (high / low) ** (0.009 * (list(PASSES).index(point.cell.work) - 1))


def _handles(found: list[Point]) -> list[Line2D]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=8, label=f"{OURS}, {said(work)}")
        for work, (colour, marker) in PASS_LOOKS.items()
        if any(point.cell.work == work for point in found)
    ]
    if any(point.peer > 0 for point in found):
        look: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": "#777777", "markersize": 7}
        handles.append(Line2D([], [], linestyle="", marker="o", label="fastest peer in the same cell", **look))
    return handles


def legend_below(figure: Figure, caption: str, handles: list[Line2D]) -> None:
    """A legend below all panels, and a caption above its entries: one thing, so that they can't overlap."""
    width = int(12.5 * figure.get_figwidth())
    lines = [line for part in caption.splitlines() for line in textwrap.wrap(part, width)]
    rows = math.ceil(sum(len(str(handle.get_label())) + 8 for handle in handles) / (0.85 * width)) or 1
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=max(1, math.ceil(len(handles) / rows)), columnspacing=1.5,
        title="\n".join(lines) or None, title_fontsize=10,
    )  # fmt: skip
    legend.get_title().set_color("#444444")
    legend.get_title().set_multialignment("center")


def _names(axes: Axes, found: list[Point], gap: float) -> None:
    """Layers above the axes, upright, moved apart where they would overlap, each with a line down to its place."""
    places = sorted({(point.intensity, point.cell.name) for point in found})
    low, high = map(math.log, axes.get_xlim())
    wanted = [(math.log(intensity) - low) / (high - low) for intensity, _ in places]
    for place, x, (_, name) in zip(spread(wanted, gap), wanted, places, strict=True):
        path = [x, x, place], [0, 1, 1.03]
        axes.plot(*path, transform=axes.transAxes, color="#DDDDDD", linewidth=0.8, clip_on=False, zorder=0.5)
        axes.text(place, 1.035, name, transform=axes.transAxes, rotation=90, ha="center", va="bottom", fontsize=9)


def spread(wanted: list[float], gap: float) -> list[float]:
    """Places in the same order, near the wanted ones but at least a gap apart, the whole within 0 and 1 if it fits.

    Examples
    --------
    >>> spread([0.2, 0.5, 0.5], 0.1)
    [0.2, 0.45, 0.55]
    """
    # Neighbours that are too close form a group, which is centred on its members' mean; groups that then touch join.
    groups: list[list[float]] = []
    for place in wanted:
        groups.append([place])
        while len(groups) > 1 and _start(groups[-1], gap) < _start(groups[-2], gap) + gap * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    return [round(_start(group, gap) + gap * index, 6) for group in groups for index in range(len(group))]


def _start(group: list[float], gap: float) -> float:
    length = gap * (len(group) - 1)
    middle = sum(group) / len(group)
    return min(max(middle - length / 2, 0.0), max(0.0, 1 - length))


def _ticks(axes: Axes) -> None:
    """Plain numbers on both axes."""
    axes.grid(axis="x", visible=False)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = [step * 10.0**power for power in range(-4, 7) for step in (1, 2, 5)]
        fixed_ticks(axis, {tick: f"{tick:,g}" for tick in ticks if low <= tick <= high})


def fixed_ticks(axis: Axis, texts: Mapping[float, str]) -> None:
    """Ticks at these places with these texts, and no others."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(list(texts)))
    axis.set_major_formatter(FixedFormatter(list(texts.values())))
    axis.set_minor_locator(NullLocator())
