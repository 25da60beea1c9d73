"""Whole training steps, and inference, of the models in ``nn.models`` beside the same models in other libraries.

As in :mod:`numbaconv.study.runner`, each library has a process of its own, on the same cores, and they take turns round
by round. All start from the same weights, which numbaconv draws, and see the same batches. Before anything is timed,
the models must have the same number of parameters, give the same logits and, for some steps, the same losses.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from numbaconv.geometry import Algorithm
from numbaconv.nn import Sequential
from numbaconv.study import machine
from numbaconv.study.reading import count
from numbaconv.study.remote import Failure, Remote, Unusable
from numbaconv.study.results import OURS, Cell, Status, Study, Timing
from numbaconv.study.runner import DISTURBED, Turn, check_threads, waited
from numbaconv.study.training_base import TrainingPeer
from numbaconv.study.training_data import INFERENCE, SUBJECTS, Data, operations
from numbaconv.study.training_peers import ALGORITHMS, LEARNING_RATE, MOMENTUM, PEERS, find

#: Names of models, as ``run`` takes them by default.
MODELS = tuple(SUBJECTS)
#: Rounds, and seconds of a turn; for a first look, and for a run that is to be quoted.
QUICK, THOROUGH = (3, 0.03), (7, 0.2)
#: How far the first loss may be from ours, and the loss after three updates, which have multiplied rounding errors.
FIRST_LOSS, LAST_LOSS = 1e-4, 1e-2
#: How long a first call may take, in seconds: compilers take their time.
BEGIN_SECONDS = 900.0
#: Takes minutes before it is ready, so a quick run goes without it.
SLOW = "torch.compile"

Progress = Callable[[str], None]


def run(
    models: Sequence[str] = MODELS,
    threads: Sequence[int] | None = None,
    peers: Sequence[str] | None = None,
    rounds: int | None = None,
    quick: bool = False,
    progress: Progress = lambda text: None,
    settings: Mapping[str, Any] | None = None,
    algorithm: Algorithm = "auto",
) -> Study:
    """Compare training and inference.

    Interrupted by Ctrl-C, it returns what has been measured so far, with "interrupted" in the settings.

    Parameters
    ----------
    models : sequence of str
        Some of :data:`MODELS`.
    threads : sequence of int, optional
        Numbers of threads, one after the other; by default as many as there are physical cores.
    peers : sequence of str, optional
        Names in :data:`~numbaconv.study.training_peers.PEERS`, or ``"package.module:Class"`` for a
        :class:`~numbaconv.study.training_base.TrainingPeer` of your own; by default all. numbaconv always takes part.
    rounds : int, optional
        How many turns every library has in a cell.
    quick : bool
        Few and short turns, and no ``torch.compile`` unless ``peers`` names it.
    progress : callable
        Told in a line what is being done.
    settings : mapping, optional
        More to be noted with the results.
    algorithm : "auto" or "direct"
        Which kernels numbaconv takes part with.

    Returns
    -------
    Study

    Raises
    ------
    ValueError
        A model, a peer or the algorithm is unknown, or more threads are asked for than there are cores.
    RuntimeError
        numbaconv itself cannot be run.
    """
    granted = check_threads(threads)
    default_rounds, seconds = QUICK if quick else THOROUGH
    rounds = default_rounds if rounds is None else rounds
    _check(models, rounds, algorithm)
    study = Study(machine=machine.facts(), versions=machine.versions(), settings={})
    study.settings |= {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": list(models),
        "algorithm": algorithm,
        "optimizer": f"SGD, learning rate {LEARNING_RATE}, momentum {MOMENTUM}",
        "rounds": rounds,
        "seconds of a turn": seconds,
        "threads": granted,
        "pinned to cores": machine.cores_for(max(granted)) if machine.CAN_PIN else "no: this system can't",
        "load before": round(machine.load(), 2),
        **(settings or {}),
    }
    chosen, disturbed = _taking_part(study, peers, quick, ALGORITHMS[algorithm]), 0
    try:
        for n in granted:
            with _team(study, chosen, n, progress) as team:
                for name in models:
                    disturbed += _model(study, name, team, seconds, progress)
    except KeyboardInterrupt:
        study.settings["interrupted"] = True
        _tidy(study)
    turns = sum(len(timing.seconds) for cell in study.cells for timing in cell.timings.values())
    if turns:
        study.settings["disturbed by other programs"] = f"{disturbed / turns:.0%} of all turns"
    return study


class _Remote(Remote):
    module = "numbaconv.study.training_worker"

    def __init__(self, peer: type[TrainingPeer], threads: int, cores: list[int], folder: Path) -> None:
        super().__init__(peer, threads, cores, folder)
        self.logits = folder / "logits.npy"  # ours, for all to compare with


@dataclass
class _Place(Turn):
    """A library in a cell."""

    remote: _Remote
    #: Turns in which threads stood in line behind other programs for more than a tenth of the time.
    disturbed: int = 0

    def fail(self, status: Status, reason: str) -> None:
        self.timing.status, self.timing.reason = status, reason

    def take_turn(self, where: dict[str, Any]) -> None:
        """One round of it, if it is still in the game."""
        if self.timing.status != "ok":
            return
        try:
            answer = self.remote.ask(do="time", **where, calls=self.calls, warm=True)
        except Failure as failure:
            return self.fail("failed", str(failure))
        self.disturbed += waited(answer) > DISTURBED
        self.take(answer)


def _model(study: Study, name: str, team: list[_Remote], seconds: float, progress: Progress) -> int:
    """All cells of a model at one number of threads; returns how many turns were disturbed."""
    subject, threads = SUBJECTS[name], team[0].threads
    network, disturbed = Data.random(name, 1).model, 0
    for work, images in (("training step", subject.batch), *(("inference", images) for images in INFERENCE)):
        cell = Cell(
            name=name,
            what=f"batch {images}, {network.num_parameters:,} parameters",
            work=work,
            layout="best",
            threads=threads,
            flop=images * operations(network, subject.image, training=work == "training step"),
            images=images,
        )
        study.cells.append(cell)
        progress(f"{name} {work}, batch {images}, {count(threads, 'thread')}")
        able = [remote for remote in team if work in remote.peer.works]
        disturbed += _cell(cell, network, able, study.settings["rounds"], seconds)
    return disturbed


def _cell(cell: Cell, network: Sequential, team: list[_Remote], rounds: int, seconds: float) -> int:
    """First calls and comparisons, then the rounds; returns how many turns were disturbed."""
    where: dict[str, Any] = {"layer": f"n{cell.images} {cell.name}", "layout": cell.layout, "work": cell.work}
    team[0].logits.unlink(missing_ok=True)
    ours: list[float] = []
    places = []
    for remote in team:
        places.append(place := _Place(remote, Timing()))
        cell.timings[remote.peer.name] = place.timing
        losses = _begin(place, where, network.num_parameters, ours, seconds)
        if remote.peer.name == OURS and place.timing.status == "ok":
            ours = losses
    for turn in range(rounds):
        first = turn % len(places)  # so that no place in the order is anyone's own
        for place in places[first:] + places[:first]:
            place.take_turn(where)
    for place in places:
        place.judge()
    return sum(place.disturbed for place in places)


def _begin(place: _Place, where: dict[str, Any], parameters: int, ours: list[float], seconds: float) -> list[float]:
    """First call, comparison with ours, number of calls in a turn; returns the losses."""
    mine, timing, file = place.remote.peer.name == OURS, place.timing, place.remote.logits
    files = {"save": str(file) if mine else None, "expected": str(file) if not mine and file.exists() else None}
    try:
        answer = place.remote.ask(BEGIN_SECONDS, do="begin", **where, turn=seconds, **files)
    except Failure as failure:
        place.fail("failed", str(failure))
        return []
    timing.first_call, timing.threads = answer["first_call"], answer["threads"]
    timing.error = answer.get("error", math.nan)
    losses: list[float] = answer.get("losses", [])
    wrong = answer.get("wrong", "")
    if losses:
        timing.error, wrong = compare_losses(losses, ours)
    if answer["parameters"] != parameters:
        wrong = f"its model has {answer['parameters']:,} parameters where ours has {parameters:,}"
    if wrong:
        place.fail("wrong", wrong)
    place.calls = answer.get("calls", 1)
    return losses


def compare_losses(losses: list[float], ours: list[float]) -> tuple[float, str]:
    """How far the first loss is from ours, as a share of it; and what is wrong, if anything is.

    The last loss is compared too, by a coarser measure. Without ours, that they are numbers is all that is asked.
    """
    if not all(map(math.isfinite, losses)):
        return math.nan, f"its losses are {', '.join(f'{loss:.4g}' for loss in losses)}"
    if not ours:
        return math.nan, ""
    first, last = (abs(losses[i] - ours[i]) / abs(ours[i]) for i in (0, -1))
    if first > FIRST_LOSS:
        return first, f"its first loss is {losses[0]:.6g} where ours is {ours[0]:.6g}"
    if last > LAST_LOSS:
        return first, f"its loss after {count(len(ours) - 1, 'step')} is {losses[-1]:.4g} where ours is {ours[-1]:.4g}"
    return first, ""


@contextmanager
def _team(study: Study, chosen: list[type[TrainingPeer]], threads: int, progress: Progress) -> Iterator[list[_Remote]]:
    """The processes of all libraries, ours first; they are ended afterwards, whatever happens."""
    cores = machine.cores_for(threads)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="numbaconv-")))
        team = [_Remote(peer, threads, cores, folder) for peer in chosen]
        for remote in team:
            stack.callback(remote.close)
            remote.launch()
        progress(f"importing {', '.join(remote.peer.name for remote in team)}")
        ready = [remote for remote in team if _is_ready(study, remote)]
        progress(f"the machine's peak, {count(threads, 'thread')}")
        study.peak[str(threads)] = ready[0].ask(do="peak")["peak"]
        yield ready


def _is_ready(study: Study, remote: _Remote) -> bool:
    name = remote.peer.name
    try:
        remote.wait_until_ready()
    except Failure as failure:
        if name == OURS:
            raise RuntimeError(f"numbaconv {failure}") from failure
        study.missing[name] = str(failure) if isinstance(failure, Unusable) else f"cannot be used: {failure}"
        return False
    study.versions[name] = remote.version
    return True


def _taking_part(
    study: Study, peers: Sequence[str] | None, quick: bool, ours: type[TrainingPeer] = ALGORITHMS["auto"]
) -> list[type[TrainingPeer]]:
    """The peers that can take part, ours first; the study notes why others can't."""
    chosen = []
    others = [find(name) for name in (PEERS if peers is None else peers)]
    for peer in dict.fromkeys([ours, *(peer for peer in others if peer.name != OURS)]):
        reason = peer.missing()
        if quick and peers is None and peer.name == SLOW:
            reason = "left out of a quick run, for it compiles for minutes"
        if reason:
            study.missing[peer.name] = reason
        else:
            chosen.append(peer)
    return chosen


def _check(models: Sequence[str], rounds: int, algorithm: str) -> None:
    for name in models:
        if name not in SUBJECTS:
            raise ValueError(f"there is no model {name!r}: choose from {', '.join(SUBJECTS)}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm={algorithm!r} does not serve whole models: choose from {', '.join(ALGORITHMS)}")


def _tidy(study: Study) -> None:
    """After an interruption: leave out what has no timings."""
    for cell in study.cells:
        lost = [name for name, timing in cell.timings.items() if timing.status == "ok" and not timing.seconds]
        for name in lost:
            del cell.timings[name]
    study.cells = [cell for cell in study.cells if cell.timings]
