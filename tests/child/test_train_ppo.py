"""Stage ppo: its equations against the plain way, its numbers as they were yesterday, and that it learns what pays."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from preferring import make_pairs
from rewards import make_counting_reward, make_reward_adapter, make_reward_model
from safetensors import safe_open
from test_train_control import tell_at_step
from test_train_numerics import encoder, read, same_weights
from training import Attempt, make_attempt, make_model, train, train_here
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from shared.errors import InvalidSpec
from trainer_worker.child import memory
from trainer_worker.child.ppo import equations, rollout

#: Drawn from the whole distribution, as ppo assumes.
SPEC = {
    "stage": "ppo", "reward_model": "scores", "top_k": 0, "top_p": 1.0, "temperature": 1.0, "max_new_tokens": 8,
    "max_steps": 4,
}  # fmt: skip
#: Loss and reward of four steps, on one thread, torch 2.13, transformers 5.17, peft 0.21.
PINNED: dict[str, dict[str, list[float]]] = {
    "lora": {
        "loss": [-0.04638153, -0.03791034, 0.1187381, 0.013809046],
        "reward": [-1.075047, -0.1179329, -0.1268883, -0.9688688],
    },
    "full": {
        "loss": [-0.08559213, -0.031359, -0.009311432, 0.08212759],
        "reward": [0.7771758, 1.143158, 0.3989422, 1.666802],
    },
    "freeze": {
        "loss": [-0.05423386, 0.01655912, 0.02226816, 0.1106331],
        "reward": [0.7771758, 1.149637, 0.3989422, 1.730703],
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    return make_reward_model(tmp_path_factory.mktemp("rewards") / "whole", tiny)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    return make_reward_adapter(tmp_path_factory.mktemp("rewards") / "beside", tiny)


@pytest.fixture(scope="module")
def rewards(whole: Path, beside: Path) -> dict[str, dict[str, Any]]:
    """By finetuning_type: what make_attempt needs."""
    full = {"reward": {"model_path": whole}, "reward_model_type": "full", "learning_rate": 1e-3}
    return {
        "lora": {"reward": {"adapter_path": beside}},
        "full": full | {"finetuning_type": "full"},
        "freeze": full | {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
    }


def column(attempt: Attempt, name: str) -> list[float]:
    return [data[name] for data in attempt.of("metrics")]


@pytest.mark.parametrize("method", ["lora", "full", "freeze"])
def test_losses_and_rewards_are_the_pinned_ones(
    tmp_path: Path, tiny: Path, rows: Path, rewards: dict[str, Any], method: str
) -> None:
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, **SPEC, **rewards[method]))

    assert attempt.losses == pytest.approx(PINNED[method]["loss"], rel=1e-5)
    assert column(attempt, "reward") == pytest.approx(PINNED[method]["reward"], rel=1e-5)
    assert column(attempt, "objective/kl")[0] == 0.0  # the reference is the model as it was at first
    assert attempt.outcome["data"]["metrics"]["reward"] == column(attempt, "reward")[-1]


def test_advantages_are_the_sums_of_discounted_residuals() -> None:
    """arXiv 1506.02438, eq. 16 as it is written: a double sum for each answer, instead of one pass backwards."""
    torch.manual_seed(0)
    rewards, values = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    lengths = [6, 1, 4]
    mask = torch.arange(6)[None] < torch.tensor(lengths)[:, None]

    found = equations.advantages(rewards * mask, values * mask, mask)

    for row, length in enumerate(lengths):
        following = [*values[row, 1:length].tolist(), 0.0]
        deltas = [rewards[row, t] + equations.GAMMA * following[t] - values[row, t] for t in range(length)]
        decay = equations.GAMMA * equations.LAMBDA
        expected = [sum(decay ** (s - t) * deltas[s] for s in range(t, length)) for t in range(length)]
        assert found[row, :length].tolist() == pytest.approx([float(value) for value in expected], rel=1e-9)
        assert not found[row, length:].any()


def test_the_clipped_surrogate_is_that_of_the_paper() -> None:
    """arXiv 1707.06347, eq. 7 and its figure 1, token by token."""
    torch.manual_seed(0)
    shape = (4, 5)
    old, new, advantages = torch.randn(shape), torch.randn(shape), torch.randn(shape)
    values, old_values, returns = torch.randn(shape), torch.randn(shape), torch.randn(shape)
    mask = torch.rand(shape) < 0.7

    found = equations.losses(
        logprobs=new, values=values, old_logprobs=old, old_values=old_values, advantages=advantages, returns=returns,
        mask=mask,
    )  # fmt: skip

    policy, value, clipped = 0.0, 0.0, 0
    for b, t in mask.nonzero().tolist():
        ratio, a = float((new[b, t] - old[b, t]).exp()), float(advantages[b, t])
        bounded = min(max(ratio, 0.8), 1.2)
        policy -= min(ratio * a, bounded * a)
        clipped += ratio * a > bounded * a
        near = min(max(values[b, t], old_values[b, t] - 0.2), old_values[b, t] + 0.2)
        value += 0.5 * max((values[b, t] - returns[b, t]) ** 2, (near - returns[b, t]) ** 2)
    assert found.policy.item() == pytest.approx(policy, rel=1e-5)
    assert found.value.item() == pytest.approx(float(value), rel=1e-5)
    assert found.num_clipped.item() == clipped > 0


def test_the_penalty_is_steered_towards_its_target() -> None:
    above, below = equations.Penalty(6.0), equations.Penalty(6.0)
    above.steer(600.0, 1000)
    below.steer(5.4, 1000)

    assert above.coefficient == pytest.approx(0.2 * (1 + 0.2 * 0.1))  # at most 20 % of a tenth of the horizon
    assert below.coefficient == pytest.approx(0.2 * (1 - 0.1 * 0.1))


def test_running_scores_are_those_of_all_together() -> None:
    torch.manual_seed(0)
    parts = torch.randn(3, 7) * 5 + 2
    running = equations.Running()
    for part in parts:
        running.take(part, lambda numbers: numbers)

    assert running.mean == pytest.approx(parts.mean().item(), rel=1e-5)
    assert running.deviation == pytest.approx(parts.std().item(), rel=1e-5)


def test_an_answer_ends_with_the_first_token_that_ends_one() -> None:
    drawn = torch.tensor([[5, 2, 2, 2], [5, 6, 7, 8], [9, 5, 2, 7]])
    assert rollout.until_end(drawn, [2, 9]).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize("kind", ["lora", "full", "adapter of another"])
def test_scores_are_those_of_the_model_as_transformers_loads_it(
    tmp_path: Path, tiny: Path, rows: Path, whole: Path, beside: Path, kind: str
) -> None:
    """One answer of one token to each prompt, drawn from the likeliest only: known without drawing."""
    reward = {"lora": {"adapter_path": beside}, "full": {"model_path": whole}}.get(
        kind, {"model_path": tiny, "adapter_path": beside}
    )
    spec = SPEC | {"top_k": 1, "max_new_tokens": 1, "max_steps": 1, "per_device_train_batch_size": 24}
    spec |= {"reward_model_type": "lora" if kind == "lora" else "full"}
    spec |= {"reward_model_adapters": "scores"} if kind == "adapter of another" else {}
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, reward=reward, **spec))

    scorer = AutoModelForSequenceClassification.from_pretrained(whole if kind == "full" else tiny, num_labels=1)
    if kind != "full":
        scorer = PeftModel.from_pretrained(scorer, beside)
    assert column(attempt, "reward") == pytest.approx([mean_score(scorer, tiny, rows)], rel=1e-5)


def mean_score(scorer: Any, model: Path, rows: Path) -> float:
    """Of each prompt with its likeliest next token, one at a time."""
    policy = AutoModelForCausalLM.from_pretrained(model)
    scores = []
    with torch.no_grad():
        for row in read(rows):
            ids = torch.tensor([encoder().prompt(row).input_ids])
            answered = torch.cat([ids, policy(ids).logits[:, -1:].argmax(dim=2)], dim=1)
            scores.append(scorer(answered).logits.item())
    return sum(scores) / len(scores)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_stage_rm_makes_scores_the_answers(tmp_path: Path, tiny: Path, rows: Path, method: str) -> None:
    """The whole way: a model learns which answers are better, and another to give such."""
    pairs = make_pairs(tmp_path / "pairs.json")
    judge = {"stage": "rm", "learning_rate": 1e-3, "num_train_epochs": 1, "finetuning_type": method}
    made = train_here(make_attempt(tmp_path / "rm", tiny, pairs, **judge)).output
    reward = {"adapter_path": made} if method == "lora" else {"model_path": made}
    spec = SPEC | {"reward_model_type": method, "top_k": 1, "max_new_tokens": 1, "max_steps": 1}

    attempt = train_here(
        make_attempt(tmp_path / "a", tiny, rows, reward=reward, **spec, per_device_train_batch_size=24)
    )

    scorer = AutoModelForSequenceClassification.from_pretrained(made if method == "full" else tiny, num_labels=1)
    scorer = PeftModel.from_pretrained(scorer, made) if method == "lora" else scorer
    assert column(attempt, "reward") == pytest.approx([mean_score(scorer, tiny, rows)], rel=1e-5)


def test_small_batches_learn_as_one_does(tmp_path: Path, tiny: Path, rows: Path, rewards: dict[str, Any]) -> None:
    """The likeliest token alone is no choice: the same answers are drawn whatever the batch."""
    spec = SPEC | rewards["full"] | {"top_k": 1}
    one = train_here(make_attempt(tmp_path / "one", tiny, rows, **spec, per_device_train_batch_size=4))
    parts = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    parted = train_here(make_attempt(tmp_path / "parts", tiny, rows, **spec, **parts))

    assert parted.losses == pytest.approx(one.losses, rel=1e-3, abs=1e-6)
    assert column(parted, "reward") == pytest.approx(column(one, "reward"), rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, tiny: Path, rows: Path, rewards: dict[str, Any], method: str
) -> None:
    """Values, penalty and running scores are carried on, and the next answers are drawn with the same numbers."""
    spec = SPEC | rewards[method] | {"save_strategy": "steps", "save_steps": 2, "ppo_score_norm": True}
    spec |= {"ppo_whiten_rewards": True, "ppo_buffer_size": 2, "per_device_train_batch_size": 3}
    unbroken = train_here(make_attempt(tmp_path / "unbroken", tiny, rows, **spec))
    checkpoint = unbroken.folder / unbroken.of("checkpoint")[0]["path"]

    rest = train_here(make_attempt(tmp_path / "rest", tiny, rows, resume_from=checkpoint, **spec))

    assert rest.of("metrics")[0]["step"] == 3
    assert rest.losses == unbroken.losses[2:]
    assert column(rest, "objective/kl_coefficient") == column(unbroken, "objective/kl_coefficient")[2:]
    assert same_weights(rest, unbroken)


def test_an_adapter_that_is_trained_on_is_its_own_reference(
    tmp_path: Path, tiny: Path, rows: Path, rewards: dict[str, Any]
) -> None:
    """The model at the start is the base with that adapter, not the base."""
    first = train_here(make_attempt(tmp_path / "sft", tiny, rows, max_steps=3))

    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, adapter=first.output, **SPEC, **rewards["lora"]))

    assert column(attempt, "objective/kl")[0] == 0.0
    assert any(abs(divergence) > 0.0 for divergence in column(attempt, "objective/kl"))


def test_recomputed_activations_change_nothing(tmp_path: Path, tiny: Path, rows: Path, rewards: dict[str, Any]) -> None:
    kept = train_here(make_attempt(tmp_path / "kept", tiny, rows, **SPEC, **rewards["lora"]))
    budget, memory.BUDGET = memory.BUDGET, dict.fromkeys(memory.BUDGET, 0.0)  # as if there were no memory
    try:
        again = train_here(make_attempt(tmp_path / "again", tiny, rows, **SPEC, **rewards["lora"]))
    finally:
        memory.BUDGET = budget

    assert again.told("gradient_checkpointing") and not kept.told("gradient_checkpointing")
    assert again.losses == pytest.approx(kept.losses, rel=1e-5)


def test_what_is_published_answers_and_does_not_judge(
    tmp_path: Path, tiny: Path, rows: Path, rewards: dict[str, Any]
) -> None:
    spec = SPEC | {"save_strategy": "steps", "save_steps": 2}
    adapter = train_here(make_attempt(tmp_path / "lora", tiny, rows, **spec, **rewards["lora"]))
    full = train_here(make_attempt(tmp_path / "full", tiny, rows, **spec, **rewards["full"]))

    with safe_open(adapter.output / "adapter_model.safetensors", framework="pt") as file:
        assert all(".lora_" in name for name in file.keys())  # noqa: SIM118 (no mapping)
    assert not {"value_head.safetensors", "ppo.json"} & {path.name for path in full.output.iterdir()}
    told: dict[str, Any] = {}
    _, told = AutoModelForCausalLM.from_pretrained(full.output, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert (full.folder / full.of("checkpoint")[0]["path"] / "value_head.safetensors").exists()


def test_a_token_that_pays_is_drawn_more_often(tmp_path: Path, tiny: Path, rows: Path) -> None:
    """The reward is the token's share; at first it is one of 384 that are all as likely."""
    token = 300
    counting = make_counting_reward(tmp_path / "counting", token)
    spec = {
        "finetuning_type": "full", "reward_model_type": "full", "learning_rate": 3e-3, "max_steps": 16,
        "lr_scheduler_type": "constant", "per_device_train_batch_size": 24, "max_new_tokens": 12,
        "ppo_score_norm": True, "ppo_target": 1000.0, "num_train_epochs": 100,
    }  # fmt: skip
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, reward={"model_path": counting}, **(SPEC | spec)))

    before, after = (share(folder, token, rows) for folder in (tiny, attempt.output))
    assert column(attempt, "reward")[-1] > 10 * max(column(attempt, "reward")[:3])
    assert before < 0.01 and after > 0.1


