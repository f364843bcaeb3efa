"""Every quantized format of compressed-tensors and bitsandbytes: what is written loads again and answers alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from export_worker.child import rounding, schemes
from export_worker.child.asked import Sample
from export_worker.child.quantizers import Quantization, w8a8
from export_worker.child.source import CannotExport, Source
from export_worker.child.watch import Watch
from tests.child.export_fixtures import Recorder, gpt2, llama, lora
from tests.child.test_export_run import attempt_folder, left_behind, run_here


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("models") / "base", tied=True)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return lora(base, base.parent / "adapter", targets="all-linear")


def quantization_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return config


@pytest.mark.parametrize(
    ("spec", "method", "files", "worst"),
    [
        ({"export_quantization_bit": 8}, "smoothquant+gptq", "int-quantized", 0.05),
        ({"export_format": "fp8"}, "rtn", "float-quantized", 0.15),
        ({"export_format": "bitsandbytes"}, "nf4", None, 0.5),
        ({"export_format": "bitsandbytes", "export_quantization_bit": 8}, "llm.int8", None, 0.05),
    ],
)
def test_a_format_is_written_loaded_again_and_close_to_the_merged_model(
    spec: dict[str, Any], method: str, files: str | None, worst: float, base: Path, adapter: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    done = run_here(attempt_folder(tmp_path, base, adapter, spec=spec), recorder)

    assert done["quantization"]["method"] == method
    assert quantization_config(tmp_path / "output").get("format") == files
    assert 0 < done["verification"]["quantized"]["relative_difference"] < worst
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "output")
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()
    if method != "nf4" and method != "llm.int8":
        progress = [event["data"] for event in recorder.of_type("progress") if event["data"]["phase"] == "quantize"]
        assert progress[-1]["done"] == progress[-1]["total"] > 0


@pytest.mark.parametrize("kind", ["w4a16", "w8a8", "fp8"])
def test_rounding_without_loading_writes_what_the_library_writes(kind: str, base: Path, tmp_path: Path) -> None:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    scheme = {
        "w4a16": schemes.grouped(4, 64),
        "w8a8": schemes.per_channel("int"),
        "fp8": schemes.per_channel("float"),
    }[kind]
    rounding.write(work(base, tmp_path / "ours"), scheme)

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    oneshot(model=model, recipe=[QuantizationModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])])
    model.save_pretrained(tmp_path / "theirs", save_compressed=True)

    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    # As bytes: torch compares no 8-bit floats.
    assert [name for name in ours if not torch.equal(as_bytes(ours[name]), as_bytes(theirs[name]))] == []
    said = [quantization_config(tmp_path / name) for name in ("ours", "theirs")]
    for told in said:
        # How the library looked for the scales: nobody reads it.
        told["config_groups"]["group_0"]["weights"].pop("observer")
    assert said[0]["config_groups"] == said[1]["config_groups"]
    assert said[0]["ignore"] == said[1]["ignore"] == ["lm_head"]


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def work(model: Path, out: Path, **given: Any) -> Quantization:
    out.mkdir()
    known: dict[str, Any] = {"samples": [], "max_shard_gb": 5, "watch": Watch(Recorder())}
    return Quantization(source=Source(model=model), model=model, out=out, **(known | given))


def test_files_of_a_rounded_model_are_no_larger_than_asked(base: Path, tmp_path: Path) -> None:
    rounding.write(work(base, tmp_path / "small", max_shard_gb=1e-4), schemes.per_channel("float"))
    files = sorted((tmp_path / "small").glob("*.safetensors"))
    assert len(files) > 1 and max(file.stat().st_size for file in files) < 1.3e5
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()


def test_a_model_beside_the_disk_is_quantized_as_one_in_memory(base: Path, tmp_path: Path) -> None:
    samples = [Sample(input_ids=list(range(n, n + 40)), score_from=1, answer_from=40) for n in range(8)]
    for name, room in (("memory", None), ("disk", 10_000)):
        w8a8.quantize(work(base, tmp_path / name, samples=samples, room_bytes=room))

    memory, disk = (load_file(tmp_path / name / "model.safetensors") for name in ("memory", "disk"))
    assert memory.keys() == disk.keys()
    assert [name for name in memory if not torch.equal(memory[name], disk[name])] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "memory"]


def test_layers_are_smoothed_only_where_their_norms_are_read_by_the_projections(base: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.device("meta"):
        gemma = Gemma2ForCausalLM(Gemma2Config(vocab_size=99, num_key_value_heads=2, head_dim=32, **sizes))
    assert w8a8.can_smooth(Source(model=base).empty())
    assert not w8a8.can_smooth(gemma)


def test_experts_are_rounded_one_by_one_or_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "num_experts": 2}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=99, num_experts_per_tok=1, **sizes, **heads))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "moe")
    rounding.write(work(tmp_path / "moe", tmp_path / "out"), schemes.per_channel("float"))

    files = load_file(tmp_path / "out" / "model.safetensors")
    codes = {name for name, tensor in files.items() if tensor.dtype == torch.float8_e4m3fn}
    assert {
        f"model.layers.0.mlp.experts.{n}.{name}_proj.weight" for n in (0, 1) for name in ("gate", "up", "down")
    } < codes
    assert files["model.layers.0.mlp.gate.weight"].dtype == torch.bfloat16
    ids = torch.tensor([[5, 6, 7]])
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    assert torch.nn.functional.cosine_similarity(read(ids).logits, model(ids).logits, dim=-1).min() > 0.98
    with pytest.raises(CannotExport, match="mixture of experts"):
        w8a8.check(Source(model=tmp_path / "moe"))


def test_a_model_without_torchs_linear_layers_is_refused(tmp_path: Path) -> None:
    folder = attempt_folder(tmp_path / "attempt", gpt2(tmp_path / "gpt2"), spec={"export_format": "fp8"})
    with pytest.raises(CannotExport, match="GPT2LMHeadModel has no linear layers"):
        run_here(folder)
    assert left_behind(folder) == []
