"""A study in the terminal: tables of ratios, their means, what is lost, what failed, and what changed since."""

from __future__ import annotations

import math
import textwrap
from statistics import median
from typing import TYPE_CHECKING

from numbaconv.study.against import show_against
from numbaconv.study.reading import (
    PASSES,
    by_setting,
    count,
    hardest,
    is_baseline,
    layer_cells,
    model_cells,
    others,
    peers,
    said,
    where,
    works,
)
from numbaconv.study.results import OURS, Cell, Study, geomean
from numbaconv.study.tables import (
    BAD,
    EVEN,
    NONE,
    Column,
    Styled,
    cell_names,
    heading,
    microseconds,
    plain,
    print_table,
    prose,
    ratio_text,
    say,
    three_digits,
)

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["show", "show_against"]

#: How many lost cells are listed.
LISTED = 12


def show(study: Study, console: Console) -> None:
    """Print everything that a study found."""
    _show_header(study, console)
    layers, models = layer_cells(study), model_cells(study)
    for (threads, layout), cells in by_setting(layers).items():
        heading(console, f"Layers in {layout} on {count(threads, 'thread')}")
        _show_layers(study, cells, console)
    for threads in sorted({cell.threads for cell in models}):
        heading(console, f"Models on {count(threads, 'thread')}")
        _show_models([cell for cell in models if cell.threads == threads], console)
    if study.cells:
        _show_notes(bool(layers), console)
        _show_libraries(study, console)
        _show_means(study, console)
        _show_losses(study, console)
    else:
        prose(console, "No cell was measured.")
    _show_troubles(study, console)
    _show_missing(study, console)


def _show_header(study: Study, console: Console) -> None:
    facts = dict(study.machine)
    if study.peak:
        peaks = sorted(study.peak.items(), key=lambda item: int(item[0]))
        texts = [f"{value:.0f} GFLOP/s on {count(int(threads), 'thread')}" for threads, value in peaks]
        facts["FMA peak"] = ", ".join(texts) + " (float32, measured in this run)"
    if study.versions:
        facts["versions"] = ", ".join(f"{name} {_short(version)}" for name, version in study.versions.items())
    if study.settings:
        facts["settings"] = ", ".join(f"{name} {_setting(value)}" for name, value in study.settings.items())
    width = max(map(len, facts), default=0)
    say(console, ("Speed study", "bold"))
    for name, value in facts.items():
        prose(console, value, f"{name:<{width}}  ")


def _short(version: str) -> str:
    """Without what stands in brackets."""
    return version.partition(" (")[0]


