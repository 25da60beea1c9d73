"""What a thread did, to be done again without Python between the kernels.

Where the same is launched on the same arrays, Python has nothing to decide: to choose plans, to make arrays and to look
at them takes microseconds, and ten times as many where kernels have thrown it out of the caches in the meantime. So
launches are noted, and made again in one call of compiled code.

Arrays that are made meanwhile come from memory that the recording keeps. Within it they follow each other in the same
memory as ever, so a recording must not hold them: it keeps the memory instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from numbaconv.arrays import CACHE_LINE
from numbaconv.jit import ALL, Kernel, Note, play
from numbaconv.memory import Pool
from numbaconv.team import COLUMNS, RELAX, loop_address, team_size
from numbaconv.threads import launch, needs_python


class Reserved(Pool):
    """Memory that nobody else gets: arrays of any size come from it, and it never gives any back."""

    least = 1

    def adopt(self, pool: Pool) -> None:
        """Take over from another pool what nobody holds."""
        for size, pieces in pool.take_free().items():
            self._pieces.setdefault(size, []).extend(pieces)

    def clear(self) -> None:
        """Give nothing back: its addresses are noted."""

    def owns(self, array: np.ndarray) -> bool:
        """Whether an array lies in this memory."""
        owner = array.base
        return owner is not None and any(
            owner is piece.base for piece in self._pieces.get(owner.nbytes - CACHE_LINE, ())
        )

    def memory(self) -> list[np.ndarray]:
        """All of it, as bytes."""
        return [piece for pieces in self._pieces.values() for piece in pieces]

    def nbytes(self) -> int:
        """How much it is."""
        return sum(piece.nbytes for piece in self.memory())

    def spoil(self) -> None:
        """Fill it with NaN, of whatever dtype: who reads what was left there by another pass will be found out."""
        for piece in self.memory():
            piece[...] = 255


class Program:
    """What is done one after the other."""

    def __init__(self) -> None:
        self._runs: list[_Run | Callable[[], Any]] = []

    def append(self, note: Note, first: int, last: int, threads: int) -> None:
        """Add a launch that compiled code can make."""
        if not self._runs or not isinstance(self._runs[-1], _Run):
            self._runs.append(_Run())
        self._runs[-1].append(note, first, last, threads)  # type: ignore[union-attr]

    def append_call(self, call: Callable[[], Any]) -> None:
        """Add something else."""
        self._runs.append(call)

    def __call__(self) -> None:
        for run in self._runs:
            run()

    def __len__(self) -> int:
        return len(self._runs)


class _Run:
    """Launches that are made in one call."""

    def __init__(self) -> None:
        self._notes: list[Note] = []
        self._calls: list[tuple[int, ...]] = []
        self._table, self._state = np.empty((0, COLUMNS), np.int64), np.empty(0, np.int64)
        self._loop, self._threads = loop_address(), 1

    def append(self, note: Note, first: int, last: int, threads: int) -> None:
        self._notes.append(note)
        self._calls.append((note.share, note.memory.ctypes.data, first, last, threads))
        self._threads = max(self._threads, threads)

    def __call__(self) -> None:
        if len(self._table) < len(self._calls):
            self._table = np.array(self._calls, np.int64)
            self._state = np.empty(team_size(self._threads), np.int64)
        play(self._loop, RELAX, self._table, self._state, self._threads)


class Recorder:
    """Notes what is done in the context :func:`numbaconv.threads.watched`.

    Attributes
    ----------
    program : Program
        What was done, but for what outlives a pass.
    lasting : Program
        What outlives it.
    shared : bool
        Whether there was a launch on several threads.
    """

    def __init__(self, memory: Reserved) -> None:
        self.program, self.lasting, self.shared = Program(), Program(), False
        self._memory = memory
        self._expected: list[np.ndarray] = []

    def is_pure(self) -> bool:
        """Whether nothing of it outlives the pass, and nothing depended on what was found out."""
        return not self.lasting and not self._expected

    def as_expected(self) -> bool:
        """Whether everything that the next launch depended on was found out as it should be."""
        return all([found[0] for found in self._expected])  # noqa: C419

    def note(self, kernel: Kernel, threads: int, arguments: tuple[Any, ...], stages: range | None) -> None:
        """A launch."""
        program = self.lasting if kernel.lasting else self.program
        self.shared = self.shared or threads > 1
        if needs_python(threads):
            program.append_call(partial(launch, kernel, threads, *arguments, stages=stages))
            return
        if stages is None:
            stages = range(ALL, ALL + 1) if threads == 1 else kernel.stages
        note = kernel.noted(arguments)
        held = [value for value in arguments if isinstance(value, np.ndarray) and not self._memory.owns(value)]
        program.append(note._replace(arguments=tuple(held)), stages.start, stages.stop, threads)

    def note_act(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Something that is done in Python."""
        self.program.append_call(partial(function, *arguments))

    def note_expected(self, found: np.ndarray) -> None:
        """A truth value that was found out, and has to be true."""
        self._expected.append(found)
