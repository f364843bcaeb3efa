"""The other nodes of an attempt, as their leader sees them: are they ready, did one fail, are all gone?

For an attempt of one worker there are none, and nothing here asks the ledger. Starts and ends no process: each node's
worker does that (shared/membership.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from shared import failures, nodes
from shared.errors import LeaseLost
from shared.lease import LEDGER_AWAY, Lease
from shared.member import HeldMember, Member
from shared.nodes import Node
from shared.store.members import ENDING, LIVE, STARTED
from shared.sweep import Watch
from shared.work import Run

log = logging.getLogger(__name__)

#: What a node says of another's end; it counts only when none says more.
VAGUE = (failures.PEER, failures.UNKNOWN)


class Lost(Exception):
    """A node is gone, and with it the attempt; the job may try again."""


class Crew:
    def __init__(self, run: Run, lease: Lease):
        self._run, self._lease = run, lease
        self._members: list[Member] = []
        self._beats = Watch()
        self._is_dismissed = False

    @property
    def is_alone(self) -> bool:
        return self._run.node.count == 1

    def look(self) -> None:
        """How the others are by now; as before where the ledger is away."""
        if self.is_alone:
            return
        with suppress(*LEDGER_AWAY):
            self._members = self._run.store.members.of(self._run.job.id, self._run.attempt)
            self._strike_off()

    @property
    def others(self) -> list[Member]:
        return [member for member in self._members if member.node_rank]

    @property
    def is_broken(self) -> bool:
        """Without all of its nodes an attempt cannot go on. One that ended well has done its part."""
        return any(member.status in ("failed", "lost") for member in self.others)

    @property
    def is_leaving(self) -> bool:
        """Whether a node's worker has to end: what is done is saved, and the job goes back into the queue."""
        return any(member.status == "leaving" for member in self.others)

    @property
    def is_ready(self) -> bool:
        return self.is_alone or (bool(self.others) and not self.late)

    @property
    def late(self) -> list[str]:
        """Workers that are not ready to start."""
        return [member.worker_id for member in self.others if member.status != "ready"]

    @property
    def is_gone(self) -> bool:
        """Whether nothing of the other nodes runs any more."""
        return self.is_alone or (bool(self.others) and not any(member.status in LIVE for member in self.others))

    def start(self) -> Node:
        """Tell the others where to meet. Nodes at one address are one machine, and need no network."""
        own = self._members[0].address
        is_one_machine = len({member.address for member in self._members}) == 1
        address, port = nodes.LOOPBACK if is_one_machine else own, nodes.free_port()
        self._lead(STARTED, port, address)
        interface = "" if is_one_machine else nodes.interface(self._run.settings, own)
        return Node(count=self._run.node.count, address=address, port=port, interface=interface)

    def dismiss(self) -> None:
        """Have all nodes stop; `is_gone` tells when they have. Raises LeaseLost"""
        if not self.is_alone and not self._is_dismissed:
            self._lead(ENDING)
            self._is_dismissed = True

    def verdict(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """What ended the attempt: the error of the first node that knows a cause. Raises Lost when none does and one
        is gone."""
        told = [dict(own), *(_of_node(member) for member in self.others if member.status == "failed")]
        known = [error for error in told if error.get("code") not in VAGUE]
        lost = next((member for member in self.others if member.status == "lost"), None)
        if lost is not None and not known:
            raise Lost(_of_node(lost)["message"])
        return [*known, *told][0]

    def _lead(self, status: str, port: int | None = None, address: str | None = None) -> None:
        store, job_id, attempt = self._run.store, self._run.job.id, self._run.attempt
        self._lease.insist(lambda: store.members.lead(job_id, attempt, status, port, address))

    def _strike_off(self) -> None:
        """A node that was silent for a lease is lost. The sweep says so, too, but may be away itself."""
        live = [member for member in self.others if member.status in LIVE]
        ages = self._beats.ages_seconds((member.node_rank, member.beat) for member in live)
        for member in live:
            if (age := ages[member.node_rank]) >= self._run.settings.lease_seconds:
                held = HeldMember(member.job_id, member.attempt, member.node_rank, member.beat, member.worker_id)
                with suppress(LeaseLost):  # it moved in the meantime, or the sweep was faster
                    self._run.store.members.lose(held, f"worker {member.worker_id} was silent for {age:.0f} s")


def _of_node(member: Member) -> dict[str, Any]:
    error = dict(member.error or {})
    return {**error, "message": f"node {member.node_rank} ({member.worker_id}): {error.get('message')}"}
