"""Stage kto: pinned losses, weights, the estimate of the distance to the reference, several processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from preferring import make_labelled
from training import Attempt, make_attempt, train_here

from trainer_worker.child.datasets import Labelled
from trainer_worker.child.prepare import PREPARED
from trainer_worker.child.tokens import TokenStore


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled(tmp_path_factory.mktemp("labelled") / "labelled.json")


def kto(folder: Path, model: Path, data: Path, **spec: Any) -> Attempt:
    given = {"stage": "kto", "learning_rate": 2e-3, "num_train_epochs": 2, "pref_beta": 0.5}
    return make_attempt(folder, model, data, **(given | spec))


@pytest.mark.parametrize(
    ("method", "expected"), [("lora", [0.5, 0.45211875]), ("full", [0.5, 0.26493448]), ("freeze", [0.5, 0.27209234])]
)
def test_losses_are_pinned(tmp_path: Path, tiny: Path, labelled: Path, method: str, expected: list[float]) -> None:
    attempt = train_here(kto(tmp_path / "a", tiny, labelled, finetuning_type=method))

    assert attempt.losses[:2] == pytest.approx(expected, rel=1e-5)
    assert attempt.losses[-1] < 0.4


def test_desirable_answers_gain_and_others_lose(tmp_path: Path, tiny: Path, labelled: Path) -> None:
    attempt = train_here(kto(tmp_path / "a", tiny, labelled, num_train_epochs=4, val_size=0.25))

    told = attempt.of("metrics")
    assert told[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert attempt.outcome["data"]["metrics"]["eval_rewards/margins"] > 0.5
    assert {"rewards/chosen", "rewards/rejected", "logps/chosen"} <= attempt.outcome["data"]["metrics"].keys()


def test_a_weight_scales_the_loss_of_its_answers(tmp_path: Path, tiny: Path, labelled: Path) -> None:
    """At the start every answer costs 1/2; half of them count twice."""
    spec = {"per_device_train_batch_size": 16, "max_steps": 1, "kto_chosen_weight": 2.0}
    attempt = train_here(kto(tmp_path / "a", tiny, labelled, **spec))

    assert attempt.losses == pytest.approx([0.75], rel=1e-5)
    finding = next(data for data in attempt.of("finding") if data["field"].startswith("kto"))
    assert finding["field"] == "kto_rejected_weight"


def test_an_answer_is_compared_with_that_of_the_row_before(tmp_path: Path, tiny: Path, labelled: Path) -> None:
    attempt = train_here(kto(tmp_path / "a", tiny, labelled, max_steps=1))
    store = TokenStore(Path(json.loads((attempt.folder / PREPARED).read_text())["train"]))
    items = Labelled(store, [0, 3, 5], 128)

    own, mismatched = items[1], items[1]["mismatched"]
    answer = store.sample(0)[0][store.sample(0)[1].astype(bool)]
    assert mismatched["input_ids"][-len(answer) :].tolist() == answer.tolist()
    num_prompt = int((store.sample(3)[1] == 0).sum())
    assert mismatched["input_ids"][:num_prompt].tolist() == own["input_ids"][:num_prompt].tolist()
    assert [items[index]["label"] for index in range(3)] == [0, 1, 1]


def test_one_kind_of_answer_alone_is_told(tmp_path: Path, tiny: Path) -> None:
    data = tmp_path / "good.json"
    data.write_text('[{"instruction": "Why?", "output": "So.", "kto_tag": true}]')
    attempt = train_here(kto(tmp_path / "a", tiny, data, per_device_train_batch_size=1, max_steps=1))

    assert any("nothing to tell apart" in event["message"] for event in attempt.events)


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path, tiny: Path, labelled: Path) -> None:
    spec = {"save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 3}
    whole = train_here(kto(tmp_path / "whole", tiny, labelled, **spec))
    checkpoint = whole.folder / whole.of("checkpoint")[0]["path"]
    rest = train_here(kto(tmp_path / "rest", tiny, labelled, resume_from=checkpoint, **spec))

    assert rest.losses == whole.losses[3:]
