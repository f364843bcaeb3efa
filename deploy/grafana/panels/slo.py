"""Do we keep what we promise, and how fast do we use up what may go wrong?"""

from __future__ import annotations

from deploy.grafana.panels.board import Board, Panel, Query, Row

API = 'route!~"/healthz|/readyz|/metrics"'
BAD = f'sum(rate(tunesmith_http_requests_total{{{API}, status=~"5.."}}[$__rate_interval])) or vector(0)'
ALL = f"sum(rate(tunesmith_http_requests_total{{{API}}}[$__rate_interval]))"

PROMISES = Row(
    title="Promises",
    panels=(
        Panel(
            title="Requests without an error of ours",
            description="Share of answers that are not 5xx.",
            queries=(Query(expr=f"1 - ({BAD}) / {ALL}"),),
            unit="percentunit",
            highest=1,
            warn=0.999,
            bad=0.99,
            falling=True,
            width=24,
        ),
    ),
)

BOARD = Board(
    uid="tunesmith-slo",
    title="Tunesmith / Service levels",
    description="Do we keep what we promise, and how fast do we use up what may go wrong?",
    rows=(PROMISES,),
    since="now-24h",
)
