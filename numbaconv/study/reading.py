"""How the results of a study are read: which cells belong together, who is compared with whom, what is noise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median

from numbaconv.study.results import OURS, Cell, Study

#: Works of a layer, and what they are called where people read them.
PASSES: dict[str, str] = {"forward": "forward", "grad_input": "grad input", "grad_weight": "grad weight"}
#: Words in the names of libraries that show where the speed comes from, and are nobody's choice.
BASELINES = ("im2col", "loops", "reference")

#: A number of threads and a layout.
Setting = tuple[int, str]


def is_baseline(library: str) -> bool:
    """Whether a library is a yardstick of ours, not a peer."""
    return any(word in library.lower() for word in BASELINES)


def others(cells: Iterable[Cell]) -> list[str]:
    """All libraries but ours in order of appearance, baselines last."""
    names = dict.fromkeys(name for cell in cells for name in cell.timings if name != OURS)
    return sorted(names, key=is_baseline)


def peers(cells: Iterable[Cell]) -> list[str]:
    """The same without baselines."""
    return [name for name in others(cells) if not is_baseline(name)]


def layer_cells(study: Study) -> list[Cell]:
    """Passes of convolution layers."""
    return [cell for cell in study.cells if cell.work in PASSES]


def model_cells(study: Study) -> list[Cell]:
    """Everything else: training steps and inference of whole models."""
    return [cell for cell in study.cells if cell.work not in PASSES]


def by_setting(cells: Iterable[Cell]) -> dict[Setting, list[Cell]]:
    """Cells by threads and layout, fewest threads first."""
    groups: dict[Setting, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.threads, cell.layout), []).append(cell)
    return dict(sorted(groups.items(), key=lambda group: group[0][0]))


def works(cells: Iterable[Cell]) -> list[str]:
    """The works among the cells, passes in the order of a training step."""
    order = list(PASSES)
    found = dict.fromkeys(cell.work for cell in cells)
    return sorted(found, key=lambda work: order.index(work) if work in order else len(order))


def said(work: str) -> str:
    """The work as people read it."""
    return PASSES.get(work, work)


def count(number: int, noun: str) -> str:
    """A number and its noun: "1 thread", "2 threads"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def where(cell: Cell) -> str:
    """The cell in words, as short as it goes."""
    return f"{cell.name} {said(cell.work)}, {cell.layout}, {count(cell.threads, 'thread')}"


def hardest(cell: Cell) -> tuple[str, float]:
    """The peer that was fastest, and its ratio; an empty name and NaN where there is none."""
    ratios = ((name, cell.ratio(name)) for name in peers([cell]))
    return min((pair for pair in ratios if pair[1] > 0), key=lambda pair: pair[1], default=("", math.nan))


def pairs(cell: Cell, library: str) -> list[float]:
    """Their seconds over ours, round by round; nothing where either has no valid timing."""
    if not cell.ratio(library) > 0:
        return []
    theirs, mine = cell.timings[library].seconds, cell.timings[OURS].seconds
    return [a / b for a, b in zip(theirs, mine, strict=False)]


def noise(values: list[float]) -> float:
    """How far the median of some rounds may be from the truth: its standard error, as a share of it.

    The spread is taken from the median deviation, so that a round which something else disturbed counts for little. A
    single round says nothing about noise: 0.
    """
    if len(values) < 2 or min(values) <= 0:
        return 0.0
    logs = [math.log(value) for value in values]
    middle = median(logs)
    spread = 1.4826 * median(abs(value - middle) for value in logs)
    return 1.2533 * spread / math.sqrt(len(values))
