"""Which machines serve which formats of exports."""

from __future__ import annotations

import pytest

from shared import formats, serving
from shared.declarations import Format
from shared.requirements import CPU, Device
from shared.tongues import chinese


def card(capability: float | None) -> Device:
    return Device(id="GPU-1", kind="NVIDIA X", capability=capability)


HOST = Device(id=CPU)


@pytest.mark.parametrize(
    ("name", "device", "served"),
    [
        ("merged", HOST, True),
        ("w4a16", HOST, True),
        ("fp8", HOST, False),
        ("fp8", card(8.9), True),
        ("w8a8", card(7.0), False),
        ("w8a8", card(9.0), True),
        # Integer kernels end with Hopper.
        ("w8a8", card(10.0), False),
        # Nobody told what it is: vLLM will say.
        ("w8a8", card(None), True),
    ],
)
def test_a_format_is_served_where_its_declaration_says(name: str, device: Device, served: bool) -> None:
    assert serving.is_served(formats.get(name).served, device) is served


def test_a_refusal_names_the_machines_and_what_they_serve_in_both_tongues() -> None:
    told = serving.refusal("bot", formats.get("w8a8"), [card(10.0), card(10.0)])
    assert told == (
        "is 'bot', in format w8a8, which vLLM serves on NVIDIA cards of compute capability 7.5 to 9.0 and CPUs: here "
        f"are NVIDIA X (10.0). Export it as {served_on(card(10.0))}"
    )
    assert "计算能力 7.5 至 9.0" in (chinese.sentence(told) or "")
    assert serving.refusal("bot", formats.get("w8a8"), [card(10.0), card(9.0)]) is None
    nowhere = Format(name="paper", doc="", served=None)
    assert "which vLLM serves on no machine" in str(serving.refusal("bot", nowhere, [HOST]))


def served_on(device: Device) -> str:
    return ", ".join(name for name, made in formats.TABLE.items() if serving.is_served(made.served, device))


def test_what_this_machine_cannot_serve_is_left_to_one_that_can() -> None:
    assert "fp8" in serving.left_to([[card(9.0)]], [HOST])
    assert serving.left_to([[HOST]], [HOST]) == []
    assert serving.left_to([], [HOST]) == []
    assert serving.left_to([[HOST]], [card(10.0)]) == ["w8a8"]
