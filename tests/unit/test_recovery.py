"""What a failed attempt leads to: the ladder after memory did not suffice, another attempt as it was, or the end."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared import failures, ladder, recovery, schema, volumes
from shared.attempt import MEMORY
from shared.job import Job, Kind, Status, Wanted
from shared.spec import TrainSpec

OOM = {"code": "out_of_memory", "message": "CUDA out of memory", "details": {"at": "training"}}
#: SmolLM2-135M's.
CONFIG = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}  # fmt: skip


def job(adjustments: dict[str, Any] | None = None, kind: Kind = Kind.TRAIN, **spec: Any) -> Job:
    given = {"model_name_or_path": "m", "dataset": "d", "per_device_train_batch_size": 12, **spec}
    return Job(
        id="ftjob-1", project_id="p", kind=kind, status=Status.RUNNING, wanted=Wanted.RUN,
        spec=schema.to_wire(schema.load(TrainSpec, given)), adjustments=adjustments or {},
        created_at=datetime.now(UTC),
    )  # fmt: skip


def climb(spec: dict[str, Any], known: dict[str, Any]) -> list[dict[str, Any]]:
    adjusted: dict[str, Any] = {}
    rungs = []
    while rung := ladder.next_rung(spec, adjusted, known):
        rungs.append(rung)
        adjusted |= rung
    return rungs


@pytest.mark.parametrize(("size", "sizes"), [(12, [6, 3, 1]), (9, [3, 1]), (7, [1]), (16, [8, 4, 2, 1]), (1, [])])
def test_the_batch_of_a_step_stays_the_same_to_the_last_rung(size: int, sizes: list[int]) -> None:
    spec = {ladder.SIZE: size, ladder.STEPS: 5}

    *smaller, last = climb(spec, {"at": "training", "gradient_checkpointing": False})

    assert [rung[ladder.SIZE] for rung in smaller] == sizes
    assert all(rung[ladder.SIZE] * rung[ladder.STEPS] == 5 * size for rung in smaller)
    assert last == {"gradient_checkpointing": True, "disable_gradient_checkpointing": False}


def test_what_recomputes_already_has_no_last_rung() -> None:
    assert climb({ladder.SIZE: 1}, {"at": "training", "gradient_checkpointing": True}) == []
    assert climb({ladder.SIZE: 8}, {"at": ladder.LOADING}) == []


def test_where_validating_failed_only_its_batch_is_smaller() -> None:
    spec = {ladder.SIZE: 4, ladder.EVAL: 5, "eval_strategy": "steps"}

    assert climb(spec, {"at": ladder.VALIDATING}) == [{ladder.EVAL: 2}, {ladder.EVAL: 1}]
    assert climb(spec, {"gradient_checkpointing": True}) == [
        {ladder.SIZE: 2, ladder.STEPS: 2, ladder.EVAL: 2},
        {ladder.SIZE: 1, ladder.STEPS: 4, ladder.EVAL: 1},
    ], "killed by the kernel it could not say what it was at"


def test_another_attempt_says_what_it_does_otherwise(tmp_path: Path) -> None:
    (tmp_path / MEMORY).write_text(json.dumps({"config": CONFIG, "micro_batch": 12, "longest": 700}))

    answer = recovery.answer(job(gradient_accumulation_steps=2), OOM, tmp_path)

    assert answer.adjustments == {ladder.SIZE: 6, ladder.STEPS: 4}
    assert "micro-batches of 6 x 4 instead of 12 x 2, the same batch per step" in answer.why
    assert answer.error["details"] == {"micro_batch": 12, "longest": 700, "at": "training"}
    assert answer.error["field"] == ladder.SIZE


def test_the_end_names_the_nearest_fit_of_the_plan(tmp_path: Path) -> None:
    known = {"config": CONFIG, "longest": 2048, "total_gib": 4.0, "num_processes": 1}
    (tmp_path / MEMORY).write_text(json.dumps(known))
    at_the_end = {ladder.SIZE: 1, ladder.STEPS: 12, "gradient_checkpointing": True}

    answer = recovery.answer(job(at_the_end, cutoff_len=4096, finetuning_type="full"), OOM, tmp_path)

    assert (answer.why, answer.adjustments) == ("", None)
    assert "Nearest change that fits" in answer.error["message"]
    assert answer.error["nearest"]["patch"]


def test_recovery_can_be_switched_off_by_ours_and_by_lfs_name(tmp_path: Path) -> None:
    for name in ("oom_recovery", "auto_find_batch_size"):
        answer = recovery.answer(job(**{name: False}), OOM, tmp_path)
        assert answer.why == "" and "oom_recovery is off" in answer.error["message"]
    assert recovery.answer(job(auto_find_batch_size=True), OOM, tmp_path).adjustments


@pytest.mark.parametrize(
    ("code", "is_tried_again"),
    [("child_killed", True), ("peer_lost", True), ("hub_unreachable", True), ("device_failed", True),
     ("diverged", False), ("disk_full", False), ("child_crashed", False), ("invalid_dataset", False),
     ("of a plug-in", False)],
)  # fmt: skip
def test_only_what_may_pass_is_tried_again(tmp_path: Path, code: str, is_tried_again: bool) -> None:
    answer = recovery.answer(job(), {"code": code, "message": "m"}, tmp_path)

    assert bool(answer.why) is is_tried_again is answer.error["retryable"]
    assert answer.adjustments is None


def test_no_smaller_batches_for_what_has_none(tmp_path: Path) -> None:
    answer = recovery.answer(job(kind=Kind.EXPORT), OOM, tmp_path)

    assert (answer.why, answer.adjustments) == ("", None)
    assert answer.error["field"] == ladder.EVAL, "this spec has one; an export's has none"


def test_what_is_away_is_not_asked_again_at_once(tmp_path: Path) -> None:
    waits = [
        recovery.answer(job(), {"code": code, "message": "m"}, tmp_path) for code in ("hub_unreachable", "peer_lost")
    ]

    assert [answer.wait_seconds for answer in waits] == [30, 0]


def test_a_full_disk_is_named_and_may_be_all_that_there_is_to_say(tmp_path: Path) -> None:
    volume = volumes.fullest([tmp_path / "not" / "there", Path("relative")])
    assert volume is not None and volume.place.is_mount() and not volume.is_full
    said = {"message": "the train child ended. The end of its log:\nlast line"}

    full = recovery.answer(job(), said | {"code": "disk_full"}, tmp_path)
    crashed = recovery.answer(job(), said | {"code": "child_crashed"}, tmp_path)

    assert f"A disk was full: {volume.place} has" in full.error["message"]
    assert full.error["message"].endswith("\nlast line") and full.error["field"] == "save_total_limit"
    assert full.error["details"]["volume"] == str(volume.place)
    assert crashed.error["code"] == "child_crashed", "there is room"
    export = recovery.answer(job(kind=Kind.EXPORT), said | {"code": "disk_full"}, tmp_path)
    assert "checkpoint" not in export.error["message"]


def test_the_committed_page_of_failures_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "failures.md"
    assert page.read_text() == failures.page(), "run: python -m shared.failures > docs/failures.md"
