"""Speed studies: what they measure, and the unfair set-ups that they must catch."""

from __future__ import annotations

import json
import math
import os
import shlex
import threading
import time
from pathlib import Path
from typing import Any

import fake_peers
import numpy as np
import pytest

import numbaconv
from numbaconv.cli import main
from numbaconv.geometry import Algorithm
from numbaconv.parameters import LAYOUTS, Layout
from numbaconv.study import machine, peers, runner, training, worker
from numbaconv.study.baselines import Loops
from numbaconv.study.layers import SUITES, Layer, suite
from numbaconv.study.peers import ALGORITHMS, PEERS, WORKS, Arrays, Peer
from numbaconv.study.peers.own import Im2col
from numbaconv.study.results import Cell, Study, Timing

PLAIN, STRIDED = "n1 c2 h6 k3 r3", "n1 c2 h7 k3 r3 s2"
linux = pytest.mark.skipif(not machine.CAN_PIN, reason="this system does not count threads that stand in line")


# --- The data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUITES)
def test_suites_are_made_of_descriptors_in_their_shortest_form(name: str) -> None:
    layers = suite(name)
    assert [str(Layer.parse(descriptor)) for descriptor in layers.values()] == list(layers.values())


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no suite 'alexnet': choose from public, lenet"):
        suite("alexnet")


def test_both_layouts_hold_the_same_numbers() -> None:
    layer = Layer.parse(PLAIN)
    for nchw, nhwc in zip(Arrays.random(layer, "NCHW"), Arrays.random(layer, "NHWC"), strict=True):
        np.testing.assert_array_equal(nchw, nhwc.transpose(0, 3, 1, 2))
        assert nhwc.flags.c_contiguous
        assert np.abs(nchw).min() > np.finfo(np.float32).tiny


def test_a_study_is_saved_whole(tmp_path: Path) -> None:
    timings = {"numbaconv": Timing(seconds=[0.1, 0.25], busy=[1.0, 0.9], first_call=2.0, threads=1)}
    timings["other"] = Timing("failed", "no such operation")
    cell = Cell("tiny", PLAIN, "forward", "NCHW", 1, 1000, 1, timings)
    study = Study({"CPU": "fast"}, {"numpy": "2"}, {"rounds": 2}, {"jax": "not installed"}, {"1": 250.0}, [cell])
    study.save(tmp_path / "study.json")
    loaded = Study.load(tmp_path / "study.json")
    assert math.isnan(loaded.cells[0].timings["other"].first_call)
    assert str(loaded) == str(study)  # NaN is not equal to itself, but reads the same
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a study"):
        Study.load(tmp_path / "other.json")


@pytest.mark.compiled
@pytest.mark.parametrize("descriptor", ["n2 c4 h6x5 k6 r3x2 s2x1 p1 d1x2 g2", "n1 c3 h4 k3 r3 p1 g3"])
def test_plain_loops_agree_with_im2col(descriptor: str) -> None:
    layer = Layer.parse(descriptor)
    x, w, dy = (np.round(4 * array) for array in Arrays.random(layer, "NCHW"))
    ours, other = Loops(layer.geometry()), Im2col(1).prepare(layer, "NCHW", Arrays(x, w, dy))
    np.testing.assert_array_equal(ours.forward(x, w), other["forward"]())
    np.testing.assert_array_equal(ours.grad_input(w, dy), other["grad_input"]())
    np.testing.assert_array_equal(ours.grad_weight(x, dy), other["grad_weight"]())


# --- Peers ------------------------------------------------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["im2col", "loops", "reference", "torch"])
def test_peers_compute_what_we_compute(name: str, layout: Layout) -> None:
    """The others must not share a process with these; a study compares them all."""
    peer = PEERS[name]
    if peer.missing() or layout not in peer.layouts:
        pytest.skip(peer.missing() or f"{name} does not serve {layout}")
    layer = Layer.parse("n2 c4 h6x7 k6 r3x2 s2x1 p1 g2")
    arrays = Arrays.random(layer, layout)
    theirs, ours = object.__new__(peer), object.__new__(PEERS["numbaconv"]).prepare(layer, layout, arrays)
    theirs.threads, theirs.library = 1, __import__(peer.module)  # without setting threads
    for work, call in theirs.prepare(layer, layout, arrays).items():
        error, wrong = worker.difference(theirs.result(call(), work, layout), ours[work]())
        assert not wrong, work
        assert error < 1e-5


