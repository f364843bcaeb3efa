"""Keys are remembered for a moment, no longer, and none that opens nothing."""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.keyring import MOST, REMEMBER_SECONDS, Keyring
from shared.records import ApiKey

KEY = ApiKey(
    id="key-1", project_id="proj-1", name="laptop", role="user", prefix="ts-a", created_at=datetime.now(UTC)
)  # fmt: skip


def test_a_key_is_read_once_a_second_and_a_revoked_one_opens_nothing_after_that() -> None:
    now, reads, valid = [0.0], [], {"ts-a": KEY}
    ring = Keyring(lambda secret: reads.append(secret) or valid.get(secret), clock=lambda: now[0])  # type: ignore[func-returns-value]

    assert [ring.authenticate("ts-a") for _ in range(3)] == [KEY] * 3 and reads == ["ts-a"]
    assert [ring.authenticate("ts-b") for _ in range(2)] == [None] * 2 and reads == ["ts-a", "ts-b", "ts-b"]
    valid.clear()
    now[0] += REMEMBER_SECONDS
    assert ring.authenticate("ts-a") is None


def test_no_more_keys_are_remembered_than_there_is_room_for() -> None:
    reads: list[str] = []
    ring = Keyring(lambda secret: reads.append(secret) or KEY, clock=lambda: 0.0)  # type: ignore[func-returns-value]
    for number in range(MOST + 1):
        ring.authenticate(f"ts-{number}")
    ring.authenticate("ts-0")
    assert reads.count("ts-0") == 2
