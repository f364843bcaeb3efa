"""A generation job's rows, its answers on disk, and what it asks of replicas: without a ledger, with real sockets."""

from __future__ import annotations

import gzip
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference_worker.child import rows
from inference_worker.child.answers import NAME, Answers
from inference_worker.child.generate import generate
from inference_worker.child.rows import CHAT, COMPLETIONS
from shared import schema
from shared.attempt import Attempt
from shared.errors import ChildFailed, InvalidDataset
from shared.spec import Drawing, GenerateSpec, Sampling
from tests.unit.upstream import Upstream, closed_port, serving

SPEC = GenerateSpec(model="smol", dataset="d", sampling=Sampling(drawing=Drawing(max_new_tokens=5, temperature=0.5)))
ANSWER = {"choices": [{"text": "hi"}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def only_row(tmp_path: Path, line: dict[str, Any], spec: GenerateSpec = SPEC) -> rows.Row:
    [row] = rows.read(write(tmp_path / "rows.jsonl", line), spec)
    return row


def test_messages_go_to_chat_and_prompts_to_completions(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hello"}]
    assert only_row(tmp_path, {"messages": messages}).path == CHAT
    assert only_row(tmp_path, {"prompt": "hello"}).path == COMPLETIONS


def test_rows_of_a_list_or_a_packed_file_are_asked_alike(tmp_path: Path) -> None:
    (tmp_path / "list").write_text(json.dumps([{"prompt": "a"}, {"instruction": "b", "input": "c"}], indent=1))
    (tmp_path / "packed").write_bytes(gzip.compress(b'{"prompt": "a"}\n{"instruction": "b", "input": "c"}\n'))
    found = [[row.body.get("prompt") or row.body["messages"] for row in rows.read(tmp_path / name, SPEC)]
             for name in ("list", "packed")]  # fmt: skip
    assert found[0] == found[1] == ["a", [{"role": "user", "content": "b\nc"}]]


def test_a_row_says_what_it_wants_else_than_the_job(tmp_path: Path) -> None:
    row = only_row(tmp_path, {"custom_id": "a", "prompt": "x", "temperature": 0.1, "model": "other", "label": 3})
    assert row.custom_id == "a"
    assert (row.body["temperature"], row.body["max_tokens"], row.body["model"]) == (0.1, 5, "smol")
    assert "label" not in row.body


def test_either_name_for_the_longest_answer_replaces_the_jobs(tmp_path: Path) -> None:
    for name in ("max_new_tokens", "max_tokens", "max_completion_tokens"):
        body = only_row(tmp_path, {"prompt": "x", name: 9}).body
        assert body["max_tokens"] == 9 and not {"max_new_tokens", "max_completion_tokens"} & body.keys()


def test_a_line_of_openais_batches_is_taken_with_all_in_its_body(tmp_path: Path) -> None:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "tools": [], "stream": True}
    row = only_row(tmp_path, {"custom_id": "a", "method": "POST", "url": CHAT, "body": body})
    assert row.path == CHAT and row.body["tools"] == [] and row.body["model"] == "smol"
    assert "stream" not in row.body


def test_an_alpaca_row_is_asked_as_one_message(tmp_path: Path) -> None:
    row = only_row(tmp_path, {"instruction": "add", "input": "1 2", "output": "3"})
    assert row.custom_id == "line-1"
    assert row.body["messages"] == [{"role": "user", "content": "add\n1 2"}]


def test_the_system_prompt_of_the_job_is_for_rows_that_have_none(tmp_path: Path) -> None:
    spec = replace(SPEC, default_system="be brief")
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "x"}]
    assert only_row(tmp_path, {"messages": own}, spec).body["messages"] == own
    assert only_row(tmp_path, {"messages": own[1:]}, spec).body["messages"][0]["content"] == "be brief"


def test_every_line_that_cannot_be_asked_is_told_before_the_first_request(tmp_path: Path) -> None:
    bad = ['{"prompt"', [1], {"text": "x"}, {"prompt": "x", "temperature": 9}, {"prompt": "x", "custom_id": 4}]
    path = write(tmp_path / "rows.jsonl", {"prompt": "fine", "custom_id": "a"}, *bad, {"prompt": "y", "custom_id": "a"})
    with pytest.raises(InvalidDataset) as caught:
        rows.check(path, SPEC)
    assert [complaint.line for complaint in caught.value.complaints] == [2, 3, 4, 5, 6, 7]
    assert "of line 1 too" in caught.value.complaints[-1].message


def test_a_dataset_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="at least one row"):
        rows.check(write(tmp_path / "rows.jsonl", ""), SPEC)


