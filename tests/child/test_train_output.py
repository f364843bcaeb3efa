"""What a training leaves: a model that loads, names its base by the catalog's name, and knows its template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from training import CHATML, Attempt, make_attempt, make_dataset, make_model, train_here
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.errors import InvalidDataset, InvalidSpec
from trainer_worker.child.report import Diverged


def test_an_adapter_loads_on_its_base_and_knows_it_by_name(tmp_path: Path, tiny: Path, rows: Path) -> None:
    attempt = train_here(make_attempt(tmp_path / "a", tiny, rows, lora_rank=4))

    config = json.loads((attempt.output / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(tiny)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, attempt.output)(ids).logits
    assert config["base_model_name_or_path"] == "tiny-base" and config["r"] == 4 and config["lora_alpha"] == 8
    assert set(config["target_modules"]) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    assert not torch.allclose(before, after)
    assert not any(str(tmp_path) in path.read_text() for path in attempt.output.glob("*.json"))


@pytest.mark.parametrize("method", ["full", "freeze"])
def test_a_whole_model_comes_out_in_the_format_it_came_in(tmp_path: Path, rows: Path, method: str) -> None:
    base = make_model(tmp_path / "model", torch.bfloat16)

    attempt = train_here(make_attempt(tmp_path / "a", base, rows, finetuning_type=method, freeze_trainable_layers=1))

    made, was = AutoModelForCausalLM.from_pretrained(attempt.output), AutoModelForCausalLM.from_pretrained(base)
    changed = {name for name, weight in made.named_parameters() if not torch.equal(weight, was.get_parameter(name))}
    assert made.dtype == torch.bfloat16 and made.config.use_cache
    assert json.loads((attempt.output / "config.json").read_text())["dtype"] == "bfloat16"
    last = {name for name, _ in was.named_parameters() if ".layers.1." in name}
    assert changed == last if method == "freeze" else changed >= last


def test_the_output_speaks_the_template_that_was_trained(tmp_path: Path, tiny: Path, rows: Path) -> None:
    own = train_here(make_attempt(tmp_path / "own", tiny, rows, max_steps=1))
    named = train_here(make_attempt(tmp_path / "named", tiny, rows, max_steps=1, template="alpaca"))

    assert AutoTokenizer.from_pretrained(own.output).chat_template == CHATML
    assert "### Instruction" in AutoTokenizer.from_pretrained(named.output).chat_template


@pytest.mark.parametrize("method", ["lora", "freeze"])
def test_the_output_ends_where_its_template_does(tmp_path: Path, rows: Path, method: str) -> None:
    base = make_model(tmp_path / "model")
    config = json.loads((base / "tokenizer_config.json").read_text()) | {"eos_token": "<|endoftext|>"}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    shape = {"finetuning_type": method, "freeze_trainable_layers": 1, "max_steps": 1}

    own = train_here(make_attempt(tmp_path / "own", base, rows, **shape))
    named = train_here(make_attempt(tmp_path / "named", base, rows, template="qwen", default_system="", **shape))

    end, stop = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert AutoTokenizer.from_pretrained(own.output).eos_token_id == end
    assert AutoTokenizer.from_pretrained(named.output).eos_token_id == stop
    assert stop in json.loads((named.output / "generation_config.json").read_text())["eos_token_id"]
    assert (own.output / "generation_config.json").exists() is (method == "freeze")


def test_an_adapter_is_trained_on(tmp_path: Path, tiny: Path, rows: Path) -> None:
    first = train_here(make_attempt(tmp_path / "first", tiny, rows, lora_rank=4))
    second = train_here(make_attempt(tmp_path / "second", tiny, rows, lora_rank=16, adapter=first.output))

    assert second.losses[0] < first.losses[0] - 0.3
    assert json.loads((second.output / "adapter_config.json").read_text())["r"] == 4
    assert [data["field"] for data in second.of("finding")] == ["lora_rank"]


def test_tokenized_data_is_made_once(tmp_path: Path, tiny: Path, rows: Path) -> None:
    first = make_attempt(tmp_path / "first", tiny, rows)
    again = make_attempt(tmp_path / "again", tiny, rows, learning_rate=1e-3)
    other = make_attempt(tmp_path / "other", tiny, rows, cutoff_len=64)
    for attempt in (first, again, other):
        prepare_here(attempt)

    assert [attempt.of("message")[0]["reused"] for attempt in (first, again, other)] == [False, True, False]
    assert first.outcome["type"] == "phase_done"


def test_what_is_cut_is_told(tmp_path: Path, tiny: Path, rows: Path) -> None:
    attempt = make_attempt(tmp_path / "a", tiny, rows, cutoff_len=48)
    prepare_here(attempt)

    stats, finding = attempt.of("message")[0], attempt.of("finding")[0]
    assert stats["length_max"] == 48 and 0 < stats["num_cut"] < 24
    assert (finding["field"], finding["num_rows"]) == ("cutoff_len", stats["num_cut"])


def test_nothing_to_learn_from_is_a_failure_that_names_the_dataset(tmp_path: Path, tiny: Path) -> None:
    dataset = make_dataset(tmp_path / "rows.json", 2)
    attempt = make_attempt(tmp_path / "a", tiny, dataset, template="alpaca", cutoff_len=8)

    with pytest.raises(InvalidDataset):
        prepare_here(attempt)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path, tiny: Path, rows: Path) -> None:
    broken = shutil.copytree(tiny, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    attempt = make_attempt(tmp_path / "a", broken, rows)

    with pytest.raises(Diverged) as raised:
        train_here(attempt)
    assert raised.value.field == "learning_rate"


def test_float16_on_a_cpu_is_refused_by_name(tmp_path: Path, tiny: Path, rows: Path) -> None:
    with pytest.raises(InvalidSpec) as raised:
        train_here(make_attempt(tmp_path / "a", tiny, rows, fp16=True))
    assert raised.value.field == "fp16"


def prepare_here(attempt: Attempt) -> None:
    from trainer_worker.child import __main__ as child
    from trainer_worker.child import prepare as preparation

    preparation.prepare(child.Attempt(attempt.folder))
