"""Studies of whole models: training and inference in processes of their own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from numbaconv import nn
from numbaconv.study import training
from numbaconv.study.peers import frameworks
from numbaconv.study.results import Study, Timing
from numbaconv.study.training_data import SUBJECTS, Data, operations
from numbaconv.study.training_peers import ALGORITHMS, PEERS, find

TORCH = "torch channels_last"
WORKS = [("training step", 32), ("inference", 1), ("inference", 64)]

#: Peers each of which is wrong in its own way.
UNFIT = """
import os
from numbaconv.study.training_peers import Numbaconv


class Larger(Numbaconv):
    name = "larger"  # by a parameter

    def parameters(self):
        return super().parameters() + 1


class Stray(Numbaconv):
    name = "stray"  # its first loss is right

    def step(self, x, y):
        loss = super().step(x, y)
        for parameter in self.model.parameters():
            parameter.data[...] *= 1.5
        return loss

    def infer(self, x):
        return super().infer(x + 1)


class Greedy(Numbaconv):
    name = "greedy"

    def says(self):
        return 9


class Fragile(Numbaconv):
    name = "fragile"

    def step(self, x, y):
        raise NotImplementedError("there is no training")

    def infer(self, x):
        os._exit(3)


class Absent(Numbaconv):
    name = "absent"
    module = "a_library_that_nobody_wrote"
"""

#: Whose version is the algorithm that it found set.
TELLING = """
import numbaconv
from {module} import {name}


class Telling({name}):
    def version(self):
        return numbaconv.get_algorithm()
"""


SERVING = """
from numbaconv.study.training_peers import Numbaconv


class Serving(Numbaconv):
    name = "serving"
    works = ("inference",)
