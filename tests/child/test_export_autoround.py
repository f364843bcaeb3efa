"""Formats gptq and awq: what AutoRound writes is read back by hand, close to the merged model, and always the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export_worker.child import autoround
from tests.child.export_fixtures import Recorder, llama, lora
from tests.child.test_export_run import attempt_folder, run_here


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
    ("spec", "worst"),
    [
        ({"export_format": "gptq"}, 0.5),
        ({"export_format": "awq"}, 0.5),
        ({"export_format": "gptq", "export_quantization_bit": 3, "export_max_perplexity_ratio": 99.0}, 0.9),
        ({"export_format": "gptq", "export_quantization_bit": 8}, 0.05),
    ],
)
def test_learned_rounding_is_close_to_the_merged_model(
    spec: dict[str, Any], worst: float, base: Path, adapter: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    done = run_here(attempt_folder(tmp_path, base, adapter, spec={"export_quantization_steps": 2} | spec), recorder)

    told, output = done["quantization"], tmp_path / "output"
    assert (told["method"], told["num_steps"], told["group_size"]) == ("autoround", 2, 64)
    assert told["num_tokens"] % autoround.ROW_TOKENS == 0 < told["num_tokens"]
    config = quantization_config(output)
    assert (config["quant_method"], config["bits"]) == (done["format"], told["num_bits"])
    assert 0 < done["verification"]["quantized"]["relative_difference"] < worst
    progress = [event["data"] for event in recorder.of_type("progress") if event["data"]["unit"] == "block passes"]
    assert progress[-1]["done"] == progress[-1]["total"]
