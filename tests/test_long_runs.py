"""Long trainings survive what happens to long runs: kill -9, a full disk, a second training beside them.

``NUMBACONV_KILLS=50 pytest tests/test_long_runs.py`` kills every kind of training so often, each in three ways.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_nn_checkpoints import bits, fit, new_trainer

import numbaconv
from numbaconv import nn
from numbaconv.cli import main
from numbaconv.nn.checkpoints import read_metadata

KILLS = int(os.environ.get("NUMBACONV_KILLS", "6"))
FOLDERS = Path(__file__).parent, Path(numbaconv.__file__).parents[1]

#: Trains, from the checkpoint if there is one. A third argument is the write that only half of arrives before the end.
VICTIM = """
import os, signal, sys
from pathlib import Path

path, out, writes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
fsync = os.fsync

def deadly(descriptor):
    global writes
    writes -= not os.path.isdir(f"/proc/self/fd/{descriptor}")
    if writes == 0:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

os.fsync = deadly
"""
WITH_FIT = """
from test_nn_checkpoints import fit, new_trainer
from numbaconv import nn

trainer = new_trainer()
endless = nn.EarlyStopping(patience=200)
checkpoint = nn.Checkpoint(path, seconds=0)
fit(trainer, epochs=100, early_stopping=endless, checkpoint=checkpoint, resume=path if path.exists() else None)
nn.save_model(out, trainer.model)
"""
ON_COMMAND_LINE = """
from numbaconv.cli import main

new = ["--epochs", "30", "--checkpoint", str(path), "--checkpoint-every", "0.02", "--output", str(out)]
sys.exit(main(["train", *(["--resume", str(path), "--output", str(out)] if path.exists() else new)]))
"""


def start(script: str, *arguments: object, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, FOLDERS))}
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], env=environment, **options)


def inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


class Killer:
    """Ends trainings that write to ``path`` and ``out``, each in one of three ways, at a random moment."""

    def __init__(self, script: str, path: Path, out: Path) -> None:
        self.script, self.path, self.out = VICTIM + script, path, out
        self.random = random.Random(0)

    def run(self, writes: int = 0) -> subprocess.Popen:
        return start(self.script, self.path, self.out, writes, stdout=subprocess.DEVNULL)

    def at_any_time(self) -> int:
        """While Python starts, while kernels are loaded, while it trains."""
        return self._killed(self.run(), self.random.uniform(0, 2))

    def as_it_trains(self) -> int:
        """Soon after a new checkpoint is there, when the next ones are being written."""
        before, victim = inode(self.path), self.run()
        while victim.poll() is None and inode(self.path) == before:
            time.sleep(0.001)
        return self._killed(victim, self.random.uniform(0, 0.1))

    def as_it_writes(self) -> int:
        """With half of a file on the disk."""
        return self.run(writes=self.random.randint(1, 9)).wait()

    def _killed(self, victim: subprocess.Popen, seconds: float) -> int:
        time.sleep(seconds)
        victim.kill()
        return victim.wait()


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs to know which descriptor is a folder")
@pytest.mark.parametrize(
    ("script", "suffix"), [(WITH_FIT, ".npz"), (ON_COMMAND_LINE, ".safetensors")], ids=["fit", "command-line"]
)
def test_killed_again_and_again(tmp_path, script, suffix) -> None:
    """Every checkpoint is whole, every resume goes on, and in the end there is the same file, byte for byte."""
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    whole = Killer(script, tmp_path / f"unharmed{suffix}", tmp_path / f"whole{suffix}")
    assert whole.run().wait() == 0
    killer = Killer(script, tmp_path / f"checkpoint{suffix}", tmp_path / f"model{suffix}")
    ways = [killer.at_any_time, killer.as_it_trains, killer.as_it_writes]
    kills, left = 0, set()
    while kills < KILLS:
        status = ways[kills % 3]()
        if status == 0:  # it was done before: once more from the beginning
            assert killer.out.read_bytes() == whole.out.read_bytes()
            killer.out.unlink()
            killer.path.unlink()
            continue
        assert status == -signal.SIGKILL
        kills += 1
        if killer.path.exists():
            read_metadata(killer.path)
        left.update(tmp_path.glob(".numbaconv-*.tmp"))
    assert len(left) >= KILLS // 3
    for path in tmp_path.glob(".numbaconv-*.tmp"):
        make_old(path)
    assert killer.run().wait() == 0
    assert killer.out.read_bytes() == whole.out.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {
        path.name for one in (whole, killer) for path in (one.path, one.out)
    }


# -- a full disk -------------------------------------------------------------------------------------------------------

#: No file may become longer than 4 kB, as if the disk were full then.
ON_A_FULL_DISK = """
import resource, sys
from numbaconv.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
sys.exit(main(["train", "--resume", sys.argv[1], "--output", sys.argv[2]]))
"""


def test_a_full_disk(tmp_path) -> None:
    """One line says so, and the checkpoint before is as it was: with room on the disk, training goes on."""
    pytest.importorskip("resource")
    path, out = tmp_path / "run.npz", tmp_path / "model.npz"
    new = ["train", "--epochs", "1", "--checkpoint", str(path), "--output", str(out)]
    assert main(new) == 0
    before = path.read_bytes()
    with start(ON_A_FULL_DISK, path, out, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        said = process.stderr.read().decode()
    assert process.returncode == 2
    assert said == f"numbaconv: error: {path}: File too large\n"
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {path.name, out.name}
    assert main(["train", "--resume", str(path), "--epochs", "2", "--output", str(out)]) == 0


# -- two at once -------------------------------------------------------------------------------------------------------

ONE_OF_TWO = """
import sys
from test_nn_checkpoints import fit, new_trainer
from numbaconv import nn

