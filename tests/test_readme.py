"""The README's examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
