"""Records of attempts that several workers make together: one row for each node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, kw_only=True)
class Member:
    """One node of an attempt that several workers share."""

    job_id: str
    attempt: int
    #: 0 leads.
    node_rank: int
    worker_id: str
    #: Where the other nodes reach it.
    address: str
    #: Of node 0, once all are ready: where the processes meet.
    port: int | None
    beat: int
    #: Node 0: leading, started or ending. Others: reserved, joined, ready, running, leaving; ended, failed or lost.
    status: str
    #: {"code", "message", "field"} of one that failed or was lost.
    error: dict[str, Any] | None


class Standing(NamedTuple):
    """How an attempt stands, as a node hears it with each beat."""

    #: Moves as long as the leader lives.
    leader_beat: int
    #: Node 0's status.
    status: str
    address: str
    port: int | None


class HeldMember(NamedTuple):
    """What the sweep watches of a node."""

    job_id: str
    attempt: int
    node_rank: int
    beat: int
    worker_id: str
