"""The README's examples run as they stand."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from numbaconv.study.results import Study

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"^( *)```python\n(.*?)^ *```", README.read_text(encoding="utf-8"), re.M | re.S)


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    indent, code = EXAMPLES[number]
    scope: dict[str, object] = {}
    exec(re.sub(f"^{indent}", "", code, flags=re.M), scope)
    if "trainer" in scope:
        assert float(capsys.readouterr().out) > 0.95


def test_the_performance_section_says_what_was_recorded() -> None:
    script = Path(__file__).parent.parent / "benchmarks" / "readme.py"
    spec = spec_from_file_location("readme", script)
    assert spec
    assert spec.loader
    readme = module_from_spec(spec)
    spec.loader.exec_module(readme)
    text = README.read_text(encoding="utf-8")
    section = readme.section(Study.load(readme.RECORDED), Study.load(readme.MODELS))
    assert section in text, "run python benchmarks/readme.py"
    assert readme.inserted(text, section) == text
    assert (readme.RESULTS / readme.CHART).is_file()
