"""What is printed: rows of a table, and progress where there is a terminal to show it on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from numbaconv.cli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


def open_console(extra: str = "cli") -> Console:
    """A console on stdout; an error that says which extra to install where rich is missing."""
    try:
        from rich.console import Console
    except ImportError:
        raise UsageError(f'this command needs rich: pip install "numbaconv[{extra}]"') from None
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


class Table:
    """A table whose rows are printed one at a time, as they come to be known.

    Parameters
    ----------
    console : Console
        Where it is printed.
    columns : dict of str to int
        The title of every column and its width in characters; all are aligned to the right.
    """

    def __init__(self, console: Console, columns: dict[str, int]) -> None:
        self.console = console
        self.widths = list(columns.values())
        self.row(*columns, style="bold")

    def row(self, *cells: str, style: str | None = None) -> None:
        """Print a row."""
        text = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, self.widths, strict=True))
        self.console.print(text, style=style)


@contextmanager
def progress_bar(console: Console, total: int) -> Iterator[Callable[[str, int], None]]:
    """A progress bar over ``total`` images, gone when done; nothing where there is no terminal.

    What it gives is a function, ``show(description, done)``, to be called whenever more images are done. The first call
    starts the clock: what was done before, in a training that is resumed, was not done at this speed.
    """
    if not console.is_terminal:
        yield lambda description, done: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[speed]}")
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total, speed="")
        start: list[float] = []

        def show(description: str, done: int) -> None:
            start[:] = start or [time.perf_counter(), done]
            seconds, images = time.perf_counter() - start[0], done - start[1]
            speed = (
                f"{images / seconds:,.0f} images/s, {clock((total - done) * seconds / images)} left" if images else ""
            )
            progress.update(task, completed=done, description=description, speed=speed)

        yield show


def clock(seconds: float) -> str:
    """A time in words of a clock: ``0:07``, ``12:34``, ``1:02:03``."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextmanager
def status(console: Console, text: str) -> Iterator[None]:
    """A line with a spinner that is shown while something takes its time; nothing where there is no terminal."""
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield
