"""The cache of compiled kernels: nothing stale or damaged is ever loaded, and nothing that fails is in the way."""

from __future__ import annotations

import ast
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
import pytest
from cases import run_python
from numba.core.registry import cpu_target
from test_nn_pooled import launches

import numbaconv
from numbaconv import cache, nn
from numbaconv.cli import main
from numbaconv.cli.cache import _predict as fill_predictions
from numbaconv.cli.cache import _train as fill_training

pytestmark = pytest.mark.compiled
PACKAGE = Path(numbaconv.__file__).parent
WAIT = 120  # seconds


def total(x: Any) -> Any:
    """Something to compile."""
    result = 0.0
    for value in x:
        result += value
    return result


class Folder:
    """An empty cache, and what is loaded from it and kept in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[str] = []

    def tell(self, kernel: str, seconds: float | None) -> None:
        self.events.append("loaded" if seconds is None else "compiled")

    def call(self, function: Any = total, argument: Any = None, **options: Any) -> str:
        """Call a function as a new process would: whether it was compiled or loaded, and that it is right."""
        self.events.clear()
        dispatcher = numba.njit(**options)(function)
        cache.keep(dispatcher)
        assert dispatcher(np.arange(5.0) if argument is None else argument) == 10
        (event,) = self.events
        return event

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    @property
    def file(self) -> Path:
        (file,) = self.files
        return file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    folder = Folder(tmp_path / "kept")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder.path))
    monkeypatch.setattr(cache, "listener", folder.tell)
    monkeypatch.setattr(cache, "failures", [])
    cache._target.cache_clear()
    yield folder
    cache._target.cache_clear()


# --- what is loaded again ---------------------------------------------------------------------------------------------


def test_what_was_compiled_is_loaded(folder: Folder) -> None:
    assert folder.call() == "compiled"
    assert folder.call() == "loaded"
    assert folder.file.parent.parent == folder.path
    assert folder.file.stat().st_mode & 0o002 == 0


def test_every_type_and_every_option_has_a_file_of_its_own(folder: Folder) -> None:
    floats = np.arange(5, dtype=np.float32)
    assert [folder.call(), folder.call(argument=floats), folder.call(nogil=True)] == ["compiled"] * 3
    assert len(folder.files) == 3
    assert [folder.call(), folder.call(argument=floats), folder.call(nogil=True)] == ["loaded"] * 3


AT_ONCE = """
import sys
import numba, numpy as np, numbaconv
x = np.ones((1, 1, 5, 5), np.float32)
compiler = ["numba.np.linalg", "numba.np.arraymath"]
kernel = numbaconv.conv2d(x, x)[0, 0, 0, 0]
print(kernel, *[name for name in compiler if name in sys.modules])
print(numba.njit(lambda x: np.cumsum(x).sum())(x[0, 0]), numbaconv.conv2d(x, x[..., :3, :3], padding=1).sum())
"""


def test_what_is_loaded_does_not_wait_for_the_compiler(tmp_path: Path) -> None:
    """Whose modules take a quarter of a second to import; whoever compiles something afterwards has them imported."""
    own = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_OPT": "1"}  # as nothing is compiled that is kept elsewhere
    outputs = [run_python("-c", AT_ONCE, timeout=WAIT, **own) for _ in range(2)]
    compiled, loaded = (output.stdout.split("\n") for output in outputs)
    assert compiled == ["25.0 numba.np.linalg numba.np.arraymath", "325.0 169.0", ""], outputs[0].stderr
    assert loaded == ["25.0", "325.0 169.0", ""], outputs[1].stderr


# --- what is not: another build ---------------------------------------------------------------------------------------


def set_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    codegen = type(cpu_target.target_context.codegen())
    monkeypatch.setattr(codegen, "magic_tuple", lambda self: (triple, "elbrus", features))


def set_features(monkeypatch: pytest.MonkeyPatch) -> None:
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    codegen = type(cpu_target.target_context.codegen())
    monkeypatch.setattr(codegen, "magic_tuple", lambda self: (triple, cpu, features.replace("+sse", "-sse", 1) + ","))


OTHERS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "Numba": lambda patch: patch.setattr(numba, "__version__", "0.1"),
    "llvmlite": lambda patch: patch.setattr(llvmlite, "__version__", "0.1"),
    "NumPy": lambda patch: patch.setattr(np, "__version__", "1.0"),
    "Python": lambda patch: patch.setattr(sys.implementation, "cache_tag", "cpython-99"),
    "CPU": set_cpu,
    "features": set_features,
    "optimisation": lambda patch: patch.setattr(numba.config, "OPT", 1),
    "checks of bounds": lambda patch: patch.setattr(numba.config, "BOUNDSCHECK", 1),
}


@pytest.mark.parametrize("what", OTHERS)
def test_code_of_another_version_cpu_or_setting_is_not_loaded(folder: Folder, what: str) -> None:
    assert folder.call() == "compiled"
    with pytest.MonkeyPatch.context() as patch:
        OTHERS[what](patch)
        cache._target.cache_clear()
        (entry,) = cache.entries()
        assert entry.stale
        assert folder.call() == "compiled"
        assert sorted(entry.stale for entry in cache.entries()) == [False, True]
    cache._target.cache_clear()
    assert folder.call() == "loaded"  # both are kept: machines may share a folder


def test_code_of_other_sources_is_replaced(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder.call() == "compiled"
    before = folder.file
    monkeypatch.setattr(cache, "_SOURCES", "changed")
    assert folder.call() == "compiled"
    assert folder.call() == "loaded"
    assert folder.file == before  # so that files do not pile up


def test_a_function_that_changed_is_compiled_again(folder: Folder) -> None:
    def other(x: Any) -> Any:
        return x.sum()

    other.__name__, other.__qualname__ = total.__name__, total.__qualname__
    assert [folder.call(total), folder.call(other), folder.call(other)] == ["compiled", "compiled", "loaded"]
    assert folder.file


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package, without anything that Python or Numba has made of it."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "site" / "numbaconv", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_digest_covers_every_module_and_no_comment(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOT", copied)
    before = cache._read_sources()
    digests = {before}
    for number, path in enumerate(cache.sources(), 1):
        text = path.read_text()
        path.write_text(text + "\n# a comment\n")
        assert cache._read_sources() == before, path
        path.write_text(text + f"\nNEW = {number}\n")
        digests.add(cache._read_sources())
        assert len(digests) == number + 1, path
        path.write_text(text)
    assert len(digests) > 20


def imports(path: Path) -> Iterator[str]:
    """The modules of the package that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_compiled_code_comes_from_no_other_module() -> None:
    covered = cache.sources()
    for source in covered:
        for name in imports(source):
            parts = name.split(".")[1:]
            module = PACKAGE.joinpath(*parts)
            for path in (module.with_suffix(".py"), module / "__init__.py"):
                if name.startswith("numbaconv.") and path.exists() and path != PACKAGE / "cache.py":
                    assert path in covered, f"{source} imports {name}: what is compiled of it is not noticed to change"


