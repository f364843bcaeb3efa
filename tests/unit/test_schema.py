"""The door: strict types, every complaint at once, nearest names, secrets apart, and a faithful way back."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from shared import schema
from shared.advice import given
from shared.errors import InvalidSpec
from shared.param import param
from shared.rules import INVALID, ReadsInvalid
from shared.spec import SPECS, DeploySpec, ExportSpec, GenerateSpec, Lora, TrainSpec
from shared.templates import Wording
from shared.unsupported import UNSUPPORTED

SMALL = {"model_name_or_path": "base", "dataset": "facts"}
#: Nested deeper than Python can show.
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


def complaints(body: dict[str, Any], spec: type = TrainSpec) -> dict[str, tuple[str, str]]:
    with pytest.raises(InvalidSpec) as caught:
        schema.load(spec, body)
    return {made.field: (made.code, made.message) for made in caught.value.complaints}


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("lora_rank", "4", "invalid_type"),
        ("lora_rank", True, "invalid_type"),
        ("lora_rank", 4.0, "invalid_type"),
        ("lora_rank", None, "invalid_value"),
        ("lora_rank", 0, "out_of_range"),
        ("lora_rank", 10**30, "invalid_value"),
        ("learning_rate", "5e-5", "invalid_type"),
        ("learning_rate", False, "invalid_type"),
        ("learning_rate", 0, "out_of_range"),
        ("learning_rate", float("nan"), "invalid_value"),
        ("learning_rate", float("inf"), "invalid_value"),
        ("learning_rate", 10**400, "invalid_value"),
        ("lora_dropout", 1.0, "out_of_range"),
        ("bf16", "true", "invalid_type"),
        ("bf16", 1, "invalid_type"),
        ("dataset", 3, "invalid_type"),
        ("dataset", ["a", 3], "invalid_type"),
        ("dataset", " , ", "invalid_value"),
        ("optim", "adamw_torhc", "invalid_choice"),
        ("quantization_bit", 3, "invalid_choice"),
        ("default_system", "a\x00b", "invalid_value"),
        ("default_system", "\ud800", "invalid_value"),
        ("output_dir", "two\nlines", "invalid_value"),
        ("warmup_steps", 1.5, "invalid_value"),
        ("deepspeed", 3, "invalid_type"),
        ("deepspeed", {"zero_optimization": {"stage": 2, "offload_param": DEEP}}, "invalid_value"),
        ("lora_rank", DEEP, "invalid_type"),
    ],
)
def test_a_wrong_value_is_refused_under_its_field(field: str, value: Any, code: str) -> None:
    assert complaints({**SMALL, field: value})[field][0] == code


def test_an_integer_will_do_for_a_float_and_becomes_one() -> None:
    spec = schema.load(TrainSpec, {**SMALL, "num_train_epochs": 2})
    assert spec.train.num_train_epochs == 2.0
    assert isinstance(spec.train.num_train_epochs, float)


def test_every_complaint_comes_back_at_once() -> None:
    body = {
        "lora_rnk": 3,
        "use_galore": True,
        "lora_rank": "4",
        "template": "qwenn",
        "stage": "dop",
        "bf16": True,
        "fp16": True,
        "mask_history": True,
        "train_on_prompt": True,
        "dataset": "facts",
    }
    found = complaints(body)
    assert found.keys() == {
        "lora_rnk", "use_galore", "lora_rank", "template", "stage", "fp16", "mask_history", "model_name_or_path",
    }  # fmt: skip
    assert found["model_name_or_path"] == ("required", "is required")


def test_the_message_of_the_error_names_the_first_fields() -> None:
    with pytest.raises(
        InvalidSpec, match=r"lora_rank is '4': must be a whole number; .*bf16 is 1|bf16 is 1.*lora_rank is '4'"
    ):
        schema.load(TrainSpec, {**SMALL, "lora_rank": "4", "bf16": 1})


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    assert complaints({**SMALL, "lora_rnk": 8})["lora_rnk"] == (
        "unknown_field",
        "is unknown; did you mean 'lora_rank'?",
    )


def test_an_unknown_field_that_is_like_none_gets_no_guess() -> None:
    assert complaints({**SMALL, "zzzz": 8})["zzzz"] == ("unknown_field", "is unknown")


@pytest.mark.parametrize("field", ["template", "stage", "optim", "finetuning_type"])
def test_a_wrong_choice_is_refused_with_the_nearest(field: str) -> None:
    near = {"template": "llama3", "stage": "sft", "optim": "adafactor", "finetuning_type": "lora"}[field]
    code, message = complaints({**SMALL, field: f"{near}x"})[field]
    assert code == "invalid_choice"
    assert f"did you mean '{near}'" in message


def test_a_flood_of_unknown_fields_is_not_worked_through() -> None:
    started = time.process_time()
    with pytest.raises(InvalidSpec, match="at most 1000"):
        schema.load(TrainSpec, {f"field_{n}": n for n in range(100_000)})
    assert time.process_time() - started < 1


def test_an_unknown_template_is_refused_with_the_nearest() -> None:
    code, message = complaints({**SMALL, "template": "qwen3_no_think"})["template"]
    assert code == "invalid_choice"
    assert message.endswith("did you mean 'qwen3_nothink'?")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"template": "glm4", "train_on_prompt": True}, "train_on_prompt"),
        ({"tool_format": "qwen"}, "tool_format"),
        ({"template": "default-of-model", "tool_format": "qwen"}, "tool_format"),
        ({"template": "qwen", "tool_format": "qwen2"}, "tool_format"),
        ({"enable_thinking": "no"}, "enable_thinking"),
        ({"preserve_thinking": None}, "preserve_thinking"),
    ],
)
def test_what_is_said_of_a_template_must_fit_it(body: dict[str, Any], field: str) -> None:
    assert list(complaints({**SMALL, **body})) == [field]


def test_thinking_may_be_left_to_the_data() -> None:
    spec = schema.load(TrainSpec, {**SMALL, "template": "qwen3", "enable_thinking": None, "tool_format": "llama3"})
    assert (spec.data.wording.enable_thinking, spec.data.wording.tool_format) == (None, "llama3")
    assert schema.load(TrainSpec, SMALL).data.wording == Wording()


def test_a_field_of_another_kind_of_job_says_whose_it_is() -> None:
    code, message = complaints({**SMALL, "export_size": 7})["export_size"]
    assert code == "unsupported"
    assert "export" in message


@pytest.mark.parametrize("value", [5, None])
def test_a_field_of_another_kind_of_job_may_be_given_with_its_default(value: Any) -> None:
    schema.load(TrainSpec, {**SMALL, "export_size": value, "temperature": 0.95, "do_sample": True})
    assert "do_sample" in complaints({**SMALL, "do_sample": 1})


def test_a_field_of_lf_may_be_given_with_the_value_that_switches_it_off() -> None:
    schema.load(TrainSpec, {**SMALL, "use_galore": False, "shift_attn": False, "fsdp": "", "ref_model": None})


def test_off_is_meant_strictly() -> None:
    assert "use_galore" in complaints({**SMALL, "use_galore": 0})


def test_a_rule_that_reads_an_invalid_field_is_not_run() -> None:
    found = complaints({**SMALL, "bf16": "yes", "fp16": True})
    assert found.keys() == {"bf16"}


def test_the_stand_in_for_an_invalid_value_lets_no_rule_decide() -> None:
    for read in (bool, str, len, lambda v: v > 1, lambda v: v == 1, lambda v: v + 1, lambda v: v.x, lambda v: f"{v}"):
        with pytest.raises(ReadsInvalid):
            read(INVALID)


def test_the_same_thing_under_two_names_is_refused() -> None:
    assert "is given twice" in complaints({**SMALL, "model": "other"})["model_name_or_path"][1]


def test_names_of_lf_are_taken_for_ours() -> None:
    spec = schema.load(DeploySpec, {"model_name_or_path": "m", "vllm_maxlen": 512, "vllm_enforce_eager": True})
    assert (spec.model, spec.max_model_len, spec.enforce_eager) == ("m", 512, True)


def test_a_string_with_commas_is_a_list_of_names() -> None:
    spec = schema.load(TrainSpec, {**SMALL, "dataset": "a, b,,c", "lora_target": ["q_proj", "v_proj"]})
    assert spec.data.dataset == ["a", "b", "c"]
    assert spec.lora.target == ["q_proj", "v_proj"]


def test_a_stop_text_may_hold_a_comma() -> None:
    spec = schema.load(GenerateSpec, {"model": "m", "dataset": "d", "stop": ", "})
    assert spec.sampling.stop == [", "]


def test_the_defaults_are_those_of_lf() -> None:
    spec = schema.load(TrainSpec, SMALL)
    train = spec.train
    assert (train.per_device_train_batch_size, spec.data.cutoff_len, train.lr_scheduler_type) == (8, 2048, "linear")
    assert (train.warmup_steps, train.warmup_ratio, train.learning_rate, train.num_train_epochs) == (0, 0.0, 5e-5, 3.0)
    assert (spec.lora.rank, spec.lora.alpha, spec.lora.target) == (8, 16, ["all"])


def test_two_specs_share_no_default() -> None:
    first, second = schema.load(TrainSpec, SMALL), schema.load(TrainSpec, SMALL)
    first.data.eval_dataset.append("x")
    first.lora.target.append("x")
    assert second.data.eval_dataset == []
    assert second.lora.target == Lora().target == ["all"]


def test_a_spec_is_frozen() -> None:
    spec = schema.load(TrainSpec, SMALL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.lora.rank = 3  # type: ignore[misc]


@pytest.mark.parametrize("kind", SPECS)
def test_a_stored_spec_comes_back_as_it_was(kind: str) -> None:
    required = {param.wire: "x" for param in schema.params(SPECS[kind]) if param.required}
    required |= {"evaluate": {"eval_dataset": "x"}, "push": {"export_hub_model_id": "me/x"}}.get(kind, {})
    spec = schema.load(SPECS[kind], required)
    assert schema.from_stored(SPECS[kind], schema.to_wire(spec)) == spec


def test_a_stored_spec_is_not_judged_again() -> None:
    wire = schema.to_wire(schema.load(TrainSpec, SMALL))
    spec = schema.from_stored(TrainSpec, {**wire, "stage": "dpo", "lora_rank": 0, "packing": None})
    assert (spec.tuning.stage, spec.lora.rank, spec.data.packing) == ("dpo", 0, None)


@pytest.mark.parametrize("change", [{"of_tomorrow": 1}, {"schema_version": 99}, {"schema_version": None}])
def test_a_stored_spec_of_another_version_is_not_guessed(change: dict[str, Any]) -> None:
    wire = schema.to_wire(schema.load(TrainSpec, SMALL))
    with pytest.raises(schema.UnreadableSpec):
        schema.from_stored(TrainSpec, {**wire, **change})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grown:
    old: int = param(1, "There from the first version.", deprecated=("older",))
    new: int = param(2, "Came later.", since=schema.SCHEMA_VERSION)

    def resolved(self) -> Grown:
        return self


def test_a_stored_spec_of_before_gets_what_new_fields_did_then() -> None:
    assert schema.from_stored(Grown, {"schema_version": 1, "old": 7}) == Grown(old=7, new=2)
    with pytest.raises(schema.UnreadableSpec, match="new"):
        schema.from_stored(Grown, {"schema_version": schema.SCHEMA_VERSION, "old": 7})


def test_a_name_of_before_is_accepted_and_told() -> None:
    assert schema.load(Grown, {"older": 5}).old == 5
    (told,) = given.remarks(Grown, {"older": 5})
    assert (told.field, told.severity) == ("old", "warning")
    assert "older" in told.message


def test_what_has_no_effect_is_told() -> None:
    (told,) = given.remarks(TrainSpec, {**SMALL, "cache_dir": "/tmp/x", "local_rank": None})
    assert (told.field, told.severity) == ("cache_dir", "info")


def test_a_stored_spec_that_lacks_a_field_gets_no_default_of_today() -> None:
    wire = schema.to_wire(schema.load(TrainSpec, SMALL))
    del wire["lora_rank"]
    with pytest.raises(schema.UnreadableSpec, match="lora_rank"):
        schema.from_stored(TrainSpec, wire)


def test_secrets_are_shown_as_stars_and_sealed_apart() -> None:
    spec = schema.load(TrainSpec, {**SMALL, "hf_hub_token": "hf_abc"})
    assert schema.to_wire(spec)["hf_hub_token"] == "***"
    assert schema.secrets(spec) == {"hf_hub_token": "hf_abc"}
    assert schema.secrets(schema.load(TrainSpec, SMALL)) == {}


def test_a_wrong_secret_is_not_repeated() -> None:
    assert complaints({**SMALL, "hf_hub_token": 12345678})["hf_hub_token"] == ("invalid_type", "must be text")


def test_partial_lets_required_fields_lack_but_not_be_wrong() -> None:
    assert schema.load(ExportSpec, {"export_size": 2}, partial=True).source.model_name_or_path is None
    assert schema.load(TrainSpec, {"lora_rank": 4}, partial=True).lora.alpha == 8
    with pytest.raises(InvalidSpec):
        schema.load(ExportSpec, {"model_name_or_path": 3}, partial=True)


@pytest.mark.parametrize("kind", SPECS)
def test_wire_names_are_unique_and_lead_to_their_place(kind: str) -> None:
    params = schema.params(SPECS[kind])
    names = [name for param in params for name in (param.wire, *param.aliases)]
    assert len(names) == len(set(names))
    assert not set(names) & UNSUPPORTED.keys()
    assert all(param.doc.endswith(".") for param in params)


def test_openapi_has_ranges_choices_and_descriptions() -> None:
    spec = APISpec(title="t", version="1", openapi_version="3.0.3", plugins=[MarshmallowPlugin()])
    spec.components.schema("TrainSpec", schema=schema.marshmallow_schema(TrainSpec))
    made = spec.to_dict()["components"]["schemas"]["TrainSpec"]
    rank = made["properties"]["lora_rank"]
    assert (rank["type"], rank["minimum"], rank["default"]) == ("integer", 1, 8)
    assert "Capacity" in rank["description"]
    assert "cosine" in made["properties"]["lr_scheduler_type"]["enum"]
    assert made["properties"]["hf_hub_token"]["writeOnly"]
    assert set(made["required"]) == {"model_name_or_path", "dataset"}
    assert made["additionalProperties"] is False
