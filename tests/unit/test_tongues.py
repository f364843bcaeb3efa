"""Chinese beside the English: templates and values kept apart, the same figures and placeholders in both."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from shared import dataset, schema
from shared.advice import doctor
from shared.advice.finding import Origin, info
from shared.errors import Complaint, InvalidDataset, InvalidSpec, NotFound
from shared.fields import Message
from shared.spec import TrainSpec
from shared.tongues import Text, chinese, listed
from shared.unsupported import UNSUPPORTED
from tests.unit.sentences import FIGURE


def test_a_text_is_its_english_sentence() -> None:
    text = Text("is {value}: must be at least {low}", value=3, low=4)
    assert text == "is 3: must be at least 4"
    assert (text.template, text.values) == ("is {value}: must be at least {low}", {"value": 3, "low": 4})


def test_braces_of_a_sentence_without_values_are_meant_as_they_are() -> None:
    assert Text("post {kind: generate, model}") == "post {kind: generate, model}"


def test_a_text_keeps_its_parts_when_it_is_copied() -> None:
    text = Text("is {value}", value="{broken")
    for made in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert (made, made.template, made.values) == (text, text.template, text.values)


def test_a_complaints_message_keeps_the_parts_of_its_text() -> None:
    message = Message(Text("is {value}", value=1), "out_of_range")
    assert (message, message.code, message.template) == ("is 1", "out_of_range", "is {value}")


def test_a_complaint_from_another_process_keeps_its_chinese() -> None:
    told = Complaint(field="lora_rank", message=Text("is {value}: must be a whole number", value="'8'")).as_dict()
    assert "'8'" in told["message_zh"]
    assert Complaint(**json.loads(json.dumps(told))).as_dict() == told


def test_a_part_that_is_a_sentence_itself_is_said_in_chinese_too() -> None:
    text = Text("Unit: {unit}.", unit=Text("seconds"))
    assert text == "Unit: seconds."
    assert chinese.sentence(text) == "\u5355\u4f4d\uff1a\u79d2\u3002"


def test_a_template_without_words_of_its_own_needs_no_chinese() -> None:
    text = listed([Text("seconds"), Text("Unit: {unit}.", unit=Text("bits")), "x"])
    assert text == "seconds, Unit: bits., x"
    assert chinese.sentence(text) == "\u79d2, \u5355\u4f4d\uff1a\u6bd4\u7279\u3002, x"
    assert chinese.sentence(Text("{field} {complaint}", field="seed", complaint="3")) == "seed 3"


def test_what_has_no_chinese_is_none_and_never_an_error() -> None:
    assert chinese.sentence("nobody translated this") is None
    assert chinese.sentence(Text("nor {this}", this=1)) is None
    assert "zh" not in info("seed", Origin.PAPER, "nobody translated this").as_dict()
    assert "message_zh" not in Complaint(field="seed", message="nobody translated this").as_dict()
    assert "message_zh" not in NotFound("nobody translated this").as_dict()


@pytest.mark.parametrize(
    ("field", "value", "template", "values"),
    [
        ("lora_rank", 0, "is {value}: must be at least {low}", {"value": 0, "low": 1}),
        ("lora_rank", "8", "is {value}: must be a whole number", {"value": "'8'"}),
        ("bf16", 1, "is {value}: must be true or false", {"value": "1"}),
        ("seed", None, "is null: must have a value, or be left out", {}),
        ("max_steps", 0, "is 0: must be 1 or more, or -1 to train by epochs", {}),
        ("val_size", 1.5, "is {given}: must be a share below 1 or a whole number of rows", {"given": 1.5}),
    ],
)
def test_what_is_wrong_with_a_field_is_said_in_both_tongues(
    field: str, value: Any, template: str, values: dict[str, Any]
) -> None:
    issue = complaint({field: value}, field)
    assert issue["message"] == template.format(**values)
    assert issue["message_zh"] == chinese.read("errors")[template].format(**values)


def test_a_required_field_that_lacks_is_said_in_both_tongues() -> None:
    assert complaint({"dataset": None}, "dataset")["message_zh"] == chinese.read("errors")["is required"]


def test_a_misspelt_field_is_told_the_right_name_in_both_tongues() -> None:
    issue = complaint({"lora_rnk": 8}, "lora_rnk")
    assert issue["message"] == "is unknown; did you mean 'lora_rank'?"
    assert "'lora_rank'" in issue["message_zh"] and "did you mean" not in issue["message_zh"]


def test_a_refused_argument_says_why_and_what_instead_in_both_tongues() -> None:
    told = Complaint(field="use_galore", message=UNSUPPORTED["use_galore"].message).as_dict()["message_zh"]
    assert UNSUPPORTED["use_galore"].reason not in told and "GaLore" in told


@pytest.mark.parametrize(
    "line",
    [
        '{"messages": [{"role": "user", "content": "a"}]}',
        '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}',
        '{"messages": [{"role": "robot", "content": "a"}]}',
        '{"messages": "none"}',
        "{broken",
        "[1, 2]",
        '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
    ],
)
def test_what_is_wrong_with_a_row_is_said_in_both_tongues(line: str, tmp_path: Path) -> None:
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(InvalidDataset) as caught:
        dataset.inspect(path)
    (issue,) = [found.as_dict() for found in caught.value.complaints]
    assert issue["line"] == 2 and any(ord(char) > 127 for char in issue["message_zh"])


def test_the_worked_case_of_the_white_paper_is_told_whole_in_chinese() -> None:
    case = {
        "model_name_or_path": "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "template": "deepseekr1", "dataset": "d",
        "finetuning_type": "lora", "bf16": True, "deepspeed": "ds_z3_config.json", "cutoff_len": 1024,
        "learning_rate": 5e-5, "lr_scheduler_type": "cosine", "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 16, "lora_rank": 8, "lora_alpha": 16, "warmup_steps": 0,
    }  # fmt: skip
    told = [made.as_dict() for made in doctor.findings(schema.load(TrainSpec, case), num_rows=40_000, num_devices=8)]
    assert len(told) > 15
    for made in told:
        assert set(made["zh"]) == {part for part in ("message", "advice") if made[part]}
        assert all(set(FIGURE.findall(made[part])) == set(FIGURE.findall(made["zh"][part])) for part in made["zh"])


def complaint(fields: dict[str, Any], about: str) -> dict[str, Any]:
    body = {"model_name_or_path": "m", "dataset": "d", **fields}
    with pytest.raises(InvalidSpec) as caught:
        schema.load(TrainSpec, {name: value for name, value in body.items() if name != "dataset" or value})
    return next(found.as_dict() for found in caught.value.complaints if found.field == about)


def test_values_are_never_taken_for_templates() -> None:
    assert (
        chinese.sentence(Text("{name} (deprecated)", name="{0.__class__}"))
        == "{0.__class__}\uff08\u5df2\u5f03\u7528\uff09"
    )


@pytest.mark.parametrize("name", chinese.TEMPLATES)
def test_both_tongues_have_the_same_placeholders_and_figures(name: str) -> None:
    wrong = [
        english
        for english, told in chinese.read(name).items()
        if sorted(chinese.PLACEHOLDER.findall(english)) != sorted(chinese.PLACEHOLDER.findall(told))
        or set(FIGURE.findall(chinese.PLACEHOLDER.sub("", english)))
        != set(FIGURE.findall(chinese.PLACEHOLDER.sub("", told)))
    ]
    assert not wrong


def test_a_template_stands_in_one_file() -> None:
    names = [english for name in chinese.TEMPLATES for english in chinese.read(name)]
    assert not {english for english in names if names.count(english) > 1}
