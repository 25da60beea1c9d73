"""Tables and prose in a terminal of any width: columns that don't fit are continued below, never cut."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from numbaconv.study.results import Cell

if TYPE_CHECKING:
    from rich.console import Console

#: A text and its rich style.
Styled = tuple[str, str]

#: Told apart by every kind of colour vision, and readable on black and on white.
FASTER, SLOWER, BAD = "#1f86c9", "#d55e00", "bold magenta"
#: Ratios this near to 1 would be printed as 1.00.
EVEN = 0.005
#: A cell with nothing in it.
NONE: Styled = ("–", "dim")

_GAP = 2
#: What is printed instead where the terminal or pipe knows ASCII only.
_ASCII = str.maketrans({"×": "x", "–": "-", "µ": "u", "▼": "<", "▲": ">", "→": "->", "±": "+-", "…": "...", "·": "|"})


@dataclass
class Column:
    """A title, which may take several lines, and a cell for each row."""

    title: str
    cells: list[Styled] = field(default_factory=list)
    left: bool = False

    @property
    def titles(self) -> list[str]:
        """The title in lines no wider than they must be."""
        words = re.findall(r"[^ _\-]+[_\-]?|[_\-]", self.title) or [""]
        room = max(8, *map(len, words), *(len(text) for text, _ in self.cells))
        if len(self.title) <= room:
            return [self.title]
        lines = [""]
        for word in words:
            joined = lines[-1] + ("" if lines[-1][-1:] in ("", "_", "-") else " ") + word
            if lines[-1] and len(joined) > room:
                lines.append(word)
            else:
                lines[-1] = joined
        return lines

    @property
    def width(self) -> int:
        """In characters."""
        return max(map(len, [*self.titles, *(text for text, _ in self.cells)]))

    def fit(self, text: str) -> str:
        """The text at this column's width."""
        return text.ljust(self.width) if self.left else text.rjust(self.width)


def plain(texts: Iterable[str]) -> list[Styled]:
    """Cells without a style."""
    return [(text, "") for text in texts]


def print_table(console: Console, keys: list[Column], columns: list[Column], extra: tuple[Column, ...] = ()) -> None:
    """Print a table; where it is too wide, in parts one below the other, each with the ``keys`` in front.

    ``extra`` columns are left out where they don't fit.
    """
    if len(_parts(console.width, keys, [*columns, *extra])) == 1:
        columns = [*columns, *extra]
    for number, part in enumerate(_parts(console.width, keys, columns)):
        if number:
            say(console)
        shown = keys + part
        height = max(len(column.titles) for column in shown)
        for line in range(height):
            texts = [_title(column, line - height) for column in shown]
            _row(console, shown, [(text, "bold") for text in texts])
        for row in zip(*(column.cells for column in shown), strict=True):
            _row(console, shown, list(row))


def _parts(width: int, keys: list[Column], columns: list[Column]) -> list[list[Column]]:
    """Columns that fit beside the keys, at least one at a time."""
    room = width - sum(column.width for column in keys) - _GAP * (len(keys) - 1)
    parts: list[list[Column]] = [[]]
    left = room
    for column in columns:
        left -= column.width + _GAP
        if left < 0 and parts[-1]:
            parts.append([])
            left = room - column.width - _GAP
        parts[-1].append(column)
    return parts


def _title(column: Column, line: int) -> str:
    """A line of the title, counted from the last one, which stands just above the cells."""
    return column.titles[line] if -line <= len(column.titles) else ""


def _row(console: Console, columns: list[Column], cells: list[Styled]) -> None:
    parts: list[Styled] = []
    for column, (text, style) in zip(columns, cells, strict=True):
        fitted = column.fit(text)
        # Blanks are printed without style: bold or reversed blanks show in some terminals.
        blanks = len(fitted) - len(fitted.lstrip())
        parts += [(" " * (_GAP if parts else 0) + fitted[:blanks], ""), (fitted[blanks:], style)]
    while parts and not parts[-1][0].strip():
        parts.pop()
    if parts:
        parts[-1] = parts[-1][0].rstrip(), parts[-1][1]
    say(console, *parts)


def say(console: Console, *parts: Styled) -> None:
    """Print a line as it is: not wrapped, not highlighted, without characters that its encoding lacks."""
    from rich.text import Text

    line = Text()
    for text, style in parts:
        line.append(_encodable(console, text), style=style)
    console.print(line, soft_wrap=True)


def heading(console: Console, title: str) -> None:
    """Print a title with a blank line above."""
    say(console)
    say(console, (title, "bold underline"))


def prose(console: Console, text: str, first: str = "", then: str | None = None, style: str = "") -> None:
    """Print a paragraph, wrapped to the terminal's width, with ``first`` in front and ``then`` before further lines."""
    # What a failing library says may hold line breaks and terminal codes.
    words = "".join(letter if letter.isprintable() else " " for letter in text)
    indent = " " * len(first) if then is None else then
    width = max(40, min(console.width, 120))
    lines = textwrap.wrap(words, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    for line in lines or [first.rstrip()]:
        say(console, (line, style))


def _encodable(console: Console, text: str) -> str:
    encoding = console.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def ratio_text(ratio: float) -> Styled:
    """A ratio such as "1.57×"; one below 1 has a mark in front, as colour alone would not reach everybody.

    Examples
    --------
    >>> ratio_text(1.571), ratio_text(0.4)
    (('1.57×', '#1f86c9'), ('▼0.40×', 'bold #d55e00'))
    """
    if not ratio > 0 or math.isinf(ratio):
        return NONE
    bold = "bold " if ratio >= 2 or ratio <= 0.5 else ""
    if ratio < 1 - EVEN:
        return f"▼{ratio:.2f}×", bold + SLOWER
    return f"{three_digits(ratio)}×", bold + FASTER if ratio >= 1 + EVEN else ""


def three_digits(value: float) -> str:
    """Three digits, or all there are before the point."""
    if not math.isfinite(value) or value <= 0:
        return "–"
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def microseconds(seconds: float) -> str:
    return three_digits(1e6 * seconds)


def cell_names(cells: list[Cell]) -> list[Styled]:
    """Names of the cells, repeated ones dimmed: still there for grep, but not in the way."""
    before = ["", *(cell.name for cell in cells)]
    return [(cell.name, "dim" if cell.name == last else "") for cell, last in zip(cells, before, strict=False)]


def factor(value: float) -> str:
    return f"{value:.2f}×" if value > 0 else "–"
