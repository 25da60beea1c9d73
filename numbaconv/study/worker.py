"""The process in which one library is timed: ``python -m numbaconv.study.worker module:Class threads``.

It reads requests and writes answers, a line of JSON each. It runs on the cores that it was started on, and counts how
many threads were really at work while it was timing. Whatever a library prints goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from numbaconv.parameters import check_layout
from numbaconv.study import peers
from numbaconv.study.layers import Layer
from numbaconv.study.peers import Arrays, Peer

#: How far a result may be from ours, as a share of the largest element. Winograd's rounding is a tenth of it.
TOLERANCE = 1e-3
#: A process is at rest when its threads took less than this share of some time; some libraries' spin on for a while.
#: The system may count what a thread takes but every few milliseconds, so that time has to be longer.
REST, TICKS, PATIENCE = 0.05, 0.012, 0.5
PAUSE = 0.002

Answer = dict[str, Any]


class Worker:
    """Answers requests about one library."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.cell: tuple[str, str] | None = None
        self.arrays: Arrays | None = None  # libraries point into their memory
        self.calls: dict[str, Callable[[], Any]] = {}

    def answer(self, request: dict[str, Any]) -> Answer:
        """What was asked for; any exception is the answer "failed"."""
        try:
            ask: Callable[..., Answer] = getattr(self, f"on_{request.pop('do')}")
            return ask(**request)
        except Exception as error:
            return {"failed": one_line(error)}
        finally:
            rest()

    def on_begin(
        self, layer: str, layout: str, work: str, turn: float, expected: str | None, save: str | None
    ) -> Answer:
        """Call a pass for the first time, compare its result with the one expected, count the calls of a turn."""
        call = self._call(layer, layout, work)
        start = time.perf_counter()
        value = call()
        first = time.perf_counter() - start
        result = self.peer.result(value, work, check_layout(layout))
        if save:
            np.save(save, result)
        answer: Answer = {"first_call": first, "threads": self.peer.says()}
        if expected:
            answer["error"], answer["wrong"] = difference(result, np.load(expected))
        if not answer.get("wrong"):
            answer["calls"] = calls_for(call, turn)
        return answer

    def on_time(self, layer: str, layout: str, work: str, calls: int, warm: bool) -> Answer:
        """Seconds of a call, and how many threads were at work meanwhile."""
        call = self._call(layer, layout, work)
        gc.collect()
        gc.disable()
        spread_threads()
        try:
            threads = ThreadTimes()
            if warm:
                call()
            cpu = time.process_time()
            wall, cpu = duration(call, calls), time.process_time() - cpu
            wanted = threads.wanted()
        finally:
            gc.enable()
        seconds = {"seconds": wall / calls, "wall": wall, "cpu": cpu, "wanted": wanted * wall}
        return {**seconds, "threads": self.peer.says()}

    def on_peak(self) -> Answer:
        """Multiply-adds that its cores can do, in GFLOP/s."""
        from numbaconv.study.peak import measure

        return {"peak": measure(self.peer.threads)}

    def _call(self, layer: str, layout: str, work: str) -> Callable[[], Any]:
        if self.cell != (layer, layout):
            self.calls, self.cell = {}, None
            parsed, known = Layer.parse(layer), check_layout(layout)
            self.arrays = Arrays.random(parsed, known)
            self.calls = self.peer.prepare(parsed, known, self.arrays)
            self.cell = layer, layout
        return self.calls[work]


def difference(result: np.ndarray, expected: np.ndarray) -> tuple[float, str]:
    """Largest difference as a share of the largest element expected; and what is wrong, if anything is."""
    if result.shape != expected.shape:
        return float("inf"), f"its result has the shape {result.shape} where ours has {expected.shape}"
    error = float(np.abs(result - expected).max() / np.abs(expected).max()) if expected.size else 0.0
    if error <= TOLERANCE:
        return error, ""
    return error, f"its result differs from ours by {error:.1g} of the largest element; {TOLERANCE:g} is allowed"