#: A call that needs but one kernel, the smallest: the sum of every channel.
CALL = """
import json, sys, warnings
import numpy as np
import numbaconv
from numbaconv import cache
events = []
cache.listener = lambda kernel, seconds: events.append("loaded" if seconds is None else "compiled")
def call(dtype="float32"):
    z = np.ones((2, 3, 8, 8), dtype)
    return numbaconv.conv2d_backward(z, z, np.ones((3, 3, 1, 1), dtype), output_mask=(False, False, True))[2].tolist()
"""
SHOW = CALL + "print(json.dumps([call(), events]))"


def environment(kept: Path | str, **variables: str) -> dict[str, str]:
    return {"NUMBA_CACHE_DIR": str(kept), "PYTHONWARNINGS": "always", "PYTHONSAFEPATH": "1", **variables}


def shown(code: str = SHOW, **variables: str) -> tuple[list[float], list[str], str]:
    """What a process prints: the result, whether it was compiled, and stderr."""
    done = run_python("-c", code, timeout=WAIT, **variables)
    assert done.returncode == 0, done.stderr
    result, events = json.loads(done.stdout)
    return result, events, done.stderr


@pytest.mark.parametrize("bytecode", ["", "1"], ids=["with .pyc files", "without"])
def test_an_upgrade_that_keeps_times_and_sizes(copied: Path, tmp_path: Path, bytecode: str) -> None:
    variables = environment(
        tmp_path / "kept",
        PYTHONPATH=str(copied.parent),
        PYTHONDONTWRITEBYTECODE=bytecode,
        PYTHONPYCACHEPREFIX=str(tmp_path / "bytecode"),
    )
    assert shown(**variables)[:2] == ([128.0] * 3, ["compiled"])
    changed = copied / "kernels" / "sums.py"
    before, text = changed.stat(), changed.read_text()
    changed.write_text(text.replace("total = 0.0", "total = 1.0"))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (changed.stat().st_size, changed.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    if not bytecode:  # Python itself does not notice, so that what it runs is what was compiled
        assert shown(**variables)[:2] == ([128.0] * 3, ["loaded"])
        shutil.rmtree(tmp_path / "bytecode")
    assert shown(**variables)[:2] == ([129.0] * 3, ["compiled"])


def test_the_same_in_every_process(tmp_path: Path) -> None:
    for number, event in enumerate(["compiled", "loaded", "loaded"]):
        variables = environment(tmp_path, PYTHONHASHSEED=str(number))
        assert shown(**variables) == ([128.0] * 3, [event], "")


# --- what is not: damaged files ---------------------------------------------------------------------------------------


class Bomb:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "only the first line": lambda content: content[: len(cache.MAGIC)],
    "half": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-1],
    "longer by a byte": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "zeros at the end": lambda content: content[:-4096] + bytes(4096),
    "text": lambda content: b"not a kernel\n" * 100,
    "another format": lambda content: content.replace(b"kernel 1", b"kernel 2", 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_compiled_again_and_replaced(folder: Folder, damage: str) -> None:
    folder.call()
    content = folder.file.read_bytes()
    folder.file.write_bytes(DAMAGES[damage](content))
    (entry,) = cache.entries()
    assert (entry.header, entry.stale) == (None, True)
    assert [folder.call(), folder.call()] == ["compiled", "loaded"]
    assert cache.failures == []
    (entry,) = cache.entries()
    assert not entry.stale


def test_no_bit_may_be_another(folder: Folder) -> None:
    folder.call()
    content = bytearray(folder.file.read_bytes())
    assert cache._checked(bytes(content))
    for position in {*range(1000), *range(0, len(content), 1 + len(content) // 2000)}:
        content[position] ^= 1 << position % 8
        assert not cache._checked(bytes(content)), position
        content[position] ^= 1 << position % 8
    content[len(content) // 2] ^= 1
    folder.file.write_bytes(content)
    assert folder.call() == "compiled"


def test_pickles_without_the_checksum_are_not_opened(folder: Folder, tmp_path: Path) -> None:
    folder.call()
    bomb = pickle.dumps(Bomb(tmp_path / "executed"))
    content = folder.file.read_bytes()
    header = content[: content.index(b"}\n") + 2]
    for damaged in (bomb, cache.MAGIC + bomb, header + bomb):
        folder.file.write_bytes(damaged)
        assert folder.call() == "compiled"
        assert not (tmp_path / "executed").exists()


def test_a_kernel_under_the_name_of_another_is_not_loaded(folder: Folder) -> None:
    folder.call()
    first = folder.file
    folder.call(argument=np.arange(5, dtype=np.float32))
    (second,) = set(folder.files) - {first}
    second.write_bytes(first.read_bytes())
    assert folder.call(argument=np.arange(5, dtype=np.float32)) == "compiled"


def test_objects_that_numba_does_not_know_any_more(folder: Folder) -> None:
    folder.call()
    content = folder.file.read_bytes()
    header = cache._checked(content).partition(b"\n")[0] + b"\n"
    for payload in (b"", b"garbage", pickle.dumps(None), pickle.dumps((1, 2, 3))):
        folder.file.write_bytes(cache._content(header + payload))
        assert folder.call() == "compiled"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file(folder: Folder) -> None:
    folder.call()
    file = folder.file
    file.unlink()
    os.mkfifo(file)  # to open it for reading would wait for ever
    assert [folder.call(), folder.call()] == ["compiled", "loaded"]
    file.unlink()
    file.mkdir()
    with pytest.warns(RuntimeWarning, match="compiled kernels are not kept"):
        assert folder.call() == "compiled"


# --- what is not: files of others -------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_files_that_anybody_can_write_are_not_loaded(folder: Folder) -> None:
    folder.call()
    folder.file.chmod(0o666)
    (entry,) = cache.entries()
    assert entry.stale
    with pytest.warns(RuntimeWarning, match=r"\.nbc is not loaded: it belongs to another user, or anybody may write"):
        assert folder.call() == "compiled"
    assert folder.call() == "loaded"  # it was replaced


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to be root")
def test_files_of_other_users_are_not_loaded(folder: Folder) -> None:
    folder.call()
    os.chown(folder.file, 54321, -1)
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert folder.call() == "compiled"
    assert folder.call() == "loaded"


def test_nobody_elses_umask_makes_files_that_anybody_can_write(folder: Folder) -> None:
    before = os.umask(0)
    try:
        folder.call()
    finally:
        os.umask(before)
    assert folder.file.stat().st_mode & 0o002 == 0
    assert folder.call() == "loaded"


# --- folders that cannot be written -----------------------------------------------------------------------------------


def failing(number: int) -> Callable[..., None]:
    def fail(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT, errno.ESTALE])
def test_what_cannot_be_kept_is_compiled_and_told_once(
    folder: Folder, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", failing(number))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert [folder.call() for _ in range(3)] == ["compiled"] * 3
    (warning,) = told
    assert warning.category is RuntimeWarning
    assert str(folder.path) in str(warning.message)
    assert os.strerror(number) in str(warning.message)
    assert folder.files == []  # nothing half-written stays


def test_what_cannot_be_pickled_is_compiled(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "dumps", failing(errno.EIO))
    with pytest.warns(RuntimeWarning, match="compiled kernels are not kept"):
        assert folder.call() == "compiled"
    assert folder.files == []


def test_a_folder_that_is_full_before_it_is_written(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))" + CALL
    code = limited + "print(json.dumps([[*call(), *call('float64')], events]))"
    result, events, stderr = shown(code, **environment(tmp_path))
    assert (result, events) == ([128.0] * 6, ["compiled"] * 2)
    assert stderr.count("RuntimeWarning") == 1
    assert f"{tmp_path}" in stderr
    assert "File too large" in stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result, events, stderr = shown(**environment(tmp_path / "file" / "kept"))
    assert (result, events) == ([128.0] * 3, ["compiled"])
    assert stderr.count("RuntimeWarning: compiled kernels are not kept") == 1


def test_a_folder_that_is_filled_and_then_read_only(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.call()
    for name in ("replace", "mkdir", "open"):
        monkeypatch.setattr(os, name, failing(errno.EROFS))
    assert folder.call() == "loaded"
    assert cache.failures == []


def test_a_read_only_installation(copied: Path, tmp_path: Path) -> None:
    (copied / "__pycache__").touch()  # a file: not even root makes a folder of it
    home = tmp_path / "home"
    variables = environment("", PYTHONPATH=str(copied.parent), HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
    assert shown(**variables) == ([128.0] * 3, ["compiled"], "")
    assert [path.suffix for path in home.rglob("*") if path.is_file()] == [".nbc"]
    assert shown(**variables) == ([128.0] * 3, ["loaded"], "")
    shutil.rmtree(home)
    home.touch()
    result, events, stderr = shown(**variables)
    assert (result, events) == ([128.0] * 3, ["compiled"])
    assert stderr.count("RuntimeWarning: compiled kernels are not kept") == 1
    assert f"{copied}" in stderr
    assert f"{home}" in stderr


def test_without_modules_to_compare_with_nothing_is_kept(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOT", folder.path / "archive.zip")
    assert cache._read_sources() == cache._read_sources() != cache._SOURCES
    monkeypatch.setattr(cache, "_SOURCES", "")
    with pytest.warns(RuntimeWarning, match="can't be read to tell"):
        assert folder.call() == "compiled"
    assert folder.files == []


# --- processes that start or end at any moment ------------------------------------------------------------------------


def test_processes_that_start_cold_at_once(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    variables = os.environ | environment(tmp_path, PYTHONPATH=paths)
    both = CALL + "print(json.dumps([[call(), call('float64')], events]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", both], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        out, err = process.communicate(timeout=WAIT)
        assert err == b""
        assert json.loads(out)[0] == [[128.0] * 3] * 2
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".nbc"] * 2
    assert shown(both, **environment(tmp_path)) == ([[128.0] * 3] * 2, ["loaded"] * 2, "")


def test_a_process_that_is_killed_as_it_writes(folder: Folder) -> None:
    killed = CALL + "import os; os.replace = lambda *names: os._exit(9); call()"
    done = run_python("-c", killed, timeout=WAIT, **environment(folder.path))
    assert done.returncode == 9
    assert folder.file.suffix == ".tmp"
    assert list(cache.entries()) == []  # it may be just being written
    hour_ago = time.time() - 3601
    os.utime(folder.file, (hour_ago, hour_ago))
    (entry,) = cache.entries()
    assert entry.stale
    assert folder.call() == "compiled"
    assert [entry.path.suffix for entry in cache.clear(stale_only=True)] == [".tmp"]
    assert folder.call() == "loaded"


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def others(folder: Folder) -> list[Path]:
    """Files that are not this package's, some beside its own."""
    folder.call()
    names = ["kernel.f-12.py311.nbi", "kernel.f-12.py311.1.nbc", "notes.txt", "x.nbc", "total.nbc.tmp"]
    paths = [place / name for place in (folder.path, folder.file.parent) for name in names]
    for path in paths:
        path.write_bytes(b"mine")
    return paths


def test_clear_removes_only_files_of_this_package(folder: Folder, others: list[Path], capsys: Any) -> None:
    linked = others[-1].with_name(f"total-{'0' * 32}.nbc")
    linked.symlink_to(others[0])
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out.startswith("removed 1 file of 1 kernel, ")
    assert folder.files == sorted([*others, linked])
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out.startswith("removed none: ")


def test_clear_stale_leaves_what_is_of_use(folder: Folder, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.call()
    with monkeypatch.context() as patch:
        OTHERS["llvmlite"](patch)
        cache._target.cache_clear()
        folder.call()
    cache._target.cache_clear()
    (folder.files[0].parent / f"total-{'a' * 32}.nbc").write_bytes(b"")
    assert main(["cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"folder  {folder.path}")
    assert lines[1].startswith("usable  1 file of 1 kernel, ")
    assert lines[2].startswith("stale   2 files of 1 kernel, ")
    assert [line.strip() for line in lines[3:]] == ["1 damaged", "1 of llvmlite 0.1"]
    assert main(["cache", "clear", "--stale"]) == 0
    assert capsys.readouterr().out.startswith("removed 2 files")
    assert folder.call() == "loaded"


def test_an_empty_cache_leaves_no_folder(folder: Folder, capsys: Any) -> None:
    folder.call()
    assert main(["cache", "clear"]) == 0
    own = Path(capsys.readouterr().out.split(": ", 1)[1].strip())
    assert own.parent == folder.path
    assert main(["cache"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("usable  none")


def test_show_lists_kernels(folder: Folder, capsys: Any) -> None:
    folder.call()
    folder.call(argument=np.arange(5, dtype=np.float32))
    assert main(["cache", "show", "--list"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:2] == ["test_cache.total", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("cache melt", "'melt'"),
        ("cache --list", "--list"),
        ("cache fill --dtype int8", "'int8'"),
        ("cache fill --dtype", "--dtype"),
        ("cache clear stale", "stale"),
        ("cache clear --sta", "--sta"),
    ],
)
def test_mistakes(arguments: str, message: str, capsys: Any) -> None:
    assert main(arguments.split()) == 2
    assert message in capsys.readouterr().err


def test_fill_says_where_it_cannot_write(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "file"))
    assert main(["cache", "fill"]) == 2
    assert f"nothing can be kept: {tmp_path / 'file'}" in capsys.readouterr().err
    assert main(["cache"]) == 0
    assert "can't be written" in capsys.readouterr().out


def test_nothing_is_filled_where_nothing_is_compiled(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert main(["cache", "fill"]) == 2
    assert "NUMBA_DISABLE_JIT is set" in capsys.readouterr().err


TRAIN = """
from numbaconv.cli import main
main(["train", "--epochs", "1", "--output", *sys.argv[1:]])
print()
print(set(events))
"""


PREDICT = """
from numbaconv import nn
SIZES = {"digits_cnn": (1, 8, 8), "lenet5": (1, 28, 28), "mnist_cnn": (1, 28, 28), "resnet20": (3, 32, 32)}
for name, size in SIZES.items():
    model = getattr(nn.models, name)(rng=0).eval()
    for count in (1, 2):
        for _ in range(5):
            model(np.ones((count, *size), np.float32))
        assert model._replayed is not None
    trainer = nn.Trainer(model, nn.Adam())
    for _ in range(7):
        trainer.step(np.ones((2, *size), np.float32), np.zeros(2, int))
    assert trainer._steps._tape.tried
print()
print(set(events))
"""


@pytest.mark.slow
def test_after_fill_nothing_is_left_to_compile(tmp_path: Path) -> None:
    # In the folder that all tests share, so that most of it is there already.
    filled = run_python("-m", "numbaconv", "cache", "fill", "--dtype", "float32", timeout=600)
    assert filled.returncode == 0, filled.stderr
    assert " were there, in " in filled.stdout.splitlines()[-1]
    for options in ([], ["--optimizer", "adam", "--augment", "shift=1", "--batch-size", "256"]):
        done = run_python("-c", CALL + TRAIN, str(tmp_path / "model.npz"), *options, timeout=WAIT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "{'loaded'}"
    done = run_python("-c", CALL + PREDICT, timeout=WAIT)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "{'loaded'}"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fill_meets_what_resnets_are_trained_with(dtype: Any) -> None:
    numbaconv.set_algorithm("auto")
    try:
        trainer = nn.Trainer(nn.models.resnet20(dtype=dtype, rng=0), nn.SGD(lr=0.1))
        with launches() as wanted:
            for count in (2, 64):
                trainer.step(np.zeros((count, 3, 32, 32), dtype), np.zeros(count, np.int64))
        with launches() as filled:
            fill_training(np.dtype(dtype))
    finally:
        numbaconv.set_algorithm("direct")
    assert any("winograd_normed" in name for name in wanted)
    assert set(wanted) <= set(filled)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fill_meets_what_resnets_predict_with(dtype: Any) -> None:
    numbaconv.set_algorithm("auto")
    try:
        model = nn.models.resnet20(dtype=dtype, rng=0).eval()
        with launches() as wanted:
            for count in (1, 2, 64):
                model(np.zeros((count, 3, 32, 32), dtype))
        with launches() as filled:
            fill_training(np.dtype(dtype))
            fill_predictions(np.dtype(dtype))
    finally:
        numbaconv.set_algorithm("direct")
    assert "correlate_winograd_summed" in wanted
    assert set(wanted) <= set(filled)


PARALLEL = """
import sys
import numpy as np
import numbaconv
from numbaconv import nn
numbaconv.set_num_threads(2)
x = np.full((1, 1, 300, 300), -1, np.float32)
print(nn.Residual(nn.ReLU())(x).min() if sys.argv[1] == "sum" else nn.ReLU()(x).min())
"""


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_the_threads_of_numba_are_started_whatever_is_loaded_first(tmp_path: Path) -> None:
    """Numba forgets to start them for what was compiled to call a parallel loop that had been loaded."""
    own = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_OPT": "1"}  # as nothing is compiled that is kept elsewhere
    for kernel, least in (("relu", "0.0"), ("sum", "-1.0"), ("sum", "-1.0"), ("relu", "0.0")):
        done = run_python("-c", PARALLEL, kernel, timeout=WAIT, **own)
        assert (done.returncode, done.stdout.strip()) == (0, least), done.stderr