def _setting(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return textwrap.shorten(text, 160, placeholder=" …")


def _show_layers(study: Study, cells: list[Cell], console: Console) -> None:
    keys = [
        Column("layer", cell_names(cells), left=True),
        Column("pass", plain(said(c.work) for c in cells), left=True),
    ]
    columns = [
        Column("µs", [_ours(cell, microseconds(cell.seconds(OURS))) for cell in cells]),
        Column("GFLOP/s", plain(three_digits(cell.gflops(OURS)) for cell in cells)),
        Column("% of peak", [_share_of_peak(study, cell) for cell in cells]),
    ]
    print_table(console, keys, columns + _ratio_columns(cells))


def _show_models(cells: list[Cell], console: Console) -> None:
    keys = [
        Column("model", cell_names(cells), left=True),
        Column("work", plain(said(c.work) for c in cells), left=True),
        Column("batch", plain(str(cell.images) for cell in cells)),
    ]
    if len({cell.layout for cell in cells}) > 1:
        keys.append(Column("layout", plain(cell.layout for cell in cells), left=True))
    columns = [
        Column("ms", [_ours(cell, three_digits(1e3 * cell.seconds(OURS))) for cell in cells]),
        Column("images/s", plain(three_digits(cell.images / cell.seconds(OURS)) for cell in cells)),
    ]
    print_table(console, keys, columns + _ratio_columns(cells))
    for name, what in dict.fromkeys((cell.name, cell.what) for cell in cells if cell.what):
        prose(console, what, f"{name}: ", "  ", style="dim")


def _ratio_columns(cells: list[Cell]) -> list[Column]:
    """The fastest peer's ratio where there are several, then each library's."""
    columns = [Column(name, [_ratio_cell(cell, name) for cell in cells]) for name in others(cells)]
    if len(peers(cells)) > 1:
        columns.insert(0, Column("fastest peer", [ratio_text(hardest(cell)[1]) for cell in cells]))
    return columns


def _ours(cell: Cell, text: str) -> Styled:
    """A figure of ours, or why there is none."""
    timing = cell.timings.get(OURS)
    return (timing.status, BAD) if timing and timing.status != "ok" else (text, "")


def _share_of_peak(study: Study, cell: Cell) -> Styled:
    share = cell.gflops(OURS) / study.peak.get(str(cell.threads), math.nan)
    return (f"{100 * share:.0f}%", "") if share > 0 else NONE


def _ratio_cell(cell: Cell, library: str) -> Styled:
    timing = cell.timings.get(library)
    if timing is not None and timing.status != "ok":
        return timing.status, BAD
    text, style = ratio_text(cell.ratio(library))
    return text, f"{style} dim".strip() if is_baseline(library) else style


def _show_notes(layers: bool, console: Console) -> None:
    say(console)
    text = (
        f"× is their time over ours, the median over rounds: above 1 {OURS} is faster; ▼ marks what is below. "
        "Bold is a factor of 2 or more."
    )
    if layers:
        text += (
            " GFLOP/s and % of peak count the operations of the direct algorithm: they are effective figures, and"
            " algorithms that need fewer operations, such as Winograd's, may exceed 100%."
        )
    prose(console, text, style="dim")


def _show_libraries(study: Study, console: Console) -> None:
    heading(console, "Libraries: what was checked, and first calls")
    names = [OURS] * any(OURS in cell.timings for cell in study.cells) + others(study.cells)
    threads = sorted({cell.threads for cell in study.cells})
    columns = [Column("valid cells", [_valid(study, name) for name in names])]
    for number in threads:
        cells = [cell for cell in study.cells if cell.threads == number]
        title = f"at work of {count(number, 'thread')}"
        columns.append(Column(title, plain(_middle(_busy(cells, name), "{:.2f}") for name in names)))
    firsts = [[1e3 * cell.timings[name].first_call for cell in study.cells if name in cell.timings] for name in names]
    errors = [[cell.timings[name].error for cell in study.cells if name in cell.timings] for name in names]
    columns += [
        Column("first call, ms", plain(_middle(first, "{:,.1f}") for first in firsts)),
        Column("at most, ms", plain(_most(first, "{:,.0f}") for first in firsts)),
        Column("largest error", plain(_most(error, "{:.0e}") for error in errors)),
    ]
    print_table(console, [Column("library", plain(name for name in names), left=True)], columns)
    text = (
        "Threads at work are CPU time over wall time, the median over cells. First calls compile and tune; they are in"
        " no ratio. Errors are the largest difference from our result, as a share of its largest element."
    )
    prose(console, text, style="dim")


def _valid(study: Study, library: str) -> Styled:
    timings = [cell.timings[library] for cell in study.cells if library in cell.timings]
    valid = sum(timing.status == "ok" for timing in timings)
    return f"{valid}/{len(timings)}", "" if valid == len(timings) else BAD


def _busy(cells: list[Cell], library: str) -> list[float]:
    return [median(c.timings[library].busy) for c in cells if library in c.timings and c.timings[library].busy]


def _middle(values: list[float], form: str) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return form.format(median(finite)) if finite else "–"


def _most(values: list[float], form: str) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return form.format(max(finite)) if finite else "–"


def _show_means(study: Study, console: Console) -> None:
    """Geometric means, a row for each pass and layout; models apart, as they have other peers."""
    shown = False
    for title, cells in (("layers", layer_cells(study)), ("models", model_cells(study))):
        if others(cells):
            heading(console, f"Geometric means of the ratios: {title}")
            _means_table(cells, console)
            shown = True
    if shown:
        prose(console, "Each over the cells in which both libraries have a valid timing.", style="dim")


def _means_table(cells: list[Cell], console: Console) -> None:
    groups = [group for part in by_setting(cells).values() for group in _groups(part)]
    keys = [
        Column("threads", plain(str(group[0].threads) for _, group in groups)),
        Column("layout", plain(group[0].layout for _, group in groups), left=True),
        Column("pass" if cells[0].work in PASSES else "work", plain(title for title, _ in groups), left=True),
    ]
    columns = [Column(name, [_mean([c.ratio(name) for c in group]) for _, group in groups]) for name in others(cells)]
    if len(peers(cells)) > 1:
        fastest = [_mean([hardest(cell)[1] for cell in group]) for _, group in groups]
        columns.insert(0, Column("fastest peer", fastest))
    print_table(console, keys, columns)


def _groups(cells: list[Cell]) -> list[tuple[str, list[Cell]]]:
    """Cells by work, and all passes of layers together, each with a title."""
    groups = [(said(work), [cell for cell in cells if cell.work == work]) for work in works(cells)]
    if len(groups) > 1 and cells[0].work in PASSES:
        groups.append(("all passes", cells))
    return groups


def _mean(ratios: list[float]) -> Styled:
    return ratio_text(geomean(ratios))


def _show_losses(study: Study, console: Console) -> None:
    """The cells that we lose, worst first; the closest ones where we lose none."""
    compared = sorted(((*hardest(cell), cell) for cell in study.cells if hardest(cell)[0]), key=lambda loss: loss[1])
    if not compared:
        return
    lost = [item for item in compared if item[1] < 1 - EVEN]
    heading(console, "Cells that we lose, worst first" if lost else "No cell is lost; the closest")
    won = len(compared) - len(lost)
    prose(console, f"{OURS} is the fastest, or as fast as the fastest peer, in {won} of {len(compared)} cells.")
    _list_cells((lost or compared[:3])[:LISTED], console)
    if len(lost) > LISTED:
        prose(console, f"… and {len(lost) - LISTED} more", style="dim")


def _list_cells(items: list[tuple[str, float, Cell]], console: Console) -> None:
    cells = [cell for _, _, cell in items]
    keys = [Column("ratio", [ratio_text(ratio) for _, ratio, _ in items])]
    columns = [
        Column("against", plain(name for name, _, _ in items), left=True),
        Column("cell", plain(cell.name for cell in cells), left=True),
        Column("pass", plain(said(cell.work) for cell in cells), left=True),
        Column("layout", plain(cell.layout for cell in cells), left=True),
        Column("threads", plain(str(cell.threads) for cell in cells)),
    ]
    extra = (
        Column("our µs", plain(microseconds(cell.seconds(OURS)) for cell in cells)),
        Column("their µs", plain(microseconds(cell.seconds(name)) for name, _, cell in items)),
    )
    print_table(console, keys, columns, extra)


def _show_troubles(study: Study, console: Console) -> None:
    """Why cells have no valid timing, each reason once."""
    troubles: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in study.cells:
        for name, timing in cell.timings.items():
            if timing.status != "ok":
                troubles.setdefault((name, timing.status, timing.reason), []).append(cell)
    if troubles:
        heading(console, "Cells without a valid timing")
    for (name, status, reason), cells in troubles.items():
        shown = "; ".join(map(where, cells[:3])) + (f"; and {len(cells) - 3} more" if len(cells) > 3 else "")
        prose(console, f"{name} {status}: {reason or 'no reason given'}")
        prose(console, shown, "    ", style="dim")


def _show_missing(study: Study, console: Console) -> None:
    if study.missing:
        heading(console, "Libraries that took no part")
    for name, reason in study.missing.items():
        prose(console, reason, f"{name}: ", "    ")