def test_peers_are_found_by_name_and_by_address() -> None:
    assert peers.find("numbaconv") is PEERS["numbaconv"]
    assert peers.find("fake_peers:Honest") is fake_peers.Honest
    assert peers.find(peers.address(PEERS["torch"])) is PEERS["torch"]
    for name, message in {
        "pytorch": "there is no peer 'pytorch': choose from numbaconv, torch",
        "fake_peers:Nobody": "has no attribute 'Nobody'",
        "no_such_module:Peer": "No module named 'no_such_module'",
        "json:JSONDecoder": "is not a subclass of numbaconv.study.peers.Peer",
    }.items():
        with pytest.raises(ValueError, match=message):
            peers.find(name)


# --- Fairness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granted", "wall", "cpu", "wanted", "threads", "says"),
    [
        (1, 0.030, 0.030, 0.030, 1, ""),
        (1, 0.030, 0.030, 0.040, 0, ""),  # a thread hands out work to another one
        (2, 0.030, 0.058, 0.062, 2, ""),
        (1, 0.001, 0.0025, 0.0, 0, ""),  # too short to be sure
        (1, 0.030, 0.015, 0.060, 1, ""),  # two threads that take turns, behind other programs
        (1, 0.030, 0.030, 0.030, 2, "says that it uses 2 threads where 1 may be used"),
        (1, 0.030, 0.060, 0.060, 1, "kept 2.0 threads at work where 1 may be used"),
        (1, 0.030, 0.030, 0.060, 1, "had 2.0 threads running or in line for a core where 1 may be used"),
        (1, 0.030, 0.015, 0.120, 1, "had 4.0 threads running or in line for a core where 1 may be used"),
        (2, 0.030, 0.060, 0.120, 0, "had 4.0 threads running or in line for a core where 2 may be used"),
    ],
)
def test_what_is_unfair(granted: int, wall: float, cpu: float, wanted: float, threads: int, says: str) -> None:
    assert runner.unfair(granted, wall, cpu, wanted, threads) == says


@pytest.fixture(scope="module")
def study() -> Study:
    """Every peer that breaks a rule, two layers, one thread."""
    fakes = [value for value in vars(fake_peers).values() if isinstance(value, type) and issubclass(value, Peer)]
    names = [peers.address(fake) for fake in fakes if fake is not fake_peers.Fake]
    layers = {"strided": STRIDED, "plain": PLAIN}
    return runner.run(layers, threads=[1], layouts=["NCHW"], works=["forward"], names=names, quick=True)


def timing(study: Study, layer: str, library: str) -> Timing:
    """Of a library in the cell of a layer."""
    [cell] = [cell for cell in study.cells if cell.name == layer]
    return cell.timings[library]


@pytest.mark.compiled
def test_the_honest_are_timed(study: Study) -> None:
    for cell in study.cells:
        for library in ("numbaconv", "honest"):
            timing = cell.timings[library]
            assert (timing.status, timing.reason, len(timing.seconds), len(timing.busy)) == ("ok", "", 3, 3)
            assert timing.first_call > 0
        assert cell.timings["honest"].error < 1e-5
        assert cell.ratio("honest") > 0
        assert cell.gflops("numbaconv") > 0
    assert study.libraries()[0] == "numbaconv"
    assert study.versions["honest"] == np.__version__
    assert study.peak["1"] > 1


@pytest.mark.compiled
@linux
@pytest.mark.parametrize("library", ["greedy", "escaping"])
def test_too_many_threads_are_unfair(study: Study, library: str) -> None:
    found = timing(study, "plain", library)
    assert found.status == "unfair", found
    assert found.reason.endswith("where 1 may be used")
    assert found.reason.startswith(("kept ", "had "))


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("library", "layer", "status", "reason"),
    [
        ("boasting", "plain", "unfair", "says that it uses 2 threads where 1 may be used"),
        ("wrong", "plain", "wrong", "its result differs from ours by 0.01 of the largest element; 0.001 is allowed"),
        ("nan", "plain", "wrong", "its result differs from ours by nan of the largest element; 0.001 is allowed"),
        ("misshapen", "plain", "wrong", "its result has the shape (1, 3, 4, 3) where ours has (1, 3, 4, 4)"),
        ("picky", "strided", "failed", "NotImplementedError: strides are not supported"),
        ("picky", "plain", "ok", ""),
        ("crashing", "strided", "failed", "its process ended: SIGKILL"),
        ("crashing", "plain", "ok", ""),
    ],
)
def test_what_breaks_the_rules_is_caught(study: Study, library: str, layer: str, status: str, reason: str) -> None:
    found = timing(study, layer, library)
    assert (found.status, found.reason) == (status, reason)
    assert bool(found.seconds) == (status in ("ok", "unfair"))
    [cell] = [cell for cell in study.cells if cell.name == layer]
    assert math.isnan(cell.ratio(library)) == (status != "ok")


