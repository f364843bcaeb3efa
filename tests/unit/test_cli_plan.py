"""`tunesmith plan`: the words of the command line become the body of a plan, its answer a readable page."""

from __future__ import annotations

from argparse import ArgumentTypeError
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from gateway.cli.commands import plan
from tests.unit.test_plans import platform, worked_case

__all__ = ["platform"]


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("8xA100-80GB", {"count": 8, "kind": "A100-80GB"}),
        ("H100-80GB", {"count": 1, "kind": "H100-80GB"}),
        ("4x48GiB", {"count": 4, "memory_gib": 48.0}),
        ("2 x 24GB", {"count": 2, "memory_gib": 24.0}),
    ],
)
def test_cards_are_written_as_people_write_them(text: str, gpus: dict[str, Any]) -> None:
    assert plan.cards(text) == gpus


def test_no_card_is_no_card() -> None:
    with pytest.raises(ArgumentTypeError):
        plan.cards("")


@pytest.mark.parametrize("everything", [False, True])
def test_a_plan_is_told_in_figures_and_findings(platform: Any, everything: bool) -> None:
    written = StringIO()
    made = worked_case(platform, kind="A100-40GB")
    plan.tell(Console(file=written, width=200, highlight=False), made, everything=everything)
    text = written.getvalue()
    for words in ("effective batch 128 on 8 devices, 939 steps", "32,763,876,352 weights", "fits", "optimizer+params"):
        assert words in text
    assert "warning warmup_steps There is no warmup" in text
    assert text.count("\n") > (70 if everything else 30)


def test_a_change_that_fits_is_told(platform: Any) -> None:
    written = StringIO()
    plan.tell(Console(file=written, width=200, highlight=False), worked_case(platform, memory_gib=16))
    assert "nearest change that fits" in written.getvalue()
    assert "ds_z3_offload_config.json" in written.getvalue()


def test_a_plan_is_told_in_the_tongue_of_the_locale(platform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    written = StringIO()
    plan.tell(Console(file=written, width=200, highlight=False), worked_case(platform, kind="A100-40GB"))
    text = written.getvalue()
    for words in ("\u6709\u6548\u6279\u5927\u5c0f", "\u6ca1\u6709\u9884\u70ed"):  # effective batch, no warmup
        assert words in text
    assert "There is no warmup" not in text and "memory of a card" not in text
