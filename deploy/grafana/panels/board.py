"""What a dashboard says, apart from how Grafana writes it: a board has rows, a row panels, a panel queries.

Times in queries are Grafana's (`$__rate_interval`, `$__range`), so that a panel is right at every zoom.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["timeseries", "stat", "table", "heatmap"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """One PromQL expression."""

    expr: str
    #: Name of each series, with `{{label}}`.
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One question and the queries that answer it."""

    title: str
    #: What is shown, and what to do when it looks wrong.
    description: str
    queries: tuple[Query, ...]
    #: A unit id of Grafana.
    unit: str = "short"
    kind: Kind = "timeseries"
    #: Columns of the 24 that a dashboard has.
    width: int = 8
    #: Lines; left out: as its kind needs.
    height: int | None = None
    lowest: float | None = None
    highest: float | None = None
    #: From this value on it is orange, and red.
    warn: float | None = None
    bad: float | None = None
    #: Whether less is worse: then below `warn` it is orange, below `bad` red.
    falling: bool = False
    stacked: bool = False
    logarithmic: bool = False
    decimals: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels under one heading, left to right; their widths fill lines of 24 columns."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A variable whose values are those of a label; all of them at first."""

    name: str
    label: str
    #: `label_values(METRIC, LABEL)`.
    query: str


@dataclass(frozen=True, kw_only=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    choices: tuple[Choice, ...] = field(default=())
    #: How far back it looks when it is opened.
    since: str = "now-1h"


def quantiles(metric: str, where: str = "", over: str = "$__rate_interval") -> tuple[Query, ...]:
    """Half, 95 and 99 of a hundred are below: of a histogram, of late."""
    return tuple(
        Query(
            expr=f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{where}[{over}])))",
            legend=f"p{round(share * 100)}",
        )
        for share in (0.5, 0.95, 0.99)
    )
