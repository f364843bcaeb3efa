"""Panels that stand on several dashboards."""

from __future__ import annotations

from deploy.grafana.panels.board import Panel, Query

#: The platform's own targets, by the names of their scrape jobs here and in a cluster.
OURS = 'job=~"gateway|beat|workers"'


def gpu_memory(width: int = 8) -> Panel:
    return Panel(
        title="GPU memory in use",
        description="Share of each GPU's memory. Near 1 the next larger batch fails; a replica of vLLM takes what its "
        "gpu_memory_utilization allows at once, and stays there.",
        queries=(
            Query(
                expr="max by (device) (tunesmith_gpu_memory_used_bytes)"
                " / max by (device) (tunesmith_gpu_memory_size_bytes)",
                legend="{{device}}",
            ),
        ),
        unit="percentunit",
        width=width,
        lowest=0,
        highest=1,
        warn=0.9,
        bad=0.97,
    )


def gpu_utilization(width: int = 8) -> Panel:
    return Panel(
        title="GPU utilisation",
        description="Share of the time in which a kernel ran. Low in a training: data loading, small micro-batches, "
        "waiting for other ranks. MFU says how well the kernels use the arithmetic.",
        queries=(Query(expr="max by (device) (tunesmith_gpu_utilization_ratio)", legend="{{device}}"),),
        unit="percentunit",
        width=width,
        lowest=0,
        highest=1,
    )


def devices(width: int = 8) -> Panel:
    return Panel(
        title="Devices held and idle",
        description="Of the hosts of living workers. Where some are idle while jobs wait, see what the jobs require.",
        queries=(
            Query(
                expr="sum by (type, state) (max by (host, type, state) (tunesmith_devices))",
                legend="{{type}} {{state}}",
            ),
        ),
        width=width,
        stacked=True,
        lowest=0,
        decimals=0,
    )


def replicas(width: int = 8) -> Panel:
    return Panel(
        title="Replicas by state",
        description="Starting for long or failed: GET /v1/deployments has the reason and the engine's last lines.",
        queries=(Query(expr="sum by (status) (tunesmith_replicas)", legend="{{status}}"),),
        width=width,
        lowest=0,
        stacked=True,
        decimals=0,
    )
