"""Keys are remembered for a moment, and none that opens nothing; those in use are read before they are old."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gateway.keyring import MOST, REMEMBER_SECONDS, USED_SECONDS, Keyring
from shared.records import ApiKey

KEY = ApiKey(
    id="key-1", project_id="proj-1", name="laptop", role="user", prefix="ts-a", created_at=datetime.now(UTC)
)  # fmt: skip


@dataclass
class Ledger:
    known: dict[str, ApiKey] = field(default_factory=lambda: {"ts-a": KEY})
    reads: list[str] = field(default_factory=list)
    now: float = 0.0

    def ring(self) -> Keyring:
        return Keyring(self.read, self.valid, clock=lambda: self.now)

    def read(self, secret: str) -> ApiKey | None:
        self.reads.append(secret)
        return self.known.get(secret)

    def valid(self, ids: Collection[str]) -> dict[str, ApiKey]:
        return {key.id: key for key in self.known.values() if key.id in ids}


def test_a_key_is_read_once_a_second_and_a_revoked_one_opens_nothing_after_that() -> None:
    ledger = Ledger()
    ring = ledger.ring()
    assert [ring.authenticate("ts-a") for _ in range(3)] == [KEY] * 3 and ledger.reads == ["ts-a"]
    assert [ring.authenticate("ts-b") for _ in range(2)] == [None] * 2 and ledger.reads == ["ts-a", "ts-b", "ts-b"]
    ledger.known.clear()
    ledger.now += REMEMBER_SECONDS
    assert ring.authenticate("ts-a") is None


def test_no_request_waits_for_the_ledger_while_a_key_is_used_and_a_revoked_one_is_seen_as_soon() -> None:
    ledger = Ledger()
    ring = ledger.ring()
    for _ in range(4):
        assert ring.authenticate("ts-a") == KEY
        ledger.now += 0.9 * REMEMBER_SECONDS
        assert ring.freshen()
    assert ledger.reads == ["ts-a"]
    ledger.known.clear()
    assert not ring.freshen() and ring.authenticate("ts-a") is None


def test_a_key_that_nobody_uses_is_not_looked_for_for_ever() -> None:
    ledger = Ledger()
    ring = ledger.ring()
    ring.authenticate("ts-a")
    ledger.now += USED_SECONDS
    assert not ring.freshen()
    assert ring.authenticate("ts-a") == KEY and ledger.reads == ["ts-a"] * 2


def test_no_more_keys_are_remembered_than_there_is_room_for() -> None:
    ledger = Ledger(known={f"ts-{number}": KEY for number in range(MOST + 1)})
    ring = ledger.ring()
    for number in range(MOST + 1):
        ring.authenticate(f"ts-{number}")
    ring.authenticate("ts-0")
    assert ledger.reads.count("ts-0") == 2
