"""How many threads a call may use, and how a kernel is launched on them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from numbaconv.jit import ALL, Kernel
from numbaconv.parameters import integer

#: Fewer elements than this are worked through by the calling thread alone.
ELEMENTS_WORTH_A_THREAD = 1 << 16

_limit: int | None = None  # what set_num_threads was told; None: what Numba says
_launched = False  # a parallel kernel has run in this process
_forked = False  # this process was made by fork
_gate = threading.Lock()
_watched = threading.local()  # .recorder: where what this Python thread launches is noted, if it is


def set_num_threads(n: int) -> None:
    """Let every later call use at most ``n`` threads.

    The setting holds for the whole process, whichever thread makes it; calls that are running go on as they began. It
    never changes a result by a single bit, and it leaves Numba's own setting, and so that of other libraries, alone.

    Parameters
    ----------
    n : int
        From 1 to the number of threads that Numba was started with (``NUMBA_NUM_THREADS``; by default the cores that
        the process may run on).

    Raises
    ------
    TypeError
        ``n`` is not an integer.
    ValueError
        ``n`` is out of range.

    Examples
    --------
    >>> import numbaconv
    >>> before = numbaconv.get_num_threads()
    >>> numbaconv.set_num_threads(1)
    >>> numbaconv.get_num_threads()
    1
    >>> numbaconv.set_num_threads(before)
    """
    global _limit
    threads = integer(n, "n, the number of threads,", 1)
    if threads > numba.config.NUMBA_NUM_THREADS:
        raise ValueError(
            f"n, the number of threads, must be at most {numba.config.NUMBA_NUM_THREADS} here, got {threads}: "
            "set NUMBA_NUM_THREADS before Python starts to have more"
        )
    _limit = threads


def get_num_threads() -> int:
    """The number of threads that a call may use.

    Returns
    -------
    int
        What :func:`set_num_threads` was told last; before that, what ``numba.get_num_threads()`` says.
    """
    return _limit if _limit is not None else numba.get_num_threads()


def threads_for(tasks: int) -> int:
    """How many threads to cut ``tasks`` independent pieces of work over: 1 where threads are not to be used."""
    return 1 if tasks == 1 or _forked else min(tasks, get_num_threads())


def launch(kernel: Kernel, threads: int, *arguments: Any, stages: range | None = None) -> None:
    """Run a kernel, all of it or some ``stages``, on ``threads`` threads, a number that :func:`threads_for` gave.

    Numba's workqueue layer ends the process when two threads launch at once, so Python's threads take turns on it, and
    a thread of somebody's parallel loop, which can't wait for the end of that loop, computes alone. Which layer is in
    use is known only after the first launch.
    """
    _run(kernel, threads, arguments, stages)
    recorder = getattr(_watched, "recorder", None)
    if recorder is not None:  # by now it is known which layer is in use
        recorder.note(kernel, threads, arguments, stages)


def _run(kernel: Kernel, threads: int, arguments: tuple[Any, ...], stages: range | None) -> None:
    """Run it at once."""
    global _launched
    if threads == 1 and stages is None:
        kernel.run(*arguments, ALL, 0, 1)
        return
    stages = kernel.stages if stages is None else stages
    if threads == 1 or numba.config.DISABLE_JIT:  # as plain Python, there is but one thread, and no layer to ask
        kernel.serial(stages, threads, *arguments)
    elif not needs_python(threads):
        kernel.parallel(stages, threads, *arguments)
    elif isinstance(threading.current_thread(), threading._DummyThread):  # Python did not start it
        kernel.serial(stages, threads, *arguments)
    else:
        with _gate:
            kernel.parallel(stages, threads, *arguments)
            _launched = True


def launch_light(kernel: Kernel, tasks: int, elements: int, *arguments: Any) -> None:
    """Run a kernel that does little with each of so many elements: few of them are not worth a second thread."""
    launch(kernel, 1 if elements < ELEMENTS_WORTH_A_THREAD else threads_for(tasks), *arguments)


def act(function: Callable[..., Any], *arguments: Any) -> None:
    """Call what does in NumPy what no kernel does."""
    recorder = getattr(_watched, "recorder", None)
    if recorder is not None:
        recorder.note_act(function, arguments)
    function(*arguments)


def expect(found: np.ndarray) -> None:
    """Say that what is done after a launch that found out ``found``, a truth value, depends on it."""
    recorder = getattr(_watched, "recorder", None)
    if recorder is not None:
        recorder.note_expected(found)


def for_team() -> bool:
    """Whether what is launched now is noted, to be launched again by a team of threads that are at work already.

    Where there is none, one thread has all data in its cache, and others would have to fetch it from there.
    """
    recorder = getattr(_watched, "recorder", None)
    return recorder is not None and recorder.shared


def needs_python(threads: int) -> bool:
    """Whether a launch on so many threads is to be made by :func:`launch` alone, which knows when it is its turn."""
    return numba.config.DISABLE_JIT or (threads > 1 and not (_launched and numba.threading_layer() != "workqueue"))


class Watch(Protocol):
    """What is told what the calling thread does."""

    #: Whether there was a launch on several threads.
    shared: bool

    def note(self, kernel: Kernel, threads: int, arguments: tuple[Any, ...], stages: range | None) -> None:
        """A launch."""

    def note_act(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """A call of :func:`act`."""

    def note_expected(self, found: np.ndarray) -> None:
        """A call of :func:`expect`."""


@contextmanager
def watched(recorder: Watch) -> Iterator[None]:
    """Within this context, what the calling thread launches is noted."""
    before, _watched.recorder = getattr(_watched, "recorder", None), recorder
    try:
        yield
    finally:
        _watched.recorder = before


def _after_fork() -> None:
    """A child inherits the memory of OpenMP's thread pool but not its threads, so it must not use it.

    The pool may have been started by anyone in the parent, so every forked child computes on one thread.
    """
    global _forked, _gate
    _forked = True
    _gate = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
    # A fork waits for what other threads compile: in the child, nobody would ever release the compiler.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
