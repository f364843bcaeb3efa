"""What `tunesmith doctor` finds: nothing before the first start, and each thing that is wrong, with what to do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gateway.admin.doctor import broker as broker_check
from gateway.admin.doctor import environments, examine, ledger, machine
from gateway.admin.doctor.findings import Finding, State
from gateway.cli import main
from shared import broker
from shared.settings import Settings
from shared.store import Store

Check = Callable[[Settings], Iterator[Finding]]


def of(state: State, check: Check, settings: Settings) -> list[str]:
    """What a check told in a state, with its advice."""
    return [f"{found.told} | {found.advice}" for found in check(settings) if found.state == state]


def errors(check: Check, settings: Settings) -> list[str]:
    return of(State.ERROR, check, settings)


def warnings(check: Check, settings: Settings) -> list[str]:
    return of(State.WARNING, check, settings)


def test_nothing_is_wrong_and_nothing_is_made_before_the_first_start(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", hub=False, port=0)

    checks = {name: check for name, check in examine.CHECKS.items() if name not in ("environments", "/dev/shm")}
    found = list(examine.examine(settings, checks))

    assert [one for one in found if one.state == State.ERROR] == []
    assert {"home", "ledger", "broker", "storage", "GPUs", "Hub"} <= {one.name for one in found}
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_is_told_that_was_not_migrated_or_is_newer_or_open_to_others(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with Store(settings.database_url) as store:
        with store.database.read():
            pass
        assert "those of nobody" in errors(ledger.look, settings)[0]

        store.migrate()
        assert errors(ledger.look, settings) == []
        assert "nobody works on train" in warnings(ledger.look, settings)[0]

        store.backups.note()
        with store.database.write() as connection:
            long_ago = "UPDATE meta SET value = '2020-01-01T00:00:00+00:00' WHERE key = 'backed_up_at'"
            connection.execute(text(long_ago))
        assert "days old | run `tunesmith backup PLACE`" in warnings(ledger.look, settings)[0]

        for kinds, version in ((["train"], "0.0.9"), (["export"], "0.1.0")):
            store.workers.beat(version, kinds=kinds, host="h", devices=[], storage_id="s", version=version)
        assert "0.0.9 (0.0.9)" in warnings(ledger.look, settings)[-1]

        with store.database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert "newer version (9999)" in warnings(ledger.look, settings)[0]

    (tmp_path / "ledger.sqlite3").chmod(0o644)
    assert f"chmod 600 {tmp_path}" in errors(ledger.look, settings)[0]


@pytest.mark.parametrize(
    ("url", "told"),
    [("postgresql://u:p@127.0.0.1:1/none", "cannot be used"), ("nonsense", "no database URL")],
)
def test_a_database_that_does_not_answer_is_told(tmp_path: Path, url: str, told: str) -> None:
    [complaint] = errors(ledger.look, Settings(home=tmp_path, database_url=url))

    assert told in complaint and "p@" not in complaint.partition("|")[0]


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start a Redis that is configured like this."""
    running = []

    def start(**given: str) -> str:
        url = broker.loopback_url()
        command = broker.command(Settings(home=tmp_path / "redis", broker_url=url))
        file = Path(command[1])
        file.write_text(
            file.read_text() + "".join(f"{name.replace('_', '-')} {value}\n" for name, value in given.items())
        )
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        end = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", int(url.rpartition(":")[2].partition("/")[0]))):
            assert time.monotonic() < end
            time.sleep(0.05)
        return url

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_a_broker_that_may_drop_messages_is_told(redis_url: Callable[..., str], tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, broker_url=redis_url(appendonly="no", maxmemory_policy="allkeys-lru"))
    kept, dropped = warnings(broker_check.look, settings)
    assert "appendonly yes" in kept and "maxmemory-policy noeviction" in dropped

    wrong = Settings(
        home=tmp_path, broker_url=settings.broker_url.replace(":", ":x", 2).replace("redis:x", "redis:", 1)
    )
    assert "password" in errors(broker_check.look, wrong)[0]


def test_a_broker_of_ours_is_as_it_should_be(redis_url: Callable[..., str], tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, broker_url=redis_url())
    assert [found.state for found in broker_check.look(settings)] == [State.OK]
    gone = Settings(home=tmp_path, broker_url="redis://:x@127.0.0.1:1/0")
    assert "does not answer" in errors(broker_check.look, gone)[0]


def test_a_port_that_another_program_has_is_told(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        [complaint] = errors(machine.port, Settings(home=tmp_path, port=other.getsockname()[1]))
    assert "TUNESMITH_PORT" in complaint


def test_secrets_that_others_can_read_and_folders_that_are_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    secret = tmp_path / "database_url"
    secret.write_text("postgresql://u:p@h/d")
    secret.chmod(0o644)
    monkeypatch.setenv("TUNESMITH_DATABASE_URL_FILE", str(secret))
    settings = Settings(
        home=tmp_path / "home", import_roots=[tmp_path / "none"], eval_tasks_dir=str(tmp_path / "tasks")
    )

    assert f"chmod 600 {secret}" in warnings(machine.privacy, settings)[0]
    assert [
        "TUNESMITH_IMPORT_ROOTS" in told or "TUNESMITH_EVAL_TASKS_DIR" in told
        for told in errors(machine.folders, settings)
    ] == [True] * 2

    secret.chmod(0o600)
    assert warnings(machine.privacy, settings) == []


def test_a_limit_of_open_files_that_few_streams_reach_is_told() -> None:
    [found] = machine._enough_files(1024)
    assert "fewer than 512 streams" in found.told and "LimitNOFILE" in found.advice
    assert list(machine._enough_files(65_536)) == list(machine._enough_files(-1)) == []


def test_an_environment_of_other_packages_is_told(tmp_path: Path) -> None:
    """An interpreter that has nothing of ours: the bare one of this machine."""
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys._base_executable)"], capture_output=True, text=True
    )
    settings = Settings(home=tmp_path, trainer_python=bare.stdout.strip(), inference_python="/nowhere/python")
    found = {one.name: one for one in environments.versions(settings)}

    assert found["trainer"].state == State.ERROR and "make setup" in found["trainer"].advice
    assert found["inference"].state == State.WARNING and "TUNESMITH_INFERENCE_PYTHON" in found["inference"].told
    assert found["services"].state != State.ERROR


def test_missing_and_wrong_versions_are_named() -> None:
    there = {"torch": "2.13.0+cpu", "transformers": "4.0.0"}
    told = environments._unmet("trainer", there)

    assert "transformers is 4.0.0, not ==5.17.0" in told and "peft is missing" in told
    assert not any(line.startswith("torch ") for line in told)


def test_the_command_says_all_as_json_and_ends_with_1_where_something_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    monkeypatch.setenv("TUNESMITH_HUB", "no")
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", "nonsense")

    assert main(["doctor", "--json"]) == 1

    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["counts"]["error"] >= 1 and told["findings"][0].keys() == {"name", "state", "told", "advice"}


def test_a_check_that_breaks_is_a_finding(tmp_path: Path) -> None:
    def breaks(settings: Settings) -> Iterator[Finding]:
        raise RuntimeError("the moon is away")
        yield

    [found] = examine.examine(Settings(home=tmp_path), {"moon": breaks})
    assert found.state == State.ERROR and "the moon is away" in found.told
