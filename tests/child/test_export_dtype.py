"""Merged weights in another number format, and what the base's own format takes away of a small change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from export_worker.child import resolution, verify
from export_worker.child.answers import Answer
from export_worker.child.carry import carry_over
from export_worker.child.failed import VerificationFailed
from export_worker.child.merge import Merged, merge
from export_worker.child.reading import Reading
from export_worker.child.source import Source
from export_worker.child.watch import Watch
from shared.spec.parity import Parity
from tests.child.export_fixtures import Recorder, llama, loaded, lora


def write(source: Source, out: Path, dtype: str) -> Merged:
    out.mkdir()
    merged = merge(source, out, max_shard_gb=5, watch=Watch(Recorder()), dtype=dtype)
    carry_over(source, out, differs=merged.differs)
    return merged


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_number_format_is_as_if_the_base_had_been_loaded_in_it(dtype: str, tmp_path: Path) -> None:
    base = llama(tmp_path / "base", tied=True)
    adapter = lora(base, tmp_path / "adapter", modules_to_save=["input_layernorm"])

    merged = write(Source(model=base, adapters=(adapter,)), tmp_path / "out", dtype)

    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    expected = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    found = loaded(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in expected.items()
    )
    assert (merged.method, json.loads((tmp_path / "out" / "config.json").read_text())["dtype"]) == ("streamed", dtype)


def test_a_base_alone_is_cast_and_one_that_has_the_format_copied(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")

    assert write(Source(model=base), tmp_path / "out", "float32").method == "streamed"
    assert write(Source(model=base), tmp_path / "same", "bfloat16").method == "copied"
    assert all(tensor.equal(loaded(base)[name].float()) for name, tensor in loaded(tmp_path / "out").items())


def test_a_change_below_the_steps_of_the_files_is_measured_and_float32_keeps_it(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    adapters = {scale: lora(base, tmp_path / f"adapter-{scale}", lora_alpha=scale) for scale in (0.004, 8)}
    lost = {}
    for scale, adapter in adapters.items():
        for dtype in ("auto", "float32"):
            source = Source(model=base, adapters=(adapter,))
            write(source, tmp_path / f"{scale}-{dtype}", dtype)
            lost[scale, dtype] = resolution.rounded_away(source, tmp_path / f"{scale}-{dtype}")

    assert lost[0.004, "auto"] > 0.8 and lost[8, "auto"] < 0.1
    assert lost[0.004, "float32"] < 0.01 and lost[8, "float32"] == 0
    assert resolution.rounded_away(Source(model=base), tmp_path / "8-auto") is None


def test_a_merge_that_fails_by_rounding_says_so_and_what_to_do() -> None:
    def reading(seed: int) -> Reading:
        torch.manual_seed(seed)
        answer = Answer(ids=[1], text="a", ended=True, rivals=[{1: 0.0}])
        return Reading(logits=[torch.randn(4, 9)], row_losses=[4.0], row_tokens=[4], answers=[answer])

    for rounded, said in ((0.86, True), (0.1, False)):
        with pytest.raises(VerificationFailed) as failed:
            verify.check_merge(reading(1), reading(2), 0.2, Parity(), rounded)
        assert ("deploy the adapter beside its base" in str(failed.value)) is said
        assert failed.value.figures["rounded_away"] == rounded
