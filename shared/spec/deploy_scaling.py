"""How many replicas a deployment has, on which devices, and how a change of its spec comes to them."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param
from shared.rules import rule
from shared.tongues import Text


@dataclass(frozen=True, kw_only=True)
class Scaling:
    min_replicas: int | None = param(
        None,
        "Fewest replicas while it is asked, where their number follows the load; 0 says that it may go to none, after "
        "idle_timeout_seconds. Left out: 1.",
        type=int, minimum=0, maximum=64, since=5, source="Ray",
    )  # fmt: skip
    max_replicas: int | None = param(
        None,
        "Most replicas. Given, their number follows the load, and `replicas` is how many there are at first; left out, "
        "there are as many as `replicas` says.",
        type=int, minimum=1, maximum=64, since=5, source="Ray",
    )  # fmt: skip
    target_ongoing_requests: int = param(
        16,
        "Requests at once that are meant for one replica, where their number follows the load.",
        minimum=1, maximum=65_536, since=5, source="Ray",
        advice="As many as still answer quickly: a third to a half of what the replica takes at once.",
    )  # fmt: skip
    upscale_delay_seconds: float = param(
        30.0,
        "For how long there must be more requests than are meant for the replicas until one is started.",
        minimum=0.0, maximum=86_400.0, unit="seconds", since=5, source="Ray",
    )  # fmt: skip
    downscale_delay_seconds: float = param(
        300.0,
        "For how long fewer replicas must have been enough until one is stopped.",
        minimum=0.0, maximum=86_400.0, unit="seconds", since=5, source="Ray",
        advice="Several times what a replica takes to start.",
    )  # fmt: skip
    idle_timeout_seconds: float | None = param(
        None,
        "Without a request for so long all replicas are stopped; the next request starts them again. Left out: never.",
        type=float, minimum=1.0, maximum=31_536_000.0, unit="seconds", since=5, source="ours",
    )  # fmt: skip
    update_order: str = param(
        "start-first",
        "What comes first when the spec changes: the new replica, beside the old one until it is ready, so that no "
        "request fails; or the end of the old one, where no device is free for both.",
        choices=("start-first", "stop-first"), since=5, source="Docker",
    )  # fmt: skip
    gpus: list[str] = param(
        [],
        "UUIDs of the GPUs on which its replicas may run; how many each takes is tensor_parallel_size. Left out: any.",
        since=5, source="ours",
    )  # fmt: skip

    @rule("min_replicas")
    def fewest_is_not_above_most(self) -> str | None:
        if self.min_replicas is None or self.max_replicas is None or self.min_replicas <= self.max_replicas:
            return None
        return Text("is {low}, above max_replicas {high}", low=self.min_replicas, high=self.max_replicas)

    @rule("min_replicas")
    def fewest_needs_most(self) -> str | None:
        if not self.min_replicas or self.max_replicas is not None:
            return None
        return Text("is given without max_replicas: say that too, or only `replicas`")

    @rule("min_replicas")
    def none_needs_a_time(self) -> str | None:
        if self.min_replicas != 0 or self.idle_timeout_seconds is not None:
            return None
        return Text("is 0: say after how long without a request (idle_timeout_seconds)")

    @rule("idle_timeout_seconds")
    def nothing_is_idle_that_shall_run(self) -> str | None:
        if self.idle_timeout_seconds is None or not self.min_replicas:
            return None
        return Text("has no effect beside min_replicas {low}: say 0 there, or leave one out", low=self.min_replicas)
