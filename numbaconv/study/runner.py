"""Runs a study: every library in a process of its own, on the same cores, in turns.

For each cell, numbaconv goes first, and its result is what the others' are compared with before anything is timed. Then
rounds follow one another; within a round every library has a turn of some calls. How many threads were at work is
counted in each turn, and a library that had more than it was granted is "unfair" in that cell.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from numbaconv.geometry import Algorithm, check_algorithm
from numbaconv.parameters import Layout
from numbaconv.study import machine, peers
from numbaconv.study.layers import Layer
from numbaconv.study.peers import ALGORITHMS, LAYOUTS, PEERS, WORKS, Peer
from numbaconv.study.remote import Failure, Remote, Unusable
from numbaconv.study.results import OURS, Cell, Study, Timing

#: Rounds, and seconds of a turn; for a first look, and for a run that is to be quoted.
QUICK, THOROUGH = (3, 0.008), (7, 0.03)
#: More CPU time than the threads could use, by so much, is unfair; a short turn may be off by some milliseconds.
SLACK, SLACK_SECONDS = 1.15, 0.002
#: The same for time spent running or in line: a thread that only hands out work may overlap with those that do it.
#: Where a library did not have its cores for itself, its threads stood in line behind others', and more has to be
#: granted.
WANTED_SLACK, SATURATED = 0.5, 0.8
#: A library that is slow takes fewer turns: after these seconds it has had enough, but for the first turns.
ENOUGH_SECONDS, FEWEST_ROUNDS = 1.0, 2

#: A turn in which threads stood in line for longer than this share of it was disturbed by other programs, and is taken
#: again, some times; not for ever, because some machines are always busy.
DISTURBED, RETAKES, PATIENCE = 0.1, 2, 20

Progress = Callable[[str], None]


@dataclass
class Turn:
    """A library in a cell."""

    remote: Remote
    timing: Timing
    calls: int = 1
    #: Seconds that its turns have taken.
    spent: float = 0.0
    #: What was unfair, for each turn that was.
    offences: list[str] = field(default_factory=list)

    def take(self, answer: dict[str, Any]) -> None:
        """Note what came of a turn."""
        self.timing.seconds.append(answer["seconds"])
        self.timing.busy.append(round(answer["cpu"] / answer["wall"], 3))
        self.timing.threads = answer["threads"]
        offence = unfair(self.remote.threads, **{key: answer[key] for key in ("wall", "cpu", "wanted", "threads")})
        if offence:
            self.offences.append(offence)

    def judge(self) -> None:
        """Once may be an accident of the system's accounting; in half of the rounds it is none."""
        if self.timing.status == "ok" and self.offences and 2 * len(self.offences) >= len(self.timing.seconds):
            self.timing.status, self.timing.reason = "unfair", self.offences[-1]

    @property
    def has_had_enough(self) -> bool:
        return self.spent > ENOUGH_SECONDS and len(self.timing.seconds) >= FEWEST_ROUNDS


