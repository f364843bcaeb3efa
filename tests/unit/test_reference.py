"""The committed reference of parameters is the generated one."""

from __future__ import annotations

from pathlib import Path

from shared import reference, schema
from shared.spec import SPECS

PAGE = Path(__file__).parents[2] / "docs" / "parameters.md"


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text() == reference.page(), "run: python -m shared.reference > docs/parameters.md"


def test_the_committed_chinese_page_is_current() -> None:
    page = (PAGE.parent / "parameters.zh.md").read_text(encoding="utf-8")
    assert page == reference.page("zh"), "run: python -m shared.reference zh > docs/parameters.zh.md"


def test_every_parameter_is_on_the_page() -> None:
    page = PAGE.read_text()
    assert not [
        param.wire for spec in SPECS.values() for param in schema.params(spec) if f"| `{param.wire}`" not in page
    ]