"""


def check_timed(timing: Timing) -> None:
    """It took part in both rounds, and kept to its thread."""
    assert (timing.status, timing.reason, timing.threads) == ("ok", "", 1)
    assert len(timing.seconds) == len(timing.busy) == 2
    assert min(timing.seconds) > 0
    assert timing.first_call > 0
    assert max(timing.busy) < 1.25


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """numbaconv, and PyTorch where it is installed, among peers that are unfit: the shortest study there is."""
    folder = tmp_path_factory.mktemp("peers")
    (folder / "unfit.py").write_text(UNFIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        peers = [f"unfit:{name}" for name in ("Larger", "Stray", "Greedy", "Fragile", "Absent")]
        return training.run(["digits_cnn"], [1], [*peers, TORCH], rounds=2, quick=True)


@pytest.mark.compiled
def test_numbaconv_is_timed_whatever_goes_wrong_beside_it(study, tmp_path) -> None:
    assert [(cell.work, cell.images) for cell in study.cells] == WORKS
    for cell in study.cells:
        assert (cell.name, cell.what) == ("digits_cnn", f"batch {cell.images}, 3,818 parameters")
        assert (cell.layout, cell.threads) == ("best", 1)
        assert cell.flop > 0
        check_timed(cell.timings["numbaconv"])
    assert study.peak["1"] > 0
    assert study.versions["numbaconv"]
    study.save(tmp_path / "study.json")
    again = Study.load(tmp_path / "study.json")
    before, after = ([cell.seconds("numbaconv") for cell in run.cells] for run in (study, again))
    assert after == pytest.approx(before, rel=1e-5)


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("name", "work", "status", "reason"),
    [
        ("larger", 0, "wrong", "its model has 3,819 parameters where ours has 3,818"),
        ("larger", 1, "wrong", "its model has 3,819 parameters where ours has 3,818"),
        ("stray", 0, "wrong", "its loss after 3 steps is"),
        ("stray", 1, "wrong", "its result differs from ours"),
        ("greedy", 0, "unfair", "says that it uses 9 threads where 1 may be used"),
        ("greedy", 2, "unfair", "says that it uses 9 threads where 1 may be used"),
        ("fragile", 0, "failed", "NotImplementedError: there is no training"),
        ("fragile", 1, "failed", "its process ended: exit status 3"),
    ],
)
def test_what_is_wrong_is_shown(study, name, work, status, reason) -> None:
    timing = study.cells[work].timings[name]
    assert timing.status == status
    assert timing.reason.startswith(reason)
    assert math.isnan(study.cells[work].ratio(name))


@pytest.mark.compiled
def test_what_is_missing_is_named(study) -> None:
    assert study.missing["absent"] == "not installed: a_library_that_nobody_wrote"
    assert "absent" not in study.libraries()


@pytest.mark.compiled
def test_torch_agrees_and_is_timed(study) -> None:
    pytest.importorskip("torch")
    for cell in study.cells:
        check_timed(cell.timings[TORCH])
        assert cell.timings[TORCH].error < 1e-5
        assert cell.ratio(TORCH) > 0


@pytest.mark.compiled
def test_an_interrupted_study_is_handed_over() -> None:
    def interrupt(text: str) -> None:
        if "inference" in text:
            raise KeyboardInterrupt

    study = training.run(["digits_cnn"], [1], [], rounds=1, quick=True, progress=interrupt)
    assert study.settings["interrupted"]
    assert [cell.work for cell in study.cells] == ["training step"]
    assert study.settings["algorithm"] == "auto"


@pytest.mark.compiled
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_algorithm_is_what_auto_means_in_our_process(algorithm, tmp_path, monkeypatch) -> None:
    """In a process of its own, as a study starts it: a peer that notes what it finds set."""
    ours = ALGORITHMS[algorithm]
    (tmp_path / "telling.py").write_text(TELLING.format(module=ours.__module__, name=ours.__name__))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ALGORITHMS, algorithm, find("telling:Telling"))
    study = training.run(["digits_cnn"], [1], [], rounds=1, quick=True, algorithm=algorithm)
    assert study.settings["algorithm"] == study.versions["numbaconv"] == algorithm
    assert [timing.status for cell in study.cells for timing in cell.timings.values()] == ["ok"] * 3


def every_layer(rng: np.random.Generator) -> nn.Sequential:
    """A network with everything that the models are made of."""

    def normalised(*arguments) -> list[nn.Module]:
        return [nn.Conv2d(*arguments, bias=False, rng=rng), nn.BatchNorm2d(arguments[1])]

    return nn.Sequential(
        *(*normalised(3, 4, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Residual(nn.Sequential(*normalised(4, 6, 3, 2, 1)), nn.Sequential(*normalised(4, 6, 1, 2))), nn.ReLU()),
        *(nn.Residual(nn.Conv2d(6, 6, 3, padding=1, rng=rng)), nn.MaxPool2d(3, 1, 1)),
        *(nn.Flatten(), nn.Linear(96, 5, rng=rng), nn.ReLU(), nn.Linear(5, 3, rng=rng)),
    )


@pytest.mark.compiled
@pytest.mark.parametrize("library", ["torch", "torch channels_last", "jax"])
def test_peers_build_our_model(library, monkeypatch) -> None:
    """The same losses, and after them the same logits, which shows weights and running statistics."""
    if find(library).missing():
        pytest.skip(f"{library} is not installed")
    monkeypatch.setattr(frameworks.Torch, "start", lambda self: None)  # it can be done only once in a process
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 4, 3, 16, 16), np.float32), rng.integers(0, 3, (3, 4))
    state = every_layer(rng).state_dict()
    results = []
    for peer in (find("numbaconv")(1), find(library)(1)):
        peer.build(every_layer(rng))
        for _ in range(2):  # a second load has to bring everything back
            peer.load(state)
            batches = [peer.batch(*batch) for batch in zip(x, y, strict=True)]
            losses = [peer.step(*batch) for batch in batches]
        results.append((peer.parameters(), losses, np.asarray(peer.infer(batches[0][0]))))
    (our_parameters, our_losses, our_logits), (parameters, losses, logits) = results
    assert parameters == our_parameters
    np.testing.assert_allclose(losses, our_losses, rtol=1e-5)
    np.testing.assert_allclose(logits, our_logits, atol=1e-5)


@pytest.mark.compiled
def test_a_runtime_serves_our_model() -> None:
    if find("onnxruntime").missing():
        pytest.skip("onnxruntime or onnx is not installed")
    rng = np.random.default_rng(0)
    model, x = every_layer(rng).eval(), rng.standard_normal((4, 3, 16, 16), np.float32)
    for name, array in model.state_dict().items():
        if "running" in name:
            model.load_state_dict(model.state_dict() | {name: rng.random(array.shape, np.float32) + 0.5})
    peer = find("onnxruntime")(1)
    peer.build(model)
    for images in (x, x[:1].copy()):
        peer.batch(images, np.zeros(len(images)))
        peer.load(model.state_dict())
        np.testing.assert_allclose(peer.infer(images), model(images), atol=1e-5)
    assert peer.parameters() == model.num_parameters


@pytest.mark.compiled
def test_who_only_serves_models_takes_no_training_step(tmp_path, monkeypatch) -> None:
    (tmp_path / "serving.py").write_text(SERVING)
    monkeypatch.syspath_prepend(tmp_path)
    study = training.run(["digits_cnn"], [1], ["serving:Serving"], rounds=1, quick=True)
    assert [(cell.work, "serving" in cell.timings) for cell in study.cells] == [
        *[("training step", False)],
        *[("inference", True)] * 2,
    ]


def test_losses_are_compared() -> None:
    ours = [2.0, 1.9, 1.8, 1.7]
    assert training.compare_losses(ours, ours) == (0.0, "")
    assert training.compare_losses([2.0001, 1.9, 1.8, 1.71], ours)[1] == ""
    assert training.compare_losses([2.001, 1.9, 1.8, 1.7], ours)[1] == "its first loss is 2.001 where ours is 2"
    assert training.compare_losses([2, 1.9, 1.8, 1.6], ours)[1] == "its loss after 3 steps is 1.6 where ours is 1.7"
    assert training.compare_losses([2, math.nan, 1, 1], ours)[1] == "its losses are 2, nan, 1, 1"
    assert training.compare_losses(ours, [])[1] == ""  # ours has failed


def test_operations_are_counted() -> None:
    digits = nn.models.digits_cnn(rng=0)
    first, second, linear = 8 * 9 * 64, 16 * 8 * 9 * 16, 256 * 10
    assert operations(digits, (1, 8, 8), training=False) == 2 * (first + second + linear)
    assert operations(digits, (1, 8, 8), training=True) == 2 * (2 * first + 3 * second + 3 * linear)
    lenet = nn.models.lenet5(rng=0)
    assert operations(lenet, (1, 28, 28), training=False) / 2 == 117_600 + 240_000 + 48_000 + 10_080 + 840
    # 40.6 million in the literature, and two projections on the shortcuts.
    resnet = operations(nn.models.resnet20(rng=0), (3, 32, 32), training=False) / 2
    assert resnet == pytest.approx(40.8e6, rel=0.01)


def test_every_process_sees_the_same_data() -> None:
    one, other = Data.random("lenet5", 2), Data.random("lenet5", 2)
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)
    for name, array in one.model.state_dict().items():
        np.testing.assert_array_equal(array, other.model.state_dict()[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": ["alexnet"]}, "no model 'alexnet'"),
        ({"threads": [0]}, "threads must be from 1"),
        ({"threads": [100_000]}, "cores that may be used"),
        ({"rounds": 0}, "at least 1"),
        ({"algorithm": "winograd"}, "algorithm='winograd' does not serve whole models: choose from auto, direct"),
        ({"peers": ["theano"]}, "no peer 'theano'"),
        ({"peers": ["no_such_module:Peer"]}, "no_such_module"),
        ({"peers": ["numbaconv.study.peers:Im2col"]}, "not a subclass of .*TrainingPeer"),
    ],
    ids=str,
)
def test_what_cannot_be_compared(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        training.run(**{"threads": [1], **arguments})


def test_everything_is_compared_by_default() -> None:
    assert set(nn.models.MODELS) == set(SUBJECTS) == set(training.MODELS)
    assert next(iter(PEERS)) == "numbaconv"


def test_a_quick_run_leaves_the_slow_compiler_out() -> None:
    study = Study({}, {}, {})
    assert "torch.compile" not in [peer.name for peer in training._taking_part(study, None, quick=True)]
    assert "torch.compile" in study.missing
