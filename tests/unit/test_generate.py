"""The child of a generation job: which replica gets which row, what comes of the answers, what is kept. Without a
ledger, with real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from inference_worker.child.answers import ANSWERS, ERRORS, Answers
from inference_worker.child.dispatch import Dispatch
from inference_worker.child.generate import generate
from inference_worker.child.pace import Pace
from inference_worker.child.replicas import Replica, Target
from inference_worker.child.spool import Spool
from shared import schema
from shared.attempt import Attempt
from shared.bulk import COMPLETIONS, Row
from shared.errors import ChildFailed
from shared.spec import Drawing, GenerateSpec, Sampling
from tests.platform import wait_until
from tests.unit.test_bulk import write
from tests.unit.upstream import Upstream, closed_port, serving

SPEC = GenerateSpec(model="smol", dataset="d", sampling=Sampling(drawing=Drawing(max_new_tokens=5, temperature=0.5)))
ANSWER = {
    "model": "served",
    "choices": [{"text": "hi"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}},
}
OK = (200, json.dumps(ANSWER).encode())


def ready(id: str, url: str = "http://127.0.0.1:1", seats: int = 4) -> dict[str, Any]:
    return {"id": id, "url": url, "api_key": "k", "served_name": "served", "seats": seats}


def targets(*replicas: dict[str, Any], deployment_id: str = "dep", weight: float = 1.0) -> dict[str, Any]:
    return {"deployment_id": deployment_id, "weight": weight, "replicas": list(replicas)}


def attempt_in(folder: Path, dataset: Path, told: dict[str, Any], **run: Any) -> Attempt:
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True)
    given = {
        "job_id": "generate-1",
        "spec": schema.to_wire(SPEC),
        "scratch_dir": str(folder / "scratch"),
        "journal_dir": str(folder / "journal"),
        "dataset": {"path": str(dataset)},
    }
    (folder / "run.json").write_text(json.dumps(given | run))
    (folder / "replicas.json").write_text(json.dumps(told))
    return Attempt(folder)


def events(attempt: Attempt) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (attempt.folder / "events.jsonl").read_text().splitlines()]


def journal(attempt: Attempt, name: str = ANSWERS) -> list[dict[str, Any]]:
    return read(attempt.folder / "journal" / name)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ids(lines: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(line["custom_id"] for line in lines)


def prompts(path: Path, count: int) -> Path:
    return write(path, *({"custom_id": f"r{i:03}", "prompt": f"r{i:03}"} for i in range(count)))


def test_every_row_is_answered_once_though_a_replica_is_dead(tmp_path: Path) -> None:
    dataset = prompts(tmp_path / "rows.jsonl", 40)
    with serving(Upstream(body=OK[1])) as upstream:
        dead = ready("dead", f"http://127.0.0.1:{closed_port()}")
        attempt = attempt_in(tmp_path / "1", dataset, {"smol": [targets(dead, ready("a", upstream.url))]})
        generate(attempt)

    assert ids(journal(attempt)) == [f"r{i:03}" for i in range(40)] and len(upstream.requests) == 40
    assert json.loads(upstream.requests[0]["body"])["model"] == "served"
    called = {request["headers"]["X-Request-Id"] for request in upstream.requests}
    assert called == {f"generate-1-{line}" for line in range(1, 41)}
    assert {line["response"]["body"]["model"] for line in journal(attempt)} == {"smol"}
    outcome = events(attempt)[-1]
    counted = {"num_rows": 40, "num_failed": 0, "num_expired": 0, "prompt_tokens": 120, "completion_tokens": 80,
               "reasoning_tokens": 40}  # fmt: skip
    assert outcome["type"] == "done" and counted.items() <= outcome["data"].items()
    assert outcome["data"]["tokens_per_second"] == pytest.approx(80 / outcome["data"]["seconds"], rel=0.01)


def test_lines_of_earlier_attempts_are_not_asked_again_wherever_they_lie(tmp_path: Path) -> None:
    dataset = prompts(tmp_path / "rows.jsonl", 6)
    before = Answers(attempt_in(tmp_path / "1", dataset, {}))
    for i in range(3):
        before.add(row(f"r{i:03}"), 200, ANSWER)
    before.save()
    [checkpoint] = events(Attempt(tmp_path / "1"))
    before.add(row("r003"), 200, ANSWER)
    with (tmp_path / "1" / "journal" / ANSWERS).open("ab") as file:
        file.write(b'{"custom_id": "r004", "resp')  # a kill came in the middle
    assert checkpoint["data"]["step"] == 3

    with serving(Upstream(body=OK[1])) as upstream:
        places = {"published": [checkpoint["data"]["path"]], "journals": [str(tmp_path / "1" / "journal")]}
        attempt = attempt_in(tmp_path / "2", dataset, {"smol": [targets(ready("a", upstream.url))]}, **places)
        generate(attempt)

    assert sorted(json.loads(request["body"])["prompt"] for request in upstream.requests) == ["r004", "r005"]
    assert ids(journal(attempt)) == [f"r{i:03}" for i in range(6)]
    assert events(attempt)[-1]["data"]["completion_tokens"] == 12


def test_a_checkpoint_holds_what_came_since_the_last_one_and_what_only_this_machine_had(tmp_path: Path) -> None:
    first = Answers(attempt_in(tmp_path / "1", tmp_path, {}))
    first.add(row("a"), 200, ANSWER)
    second = Answers(attempt_in(tmp_path / "2", tmp_path, {}, journals=[str(tmp_path / "1" / "journal")]))
    second.save()
    second.add(row("b"), 200, ANSWER)
    second.add(row("c"), 400, {"error": {"message": "too long", "code": 400}})
    second.save()
    second.save()
    saved = [Path(event["data"]["path"]) for event in events(Attempt(tmp_path / "2"))]
    found = [[ids(read(folder / name)) for name in (ANSWERS, ERRORS)] for folder in saved]
    assert found == [[["a"], []], [["b"], ["c"]]]


def test_a_row_that_vllm_refuses_is_an_error_of_that_row(tmp_path: Path) -> None:
    dataset = write(tmp_path / "rows.jsonl", {"custom_id": "a", "prompt": "x"})
    refusal = {"error": {"message": "too long", "code": 400}}
    with serving(Upstream(status=400, body=json.dumps(refusal).encode())) as upstream:
        attempt = attempt_in(tmp_path / "1", dataset, {"smol": [targets(ready("a", upstream.url))]})
        with pytest.raises(ChildFailed, match="none of the 1 rows"):
            generate(attempt)
    [line] = journal(attempt, ERRORS)
    assert line["error"] == {"code": "400", "message": "too long"}
    assert (line["response"]["status_code"], line["response"]["body"]) == (400, refusal)
    assert journal(attempt) == []


@pytest.mark.parametrize(
    ("prompt", "code", "why"),
    [("x", "internal_error", "JSONDecodeError"), (["x", "y"], "invalid_spec", "there are 2: use max_tokens")],
)
def test_a_row_that_cannot_be_asked_is_its_own_error_and_holds_up_no_other(
    tmp_path: Path, prompt: str | list[str], code: str, why: str
) -> None:
    dataset = write(tmp_path / "rows.jsonl", {"custom_id": "a", "prompt": prompt},
                    {"custom_id": "b", "prompt": [5, 6]})  # fmt: skip
    with serving(Upstream(body=OK[1], answers={"/tokenize": (200, b"<html>")})) as upstream:
        limited = targets(ready("a", upstream.url)) | {"defaults": {"max_length": 9}}
        attempt = attempt_in(tmp_path / "1", dataset, {"smol": [limited]}, as_sent=True)
        generate(attempt)
    assert ids(journal(attempt)) == ["b"]
    [line] = journal(attempt, ERRORS)
    assert line["custom_id"] == "a" and line["error"]["code"] == code and why in line["error"]["message"]


def test_what_a_row_says_against_its_deployment_is_its_own_error(tmp_path: Path) -> None:
    stopped = {"custom_id": "a", "prompt": "x", "stop": ["."], "temperature": 0.2}
    dataset = write(tmp_path / "rows.jsonl", stopped, {"custom_id": "b", "prompt": "x"})
    beams = json.dumps(ANSWER | {"choices": [{"index": number, "text": "hi"} for number in range(3)]}).encode()
    with serving(Upstream(body=beams)) as upstream:
        served = targets(ready("a", upstream.url)) | {"defaults": {"num_beams": 3, "top_p": 0.5}}
        attempt = attempt_in(tmp_path / "1", dataset, {"smol": [served]}, as_sent=True)
        generate(attempt)
        heeding = targets(ready("a", upstream.url) | {"beams_heed": True}) | {"defaults": served["defaults"]}
        other = attempt_in(tmp_path / "2", dataset, {"smol": [heeding]}, as_sent=True)
        generate(other)
    [line] = journal(attempt, ERRORS)
    assert (line["custom_id"], line["response"]["status_code"], line["error"]["code"]) == ("a", 422, "invalid_spec")
    assert line["error"]["message"].startswith("stop is not heeded")
    assert (ids(journal(attempt)), ids(journal(other))) == (["b"], ["a", "b"])


def test_a_row_that_brings_replicas_down_takes_no_other_row_along(tmp_path: Path) -> None:
    dataset = prompts(tmp_path / "rows.jsonl", 30)
    ejected = []

    def reply(body: dict[str, Any]) -> tuple[int, bytes] | None:
        if body["prompt"] != "r007":
            time.sleep(0.01)
            return None if ejected and time.monotonic() - ejected[-1] < 0.05 else OK
        ejected.append(time.monotonic())
        return None

    with serving(Upstream(reply=reply)) as upstream:
        attempt = attempt_in(tmp_path / "1", dataset, {"smol": [targets(ready("a", upstream.url, seats=8))]})
        quickly(attempt)
    assert ids(journal(attempt)) == [f"r{i:03}" for i in range(30) if i != 7]
    [line] = journal(attempt, ERRORS)
    assert (line["custom_id"], line["error"]["code"], line["response"]) == ("r007", "upstream_lost", None)
    # Each connection is tried anew once: a kept one may have been closed for being idle.
    assert 3 <= len(ejected) <= 6


def quickly(attempt: Attempt) -> None:
    """As `generate`, with replicas left alone for no time."""
    path = attempt.folder / "replicas.json"
    stop = threading.Event()

    def keep_fresh() -> None:
        number = 0
        while not stop.wait(0.2):
            number += 1
            told = json.loads(path.read_text())
            for one in told["smol"][0]["replicas"]:
                one["id"] = f"a{number}"  # a restarted replica has another id
            (attempt.folder / "part").write_text(json.dumps(told))
            (attempt.folder / "part").replace(path)

    thread = threading.Thread(target=keep_fresh)
    thread.start()
    try:
        generate(attempt)
    finally:
        stop.set()
        thread.join()


def test_rows_whose_window_is_over_fail_and_the_others_stay(tmp_path: Path) -> None:
    dataset, release = prompts(tmp_path / "rows.jsonl", 10), threading.Event()

    def reply(body: dict[str, Any]) -> tuple[int, bytes]:
        if body["prompt"] != "r000":
            release.wait(10)
        return OK

    with serving(Upstream(reply=reply)) as upstream:
        told = {"smol": [targets(ready("a", upstream.url, seats=2))]}
        attempt = attempt_in(tmp_path / "1", dataset, told, expires_at=time.time() + 1)
        generate(attempt)
        release.set()
    assert ids(journal(attempt)) == ["r000"]
    assert {line["error"]["code"] for line in journal(attempt, ERRORS)} == {"batch_expired"}
    assert events(attempt)[-1]["data"]["num_expired"] == 9 == len(journal(attempt, ERRORS))


def test_a_job_without_a_replica_says_that_it_waits_and_stops_when_told(tmp_path: Path) -> None:
    dataset = write(tmp_path / "rows.jsonl", {"prompt": "x"})
    attempt = attempt_in(tmp_path / "1", dataset, {})

    thread = threading.Thread(target=generate, args=(attempt,))
    thread.start()
    told = attempt.folder / "events.jsonl"
    wait_until(lambda: told.exists() and "Waiting for" in told.read_text(), 10, "it says that it waits")
    assert json.loads((attempt.folder / "models.json").read_text()) == ["smol"]
    (attempt.folder / "control.json").write_text('{"wanted": "cancel", "reason": "user"}')
    thread.join(5)

    assert not thread.is_alive()
    assert any("Waiting for a ready replica of 'smol'" in event["message"] for event in events(attempt))
    assert events(attempt)[-1]["type"] == "stopped"


def row(custom_id: str, model: str = "smol", **body: Any) -> Row:
    return Row(custom_id=custom_id, path=COMPLETIONS, model=model, body=body)


def replica(id: str, seats: int = 4) -> Replica:
    return Replica(**ready(id, seats=seats))


def target(deployment_id: str, *replicas: Replica, weight: float = 1.0) -> Target:
    return Target(deployment_id=deployment_id, weight=weight, replicas=replicas)


def test_replicas_are_filled_by_their_seats_with_a_row_waiting_behind(tmp_path: Path) -> None:
    spool = Spool(tmp_path, (row(str(n)) for n in range(100)), ())
    dispatch = Dispatch(spool, lambda model: [target("d", replica("small", 4), replica("large", 16))])
    sent = list(dispatch.errands())
    assert Counter(errand.replica.id for errand in sent) == {"small": 5, "large": 18}
    assert list(dispatch.errands()) == []
    dispatch.landed(sent[0])
    assert [errand.replica.id for errand in dispatch.errands()] == [sent[0].replica.id]


def test_a_model_without_replicas_holds_up_nobody(tmp_path: Path) -> None:
    rows = [row(f"{model}{n}", model) for model in ("away", "there") for n in range(50)]
    running = {"there": [target("d", replica("a", 8))]}
    dispatch = Dispatch(Spool(tmp_path, rows, ()), lambda model: running.get(model, []))
    assert [errand.row.custom_id for errand in dispatch.errands()] == [f"there{n}" for n in range(9)]
    assert dispatch.waiting() == ["away", "there"]
    running["away"] = [target("e", replica("b", 8))]
    assert [errand.row.custom_id for errand in dispatch.errands()] == [f"away{n}" for n in range(9)]
    assert len(list(dispatch.give_up("away"))) == 41 and dispatch.waiting() == ["there"]


def test_rows_of_a_route_are_shared_by_weight_and_always_alike(tmp_path: Path) -> None:
    def shared(folder: Path) -> dict[str, str]:
        folder.mkdir()
        spool = Spool(folder, (row(str(n), "prod") for n in range(1000)), ())
        there = [target("old", replica("a", 10), weight=9), target("new", replica("b", 10))]
        dispatch, got = Dispatch(spool, lambda model: there), {}
        while sent := list(dispatch.errands()):
            for errand in sent:
                got[errand.row.custom_id] = errand.replica.id
                dispatch.landed(errand)
        return got

    first = shared(tmp_path / "1")
    assert len(first) == 1000 and 70 <= Counter(first.values())["b"] <= 130
    assert first == shared(tmp_path / "2")


def test_rows_that_were_drawn_for_a_deployment_that_is_gone_go_to_the_others(tmp_path: Path) -> None:
    there = [target("old", replica("a", 4), weight=1), target("new", replica("b", 4))]
    dispatch = Dispatch(Spool(tmp_path, (row(str(n), "prod") for n in range(40)), ()), lambda model: there)
    flying = list(dispatch.errands())
    there.pop()
    while flying:
        for errand in flying:
            dispatch.landed(errand)
        flying = list(dispatch.errands())
    assert dispatch.waiting() == []


def test_pace_tells_rates_and_when_it_will_be_through(tmp_path: Path) -> None:
    clock = iter([0.0, 10.0, 20.0])
    pace, answers = Pace(lambda: next(clock)), Answers(attempt_in(tmp_path / "1", tmp_path, {}))
    assert pace.measure(answers, 100) == {"done": 0, "total": 100, "unit": "rows", "num_failed": 0}
    for n in range(20):
        answers.add(row(str(n)), 200, ANSWER)
    told = pace.measure(answers, 100)
    assert (told["rows_per_second"], told["tokens_per_second"], told["eta_seconds"]) == (2.0, 4.0, 40)
    assert pace.overall() == {"seconds": 10.0, "rows_per_second": 2.0, "tokens_per_second": 4.0}
