"""The curves of a training as an SVG: loss, smoothed loss and eval_loss, the learning rate below, and for preferences
how often the preferred answer wins. Drawn from what was measured, by the gateway at any time and by the child at the
end; it needs no library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

#: (step, value)
Points = Sequence[tuple[float, float]]

#: Points of a line at most: more than a screen has columns help nobody.
MAX_POINTS = 1000
WIDTH, LEFT, RIGHT, TOP = 760, 64, 16, 28
#: Heights of the panel of losses and of those below it, with the gap between.
HIGH, LOW, GAP = 260, 90, 34
PALE, BLUE, ORANGE, GREEN, GREY = "#9ec5ea", "#1f5fa8", "#d9730d", "#2e7d32", "#666666"


@dataclass(frozen=True, kw_only=True)
class Line:
    name: str
    points: Points
    colour: str
    #: Of a value measured rarely: its points are marked.
    marked: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    lines: Sequence[Line]


def points(history: Iterable[Mapping[str, Any]], name: str) -> Points:
    """What was measured under `name`, in the order of its steps; what is no number is left out."""
    found = [(_number(entry.get("step")), _number(entry.get(name))) for entry in history]
    return sorted((step, value) for step, value in found if step is not None and value is not None)


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average without the bias to its start, over about a twentieth of all values."""
    weight = 1 - 1 / (1 + len(values) / 20)
    smoothed, last = [], 0.0
    for index, value in enumerate(values, start=1):
        last = weight * last + (1 - weight) * value
        smoothed.append(last / (1 - weight**index))
    return smoothed


def panels(history: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """What there is to draw; the panel of losses is always there."""
    loss = points(history, "loss")
    smoothed = list(zip([step for step, _ in loss], smooth([value for _, value in loss]), strict=True))
    losses = [
        Line(name="loss", points=loss, colour=PALE),
        Line(name="smoothed", points=smoothed, colour=BLUE),
        Line(name="eval_loss", points=points(history, "eval_loss"), colour=ORANGE, marked=True),
    ]
    others = {
        "learning rate": [Line(name="learning_rate", points=points(history, "learning_rate"), colour=GREY)],
        "preferred answer wins": [
            Line(name="rewards/accuracies", points=points(history, "rewards/accuracies"), colour=GREEN),
            Line(name="eval", points=points(history, "eval_rewards/accuracies"), colour=ORANGE, marked=True),
        ],
    }
    below = [Panel(title=title, lines=_drawn(lines)) for title, lines in others.items() if _drawn(lines)]
    return [Panel(title="loss", lines=_drawn(losses)), *below]


def svg(history: Sequence[Mapping[str, Any]], title: str) -> str:
    """`history` holds what was measured, each entry with its `step`."""
    drawn, y, last = [], float(TOP), max((step for step, _ in _all_points(panels(history))), default=1.0)
    for index, panel in enumerate(panels(history)):
        height = LOW if index else HIGH
        drawn += _panel(panel, y, height, last)
        y += height + GAP
    head = f'<text x="{LEFT}" y="18" font-weight="bold" fill="#222222">{escape(title)}</text>'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:g}" width="{WIDTH}" height="{y:g}" '
            'font-family="sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{y:g}" fill="#ffffff"/>',
            head,
            *drawn,
            "</svg>\n",
        )
    )


def _panel(panel: Panel, top: float, height: float, last: float) -> list[str]:
    values = [value for _, value in _all_points([panel])]
    if not values:
        return [f'<text x="{LEFT}" y="{top + height / 2:g}" fill="{GREY}">Nothing was measured yet.</text>']
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0

    def place(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / max(last, 1.0)
        return f"{x:.1f},{top + height * (1 - (value - low) / span):.1f}"

    levels = (low, low + span / 2, low + span)
    return [
        *(line for level in levels for line in _level(level, float(place(0, level).partition(",")[2]))),
        *(part for line in panel.lines for part in _line(line, [place(*point) for point in _thinned(line.points)])),
        *_legend(panel, top),
        f'<text x="{WIDTH - RIGHT}" y="{top + height + 14:g}" text-anchor="end" fill="{GREY}">step {last:g}</text>',
    ]


def _level(level: float, y: float) -> tuple[str, str]:
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:g}" y2="{y:g}" stroke="#e3e3e3"/>',
        f'<text x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end" fill="{GREY}">{level:.3g}</text>',
    )


def _line(line: Line, places: Sequence[str]) -> list[str]:
    drawn = [f'<polyline points="{" ".join(places)}" fill="none" stroke="{line.colour}" stroke-width="1.6"/>']
    if line.marked or len(places) == 1:
        centres = (place.split(",") for place in places)
        drawn += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{line.colour}"/>' for x, y in centres]
    return drawn


def _legend(panel: Panel, top: float) -> list[str]:
    names = (f'<tspan dx="10" fill="{line.colour}">{escape(line.name)}</tspan>' for line in panel.lines)
    return [f'<text x="{WIDTH - RIGHT}" y="{top - 6:g}" text-anchor="end">{"".join(names)}</text>']


def _drawn(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line.points]


def _all_points(of: Iterable[Panel]) -> list[tuple[float, float]]:
    return [point for panel in of for line in panel.lines for point in line.points]


def _thinned(given: Points) -> Points:
    """The first, the last and evenly chosen points between."""
    if len(given) <= MAX_POINTS:
        return given
    places = [round(index * (len(given) - 1) / (MAX_POINTS - 1)) for index in range(MAX_POINTS)]
    return [given[here] for here, after in pairwise([*places, -1]) if here != after]


def _number(value: Any) -> float | None:
    is_one = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_one else None
