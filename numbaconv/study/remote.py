"""A library's process, seen from the one that does the comparing."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, ClassVar

from numbaconv.study import peers
from numbaconv.study.peers import Peer

#: Every library's way of being told how many threads it may have.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
#: Set on some machines, where it makes NumPy's matrix product slow: no library is to be handicapped.
HANDICAPS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
#: How long a library may take to be imported, and for a first call, in seconds.
START_SECONDS, BEGIN_SECONDS = 120.0, 180.0
#: A library whose process has ended so many times in a row is not started again.
MOST_DEATHS = 3


class Failure(Exception):
    """A library could not do what was asked; the message is one line."""


class Unusable(Failure):
    """A library cannot even be imported."""


class Remote:
    """Starts the process of a library, asks it, and starts it again when it has ended.

    Parameters
    ----------
    peer : subclass of Peer
        The library.
    threads : int
        How many threads it is granted.
    cores : list of int
        The cores that its process is held to, where the system can do that.
    folder : Path
        For what it prints.
    """

    #: What its process runs.
    module: ClassVar[str] = "numbaconv.study.worker"

    def __init__(self, peer: type[Peer], threads: int, cores: list[int], folder: Path) -> None:
        self.peer, self.threads, self.cores = peer, threads, cores
        self.version = ""
        self._printed = folder / f"{peer.name.replace('/', '_')}-{threads}.txt"
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._ready = False
        self._deaths = 0

    def launch(self) -> None:
        """Start the process, without waiting until it is ready."""
        if self._process is not None:
            return
        command = [sys.executable, "-P", "-m", self.module, peers.address(self.peer), str(self.threads)]
        with _on_cores(self.cores), open(self._printed, "w", encoding="utf-8") as printed:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                encoding="utf-8",
                env=environment(self.peer, self.threads),
                start_new_session=True,  # Ctrl-C is for us alone
            )
        self._answers, self._ready = queue.Queue(), False
        threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True).start()

    def wait_until_ready(self) -> None:
        """Wait until the library is imported.

        Raises
        ------
        Unusable
            It cannot be.
        Failure
            Its process has ended, or took too long.
        """
        if self._ready:
            return
        self.launch()
        answer = self._receive(START_SECONDS)
        if "missing" in answer:
            self.close()
            raise Unusable(answer["missing"])
        self.version, self._ready = answer["version"], True

    def ask(self, seconds: float = BEGIN_SECONDS, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises
        ------
        Failure
            The library raised an exception, its process has ended, or it took longer than ``seconds``.
        """
        if self._deaths >= MOST_DEATHS:
            raise Failure(f"its process ended {self._deaths} times in a row")
        self.wait_until_ready()
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: there will be no answer
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._receive(seconds)
        self._deaths = 0
        if "failed" in answer:
            raise Failure(answer["failed"])
        return answer

    def close(self) -> None:
        """End the process."""
        process, self._process, self._ready = self._process, None, False
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _receive(self, seconds: float) -> dict[str, Any]:
        assert self._process is not None
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            self._deaths += 1
            self.close()
            raise Failure(f"no answer in {seconds:.0f} seconds") from None
        if line is None:
            self._deaths += 1
            status = self._process.wait()
            self.close()
            raise Failure(f"its process ended: {_cause(status)}{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        lines = self._printed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f", {lines[-1].strip()[:120]}" if lines else ""


def environment(peer: type[Peer], threads: int) -> dict[str, str]:
    """The environment of a library's process."""
    inherited = {name: value for name, value in os.environ.items() if name not in HANDICAPS}
    granted = dict.fromkeys(THREAD_VARIABLES, str(threads))
    # What we could import, it can.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**inherited, **granted, **peer.environment(threads), "PYTHONPATH": path}


@contextmanager
def _on_cores(cores: list[int]) -> Iterator[None]:
    """Processes that are started meanwhile inherit these cores; all of their threads do."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _read(lines: IO[str], answers: queue.Queue[str | None]) -> None:
    with suppress(ValueError, OSError):  # closed meanwhile
        for line in lines:
            answers.put(line)
    answers.put(None)


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
