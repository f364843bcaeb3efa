"""Formats gptq and awq: what AutoRound writes is read back by hand, close to the merged model, and always the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from export_worker import command
from export_worker.child import autoround, packed
from export_worker.child.asked import Sample
from export_worker.child.packed import Packing
from export_worker.child.quantizers import Quantization, awq, gptq
from export_worker.child.source import CannotExport, Source
from export_worker.child.watch import Stopped, Watch
from shared.settings import Settings
from tests.child.export_fixtures import Recorder, llama
from tests.child.test_export_run import ROOT, attempt_folder

#: Little is asked of the models: what is tested is the files.
QUICK = {
    "export_quantization_steps": 1, "export_verify_rows": 2, "export_verify_answers": 0,
    "export_quantization_nsamples": 8, "export_verify_vllm": "off",
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("models") / "base", tied=True, num_hidden_layers=1)


def quantization_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return config


def work(model: Path, out: Path, recorder: Recorder | None = None, **given: Any) -> Quantization:
    out.mkdir(parents=True)
    ids = torch.randint(2, 258, (3, 200), generator=torch.manual_seed(0)).tolist()
    samples = [Sample(input_ids=one, score_from=1, answer_from=1) for one in ids]
    known: dict[str, Any] = {"samples": samples, "num_steps": 1, "max_shard_gb": 5}
    return Quantization(
        source=Source(model=model), model=model, out=out, watch=Watch(recorder or Recorder()), **(known | given)
    )


@pytest.mark.slow
def test_a_cancel_is_seen_within_a_block_and_a_later_export_is_not_disturbed(base: Path, tmp_path: Path) -> None:
    stopped = work(base, tmp_path / "stopped" / "out", Recorder(cancel_at="block passes"))
    with pytest.raises(Stopped):
        gptq.quantize(stopped)
    assert [path for path in (tmp_path / "stopped").rglob("*") if path.is_file()] == []

    done = gptq.quantize(work(base, tmp_path / "one"))
    gptq.quantize(work(base, tmp_path / "two"))
    # The samples fill one row of the library's; what is left over is dropped.
    assert done == {
        "method": "autoround", "num_bits": 4, "group_size": 64, "num_left_out": 0,
        "num_samples": 3, "num_tokens": autoround.ROW_TOKENS, "num_steps": 1,
    }  # fmt: skip
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert one["model.layers.0.mlp.gate_proj.qweight"].dtype == torch.int32
    assert one["lm_head.weight" if "lm_head.weight" in one else "model.embed_tokens.weight"].dtype == torch.bfloat16


def run_as_a_worker_does(folder: Path, format_name: str) -> list[dict[str, Any]]:
    """In a process of its own with the worker's environment, which changes what the library does; its events."""
    told = command.environment(Settings(home=folder / "home", hub=False), format_name)
    env = os.environ | told | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "export_worker.child", str(folder)], cwd=ROOT, env=env, check=True)
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_child_reads_blocks_as_they_come_and_proves_the_packed_files(base: Path, tmp_path: Path) -> None:
    folder = attempt_folder(tmp_path, base, spec={"export_format": "gptq", "export_quantization_bit": 8} | QUICK)
    events = run_as_a_worker_does(folder, "gptq")
    done = events[-1]["data"]
    assert done["quantization"]["method"] == "autoround"
    assert 0 < done["verification"]["quantized"]["relative_difference"] < 0.05
    told = quantization_config(folder / "output")
    assert (told["quant_method"], told["bits"], told["sym"], told["desc_act"]) == ("gptq", 8, True, False)
    passes = [event["data"] for event in events if event["data"].get("unit") == "block passes"]
    assert passes[-1]["done"] == passes[-1]["total"] > 0