@pytest.mark.compiled
def test_who_takes_no_part_is_named(study: Study) -> None:
    assert study.missing == {
        "absent": "not installed: no_such_library",
        "broken": "cannot be used: OSError: libbroken.so: cannot open shared object file",
    }


# --- Running ----------------------------------------------------------------------------------------------------------


@pytest.mark.compiled
def test_all_passes_and_layouts_against_the_baselines() -> None:
    study = runner.run({"tiny": "n1 c3 h6 k4 r3 p1"}, threads=[1], names=["im2col", "reference"], quick=True, rounds=1)
    assert [(cell.layout, cell.work) for cell in study.cells] == [(a, b) for a in LAYOUTS for b in WORKS]
    for cell in study.cells:
        assert [*cell.timings] == ["numbaconv", "im2col", "reference"]
        assert {timing.status for timing in cell.timings.values()} == {"ok"}, cell
        assert cell.ratio("reference") > 1


@pytest.mark.compiled
def test_an_interrupted_study_holds_what_was_measured() -> None:
    def interrupt(text: str) -> None:
        if text.startswith("2/"):
            raise KeyboardInterrupt

    study = runner.run({"tiny": PLAIN}, threads=[1], names=[], quick=True, progress=interrupt)
    assert study.settings["interrupted"]
    assert [(cell.work, cell.timings["numbaconv"].status) for cell in study.cells] == [("forward", "ok")]


def test_cores_are_told_apart() -> None:
    most = len(machine.available_cores())
    assert len(set(machine.cores_for(most))) == most
    with pytest.raises(ValueError, match=f"threads must be from 1 to {most}, the cores that may be used; got"):
        runner.check_threads([1, most + 1])
    assert runner.check_threads([1, 1]) == [1]


