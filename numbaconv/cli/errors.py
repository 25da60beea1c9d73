"""Mistakes of the user: one line on stderr and exit status 2, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UsageError(Exception):
    """Something that the user can put right; its message is one line."""


@contextmanager
def user_errors(*more: type[Exception]) -> Iterator[None]:
    """Where files of the user are read or written: what goes wrong in here is the user's to put right.

    That is, an ``OSError``, a ``MemoryError``, a ``ValueError``, or what ``more`` names. Outside of it a ``ValueError``
    is a mistake of the program, and keeps its traceback.
    """
    try:
        yield
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(of_system(error)) from error
    except MemoryError as error:
        raise UsageError(f"out of memory: {error}" if str(error) else "out of memory") from error
    except Exception as error:
        if isinstance(error, (ValueError, *more)):
            raise UsageError(str(error)) from error
        raise


def of_system(error: OSError) -> str:
    """The system's message without its number: ``a.npz: Permission denied``."""
    if error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return error.strerror or str(error)
