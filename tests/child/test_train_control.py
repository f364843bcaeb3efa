"""A training that is told to stop: control.json, heeded between steps, by every rank at the same step."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path

import psutil
from training import Attempt, make_attempt, train, train_here

from shared import crash

#: Far more steps than pass before the test says stop.
LONG = {"num_train_epochs": 1000, "max_steps": 3000, "per_device_train_batch_size": 2}


def tell_at_step(attempt: Attempt, step: int, wanted: str) -> threading.Thread:
    """Write control.json as the worker does, once the child has told of `step`."""

    def wait_and_tell() -> None:
        wait_for_step(attempt, step)
        write_control(attempt, wanted)

    thread = threading.Thread(target=wait_and_tell)
    thread.start()
    return thread


def wait_for_step(attempt: Attempt, step: int) -> None:
    deadline = time.monotonic() + 120
    while not ((attempt.folder / "events.jsonl").exists() and any(d["step"] >= step for d in told(attempt))):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def told(attempt: Attempt) -> list[dict[str, int]]:
    """Metrics events so far; the last line may be half written."""
    lines = (attempt.folder / "events.jsonl").read_text().split("\n")[:-1]
    return [event["data"] for event in map(json.loads, lines) if event["type"] == "metrics"]


def write_control(attempt: Attempt, wanted: str) -> None:
    beside = attempt.folder / "control.part"
    beside.write_text(json.dumps({"wanted": wanted, "reason": "user"}))
    os.replace(beside, attempt.folder / "control.json")


def test_pause_saves_a_checkpoint_and_a_later_attempt_ends_as_an_unbroken_one(
    tmp_path: Path, tiny: Path, rows: Path
) -> None:
    """Also in the middle of an epoch at whose end there is a checkpoint and a validation: both come then, once."""
    spec = {"num_train_epochs": 40, "save_strategy": "epoch", "eval_strategy": "epoch", "val_size": 0.2}
    whole = train_here(make_attempt(tmp_path / "whole", tiny, rows, **spec))
    paused = make_attempt(tmp_path / "paused", tiny, rows, **spec)
    thread = tell_at_step(paused, 20, "pause")
    train_here(paused)
    thread.join()

    step = paused.outcome["data"]["step"]
    checkpoint = paused.of("checkpoint")[-1]
    rest = train_here(
        make_attempt(tmp_path / "rest", tiny, rows, resume_from=paused.folder / checkpoint["path"], **spec)
    )

    assert (paused.outcome["type"], paused.outcome["data"]["reason"]) == ("stopped", "user")
    assert 20 <= step < 200 and checkpoint["step"] == step
    assert paused.losses + rest.losses == whole.losses
    validated = [[data["step"] for data in one.of("metrics") if "eval_loss" in data] for one in (whole, paused, rest)]
    assert validated[1] + validated[2] == validated[0]
    saved = [data["step"] for data in paused.of("checkpoint") + rest.of("checkpoint")]
    assert saved == sorted({*(data["step"] for data in whole.of("checkpoint")), step})


def test_cancel_stops_at_once_and_saves_nothing(tmp_path: Path, tiny: Path, rows: Path) -> None:
    attempt = make_attempt(tmp_path / "a", tiny, rows, **LONG)
    thread = tell_at_step(attempt, 5, "cancel")
    train_here(attempt)
    thread.join()

    assert attempt.outcome["type"] == "stopped"
    assert attempt.of("checkpoint") == [] and not list(attempt.output.iterdir())


def test_two_ranks_pause_at_the_same_step(tmp_path: Path, tiny: Path, rows: Path) -> None:
    attempt = make_attempt(tmp_path / "a", tiny, rows, num_processes=2, **LONG)
    thread = tell_at_step(attempt, 5, "pause")
    train(attempt, 2)
    thread.join()

    assert attempt.outcome["type"] == "stopped"
    assert attempt.of("checkpoint")[-1]["step"] == attempt.outcome["data"]["step"]


def test_a_rank_that_is_killed_ends_the_others_and_is_named(tmp_path: Path, tiny: Path, rows: Path) -> None:
    attempt = make_attempt(tmp_path / "a", tiny, rows, num_processes=2, **LONG)
    killed_at: list[float] = []

    def kill_second() -> None:
        wait_for_step(attempt, 5)
        killed_at.append(time.monotonic())
        rank_process(1).kill()

    thread = threading.Thread(target=kill_second)
    thread.start()
    train(attempt, 2, expect=1)
    thread.join()

    # Below the 30 s that torchrun would leave them, on a busy machine too.
    assert time.monotonic() - killed_at[0] < 25
    error = crash.explain(attempt.folder, "train", 1)
    assert (error["code"], error["rank"]) == ("child_killed", 1)
    assert "rank 1 of train was ended by signal 9 (SIGKILL, exit code -9)" in error["message"]
    assert attempt.events[-1]["type"] != "failed", "that its peer is gone is not for rank 0 to tell"


def rank_process(rank: int) -> psutil.Process:
    """Of the trainings that this process has started."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if child.environ().get("RANK") == str(rank):
                return child
    raise AssertionError(f"no process is rank {rank}")


def test_what_was_wanted_before_the_first_step_is_not_lost(tmp_path: Path, tiny: Path, rows: Path) -> None:
    from trainer_worker.child import __main__ as child
    from trainer_worker.child import prepare

    attempt = make_attempt(tmp_path / "a", tiny, rows, **LONG)
    prepare.prepare(child.Attempt(attempt.folder))
    write_control(attempt, "pause")

    outcome = child.train(child.Attempt(attempt.folder), 0)

    assert (outcome["type"], outcome["step"]) == ("stopped", 0)
    assert attempt.losses == []


def test_old_checkpoints_go_and_every_one_is_whole(tmp_path: Path, tiny: Path, rows: Path) -> None:
    spec = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 2}
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, **spec))

    kept = sorted(path.name for path in (attempt.folder / "scratch" / "checkpoints").iterdir())
    assert [data["step"] for data in attempt.of("checkpoint")] == [3, 6, 9, 12]
    assert kept == ["checkpoint-12", "checkpoint-9"]
    newest = attempt.folder / attempt.of("checkpoint")[-1]["path"]
    assert {"adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"} <= {
        path.name for path in newest.iterdir()
    }
    assert "training_args.bin" not in {path.name for path in newest.iterdir()}