def run(
    layers: Mapping[str, str],
    *,
    threads: Sequence[int] | None = None,
    layouts: Sequence[Layout] = LAYOUTS,
    works: Sequence[str] = WORKS,
    names: Sequence[str] | None = None,
    rounds: int | None = None,
    quick: bool = False,
    algorithm: Algorithm = "auto",
    settings: Mapping[str, Any] | None = None,
    progress: Progress = lambda text: None,
) -> Study:
    """Time layers on every library that is installed.

    Interrupted by Ctrl-C, it returns what has been measured so far, with "interrupted" in the settings.

    Parameters
    ----------
    layers : mapping of str to str
        Descriptors (see :mod:`numbaconv.study.layers`) by name.
    threads : sequence of int, optional
        Numbers of threads, one after the other; by default as many as there are physical cores.
    layouts, works : sequence of str
        "NCHW", "NHWC"; "forward", "grad_input", "grad_weight".
    names : sequence of str, optional
        The peers, by name or address; by default all. numbaconv always takes part.
    rounds : int, optional
        How many turns every library has in a cell.
    quick : bool
        Few and short turns, for a first look.
    algorithm : "auto", "direct" or "winograd"
        Which kernels numbaconv takes part with. Layers that they don't serve are left out, and noted in the settings.
    settings : mapping, optional
        More to be noted with the results, such as the name of the suite.
    progress : callable
        Told in a line what is being done.

    Returns
    -------
    Study

    Raises
    ------
    ValueError
        A descriptor is wrong, there is no such peer, more threads are asked for than there are cores, or the algorithm
        serves none of the layers.
    RuntimeError
        numbaconv itself cannot be run.

    Examples
    --------
    >>> from numbaconv.study import runner
    >>> study = runner.run({"tiny": "n1 c1 h8 k4 r3"}, threads=[1], works=["forward"], names=["im2col"], quick=True)
    >>> cell = study.cells[-1]
    >>> cell.name, cell.layout, cell.flop, [timing.status for timing in cell.timings.values()]
    ('tiny', 'NHWC', 2592, ['ok', 'ok'])
    """
    parsed, left = served(layers, algorithm)
    granted = check_threads(threads)
    chosen = choose(names, algorithm)
    default_rounds, seconds = QUICK if quick else THOROUGH
    study = Study(machine=machine.facts(), versions=machine.versions(), settings={})
    study.settings |= {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": rounds or default_rounds,
        "seconds of a turn": seconds,
        "threads": granted,
        "layouts": list(layouts),
        "passes": list(works),
        "algorithm": algorithm,
        "pinned to cores": machine.cores_for(max(granted)) if machine.CAN_PIN else "no: this system can't",
        "memory": "kept by malloc from call to call",
        "load before": round(machine.load(), 2),
        **(settings or {}),
    }
    runner = _Runner(study, chosen, seconds, progress)
    if left:
        unserved = f"{len(left)} of {len(layers)} layers, which algorithm {algorithm} does not serve"
        runner.skipped[OURS] = f"{unserved}: {', '.join(left)}"
    try:
        for n in granted:
            runner.run_threads(n, parsed, layouts, works)
    except KeyboardInterrupt:
        study.settings["interrupted"] = True
        runner.tidy()
    runner.note()
    return study


def check_threads(threads: Sequence[int] | None) -> list[int]:
    """Numbers of threads without repetitions; as many as there are physical cores for None.

    Raises
    ------
    ValueError
        There are not so many cores.
    """
    granted = list(dict.fromkeys(threads or [len(machine.physical_cores())]))
    most = len(machine.available_cores())
    for n in granted:
        if not 1 <= n <= most:
            raise ValueError(f"threads must be from 1 to {most}, the cores that may be used; got {n}")
    return granted


def served(layers: Mapping[str, str], algorithm: Algorithm) -> tuple[dict[str, Layer], list[str]]:
    """The layers, parsed, that an algorithm of ours serves, and the names of the others.

    Raises
    ------
    ValueError
        A descriptor is wrong, or the algorithm serves none of the layers.
    """
    parsed: dict[str, Layer] = {}
    left, reason = [], ""
    for name, descriptor in layers.items():
        layer = Layer.parse(descriptor)
        geometry = layer.geometry()
        try:
            check_algorithm(algorithm, geometry)
            parsed[name] = layer
        except ValueError as error:
            left.append(name)
            reason = str(error)
    if left and not parsed:
        raise ValueError(f"no layer can be run: {reason}")
    return parsed, left


def choose(names: Sequence[str] | None, algorithm: Algorithm = "auto") -> list[type[Peer]]:
    """The peers of these names, ours first; all for None.

    Raises
    ------
    ValueError
        There is no such peer.
    """
    others = [peers.find(name) for name in (PEERS if names is None else names)]
    return list(dict.fromkeys([ALGORITHMS[algorithm], *(peer for peer in others if peer.name != OURS)]))


