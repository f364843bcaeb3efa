"""Are answers fast, and is there room for more of them?"""

from __future__ import annotations

from deploy.grafana.panels.board import Board, Choice, Panel, Query, Row, quantiles

OF = '{model=~"$model"}'
ASKING = '{route=~".*(completions|responses).*"}'

ANSWERS = Row(
    title="Answers",
    panels=(
        Panel(
            title="Time to first token",
            description="From the request at the gateway to its first token. Grows with queueing before all else: see "
            "the replicas below.",
            queries=quantiles("tunesmith_time_to_first_token_seconds", where=OF),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Time to first token by model",
            description="95 of a hundred requests wait less.",
            queries=(
                Query(
                    expr="histogram_quantile(0.95, sum by (le, model) "
                    f"(rate(tunesmith_time_to_first_token_seconds_bucket{OF}[$__rate_interval])))",
                    legend="{{model}}",
                ),
            ),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Time to first token, all requests",
            description="How many requests waited how long.",
            queries=(
                Query(
                    expr=f"sum by (le) (increase(tunesmith_time_to_first_token_seconds_bucket{OF}[$__rate_interval]))",
                    legend="{{le}}",
                ),
            ),
            kind="heatmap",
        ),
    ),
)

LOAD = Row(
    title="Load",
    panels=(
        Panel(
            title="Requests for answers",
            description="By status. 429: too many in flight; add replicas or let clients wait as Retry-After says. "
            "503: no replica is ready.",
            queries=(
                Query(
                    expr=f"sum by (status) (rate(tunesmith_http_requests_total{ASKING}[$__rate_interval]))",
                    legend="{{status}}",
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Tokens generated",
            description="By the replicas, per second, by model.",
            queries=(
                Query(
                    expr=f"sum by (model) (rate(tunesmith_generated_tokens_total{OF}[$__rate_interval]))",
                    legend="{{model}}",
                ),
            ),
            unit="suffix: tok/s",
            stacked=True,
        ),
        Panel(
            title="Tokens of prompts",
            description="Read by the replicas, per second, by model.",
            queries=(
                Query(
                    expr=f"sum by (model) (rate(tunesmith_prompt_tokens_total{OF}[$__rate_interval]))",
                    legend="{{model}}",
                ),
            ),
            unit="suffix: tok/s",
            stacked=True,
        ),
        Panel(
            title="Tokens passed on",
            description="By the gateways to clients, per second. Less than generated: bulk generation, or clients "
            "that leave.",
            queries=(
                Query(
                    expr=f"sum by (model) (rate(tunesmith_answered_tokens_total{OF}[$__rate_interval]))",
                    legend="{{model}}",
                ),
            ),
            unit="suffix: tok/s",
            width=12,
            stacked=True,
        ),
        Panel(
            title="Time to the end of an answer",
            description="From the request to the last byte, streams included.",
            queries=quantiles("tunesmith_http_request_duration_seconds", where=ASKING),
            unit="s",
            width=12,
            lowest=0,
        ),
    ),
)

REPLICAS = Row(
    title="Replicas",
    panels=(
        Panel(
            title="Replicas by state",
            description="Starting for long or failed: GET /v1/deployments has the reason and the engine's last lines.",
            queries=(Query(expr="sum by (status) (tunesmith_replicas)", legend="{{status}}"),),
            width=12,
            lowest=0,
            stacked=True,
        ),
        Panel(
            title="GPU memory in use",
            description="Share of each GPU's memory; vLLM takes what gpu_memory_utilization allows at its start.",
            queries=(
                Query(
                    expr="max by (device) (tunesmith_gpu_memory_used_bytes)"
                    " / max by (device) (tunesmith_gpu_memory_size_bytes)",
                    legend="{{device}}",
                ),
            ),
            unit="percentunit",
            width=12,
            lowest=0,
            highest=1,
        ),
    ),
)

BOARD = Board(
    uid="tunesmith-inference",
    title="Tunesmith / Inference",
    description="Are answers fast, and is there room for more of them?",
    rows=(ANSWERS, LOAD, REPLICAS),
    choices=(
        Choice(name="model", label="Model", query="label_values(tunesmith_time_to_first_token_seconds_count, model)"),
    ),
)
