"""How many requests may be in flight, when to send one again, and which replica gets what begins alike."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from gateway.congestion import Congestion, Limits, Overloaded, limits
from gateway.replicas import SLACK, Balancer, beginning
from gateway.wakeups import TELL_SECONDS, Asked
from shared.routing import Endpoint
from shared.spec.deploy_queue import DeployQueue


def at(id: str, load: float = 0.0) -> Endpoint:
    return Endpoint(id=id, url=f"http://{id}", api_key=None, served_name="m", load=load)


def test_as_many_may_be_in_flight_as_the_spec_says_and_left_out_twice_what_is_answered_at_once() -> None:
    said = Limits(queue=DeployQueue(max_concurrent_requests=3))
    assert said.most(5) == 3
    assert limits({"max_num_seqs": 8}).most(num_replicas=2) == 32
    # Stored before the parameters came.
    assert limits({}).queue == DeployQueue()


def test_one_too_many_is_refused_until_another_has_left() -> None:
    congestion, few = Congestion(), Limits(queue=DeployQueue(max_concurrent_requests=2))
    for _ in range(2):
        congestion.enter("dep", few, [at("a")], "m")
    with pytest.raises(Overloaded):
        congestion.enter("dep", few, [at("a")], "m")
    congestion.enter("other", few, [at("b")], "m")
    congestion.leave("dep", answered=True)
    congestion.enter("dep", few, [at("a")], "m")
    assert congestion.num_in_flight("dep") == 2


def test_what_other_gateways_sent_counts_as_far_as_replicas_told_of_it() -> None:
    few = Limits(queue=DeployQueue(max_concurrent_requests=10))
    with pytest.raises(Overloaded):
        Congestion().enter("dep", few, [at("a", load=6), at("b", load=4)], "m")


def test_when_to_come_again_follows_the_pace_of_the_last_answers() -> None:
    now = [0.0]
    congestion = Congestion(clock=lambda: now[0])
    few = Limits(queue=DeployQueue(max_concurrent_requests=20), max_num_seqs=4)
    for _ in range(20):
        congestion.enter("dep", few, [at("a")], "m")
    for _ in range(10):  # one every two seconds
        now[0] += 2.0
        congestion.leave("dep", answered=True)
        congestion.enter("dep", few, [at("a")], "m")

    with pytest.raises(Overloaded) as caught:
        congestion.enter("dep", few, [at("a")], "m")
    # 16 wait beyond the 4 that are being answered.
    assert caught.value.retry_after_seconds == pytest.approx(2 * 16, abs=4)


def test_what_begins_alike_goes_to_one_replica_while_that_is_hardly_busier() -> None:
    balancer, there = Balancer(), [at("a"), at("b"), at("c")]
    chosen = balancer.take(there, prefix="system prompt")
    assert chosen is not None
    for _ in range(int(SLACK)):
        assert balancer.take(there, prefix="system prompt") is chosen
    # By now it has three in flight and the others none.
    assert balancer.take(there, prefix="system prompt") is not chosen


def test_different_beginnings_are_spread_over_all_replicas() -> None:
    there = [at("a"), at("b"), at("c")]
    count: Counter[str] = Counter()
    for number in range(300):
        chosen = Balancer().take(there, prefix=f"conversation {number}")
        count[chosen.id if chosen else ""] += 1
    assert min(count[one.id] for one in there) > 60


def test_the_beginning_of_a_conversation_stays_the_same_from_turn_to_turn() -> None:
    messages = [{"role": "system", "content": "x" * 1000}, {"role": "user", "content": "hello"}]
    later = [*messages, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "and now?"}]
    assert beginning({"messages": messages}) == beginning({"messages": later}) != ""
    assert beginning({"messages": messages[1:]}) == ""
    assert beginning({"prompt": "y" * 600}) != ""


def test_the_ledger_is_told_who_is_asked_once_in_a_while_and_no_failure_of_it_reaches_the_request() -> None:
    now, heard = [0.0], threading.Event()
    told: list[str] = []

    def tell(project_id: str, deployment_id: str) -> None:
        told.append(deployment_id)
        if len(told) == 3:
            heard.set()
        raise OSError("the ledger is away")

    asked = Asked(tell, clock=lambda: now[0])
    for _ in range(5):
        asked("p", "dep-1")
    asked("p", "dep-2")
    now[0] += TELL_SECONDS
    asked("p", "dep-1")
    assert heard.wait(5)
    assert told == ["dep-1", "dep-2", "dep-1"]
