"""What docs/winograd.md shows: its examples run, and the figures in its tables keep the bounds that it states."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import numbaconv

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "winograd.md").read_text(encoding="utf-8")


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    matrices, switch = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(matrices, {})
    assert "1/2  -1/2   1/2" in capsys.readouterr().out
    try:
        exec(switch, {})
        assert numbaconv.get_algorithm() == "auto"
    finally:
        numbaconv.set_algorithm("direct")


def test_the_sums_by_hand_are_the_two_outputs() -> None:
    sums = re.findall(r"\b([my]\d) = (.+?)(?=  |\n)", PAGE.partition("or four, if")[2].partition("Check it")[0])
    assert [name for name, _ in sums] == ["m1", "y0", "m2", "y1", "m3", "m4"]
    numbers = {"d0": 2, "d1": -3, "d2": 5, "d3": 11, "g0": 7, "g1": 13, "g2": -17}
    for name, formula in sorted(sums):
        numbers[name] = eval(formula.replace("·", "*"), {}, numbers)
    assert numbers["y0"] == 2 * 7 - 3 * 13 + 5 * -17
    assert numbers["y1"] == -3 * 7 + 5 * 13 + 11 * -17


def measured(part: str, unit: float) -> Iterator[dict[str, float]]:
    """The largest errors in a table, row by row, by pass and algorithm."""
    table = re.search(f"<!-- {part}: written by benchmarks/rounding.py -->(.*?)<!-- end -->", PAGE, re.S)
    assert table
    head, _, *rows = ([cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table[1].strip().splitlines())
    assert len(rows) >= 5
    for row in rows:
        yield {name: float(cell.split(" ")[0]) * unit for name, cell in zip(head[1:], row[1:], strict=True)}


def test_the_tables_keep_the_bounds() -> None:
    for row in measured("float32", 1e-6):
        for work in ("forward", "grad input", "grad weight"):
            assert 0 < row[f"{work}, winograd"] <= 2e-5
    for row in measured("float64", 1e-15):
        for work in ("forward", "grad input", "grad weight"):
            assert 0 < row[f"{work}, winograd"] <= 100 * row[f"{work}, direct"]


def test_the_figure_is_there() -> None:
    for path in re.findall(r"!\[.*?\]\((.*?)\)", PAGE):
        assert (DOCS / path).stat().st_size > 1000
    for path in re.findall(r"\]\((\.\./.*?)\)", PAGE):
        assert (DOCS / path).is_file()
