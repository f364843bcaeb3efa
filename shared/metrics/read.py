"""What is read at each scrape makes its families here: by the name of its declaration, like what is counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from shared.metrics.declared import TABLE

#: The values of a gauge's labels, in their order, and the value.
Samples = Iterable[tuple[tuple[str, ...], float]]


def gauge(name: str, samples: Samples) -> Iterator[Metric]:
    """The family of this gauge; none where there are no samples."""
    declared = TABLE[f"tunesmith_{name}"]
    family = GaugeMetricFamily(declared.name, declared.doc, labels=declared.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    if family.samples:
        yield family


def single(name: str, value: float) -> Iterator[Metric]:
    return gauge(name, [((), value)])
