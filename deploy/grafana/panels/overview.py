"""Is everything well, and if not, which board says more?"""

from __future__ import annotations

from deploy.grafana.panels import shown
from deploy.grafana.panels.board import Board, Panel, Query, Row, quantiles
from deploy.grafana.panels.shown import OURS

STATE = Row(
    title="Is it well?",
    panels=(
        Panel(
            title="Alerts firing",
            description="Open Prometheus' page /alerts for their descriptions; each names its section of the runbook.",
            queries=(Query(expr='count(ALERTS{alertname=~"Tunesmith.*", alertstate="firing"}) or vector(0)'),),
            kind="stat",
            width=3,
            warn=1,
            bad=3,
        ),
        Panel(
            title="Targets down",
            description="Processes that Prometheus cannot scrape: dead, or unreachable from it. /targets says which.",
            queries=(Query(expr=f"count(up{{{OURS}}} == 0) or vector(0)"),),
            kind="stat",
            width=3,
            warn=1,
            bad=2,
        ),
        Panel(
            title="Workers by kind of job",
            description="Workers that beat within the last minute. A kind with none lets its jobs wait.",
            queries=(Query(expr="max by (kind) (tunesmith_workers)", legend="{{kind}}"),),
            kind="stat",
            width=6,
            bad=1,
            warn=1,
            falling=True,
        ),
        Panel(
            title="Ledger and broker",
            description="1: it answered the gateways. Without the ledger nothing works; without the broker jobs "
            "start late.",
            queries=(
                Query(expr="min(tunesmith_ledger_up)", legend="ledger"),
                Query(expr="min(tunesmith_broker_up)", legend="broker"),
            ),
            kind="stat",
            width=4,
            bad=1,
            warn=1,
            falling=True,
        ),
        Panel(
            title="Jobs now",
            description="Jobs that wait and jobs that run, of all kinds.",
            queries=(
                Query(
                    expr='sum(max by (kind, status) (tunesmith_jobs{status="queued"})) or vector(0)', legend="queued"
                ),
                Query(
                    expr='sum(max by (kind, status) (tunesmith_jobs{status="running"})) or vector(0)', legend="running"
                ),
            ),
            kind="stat",
            width=4,
        ),
        Panel(
            title="Replicas",
            description="Replicas of deployments by state; failed ones say why in GET /v1/deployments.",
            queries=(Query(expr="sum by (status) (tunesmith_replicas)", legend="{{status}}"),),
            kind="stat",
            width=4,
        ),
    ),
)

REQUESTS = Row(
    title="Requests",
    panels=(
        Panel(
            title="Requests by status",
            description="Answers of all gateways per second. 5xx are ours: look at the gateway's log by request_id.",
            queries=(
                Query(
                    expr='sum by (status) (rate(tunesmith_http_requests_total{route!~"/healthz|/readyz|/metrics"}'
                    "[$__rate_interval]))",
                    legend="{{status}}",
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Time to answer",
            description="From a request to the beginning of its answer. Answers of models: see Inference.",
            queries=quantiles(
                "tunesmith_http_request_duration_seconds",
                where='{route!~"/healthz|/readyz|/metrics|.*(completions|responses|compare).*"}',
            ),
            unit="s",
        ),
        Panel(
            title="Busiest routes",
            description="Where the requests go.",
            queries=(
                Query(
                    expr="topk(8, sum by (method, route) (rate(tunesmith_http_requests_total[$__rate_interval])))",
                    legend="{{method}} {{route}}",
                ),
            ),
            unit="reqps",
        ),
    ),
)

WORK = Row(
    title="Work",
    panels=(
        Panel(
            title="Jobs by status",
            description="As the ledger has them. Details: Queue and workers.",
            queries=(
                Query(
                    expr='sum by (status) (max by (kind, status) (tunesmith_jobs{status!~"succeeded|cancelled"}))',
                    legend="{{status}}",
                ),
            ),
        ),
        Panel(
            title="Jobs finished",
            description="In the last hour, by how they ended.",
            queries=(Query(expr="sum by (status) (increase(tunesmith_jobs_finished_total[1h]))", legend="{{status}}"),),
            stacked=True,
            lowest=0,
        ),
        Panel(
            title="Why jobs failed",
            description="In the last hour, by code; docs/failures.md says what each means and what helps. Empty: none.",
            queries=(Query(expr="sum by (code) (increase(tunesmith_jobs_failed_total[1h])) > 0", legend="{{code}}"),),
            stacked=True,
            lowest=0,
        ),
    ),
)

MODELS = Row(
    title="Models",
    panels=(
        Panel(
            title="Tokens trained",
            description="Unpadded tokens per second of all trainings. Details: Training.",
            queries=(Query(expr="sum(tunesmith_training_tokens_per_second)", legend="trained"),),
            unit="suffix: tok/s",
        ),
        Panel(
            title="Tokens generated",
            description="By the replicas, per second. Details: Inference.",
            queries=(
                Query(
                    expr="sum by (model) (rate(tunesmith_generated_tokens_total[$__rate_interval]))", legend="{{model}}"
                ),
            ),
            unit="suffix: tok/s",
            stacked=True,
        ),
        Panel(
            title="Time to first token",
            description="From the request to its first token, all models.",
            queries=quantiles("tunesmith_time_to_first_token_seconds"),
            unit="s",
        ),
    ),
)

MACHINES = Row(
    title="Machines",
    panels=(
        shown.devices(),
        Panel(
            title="Disk free",
            description="Share of each volume that is free. A full one fails jobs with code disk_full; the janitor "
            "keeps what TUNESMITH_KEEP_* say.",
            queries=(
                Query(
                    expr="min by (volume) (tunesmith_disk_free_bytes / tunesmith_disk_size_bytes)", legend="{{volume}}"
                ),
            ),
            unit="percentunit",
            lowest=0,
            highest=1,
            warn=0.15,
            bad=0.05,
            falling=True,
        ),
        shown.gpu_memory(),
        Panel(
            title="Memory of the services",
            description="Resident memory of our own processes; the children with the models are not in it.",
            queries=(
                Query(
                    expr=f"sum by (job, instance) (process_resident_memory_bytes{{{OURS}}})",
                    legend="{{job}} {{instance}}",
                ),
            ),
            unit="bytes",
            width=12,
            lowest=0,
        ),
        Panel(
            title="Processor time of the services",
            description="Cores that our own processes keep busy; the children with the models are not in it.",
            queries=(
                Query(
                    expr=f"sum by (job, instance) (rate(process_cpu_seconds_total{{{OURS}}}[$__rate_interval]))",
                    legend="{{job}} {{instance}}",
                ),
            ),
            unit="suffix: cores",
            width=12,
            lowest=0,
        ),
    ),
)

BOARD = Board(
    uid="tunesmith-overview",
    title="Tunesmith / Overview",
    description="Is everything well, and if not, where to look.",
    rows=(STATE, REQUESTS, WORK, MODELS, MACHINES),
)
