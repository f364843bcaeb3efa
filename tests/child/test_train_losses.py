"""Losses other than the plain one: each is its paper's formula, and a model learns by it as pinned."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from training import make_attempt, make_tokenizer, train_here
from transformers import AutoModelForCausalLM, MixtralConfig

from shared.errors import InvalidSpec
from trainer_worker.child import token_losses
from trainer_worker.child.batch import Flat, Padded
from trainer_worker.child.noise import Noise, lengths_of

#: Losses of the twelve steps of make_attempt's spec, on one thread, torch 2.13, transformers 5.17.
PINNED: dict[str, list[float]] = {
    "asft": [0.0162285, 0.02247961, 0.01771208, 0.01809393, 0.01828772, 0.0183028, 0.01897588, 0.01872911,
        0.01938712, 0.01954855, 0.01965729, 0.01986426],
    "asft full": [0.0162285, 0.02022443, 0.02142454, 0.02242707, 0.02380498, 0.02482998, 0.02666667,
        0.02736049, 0.02976811, 0.03005514, 0.03068298, 0.03134414],
    "dft": [0.0162285, 0.01927093, 0.02139637, 0.0218342, 0.02187736, 0.02122981, 0.02094981, 0.02226856,
        0.02258218, 0.02256997, 0.02236481, 0.02222017],
    "eaft": [5.776899, 5.640912, 5.544037, 5.520182, 5.516945, 5.544156, 5.548873, 5.505912, 5.537095, 5.482669,
        5.340606, 5.334628],
    "smoothed": [5.898807, 5.720148, 5.642375, 5.640136, 5.636324, 5.651952, 5.646205, 5.597112, 5.615564, 5.557287,
        5.436888, 5.405656],
    "neftune": [5.907559, 5.834624, 5.856792, 5.762809, 5.671162, 5.651143, 5.661971, 5.601062, 5.607951, 5.596139,
        5.588892, 5.602178],
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "dft": {"use_dft_loss": True},
    "eaft": {"use_eaft_loss": True, "eaft_alpha": 2.0},
    "asft": {"use_asft_loss": True, "asft_alpha": 0.5},
    "asft full": {"use_asft_loss": True, "finetuning_type": "full", "learning_rate": 1e-3},
    "smoothed": {"label_smoothing_factor": 0.1},
    "neftune": {"neftune_noise_alpha": 5.0},
}


def plain(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, targets, reduction="none")


def plain_dft(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    losses = plain(logits, targets)
    return losses * torch.exp(-losses).detach()


def plain_eaft(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    top = torch.distributions.Categorical(logits=logits.detach().topk(20, dim=1).values)
    return plain(logits, targets) * (top.entropy() / 3) ** 0.5


def plain_smoothed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.2)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (token_losses.dft(), plain_dft),
        (token_losses.eaft(0.5), plain_eaft),
        (token_losses.smoothed(0.2), plain_smoothed),
    ],
    ids=["dft", "eaft", "smoothed"],
)
def test_a_loss_and_its_gradient_are_those_of_the_formula(
    ours: token_losses.TokenLosses, theirs: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    logits, targets = drawn()
    same(ours(logits[0], targets), theirs(logits[1], targets), logits)


def test_asft_is_dft_and_the_distance_to_the_anchor() -> None:
    logits, targets = drawn()
    anchor = torch.randn(300, 50)
    distance = functional.kl_div(logits[1].log_softmax(1), anchor.softmax(1), reduction="none").sum(1)

    same(token_losses.asft(logits[0], targets, anchor, 0.3), plain_dft(logits[1], targets) + 0.3 * distance, logits)


def drawn() -> tuple[list[torch.Tensor], torch.Tensor]:
    """The same logits twice, and targets; more rows than a slice has."""
    torch.manual_seed(0)
    logits = torch.randn(300, 50) * 3
    return [logits.clone().requires_grad_(), logits.clone().requires_grad_()], torch.randint(0, 50, (300,))


def same(ours: torch.Tensor, theirs: torch.Tensor, logits: list[torch.Tensor]) -> None:
    (ours.sum() / 7).backward()
    (theirs.sum() / 7).backward()
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert torch.allclose(logits[0].grad, logits[1].grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_learns_as_pinned(tmp_path: Path, tiny: Path, rows: Path, kind: str) -> None:
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, **KINDS[kind]))

    assert attempt.losses == pytest.approx(PINNED[kind], rel=1e-5)


@pytest.mark.parametrize(
    "spec", [{"use_dft_loss": True}, {"label_smoothing_factor": 0.5}, {"neftune_noise_alpha": 50.0}]
)
def test_validation_tells_the_plain_loss(tmp_path: Path, tiny: Path, rows: Path, spec: dict[str, Any]) -> None:
    """Before anything is learned it is that of the model as it is."""
    first = [
        train_here(
            make_attempt(tmp_path / name, tiny, rows, eval_dataset=rows, eval_on_start=True, max_steps=1, **given)
        )
        for name, given in {"plain": {}, "other": spec}.items()
    ]

    losses = [attempt.of("metrics")[0]["eval_loss"] for attempt in first]
    assert losses[0] == losses[1] and first[0].losses != first[1].losses


@pytest.mark.parametrize("collator", [Flat(), Padded(pad_id=0)], ids=["flat", "padded"])
def test_noise_is_as_large_as_the_samples_own_length_says(collator: Any) -> None:
    """Uniform in [-1, 1] times alpha / sqrt(L d): of variance 1/3."""
    batch = collator([item(4), item(100)])
    lengths = lengths_of(batch["inputs"])
    noise = Noise(embeddings := torch.nn.Embedding(3, 64), alpha=5.0)
    assert lengths.unique().tolist() == [4, 100]

    torch.manual_seed(0)
    still = embeddings(batch["inputs"]["input_ids"])
    with noise.on(batch["inputs"]):
        change = embeddings(batch["inputs"]["input_ids"]) - still
    for length in (4, 100):
        scale = 5.0 / math.sqrt(length * 64)
        found = change[lengths == length]
        assert found.abs().max() <= scale and found.std().item() == pytest.approx(scale / math.sqrt(3), rel=0.1)
    assert torch.equal(embeddings(batch["inputs"]["input_ids"]), still)


def item(length: int) -> dict[str, Any]:
    import numpy as np

    ids = np.ones(length, dtype=np.int64)
    return {"input_ids": ids, "targets": ids, "lengths": [length]}


def test_experts_are_held_apart_by_a_loss_of_their_own(tmp_path: Path, rows: Path) -> None:
    """As in transformers' own model: its loss with the weight 0.5 less that with 0, of all samples at once."""
    base = tmp_path / "experts"
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    spec = {"finetuning_type": "full", "per_device_train_batch_size": 24, "max_steps": 1}

    losses = [
        train_here(make_attempt(tmp_path / f"a{weight}", base, rows, moe_aux_loss_coef=weight, **spec)).losses[0]
        for weight in (0.0, 0.5)
    ]

    # Spread evenly the loss of the experts is about 1 for each of the two that a token takes.
    assert losses[1] - losses[0] == pytest.approx(0.5 * 2, rel=0.2)


def test_a_model_without_experts_has_no_loss_of_theirs(tmp_path: Path, tiny: Path, rows: Path) -> None:
    with pytest.raises(InvalidSpec) as raised:
        train_here(make_attempt(tmp_path / "a", tiny, rows, moe_aux_loss_coef=0.1))
    assert raised.value.field == "moe_aux_loss_coef"
