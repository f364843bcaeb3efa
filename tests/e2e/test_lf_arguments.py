"""Every argument of LLaMA Factory is taken, taken with a remark, or refused with a reason: never ignored in silence."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lf_examples import arguments, posting
from tests.platform import Platform

ALL = {name: values for members in arguments.groups().values() for name, values in members.items()}
#: In LF false is the default, and a file that says it trains nothing: here that is a contradiction.
CONTRADICTS = "do_train"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return posting.furnished(tmp_path_factory.mktemp("arguments"))


@pytest.mark.parametrize("name", ALL)
def test_an_argument_that_asks_for_something_is_taken_or_answered_with_a_reason(platform: Platform, name: str) -> None:
    found = arguments.outcome(platform, name, ALL[name][1])
    assert found.status in {"supported", "without effect", "refused"}
    if found.status != "supported":
        assert len(found.message) > 30, found


def test_a_file_that_writes_out_every_default_of_lf_is_accepted(platform: Platform) -> None:
    defaults: dict[str, Any] = {name: values[0] for name, values in ALL.items() if name != CONTRADICTS}
    answer = platform.post("/v1/jobs", defaults | arguments.BASE["train"])
    assert answer.status_code == 201, answer.get_json()
    assert answer.get_json()["kind"] == "train"


@pytest.mark.parametrize(
    ("old", "value", "field"),
    [
        ("checkpoint_dir", "ft:saves/tiny/lora/sft", "adapter_name_or_path"),
        ("num_layer_trainable", 3, "freeze_trainable_layers"),
        ("name_module_trainable", "mlp", "freeze_trainable_modules"),
        ("sft_packing", True, "packing"),
        ("dpo_beta", 0.2, "pref_beta"),
        ("dpo_ftx", 0.5, "pref_ftx"),
        ("dpo_loss", "hinge", "pref_loss"),
        ("ref_model_checkpoint", "whole", "ref_model"),
    ],
)
def test_a_name_that_lf_had_before_is_taken_with_a_warning(
    platform: Platform, old: str, value: Any, field: str
) -> None:
    beside = arguments.PAIRS if field.startswith(("pref", "ref")) else {}
    made = platform.post("/v1/jobs", {**arguments.BASE["train"], **beside, old: value}).get_json()
    assert made["spec"][field] in (value, [value])
    events = platform.get(f"/v1/jobs/{made['id']}/events?limit=1000").get_json()["data"]
    assert [event for event in events if event["data"].get("field") == field and old in event["message"]]


@pytest.mark.parametrize("name", ["logging_dir", "infer_backend", "dispatch_batches"])
def test_what_is_accepted_and_changes_nothing_is_said(platform: Platform, name: str) -> None:
    value = {"infer_backend": "vllm"}.get(name, "x")
    made = platform.post("/v1/jobs", {**arguments.BASE["train"], name: value}).get_json()
    events = platform.get(f"/v1/jobs/{made['id']}/events?limit=1000").get_json()["data"]
    assert name in [event["data"].get("field") for event in events]
