"""What a training leaves beside its model for people and for tools that read LLaMA Factory's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training import make_attempt, make_dataset, train_here

from trainer_worker.child import journal

SPEC = {
    "num_train_epochs": 20, "max_steps": 12, "eval_steps": 2, "save_steps": 4, "save_strategy": "steps",
    "compute_accuracy": True, "do_eval": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose answers the training contradicts: learning it by heart makes them worse."""
    path = make_dataset(tmp_path_factory.mktemp("held") / "held_out.json", 6)
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([row | {"output": "Nobody knows why."} for row in rows]))
    return path


def test_files_of_llama_factory_lie_beside_the_model_and_are_whole_after_a_resume(
    tmp_path: Path, tiny: Path, rows: Path, held_out: Path
) -> None:
    whole = train_here(make_attempt(tmp_path / "whole", tiny, rows, eval_dataset=held_out, plot_loss=True, **SPEC))
    checkpoint = whole.folder / whole.of("checkpoint")[0]["path"]
    resumed = make_attempt(tmp_path / "rest", tiny, rows, eval_dataset=held_out, resume_from=checkpoint, **SPEC)
    rest = train_here(resumed)

    lines = [json.loads(line) for line in (rest.output / "trainer_log.jsonl").read_text().splitlines()]
    assert [line["current_steps"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["loss"] for line in lines if "loss" in line] == whole.losses
    assert {"total_steps", "lr", "epoch", "percentage", "elapsed_time", "remaining_time"} <= lines[0].keys()
    results = json.loads((rest.output / "all_results.json").read_text())
    assert {"train_loss", "train_runtime", "train_samples_per_second", "eval_loss", "epoch"} <= results.keys()
    assert results["eval_loss"] == whole.outcome["data"]["metrics"]["eval_loss"]
    assert {"train_results.json", "eval_results.json", "trainer_state.json"} <= set(names(rest.output))
    assert "training_loss.png" not in names(rest.output)
    assert (whole.output / "training_loss.png").read_bytes().startswith(b"\x89PNG")
    assert "eval_loss" in (whole.output / "training_loss.svg").read_text()
    assert all(journal.ELAPSED not in data["metrics"] for data in whole.of("checkpoint"))


def test_accuracy_and_overfitting_are_told_while_training(
    tmp_path: Path, tiny: Path, rows: Path, held_out: Path
) -> None:
    spec = {**SPEC, "max_steps": 30, "save_strategy": "no"}
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, eval_dataset=held_out, **spec))

    accuracies = [data["accuracy"] for data in attempt.of("metrics") if "loss" in data]
    assert len(accuracies) == 30 and 0 <= accuracies[0] < accuracies[-1] <= 1
    found = [event for event in attempt.events if event["type"] == "finding" and "over-fits" in event["message"]]
    assert len(found) == 1 and found[0]["level"] == "warning"
    assert found[0]["data"]["field"] == "num_train_epochs" and found[0]["data"]["advice"]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
