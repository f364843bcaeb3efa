"""docs/metrics.md: every metric with what it means. `python -m shared.metrics.reference`"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby

from shared.metrics.declared import ALL, MACHINES, TABLE, WORKERS, Declared

_HEAD = """\
# Metrics

What the services tell Prometheus. The gateway has `/metrics` among its routes and takes a key of the first project;
every other service has a port of its own for them (`TUNESMITH_METRICS_PORT`, 9100 in the containers, the ports after
the gateway's under `tunesmith up`). `deploy/prometheus` has the scrape configuration, recording rules and alerts, and
the alerts' sections are in [runbook.md](runbook.md).

Names end in their unit: seconds, bytes, ratios from 0 to 1; what is counted up ends in `_total`. A histogram has
`_bucket`, `_sum` and `_count`. Besides these there are `process_*` of every service: its memory, open files, start.

Labels are few. `job_id` lives as long as its job runs, `replica_id` as long as its replica; users' names are in no
label but `model`, and the gateway leaves out what names somebody's jobs, models or machines where it is asked with a
key of another project than the first. While the ledger is away, it answers keys that read it within the last hour.

This page is made from the declarations (`make docs`).
"""


def page() -> str:
    parts = [_HEAD]
    for about, metrics in groupby(TABLE.values(), key=lambda one: one.about):
        parts.append("\n".join(_section(about, list(metrics))))
    return "\n".join(parts)


def _section(about: str, metrics: list[Declared]) -> Iterator[str]:
    yield f"## {about}\n"
    yield f"Told by {_services(metrics[0].told_by)}.\n"
    yield "| Metric | Type | Labels | Meaning |"
    yield "|---|---|---|---|"
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        absent = f" None {metric.absent}." if metric.absent else ""
        yield f"| `{metric.name}` | {metric.type} | {labels} | {metric.doc}{absent} |"
    yield ""


def _services(told_by: tuple[str, ...]) -> str:
    if told_by == ALL:
        return "all"
    names = {MACHINES: "every worker", WORKERS: "the workers that run jobs"}
    rest = tuple(name for name in told_by if name not in MACHINES)
    workers = tuple(name for name in told_by if name in MACHINES)
    told = [*rest, *([names.get(workers) or ", ".join(workers)] if workers else [])]
    return " and ".join(told)


if __name__ == "__main__":
    sys.stdout.write(page())
