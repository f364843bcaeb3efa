"""Stage rm: pinned losses, TRL's loss, and reward models that load as transformers and peft have them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from preferring import make_pairs
from training import ANSWERS, QUESTIONS, Attempt, make_attempt, make_tokenizer, train, train_here
from transformers import AutoTokenizer, LlamaForSequenceClassification
from trl import RewardConfig, RewardTrainer

from trainer_worker.child.prepare import PREPARED
from trainer_worker.child.tokens import TokenStore


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pairs(tmp_path_factory.mktemp("pairs") / "pairs.json")


def rm(folder: Path, model: Path, data: Path, **spec: Any) -> Attempt:
    return make_attempt(folder, model, data, **({"stage": "rm", "learning_rate": 1e-2, "num_train_epochs": 2} | spec))


def loaded(attempt: Attempt, base: Path) -> Any:
    """The reward model as anybody loads it."""
    if not (attempt.output / "adapter_config.json").exists():
        return LlamaForSequenceClassification.from_pretrained(attempt.output).eval()
    whole = LlamaForSequenceClassification.from_pretrained(base, num_labels=1)
    whole.config.pad_token_id = AutoTokenizer.from_pretrained(attempt.output).pad_token_id
    return PeftModel.from_pretrained(whole, attempt.output).eval()


def scores(model: Any, attempt: Attempt) -> torch.Tensor:
    """Of every pair: as transformers pads, and as it finds the last token."""
    store = TokenStore(Path(json.loads((attempt.folder / PREPARED).read_text())["train"]))
    texts = [{"input_ids": store.sample(index)[0].tolist()} for index in range(len(store))]
    batch = AutoTokenizer.from_pretrained(attempt.output, padding_side="right").pad(texts, return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model(**batch).logits.view(-1, 2)
    return found


@pytest.mark.parametrize(
    ("method", "expected"),
    [("lora", [0.67257321, 0.43106326]), ("full", [0.67257321, 0.68652421]), ("freeze", [0.67257321, 0.66604275])],
)
def test_losses_are_pinned(tmp_path: Path, tiny: Path, pairs: Path, method: str, expected: list[float]) -> None:
    attempt = train_here(rm(tmp_path / "a", tiny, pairs, finetuning_type=method))

    assert attempt.losses[:2] == pytest.approx(expected, rel=1e-5)
    assert attempt.losses[-1] < 0.6
    assert {"accuracy", "rewards/chosen", "rewards/rejected", "rewards/margins"} <= attempt.of("metrics")[0].keys()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_comes_out_scores_as_it_was_trained(tmp_path: Path, tiny: Path, pairs: Path, method: str) -> None:
    """One step over all pairs at a rate of almost nothing: the loss is that of the model that comes out."""
    spec = {"finetuning_type": method, "per_device_train_batch_size": 16, "max_steps": 1, "learning_rate": 1e-12}
    attempt = train_here(rm(tmp_path / "a", tiny, pairs, **spec))

    found = scores(loaded(attempt, tiny), attempt)
    loss = -torch.nn.functional.logsigmoid(found[:, 0] - found[:, 1]).mean().item()
    assert attempt.losses[0] == pytest.approx(loss, rel=1e-5) != math.log(2)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_reward_model_prefers_what_it_was_taught_and_is_known_as_one(
    tmp_path: Path, tiny: Path, pairs: Path, method: str
) -> None:
    spec = {"finetuning_type": method, "num_train_epochs": 6, "val_size": 0.25, "learning_rate": 5e-3}
    attempt = train_here(rm(tmp_path / "a", tiny, pairs, **spec))

    found = scores(loaded(attempt, tiny), attempt)
    assert attempt.outcome["data"]["metrics"]["eval_accuracy"] == 1
    assert bool((found[:, 0] > found[:, 1]).all())
    if method == "lora":
        config = json.loads((attempt.output / "adapter_config.json").read_text())
        assert config["task_type"] == "SEQ_CLS" and "score" not in config["target_modules"]
    else:
        config = json.loads((attempt.output / "config.json").read_text())
        assert config["architectures"] == ["LlamaForSequenceClassification"]
        tokenizer = AutoTokenizer.from_pretrained(attempt.output)
        assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_padded_batches_learn_as_flat_ones(tmp_path: Path, tiny: Path, pairs: Path) -> None:
    from trainer_worker.child import attention

    flat = train_here(rm(tmp_path / "flat", tiny, pairs))
    layers, attention.PLAIN_LAYERS = attention.PLAIN_LAYERS, frozenset()  # as if no layer were an ordinary one
    try:
        padded = train_here(rm(tmp_path / "padded", tiny, pairs))
    finally:
        attention.PLAIN_LAYERS = layers

    assert padded.losses == pytest.approx(flat.losses, rel=1e-4)


def test_an_adapter_of_another_stage_gets_a_head(tmp_path: Path, tiny: Path, rows: Path, pairs: Path) -> None:
    first = train_here(make_attempt(tmp_path / "sft", tiny, rows))
    second = train_here(rm(tmp_path / "rm", tiny, pairs, adapter=first.output, save_strategy="steps", save_steps=4))
    checkpoint = second.folder / second.of("checkpoint")[0]["path"]
    rest = train_here(rm(tmp_path / "rest", tiny, pairs, adapter=second.output, max_steps=1))
    resumed = train_here(
        rm(tmp_path / "resumed", tiny, pairs, adapter=first.output, resume_from=checkpoint, save_strategy="no")
    )

    assert json.loads((second.output / "adapter_config.json").read_text())["modules_to_save"] == ["classifier", "score"]
    assert rest.losses[0] < second.losses[0] - 0.1
    assert resumed.losses == second.losses[4:]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path, tiny: Path, pairs: Path) -> None:
    alone = train_here(rm(tmp_path / "alone", tiny, pairs))
    two = train(rm(tmp_path / "two", tiny, pairs, num_processes=2, per_device_train_batch_size=2), 2)

    assert two.losses == pytest.approx(alone.losses, rel=1e-4)


def test_the_loss_is_trls(tmp_path: Path, tiny: Path) -> None:
    """TRL reads the score at the last token that is no padding: ours, where padding is no end of text."""
    from contextlib import nullcontext

    import numpy as np

    from trainer_worker.child.batch import Flat, Pairs, as_item
    from trainer_worker.child.stages.rm import Ranking

    torch.manual_seed(3)
    LlamaForSequenceClassification.from_pretrained(tiny, num_labels=1).save_pretrained(tmp_path / "model")
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "<|endoftext|>"
    rows = [{"prompt": QUESTIONS[n], "chosen": ANSWERS[n], "rejected": "Red. " * (n + 1)} for n in range(3)]
    theirs = RewardTrainer(
        model=LlamaForSequenceClassification.from_pretrained(tmp_path / "model"),
        args=RewardConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, max_length=None, bf16=False),
        train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
    )  # fmt: skip
    theirs.model.eval()
    items = [
        as_item([(np.array(row[f"{answer}_ids"]), np.ones(len(row[f"{answer}_ids"]), bool)) for answer in row_answers])
        for row in theirs.train_dataset
        for row_answers in [("chosen", "rejected")]
    ]
    model = LlamaForSequenceClassification.from_pretrained(tmp_path / "model", attn_implementation="sdpa").eval()
    model.config.use_cache = False

    with torch.no_grad():
        expected = theirs.compute_loss(theirs.model, theirs.data_collator(list(theirs.train_dataset))).item()
        ranking = Ranking(head=model.score, dtype=torch.float32, autocast=nullcontext)
        found = ranking(model, Pairs(inner=Flat(segments=False), scored=True)(items), validating=False)

    assert found.loss.item() / found.num_units == pytest.approx(expected, rel=1e-4)
    total, count = found.sums["accuracy"]
    assert float(total) / count == pytest.approx(theirs._metrics["eval"]["accuracy"][0])
