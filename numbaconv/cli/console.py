"""What is printed: rows of a table, and progress where there is a terminal to show it on."""

from __future__ import annotations

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
def progress_bar(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar over ``total`` steps, gone when done; nothing where there is no terminal.

    What it gives is a function, ``advance(description)``, to be called after each step.
    """
    if not console.is_terminal:
        yield lambda description: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)

        def advance(description: str) -> None:
            progress.update(task, advance=1, description=description)

        yield advance


@contextmanager
def status(console: Console, text: str) -> Iterator[None]:
    """A line with a spinner that is shown while something takes its time; nothing where there is no terminal."""
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield
