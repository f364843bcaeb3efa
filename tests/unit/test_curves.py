"""Curves drawn from what a training measured, and what they tell of over-fitting."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from shared import curves
from shared.advice.overfitting import first_rise, remark

SVG = "{http://www.w3.org/2000/svg}"


def history(losses: list[float], validations: dict[int, float]) -> list[dict[str, float]]:
    told = [{"step": step, "loss": loss, "learning_rate": 1e-4} for step, loss in enumerate(losses, start=1)]
    return [*told, *({"step": step, "eval_loss": loss} for step, loss in validations.items())]


def test_the_svg_shows_losses_their_mean_and_validations() -> None:
    measured = history([4.0, 3.0, 2.0, 1.0], {2: 3.5, 4: 2.5})

    drawn = ElementTree.fromstring(curves.svg(measured, "a <job> & more"))

    lines = drawn.findall(f"{SVG}polyline")
    assert [len(str(line.get("points")).split()) for line in lines] == [4, 4, 2, 4]
    assert len(drawn.findall(f"{SVG}circle")) == 2
    words = " ".join("".join(text.itertext()) for text in drawn.findall(f"{SVG}text"))
    assert "a <job> & more" in words and "eval_loss" in words and "learning_rate" in words and "step 4" in words


def test_what_is_no_number_is_not_drawn_and_nothing_is_no_error() -> None:
    measured = [{"step": 1, "loss": None}, {"step": 2, "loss": float("nan")}, {"step": 3}, {"loss": 1.0}]

    assert curves.points(measured, "loss") == []
    assert "Nothing was measured yet" in curves.svg(measured, "job")
    assert ElementTree.fromstring(curves.svg([{"step": 1, "loss": 0.0}], "one point")) is not None


def test_long_trainings_are_drawn_with_a_bounded_number_of_points() -> None:
    measured = [{"step": step, "loss": 1 / step} for step in range(1, 50_001)]

    drawn = ElementTree.fromstring(curves.svg(measured, "long"))

    places = str(drawn.findall(f"{SVG}polyline")[0].get("points")).split()
    assert len(places) == curves.MAX_POINTS and places[-1].startswith("744.0,")


def test_preferences_have_a_panel_of_their_own() -> None:
    panels = curves.panels([{"step": 1, "loss": 0.7, "rewards/accuracies": 0.5}])

    assert [panel.title for panel in panels] == ["loss", "preferred answer wins"]


def test_smoothing_keeps_a_constant_and_has_no_bias_to_its_start() -> None:
    assert curves.smooth([2.0] * 50) == pytest.approx([2.0] * 50)
    assert curves.smooth([5.0]) == pytest.approx([5.0]) and curves.smooth([]) == []


FALLING = [3.0, 2.5, 2.0, 1.5, 1.0, 0.8, 0.6, 0.4]


@pytest.mark.parametrize(
    ("losses", "validations", "step"),
    [
        (FALLING, {2: 2.0, 4: 1.8, 6: 1.9, 8: 2.1}, 8),
        (FALLING, {2: 2.0, 4: 1.8, 6: 1.7, 8: 1.6}, None),  # both fall
        (FALLING, {2: 2.0, 4: 2.001, 6: 2.002}, None),  # noise
        (FALLING, {4: 1.8, 6: 1.9}, None),  # one rise is none
        (FALLING[::-1], {2: 2.0, 4: 2.2, 6: 2.4}, None),  # the loss rises, too: it diverges
        ([], {2: 2.0, 4: 2.2, 6: 2.4}, None),
    ],
)
def test_overfitting_is_a_rising_eval_loss_against_a_falling_loss(
    losses: list[float], validations: dict[int, float], step: int | None
) -> None:
    assert first_rise(history(losses, validations)) == step


def test_overfitting_is_told_once_with_numbers_and_advice() -> None:
    rises = {1: 2.0, 2: 1.5, 4: 1.6, 6: 1.8}

    found = remark(history(FALLING, rises), keeps_best=False)

    assert found is not None and "1.5 at step 2, now 1.8" in found.message
    assert "load_best_model_at_end" in found.advice and found.chinese()["advice"]
    assert remark(history(FALLING, {**rises, 8: 2.5}), keeps_best=False) is None
    assert remark([], keeps_best=True) is None
