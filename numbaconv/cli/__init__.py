"""The command ``numbaconv``: train a small CNN, predict with it, compare speeds, and look after what is compiled."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence

from numbaconv.cli.errors import UsageError, of_system
from numbaconv.cli.options import parser

#: What shells report for a command that was ended by SIGINT or SIGPIPE.
INTERRUPTED, BROKEN_PIPE = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the command's name; by default what Python was started with.

    Returns
    -------
    int
        0; 2 after a mistake of the user or of the system, told in one line on stderr; 130 when interrupted; 1 when
        ``compare --against`` found something that became slower.

    Examples
    --------
    >>> from numbaconv.cli import main
    >>> main(["train", "--epochs", "0"])
    2
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that the terminal's encoding cannot say
    try:
        options = parser().parse_args(arguments)
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except UsageError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        _silence()  # the reader has gone
        return BROKEN_PIPE
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # the file or device behind it is full
            _silence()
        return _fail(of_system(error), 2)
    except Exception as error:
        if not _interrupted(error):
            raise
        return _fail("interrupted", INTERRUPTED)
    except SystemExit as end:  # --help and --version end so
        return end.code if isinstance(end.code, int) else 0


def _interrupted(error: BaseException | None) -> bool:
    """Whether this only came of Ctrl-C: where that breaks a compilation off, Numba fails in its own way."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _interrupted(error.__context__))


def _silence() -> None:
    """Send what is left for stdout nowhere: Python would complain once more when it flushes it at the end."""
    with contextlib.suppress(OSError, ValueError):  # where it is no file, nothing is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int) -> int:
    print(f"numbaconv: error: {' '.join(message.split())}", file=sys.stderr)
    return status