def share(folder: Path, token: int, rows: Path) -> float:
    """Of the tokens of one drawn answer to each prompt."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [torch.tensor([encoder().prompt(row).input_ids]) for row in read(rows)]
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": 12, "pad_token_id": 2}
    answers = [model.generate(ids, **options)[0, ids.shape[1] :] for ids in prompts]
    return float((torch.cat(answers) == token).double().mean())


def test_pause_saves_a_checkpoint_between_rounds(
    tmp_path: Path, tiny: Path, rows: Path, rewards: dict[str, Any]
) -> None:
    spec = SPEC | rewards["lora"] | {"num_train_epochs": 1000, "max_steps": 3000, "per_device_train_batch_size": 2}
    attempt = make_attempt(tmp_path / "a", tiny, rows, **spec)
    thread: threading.Thread = tell_at_step(attempt, 3, "pause")
    train_here(attempt)
    thread.join()

    assert attempt.outcome["type"] == "stopped"
    assert 3 <= attempt.outcome["data"]["step"] < 3000
    assert attempt.of("checkpoint")[-1]["step"] == attempt.outcome["data"]["step"]


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_two_processes_learn_one_model(
    tmp_path: Path, tiny: Path, rows: Path, rewards: dict[str, Any], method: str
) -> None:
    """Without a choice in drawing both halves of the batch get the answers that one process gives them."""
    spec = SPEC | {"learning_rate": 1e-3} | rewards[method] | {"top_k": 1, "ppo_score_norm": True, "ppo_epochs": 1}
    alone = train_here(make_attempt(tmp_path / "alone", tiny, rows, **spec, per_device_train_batch_size=4))
    halves = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "num_processes": 2}
    two = train(make_attempt(tmp_path / "two", tiny, rows, **spec, **halves), 2)

    assert two.outcome["type"] == "done"
    assert two.losses == pytest.approx(alone.losses, rel=1e-3, abs=1e-6)
    assert column(two, "reward") == pytest.approx(column(alone, "reward"), rel=1e-4)
    assert two.outcome["data"]["num_tokens"] == alone.outcome["data"]["num_tokens"]


def test_half_precision_learns(tmp_path: Path, rows: Path) -> None:
    model = make_model(tmp_path / "model", torch.bfloat16)
    reward = make_reward_adapter(tmp_path / "reward", model)
    attempt = train_here(make_attempt(tmp_path / "a", model, rows, reward={"adapter_path": reward}, bf16=True, **SPEC))

    assert column(attempt, "objective/kl")[0] == 0.0
    assert attempt.outcome["type"] == "done"


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_reward_model_scores_nearly_the_same(
    tmp_path: Path, tiny: Path, rows: Path, whole: Path, bits: int
) -> None:
    spec = SPEC | {"max_steps": 1, "reward_model_type": "full", "reward": {"model_path": whole}}
    exact = train_here(make_attempt(tmp_path / "exact", tiny, rows, **spec))
    near = train_here(make_attempt(tmp_path / "near", tiny, rows, **spec, reward_model_quantization_bit=bits))

    assert column(near, "reward") != column(exact, "reward")
    assert column(near, "reward") == pytest.approx(column(exact, "reward"), abs=0.5)


def test_a_quantized_base_is_shared_with_its_reward_adapter(
    tmp_path: Path, tiny: Path, rows: Path, rewards: dict[str, Any]
) -> None:
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, quantization_bit=4, **SPEC, **rewards["lora"]))

    assert attempt.outcome["type"] == "done"
    assert column(attempt, "objective/kl")[0] == 0.0


def test_what_gives_no_scores_is_refused(tmp_path: Path, tiny: Path, rows: Path) -> None:
    attempt = make_attempt(tmp_path / "a", tiny, rows, reward={"model_path": tiny}, reward_model_type="full", **SPEC)
    with pytest.raises(InvalidSpec, match="no reward model") as refused:
        train_here(attempt)
    assert refused.value.field == "reward_model"


def test_a_reward_model_of_another_vocabulary_is_refused(tmp_path: Path, tiny: Path, rows: Path, whole: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in whole.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    words = json.loads((other / "tokenizer.json").read_text())
    first, second, *_ = (word for word in words["model"]["vocab"] if len(word) == 1)
    vocab = words["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(words))

    attempt = make_attempt(tmp_path / "a", tiny, rows, reward={"model_path": other}, reward_model_type="full", **SPEC)
    with pytest.raises(InvalidSpec, match="another vocabulary"):
        train_here(attempt)
