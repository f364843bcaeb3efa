"""The streamed merge equals peft's bit for bit, says when it cannot, and refuses what would be dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from export_worker.child import carry, shards
from export_worker.child.changes import BadAdapter
from export_worker.child.merge import Merged, merge
from export_worker.child.source import Source
from export_worker.child.watch import Stopped, Watch
from tests.child.export_fixtures import (
    ATTENTION,
    Recorder,
    gpt2,
    llama,
    loaded,
    lora,
    merge_with_peft,
    mixtral,
)


def run_merge(
    base: Path, adapters: list[Path], out: Path, *, gb: float = 5, recorder: Recorder | None = None
) -> Merged:
    """Merge and complete the folder so that transformers loads it."""
    out.mkdir()
    source = Source(model=base, adapters=tuple(adapters))
    merged = merge(source, out, max_shard_gb=gb, watch=Watch(recorder or Recorder()))
    carry.carry_over(source, out, differs=merged.differs)
    return merged


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, dict[str, Any]] = {
    "lora": {},
    "every linear layer": {"targets": ALL},
    "rslora": {"use_rslora": True, "r": 6, "lora_alpha": 7},
    "patterns": {"rank_pattern": {"layers.0.*q_proj": 2, "v_proj": 8}, "alpha_pattern": {"k_proj": 3}},
    "modules_to_save": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "trained norms": {"modules_to_save": ["input_layernorm"]},
    "embedding": {"targets": [*ATTENTION, "embed_tokens"]},
    "head": {"targets": [*ATTENTION, "lm_head"]},
    "dora": {"targets": [*ALL, "embed_tokens"], "use_dora": True},
    "olora": {"init_lora_weights": "olora"},
    "pissa": {"init_lora_weights": "pissa", "targets": ALL},
    "biases of the factors": {"lora_bias": True},
    "tokens": {"trainable_token_indices": [5, 7, 100]},
    "tokens of both tables": {"trainable_token_indices": {"embed_tokens": [5, 7], "lm_head": [9]}},
}


BFLOAT16 = [pytest.param(case, torch.bfloat16, id=f"{case}, bf16") for case in CASES]
FLOAT32 = [pytest.param(case, torch.float32, id=f"{case}, fp32") for case in ("lora", "embedding", "dora", "pissa")]


@pytest.mark.parametrize(("case", "dtype"), [*BFLOAT16, *FLOAT32])
def test_streamed_merge_equals_peft_bit_for_bit(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = llama(tmp_path / "base", dtype=dtype, attention_bias="lora_bias" in CASES[case])
    adapter = lora(base, tmp_path / "adapter", **CASES[case])

    merged = run_merge(base, [adapter], tmp_path / "out")

    assert merged.method == "streamed"
    assert_equal(loaded(tmp_path / "out"), merge_with_peft(base, adapter))
    changed = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(loaded(base)[changed], loaded(tmp_path / "out")[changed])


@pytest.mark.parametrize("saved", [None, ["embed_tokens"], ["lm_head"]])
def test_tied_embeddings_stay_tied_unless_one_of_them_was_trained(saved: list[str] | None, tmp_path: Path) -> None:
    base = llama(tmp_path / "base", tied=True)
    adapter = lora(base, tmp_path / "adapter", modules_to_save=saved)

    merged = run_merge(base, [adapter], tmp_path / "out")

    assert merged.untied == (saved is not None)
    assert ("lm_head.weight" in shards.list_entries(tmp_path / "out")) == merged.untied
    assert_equal(loaded(tmp_path / "out"), merge_with_peft(base, adapter))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_lora_on_one_of_two_tied_embeddings_changes_only_that_one(target: str, tmp_path: Path) -> None:
    """Here peft changes both; the model that was trained is the reference, and its logits are met."""
    base = llama(tmp_path / "base", tied=True, dtype=torch.float32)
    adapter = lora(base, tmp_path / "adapter", targets=[target])
    ids = torch.arange(2, 40)[None]

    merged = run_merge(base, [adapter], tmp_path / "out")

    assert merged == Merged(method="streamed", untied=True)
    trained = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.inference_mode():
        torch.testing.assert_close(written(ids).logits, trained(ids).logits, atol=1e-4, rtol=1e-4)


def test_trained_biases_replace_those_of_the_base(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", attention_bias=True)
    adapter = lora(base, tmp_path / "adapter", bias="all")

    assert run_merge(base, [adapter], tmp_path / "out").method == "streamed"

    assert_equal(loaded(tmp_path / "out"), merge_with_peft(base, adapter))
    assert loaded(tmp_path / "out")["model.layers.0.self_attn.q_proj.bias"].any()


def test_two_adapters_in_a_row_and_many_small_files(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    adapters = [lora(base, tmp_path / f"adapter{n}", seed=n) for n in (1, 2)]
    recorder = Recorder()

    run_merge(base, adapters, tmp_path / "out", gb=50_000 / 1e9, recorder=recorder)

    files = sorted(file.name for file in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert_equal(loaded(tmp_path / "out"), merge_with_peft(base, *adapters))
    last = recorder.of_type("progress")[-1]["data"]
    assert last["done"] == last["total"] == sum(len(t.untyped_storage()) for t in loaded(base).values())


def test_adapters_with_weights(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    plain = lora(base, tmp_path / "plain", targets=[*ATTENTION, "embed_tokens"], use_rslora=True)
    whole = lora(base, tmp_path / "whole", modules_to_save=["lm_head"])
    dora = lora(base, tmp_path / "dora", use_dora=True)
    source = Source(model=base, adapters=(dora, plain), adapter_weights=(1.0, -0.3))
    (tmp_path / "out").mkdir()

    merge(source, tmp_path / "out", max_shard_gb=5, watch=Watch(Recorder()))
    carry.carry_over(source, tmp_path / "out")

    assert_equal(loaded(tmp_path / "out"), source.load_merged(source.adapters).state_dict())
    assert not torch.equal(
        load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"],
        loaded(base)["model.embed_tokens.weight"],
    )
    for one, why in ((whole, "trained in full"), (dora, "no plain LoRA")):
        with pytest.raises(BadAdapter, match=why):
            merge(
                Source(model=base, adapters=(one,), adapter_weights=(0.5,)),
                tmp_path / "out",
                max_shard_gb=5,
                watch=Watch(Recorder()),
            )


def test_layers_stored_as_in_by_out(tmp_path: Path) -> None:
    base = gpt2(tmp_path / "base")
    adapter = lora(base, tmp_path / "adapter", targets=["c_attn", "c_proj"], fan_in_fan_out=True)

    assert run_merge(base, [adapter], tmp_path / "out").method == "streamed"

    assert_equal(loaded(tmp_path / "out"), merge_with_peft(base, adapter))


EXPERTS = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], "targets": ["q_proj"]}


@pytest.mark.parametrize("config", [{}, EXPERTS], ids=["attention", "experts"])
def test_a_class_that_stacks_its_experts_while_loading(config: dict[str, Any], tmp_path: Path) -> None:
    base = mixtral(tmp_path / "base")
    adapter = lora(base, tmp_path / "adapter", **config)

    assert run_merge(base, [adapter], tmp_path / "out").method == "streamed"

    assert shards.list_entries(tmp_path / "out").keys() == shards.list_entries(base).keys()
    assert "model.layers.0.block_sparse_moe.experts.3.w1.weight" in shards.list_entries(base)
    assert_equal(loaded(tmp_path / "out"), merge_with_peft(base, adapter))
    stack = "model.layers.1.mlp.experts.down_proj"
    assert torch.equal(loaded(tmp_path / "out")[stack], loaded(base)[stack]) == (not config)


def test_an_adapter_of_single_experts_from_before_they_were_stacked(tmp_path: Path) -> None:
    base = mixtral(tmp_path / "base")
    adapter = lora(base, tmp_path / "adapter", targets=["q_proj"])
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(settings | {"target_modules": ["w1", "w2", "w3", "q_proj"]})
    )
    factors = load_file(adapter / "adapter_model.safetensors")
    for name, entry in shards.list_entries(base).items():
        if ".experts." in name:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{module}.lora_A.weight"] = torch.randn(4, entry.shape[1])
            factors[f"{module}.lora_B.weight"] = torch.randn(entry.shape[0], 4)
    save_file(factors, adapter / "adapter_model.safetensors")

    assert run_merge(base, [adapter], tmp_path / "out").method == "streamed"

    assert_equal(loaded(tmp_path / "out"), merge_with_peft(base, adapter))


@pytest.mark.parametrize("old", [False, True], ids=["archive", "before 2020"])
def test_a_base_of_pickled_files(old: bool, tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    adapter = lora(base, tmp_path / "adapter")
    expected = merge_with_peft(base, adapter)
    state = load_file(base / "model.safetensors")
    names = sorted(state)
    parts = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    for file, part in parts.items():
        torch.save({n: state[n] for n in part}, base / file, _use_new_zipfile_serialization=not old)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (base / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (base / "model.safetensors").unlink()

    assert run_merge(base, [adapter], tmp_path / "out").method == "streamed"

    assert_equal(loaded(tmp_path / "out"), expected)
    assert not (tmp_path / "unpacked").exists()


@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
def test_a_vocabulary_that_grew_while_the_adapter_was_trained(tied: bool, tmp_path: Path) -> None:
    base = llama(tmp_path / "base", tied=tied)
    grown = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    grown.resize_token_embeddings(320, mean_resizing=False)
    grown.save_pretrained(tmp_path / "grown")
    tables = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    adapter = lora(tmp_path / "grown", tmp_path / "adapter", modules_to_save=tables, ensure_weight_tying=tied)

    merged = run_merge(base, [adapter], tmp_path / "out")

    assert merged == Merged(method="streamed", vocab_size=320)
    assert_equal(loaded(tmp_path / "out"), merge_with_peft(tmp_path / "grown", adapter))
    trained = Source(model=base, adapters=(adapter,)).load_as_trained()
    assert trained.get_input_embeddings().weight.shape[0] == 320


def test_tokens_of_tied_tables_stay_tied(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", tied=True)
    adapter = lora(base, tmp_path / "adapter", trainable_token_indices=[5, 7])
    assert run_merge(base, [adapter], tmp_path / "out") == Merged(method="streamed")
    assert_equal(loaded(tmp_path / "out"), merge_with_peft(base, adapter))


def test_files_are_what_the_library_writes(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    run_merge(base, [], tmp_path / "out")
    save_file(load_file(tmp_path / "out" / "model.safetensors"), tmp_path / "again.safetensors", {"format": "pt"})
    assert_equal(load_file(tmp_path / "again.safetensors"), load_file(base / "model.safetensors"))


def test_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    wider = lora(llama(tmp_path / "wider", hidden_size=128), tmp_path / "a")
    deeper = lora(llama(tmp_path / "deeper", num_hidden_layers=3), tmp_path / "b")

    with pytest.raises(BadAdapter, match="trained on another base"):
        run_merge(base, [wider], tmp_path / "out1")
    with pytest.raises(BadAdapter, match=r"have no place in the base, the first is model\.layers\.2"):
        run_merge(base, [deeper], tmp_path / "out2")


def test_cancel_between_tensors(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    with pytest.raises(Stopped):
        run_merge(base, [lora(base, tmp_path / "adapter")], tmp_path / "out", recorder=Recorder(cancel_at="bytes"))
