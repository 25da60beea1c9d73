"""What a study prints and draws, on studies that are made up."""

from __future__ import annotations

import io
import math
import random
import re
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest

from numbaconv.study.layers import PUBLIC, Layer
from numbaconv.study.results import Cell, Study, Timing

pytest.importorskip("rich")
from rich.console import Console

from numbaconv.study import report
from numbaconv.study.against import changes
from numbaconv.study.reading import noise

#: How many times as long as ours they take, in the mean and as a spread of its logarithm.
PEERS = {
    "torch": (1.6, 0.4),
    "jax": (3.0, 0.5),
    "onnxruntime": (2.0, 0.4),
    "openvino": (2.2, 0.4),
    "ncnn": (1.3, 0.4),
    "im2col": (9.0, 0.6),
    "loops": (18.0, 0.5),
}
FORWARD_ONLY = ("onnxruntime", "openvino", "ncnn")
PASSES = ("forward", "grad_input", "grad_weight")
MODELS = {"digits_cnn": 56e3, "lenet5": 40e3, "mnist_cnn": 6.1e3, "resnet20": 1.4e3}
TRAINED = {"torch": 1.7, "torch channels_last": 1.45, "torch compiled": 1.3, "jax": 2.6}


def made_up(
    layers: dict[str, str] = PUBLIC,
    layouts: tuple[str, ...] = ("NCHW", "NHWC"),
    threads: tuple[int, ...] = (1, 2),
    rounds: int = 7,
    models: bool = True,
) -> Study:
    """A study as it might have come out, the same each time."""
    rng = random.Random(0)
    study = Study(
        machine={"CPU": "Made-up CPU with 2 cores", "lanes": "16 of float32"},
        versions={"numbaconv": "0.1", "torch": "2.13.0", "ncnn": "1.0", "numpy": "2.4 (OpenBLAS)"},
        settings={"rounds": rounds, "date": "2026-11-23", "layers": list(layers)[:2]},
        missing={"tensorflow": "not installed", "openvino": "not installed"},
        peak={str(number): 258.0 * number for number in threads},
    )
    for number in threads:
        for name, what in layers.items():
            for layout in layouts:
                study.cells += [layer_cell(rng, name, what, work, layout, number, rounds) for work in PASSES]
    for number in threads if models else ():
        for name in MODELS:
            for work, share in (("training step", 1.0), ("inference", 3.4)):
                study.cells.append(model_cell(rng, name, work, MODELS[name] * share, number, rounds))
    return study


def layer_cell(rng: random.Random, name: str, what: str, work: str, layout: str, threads: int, rounds: int) -> Cell:
    geometry = Layer.parse(what).geometry()
    flop = 2 * math.prod(geometry.output_shape) * math.prod(geometry.weight_shape[1:])
    share = min(0.97, rng.uniform(0.55, 0.95)) * (2.2 if "r3" in what and geometry.ICG >= 32 else 1)
    ours = flop / (share * 258e9 * threads**0.9)
    factors = {"numbaconv": 1.0}
    for library, (mean, spread) in PEERS.items():
        if work == "forward" or library not in FORWARD_ONLY:
            # The same for any number of threads, almost.
            own = random.Random(f"{library} {name} {work} {layout}")
            factors[library] = mean * math.exp(own.gauss(0, spread) + rng.gauss(0, 0.05))
    return Cell(name, what, work, layout, threads, flop, geometry.N, timings(rng, ours, factors, threads, rounds))


def model_cell(rng: random.Random, name: str, work: str, speed: float, threads: int, rounds: int) -> Cell:
    ours = 64 / (speed * (threads / 2) ** 0.85)
    factors = {"numbaconv": 1.0, **{library: mean * rng.uniform(0.9, 1.1) for library, mean in TRAINED.items()}}
    what = "batch 64, 61,706 parameters"
    return Cell(name, what, work, "best", threads, 0, 64, timings(rng, ours, factors, threads, rounds))


def timings(rng: random.Random, ours: float, factors: dict[str, float], threads: int, rounds: int) -> dict[str, Timing]:
    return {
        library: Timing(
            seconds=[ours * factor * math.exp(rng.gauss(0, 0.01)) for _ in range(rounds)],
            busy=[threads * rng.uniform(0.97, 1.0) for _ in range(rounds)],
            first_call=rng.uniform(0.01, 2.0),
            error=0.0 if library == "numbaconv" else 10 ** rng.uniform(-7, -5),
            threads=threads,
        )
        for library, factor in factors.items()
    }


