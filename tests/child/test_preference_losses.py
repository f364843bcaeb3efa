"""Our losses of preferences are TRL's for the same batch, where TRL has them; the others are their formula."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from training import ANSWERS, QUESTIONS, make_tokenizer
from transformers import LlamaForCausalLM
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from shared import schema
from shared.spec import TrainSpec
from shared.stages import dpo as declared
from trainer_worker.child import preference
from trainer_worker.child.batch import Flat, Item, Labels, Pairs, as_item
from trainer_worker.child.objective import Measured
from trainer_worker.child.preference import LOSSES, Scores
from trainer_worker.child.reference import Reference
from trainer_worker.child.stages.dpo import Preference
from trainer_worker.child.stages.kto import Verdicts

#: TRL has no other names for these, or not the loss.
NOT_IN_TRL = ("kto_pair", "orpo", "simpo")
PAIRS = [
    {"prompt": QUESTIONS[n], "chosen": " ".join(ANSWERS[: n + 1]), "rejected": "Red. " * (3 - n)} for n in range(3)
]
LABELLED = [{"prompt": QUESTIONS[n], "completion": ANSWERS[n], "label": n != 1} for n in range(4)]


@pytest.fixture(scope="module")
def moved(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after some training: its weights are a little off."""
    torch.manual_seed(1)
    model = LlamaForCausalLM.from_pretrained(tiny)
    for weight in model.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    model.save_pretrained(folder := tmp_path_factory.mktemp("moved"))
    return folder


def load(folder: Path) -> Any:
    model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    model.config.use_cache = False
    return model


def arguments(folder: Path) -> dict[str, Any]:
    return {"output_dir": str(folder), "report_to": "none", "use_cpu": True, "max_length": None, "bf16": False}