def calls_for(call: Callable[[], Any], seconds: float) -> int:
    """How many calls last about as long as ``seconds``."""
    calls = 1
    while True:
        took = min(duration(call, calls) for _ in range(2))  # the first ones may have had memory to fetch
        if took <= seconds / 4:
            calls *= 4
        elif duration(call, calls) > took / 2:  # else a library was still getting ready
            return max(1, round(calls * seconds / took))


def duration(call: Callable[[], Any], calls: int) -> float:
    """Seconds that so many calls take."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


class ThreadTimes:
    """How many threads of this process want a core at a time, from when it is made.

    Where all threads of a process are held to as many cores as it was granted, more than those cannot run at once, so
    CPU time would never tell that a library had started too many; but they stand in line, and Linux counts that.
    """

    def __init__(self) -> None:
        time.sleep(PAUSE)  # a thread's account is brought up to date when it stops running
        self.before, self.start = self._read(), time.perf_counter()

    def wanted(self) -> float:
        """Seconds that threads ran or stood in line, over seconds on the clock; 0 where they are not counted."""
        wall = time.perf_counter() - self.start
        time.sleep(PAUSE)
        return sum(after - self.before.get(thread, 0) for thread, after in self._read().items()) / 1e9 / wall

    @staticmethod
    def _read() -> dict[str, int]:
        times = {}
        for path in Path("/proc/self/task").glob("*/schedstat"):
            try:
                running, waiting, _ = path.read_text().split()
                times[path.parent.name] = int(running) + int(waiting)
            except (OSError, ValueError):
                continue  # the thread has just ended
        return times


def spread_threads() -> None:
    """Put the threads of this process on different cores, from where they may move again.

    Two that spin for each other on one core can stay there for a long time, while another core is idle.
    """
    try:
        cores = os.sched_getaffinity(0)
        for number, thread in enumerate(sorted(map(int, os.listdir("/proc/self/task")))):
            with suppress(OSError):  # the thread has just ended
                os.sched_setaffinity(thread, {sorted(cores)[number % len(cores)]})
                os.sched_setaffinity(thread, cores)
    except (AttributeError, OSError):
        return  # not Linux


def settle_heap() -> None:
    """Let malloc keep the memory that is given back to it, as it does in every program after a while.

    A young glibc heap hands large blocks back to the system whenever they are freed, and gets them back page by page,
    which can take ten times as long as the convolution whose output they hold. That ends when a block of up to 32 MiB
    has been freed once. Whether a library has done so depends on what it computed before; here all have.
    """
    np.empty((32 << 20) - (64 << 10), np.uint8)


def rest() -> None:
    """Wait until the library's threads have stopped spinning: the next process is about to be timed."""
    give_up = time.perf_counter() + PATIENCE
    while time.perf_counter() < give_up:
        before = time.process_time()
        time.sleep(TICKS)
        if time.process_time() - before < REST * TICKS:
            return


def one_line(error: BaseException) -> str:
    """An exception in a line of at most 200 characters."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"[:200]


def start(address: str, threads: int, make: Callable[[Any], Worker]) -> tuple[Worker | None, Answer]:
    """A worker, and what it says first: the library's version, or why it can't be used."""
    try:
        peer = peers.find(address)(threads)
        settle_heap()
        gc.collect()
        gc.freeze()  # what a library made when it was imported need not be looked at before every turn
        return make(peer), {"version": peer.version()}
    except Exception as error:
        return None, {"missing": f"cannot be used: {one_line(error)}"}


def serve(make: Callable[[Any], Worker]) -> None:
    """Be the worker that the command line asks for, until there are no more requests."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is not an answer
    worker, first = start(sys.argv[1], int(sys.argv[2]), make)
    print(json.dumps(first), file=answers, flush=True)
    if worker is None:
        return
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    serve(Worker)
