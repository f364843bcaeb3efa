"""Are answers fast, and is there room for more of them?"""

from __future__ import annotations

from deploy.grafana.panels import shown
from deploy.grafana.panels.board import Board, Choice, Panel, Query, Row, quantiles

OF = '{model=~"$model"}'


def by_model(counter: str) -> tuple[Query, ...]:
    return (Query(expr=f"sum by (model) (rate({counter}{OF}[$__rate_interval]))", legend="{{model}}"),)


ANSWERS = Row(
    title="Are answers fast?",
    panels=(
        Panel(
            title="Time to first token",
            description="From the request at the gateway to its first token; of streams. Grows with queueing before "
            "all else: see what waits in the engines.",
            queries=quantiles("tunesmith_time_to_first_token_seconds", where=OF),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Time between tokens",
            description="Mean of each answer; of streams. Grows with what the engine answers at once.",
            queries=quantiles("tunesmith_time_per_output_token_seconds", where=OF),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Time to the end of an answer",
            description="From the request to its last token.",
            queries=quantiles("tunesmith_answer_duration_seconds", where=OF),
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
            width=12,
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
            width=12,
        ),
    ),
)

LOAD = Row(
    title="How much is asked?",
    panels=(
        Panel(
            title="Answers by outcome",
            description="refused: 429, too many in flight; unavailable: no replica is ready; broken: a stream that "
            "ended early. The gateway's log names each by its request_id.",
            queries=(
                Query(
                    expr=f"sum by (outcome) (rate(tunesmith_answers_total{OF}[$__rate_interval]))",
                    legend="{{outcome}}",
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Requests in flight",
            description="Begun and not answered to their end, at the gateways.",
            queries=(Query(expr=f"sum by (model) (tunesmith_answers_in_progress{OF})", legend="{{model}}"),),
            stacked=True,
            lowest=0,
        ),
        Panel(
            title="Tokens generated",
            description="By the replicas, per second, by model.",
            queries=by_model("tunesmith_generated_tokens_total"),
            unit="suffix: tok/s",
            stacked=True,
        ),
        Panel(
            title="Tokens of prompts",
            description="Read by the replicas, per second, by model.",
            queries=by_model("tunesmith_prompt_tokens_total"),
            unit="suffix: tok/s",
            stacked=True,
        ),
        Panel(
            title="Tokens passed on",
            description="By the gateways to clients, per second. Less than generated: bulk generation, or clients "
            "that leave.",
            queries=by_model("tunesmith_answered_tokens_total"),
            unit="suffix: tok/s",
            stacked=True,
        ),
        Panel(
            title="Streams by their way",
            description="short: by the gateway's loop alone, with the least before the first token; ordinary: long "
            "bodies, tools, formats, presets, and what a gateway does not know yet. Of all models.",
            queries=(Query(expr="sum by (way) (rate(tunesmith_streams_total[$__rate_interval]))", legend="{{way}}"),),
            unit="reqps",
            stacked=True,
        ),
    ),
)

ENGINES = Row(
    title="Is there room in the engines?",
    panels=(
        Panel(
            title="Requests that run and wait",
            description="In the engines. Waiting for long: another replica, or less max_model_len for more cache.",
            queries=(
                Query(expr=f"sum by (model) (tunesmith_replica_requests_running{OF})", legend="{{model}} running"),
                Query(expr=f"sum by (model) (tunesmith_replica_requests_waiting{OF})", legend="{{model}} waiting"),
            ),
            stacked=True,
            lowest=0,
        ),
        Panel(
            title="KV cache in use",
            description="Of each replica. Near 1 requests wait or lose their cache (preemptions).",
            queries=(
                Query(
                    expr=f"max by (model, replica_id) (tunesmith_replica_kv_cache_usage_ratio{OF})",
                    legend="{{model}} {{replica_id}}",
                ),
            ),
            unit="percentunit",
            lowest=0,
            highest=1,
            warn=0.8,
            bad=0.95,
        ),
        Panel(
            title="Preemptions",
            description="Requests per second whose cache was taken for others: they are computed again.",
            queries=by_model("tunesmith_preemptions_total"),
            unit="reqps",
            lowest=0,
        ),
        Panel(
            title="Prompts found in the prefix cache",
            description="Share of the prompts' tokens that need not be computed again. Requests go to the replica that "
            "has read their beginning.",
            queries=(
                Query(
                    expr=f"sum by (model) (rate(tunesmith_prefix_cache_hits_total{OF}[$__rate_interval]))"
                    f" / sum by (model) (rate(tunesmith_prefix_cache_queries_total{OF}[$__rate_interval]))",
                    legend="{{model}}",
                ),
            ),
            unit="percentunit",
            width=24,
            lowest=0,
            highest=1,
        ),
    ),
)

REPLICAS = Row(
    title="Replicas",
    panels=(
        shown.replicas(),
        Panel(
            title="Replicas ready and wanted",
            description="Of each deployment, as the ledger has them.",
            queries=(
                Query(
                    expr=f"max by (model) (tunesmith_deployment_replicas_ready{OF})",
                    legend="{{model}} ready",
                ),
                Query(
                    expr=f"max by (model) (tunesmith_deployment_replicas_wanted{OF})",
                    legend="{{model}} wanted",
                ),
            ),
            lowest=0,
            decimals=0,
        ),
        Panel(
            title="Starts of replicas",
            description="From the files to the first answer, since the inference workers started; 95 of a hundred took "
            "less.",
            queries=(
                Query(
                    expr="histogram_quantile(0.95, sum by (le, model) "
                    f"(tunesmith_replica_start_duration_seconds_bucket{OF}))",
                    legend="{{model}}",
                ),
            ),
            unit="s",
            lowest=0,
        ),
        Panel(
            title="Failures of replicas",
            description="Starts that failed and processes that ended unasked, in the last hour.",
            queries=(
                Query(expr=f"sum by (model) (increase(tunesmith_replica_failures_total{OF}[1h]))", legend="{{model}}"),
            ),
            lowest=0,
            warn=1,
            bad=3,
        ),
        shown.gpu_utilization(),
        shown.gpu_memory(),
    ),
)

BOARD = Board(
    uid="tunesmith-inference",
    title="Tunesmith / Inference",
    description="Are answers fast, and is there room for more of them?",
    rows=(ANSWERS, LOAD, ENGINES, REPLICAS),
    choices=(Choice(name="model", label="Model", query="label_values(tunesmith_answers_total, model)"),),
)