class _Runner:
    def __init__(self, study: Study, chosen: list[type[Peer]], seconds: float, progress: Progress) -> None:
        self.study, self.seconds, self.progress = study, seconds, progress
        self.peers = [peer for peer in chosen if not self._is_missing(peer)]
        self.done = 0
        self.turns = self.disturbed = 0
        self.skipped: dict[str, str] = {}

    def run_threads(
        self, threads: int, layers: dict[str, Layer], layouts: Sequence[Layout], works: Sequence[str]
    ) -> None:
        """All cells with one number of threads."""
        total = len(layers) * len(layouts) * len(works) * len(self.study.settings["threads"])
        with self._team(threads) as team:
            self._measure_peak(team[0], threads)
            for name, layer in layers.items():
                for layout in layouts:
                    for work in works:
                        self.done += 1
                        self.progress(
                            f"{self.done}/{total}  {name} {work} {layout}, {threads} thread{'s' * (threads > 1)}"
                        )
                        self._cell(name, layer, layout, work, threads, team)
            self._measure_peak(team[0], threads)

    def tidy(self) -> None:
        """After an interruption: leave out what has no timings."""
        for cell in self.study.cells:
            lost = [name for name, timing in cell.timings.items() if timing.status == "ok" and not timing.seconds]
            for name in lost:
                del cell.timings[name]
        self.study.cells = [cell for cell in self.study.cells if cell.timings]

    def _is_missing(self, peer: type[Peer]) -> bool:
        try:
            reason = peer.missing()
        except Exception as error:
            reason = f"cannot be asked whether it is installed: {error}"
        if reason:
            self.study.missing[peer.name] = reason
        return bool(reason)

    @contextmanager
    def _team(self, threads: int) -> Iterator[list[Remote]]:
        """The processes of all libraries, ours first; they are ended afterwards, whatever happens."""
        cores = machine.cores_for(threads)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="numbaconv-")))
            team = [Remote(peer, threads, cores, folder) for peer in self.peers]
            for remote in team:
                stack.callback(remote.close)
                remote.launch()
            self.progress(f"importing {', '.join(remote.peer.name for remote in team)}")
            self.folder = folder
            yield [remote for remote in team if self._is_ready(remote)]

    def _is_ready(self, remote: Remote) -> bool:
        name = remote.peer.name
        try:
            remote.wait_until_ready()
        except Failure as failure:
            if name == OURS:
                raise RuntimeError(f"numbaconv {failure}") from failure
            reason = str(failure) if isinstance(failure, Unusable) else f"cannot be used: {failure}"
            self.study.missing[name] = reason
            self.peers.remove(remote.peer)
            return False
        self.study.versions[name] = remote.version
        return True

    def _measure_peak(self, remote: Remote, threads: int) -> None:
        """The best of what was measured: other programs can only make it smaller."""
        self.progress(f"the machine's peak, {threads} thread{'s' * (threads > 1)}")
        try:
            peak = remote.ask(do="peak")["peak"]
        except Failure as failure:
            self.progress(f"the peak could not be measured: {failure}")
            return
        self.study.peak[str(threads)] = max(peak, self.study.peak.get(str(threads), 0.0))

    def _cell(self, name: str, layer: Layer, layout: Layout, work: str, threads: int, team: list[Remote]) -> None:
        flop = layer.geometry(layout).flops
        cell = Cell(name, str(layer), work, layout, threads, flop, layer.N)
        self.study.cells.append(cell)
        where: dict[str, Any] = {"layer": str(layer), "layout": layout, "work": work}
        expected = self.folder / "expected.npy"
        expected.unlink(missing_ok=True)
        turns = []
        for remote in team:
            if self._serves(remote.peer, layout, work, flop):
                cell.timings[remote.peer.name] = timing = Timing()
                turn = Turn(remote, timing)
                if self._begin(turn, where, expected):
                    turns.append(turn)
        try:
            for _ in range(self.study.settings["rounds"]):
                for turn in turns:
                    if turn.timing.status == "ok" and not turn.has_had_enough:
                        self._take(turn, where)
        finally:
            for turn in turns:
                turn.judge()

    def _serves(self, peer: type[Peer], layout: Layout, work: str, flop: int) -> bool:
        if flop > peer.most_flop:
            self.skipped[peer.name] = f"layers of more than {peer.most_flop:,.0f} operations, for which it is too slow"
            return False
        return layout in peer.layouts and work in peer.works

    def _begin(self, turn: Turn, where: dict[str, Any], expected: Path) -> bool:
        """First call, comparison, number of calls in a turn; False if it can't be timed."""
        ours = turn.remote.peer.name == OURS
        compare = None if ours or not expected.exists() else str(expected)
        try:
            answer = turn.remote.ask(
                do="begin", **where, turn=self.seconds, expected=compare, save=str(expected) if ours else None
            )
        except Failure as failure:
            _fail(turn.timing, failure)
            return False
        turn.timing.first_call = answer["first_call"]
        turn.timing.threads = answer["threads"]
        turn.timing.error = answer.get("error", math.nan)
        if answer.get("wrong"):
            turn.timing.status, turn.timing.reason = "wrong", answer["wrong"]
            return False
        turn.calls = answer["calls"]
        return True

    def _take(self, turn: Turn, where: dict[str, Any]) -> None:
        """A library's turn in a round."""
        warm = turn.calls > 1 or turn.spent < ENOUGH_SECONDS / 10
        best: dict[str, Any] = {}
        for _ in range(1 + RETAKES):
            try:
                answer = turn.remote.ask(do="time", **where, calls=turn.calls, warm=warm)
            except Failure as failure:
                _fail(turn.timing, failure)
                return
            turn.spent += answer["wall"]
            if not best or waited(answer) < waited(best):
                best = answer
            if waited(best) < DISTURBED or 4 * self.disturbed > self.turns + PATIENCE:
                break
        self.turns += 1
        self.disturbed += waited(best) >= DISTURBED
        turn.take(best)

    def note(self) -> None:
        """Note what the numbers can't say themselves."""
        if self.skipped:
            self.study.settings["left out"] = [f"{name}: {reason}" for name, reason in self.skipped.items()]
        if self.turns:
            self.study.settings["disturbed by other programs"] = f"{self.disturbed / self.turns:.0%} of all turns"


