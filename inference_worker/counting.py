"""Metrics of an inference worker: tokens by model, replicas and what their engines do. vLLM counts, here it is only
added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from inference_worker.engine import Numbers
from shared.metrics.counted import Metrics
from shared.metrics.read import gauge

#: Told also when no replica is in them, so that a panel shows 0 and not a gap.
STATUSES = ("starting", "ready", "failed", "stopping")
#: In which its engine is asked for its numbers.
SERVING = ("ready", "stopping")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A replica as it is now."""

    status: str
    model: str
    replica_id: str
    #: As of the last look at its engine.
    numbers: Numbers


class Counts:
    """Adds what each engine counted since it was last asked: theirs start at 0 with every start."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics

    def add(self, model: str, *, before: Numbers, after: Numbers) -> None:
        counters = {
            self._metrics.generated_tokens: after.generated_tokens - before.generated_tokens,
            self._metrics.prompt_tokens: after.prompt_tokens - before.prompt_tokens,
            self._metrics.prefix_cache_queries: after.prefix_cache_queries - before.prefix_cache_queries,
            self._metrics.prefix_cache_hits: after.prefix_cache_hits - before.prefix_cache_hits,
            self._metrics.preemptions: after.preemptions - before.preemptions,
        }
        for counter, more in counters.items():
            counter.labels(model).inc(max(0.0, more))

    def started(self, model: str, seconds: float) -> None:
        self._metrics.replica_start_duration.labels(model).observe(seconds)
        self._metrics.replica_failures.labels(model)  # there from now on: the first failure is an increase

    def failed(self, model: str) -> None:
        self._metrics.replica_failures.labels(model).inc()


class ReplicaCollector(Collector):
    """The replicas that this worker holds, at each scrape."""

    def __init__(self, standings: Callable[[], Iterable[Standing]]):
        self._standings = standings

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        held = list(self._standings())
        counts = Counter(one.status for one in held)
        yield from gauge("replicas", (((status,), counts[status]) for status in STATUSES))
        serving = [((one.model, one.replica_id), one.numbers) for one in held if one.status in SERVING]
        yield from gauge("replica_requests_running", ((who, numbers.num_running) for who, numbers in serving))
        yield from gauge("replica_requests_waiting", ((who, numbers.num_waiting) for who, numbers in serving))
        told = ((who, numbers.kv_cache_usage) for who, numbers in serving)
        yield from gauge("replica_kv_cache_usage_ratio", ((who, share) for who, share in told if share is not None))
