"""Where an adapter is served: on the replicas of another deployment, or on replicas of its own."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param

#: Says that an adapter gets replicas of its own.
OWN = "own"


@dataclass(frozen=True, kw_only=True)
class Hosting:
    adapter_host: str | None = param(
        None,
        "Deployment on whose replicas an adapter is loaded: a name, or own for replicas of its own. Left out: one that "
        "serves its base and fits, else replicas of its own.",
        type=str,
        source="ours",
        since=5,
        advice="Leave it out: an adapter on replicas that run answers within seconds.",
    )
