"""How many requests may be in flight at a deployment, and how long they wait: rules of the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param


@dataclass(frozen=True, kw_only=True)
class DeployQueue:
    max_concurrent_requests: int | None = param(
        None,
        "Requests in flight at once, those that wait for a replica among them; a further one is answered with 429 and "
        "Retry-After. Left out: twice what its ready replicas answer at once (`max_num_seqs`).",
        type=int,
        minimum=1,
        maximum=1_000_000,
        source="ours",
        since=5,
    )
    request_timeout_seconds: float = param(
        600.0,
        "Longest silence of a replica: until the first token, between two, or until an answer that is not streamed.",
        minimum=1.0,
        maximum=86_400.0,
        unit="s",
        source="ours",
        since=5,
    )
    wake_timeout_seconds: float = param(
        120.0,
        "How long a request is held while the deployment wakes up from its rest, or changes its version; then it is "
        "answered with 503 and Retry-After.",
        minimum=0.0,
        maximum=3_600.0,
        unit="s",
        source="ours",
        since=5,
    )
