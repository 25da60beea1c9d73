"""``numbaconv compare``: which library is faster on this machine, where, and by how much."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numbaconv.cli.console import open_console
from numbaconv.cli.errors import UsageError, user_errors
from numbaconv.cli.files import output_file
from numbaconv.geometry import Algorithm
from numbaconv.study import runner
from numbaconv.study.layers import Layer, suite
from numbaconv.study.peers import LAYOUTS, WORKS
from numbaconv.study.results import Study

if TYPE_CHECKING:
    from rich.console import Console

#: Options that say how to run, by their names in the namespace; ``--from`` runs nothing.
RUNNING = {
    "suite": "--suite",
    "layer": "--layer",
    "threads": "--threads",
    "layout": "--layout",
    "works": "--pass",
    "peers": "--peers",
    "algorithm": "--algorithm",
    "quick": "--quick",
    "rounds": "--rounds",
    "train": "--train",
    "json": "--json",
}
#: Those that are about layers.
LAYERS = ("suite", "layer", "layout", "works")
#: Exit status where a run is slower than the older one that it is held against, and where it was interrupted.
REGRESSION, INTERRUPTED = 1, 130


def run(options: Namespace) -> int:
    """Run a study or read one, show it, save it, draw it, hold it against an older one."""
    console = open_console("study")
    check(options)
    old = read(options.against) if options.against else None
    study = read(options.source) if options.source else measure(options, console)
    if options.json:
        with user_errors():
            study.save(Path(options.json).expanduser())
    return finish(options, study, old, console)


def check(options: Namespace) -> None:
    """Find mistakes now, not after an hour of measuring."""
    if options.source:
        _refuse(options, tuple(RUNNING), "--from shows an earlier run")
    if options.train is not None:
        _refuse(options, LAYERS, "--train compares models, not layers")
        if options.algorithm == "winograd":
            raise UsageError("--algorithm winograd serves no whole model: with --train it is auto or direct")
    if options.json:
        inputs = [options.against] if options.against else []
        output_file(options.json, (".json",), *inputs, option="--json")
    if options.figures:
        if not find_spec("matplotlib"):
            raise UsageError('--figures needs matplotlib: pip install "numbaconv[study]"')
        folder = Path(options.figures).expanduser()
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--figures {options.figures}: is not a folder")
        with user_errors():
            folder.mkdir(parents=True, exist_ok=True)


def measure(options: Namespace, console: Console) -> Study:
    """A new study of what was asked for."""
    algorithm: Algorithm = options.algorithm or "auto"
    with user_errors():
        runner.check_threads(options.threads)
        if options.train is None:
            layers = chosen_layers(options.suite, options.layer)
            runner.served(layers, algorithm)
            runner.choose(options.peers)
        else:
            from numbaconv.study import training, training_peers

            models = chosen_models(options.train, tuple(training.MODELS))
            for name in options.peers or []:
                training_peers.find(name)
    try:
        with progress_line(console) as progress:
            if options.train is not None:
                return training.run(
                    models,
                    options.threads,
                    options.peers,
                    options.rounds,
                    options.quick,
                    progress.update,
                    algorithm=algorithm,
                )
            return runner.run(
                layers,
                threads=options.threads,
                layouts=options.layout or LAYOUTS,
                works=options.works or WORKS,
                names=options.peers,
                rounds=options.rounds,
                quick=options.quick,
                algorithm=algorithm,
                settings=noted(options),
                progress=progress.update,
            )
    except RuntimeError as error:
        raise UsageError(str(error)) from error


def chosen_layers(suites: list[str] | None, descriptors: list[str] | None) -> dict[str, str]:
    """Descriptors by name; those that were typed have none, and are called what they say.

    Raises
    ------
    ValueError
        There is no such suite, or a descriptor is wrong.
    """
    layers: dict[str, str] = {}
    for name in suites or ([] if descriptors else ["public"]):
        layers |= suite(name)
    for descriptor in descriptors or []:
        layer = str(Layer.parse(descriptor))
        layers[layer] = layer
    return layers


def noted(options: Namespace) -> dict[str, Any]:
    """What the study is to remember of what was asked for."""
    suites = options.suite or ([] if options.layer else ["public"])
    return {"suites": suites} if suites else {}


def chosen_models(names: list[str], known: tuple[str, ...]) -> list[str]:
    """The models that were named, or all.

    Raises
    ------
    ValueError
        There is no such model.
    """
    for name in names:
        if name not in known:
            raise ValueError(f"--train: there is no model {name!r}: choose from {', '.join(known)}")
    return list(dict.fromkeys(names or known))


def read(path: str) -> Study:
    """An earlier study."""
    with user_errors():
        return Study.load(Path(path).expanduser())


def finish(options: Namespace, study: Study, old: Study | None, console: Console) -> int:
    """Show, draw and compare; the exit status."""
    from numbaconv.study import report

    report.show(study, console)
    if options.json:
        console.print(f"saved {options.json}")
    if options.figures and study.cells:
        from numbaconv.study import figures

        with user_errors(ImportError):
            for path in figures.draw(study, Path(options.figures).expanduser()):
                console.print(f"drew {path}")
    slower = report.show_against(study, old, console) if old else 0
    if study.settings.get("interrupted") and not options.source:
        console.print("interrupted: this is what had been measured by then")
        return INTERRUPTED
    return REGRESSION if slower else 0


class Line:
    """What is being done, in a line that is overwritten; nothing where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self.status = console.status("starting") if console.is_terminal else None

    def update(self, text: str) -> None:
        """Say what is being done now."""
        if self.status is not None:
            self.status.update(text)


@contextmanager
def progress_line(console: Console) -> Iterator[Line]:
    """A :class:`Line` while something takes its time."""
    line = Line(console)
    if line.status is None:
        yield line
        return
    with line.status:
        yield line


def _refuse(options: Namespace, names: tuple[str, ...], because: str) -> None:
    for name in names:
        if getattr(options, name) not in (None, False):
            raise UsageError(f"{because}: {RUNNING[name]} does not go with it")
