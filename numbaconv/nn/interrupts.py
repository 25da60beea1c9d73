"""Ctrl-C and SIGTERM, held back until a batch is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: SIGTERM is what a system or a scheduler of jobs sends some seconds before it kills.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which the first signal waits for :meth:`check`, and a second one ends everything at once.

    Both become a ``KeyboardInterrupt``. Signals can be caught in the main thread only: elsewhere this does nothing.

    Parameters
    ----------
    hold : bool
        False to leave signals as they are.
    """

    def __init__(self, hold: bool = True) -> None:
        self._hold = hold
        self._pending, self._at_once = False, False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if self._hold and threading.current_thread() is threading.main_thread():
            # A handler that is None was installed by another language, and could not be put back.
            known = [number for number in SIGNALS if signal.getsignal(number) is not None]
            self._previous = {number: signal.signal(number, self._receive) for number in known}
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._restore()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was a signal."""
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """For work that may be broken off anywhere: a signal need not wait."""
        self.check()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        if self._at_once:
            raise KeyboardInterrupt
        self._pending = True

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
