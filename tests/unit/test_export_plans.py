"""POST /v1/plans for an export: how large each format is, what it takes, and whether the workers have it."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from gateway.cli import show, verified
from gateway.cli.commands import plan
from shared import schema
from shared.job import Kind, Status
from shared.spec import ExportSpec
from tests.platform import Platform
from tests.unit.test_plans import DISTILL, platform

__all__ = ["platform"]

GIB = 1024**3


def ask(platform: Platform, **body: Any) -> dict[str, Any]:
    answer = platform.post("/v1/plans", {"kind": "export", "model": "far/away", "config": DISTILL} | body)
    assert answer.status_code == 200, answer.get_json()
    made: dict[str, Any] = answer.get_json()
    return made


def told(made: dict[str, Any]) -> str:
    written = StringIO()
    plan.tell(Console(file=written, width=200, highlight=False), made)
    return written.getvalue()


def report(platform: Platform, free_gib: float, **devices: Any) -> None:
    machine = {"disk": {"free_bytes": int(free_gib * GIB)}, "host_memory_gib": 100.0}
    beat: dict[str, Any] = {"kinds": ["export"], "host": "h", "storage_id": "s", "version": "1", "machine": machine}
    platform.store.workers.beat("exporter", devices=["cpu"], **beat)


def test_a_plan_tells_the_size_of_every_format_and_what_it_takes(platform: Platform) -> None:
    made = ask(platform, export_quantization_bit=4)

    # Qwen2.5-32B is published with 65.5 GB in bfloat16 and with 19.3 GB at 4 bits (AWQ, groups of 128).
    assert made["export"]["merged_gib"] * GIB == pytest.approx(65.5e9, rel=0.01)
    assert made["export"]["size_gib"] * GIB == pytest.approx(19.3e9, rel=0.03)
    assert made["disk"]["scratch_gib"] == pytest.approx(1.05 * (61.0 + 18.3), rel=0.02)
    assert made["memory"]["host_gib"].keys() == {"merge", "verify", "quantize"}
    assert made["memory"]["host_gib"]["merge"] < 5 < 61 < made["memory"]["host_gib"]["verify"]
    by_tensor = ask(platform, export_format="fp8")["memory"]["host_gib"]
    assert by_tensor["quantize"] == by_tensor["merge"]
    assert {"merged", "w4a16"} <= {row["format"] for row in made["formats"]}
    assert any("No texts are known" in finding["message"] for finding in made["findings"])
    assert not made["seconds"]["is_measured"] and made["disk"]["verdict"] is None
    text = told(made)
    assert "> w4a16" in text and "waits for no device" in text and "roughly" in text


def test_a_disk_that_is_too_small_is_told_before_the_export(platform: Platform) -> None:
    report(platform, free_gib=40)
    try:
        made = ask(platform)
        job = platform.post("/v1/jobs", {"kind": "export", "model": "base"}).get_json()
        small = ask(platform, model="base", config=None)
    finally:
        platform.store.workers.remove("exporter")

    assert (made["disk"]["verdict"], made["disk"]["worker"]) == ("does_not_fit", "exporter")
    [found] = [one for one in made["findings"] if "GiB of disk" in one["message"]]
    assert found["severity"] == "warning" and "40.0 GiB free" in found["message"] and found["zh"]["message"]
    assert "does_not_fit" in told(made)
    assert (small["disk"]["verdict"], small["memory"]["verdict"]) == ("fits", "fits")
    assert job["requires"] == {"num_devices": 0}


def test_an_export_holds_a_device_only_where_one_is_asked_for(platform: Platform) -> None:
    asked = [{}, {"export_device": "auto"}, {"requires": {"gpu_kind": "A100"}}]
    assert [ask(platform, **body)["export"]["takes_device"] for body in asked] == [False, True, True]


def test_time_is_that_of_earlier_exports_by_the_size_of_their_bases(platform: Platform) -> None:
    spec = schema.to_wire(schema.load(ExportSpec, {"model": "base"}))
    project = platform.store.projects.default().id
    job, _ = platform.store.jobs.create(project, kind=Kind.EXPORT, spec=spec)
    while (claim := platform.store.attempts.claim_next(worker_id="w", kinds=[Kind.EXPORT])) and claim.job.id != job.id:
        pass
    assert claim is not None
    seconds = {"merge": 2.0, "verify": 10.0, "publish": 1.0}
    result = {"format": "merged", "base_bytes": int(65.5e8), "seconds": seconds}
    platform.store.attempts.finish(job.id, claim.attempt, status=Status.SUCCEEDED, result=result)

    made = ask(platform)

    assert made["seconds"]["is_measured"] and made["seconds"]["total"] == pytest.approx(130, rel=0.02)
    assert not ask(platform, export_quantization_bit=4)["seconds"]["is_measured"], "none was quantized yet"


def test_what_an_export_has_proven_is_told_in_a_line_each() -> None:
    merge = {"loss_reference": 1.25, "loss": 1.2504, "top1_agreement": 0.998, "relative_difference": 0.0101}
    quantized = {"loss_reference": 1.2504, "loss": 1.31, "top1_agreement": 0.95, "perplexity_ratio": 1.0614}
    vllm = {"proven": False, "why": "there is no inference environment"}
    found = {"num_rows": 16, "rows_from": "eval_dataset", "merge": merge, "quantized": quantized, "vllm": vllm}

    assert [*verified.lines(found)] == [
        "compared on 16 rows (eval_dataset)",
        "merged against trained: loss 1.2500 -> 1.2504, same likeliest token 99.8 %, logits differ by 1.01 %",
        "quantized against merged: loss 1.2504 -> 1.3100, perplexity x 1.061, same likeliest token 95.0 %",
        "not answered by vLLM: there is no inference environment",
    ]
    assert [*verified.lines({})] == []
    asked = {"proven": True, "merged": {"proven": True, "loss_reference": 1.25, "loss": 1.251, "num_prompts": 4}}
    assert [*verified.lines({"vllm": asked})] == ["merged, answered by vLLM: loss 1.2500 -> 1.2510"]


def test_progress_of_phases_is_not_that_of_the_phase_before() -> None:
    merging = {"phase": "merge", "progress": {"phase": "merge", "done": 2**20, "total": 2**21, "unit": "bytes"}}

    assert show.progress(merging) == "merge  1.0 MiB of 2.0 MiB"
    assert show.progress(merging | {"phase": "verify"}) == "verify"
    assert show.progress({"phase": "train", "progress": {"done": 1, "total": 3, "unit": "steps", "loss": 2.0}}) == (
        "1/3  loss 2.0000"
    )


def test_what_lf_takes_in_an_export_and_does_not_read_is_taken_and_told(platform: Platform) -> None:
    unread = {
        "stage": "dpo",
        "lora_rank": 16,
        "pref_loss": "ipo",
        "cutoff_len": 512,
        "dataset": "any",
        "flash_attn": "fa2",
    }
    made = ask(platform, export_dir="saves/merged", **unread, finetuning_type="lora", do_sample=True)

    told = {found["field"] for found in made["findings"] if "an export has no use for it" in found["message"]}
    assert told == unread.keys()
    for wrong in ({"stage": "rm"}, {"quantization_bit": 4}, {"learning_rate": 1e-5}, {"default_system": "Be kind."}):
        body = {"kind": "export", "model": "base", **wrong}
        assert platform.post("/v1/plans", body).status_code == 422, wrong


def test_a_file_for_llama_cpp_has_its_size_and_its_programs(platform: Platform) -> None:
    made = ask(platform, export_gguf_type="q4_k_m")

    # Qwen2.5-32B's GGUF in q4_k_m is published with 19.9 GB, in q8_0 with 34.8 GB.
    rows = {row["bits"]: row for row in made["formats"] if row["format"] == "gguf"}
    assert made["export"]["size_gib"] == rows[4]["size_gib"]
    assert rows[4]["size_gib"] * GIB == pytest.approx(19.9e9, rel=0.03)
    assert rows[8]["size_gib"] * GIB == pytest.approx(34.8e9, rel=0.03)
    assert rows[4]["programs"] == ["llama.cpp", "Ollama"] and "llama.cpp, Ollama" in told(made)
    assert any("Deployments do not serve" in found["message"] for found in made["findings"])
    assert ask(platform, export_gguf_type="f16")["formats"][-1]["bits"] is None