def waited(answer: dict[str, Any]) -> float:
    """The share of a turn for which threads stood in line for a core."""
    return max(0.0, answer["wanted"] - answer["cpu"]) / answer["wall"]


def unfair(granted: int, wall: float, cpu: float, wanted: float, threads: int) -> str:
    """What a library did that was not granted in a turn of ``wall`` seconds; nothing if it kept to its threads.

    Parameters
    ----------
    granted : int
        The threads that it was told to use.
    wall, cpu : float
        Seconds on the clock, and of CPU time.
    wanted : float
        Seconds that its threads ran or stood in line for a core; 0 where the system does not tell.
    threads : int
        How many it says that it uses; 0 where it does not say.
    """
    if threads > granted:
        return f"says that it uses {threads} threads where {granted} may be used"
    if cpu > granted * SLACK * wall + SLACK_SECONDS:
        return f"kept {cpu / wall:.1f} threads at work where {granted} may be used"
    more = WANTED_SLACK if cpu > granted * SATURATED * wall else granted + 1
    if wanted > (granted * SLACK + more) * wall + SLACK_SECONDS:
        return f"had {wanted / wall:.1f} threads running or in line for a core where {granted} may be used"
    return ""


def _fail(timing: Timing, failure: Failure) -> None:
    timing.status, timing.reason = "failed", str(failure)
