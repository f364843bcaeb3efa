"""Do we keep what we promise, and how fast do we use up what may go wrong?

A promise is a share of good events in thirty days. What may go wrong is the rest, the error budget: a burn rate of 1
uses it up in just these thirty days, one of 14.4 a fiftieth of it in an hour (Google SRE workbook, chapter 5).
"""

from __future__ import annotations

from dataclasses import dataclass

from deploy.grafana.panels.board import Board, Panel, Query, Row

WINDOWS = ("5m", "1h", "6h", "3d")
PERIOD = "30d"
#: Burn rates at which somebody is woken, and told.
FAST, SLOW = 14.4, 6.0


@dataclass(frozen=True, kw_only=True)
class Promise:
    title: str
    description: str
    #: Share of good events, of 1.
    target: float
    #: Events that went wrong and all events, as increases over WINDOW.
    bad: str
    total: str
    #: What the recording rules of deploy/prometheus call the share of the bad ones; the alerts read the same.
    recorded: str = ""

    def burn(self, window: str) -> Query:
        """How many times faster than allowed the budget is used up; of models each has its own."""
        share = f"{self.recorded}:ratio_rate{window}" if self.recorded else f"({self.bad_share(window)})"
        legend = "{{model}} over " if self.recorded else "over "
        return Query(expr=f"{share} / {round(1 - self.target, 6)}", legend=f"{legend}{window}")

    def bad_share(self, window: str) -> str:
        """0 where nothing of its kind has gone wrong; nothing where nothing happened."""
        bad, total = self.bad.replace("WINDOW", window), self.total.replace("WINDOW", window)
        return f"(({bad}) or 0 * ({total})) / (({total}) > 0)"


_API = 'route!~"/healthz|/readyz|/metrics"'
_FIRST_TOKEN = "tunesmith_time_to_first_token_seconds"
_OURS = "worker_lost|worker_failed|child_crashed|child_killed|child_failed|peer_lost|device_failed|disk_full"

PROMISES = (
    Promise(
        title="Requests",
        description="995 of a thousand requests to the API are answered without an error of ours (5xx).",
        target=0.995,
        bad=f'sum(increase(tunesmith_http_requests_total{{{_API}, status=~"5.."}}[WINDOW]))',
        total=f"sum(increase(tunesmith_http_requests_total{{{_API}}}[WINDOW]))",
        recorded="tunesmith:api_errors",
    ),
    Promise(
        title="Answers of models",
        description="99 of a hundred are answered to their end: not unavailable, too slow or broken.",
        target=0.99,
        bad='sum(increase(tunesmith_answers_total{outcome=~"unavailable|too_slow|broken"}[WINDOW]))',
        total='sum(increase(tunesmith_answers_total{outcome=~"answered|unavailable|too_slow|broken"}[WINDOW]))',
        recorded="tunesmith:answer_failures",
    ),
    Promise(
        title="Time to first token",
        description="95 of a hundred streams begin within two seconds.",
        target=0.95,
        bad=f"sum(increase({_FIRST_TOKEN}_count[WINDOW])) - "
        f'sum(increase({_FIRST_TOKEN}_bucket{{le=~"2|2.0"}}[WINDOW]))',
        total=f"sum(increase({_FIRST_TOKEN}_count[WINDOW]))",
        recorded="tunesmith:slow_first_tokens",
    ),
    Promise(
        title="Jobs",
        description="98 of a hundred jobs do not fail by lost workers, crashes, devices or disks.",
        target=0.98,
        bad=f'sum(increase(tunesmith_jobs_failed_total{{code=~"{_OURS}"}}[WINDOW]))',
        total="sum(increase(tunesmith_jobs_finished_total[WINDOW]))",
    ),
)


def row(promise: Promise) -> Row:
    budget = round(1 - promise.target, 6)
    kept = Panel(
        title=f"{promise.title}: kept",
        description=f"{promise.description} The share of the last {PERIOD}.",
        queries=(Query(expr=f"1 - ({promise.bad_share(PERIOD)})"),),
        unit="percentunit",
        kind="stat",
        width=4,
        height=8,
        decimals=3,
        bad=promise.target,
        warn=round(1 - budget / 2, 6),
        falling=True,
    )
    left = Panel(
        title=f"{promise.title}: budget left",
        description=f"Share of what may go wrong in {PERIOD} that has not. Below 0 the promise is broken.",
        queries=(Query(expr=f"1 - ({promise.bad_share(PERIOD)}) / {budget}"),),
        unit="percentunit",
        kind="stat",
        width=4,
        height=8,
        decimals=1,
        bad=0,
        warn=0.25,
        falling=True,
    )
    burn = Panel(
        title=f"{promise.title}: burn rate",
        description=f"How many times faster than allowed the budget is used up. {FAST:g} over an hour and over five "
        f"minutes wakes somebody, {SLOW:g} over six hours is told.",
        queries=tuple(promise.burn(window) for window in WINDOWS),
        width=16,
        lowest=0,
        warn=SLOW,
        bad=FAST,
    )
    return Row(title=promise.title, panels=(kept, left, burn))


BOARD = Board(
    uid="tunesmith-slo",
    title="Tunesmith / Service levels",
    description="Do we keep what we promise, and how fast do we use up what may go wrong?",
    rows=tuple(row(promise) for promise in PROMISES),
    since="now-24h",
)
