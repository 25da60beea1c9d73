"""Every promise in docs/promises.md names tests, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "promises.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[`(test_\w+)`\]\((\S+)\)")


@pytest.mark.parametrize(("name", "path"), sorted(set(LINK.findall(TEXT))))
def test_a_promise_points_at_a_test(name: str, path: str) -> None:
    assert f"\ndef {name}(" in (DOCS / path).read_text(encoding="utf-8")


def test_every_promise_has_a_test() -> None:
    promises = re.findall(r"^- \*\*.*(?:\n  .*)*", TEXT, re.M)
    assert len(promises) > 10
    for promise in promises:
        assert LINK.search(promise), promise
