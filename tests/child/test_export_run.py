"""Whole exports of tiny real models, as the worker starts them: what is published, what is not, and what is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from export_worker.child import card
from export_worker.child.export import Order, export
from export_worker.child.failed import VerificationFailed
from export_worker.child.source import CannotExport
from export_worker.child.watch import Stopped, Watch
from shared import schema, templates
from shared.spec import ExportSpec
from tests.child.export_fixtures import Recorder, llama, loaded, lora, merge_with_peft, write_rows

#: Few rows and short answers: tiny models say all in these.
QUICK = {"export_verify_rows": 6, "export_verify_answers": 2, "export_verify_answer_tokens": 16}
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("models") / "base", tied=True)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return lora(base, base.parent / "adapter", targets="all-linear")


def attempt_folder(folder: Path, model: Path, *adapters: Path, spec: dict[str, Any] | None = None, **run: Any) -> Path:
    """What the runner makes for an export: run.json and empty folders."""
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True)
    rows = write_rows(folder / "rows.json", 40)
    stored = schema.to_wire(schema.load(ExportSpec, {"model_name_or_path": "ft:tiny"} | QUICK | (spec or {})))
    members = {
        "spec": stored,
        "output_dir": str(folder / "output"),
        "scratch_dir": str(folder / "scratch"),
        "devices": ["cpu"],
        "model_path": str(model),
        "adapter_paths": [str(path) for path in adapters],
        "template": None,
        "calibration": [{"path": str(rows), "format": "alpaca", "columns": {}, "name": "facts"}],
        "held_out": [],
        "lineage": {
            "name": "ft:tiny:x",
            "base_name": "tiny",
            "source_name": "ft:tiny",
            "datasets": ["facts"],
            "training": {"learning_rate": 0.1},
            "training_job": "ftjob-1",
        },
    }
    (folder / "run.json").write_text(json.dumps(members | run))
    return folder


def run_here(folder: Path, recorder: Recorder | None = None) -> dict[str, Any]:
    order = Order.from_run(json.loads((folder / "run.json").read_text()))
    done = export(order, Watch(recorder or Recorder()))
    assert done is not None
    return done


def left_behind(folder: Path) -> list[str]:
    return [path.name for part in ("output", "scratch") for path in (folder / part).rglob("*") if path.is_file()]


def test_the_child_process_merges_verifies_and_publishes(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = attempt_folder(tmp_path, base, adapter)

    command = [sys.executable, "-m", "export_worker.child", str(folder)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=120)

    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["data"]["phase"] for event in events if event["type"] == "phase"] == ["merge", "verify", "publish"]
    assert events[-1]["type"] == "done"
    done = events[-1]["data"]
    assert done["format"] == "merged"
    assert done["method"] == "streamed"
    assert done["verification"]["merge"]["relative_difference"] < 0.02
    assert done["verification"]["merge"]["adapter_effect"] > 0.1
    assert len(done["verification"]["answers"]["merged"]) == 2
    found = loaded(folder / "output")
    assert all(torch.equal(found[name], tensor) for name, tensor in merge_with_peft(base, adapter).items())
    assert done["files"].keys() == {path.name for path in (folder / "output").iterdir()}
    assert not list((folder / "scratch").iterdir())


def test_prompt_and_end_of_text_are_those_of_the_training(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = attempt_folder(tmp_path, base, adapter)
    run_here(folder)

    before, after = (AutoTokenizer.from_pretrained(path) for path in (base, folder / "output"))
    chat = [{"role": "user", "content": "Who are you?"}]
    assert after.apply_chat_template(chat, add_generation_prompt=True) == before.apply_chat_template(
        chat, add_generation_prompt=True
    )
    assert after.eos_token_id == before.eos_token_id
    assert GenerationConfig.from_pretrained(folder / "output").eos_token_id == 1
    assert (folder / "output" / "LICENSE").read_text() == (base / "LICENSE").read_text()


def test_a_named_template_takes_the_place_of_the_models_own(base: Path, adapter: Path, tmp_path: Path) -> None:
    name = next(name for name in templates.names() if name != templates.OWN)
    folder = attempt_folder(tmp_path, base, adapter, template=name)
    run_here(folder)
    assert AutoTokenizer.from_pretrained(folder / "output").chat_template == templates.get(name).jinja


def test_the_words_and_the_ends_of_the_training_are_exported_with_it(base: Path, adapter: Path, tmp_path: Path) -> None:
    trained = shutil.copytree(adapter, tmp_path / "trained")
    for file in (*base.glob("tokenizer*"), *base.glob("special_tokens_map.json")):
        shutil.copyfile(file, trained / file.name)
    (trained / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    folder = attempt_folder(tmp_path, base, trained, template="qwen", wording={"default_system": "Rhyme."})
    run_here(folder)

    said = templates.Wording(default_system="Rhyme.")
    assert AutoTokenizer.from_pretrained(folder / "output").chat_template == templates.get("qwen", said).jinja
    assert GenerationConfig.from_pretrained(folder / "output").eos_token_id == [1, 2]


def test_the_card_says_where_the_model_comes_from_and_what_was_measured(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = attempt_folder(tmp_path, base, adapter)
    done = run_here(folder)
    card = (folder / "output" / "README.md").read_text()
    expected = ['base_model: "tiny"', "ft:tiny", "facts", "Apache License", "learning_rate", "--served-model-name"]
    assert [part for part in expected if part not in card] == []
    assert f"{done['verification']['merge']['relative_difference']:.4f}" in card


def test_the_card_says_why_weights_were_not_compared() -> None:
    told = list(card.proven({"weights": {"compared": False, "why": "the files are not safetensors"}}))
    assert told == ["Weights: not compared, the files are not safetensors"]


#: The output folder, the result, and what was said.
Exported = tuple[Path, dict[str, Any], Recorder]


@pytest.fixture(scope="module")
def quantized(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = attempt_folder(tmp_path_factory.mktemp("w4a16"), base, adapter, spec={"export_quantization_bit": 4})
    recorder = Recorder()
    done = run_here(folder, recorder)
    return folder / "output", done, recorder


def test_w4a16_loads_again_and_its_config_says_what_it_is(quantized: Exported) -> None:
    output, done, _ = quantized
    config = json.loads((output / "config.json").read_text())["quantization_config"]
    weights = config["config_groups"]["group_0"]["weights"]
    assert config["quant_method"] == "compressed-tensors"
    assert config["format"] == "pack-quantized"
    assert (weights["num_bits"], weights["group_size"], weights["type"]) == (4, 64, "int")
    assert config["ignore"] == ["lm_head"]
    assert (done["quantization"]["method"], done["quantization"]["num_samples"]) == ("gptq", 40)
    model = AutoModelForCausalLM.from_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    ids = tokenizer("Question 1?", return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()


def test_w4a16_is_measured_against_the_merged_model(quantized: Exported) -> None:
    _, done, recorder = quantized
    figures = done["verification"]["quantized"]
    assert 0 < figures["relative_difference"] < 0.5
    assert figures["perplexity"] == pytest.approx(float(torch.tensor(figures["loss"]).exp()))
    assert figures["loss_reference"] == done["verification"]["merge"]["loss"]
    passes = [event["data"] for event in recorder.of_type("progress") if event["data"]["unit"] == "layer passes"]
    assert passes[-1]["done"] == passes[-1]["total"] > 0


def test_without_any_texts_it_rounds_and_says_so(base: Path, tmp_path: Path) -> None:
    folder = attempt_folder(tmp_path, base, spec={"export_format": "w4a16"}, calibration=[])
    recorder = Recorder()
    done = run_here(folder, recorder)
    assert done["quantization"]["method"] == "rtn"
    assert done["verification"]["rows_from"] == "built-in questions"
    assert "rounded to nearest" in recorder.of_type("message")[0]["message"]


def test_a_base_alone_is_copied_bit_for_bit(base: Path, tmp_path: Path) -> None:
    folder = attempt_folder(tmp_path, base)
    done = run_here(folder)
    assert done["method"] == "copied"
    assert done["verification"]["merge"]["max_abs_difference"] == 0
    expected = loaded(base)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded(folder / "output").items())


@pytest.mark.parametrize(
    "moment", ["start", "merge", "bytes", "verify", "quantize", "layer passes", "verify_quantized", "publish"]
)
def test_a_cancelled_export_leaves_nothing(moment: str, base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = attempt_folder(tmp_path, base, adapter, spec={"export_format": "w4a16"})
    recorder = Recorder(cancel_at=moment)
    with pytest.raises(Stopped):
        run_here(folder, recorder)
    assert left_behind(folder) == []
    # It ended where it was asked to: no later phase began.
    begun = [event["data"]["phase"] for event in recorder.of_type("phase")]
    assert begun[-1:] == {"start": [], "bytes": ["merge"], "layer passes": ["quantize"]}.get(moment, [moment])


@pytest.mark.slow
def test_the_child_process_answers_a_cancel_with_stopped(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = attempt_folder(tmp_path, base, adapter)
    (folder / "control.json").write_text(json.dumps({"wanted": "cancel", "reason": "user"}))
    subprocess.run([sys.executable, "-m", "export_worker.child", str(folder)], cwd=ROOT, check=True, timeout=120)
    last = json.loads((folder / "events.jsonl").read_text().splitlines()[-1])
    assert last["type"] == "stopped"
    assert left_behind(folder) == []


Tensors = dict[str, torch.Tensor]


def zero_a_layer(merged: Tensors, base: Tensors) -> None:
    merged["model.layers.0.mlp.down_proj.weight"].zero_()


def lose_the_change(merged: Tensors, base: Tensors) -> None:
    for name, tensor in merged.items():
        tensor.copy_(base[name])


def double_the_change(merged: Tensors, base: Tensors) -> None:
    for name, tensor in merged.items():
        tensor += tensor - base[name]


def drop_one_change(merged: Tensors, base: Tensors) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    merged[name].copy_(base[name])


def touch_another(merged: Tensors, base: Tensors) -> None:
    merged["model.norm.weight"][3] *= 1.01


def break_a_number(merged: Tensors, base: Tensors) -> None:
    merged["model.norm.weight"][0] = float("nan")


@pytest.fixture(scope="module")
def weak(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes little, which must not get lost all the same."""
    folder = tmp_path_factory.mktemp("weak")
    made = lora(base, folder / "adapter", lora_alpha=1)
    assert run_here(attempt_folder(folder / "a", base, made))["verification"]["merge"]["adapter_effect"] < 0.3
    return made


