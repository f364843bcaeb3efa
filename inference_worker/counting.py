"""Metrics of an inference worker: tokens by model, replicas by status. vLLM counts, here it is only added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from inference_worker.engine import Numbers
from shared.telemetry import Metrics

#: Told also when no replica is in them, so that a panel shows 0 and not a gap.
STATUSES = ("starting", "ready", "failed", "stopping")


class Tokens:
    """Adds what each vLLM process counted since it was last asked: theirs start at 0 with every start."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics

    def add(self, model: str, *, before: Numbers, after: Numbers) -> None:
        self._metrics.generated_tokens.labels(model).inc(max(0.0, after.generated_tokens - before.generated_tokens))
        self._metrics.prompt_tokens.labels(model).inc(max(0.0, after.prompt_tokens - before.prompt_tokens))


class ReplicaCollector(Collector):
    """The replicas that this worker holds, by status, counted at each scrape."""

    def __init__(self, statuses: Callable[[], Iterable[str]]):
        self._statuses = statuses

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        replicas = GaugeMetricFamily("tunesmith_replicas", "Replicas of this worker by status.", labels=["status"])
        counts = Counter(self._statuses())
        for status in STATUSES:
            replicas.add_metric([status], counts[status])
        return (replicas,)
