"""What changed between two studies: our speed, cell by cell, with the machine's own mood taken out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median, stdev
from typing import TYPE_CHECKING, Literal

from numbaconv.study.reading import count, is_baseline, noise, others, pairs, said, where
from numbaconv.study.results import OURS, Cell, Study, geomean
from numbaconv.study.tables import (
    BAD,
    FASTER,
    SLOWER,
    Column,
    Styled,
    cell_names,
    factor,
    heading,
    microseconds,
    plain,
    print_table,
    prose,
    say,
)

if TYPE_CHECKING:
    from rich.console import Console

#: Changes below this share are never called a regression, however small the noise.
THRESHOLD = 0.05
#: Standard errors beyond which a change is no longer taken for noise.
SIGMAS = 3.0

Verdict = Literal["slower", "faster", "same", "broken", "mended", "unknown"]


@dataclass
class Change:
    """One cell then and now.

    ``raw`` is our new time over the old one. ``change`` is the same relative to the ``witnesses``, the libraries that
    are in both studies with the same version: a machine that has become slower slows them too. It is the raw change
    where there are none. ``noise`` is the standard error of ``change``, as a share of it.
    """

    new: Cell
    old: Cell
    raw: float
    change: float
    noise: float
    witnesses: list[str]

    @property
    def limit(self) -> float:
        """The share from which on a change counts."""
        return max(THRESHOLD, SIGMAS * self.noise)

    @property
    def verdict(self) -> Verdict:
        """What it comes to; "broken" is a cell that had a valid timing of ours and has none now."""
        was, has = self.old.seconds(OURS) > 0, self.new.seconds(OURS) > 0
        if not (was and has):
            return "broken" if was else "mended" if has else "unknown"
        if self.change > 1 + self.limit:
            return "slower"
        return "faster" if self.change < 1 / (1 + self.limit) else "same"

    @property
    def regression(self) -> bool:
        """Whether it should worry."""
        return self.verdict in ("slower", "broken")


def changes(new: Study, old: Study) -> list[Change]:
    """All cells that are in both studies and that we took part in."""
    before = {_key(cell): cell for cell in old.cells if OURS in cell.timings}
    witnesses = _witnesses(new, old)
    return [
        _change(cell, before[_key(cell)], witnesses)
        for cell in new.cells
        if OURS in cell.timings and _key(cell) in before
    ]


def _key(cell: Cell) -> tuple[str, str, str, str, int]:
    return cell.name, cell.what, cell.work, cell.layout, cell.threads


def _witnesses(new: Study, old: Study) -> list[str]:
    """Libraries in both studies that are still the same."""
    both = set(others(old.cells))
    changed = [name.lower() for name, version in new.versions.items() if version != old.versions.get(name, version)]
    return [name for name in others(new.cells) if name in both and not _stands_on(name.lower(), changed)]


def _stands_on(library: str, changed: list[str]) -> bool:
    """Whether a changed package is the library itself, a part of it ("jaxlib"), or what a baseline runs on."""
    if is_baseline(library):
        return any(package in ("numpy", "numba", "llvmlite", "python") for package in changed)
    return any(package in library or library.split()[0] in package for package in changed)


def _change(new: Cell, old: Cell, witnesses: list[str]) -> Change:
    raw = new.seconds(OURS) / old.seconds(OURS)
    valid = [name for name in witnesses if pairs(new, name) and pairs(old, name)]
    if not valid:
        ours = [cell.timings[OURS].seconds for cell in (new, old)]
        return Change(new, old, raw, raw, math.hypot(*map(noise, ours)), [])
    relative = [old.ratio(name) / new.ratio(name) for name in valid]
    rounds = median(math.hypot(noise(pairs(new, name)), noise(pairs(old, name))) for name in valid)
    # Witnesses that contradict each other prove less.
    doubt = stdev(map(math.log, relative)) / math.sqrt(len(relative)) if len(relative) > 1 else 0.0
    return Change(new, old, raw, median(relative), math.hypot(rounds, doubt), valid)


def show_against(new: Study, old: Study, console: Console) -> int:
    """Print what changed since an older study; the number of regressions."""
    found = changes(new, old)
    heading(console, f"Against {_date(old) or 'the older study'}")
    for name in sorted({*new.machine, *old.machine}):
        if new.machine.get(name) != old.machine.get(name):
            text = f"{name} differs: {old.machine.get(name, 'unknown')} then, {new.machine.get(name, 'unknown')} now"
            prose(console, text, style=BAD)
    then, now = (study.settings.get("algorithm", "auto") for study in (old, new))
    if then != now:
        prose(console, f"algorithm differs: {then} then, {now} now", style=BAD)
    if not found:
        prose(console, "The studies have no cell in common.")
        return 0
    _show_changes(found, console)
    _explain_changes(found, console)
    _show_unmatched(len(found), new, old, console)
    return _show_regressions(found, console)


def _date(study: Study) -> str:
    return str(study.settings.get("date", ""))


def _show_changes(found: list[Change], console: Console) -> None:
    keys = [
        Column("cell", cell_names([change.new for change in found]), left=True),
        Column("pass", plain(said(change.new.work) for change in found), left=True),
    ]
    columns = [
        Column("layout", plain(change.new.layout for change in found), left=True),
        Column("threads", plain(str(change.new.threads) for change in found)),
        Column("µs then", plain(microseconds(change.old.seconds(OURS)) for change in found)),
        Column("µs now", plain(microseconds(change.new.seconds(OURS)) for change in found)),
        Column("now/then", plain(factor(change.raw) for change in found)),
        Column("corrected", [_marked(change) for change in found]),
    ]
    extra = (
        Column("noise", [(f"±{100 * change.noise:.1f}%", "dim") for change in found]),
        Column("", plain("" if change.verdict == "same" else change.verdict for change in found), left=True),
    )
    print_table(console, keys, columns, extra)


def _marked(change: Change) -> Styled:
    """The corrected change, marked where it counts."""
    if change.verdict in ("broken", "mended"):
        return change.verdict, BAD if change.verdict == "broken" else FASTER
    marks = {"slower": ("▼", SLOWER), "faster": ("▲", FASTER)}
    mark, style = marks.get(change.verdict, ("", ""))
    return mark + factor(change.change), style


def _explain_changes(found: list[Change], console: Console) -> None:
    witnesses = list(dict.fromkeys(name for change in found for name in change.witnesses))
    if witnesses:
        text = (
            "Corrected: relative to libraries that are in both studies with the same version"
            f" ({', '.join(witnesses)}), the median over them; what slowed or sped the whole machine cancels."
        )
    else:
        text = (
            "No library is in both studies with the same version, so a change of the machine's own speed can't be told"
            " apart."
        )
    text += (
        f" A change counts from {100 * THRESHOLD:.0f}% on, and from {SIGMAS:g} times the noise on, which is the"
        " standard error from the spread over rounds and witnesses."
    )
    say(console)
    prose(console, text, style="dim")


def _show_unmatched(matched: int, new: Study, old: Study, console: Console) -> None:
    for study, when in ((old, "then"), (new, "now")):
        extra = sum(OURS in cell.timings for cell in study.cells) - matched
        if extra > 0:
            prose(console, f"{count(extra, 'cell')} measured only {when}.")


def _show_regressions(found: list[Change], console: Console) -> int:
    """List them, broken cells first, then the worst; how many there are."""
    means = factor(geomean([change.change for change in found]))
    regressions = [change for change in found if change.regression]
    gains = sum(change.verdict in ("faster", "mended") for change in found)
    same = sum(change.verdict == "same" for change in found)
    title = count(len(regressions), "regression") if regressions else "No regressions"
    heading(console, title)
    text = f"In {count(len(found), 'cell')}: {gains} faster, {same} the same; geometric mean {means} the time."
    prose(console, text)
    for change in sorted(regressions, key=lambda change: (change.verdict == "slower", -change.change)):
        why = f"{factor(change.change)} the time"
        if change.verdict == "broken":
            timing = change.new.timings[OURS]
            why = f"{timing.status}: {timing.reason}" if timing.status != "ok" else "not timed any more"
        prose(console, f"{where(change.new)}: {why}", "▼ ", "    ", style=SLOWER)
    return len(regressions)