def test_max_samples_counts_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *({"prompt": str(i)} for i in range(9)))
    spec = replace(SPEC, max_samples=4)
    assert rows.check(path, spec) == 4 == len(list(rows.read(path, spec)))


def ready(id: str, url: str) -> dict[str, Any]:
    return {"id": id, "url": url, "api_key": "k", "served_name": "smol", "load": 0.0}


def attempt_in(folder: Path, dataset: Path, replicas: list[dict[str, str]], resume_from: Path | None = None) -> Attempt:
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True)
    run = {
        "job_id": "generate-1",
        "spec": schema.to_wire(SPEC),
        "output_dir": str(folder / "output"),
        "scratch_dir": str(folder / "scratch"),
        "resume_from": str(resume_from) if resume_from else None,
        "dataset": {"path": str(dataset)},
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "replicas.json").write_text(json.dumps(replicas))
    return Attempt(folder)


def events(attempt: Attempt) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (attempt.folder / "events.jsonl").read_text().splitlines()]


def answered(attempt: Attempt) -> list[str]:
    lines = (attempt.folder / "output" / NAME).read_text().splitlines()
    return sorted(json.loads(line)["custom_id"] for line in lines)


def test_every_row_is_answered_once_though_a_replica_is_dead(tmp_path: Path) -> None:
    dataset = write(tmp_path / "rows.jsonl", *({"custom_id": f"r{i:02}", "prompt": "x"} for i in range(40)))
    with serving(Upstream(body=json.dumps(ANSWER).encode())) as upstream:
        dead = ready("dead", f"http://127.0.0.1:{closed_port()}")
        attempt = attempt_in(
            tmp_path / "1",
            dataset,
            [dead, ready("a", upstream.url)],
        )
        generate(attempt)

    assert answered(attempt) == [f"r{i:02}" for i in range(40)]
    outcome = events(attempt)[-1]
    assert outcome["type"] == "done"
    assert outcome["data"] == {"num_rows": 40, "num_failed": 0, "prompt_tokens": 120, "completion_tokens": 80}


def test_rows_of_the_checkpoint_are_not_asked_again(tmp_path: Path) -> None:
    dataset = write(tmp_path / "rows.jsonl", *({"custom_id": f"r{i}", "prompt": "x"} for i in range(6)))
    before = Answers(attempt_in(tmp_path / "1", dataset, []))
    for i in range(4):
        before.add(f"r{i}", 200, ANSWER)
    before.save()
    before.close()
    [checkpoint] = events(Attempt(tmp_path / "1"))
    assert checkpoint["data"]["step"] == 4

    with serving(Upstream(body=json.dumps(ANSWER).encode())) as upstream:
        told = [ready("a", upstream.url)]
        attempt = attempt_in(tmp_path / "2", dataset, told, resume_from=Path(checkpoint["data"]["path"]))
        generate(attempt)

    assert len(upstream.requests) == 2
    assert answered(attempt) == [f"r{i}" for i in range(6)]
    assert events(attempt)[-1]["data"]["completion_tokens"] == 12


def test_a_row_that_vllm_refuses_is_an_error_of_that_row(tmp_path: Path) -> None:
    dataset = write(tmp_path / "rows.jsonl", {"custom_id": "a", "prompt": "x"})
    refusal = {"error": {"message": "too long", "code": 400}}
    with serving(Upstream(status=400, body=json.dumps(refusal).encode())) as upstream:
        attempt = attempt_in(
            tmp_path / "1",
            dataset,
            [ready("a", upstream.url)],
        )
        with pytest.raises(ChildFailed, match="none of the 1 rows"):
            generate(attempt)
    [line] = (attempt.folder / "output" / NAME).read_text().splitlines()
    assert json.loads(line)["error"] == {"code": "400", "message": "too long"}


def test_a_job_without_a_replica_says_that_it_waits_and_stops_when_told(tmp_path: Path) -> None:
    dataset = write(tmp_path / "rows.jsonl", {"prompt": "x"})
    attempt = attempt_in(tmp_path / "1", dataset, [])

    thread = threading.Thread(target=generate, args=(attempt,))
    thread.start()
    while not (attempt.folder / "events.jsonl").exists():
        thread.join(0.05)
    (attempt.folder / "control.json").write_text('{"wanted": "cancel", "reason": "user"}')
    thread.join(5)

    assert not thread.is_alive()
    assert "Waiting for a ready replica of 'smol'" in events(attempt)[0]["message"]
    assert events(attempt)[-1]["type"] == "stopped"