def theirs_of(moved: Path, tiny: Path, folder: Path, trainer: Any, config: Any, rows: list[dict[str, Any]]) -> Any:
    return trainer(
        model=load(moved), ref_model=load(tiny), args=config(**arguments(folder)),
        train_dataset=Dataset.from_list(rows), processing_class=make_tokenizer(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trl_dpo(moved: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = partial(DPOConfig, beta=0.3, per_device_train_batch_size=3)
    return theirs_of(moved, tiny, tmp_path_factory.mktemp("dpo"), DPOTrainer, config, PAIRS)


def ours(moved: Path, tiny: Path, stage: str, items: list[Item], **body: Any) -> Measured:
    spec = schema.load(TrainSpec, {"model_name_or_path": "m", "dataset": "d", "stage": stage, "pref_beta": 0.3, **body})
    held = Reference(model=load(tiny), state=nullcontext)
    if stage == "kto":
        made: Any = Verdicts(spec=spec, autocast=nullcontext, held=held)
        batch = Labels(inner=Flat(segments=False))(items)
    else:
        made = Preference(spec, nullcontext, None if spec.plugged["dpo"].pref_loss in declared.REFERENCE_FREE else held)
        batch = Pairs(inner=Flat(segments=False))(items)
    return made(load(moved), batch, validating=False)


def sample(prompt: list[int], answer: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([*prompt, *answer]), np.arange(len(prompt) + len(answer)) >= len(prompt)


def pair_items(trl_dpo: Any) -> list[Item]:
    return [
        as_item([sample(row["prompt_ids"], row[f"{answer}_ids"]) for answer in ("chosen", "rejected")])
        for row in trl_dpo.train_dataset
    ]


@pytest.mark.parametrize(
    ("loss", "body"),
    [
        *((loss, {}) for loss in declared.LOSSES if loss not in (*NOT_IN_TRL, "exo_pair")),
        ("exo_pair", {"dpo_label_smoothing": 0.1}),
        ("robust", {"dpo_label_smoothing": 0.1}),
        ("sigmoid", {"ld_alpha": 0.4}),
        ("ipo", {"ld_alpha": 0.4}),
        ("hinge", {"ld_alpha": 0.0}),
    ],
)
def test_losses_of_pairs_are_trls(moved: Path, tiny: Path, trl_dpo: Any, loss: str, body: dict[str, Any]) -> None:
    trl_dpo.loss_types, trl_dpo.loss_weights = [loss], [1.0]
    trl_dpo.label_smoothing, trl_dpo.ld_alpha = body.get("dpo_label_smoothing", 0.0), body.get("ld_alpha")
    trl_dpo._metrics["eval"].clear()
    trl_dpo.model.eval()
    with torch.no_grad():
        theirs = trl_dpo.compute_loss(trl_dpo.model, trl_dpo.data_collator(list(trl_dpo.train_dataset))).item()
        measured = ours(moved, tiny, "dpo", pair_items(trl_dpo), pref_loss=loss, **body)

    assert measured.loss.item() / measured.num_units == pytest.approx(theirs, rel=1e-4)
    if loss not in preference.AVERAGED:
        for name, (total, count) in measured.sums.items():
            assert float(total) / count == pytest.approx(trl_dpo._metrics["eval"][name][0], rel=1e-3), name


def test_the_loss_of_labelled_answers_is_trls(moved: Path, tiny: Path, tmp_path: Path) -> None:
    config = partial(
        KTOConfig, beta=0.3, per_device_train_batch_size=4, desirable_weight=1.5, undesirable_weight=0.7,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    trl_kto = theirs_of(moved, tiny, tmp_path, KTOTrainer, config, LABELLED)
    trl_kto.model.eval()
    rows = list(trl_kto.train_dataset)
    items = [
        as_item([sample(row["prompt_ids"], row["completion_ids"])])
        | {"label": int(row["label"]), "mismatched": as_item([sample(row["prompt_ids"], row["KL_completion_ids"])])}
        for row in rows
    ]

    with torch.no_grad():
        theirs = trl_kto.compute_loss(trl_kto.model, trl_kto.data_collator(rows)).item()
        measured = ours(moved, tiny, "kto", items, kto_chosen_weight=1.5, kto_rejected_weight=0.7)

    assert measured.loss.item() / measured.num_units == pytest.approx(theirs, rel=1e-4)
    for name, (total, count) in measured.sums.items():
        assert float(total) / float(count) == pytest.approx(trl_kto._metrics["eval"][name][0], rel=1e-3, abs=1e-6), name


#: Two pairs: scores of the better and the worse answers.
CHOSEN, REJECTED = torch.tensor([0.5, -1.0]), torch.tensor([-0.5, -0.25])


@pytest.mark.parametrize(
    ("loss", "given", "expected"),
    [
        # cDPO: 0.9 x DPO + 0.1 x DPO the wrong way round.
        ("sigmoid", {"smoothing": 0.1}, [0.9 * 0.3132617 + 0.1 * 1.3132617, 0.9 * 1.1368712 + 0.1 * 0.3868712]),
        # The KL of the better answers is clamped to 0, that of the worse ones too.
        ("kto_pair", {}, [(0.3775407 + 0.3775407) / 2, (0.7310586 + 0.4378235) / 2]),
        ("simpo", {"gamma": 0.5}, [0.4740770, 1.5019290]),
    ],
)
def test_losses_that_trl_lacks_are_their_formula(loss: str, given: dict[str, float], expected: list[float]) -> None:
    scores = Scores(chosen=CHOSEN, rejected=REJECTED, beta=1.0, **given)

    assert LOSSES[loss](scores).tolist() == pytest.approx(expected, rel=1e-5)


def test_orpo_adds_the_odds_ratio_to_the_loss_of_the_better_answer() -> None:
    """Mean probabilities of a token of 0.5 and 0.25: odds 1 and 1/3, their ratio 3."""
    scores = Scores(chosen=torch.tensor([0.5]).log(), rejected=torch.tensor([0.25]).log(), beta=0.1)

    assert LOSSES["orpo"](scores).item() == pytest.approx(0.6931472 + 0.1 * 0.2876821, rel=1e-5)


def test_bco_moves_both_answers_away_from_the_mean_reward() -> None:
    scores = Scores(chosen=CHOSEN, rejected=REJECTED, beta=2.0)

    logistic: Callable[[float], float] = lambda value: float(np.log1p(np.exp(-value)))  # noqa: E731
    expected = [logistic(1.0 - 0.3) + logistic(1.0 + 0.3), logistic(-2.0 - 0.3) + logistic(0.5 + 0.3)]
    assert preference.bco(scores, 0.3).tolist() == pytest.approx(expected, rel=1e-5)


def test_every_declared_loss_has_its_formula() -> None:
    assert set(LOSSES) == set(declared.LOSSES)