checkpoint = nn.Checkpoint(sys.argv[1], seconds=0, metadata={"seed": sys.argv[2]})
fit(new_trainer(), epochs=30, early_stopping=None, seed=int(sys.argv[2]), checkpoint=checkpoint)
"""


@pytest.mark.slow
@pytest.mark.compiled
def test_two_trainings_with_one_checkpoint(tmp_path) -> None:
    """Whichever wrote last, the checkpoint is one of the two, and whole."""
    path, seen = tmp_path / "checkpoint.npz", set()
    trainings = [start(ONE_OF_TWO, path, seed) for seed in (1, 2)]
    while any(training.poll() is None for training in trainings):
        if path.exists():
            seen.add(read_metadata(path)["seed"])
    assert [training.returncode for training in trainings] == [0, 0]
    assert seen == {"1", "2"}
    seed = int(read_metadata(path)["seed"])
    trainers = new_trainer(), new_trainer()
    options = {"epochs": 30, "early_stopping": None}
    fit(trainers[0], resume=path, **options)
    fit(trainers[1], seed=seed, **options)
    assert bits(trainers[0]) == bits(trainers[1])


# -- what killed processes leave ---------------------------------------------------------------------------------------


def make_old(path: Path) -> None:
    """As if nobody had written to it for an hour."""
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago), follow_symlinks=False)


@pytest.fixture
def left(tmp_path) -> Path:
    """What a process left that was killed as it wrote."""
    path = tmp_path / ".numbaconv-a0_b1_c2.tmp"
    path.write_bytes(b"PK")
    make_old(path)
    return path


needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="has no locks that die with the process")


@needs_locks
def test_what_killed_processes_left_is_removed(tmp_path, left) -> None:
    path = tmp_path / "checkpoint.npz"
    fit(new_trainer(), epochs=1, checkpoint=path)
    assert list(tmp_path.iterdir()) == [path]


@needs_locks
def test_nothing_else_is_removed(tmp_path) -> None:
    others = [tmp_path / name for name in ("a.tmp", ".numbaconv-x.tmp", ".numbaconv-a0_b1_c2.tmp.npz", "numbaconv.tmp")]
    folder, link, pipe, young = (tmp_path / f".numbaconv-{name * 8}.tmp" for name in "flpy")
    for path in [*others, young]:
        path.write_bytes(b"precious")
    folder.mkdir()
    link.symlink_to(others[0])
    os.mkfifo(pipe)
    for path in [*others, folder, link, pipe]:
        make_old(path)
    nn.save_model(tmp_path / "model.npz", nn.Linear(2, 2))
    assert len(list(tmp_path.iterdir())) == len([*others, folder, link, pipe, young]) + 1


@needs_locks
def test_a_file_that_is_being_written_is_left_alone(tmp_path, monkeypatch) -> None:
    """However long the disk takes."""
    fsync, slow, may_go_on = os.fsync, threading.Event(), threading.Event()

    def wait(descriptor: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            slow.set()
            may_go_on.wait(60)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    writer = threading.Thread(target=nn.save_model, args=(tmp_path / "slow.npz", nn.Linear(2, 2)))
    writer.start()
    assert slow.wait(60)
    (temporary,) = tmp_path.iterdir()
    make_old(temporary)
    nn.save_model(tmp_path / "fast.npz", nn.Linear(2, 2))
    assert temporary.exists()
    may_go_on.set()
    writer.join()
    assert {path.name for path in tmp_path.iterdir()} == {"slow.npz", "fast.npz"}
    nn.load_state(tmp_path / "slow.npz")
