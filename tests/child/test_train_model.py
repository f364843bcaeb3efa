"""A model that is changed before it is trained: stretched positions, random weights, expanded blocks, chosen layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import published
import pytest
import torch
from training import Attempt, make_attempt, make_dataset, make_tokenizer, train_here
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from shared.errors import InvalidSpec

#: Losses of the first steps of make_attempt's spec, on one thread, torch 2.13, transformers 5.17, peft 0.21.
PINNED: dict[str, list[float]] = {
    "scratch": [5.885372, 5.114195, 4.342872, 3.782626, 3.444349, 3.326889, 3.089999, 3.013518, 2.928864, 2.849866,
        2.761734, 2.661429],
    "first layer": [5.900042, 5.698747, 5.579028, 5.58434, 5.518013, 5.441955, 5.37035, 5.301769, 5.265797, 5.166708,
        5.112341, 5.119522],
    "modules": [5.900042, 5.040447, 4.341654, 3.890342, 3.353507, 3.039591, 2.736559, 2.515371, 2.332056, 2.232018,
        2.12795, 2.066936],
    "pro freeze": [5.900042, 5.66027, 5.586289, 5.605618, 5.591134, 5.598294, 5.563257, 5.825596, 5.612703, 5.526954,
        5.508797, 5.507946],
    "pro lora": [5.900042, 5.778098, 5.687019, 5.641781, 5.623577, 5.641033, 5.637476, 5.593263, 5.590229, 5.591577,
        5.585649, 5.593345],
    "linear": [5.899906, 5.6636, 5.549228, 5.478757, 5.396848, 5.348047, 5.286056, 5.210703, 5.137128, 5.118385,
        5.087554, 5.073082],
    "yarn": [5.90013, 5.663321, 5.549114, 5.478613, 5.396531, 5.347619, 5.28547, 5.210288, 5.136672, 5.117903,
        5.086976, 5.072309],
    "llama3": [5.900058, 5.663392, 5.549256, 5.478776, 5.39676, 5.348018, 5.285978, 5.210571, 5.137081, 5.118399,
        5.087602, 5.073095],
    "dynamic": [5.900042, 5.663345, 5.549219, 5.478791, 5.396804, 5.348065, 5.286017, 5.210617, 5.137116, 5.118449,
        5.087653, 5.073149],
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "scratch": {"train_from_scratch": True, "finetuning_type": "full", "seed": 1},
    "first layer": {"finetuning_type": "freeze", "freeze_trainable_layers": -1},
    "modules": {"finetuning_type": "freeze", "freeze_trainable_layers": 1, "freeze_trainable_modules": "mlp",
                "freeze_extra_modules": "embed_tokens"},
    "pro freeze": {"use_llama_pro": True, "finetuning_type": "freeze", "freeze_trainable_layers": 2},
    "pro lora": {"use_llama_pro": True, "freeze_trainable_layers": 1},
    "linear": {"rope_scaling": "linear", "cutoff_len": 1024, "finetuning_type": "full", "learning_rate": 1e-3},
    "yarn": {"rope_scaling": "yarn", "cutoff_len": 2000, "finetuning_type": "full", "learning_rate": 1e-3},
    "llama3": {"rope_scaling": "llama3", "cutoff_len": 1024, "finetuning_type": "full", "learning_rate": 1e-3},
    "dynamic": {"rope_scaling": "dynamic", "cutoff_len": 1024, "finetuning_type": "full", "learning_rate": 1e-3},
}  # fmt: skip


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("held out") / "rows.json", 7)


@pytest.fixture(scope="module")
def expanded(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """The tiny model with a copy after each of its two layers that changes nothing yet."""
    folder = tmp_path_factory.mktemp("models") / "expanded"
    was = AutoModelForCausalLM.from_pretrained(tiny)
    config = LlamaConfig(**{**was.config.to_dict(), "num_hidden_layers": 4})
    made = LlamaForCausalLM(config)
    weights = was.state_dict()
    for name in made.state_dict():
        number = name.split(".")[2] if ".layers." in name else ""
        source = name.replace(f".{number}.", f".{int(number) // 2}.", 1) if number else name
        copied = number in ("1", "3") and name.endswith(("o_proj.weight", "down_proj.weight"))
        made.state_dict()[name].copy_(torch.zeros_like(weights[source]) if copied else weights[source])
    made.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_model_learns_as_pinned_and_is_published_as_it_was_trained(
    tmp_path: Path, tiny: Path, rows: Path, held_out: Path, kind: str
) -> None:
    spec = {"eval_dataset": held_out, "do_eval": True, "eval_steps": 100} | KINDS[kind]
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, **spec))

    assert attempt.losses == pytest.approx(PINNED[kind], rel=1e-5)
    own = attempt.outcome["data"]["metrics"]["eval_loss"]
    assert published.loss(attempt, tiny, held_out) == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("method", ["freeze", "lora"])
def test_of_an_expanded_model_only_the_added_blocks_are_trained(
    tmp_path: Path, expanded: Path, tiny: Path, rows: Path, method: str
) -> None:
    spec = {"finetuning_type": method, "use_llama_pro": True, "freeze_trainable_layers": 2}
    attempt = train_here(make_attempt(tmp_path / "a", expanded, rows, **spec))
    plain = train_here(make_attempt(tmp_path / "b", tiny, rows, max_steps=1))

    assert attempt.losses[0] == pytest.approx(plain.losses[0], rel=1e-6)
    assert attempt.losses[-1] < attempt.losses[0] - 0.1
    assert not attempt.of("finding")
    assert changed_layers(attempt, expanded) == {1, 3}


def changed_layers(attempt: Attempt, base: Path) -> set[int]:
    was, made = AutoModelForCausalLM.from_pretrained(base), published.model(attempt.output, base)
    if hasattr(made, "merge_and_unload"):
        made = made.merge_and_unload()
    changed = [name for name, weight in was.named_parameters() if not torch.equal(weight, made.get_parameter(name))]
    assert all(".layers." in name for name in changed)
    return {int(name.split(".")[2]) for name in changed}


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"use_llama_pro": True, "finetuning_type": "freeze", "freeze_trainable_layers": 3}, "freeze_trainable_layers",
         "only into 1, 2"),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 3}, "freeze_trainable_layers", "has 2 layers"),
        ({"finetuning_type": "freeze", "freeze_trainable_modules": "mpl"}, "freeze_trainable_modules", "mpl"),
        ({"finetuning_type": "freeze", "freeze_extra_modules": "head"}, "freeze_extra_modules", "head"),
    ],
)  # fmt: skip
def test_layers_and_modules_that_the_model_lacks_are_refused(
    tmp_path: Path, tiny: Path, rows: Path, spec: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidSpec, match=words) as raised:
        train_here(make_attempt(tmp_path / "a", tiny, rows, **spec))
    assert raised.value.field == field


def test_positions_are_stretched_by_whole_contexts_and_told_with_the_model(
    tmp_path: Path, tiny: Path, rows: Path
) -> None:
    spec = {"rope_scaling": "yarn", "cutoff_len": 1300, "finetuning_type": "full", "max_steps": 1}
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, **spec))

    config = json.loads((attempt.output / "config.json").read_text())
    assert config["max_position_embeddings"] == 1536
    assert config["rope_parameters"] == {
        "rope_theta": 10000.0, "rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 512,
    }  # fmt: skip


def test_positions_that_suffice_are_left_alone_and_it_is_said(tmp_path: Path, tiny: Path, rows: Path) -> None:
    spec = {"rope_scaling": "yarn", "cutoff_len": 512, "finetuning_type": "full", "max_steps": 1}
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, **spec))

    assert [data["field"] for data in attempt.of("finding")] == ["rope_scaling"]
    assert json.loads((attempt.output / "config.json").read_text())["rope_parameters"]["rope_type"] == "default"


def test_random_weights_are_the_seeds(tmp_path: Path, tiny: Path, rows: Path) -> None:
    spec = {"train_from_scratch": True, "finetuning_type": "full", "max_steps": 1, "data_seed": 1}
    losses = [
        train_here(make_attempt(tmp_path / f"a{n}", tiny, rows, seed=seed, **spec)).losses[0]
        for n, seed in enumerate((1, 1, 2))
    ]
    assert losses[0] == losses[1] != losses[2]