@pytest.mark.compiled
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_calls_name_the_algorithm(algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, in every pass; the results are the same."""
    asked = []
    for name in ("conv2d", "conv2d_input", "conv2d_weight"):
        function = getattr(numbaconv, name)

        def noted(*arguments: Any, function: Any = function, **how: Any) -> np.ndarray:
            asked.append(how["algorithm"])
            return function(*arguments, **how)

        monkeypatch.setattr(numbaconv, name, noted)
    layer, ours = Layer.parse("n2 c20 h9 k24 r3 p1"), peers.find(peers.address(ALGORITHMS[algorithm]))
    assert ours.name == "numbaconv"
    arrays = Arrays.random(layer, "NHWC")
    baseline = Im2col(1).prepare(layer, "NHWC", arrays)
    for work, call in object.__new__(ours).prepare(layer, "NHWC", arrays).items():
        error, wrong = worker.difference(call(), baseline[work]())
        assert not wrong
        assert error < 5e-6
    assert asked == [algorithm] * 3


def test_one_of_us_takes_part_whoever_is_named() -> None:
    chosen = runner.choose(["im2col", "numbaconv"], "direct")
    assert chosen == [ALGORITHMS["direct"], PEERS["im2col"]]
    assert runner.choose(None)[:2] == [PEERS["numbaconv"], PEERS["torch"]]
    assert "numbaconv" not in [peer.name for peer in runner.choose(None, "winograd")[1:]]


@pytest.mark.compiled
def test_layers_that_an_algorithm_does_not_serve_are_left_out() -> None:
    layers = {"strided": STRIDED, "plain": PLAIN, "large": "n1 c2 h8 k3 r7"}
    how: Any = {"threads": [1], "layouts": ["NCHW"], "works": ["forward"], "names": ["im2col"], "quick": True}
    study = runner.run(layers, **how, algorithm="winograd")
    assert [cell.name for cell in study.cells] == ["plain"]
    assert [timing.status for timing in study.cells[0].timings.values()] == ["ok", "ok"]
    assert study.settings["algorithm"] == "winograd"
    left = "numbaconv: 2 of 3 layers, which algorithm winograd does not serve: strided, large"
    assert study.settings["left out"] == [left]
    del layers["plain"]
    with pytest.raises(ValueError, match='no layer can be run: algorithm="winograd" serves 3 x 3 and 5 x 5 kernels'):
        runner.run(layers, **how, algorithm="winograd")


# --- The command line -------------------------------------------------------------------------------------------------


@pytest.mark.compiled
def test_compare_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    path = str(tmp_path / "study.json")
    command = ["compare", "--quick", "--rounds", "2", "--layer", PLAIN, "--threads", "1", "--layout", "NHWC"]
    command += ["--pass", "forward", "grad_weight", "--peers", "im2col", "fake_peers:Absent", "--json", path]
    command += ["--algorithm", "winograd"]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for word in ("im2col", "no_such_library", "NHWC", "FMA peak", PLAIN, "algorithm winograd"):
        assert word in printed
    saved = json.loads(Path(path).read_text())
    assert [cell["work"] for cell in saved["cells"]] == ["forward", "grad_weight"]
    assert saved["settings"]["algorithm"] == "winograd"
    assert main(["compare", "--from", path, "--against", path]) == 0
    assert "im2col" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "algorithm"), [("", "auto"), ("--algorithm direct", "direct")])
def test_models_are_compared_by_the_algorithm_asked_for(
    options: str, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    asked = []
    monkeypatch.setattr(training, "run", lambda *_, algorithm: asked.append(algorithm) or Study({}, {}, {}))
    assert main(["compare", "--train", "digits_cnn", *options.split()]) == 0
    assert asked == [algorithm]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--suite alexnet", "invalid choice: 'alexnet'"),
        ("--layer n1", "layer 'n1' does not say c, h, k, r"),
        ("--threads 0", "must be an integer from 1 to"),
        ("--threads 4096", "threads must be from 1 to"),
        ("--peers pytorch", "there is no peer 'pytorch': choose from"),
        ("--rounds 0", "must be an integer from 1 to 1000"),
        ("--layout CHWN", "invalid choice: 'CHWN'"),
        ("--pass backward", "invalid choice: 'backward'"),
        ("--json results.txt", "--json must end in .json, got 'results.txt'"),
        ("--json no/such/folder.json", "--json no/such/folder.json: there is no folder no/such"),
        ("--from nothing.json", "nothing.json: No such file or directory"),
        ("--from here.json", "here.json is not a study saved by numbaconv"),
        ("--against nothing.json", "nothing.json: No such file or directory"),
        ("--from a.json --quick", "--from shows an earlier run: --quick does not go with it"),
        ("--train --suite vgg", "--train compares models, not layers: --suite does not go with it"),
        ("--train alexnet", "--train: there is no model 'alexnet': choose from"),
        ("--algorithm fft", "invalid choice: 'fft'"),
        (
            "--algorithm winograd --layer 'n1 c1 h8 k1 r7'",
            'no layer can be run: algorithm="winograd" serves 3 x 3 and 5 x 5 kernels',
        ),
        ("--algorithm winograd --train", "--algorithm winograd serves no whole model: with --train it is auto or"),
        ("--from a.json --algorithm auto", "--from shows an earlier run: --algorithm does not go with it"),
        ("--figures here.json", "--figures here.json: is not a folder"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.json").write_text("{}")
    words = shlex.split(options)
    assert main(["compare", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("numbaconv: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert os.listdir(tmp_path) == ["here.json"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads are placed on Linux only")
def test_threads_are_spread_and_may_move_again() -> None:
    before, done = os.sched_getaffinity(0), threading.Event()
    waiting = [threading.Thread(target=done.wait) for _ in range(3)]
    for thread in waiting:
        thread.start()
    try:
        worker.spread_threads()
        assert all(os.sched_getaffinity(thread.native_id or 0) == before for thread in waiting)
        assert os.sched_getaffinity(0) == before
    finally:
        done.set()
        for thread in waiting:
            thread.join()


def test_a_turn_is_as_long_as_asked_for_though_the_first_call_takes_longer() -> None:
    from numbaconv.study.worker import calls_for

    waits = iter([0.05])
    assert 5 <= calls_for(lambda: time.sleep(next(waits, 0.001)), 0.03) <= 30
    assert calls_for(lambda: time.sleep(0.01), 0.001) == 1
    waits = iter([0.05, 0.05])  # compiled more than once
    assert 5 <= calls_for(lambda: time.sleep(next(waits, 0.001)), 0.03) <= 30