@pytest.mark.slow
def test_zero_points_of_awq_are_read_back(base: Path, tmp_path: Path) -> None:
    done = run_as_a_worker_does(attempt_folder(tmp_path, base, spec={"export_format": "awq"} | QUICK), "awq")[-1][
        "data"
    ]
    assert 0 < done["verification"]["quantized"]["relative_difference"] < 0.4
    told = quantization_config(tmp_path / "output")
    assert (told["quant_method"], told["zero_point"], told["version"]) == ("awq", True, "gemm")
    assert told["modules_to_not_convert"] == ["lm_head"]


def test_without_texts_weights_are_rounded_and_two_bits_are_refused(base: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    assert awq.quantize(work(base, tmp_path / "awq", recorder, samples=[]))["method"] == "rtn"
    assert "rounded to nearest" in recorder.of_type("message")[0]["message"]
    packed.write_plain(tmp_path / "awq", (plain := tmp_path / "plain").mkdir() or plain, torch.float32)
    ours, theirs = load_file(plain / "model.safetensors"), load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.o_proj.weight"
    # Half a step of a sixteenth of the range of a group, of normal numbers with deviation 0.15.
    assert 0 < (ours[name] - theirs[name].float()).abs().max() < 0.06
    with pytest.raises(CannotExport, match="2-bit weights") as refused:
        gptq.quantize(work(base, tmp_path / "gptq", samples=[], num_bits=2))
    assert refused.value.field == "export_quantization_dataset"


@pytest.mark.parametrize("num_bits", [2, 3, 4, 8])
def test_integers_are_found_in_their_words(num_bits: int) -> None:
    numbers = torch.randint(0, 2**num_bits, (96, 5), generator=torch.manual_seed(1))
    words = torch.zeros(96 * num_bits // 32, 5, dtype=torch.int64)
    for row in range(96):
        for bit in range(num_bits):
            at = row * num_bits + bit
            words[at // 32] |= ((numbers[row] >> bit) & 1) << (at % 32)
    assert torch.equal(packed.unpack(words.to(torch.int32), num_bits).long(), numbers)


def test_a_weight_is_its_integer_less_the_zero_times_the_scale() -> None:
    integers = torch.arange(16).repeat(4)[:64].reshape(64, 1).repeat(1, 8)  # (in, out)
    words = sum((integers.reshape(8, 8, 8)[:, place] << (4 * place)) for place in range(8))
    zeros = torch.tensor([[sum(7 << (4 * place) for place in range(8))]])
    scales = torch.full((1, 8), 0.5)
    weight = Packing(method="gptq", num_bits=4).weight(
        {"qweight": words.int(), "qzeros": zeros.int(), "scales": scales}
    )
    assert weight.shape == (8, 64)
    # Files of GPTQ hold the zero less one.
    assert torch.equal(weight[0, :16], (torch.arange(16) - 8) * 0.5)


def test_samples_are_joined_to_whole_rows() -> None:
    rows = autoround.join([[1] * 5, [2] * 6, [3] * 4], 6)
    assert rows == [[[1] * 5, [2]], [[2] * 5, [3]]]
    assert autoround.join([[1] * 20, [2] * 20], 512) == [[[1] * 20, [2] * 20]]
    assert autoround.join([[1] * 20], 512) == []


def test_every_row_has_a_mask_where_positions_begin_anew() -> None:
    assert autoround.batch([[5, 6, 7]])["position_ids"].tolist() == [[0, 1, 0]]
    assert autoround.batch([[5, 6], [7]])["input_ids"].tolist() == [[5, 6, 7]]


def test_layers_that_do_not_fit_stay_with_those_beside_them(tmp_path: Path) -> None:
    odd = Source(model=llama(tmp_path / "odd", intermediate_size=208, num_hidden_layers=1)).empty()
    size, unfit = autoround.choose_group_size(odd)
    # gate and up have 208 outputs, down 208 inputs: neither is a multiple of 32.
    assert size == 64
    assert sorted(unfit) == [f"model.layers.0.mlp.{name}_proj" for name in ("down", "gate", "up")]
    narrow = {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 40}
    with pytest.raises(CannotExport, match="no layer can be packed"):
        autoround.choose_group_size(Source(model=llama(tmp_path / "narrow", **narrow)).empty())
