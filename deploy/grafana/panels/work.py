"""Why does my job wait, and does every worker do its part?"""

from __future__ import annotations

from deploy.grafana.panels.board import Board, Choice, Panel, Query, Row

OF = '{kind=~"$kind"}'

QUEUE = Row(
    title="Queue",
    panels=(
        Panel(
            title="Jobs that wait",
            description="By kind. GET /v1/jobs?status=queued tells of each its position and what it waits for.",
            queries=(
                Query(expr=f"sum by (kind) (max by (kind, priority) (tunesmith_queue_depth{OF}))", legend="{{kind}}"),
            ),
            stacked=True,
            lowest=0,
        ),
        Panel(
            title="Longest wait",
            description="Of the oldest job by kind and class of priority. Low priority may wait long by intent.",
            queries=(
                Query(
                    expr=f"max by (kind, priority) (tunesmith_queue_oldest_wait_seconds{OF})",
                    legend="{{kind}} {{priority}}",
                ),
            ),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Jobs that run",
            description="By kind, as the ledger has them.",
            queries=(
                Query(
                    expr='sum by (kind) (max by (kind, status) (tunesmith_jobs{kind=~"$kind", '
                    'status=~"running|pausing"}))',
                    legend="{{kind}}",
                ),
            ),
            stacked=True,
            lowest=0,
        ),
    ),
)

OUTCOMES = Row(
    title="Outcomes",
    panels=(
        Panel(
            title="Jobs finished",
            description="In the last hour, by kind and how they ended.",
            queries=(
                Query(
                    expr=f"sum by (kind, status) (increase(tunesmith_jobs_finished_total{OF}[1h]))",
                    legend="{{kind}} {{status}}",
                ),
            ),
            stacked=True,
            lowest=0,
        ),
        Panel(
            title="Failures",
            description="In the last hour, by kind and code; docs/failures.md says what each code means.",
            queries=(
                Query(
                    expr=f"sum by (kind, code) (increase(tunesmith_jobs_failed_total{OF}[1h]))",
                    legend="{{kind}} {{code}}",
                ),
            ),
            stacked=True,
            lowest=0,
        ),
        Panel(
            title="Duration of a job",
            description="From claim to finish, in the last six hours: half and 95 of a hundred take less.",
            queries=tuple(
                Query(
                    expr=f"histogram_quantile({share}, sum by (le, kind) "
                    f"(increase(tunesmith_job_duration_seconds_bucket{OF}[6h])))",
                    legend=f"{{{{kind}}}} p{round(share * 100)}",
                )
                for share in (0.5, 0.95)
            ),
            unit="s",
            lowest=0,
        ),
    ),
)

WORKERS = Row(
    title="Workers",
    panels=(
        Panel(
            title="Workers by kind of job",
            description="That beat within the last minute.",
            queries=(Query(expr=f"max by (kind) (tunesmith_workers{OF})", legend="{{kind}}"),),
            lowest=0,
        ),
        Panel(
            title="Leases",
            description="Longest time for which the beat of a held job stood still, as the sweep sees it. At "
            "TUNESMITH_LEASE_SECONDS the job is taken back.",
            queries=(Query(expr="max(tunesmith_job_lease_age_seconds)", legend="oldest beat"),),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Leases lost",
            description="Jobs and replicas taken from a worker that went silent, in the last hour. The job goes on "
            "from its last checkpoint; the worker's log says what happened to it.",
            queries=(Query(expr="sum(increase(tunesmith_leases_lost_total[1h]))", legend="lost"),),
            lowest=0,
            warn=1,
            bad=3,
        ),
        Panel(
            title="Events written",
            description="By workers into the ledger, per second. None while jobs run: they are stuck or silent.",
            queries=(
                Query(
                    expr="sum by (instance) (rate(tunesmith_events_written_total[$__rate_interval]))",
                    legend="{{instance}}",
                ),
            ),
            unit="ops",
            width=24,
            lowest=0,
        ),
    ),
)

BOARD = Board(
    uid="tunesmith-work",
    title="Tunesmith / Queue and workers",
    description="Why does a job wait, and does every worker do its part?",
    rows=(QUEUE, OUTCOMES, WORKERS),
    choices=(Choice(name="kind", label="Kind", query="label_values(tunesmith_queue_depth, kind)"),),
    since="now-6h",
)
