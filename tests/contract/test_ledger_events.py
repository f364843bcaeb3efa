"""Reading events: by number, newest first, and for a tailer of many jobs."""

from __future__ import annotations

from collections.abc import Callable

from shared.job import Job
from shared.records import NewEvent
from shared.store import Store
from shared.store.moves import MAX_MESSAGE_CHARACTERS

NewJob = Callable[..., Job]


def say(store: Store, job: Job, num: int) -> None:
    events = [NewEvent(type="message", message=f"{number}") for number in range(num)]
    store.attempts.renew(job.id, 1, events=events)


def test_events_go_on_after_the_last_that_was_seen(store: Store, project: str, running: NewJob) -> None:
    job = running()
    say(store, job, 5)

    def numbers(**given: int | bool) -> list[int]:
        return [event.number for event in store.events.list(project, job.id, **given)]  # type: ignore[arg-type]

    assert numbers() == [1, 2, 3, 4, 5, 6, 7]
    assert numbers(after=5) == [6, 7]
    assert numbers(after=7) == numbers(after=2**70) == []
    assert numbers(after=-1) == [1, 2, 3, 4, 5, 6, 7]
    assert numbers(limit=2) == [1, 2]
    assert numbers(newest_first=True, limit=3) == [7, 6, 5]
    assert numbers(newest_first=True, after=5, limit=3) == [4, 3, 2]
    assert numbers(newest_first=True, after=1) == []


def test_a_tailer_gets_what_is_new_of_each_of_its_jobs(store: Store, running: NewJob) -> None:
    first, second, quiet = running(), running(), running()
    say(store, first, 3)
    say(store, second, 1)

    events = store.events.since({first.id: 3, second.id: 0, quiet.id: 2, "ftjob-unknown": 0})

    assert [event.number for event in events if event.job_id == first.id] == [4, 5]
    assert [event.number for event in events if event.job_id == second.id] == [1, 2, 3]
    assert {event.job_id for event in events} == {first.id, second.id}
    assert store.events.since({}) == []


def test_a_tailer_catches_up_in_steps(store: Store, running: NewJob) -> None:
    job = running()
    say(store, job, 10)

    first = store.events.since({job.id: 0}, limit=8)
    rest = store.events.since({job.id: first[-1].number}, limit=8)

    assert [event.number for event in first + rest] == list(range(1, 13))


def test_an_endless_message_is_cut(store: Store, project: str, running: NewJob) -> None:
    job = running()

    store.attempts.renew(job.id, 1, events=[NewEvent(type="message", message="x" * (MAX_MESSAGE_CHARACTERS + 1))])

    assert len(store.events.list(project, job.id)[-1].message) == MAX_MESSAGE_CHARACTERS