DAMAGES = [zero_a_layer, lose_the_change, double_the_change, drop_one_change, touch_another, break_a_number]


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_answer_differently_are_not_published(
    damage: Callable[[Tensors, Tensors], None], base: Path, weak: Path, tmp_path: Path
) -> None:
    class Saboteur(Recorder):
        """Damages the written file just before it is verified."""

        def emit(self, type: str, message: str = "", level: str = "info", **data: Any) -> None:
            if type == "phase" and data["phase"] == "verify":
                file = folder / "scratch" / "output" / "model.safetensors"
                merged = load_file(file)
                damage(merged, loaded(base))
                save_file(merged, file, {"format": "pt"})
            super().emit(type, message, level, **data)

    folder = attempt_folder(tmp_path / "damaged", base, weak)
    with pytest.raises(VerificationFailed, match=r"Nothing was published\.$"):
        run_here(folder, Saboteur())
    assert left_behind(folder) == []


def test_a_failure_names_its_field(base: Path, tmp_path: Path) -> None:
    wider = lora(llama(tmp_path / "wider", hidden_size=128), tmp_path / "adapter")
    folder = attempt_folder(tmp_path / "attempt", base, wider)
    command = [sys.executable, "-m", "export_worker.child", str(folder)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120).returncode == 1
    last = json.loads((folder / "events.jsonl").read_text().splitlines()[-1])
    assert last["type"] == "failed"
    error = last["data"]["error"]
    assert (error["code"], error["class"], error["field"]) == ("bad_adapter", "BadAdapter", "adapter_name_or_path")
    assert "trained on another base" in error["message"]


def test_a_quantized_model_is_no_source(quantized: Exported, tmp_path: Path) -> None:
    with pytest.raises(CannotExport, match="quantized already"):
        run_here(attempt_folder(tmp_path, quantized[0]))


def test_widths_that_no_group_divides_are_refused(tmp_path: Path) -> None:
    odd = llama(tmp_path / "odd", intermediate_size=100)
    folder = attempt_folder(tmp_path / "attempt", odd, spec={"export_format": "w4a16"})
    with pytest.raises(CannotExport, match=r"layer widths \[64, 100\]"):
        run_here(folder)
    assert left_behind(folder) == []
