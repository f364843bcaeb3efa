"""Why does my job wait, and does every worker do its part?"""

from __future__ import annotations

from deploy.grafana.panels import shown
from deploy.grafana.panels.board import Board, Choice, Panel, Query, Row, quantiles

OF = '{kind=~"$kind"}'


def by_kind(histogram: str) -> tuple[Query, ...]:
    """Of the last six hours: jobs are few."""
    return tuple(
        Query(
            expr=f"histogram_quantile({share}, sum by (le, kind) (increase({histogram}_bucket{OF}[6h])))",
            legend=f"{{{{kind}}}} p{round(share * 100)}",
        )
        for share in (0.5, 0.95)
    )


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
            description="In the last hour, by kind and code; docs/failures.md says what each code means. Empty: none.",
            queries=(
                Query(
                    expr=f"sum by (kind, code) (increase(tunesmith_jobs_failed_total{OF}[1h])) > 0",
                    legend="{{kind}} {{code}}",
                ),
            ),
            stacked=True,
            lowest=0,
        ),
        Panel(
            title="Duration of a job",
            description="From claim to finish, in the last six hours: half and 95 of a hundred take less.",
            queries=by_kind("tunesmith_job_duration_seconds"),
            unit="s",
            lowest=0,
        ),
    ),
)

PHASES = Row(
    title="Where the time goes",
    panels=(
        Panel(
            title="Wait before the first claim",
            description="Of jobs claimed in the last six hours: half and 95 of a hundred waited less.",
            queries=by_kind("tunesmith_job_wait_seconds"),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Duration of a phase",
            description="Of one child, in the last six hours, mean by kind and phase; waiting for devices is in it.",
            queries=(
                Query(
                    expr=f"sum by (kind, phase) (rate(tunesmith_job_phase_duration_seconds_sum{OF}[6h]))"
                    f" / sum by (kind, phase) (rate(tunesmith_job_phase_duration_seconds_count{OF}[6h]))",
                    legend="{{kind}} {{phase}}",
                ),
            ),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Retries",
            description="Attempts that failed and are tried again by themselves, in the last hour, by code.",
            queries=(
                Query(
                    expr=f"sum by (kind, code) (increase(tunesmith_job_retries_total{OF}[1h]))",
                    legend="{{kind}} {{code}}",
                ),
            ),
            stacked=True,
            lowest=0,
        ),
    ),
)

WORKERS = Row(
    title="Workers",
    panels=(
        Panel(
            title="Workers",
            description="Each with the seconds since its last beat; one that is silent for a minute does not count.",
            queries=(
                Query(
                    expr="max by (worker_id) (tunesmith_worker_last_beat_age_seconds)"
                    " * on (worker_id) group_left (host, version) max by (worker_id, host, version)"
                    " (tunesmith_worker_info)"
                ),
            ),
            kind="table",
            unit="s",
            width=12,
            warn=30,
            bad=60,
        ),
        Panel(
            title="Workers by kind of job",
            description="That beat within the last minute.",
            queries=(Query(expr=f"max by (kind) (tunesmith_workers{OF})", legend="{{kind}}"),),
            width=6,
            lowest=0,
            decimals=0,
        ),
        Panel(
            title="Slots in use",
            description="Share of the jobs that each worker may run at once.",
            queries=(
                Query(
                    expr="sum by (instance) (tunesmith_worker_jobs_running)"
                    " / sum by (instance) (tunesmith_worker_slots)",
                    legend="{{instance}}",
                ),
            ),
            unit="percentunit",
            width=6,
            lowest=0,
            highest=1,
        ),
        shown.devices(),
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
            description="Taken from a worker that went silent, in the last hour. The job goes on from its last "
            "checkpoint; the worker's log says what happened to it.",
            queries=(Query(expr="sum by (holder) (increase(tunesmith_leases_lost_total[1h]))", legend="{{holder}}"),),
            lowest=0,
            warn=1,
            bad=3,
        ),
        Panel(
            title="Exports verified",
            description="In the last six hours, by format and outcome. Failed ones publish nothing.",
            queries=(
                Query(
                    expr="sum by (format, outcome) (increase(tunesmith_export_verifications_total[6h]))",
                    legend="{{format}} {{outcome}}",
                ),
            ),
            width=12,
            stacked=True,
            lowest=0,
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
            width=12,
            lowest=0,
        ),
    ),
)

LEDGER = Row(
    title="Ledger, broker and housekeeping",
    panels=(
        Panel(
            title="Transactions of the ledger",
            description="95 of a hundred are shorter. Long writes: a slow disk below SQLite, or locks in PostgreSQL.",
            queries=(
                Query(
                    expr="histogram_quantile(0.95, sum by (le, access) "
                    "(rate(tunesmith_ledger_transaction_duration_seconds_bucket[$__rate_interval])))",
                    legend="{{access}} p95",
                ),
            ),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Errors of the ledger",
            description="Transactions that it failed, per second, by class of the error.",
            queries=(
                Query(
                    expr="sum by (error) (rate(tunesmith_ledger_errors_total[$__rate_interval])) or vector(0)",
                    legend="{{error}}",
                ),
            ),
            unit="ops",
            lowest=0,
        ),
        Panel(
            title="Wake-ups in the broker",
            description="That no worker has fetched. Many while workers idle: they do not hear the broker.",
            queries=(Query(expr=f"max by (kind) (tunesmith_broker_messages{OF})", legend="{{kind}}"),),
            lowest=0,
        ),
        Panel(
            title="Age of the last sweep",
            description="The sweep takes back lost jobs and wakes workers; beat's log says why it stands still.",
            queries=(Query(expr="min(tunesmith_sweep_age_seconds)", legend="age"),),
            unit="s",
            width=8,
            lowest=0,
            warn=60,
            bad=300,
        ),
        Panel(
            title="Duration of a sweep",
            description="Grows with the jobs that are not over.",
            queries=quantiles("tunesmith_sweep_duration_seconds"),
            unit="s",
            width=8,
            lowest=0,
        ),
        Panel(
            title="Age of the last whole backup",
            description="Empty: `tunesmith backup` never made one. Where one is made each night it goes up to a day.",
            queries=(Query(expr="min(tunesmith_backup_age_seconds)", legend="age"),),
            unit="s",
            width=8,
            lowest=0,
            warn=129_600,
            bad=172_800,
        ),
    ),
)

BOARD = Board(
    uid="tunesmith-work",
    title="Tunesmith / Queue and workers",
    description="Why does a job wait, and does every worker do its part?",
    rows=(QUEUE, OUTCOMES, PHASES, WORKERS, LEDGER),
    choices=(Choice(name="kind", label="Kind", query="label_values(tunesmith_queue_depth, kind)"),),
    since="now-6h",
)
