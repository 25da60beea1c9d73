"""The command line: training, predicting, and one clear line for everything that a user can get wrong."""

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numbaconv
from numbaconv import nn
from numbaconv.cli import console, main
from numbaconv.cli.recipes import default_model
from numbaconv.data import load_digits, open_source

pytest.importorskip("rich")
safetensors = pytest.importorskip("safetensors")

IMAGES = np.random.RandomState(0).randint(0, 256, (40, 8, 8)).astype(np.uint8)
LABELS = np.arange(40) % 4
#: For processes that are started in another folder: the same numbaconv, installed or not.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(numbaconv.__file__).parents[1])}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own, and leaves the number of threads as it was."""
    monkeypatch.chdir(tmp_path)
    threads = numbaconv.get_num_threads()
    yield tmp_path
    numbaconv.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that the command line saved."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    assert main(["train", "--epochs", "2", "--output", str(path)]) == 0
    return path


def fails(capsys, *arguments):
    """Run a command that must fail with exit status 2; the one line that it says."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("numbaconv: error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert "\x1b" not in captured.out + captured.err
    return captured.err


# --- train -----------------------------------------------------------------------------------------------------------


@pytest.mark.compiled
def test_train_alone_learns_the_digits(capsys, folder):
    """What the documentation promises: no option, two seconds, at least 98% on images never seen."""
    assert main(["train"]) == 0
    out = capsys.readouterr().out
    assert float(re.search(r"test accuracy ([\d.]+)%", out)[1]) >= 98
    assert out.endswith("saved digits_cnn.safetensors\n")
    rows = [line for line in out.splitlines() if re.fullmatch(r" +\d+/40 +\d\.\d{4} +[\d.]+% +[\d.]+% +[\d,]+", line)]
    assert len(rows) == 40
    assert "\x1b" not in out  # no control codes in a pipe or a file
    assert "\r" not in out
    assert max(map(len, out.splitlines())) <= 80
    trained, metadata = nn.load_model(folder / "digits_cnn.safetensors")
    digits = load_digits()
    accuracy = (trained(digits.test_images).argmax(1) == digits.test_labels).mean()
    assert accuracy == metadata["test_accuracy"]


@pytest.mark.compiled
def test_the_same_seed_gives_the_same_bits_whatever_the_threads(capsys, folder):
    for name, seed, threads in (("a", 5, 1), ("b", 5, numbaconv.get_num_threads()), ("c", 6, 1)):
        arguments = ["--seed", str(seed), "--threads", str(threads), "--epochs", "1", "--output", f"{name}.npz"]
        assert main(["train", *arguments]) == 0
    a, b, c = (nn.load_state(folder / f"{name}.npz")[0] for name in "abc")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not any(np.array_equal(a[name], c[name]) for name in a)


@pytest.mark.compiled
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_option(capsys, optimizer):
    options = (
        f"--data digits --model digits_cnn --epochs 1 --batch-size 100 --lr 1e-3 --optimizer {optimizer} "
        "--weight-decay 0 --augment none --threads 1 --seed 4294967295 --output ./m.npz --schedule step --milestones 1 "
        "--warmup 0.5 --label-smoothing 0.1 --clip-norm 1 --validation 0.2 --patience 3 --history h.csv --plot p.svg "
        "--checkpoint c.npz --checkpoint-every 0"
    ).split()
    assert main(["train", *options, *(["--momentum", "0"] if optimizer == "sgd" else [])]) == 0
    assert capsys.readouterr().out.endswith("saved p.svg, h.csv, m.npz\n")
    assert all(Path(name).stat().st_size for name in ("m.npz", "h.csv", "p.svg", "c.npz"))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 8, 8), "digits_cnn"), ((1, 28, 28), "mnist_cnn"), ((3, 32, 32), "resnet20"), ((1, 96, 96), "resnet20")],
)
def test_the_model_suits_the_images(shape, expected):
    assert default_model(shape) == expected


@pytest.mark.compiled
def test_other_data_and_other_sizes(capsys, folder):
    np.savez("mine.npz", images=IMAGES[:, :, :6, None].repeat(3, 3), labels=LABELS)
    options = ["--epochs", "1", "--batch-size", "7", "--output", "mine.safetensors"]
    assert main(["train", "--data", "mine.npz", *options]) == 0
    _, metadata = nn.load_model(folder / "mine.safetensors")
    assert metadata["arguments"] == {"num_classes": 4, "in_channels": 3, "image_size": [8, 6]}
    assert len(metadata["mean"]) == len(metadata["std"]) == 3
    assert main(["predict", "mine.safetensors", "mine.npz"]) == 0
    assert "40 images)" in capsys.readouterr().out


@pytest.mark.compiled
def test_without_safetensors_models_are_npz(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert 'pip install "numbaconv[cli]"' in fails(capsys, "train", "--output", "m.safetensors")
    assert main(["train", "--epochs", "1"]) == 0
    assert capsys.readouterr().out.endswith("saved digits_cnn.npz\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "train | predict | compare | info"),
        ("trian", "'trian'"),
        ("train --epoch 3", "unrecognized arguments: --epoch 3"),
        ("train digits", "unrecognized arguments: digits"),
        ("train --epochs", "--epochs: expected one argument"),
        *(
            (f"train --epochs {n}", "--epochs: must be an integer from 1 to")
            for n in ("0", "-1", "2.5", "x", "1e3", "9" * 30)
        ),
        *((f"train --batch-size {n}", "--batch-size: must be an integer from 1") for n in ("0", "-8", "nan")),
        *((f"train --lr {x}", "--lr: must be a finite number above 0") for x in ("0", "-1", "nan", "inf", "fast")),
        *((f"train --momentum {x}", "--momentum: must be a finite number from 0 to below 1") for x in ("1", "-0.1")),
        *(
            (f"train --weight-decay {x}", "--weight-decay: must be a finite number of at least 0")
            for x in ("-1", "nan")
        ),
        ("train --augment shift=-1", "--augment: 'shift=-1': pixels must be a finite number from 0"),
        ("train --augment turn", "--augment: 'turn': there is no 'turn', but shift, crop, flip, cutout, none"),
        ("train --augment crop=1.5", "--augment: 'crop=1.5': padding must be an integer"),
        ("train --augment crop=", "--augment: 'crop='"),
        ("train --augment flip=nan", "--augment: 'flip=nan'"),
        ("train --augment crop=1e400", "--augment: 'crop=1e400'"),
        ("train --augment none flip", "--augment none flip: none stands alone"),
        ("train --augment", "--augment: expected at least one argument"),
        ("train --schedule linear", "invalid choice: 'linear'"),
        ("train --milestones 3", "--milestones are for --schedule step, not for cosine"),
        ("train --schedule step --milestones 3 2", "--milestones must be ascending, got 3 2"),
        ("train --schedule onecycle --warmup 1", "--warmup is not for --schedule onecycle"),
        ("train --epochs 2 --warmup 2", "--warmup must be below --epochs, 2, got 2"),
        ("train --warmup -1", "--warmup: must be a finite number of at least 0"),
        ("train --clip-norm 0", "--clip-norm: must be a finite number above 0"),
        ("train --label-smoothing 1", "--label-smoothing: must be a finite number from 0 to below 1"),
        ("train --patience 0", "--patience: must be an integer from 1"),
        ("train --patience 3 --validation 0", "--patience needs images to measure the loss on"),
        ("train --validation 0.6", "--validation: must be a finite number from 0 to 0.5"),
        ("train --checkpoint-every -1", "--checkpoint-every: must be a finite number of at least 0"),
        ("train --checkpoint c.pt", "--checkpoint must end in .safetensors or .npz, got 'c.pt'"),
        ("train --checkpoint m.npz --output m.npz", "--output and --checkpoint are the same file, m.npz"),
        ("train --history h.txt", "--history must end in .csv or .json, got 'h.txt'"),
        ("train --history no/h.csv", "--history no/h.csv: there is no folder no"),
        ("train --plot p.gif", "--plot must end in .png or .svg or .pdf, got 'p.gif'"),
        ("train --resume nowhere.npz", "nowhere.npz: No such file or directory"),
        ("train --resume text.npz", "text.npz is damaged, or no .npz file"),
        ("train --resume model.npz", "model.npz is no numbaconv-checkpoint: it is a numbaconv-model"),
        ("train --resume foreign.npz", "foreign.npz: was not saved by numbaconv train"),
        ("train --resume evil.npz", "evil.npz: is damaged: argument --epochs"),
        ("train --resume help.npz", "help.npz: is damaged: there is no option --help"),
        ("train --resume far.npz", "--output was /tmp/x.npz, which is not below this folder: give it again"),
        ("train --resume folder.npz", "folder.npz: Is a directory"),
        (f"train --output {'a' * 300}.npz", "File name too long"),
        (f"train --output {'a' * 300}/m.npz", "File name too long"),
        (f"train --history {'a' * 300}.csv", "File name too long"),
        (f"train --resume {'a' * 300}.npz", "File name too long"),
        ("train --threads 0", "--threads: must be an integer from 1"),
        ("train --threads 99999", "--threads must be from 1 to"),
        ("train --seed -1", "--seed: must be an integer from 0 to 4294967295, got '-1'"),
        ("train --model alexnet", "invalid choice: 'alexnet' (choose from"),
        ("train --optimizer lion", "invalid choice: 'lion' (choose from"),
        ("train --optimizer adam --momentum 0.5", "--momentum is for sgd, not for adam"),
        ("train --output model.pt", "--output must end in .safetensors or .npz, got 'model.pt'"),
        ("train --output model", "must end in"),
        ("train --output nowhere/model.npz", "--output nowhere/model.npz: there is no folder nowhere"),
        ("train --output folder.npz", "--output folder.npz: is a folder"),
        ("train --data good.npz --output good.npz", "--output good.npz: would overwrite what is read"),
        ("train --data nowhere", "nowhere: there is no such file or folder"),
        ("train --data empty", "empty: there are no idx files"),
        ("train --data text.npz", "text.npz: is none of"),
        ("train --data images.npz", "images.npz: images: has no labels"),
        ("train --data images.npy", "images.npy: has no labels"),
        ("train --data pickle.npz", "pickle.npz: images: must hold integers or floats, got object"),
        ("train --data cut.npz", "cut.npz: is not a .npz archive, or a damaged one"),
        ("train --data one.npz", "one.npz: all labels are 0, there is nothing to tell apart"),
        ("train --model lenet5", "1 channel, 8x8 pixels, but the model lenet5 needs at least 12x12 pixels"),
        ("train --lr 1e30 --epochs 2", "training diverged: the loss is"),
        ("predict", "the following arguments are required: MODEL, DATA"),
        ("predict model.npz", "the following arguments are required: DATA"),
        ("predict nowhere.npz digits", "nowhere.npz: No such file or directory"),
        ("predict empty digits", "must end in .safetensors or .npz"),
        ("predict folder.npz digits", "folder.npz: Is a directory"),
        ("predict text.npz digits", "text.npz is damaged, or no .npz file"),
        ("predict text.safetensors digits", "text.safetensors is damaged, or no .safetensors file"),
        ("predict good.npz digits", "good.npz is no numbaconv-model: it was not written by numbaconv"),
        ("predict strange.npz digits", "strange.npz: does not say what images it takes"),
        ("predict wrong.npz digits", "wrong.npz: is damaged: scale 0.0"),
        ("predict model.npz nowhere", "nowhere: there is no such file or folder"),
        ("predict model.npz text.npz", "text.npz: is none of"),
        ("predict model.npz cut.gz", "cut.gz: is damaged"),
        (
            "predict model.npz tall.npz",
            "has images of 1 channel, 16x4 pixels, but the model model.npz takes 1 channel, 8x8",
        ),
        ("predict model.npz floats.npy", "floats.npy: float pixels must be from 0 to 1, as in training, got 0 to 255"),
        (
            "predict model.npz good.npz",
            "good.npz: images: integer pixels must be from 0 to 16, as in training, got 0 to 2",
        ),
        ("predict model.npz digits --batch-size 0", "--batch-size: must be an integer from 1"),
        ("predict model.npz digits --rows -1", "--rows: must be an integer from 0"),
        ("predict model.npz digits --threads 99999", "--threads must be from 1 to"),
        ("predict model.npz digits --output p.txt", "--output must end in .csv or .npz, got 'p.txt'"),
        ("predict model.npz digits --output no/p.csv", "--output no/p.csv: there is no folder no"),
        ("predict model.npz digits --output model.npz", "--output model.npz: would overwrite what is read"),
        ("info --threads 1", "unrecognized arguments: --threads 1"),
    ],
)
def test_mistakes(capsys, folder, arguments, message):
    (folder / "empty").mkdir()
    (folder / "folder.npz").mkdir()
    np.savez("good.npz", images=IMAGES, labels=LABELS)
    np.savez("images.npz", images=IMAGES)
    np.savez("pickle.npz", images=IMAGES.astype(object), labels=LABELS)
    np.savez("one.npz", images=IMAGES, labels=0 * LABELS)
    np.savez("tall.npz", images=IMAGES.reshape(40, 16, 4), labels=LABELS)
    np.save("images.npy", IMAGES)
    np.save("floats.npy", IMAGES.astype(float))
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:-40])
    (folder / "cut.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + bytes(100))[:-9])
    for name in ("text.npz", "text.safetensors"):
        (folder / name).write_text("hello")
    digits = {"model": "digits_cnn", "arguments": {"in_channels": 1, "image_size": [8, 8]}}
    normalised = digits | {"scale": 16, "mean": [0.3], "std": [0.4]}
    for name, metadata in (("model", normalised), ("strange", digits), ("wrong", normalised | {"scale": 0})):
        nn.save_model(f"{name}.npz", nn.models.digits_cnn(rng=0), metadata)
    evil = {"evil": ["--epochs", "0"], "help": ["--help"], "far": ["--output", "/tmp/x.npz"], "foreign": None}
    for name, words in evil.items():
        trainer = nn.Trainer(nn.models.digits_cnn(rng=0), nn.SGD(lr=0.1))
        checkpoint = nn.Checkpoint(f"{name}.npz", metadata={} if words is None else {"options": words})
        trainer.fit(np.zeros((2, 1, 8, 8), np.float32), np.array([0, 1]), checkpoint=checkpoint)
    before = sorted(folder.iterdir())
    assert message in fails(capsys, *arguments.split())
    assert sorted(folder.iterdir()) == before  # nothing half-written is left


def test_a_folder_that_cannot_be_written(capsys, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert "the folder cannot be written: .: Permission denied" in fails(capsys, "train", "--output", "m.npz")


@pytest.mark.compiled
def test_a_full_disk(capsys, monkeypatch):
    def refuse(*arguments):
        raise OSError(28, "No space left on device", "m.npz")

    monkeypatch.setattr(nn, "save_model", refuse)
    assert "m.npz: No space left on device" in fails(capsys, "train", "--epochs", "1", "--output", "m.npz")


def test_without_rich(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    for command in (["train"], ["predict", "a", "b"]):
        assert 'needs rich: pip install "numbaconv[cli]"' in fails(capsys, *command)
    assert main(["info"]) == 0


def test_ctrl_c(capsys, monkeypatch, folder):
    def interrupt(self, *arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(nn.Trainer, "fit", interrupt)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "numbaconv: error: interrupted\n"
    assert not list(folder.iterdir())


def test_ctrl_c_while_kernels_are_compiled(capsys, monkeypatch):
    def compile_and_fail(self, *arguments):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("no compiled object yet")

    monkeypatch.setattr(nn.Trainer, "step", compile_and_fail)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "numbaconv: error: interrupted\n"


def test_mistakes_of_the_program_keep_their_traceback(monkeypatch):
    def broken(self, *arguments, **options):
        raise ValueError("a bug")

    monkeypatch.setattr(nn.Trainer, "fit", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["train"])


def test_progress_on_a_terminal():
    """The bar and the spinner are shown where there is a terminal, and are gone afterwards."""
    from rich.console import Console

    for terminal in (True, False):
        shown = io.StringIO()
        screen = Console(file=shown, force_terminal=terminal, width=80)
        with console.status(screen, "compiling"):
            pass
        with console.progress_bar(screen, 2000) as show:
            show("epoch 1/2", 1000)
            show("epoch 2/2", 2000)
        assert ("compiling" in shown.getvalue()) == ("epoch 2/2" in shown.getvalue()) == terminal
        assert bool(re.search(r"100%.* [\d,]+ images/s, 0:00 left", shown.getvalue())) == terminal


def test_times():
    assert [console.clock(seconds) for seconds in (0, 0.2, 59.5, 61, 3599, 3600, 360_000)] == [
        *("0:00", "0:01", "1:00", "1:01", "59:59", "1:00:00", "100:00:00")
    ]


# --- predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.compiled
def test_predict_digits(capsys, model):
    assert main(["predict", str(model), "digits", "--rows", "3", "--output", "p.csv"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["image", "label", "prediction", "probability"]
    assert out[4] == "... and 356 more"
    assert re.fullmatch(r"digits \(test part\): accuracy \d\d\.\d\d% \(3\d\d of 359 images\)", out[5])
    assert out[6] == "saved p.csv"
    with open("p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == open_source("digits").test.labels.tolist()
    assert all(0 < float(row["probability"]) <= 1 for row in rows)


@pytest.mark.compiled
def test_predictions_do_not_depend_on_the_batch_size(capsys, model):
    for size in (1, 7, 5000):
        arguments = ["--batch-size", str(size), "--rows", "0", "--output", f"{size}.npz"]
        assert main(["predict", str(model), "digits", *arguments]) == 0
    one, seven, all_ = (np.load(f"{size}.npz") for size in (1, 7, 5000))
    np.testing.assert_array_equal(one["predictions"], all_["predictions"])
    np.testing.assert_allclose(seven["probabilities"], all_["probabilities"], atol=1e-5)
    np.testing.assert_allclose(one["probabilities"].sum(1), 1, rtol=1e-5)


@pytest.mark.compiled
def test_predict_images_without_labels(capsys, model, folder):
    images = open_source("digits").train.images
    np.save("integers.npy", images[:50, 0])
    np.save("floats.npy", images[:50].astype(np.float64) / 16)
    header = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (50, 8, 8))
    (folder / "idx.gz").write_bytes(gzip.compress(header + images[:50].tobytes()))
    written = []
    for name in ("integers.npy", "floats.npy", "idx.gz"):
        assert main(["predict", str(model), name, "--output", "p.csv"]) == 0
        out = capsys.readouterr().out
        assert f"{name}: 50 images, no labels to compare with" in out
        assert out.split()[:3] == ["image", "prediction", "probability"]
        written.append((folder / "p.csv").read_text())
    assert written[0] == written[1] == written[2]
    assert written[0].startswith("image,prediction,probability\n0,")


@pytest.mark.compiled
def test_where_there_is_a_test_part_it_is_predicted(capsys, model):
    images, labels = open_source("digits").train.images, open_source("digits").train.labels
    np.savez("d.npz", x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])
    assert main(["predict", str(model), "d.npz"]) == 0
    assert re.search(r"d\.npz \(test part\): accuracy .* of 20 images\)", capsys.readouterr().out)


# --- info and the rest -----------------------------------------------------------------------------------------------


def test_info(capsys):
    assert main(["info"]) == 0
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(facts)[:5] == ["CPU", "vectors", "threads", "threading layer", "compiled kernels"]
    assert f"{numbaconv.simd.lanes(np.float32)} lanes of float32" in facts["vectors"]
    assert facts["numbaconv"] == numbaconv.__version__
    assert facts["numpy"] == np.__version__
    assert facts["threading layer"] in ("tbb", "omp", "workqueue")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["predict", "--help"], ["info", "--help"]])
def test_help(capsys, arguments):
    assert main(arguments) == 0
    assert "usage: numbaconv" in capsys.readouterr().out


def test_as_a_module():
    command = [sys.executable, "-m", "numbaconv", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"numbaconv {numbaconv.__version__}\n", "")


def test_a_reader_that_goes_away_and_an_import_that_needs_little():
    """A closed pipe is no traceback, and ``import numbaconv`` loads nothing beyond NumPy and Numba."""
    code = (
        "import sys, json, numbaconv, numbaconv.nn, numbaconv.data\n"
        "loaded = [name for name in ('rich', 'safetensors', 'argparse', 'sklearn') if name in sys.modules]\n"
        "print(json.dumps(loaded), file=sys.stderr)\n"
        "from numbaconv.cli import main\n"
        "sys.stdin.readline()\n"
        "sys.exit(main(['info']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    lines = process.stderr.read().decode().splitlines()
    process.stderr.close()
    assert process.wait() == 141
    assert len(lines) == 1
    assert not set(json.loads(lines[0])) & {"rich", "safetensors", "sklearn"}