def shown(study: Study, width: int = 120, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    report.show(study, console)
    return console.file.getvalue()


SMALL = {"lenet-c1": PUBLIC["lenet-c1"], "vgg-128": PUBLIC["vgg-128"]}


@pytest.fixture
def small() -> Study:
    return made_up(SMALL)


# ------------------------------------------------------------------------------------------------------------- reading


def test_noise_is_the_standard_error_of_a_median() -> None:
    rng = random.Random(1)
    samples = [[math.exp(rng.gauss(0, 0.02)) for _ in range(15)] for _ in range(400)]
    medians = [sorted(sample)[7] for sample in samples]
    truth = math.sqrt(sum(math.log(value) ** 2 for value in medians) / len(medians))
    assert sum(map(noise, samples)) / len(samples) == pytest.approx(truth, rel=0.2)
    # One round that something else disturbed counts for little, and no spread is no noise.
    assert noise([1.0, 1.01, 0.99, 1.0, 1.01, 0.99, 5.0]) < 0.01
    assert noise([2.0]) == noise([]) == noise([3.0, 3.0]) == 0


# -------------------------------------------------------------------------------------------------------------- a study


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_nothing_is_wider_than_the_terminal_nor_cut(width: int) -> None:
    study = made_up(threads=(2,))
    text = shown(study, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text.replace("… and", "")
    for name in [*PUBLIC, *MODELS, *PASSES[:1], "grad input", "grad weight", "onnxruntime", "im2col"]:
        assert re.search(rf"(^|\s){re.escape(name)}(\s|$)", text, re.M), name


@pytest.mark.parametrize("width", [80, 120])
def test_means_are_those_of_the_ratios(width: int) -> None:
    study = made_up(layouts=("NCHW",), threads=(2,), models=False)
    rows = [line.split() for line in shown(study, width).splitlines() if line.startswith("      2  NCHW")]
    for work, title in zip(PASSES, ["forward", "grad input", "grad weight"], strict=True):
        cells = [cell for cell in study.cells if cell.work == work]
        ratios = [[a / b for a, b in zip(*both(cell, "torch"), strict=True)] for cell in cells]
        mean = math.prod(sorted(rounds)[len(rounds) // 2] for rounds in ratios) ** (1 / len(cells))
        row = next(row for row in rows if " ".join(row).startswith(f"2 NCHW {title}"))
        assert row[2 + len(title.split()) + 1] == f"{mean:.2f}×", title


def both(cell: Cell, library: str) -> tuple[list[float], list[float]]:
    return cell.timings[library].seconds, cell.timings["numbaconv"].seconds


def test_a_cell_is_shown_with_speed_share_of_peak_and_ratios() -> None:
    cell = Cell("one", "n1 c1 h8 k1 r3", "forward", "NCHW", 2, 1_000_000, 1)
    cell.timings = {
        "numbaconv": Timing(seconds=[4e-6, 5e-6, 6e-6]),
        "torch": Timing(seconds=[8e-6, 15e-6, 24e-6]),
        "jax": Timing(seconds=[3e-6, 3e-6, 3e-6]),
    }
    text = shown(Study({}, {}, {}, peak={"2": 400.0}, cells=[cell]))
    row = next(line.split() for line in text.splitlines() if line.startswith("one"))
    assert row == ["one", "forward", "5.00", "200", "50%", "▼0.60×", "3.00×", "▼0.60×"]
    assert "fastest, or as fast as the fastest peer, in 0 of 1 cells" in text
    assert re.search(r"▼0\.60×\s+jax\s+one\s+forward\s+NCHW\s+2\s+5\.00\s+3\.00", text)


def test_colour_is_never_alone_and_absent_when_piped(small: Study) -> None:
    plain = shown(small)
    coloured = shown(small, force_terminal=True, color_system="truecolor")
    assert "\x1b" not in plain
    assert "\x1b[1;38;2;31;134;201m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
    for ratio in re.findall(r"\S*0\.\d\d×", plain):
        assert ratio.startswith("▼")


def test_what_is_not_valid_is_said_with_its_reason(small: Study) -> None:
    reasons = {
        "failed": ("torch", "a kernel of 5\nis [bold]not[/bold] \x1b[31msupported"),
        "wrong": ("jax", "differs by 0.3"),
        "unfair": ("ncnn", "2.0 threads at work of 1"),
    }
    for status, (library, reason) in reasons.items():
        small.cells[0].timings[library] = Timing(status, reason)
    text = shown(small)
    row = next(line for line in text.splitlines() if line.startswith("lenet-c1"))
    assert all(status in row for status in reasons)
    flat = " ".join(text.split())
    assert "torch failed: a kernel of 5 is [bold]not[/bold]" in flat
    assert "\x1b" not in text
    assert "jax wrong: differs by 0.3 lenet-c1 forward, NCHW, 1 thread" in flat
    assert "ncnn unfair: 2.0 threads at work of 1 lenet-c1 forward, NCHW, 1 thread" in flat
    assert "tensorflow: not installed" in text
    assert "no reason" not in text


def test_our_own_failure_is_shown_too(small: Study) -> None:
    small.cells[0].timings["numbaconv"] = Timing("failed", "out of memory")
    text = shown(small)
    assert re.search(r"^lenet-c1 +forward +failed +– +– ", text, re.M)
    assert "numbaconv failed: out of memory" in text


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [Cell("a", "", "forward", "NCHW", 1, 0, 1)],
        [Cell("a", "", "forward", "NCHW", 1, 0, 1, {"numbaconv": Timing(seconds=[])})],
        [Cell("a", "", "forward", "NCHW", 1, 0, 1, {"numbaconv": Timing(seconds=[1e-3])})],
        [Cell("a", "", "training step", "best", 1, 0, 8, {"torch": Timing(seconds=[1e-3])})],
        [Cell("a", "", "forward", "NCHW", 1, 9, 1, {"numbaconv": Timing("wrong"), "reference": Timing(seconds=[1.0])})],
    ],
)
def test_little_or_nothing_measured(cells: list[Cell], tmp_path: Path) -> None:
    from numbaconv.study import figures

    study = Study({}, {}, {}, cells=cells)
    for width in (20, 80):
        assert "nan" not in shown(study, width).replace("numbaconv", "")
    assert report.show_against(study, study, Console(file=io.StringIO(), width=80)) == 0
    pytest.importorskip("matplotlib")
    figures.draw(study, tmp_path)


def test_models_have_a_table_of_their_own(small: Study) -> None:
    text = shown(small)
    assert "Models on 2 threads" in text
    assert "lenet5: batch 64, 61,706 parameters" in text
    cell = next(cell for cell in small.cells if cell.name == "lenet5" and cell.threads == 2)
    speed = cell.images / cell.seconds("numbaconv")
    assert re.search(rf"^lenet5 +training step +64 +{1e3 * cell.seconds('numbaconv'):.2f} +{speed:,.0f} ", text, re.M)


def test_a_pipe_that_knows_ascii_only(small: Study) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    report.show(small, Console(file=stream, width=80))
    stream.flush()
    assert b"x is their time over ours" in stream.buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------- two studies


def later(study: Study, seed: int, machine: float = 1.0) -> Study:
    """The same study again: other noise, and a machine that takes ``machine`` times as long over everything."""
    rng, new = random.Random(seed), deepcopy(study)
    for timing in (timing for cell in new.cells for timing in cell.timings.values()):
        timing.seconds = [second * machine * math.exp(rng.gauss(0, 0.01)) for second in timing.seconds]
    return new


def against(new: Study, old: Study, width: int = 120) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=width)
    regressions = report.show_against(new, old, console)
    return regressions, console.file.getvalue()


@pytest.mark.parametrize("machine", [1.0, 1.3, 0.7])
def test_noise_and_a_slower_machine_are_no_regressions(machine: float) -> None:
    study = made_up()
    regressions, text = against(later(study, 1, machine), study)
    assert regressions == 0
    assert "No regressions" in text
    assert f"geometric mean {1.0:.2f}× the time" in text


@pytest.mark.parametrize("machine", [1.0, 1.3, 0.7])
@pytest.mark.parametrize("width", [80, 120])
def test_a_planted_regression_is_found(small: Study, machine: float, width: int) -> None:
    new = later(small, 2, machine)
    ours = new.cells[4].timings["numbaconv"]
    ours.seconds = [1.2 * second for second in ours.seconds]
    regressions, text = against(new, small, width)
    assert regressions == 1
    assert re.search(r"^▼ lenet-c1 grad input, NHWC, 1 thread: 1\.(19|20|21)× the time$", text, re.M)
    assert max(map(len, text.splitlines())) <= width


def test_without_a_witness_raw_times_are_compared(small: Study) -> None:
    new, old = later(small, 3), deepcopy(small)
    for cell in new.cells:
        cell.timings = {"numbaconv": cell.timings["numbaconv"]}
    new.cells[0].timings["numbaconv"].seconds = [1.2 * second for second in new.cells[0].timings["numbaconv"].seconds]
    regressions, text = against(new, old)
    assert regressions == 1
    assert "can't be told apart" in text


def test_a_witness_must_have_its_old_version(small: Study) -> None:
    new = deepcopy(small)
    new.versions["torch"] = "2.14.0"
    new.versions["jaxlib"] = small.versions["jaxlib"] = "0.9"
    assert all("torch" not in change.witnesses and "jax" in change.witnesses for change in changes(new, small)[:12])


def test_noisy_rounds_need_a_larger_change(small: Study) -> None:
    rng, new = random.Random(4), deepcopy(small)
    for study in (small, new):
        for timing in (timing for cell in study.cells for timing in cell.timings.values()):
            timing.seconds = [second * math.exp(rng.gauss(0, 0.3)) for second in timing.seconds]
    assert against(new, small)[0] == 0


def test_a_cell_that_no_longer_works_is_a_regression(small: Study) -> None:
    new = deepcopy(small)
    new.cells[0].timings["numbaconv"] = Timing("failed", "out of memory")
    regressions, text = against(new, small)
    assert regressions == 1
    assert "lenet-c1 forward, NCHW, 1 thread: failed: out of memory" in text
    # The other way round it is mended.
    assert against(small, new)[0] == 0


def test_other_machines_and_other_cells_are_named(small: Study) -> None:
    new = deepcopy(small)
    new.machine["CPU"] = "Another CPU"
    new.settings["algorithm"] = "direct"
    new.cells.pop()
    text = against(new, small)[1]
    assert "CPU differs: Made-up CPU with 2 cores then, Another CPU now" in text
    assert "algorithm differs: auto then, direct now" in text  # the older one was recorded before there was a choice
    assert "1 cell measured only then." in text
    assert against(Study({}, {}, {}), small)[0] == 0


# -------------------------------------------------------------------------------------------------------------- figures


def test_figures_are_drawn_of_what_there_is(small: Study, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib

    from numbaconv.study import figures

    small.cells = [cell for cell in small.cells if cell.layout != "NCHW" and cell.work != "inference"]
    small.cells[0].timings["ncnn"] = Timing("failed", "not supported")
    before = dict(matplotlib.rcParams)
    paths = figures.draw(small, tmp_path / "new" / "folder")
    assert dict(matplotlib.rcParams) == before
    names = {
        "ratio-NHWC-1-thread",
        "ratio-NHWC-2-threads",
        "roofline-1-thread",
        "roofline-2-threads",
        "training-step-images-per-second",
        "scaling",
    }
    assert {path.name for path in paths} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert all(path.stat().st_size > 20_000 for path in paths if path.suffix == ".png")
    texts = {path.stem: path.read_text(encoding="utf-8") for path in paths if path.suffix == ".svg"}
    for name in ("ratio-NHWC-1-thread", "roofline-2-threads"):
        assert all(f">{layer}<" in texts[name] for layer in SMALL)
    assert "ncnn in 1 cell (failed)" in texts["ratio-NHWC-1-thread"]
    assert "no slanted roof" in texts["roofline-1-thread"]
    assert "torch compiled" in texts["training-step-images-per-second"]


def test_points_of_the_roofline() -> None:
    pytest.importorskip("matplotlib")
    from numbaconv.study import roofline

    # 2 × 3 × 8 × 8 inputs, 4 × 3 × 3 × 3 weights, 2 × 4 × 6 × 6 outputs
    assert roofline.moved("n2 c3 h8 k4 r3") == 4 * (384 + 108 + 288)
    assert roofline.moved("batch 64") == 0
    study = made_up(SMALL, threads=(2,))
    assert len(roofline.points(study, 2)) == 12
    assert roofline.points(study, 1) == []
    assert math.isnan(roofline.bandwidth(study, 2))
    study.machine |= {"memory bandwidth": "40.5 GB/s", "memory bandwidth, 2 threads": "61 GB/s"}
    assert (roofline.bandwidth(study, 1), roofline.bandwidth(study, 2)) == (40.5, 61)


def test_names_are_moved_apart() -> None:
    from numbaconv.study.roofline import spread

    rng = random.Random(5)
    for size in range(1, 30):
        wanted = sorted(rng.random() for _ in range(size))
        places = spread(wanted, 0.03)
        assert all(b - a > 0.0299 for a, b in pairwise(places))
        assert min(places) >= 0
        assert max(places) <= 1
