"""`tunesmith chat` and `tunesmith compare` against the whole gateway: what is typed, asked, shown and kept."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from rich.console import Console
from werkzeug.serving import make_server

from gateway import cli
from gateway.cli.client import Client
from gateway.cli.conversation import Conversation
from tests.unit.served import Served, serving_models
from tests.unit.upstream import event

DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'
THOUGHT = b'data: {"choices": [{"index": 0, "delta": {"reasoning": "hm"}}]}\n\n'


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    with serving_models(tmp_path_factory.mktemp("chat"), "smol", "other") as served:
        server = make_server("127.0.0.1", 0, served.platform.app, threaded=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield served, f"http://127.0.0.1:{server.port}"
        server.shutdown()
        server.server_close()


@pytest.fixture
def served(listening: tuple[Served, str], monkeypatch: pytest.MonkeyPatch) -> Served:
    served, url = listening
    served.forget()
    monkeypatch.setenv("TUNESMITH_URL", url)
    monkeypatch.setenv("TUNESMITH_API_KEY", served.platform.keys["user"])
    return served


@pytest.fixture
def conversation(served: Served, listening: tuple[Served, str]) -> Iterator[Conversation]:
    with Client(listening[1], served.platform.keys["user"]) as client:
        yield Conversation(client=client, console=Console(width=200, highlight=False), model="smol")


def test_each_message_goes_with_all_before_it_under_what_was_set(
    conversation: Conversation, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.upstreams["smol"].pieces = [THOUGHT, event("he"), event("llo"), USAGE, DONE]
    for line in ("/system Be short.", "/set temperature 0.2", "/set stop [a, b]", "Hi", "/set stop", "Again"):
        assert conversation.hear(line)

    first, second = served.sent("smol")
    assert first["messages"] == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    assert (first["temperature"], first["stop"]) == (0.2, ["a", "b"]) and "stop" not in second
    # Thoughts are shown and never sent back.
    assert [message["content"] for message in second["messages"]] == ["Be short.", "Hi", "hello", "Again"]
    told = capsys.readouterr().out
    assert "hm\n\nhello\n" in told and "2 tokens" in told
    assert not conversation.hear("/exit")


def test_an_answer_is_asked_for_again_taken_back_and_of_another_model(
    conversation: Conversation, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("smol", "other"):
        served.upstreams[name].pieces = [event(name), DONE]
    for line in ("One", "/retry", "/model other", "Two", "/undo"):
        conversation.hear(line)

    assert [one["messages"][-1]["content"] for one in served.sent("smol")] == ["One", "One"]
    assert [message["content"] for message in served.sent("other")[0]["messages"]] == ["One", "smol", "Two"]
    assert [message["content"] for message in conversation.messages] == ["One", "smol"]
    assert "other (ready)" in capsys.readouterr().out


def test_what_is_refused_ends_nothing_and_is_not_kept_as_a_turn(
    conversation: Conversation, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.upstreams["smol"].pieces = [event("yes"), DONE]
    for line in ("/set temperature 9", "Hi", "/nothing", "/load /no/such/file", "/set temperature", "Hello"):
        assert conversation.hear(line)

    told = capsys.readouterr().out
    assert "temperature is 9.0: must be at most 2.0" in told
    assert "no command /nothing" in told and "/no/such/file" in told
    assert [message["content"] for message in conversation.messages] == ["Hello", "yes"]


def test_an_answer_that_is_only_calls_is_a_turn_that_is_shown_and_sent_back(
    conversation: Conversation, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = [(0, {"name": "look", "arguments": '{"at":'}), (0, {"arguments": ' "sky"}'}), (1, {"name": "cut"}),
              (1, {"arguments": "{"})]  # fmt: skip
    calls = [{"index": index, "id": f"c{index}", "function": function} for index, function in pieces]
    told = [event("", choices=[{"delta": {"tool_calls": [call]}}]) for call in calls]
    served.upstreams["smol"].pieces = [*told, DONE]
    for line in ("What is up?", "And now?", "/history"):
        conversation.hear(line)

    asked, turn, then = served.sent("smol")[1]["messages"]
    assert (asked["content"], then["content"]) == ("What is up?", "And now?")
    # The second was cut off: nobody could read its arguments.
    function = {"name": "look", "arguments": '{"at": "sky"}'}
    assert turn == {"role": "assistant", "content": None,
                    "tool_calls": [{"id": "c0", "type": "function", "function": function}]}  # fmt: skip
    assert capsys.readouterr().out.count('look({"at": "sky"})') == 4


def test_a_conversation_is_saved_to_go_on_with_and_to_train_on(
    conversation: Conversation, served: Served, tmp_path: Path
) -> None:
    served.upstreams["smol"].pieces = [event("yes"), DONE]
    (tmp_path / "notes.txt").write_text("some notes")
    lines = [f"/file {tmp_path / 'notes.txt'}", "Sum up", f"/save {tmp_path / 'rows.jsonl'}"]
    for line in [*lines, f"/save {tmp_path / 'rows.jsonl'}", f"/save {tmp_path / 'it.json'}", "/clear"]:
        conversation.hear(line)
    assert not conversation.messages
    conversation.hear(f"/load {tmp_path / 'it.json'}")

    kept = [{"role": "user", "content": "some notes\n\nSum up"}, {"role": "assistant", "content": "yes"}]
    assert conversation.messages == kept
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows == [{"messages": kept}] * 2


def test_ctrl_c_stops_the_answer_and_its_generation_but_not_the_conversation(
    served: Served, listening: tuple[Served, str], tmp_path: Path
) -> None:
    upstream = served.upstreams["smol"]
    upstream.pieces, upstream.pause_seconds = [event("x")] * 2000, 0.02
    ours, theirs = pty.openpty()
    env = {"PATH": os.environ["PATH"], "TERM": "dumb", "LC_ALL": "C.UTF-8", "TUNESMITH_HOME": str(tmp_path)}
    env |= {"TUNESMITH_URL": listening[1], "TUNESMITH_API_KEY": served.platform.keys["user"]}
    chat = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "chat", "smol"], stdin=theirs, stdout=theirs, stderr=theirs, env=env,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    try:
        read(ours, "> ")
        os.write(ours, b"go on\n")
        read(ours, "xxx")
        os.write(ours, b"\x03")
        assert "stopped" in read(ours, "stopped")
        assert upstream.hung_up.wait(5)
        os.write(ours, b"/history\n")
        told = read(ours, "assistant")
        assert "go on" in told
        # Ctrl-D means something only where a line is asked for.
        if "> " not in told.rpartition("assistant")[2]:
            read(ours, "> ")
        os.write(ours, b"\x04")
        assert chat.wait(20) == 0
    finally:
        chat.kill()
        chat.wait()
        os.close(ours)


def read(terminal: int, until: str, seconds: float = 20) -> str:
    told, deadline = "", time.monotonic() + seconds
    while until not in told and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            told += os.read(terminal, 4096).decode()
    assert until in told
    return told


def test_compare_shows_each_prompt_with_its_answers_and_fails_when_one_did(
    served: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    served.upstreams["smol"].pieces = [event("a red fox"), USAGE, DONE]
    served.upstreams["other"].pieces = [event("a blue fox"), USAGE, DONE]
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "Which?"}]}\n')

    assert cli.main(["compare", "smol", "other", "--prompt", "What?", "--prompts", str(file), "--max-tokens", "5"]) == 0
    told = capsys.readouterr().out
    assert all(text in told for text in ("What?", "Which?", "a red fox", "a blue fox", "2 tokens"))
    assert {one["max_tokens"] for one in served.sent("other")} == {5}

    assert (
        cli.main(["compare", "smol", "nobody", "--prompt", "What?", "--setting", "temperature=0, seed=3", "--json"])
        == 1
    )
    answers = json.loads(capsys.readouterr().out)["rows"][0]["answers"]
    assert [answer["error"] and answer["error"]["code"] for answer in answers] == [None, "model_not_found"]
    assert served.sent("smol")[-1] == served.sent("smol")[-1] | {"temperature": 0, "seed": 3}


def test_a_route_is_set_shown_and_deleted_by_command(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.upstreams["other"].pieces = [event("yes"), DONE]
    assert cli.main(["routes", "set", "prod", "smol=0", "other=3"]) == 0
    assert "prod" in capsys.readouterr().out
    assert cli.main(["chat", "prod", "Hi"]) == 0
    assert capsys.readouterr().out == "yes\n"
    assert cli.main(["routes", "--json"]) == 0
    targets = json.loads(capsys.readouterr().out)[0]["targets"]
    assert [(target["model"], target["weight"], target["share"]) for target in targets] == [
        ("smol", 0, 0.0), ("other", 3, 1.0),
    ]  # fmt: skip
    assert cli.main(["routes", "set", "prod", "nobody"]) == 2
    assert "there is no deployment or model 'nobody'" in capsys.readouterr().err
    assert cli.main(["routes", "delete", "prod"]) == 0
    capsys.readouterr()
    assert cli.main(["routes"]) == 0
    assert "no routes" in capsys.readouterr().out


def test_a_preset_is_set_used_and_deleted_by_command_and_beams_come_whole(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.upstreams["smol"].pieces = [event("yes"), DONE]
    assert cli.main(["presets", "set", "short", "--max-new-tokens", "5", "--temperature", "0.3"]) == 0
    assert "max_new_tokens=5" in capsys.readouterr().out
    assert cli.main(["chat", "smol", "Hi", "--preset", "short", "--temperature", "0.4"]) == 0
    assert served.sent("smol")[0] == served.sent("smol")[0] | {"max_tokens": 5, "temperature": 0.4}
    assert cli.main(["presets", "set", "short", "--set", "temprature=1"]) == 2
    assert "did you mean 'temperature'?" in capsys.readouterr().err
    whole = {"choices": [{"index": 0, "message": {"content": "of all beams"}, "finish_reason": "stop"}]}
    served.upstreams["smol"].pieces, served.upstreams["smol"].body = [], json.dumps(whole).encode()
    assert cli.main(["chat", "smol", "Hi", "--preset", "short", "--num-beams", "2"]) == 0
    assert capsys.readouterr().out == "of all beams\n"
    assert cli.main(["presets", "delete", "short"]) == 0
    assert cli.main(["chat", "smol", "Hi", "--preset", "short"]) == 2


def test_who_no_longer_waits_for_a_comparison_ends_its_generations(
    served: Served, listening: tuple[Served, str]
) -> None:
    upstream = served.upstreams["smol"]
    upstream.pieces, upstream.pause_seconds = [event("x")] * 2000, 0.01
    headers = {"Authorization": f"Bearer {served.platform.keys['user']}"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{listening[1]}/v1/compare", json={"models": ["smol"], "prompts": ["x"] * 9}, headers=headers, timeout=0.7
        )
    assert upstream.hung_up.wait(5)
