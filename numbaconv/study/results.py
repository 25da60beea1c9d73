"""What a study measured: every round of every cell, and the ratios read off it. Saved as JSON, whole.

A *cell* is one piece of work at one number of threads: a pass of a layer in one layout, or a training step of a model.
A library that took part in it has a :class:`Timing`: its seconds, round by round, or why there are none. Libraries take
turns within a round, so ratios are medians of pairs of the same round.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args, get_origin, get_type_hints

from numbaconv.values import as_path, one_line

FORMAT = 1
#: Whose speed all others are compared with.
OURS = "numbaconv"

Status = Literal["ok", "failed", "wrong", "unfair"]


@dataclass
class Timing:
    """One library in one cell.

    ``status`` is "ok"; "failed", it could not run; "wrong", its result is not ours; or "unfair", it did not keep to its
    threads. ``reason`` says more in all cases but the first. Only "ok" counts in ratios.
    """

    status: Status = "ok"
    reason: str = ""
    #: Of one call, for each round.
    seconds: list[float] = field(default_factory=list)
    #: CPU time over wall time, for each round: how many threads were really at work.
    busy: list[float] = field(default_factory=list)
    #: Of the first call: compilation and tuning.
    first_call: float = math.nan
    #: Largest difference from our result, as a share of its largest element.
    error: float = math.nan
    #: How many threads the library says that it uses.
    threads: int = 0


@dataclass
class Cell:
    """One piece of work, and how long every library took over it."""

    #: Name of the layer or model, and what it is: a descriptor such as "n64 c1 h28 k6 r5 p2", or "batch 64".
    name: str
    what: str
    #: "forward", "grad_input" or "grad_weight"; "training step" or "inference" of a model.
    work: str
    #: "NCHW" or "NHWC"; "best" where each library is free to choose.
    layout: str
    threads: int
    #: Floating-point operations of the direct algorithm; 0 where they were not counted.
    flop: int
    #: Images that are processed at a time.
    images: int
    timings: dict[str, Timing] = field(default_factory=dict)

    def seconds(self, library: str) -> float:
        """Median seconds of a call; NaN where the library has no valid timing."""
        timing = self.timings.get(library)
        return median(timing.seconds) if timing and timing.status == "ok" and timing.seconds else math.nan

    def ratio(self, library: str, ours: str = OURS) -> float:
        """How many times as long ``library`` took as we did: above 1 we are faster. The median over rounds, or NaN."""
        theirs, mine = self.timings.get(library), self.timings.get(ours)
        if not theirs or not mine or theirs.status != "ok" or mine.status != "ok":
            return math.nan
        ratios = [a / b for a, b in zip(theirs.seconds, mine.seconds, strict=False)]
        return median(ratios) if ratios else math.nan

    def gflops(self, library: str) -> float:
        """Billions of operations a second (of the direct algorithm, whatever was really computed)."""
        return self.flop / self.seconds(library) / 1e9


@dataclass
class Study:
    """A whole run."""

    #: "CPU", "cores", "lanes", "OS", … in words.
    machine: dict[str, str]
    #: Version of each library that took part, and of what it stands on.
    versions: dict[str, str]
    #: What was asked for: rounds, seconds of a round, suite, date, command line.
    settings: dict[str, Any]
    #: Libraries that took no part, and why: "not installed", …
    missing: dict[str, str] = field(default_factory=dict)
    #: The machine's measured float32 multiply-add peak in GFLOP/s, by number of threads (as text: JSON keys are).
    peak: dict[str, float] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)

    def libraries(self) -> list[str]:
        """All that have a timing, ours first, in the order of their appearance."""
        names = dict.fromkeys(name for cell in self.cells for name in cell.timings)
        return sorted(names, key=lambda name: name != OURS)

    def save(self, path: str | Path) -> None:
        """Write everything as JSON: NaN as null, measurements with six digits, the rounds of a library in a line."""
        text = json.dumps({"format": FORMAT, **_plain(asdict(self))}, indent=1, allow_nan=False)
        text = _NUMBERS.sub(lambda found: " ".join(found.group().split()), text)
        as_path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Read what :meth:`save` wrote.

        Raises
        ------
        OSError
            The file can't be read.
        ValueError
            It is no JSON, or not of this format.
        """
        path = as_path(path)
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw.pop("format") != FORMAT:
                raise KeyError("format")
            cells = [
                Cell(**{**cell, "timings": {name: _timing(timing) for name, timing in cell["timings"].items()}})
                for cell in raw.pop("cells")
            ]
            study = cls(**raw, cells=cells)
            timings = [timing for cell in cells for timing in cell.timings.values()]
            for part in (study, *cells, *timings):
                _check(part)
            measured = [*study.peak.values(), *(seconds for timing in timings for seconds in timing.seconds)]
            if not all(number > _TINY for number in measured):
                raise ValueError("something took no time at all")
            return study
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a study saved by numbaconv (format {FORMAT}): {one_line(error)}"
            ) from error


#: More than anything that is measured, and less than any time or speed.
_HUGE, _TINY = 1e30, 1e-12
#: A list of numbers in indented JSON.
_NUMBERS = re.compile(r"\[[-+.\deE,\s]+\]")


def geomean(ratios: list[float]) -> float:
    """The geometric mean of all that are numbers; NaN if none is."""
    logs = [math.log(ratio) for ratio in ratios if ratio > 0 and math.isfinite(ratio)]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def _check(part: Any) -> None:
    """Raise a TypeError unless every field of a dataclass is of the type that it is annotated with."""
    for name, kind in get_type_hints(type(part)).items():
        value = getattr(part, name)
        if not _is_of(value, kind):
            raise TypeError(f"{name} is {reprlib.repr(value)}")


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, inside as well; a number that can be measured, where that is a number."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return value in inner
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_of(item, inner[0]) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_of(item, inner[1]) for item in value.values())
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and (value != value or 0 <= value < _HUGE)
    if kind is int:
        return type(value) is int and 0 <= value < _HUGE
    return kind is Any or isinstance(value, kind)


def _timing(raw: dict[str, Any]) -> Timing:
    return Timing(**{name: _number(value) for name, value in raw.items()})


def _number(value: Any) -> Any:
    """What :func:`_plain` made None, as NaN again."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    """The same with NaN as None, which JSON can say, and no more digits than were measured."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
