"""``numbaconv train``: interrupted and resumed, stopped early, and what it writes beside the model."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numbaconv
from numbaconv import nn
from numbaconv.cli import main
from numbaconv.cli.recipes import augmentation, default_augment, default_model
from numbaconv.data import Cutout, RandomCrop, RandomHorizontalFlip, RandomShift
from numbaconv.nn.checkpoints import read_metadata

pytest.importorskip("rich")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.compiled

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(numbaconv.__file__).parents[1])}
COMMAND = [sys.executable, "-m", "numbaconv"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(capsys, words, status=0):
    """Run ``numbaconv train``; what it printed."""
    assert main(["train", *words.split()]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def interrupt(monkeypatch, batches):
    """Let every training be interrupted after some batches."""
    fit = nn.Trainer.fit

    def interrupted(self, *data, on_batch, **options):
        left = [batches]

        def count(progress):
            on_batch(progress)
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        return fit(self, *data, on_batch=count, **options)

    monkeypatch.setattr(nn.Trainer, "fit", interrupted)


# -- interrupted, resumed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_ends_with_the_same_bits(capsys, folder, number) -> None:
    command = [*COMMAND, "train", "--epochs", "400", "--seed", "3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while " 3/400 " not in process.stdout.readline():
        pass
    process.send_signal(number)
    out, err = process.communicate()
    resume = "numbaconv train --resume digits_cnn.checkpoint.safetensors"
    assert (process.returncode, err) == (130, f"numbaconv: error: interrupted; to go on: {resume}\n")
    assert "saved" not in out
    assert [path.name for path in folder.iterdir()] == ["digits_cnn.checkpoint.safetensors"]
    epochs = 1 + max(map(int, re.findall(r"(\d+)/400", out)), default=3)  # not all of them: that would take long
    out = train(capsys, f"--resume digits_cnn.checkpoint.safetensors --epochs {epochs}")
    assert "resuming digits_cnn.checkpoint.safetensors" in out
    assert [path.name for path in folder.iterdir()] == ["digits_cnn.safetensors"]


@pytest.mark.parametrize(
    "words",
    [
        "--epochs 3",
        "--epochs 3 --optimizer adam --schedule onecycle --augment shift=1 crop=1 cutout=2 --clip-norm 1",
        "--epochs 4 --patience 2 --label-smoothing 0.2 --schedule step --warmup 1 --output m.npz",
    ],
)
@pytest.mark.parametrize("batches", [1, 45, 100])
def test_resumed_models_are_the_same_files(capsys, folder, monkeypatch, words, batches) -> None:
    train(capsys, words)
    [model] = folder.iterdir()
    whole = model.read_bytes()
    model.unlink()
    with monkeypatch.context() as patched:
        interrupt(patched, batches)
        said = train(capsys, words, status=130)
    [checkpoint] = folder.iterdir()
    assert said == f"numbaconv: error: interrupted; to go on: numbaconv train --resume {checkpoint.name}\n"
    assert checkpoint.name == f"{model.stem}.checkpoint{model.suffix}"
    train(capsys, f"--resume {checkpoint.name}")
    assert [path.name for path in folder.iterdir()] == [model.name]
    assert model.read_bytes() == whole


def test_what_was_to_be_written_elsewhere_has_to_be_said_again(capsys, folder, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        interrupt(patched, 10)
        said = train(capsys, "--epochs 1 --history h.csv --checkpoint c.npz --output " + f"{folder}/m.npz", status=130)
    command = f"numbaconv train --resume c.npz --output {folder}/m.npz"
    assert said == f"numbaconv: error: interrupted; to go on: {command}\n"
    assert "give it again" in train(capsys, "--resume c.npz", status=2)
    train(capsys, command.removeprefix("numbaconv train "))
    assert (folder / "m.npz").exists()
    assert (folder / "h.csv").exists()


def test_an_interrupted_training_is_not_forgotten(capsys, folder, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        interrupt(patched, 10)
        train(capsys, "--epochs 1", status=130)
    checkpoint = "digits_cnn.checkpoint.safetensors"
    assert f"{checkpoint} is of a training that was interrupted: --resume {checkpoint}" in train(capsys, "--epochs 1")


def test_a_checkpoint_that_was_asked_for_is_kept_and_can_be_trained_on(capsys, folder, monkeypatch) -> None:
    train(capsys, "--epochs 2 --checkpoint run.npz --schedule constant")
    assert sorted(path.name for path in folder.iterdir()) == ["digits_cnn.safetensors", "run.npz"]
    out = train(capsys, "--resume run.npz --epochs 3")
    assert re.findall(r"(\d)/3 ", out) == ["3"]
    resumed = (folder / "digits_cnn.safetensors").read_bytes()
    train(capsys, "--epochs 3 --schedule constant")
    assert (folder / "digits_cnn.safetensors").read_bytes() == resumed
    assert (folder / "run.npz").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lr 0.3", "--lr 0.3: the training that is resumed has 0.05"),
        ("--augment flip", "--augment flip: the training that is resumed has shift=0.75"),
        ("--clip-norm 3", "--clip-norm 3.0: the training that is resumed has none"),
        ("--data other.npz", "cannot be resumed here: it was made with images 1438x1x8x8"),
        ("--output c.npz", "--output c.npz: would overwrite what is read"),
    ],
)
def test_what_cannot_be_resumed(capsys, folder, words, message) -> None:
    train(capsys, "--epochs 1 --checkpoint c.npz")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    np.savez("other.npz", images=images, labels=np.arange(40) % 10)
    before = (folder / "c.npz").read_bytes()
    said = train(capsys, f"--resume c.npz {words}", status=2)
    assert message in said
    assert said.count("\n") == 1
    assert (folder / "c.npz").read_bytes() == before


def test_data_in_files_are_found_from_another_folder(capsys, folder, monkeypatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    np.savez("mine.npz", images=images, labels=np.arange(40) % 4)
    train(capsys, "--data mine.npz --epochs 1 --checkpoint c.npz --patience 1")
    stored = read_metadata("c.npz")["options"]
    assert stored[stored.index("--data") + 1] == str(folder / "mine.npz")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    train(capsys, "--resume ../c.npz")
    assert (folder / "elsewhere" / "digits_cnn.safetensors").exists()


# -- stopped early, recorded, drawn ------------------------------------------------------------------------------------


def test_patience_measures_on_training_images_that_are_held_back(capsys, folder) -> None:
    out = train(capsys, "--epochs 100 --patience 3 --augment none --history h.csv")
    last, best = map(int, re.search(r"ended after epoch (\d+), with the weights of epoch (\d+)\n", out).groups())
    assert last == best + 3 < 100
    assert "validation  " in out.splitlines()[2]
    with open("h.csv", newline="") as file:
        losses = [float(row["validation_loss"]) for row in csv.DictReader(file)]
    assert len(losses) == last
    assert losses.index(min(losses)) == best - 1
    assert float(re.search(r"test accuracy ([\d.]+)%", out)[1]) > 95


def test_history_and_plot(capsys, folder) -> None:
    from PIL import Image

    out = train(capsys, "--epochs 2 --history h.json --plot p.png --output m.npz")
    assert out.endswith("saved p.png, h.json, m.npz\n")
    rows = json.loads((folder / "h.json").read_text())
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["loss"] < rows[0]["loss"]
    with Image.open("p.png") as image:
        assert min(image.size) > 1000
        assert len(image.convert("RGB").getcolors(10**7)) > 50


def test_weakest_classes_are_named(capsys) -> None:
    out = train(capsys, "--epochs 1")
    shares = re.search(r"^weakest classes: \d \(([\d.]+)%\), \d \(([\d.]+)%\), \d \(([\d.]+)%\)$", out, re.M).groups()
    assert list(map(float, shares)) == sorted(map(float, shares))


# -- recipes -----------------------------------------------------------------------------------------------------------


def test_augmentations() -> None:
    assert augmentation("shift") == RandomShift(1.5)
    assert augmentation("shift=0.75") == RandomShift(0.75)
    assert augmentation("crop=2") == RandomCrop(2)
    assert augmentation("flip") == RandomHorizontalFlip(0.5)
    assert augmentation("cutout=16") == Cutout(16)
    assert default_augment("resnet20", (3, 32, 32)) == ["crop=4", "flip"]
    assert default_augment("resnet20", (1, 64, 64)) == ["crop=4"]
    assert default_model((1, 28, 28)) == "mnist_cnn"


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_without_matplotlib(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'pip install "numbaconv[study]"' in train(capsys, "--plot p.png", status=2)


def test_a_folder_that_may_not_be_entered(capsys, folder, monkeypatch) -> None:
    stat = Path.stat

    def refuse(self, **options):
        if "secret" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    assert "secret/m.npz: Permission denied" in train(capsys, "--output secret/m.npz", status=2)
    assert "secret/c.npz: Permission denied" in train(capsys, "--checkpoint secret/c.npz", status=2)


def test_the_longest_name_that_can_be(capsys, folder) -> None:
    train(capsys, f"--epochs 1 --output {'a' * 240}.npz --checkpoint c.npz")
    assert (folder / f"{'a' * 240}.npz").exists()


@pytest.mark.parametrize(("threads", "warned"), [("0", True), ("-3", True), ("x", True), ("1", False)])
def test_a_bad_number_of_threads_is_ignored(threads, warned) -> None:
    environment = ENVIRONMENT | {"NUMBA_NUM_THREADS": threads}
    result = subprocess.run([*COMMAND, "info"], capture_output=True, text=True, env=environment)
    assert result.returncode == 0
    said = f"RuntimeWarning: NUMBA_NUM_THREADS={threads} is ignored: it must be at least 1\n"
    assert result.stderr.endswith(said) if warned else result.stderr == ""
    assert result.stderr.count("\n") == warned


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("command", ["train --epochs 1", "info"])
def test_output_that_is_full(command) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*COMMAND, *command.split()], stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
    assert (result.returncode, result.stderr) == (2, "numbaconv: error: No space left on device\n")


def test_a_disk_that_is_full_when_a_checkpoint_is_due(capsys, monkeypatch) -> None:
    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    said = train(capsys, "--epochs 1 --checkpoint c.npz --checkpoint-every 0", status=2)
    assert said == "numbaconv: error: c.npz: No space left on device\n"
