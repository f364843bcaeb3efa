"""The command line: flags derived from the declarations, server-sent events, errors and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from gateway import cli
from gateway.cli import client, flags
from shared import schema
from shared.errors import Complaint
from shared.settings import Settings
from shared.spec import DeploySpec, ExportSpec, TrainSpec
from shared.tongues import Text


class Script(BaseHTTPRequestHandler):
    """Answers what the test wrote down: (method, path) -> answers in turn, the last for ever; notes what was asked."""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        server: Any = self.server
        server.asked.append((self.command, self.path, dict(self.headers), body))
        answers = server.answers[self.command, self.path.partition("?")[0]]
        status, kind, text = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def do_PATCH(self) -> None:
        self.do_GET()

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Script)
    made.answers, made.asked = {}, []
    Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    monkeypatch.setenv("TUNESMITH_URL", f"http://127.0.0.1:{made.server_port}")
    monkeypatch.setenv("TUNESMITH_API_KEY", "secret")
    monkeypatch.setattr(client, "RECONNECT_SECONDS", (0.0,))
    yield made
    made.shutdown()
    made.server_close()


def answer(body: Any, status: int = 200) -> tuple[int, str, str]:
    return status, "application/json", json.dumps(body)


def events(*numbers: int, done: bool = False) -> tuple[int, str, str]:
    lines = [f'id: {n}\nevent: message\ndata: {{"number": {n}, "message": "m{n}"}}\n\n' for n in numbers]
    end = (
        f'id: {numbers[-1] + 1}\nevent: done\ndata: {{"number": {numbers[-1] + 1}, "message": ""}}\n\n' if done else ""
    )
    return 200, "text/event-stream", ": heartbeat\n\n" + "".join(lines) + end


@pytest.mark.parametrize(("command", "spec"), [("train", TrainSpec), ("export", ExportSpec), ("deploy", DeploySpec)])
def test_every_parameter_that_is_no_secret_has_a_flag(
    command: str, spec: type, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    for param in schema.params(spec):
        flag = f"--{param.wire.replace('_', '-')} "
        assert (flag in text) is not param.secret, param.wire


def test_flags_override_the_file_under_any_of_its_names_and_keep_their_types(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("model: base\nlearning_rate: 5e-5\nlora_target: all\n")
    given = ["--export-size", "3", "--export-legacy-format", "--model-name-or-path", "other"]
    args = cli.parser(["export", str(file), *given]).parse_args(["export", str(file), *given])
    assert flags.read_spec(args.file, args, ExportSpec) == {
        "learning_rate": 5e-5,
        "lora_target": "all",
        "export_size": 3,
        "export_legacy_format": True,
        "model_name_or_path": "other",
    }


def test_a_list_flag_is_a_list_and_text_stays_text() -> None:
    words = ["train", "--dataset", "a,b", "--learning-rate", "1e-4", "--template", "no", "--bf16", "false"]
    args = cli.parser(words).parse_args(words)
    assert flags.given(args) == {"dataset": ["a", "b"], "learning_rate": 1e-4, "template": "no", "bf16": False}


def test_events_are_parsed_with_joined_lines_and_without_comments() -> None:
    lines = [": beat", "id: 7", "event: metrics", "data: {", "data:  }", "", "", "data: [DONE]", ""]
    first, second = client.parse_events(lines)
    assert (first.id, first.type, first.data) == ("7", "metrics", "{\n }")
    assert (second.type, second.data) == ("message", "[DONE]")


def test_a_broken_stream_is_taken_up_after_the_last_event_seen(server: Any) -> None:
    server.answers["GET", "/v1/jobs/j/events/stream"] = [events(1, 2), answer({}, 502), events(3, done=True)]
    server.answers["GET", "/v1/jobs/j"] = [answer({"status": "running"})]
    with client.connect(Settings.from_env()) as connected:
        seen = [event["number"] for event in client.follow(connected, "j")]
    assert seen == [1, 2, 3, 4]
    streams = [headers for _, path, headers, _ in server.asked if path.endswith("/stream")]
    assert [headers.get("Last-Event-ID") for headers in streams] == ["0", "2", "2"]


def test_watch_exits_with_1_when_the_job_failed(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    failed = {
        "id": "j",
        "kind": "train",
        "status": "failed",
        "error": {"message": "out of memory", "field": "cutoff_len"},
    }
    server.answers["GET", "/v1/jobs/j/events/stream"] = [events(1, done=True)]
    server.answers["GET", "/v1/jobs/j"] = [answer(failed)]
    assert cli.main(["watch", "j"]) == 1
    shown = capsys.readouterr().out
    assert "out of memory (cutoff_len)" in shown and "m1" in shown


def test_a_refusal_shows_every_complaint_and_exits_with_2(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issues = [{"field": "lora_rnk", "message": "is unknown; did you mean 'lora_rank'?"}]
    error = {"error": {"message": "1 field is invalid", "param": "lora_rnk", "issues": issues}}
    server.answers["POST", "/v1/jobs"] = [answer(error, 422)]
    (tmp_path / "s.yaml").write_text("lora_rnk: 8\n")
    assert cli.main(["train", str(tmp_path / "s.yaml")]) == cli.REFUSED
    assert "lora_rnk is unknown; did you mean 'lora_rank'?" in capsys.readouterr().err
    _, _, headers, body = server.asked[0]
    assert json.loads(body) == {"lora_rnk": 8, "kind": "train"}
    assert headers["Authorization"] == "Bearer secret"


UNKNOWN_FIELD = "\u672a\u77e5\u5b57\u6bb5"


@pytest.mark.parametrize(("locale", "told"), [("zh_CN.UTF-8", UNKNOWN_FIELD), ("en_US.UTF-8", "is unknown")])
def test_a_refusal_is_shown_in_the_tongue_of_the_locale(
    server: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    locale: str,
    told: str,
) -> None:
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_MESSAGES", raising=False)
    monkeypatch.setenv("LANG", locale)
    issue = Complaint(field="lora_rnk", message=Text("is unknown{near}", near="")).as_dict()
    error = {"error": {"message": "lora_rnk is unknown", "issues": [issue]}}
    server.answers["POST", "/v1/jobs"] = [answer(error, 422)]
    (tmp_path / "s.yaml").write_text("lora_rnk: 8\n")
    assert cli.main(["train", str(tmp_path / "s.yaml")]) == cli.REFUSED
    assert f"lora_rnk {told}\n" in capsys.readouterr().err


def test_an_upload_with_bad_rows_names_their_lines(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issues = [{"field": "messages", "message": "is empty", "line": 17}]
    server.answers["POST", "/v1/datasets"] = [answer({"error": {"message": "bad rows", "issues": issues}}, 422)]
    (tmp_path / "d.jsonl").write_text("{}\n")
    assert cli.main(["datasets", "add", str(tmp_path / "d.jsonl")]) == cli.REFUSED
    assert "line 17: messages is empty" in capsys.readouterr().err


def test_a_preview_prints_what_is_read(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segments = [{"text": "Why?", "learned": False}, {"text": "[b]ecause", "learned": True}]
    sample = {"segments": segments, "num_tokens": 5, "num_learned": 3, "was_cut": True}
    lengths = {"num_rows": 2, "p50": 4, "p95": 5, "p99": 5, "length_max": 5}
    found = {"rows": [{"row": 1, "samples": [sample]}], "lengths": lengths, "findings": []}
    server.answers["POST", "/v1/datasets/facts/preview"] = [answer(found)]
    (tmp_path / "s.yaml").write_text("model_name_or_path: m\ndataset: other\n")

    assert cli.main(["preview", "facts", str(tmp_path / "s.yaml"), "--rows", "1", "--cutoff-len", "64"]) == 0

    assert "row 1: 5 tokens, 3 learned, cut\nWhy?[b]ecause\n" in capsys.readouterr().out
    sent = json.loads(server.asked[0][3])
    assert sent == {"model_name_or_path": "m", "dataset": "other", "cutoff_len": 64, "rows": [1]}


def test_nobody_there_exits_with_3_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    monkeypatch.setenv("TUNESMITH_URL", "http://127.0.0.1:9")
    assert cli.main(["jobs"]) == cli.UNREACHABLE
    assert "tunesmith up" in capsys.readouterr().err


def test_the_file_that_up_writes_is_enough_to_connect(tmp_path: Path) -> None:
    (tmp_path / client.CLIENT_FILE).write_text(json.dumps({"url": "http://127.0.0.1:1234", "key": "k"}))
    connected = client.connect(Settings(home=tmp_path))
    assert (connected.url, connected.key) == ("http://127.0.0.1:1234", "k")


def test_lists_are_read_page_by_page_up_to_the_limit(server: Any) -> None:
    pages = [{"data": [{"id": "a"}, {"id": "b"}], "has_more": True}, {"data": [{"id": "c"}], "has_more": True}]
    server.answers["GET", "/v1/jobs"] = [answer(page) for page in pages]
    with client.connect(Settings.from_env()) as connected:
        assert [item["id"] for item in connected.pages("/v1/jobs", 3)] == ["a", "b", "c"]
    assert [path for _, path, _, _ in server.asked] == ["/v1/jobs?limit=3", "/v1/jobs?limit=1&after=b"]


def test_chat_prints_the_streamed_answer(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in ("Hel", "lo")]
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    server.answers["POST", "/v1/chat/completions"] = [(200, "text/event-stream", text)]
    assert cli.main(["chat", "m", "Hi", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "Hello\n"
    assert json.loads(server.asked[0][3]) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "temperature": 0.0,
    }


def test_client_commands_load_no_server_code() -> None:
    heavy = {"flask", "celery", "sqlalchemy"}
    code = f"import sys, gateway.cli; gateway.cli.parser(['jobs']); print({heavy!r} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


def test_a_described_folder_is_uploaded_entry_by_entry(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    (folder / "many").mkdir(parents=True)
    (folder / "facts.json").write_text("[]")
    pairs = {"file_name": "facts.json", "ranking": True}
    others = {"hub": {"hf_hub_url": "org/name"}, "many": {"file_name": "many"}, "gone": {"file_name": "gone.json"}}
    (folder / "dataset_info.json").write_text(json.dumps({"pairs": pairs, **others, "wrong": {"file_nam": "x"}}))
    server.answers["POST", "/v1/datasets"] = [answer({"id": "file-1", "num_rows": 3, "kind": "pair"}, 201)]

    assert cli.main(["datasets", "import", str(folder)]) == cli.REFUSED

    assert json.dumps(pairs) in server.asked[0][3]
    assert len(server.asked) == 1
    told = capsys.readouterr().out
    assert "pairs: file-1, 3 rows, pair" in told
    assert "did you mean 'file_name'" in told
    assert "1 uploaded, 1 refused, 3 left out" in told


def test_checkpoints_of_a_job_are_a_table(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    marks = {"is_newest": True, "is_resumable": True, "is_damaged": False}
    found = {"id": "ckpt-1", "name": "ft:tiny:ckpt-step-5", "step": 5, "size_bytes": 2048, **marks, "is_best": False}
    data = [found | {"metrics": {"epoch": 0.5, "loss": 1.25}}]
    server.answers["GET", "/v1/jobs/j/checkpoints"] = [(200, "application/json", json.dumps({"data": data}))]

    assert cli.main(["jobs", "checkpoints", "j"]) == 0

    shown = capsys.readouterr().out.split()
    assert {"5", "0.5", "1.25", "2.0", "newest,", "resumable", "ft:tiny:ckpt-step-5"} <= set(shown)


def test_requirements_are_flags_beside_what_the_file_requires(server: Any, tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("model_name_or_path: m\ndataset: d\nrequires: {gpu_kind: T4, labels: [eu]}\n")
    server.answers["POST", "/v1/jobs"] = [(200, "application/json", json.dumps({"id": "ftjob-1"}))]

    assert cli.main(["train", str(file), "--gpu-kind", "A100-80GB", "--priority", "3", "--detach"]) == 0

    body = json.loads(server.asked[-1][3])
    assert (body["requires"], body["priority"]) == ({"gpu_kind": "A100-80GB", "labels": ["eu"]}, 3)


def test_workers_and_places_in_the_queue_are_shown(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    device = {"id": "GPU-1", "name": "NVIDIA L4", "memory_gib": 22.0, "held_by": {"id": "ftjob-1", "kind": "train"}}
    worker = {
        "id": "w", "kinds": ["train"], "labels": ["eu"], "devices": [device], "alive": True, "age_seconds": 1.0,
        "job": {"id": "ftjob-1", "kind": "train", "seconds_left": 720},
    }  # fmt: skip
    server.answers["GET", "/v1/workers"] = [(200, "application/json", json.dumps({"data": [worker]}))]
    job = {"id": "ftjob-2", "priority": 5, "queue": {"position": 2, "estimated_start": None}}
    server.answers["PATCH", "/v1/jobs/ftjob-2"] = [(200, "application/json", json.dumps(job))]

    assert cli.main(["workers"]) == cli.main(["jobs", "prioritize", "ftjob-2", "5"]) == 0

    shown = capsys.readouterr().out
    assert "ftjob-1, 12 min left" in shown and "NVIDIA L4  GPU-1" in shown and "22 GiB" in shown
    assert "ftjob-2: priority 5, #2 in the queue" in shown


@pytest.mark.parametrize(
    "line", ["chat smol --system Short Hi", "chat --system Short smol Hi", "chat smol Hi --system Short"]
)
def test_flags_may_stand_between_the_words_of_a_command(line: str) -> None:
    args = cli.read(line.split())
    assert (args.model, args.message, args.system) == ("smol", "Hi", "Short")
