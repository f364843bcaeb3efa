"""Which template belongs to which model, and the table of all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared import templates
from shared.templates import families, reference

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen"),
        ("Qwen/Qwen3-8B", "qwen3"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3_nothink"),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl_nothink"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama3"),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "mllama"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama2"),
        ("huggyllama/llama-30b", "llama2"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "deepseekr1"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek3"),
        ("google/gemma-2-9b-it", "gemma2"),
        ("google/gemma-7b-it", "gemma"),
        ("zai-org/GLM-4.5-Air", "glm4_moe"),
        ("zai-org/glm-4-9b-chat", "glm4"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "ministral"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2"),
        ("/models/Yi-1.5-9B-Chat/", "yi"),
        ("my-own-model", None),
    ],
)
def test_a_models_name_tells_its_template(name: str, template: str | None) -> None:
    assert families.by_name(name) == template


def test_every_family_is_of_a_template_that_is_there() -> None:
    named = {template for _, template in families.NAMES} | {one for made in families.TYPES.values() for one in made}
    assert named <= set(templates.names())


def test_a_type_tells_what_is_out_of_place() -> None:
    assert families.out_of_place("llama2", "qwen2")
    assert not families.out_of_place("qwen", "qwen2")
    assert not families.out_of_place("chatml", "qwen2")
    assert not families.out_of_place("llama2", "a type of tomorrow")


def test_the_name_goes_before_the_type_and_tokens_leave_out_what_cannot_be() -> None:
    assert families.for_model("Qwen3-8B", "qwen3")[:2] == ("qwen3", "qwen3_nothink")
    llama2 = families.for_model("", "llama", {"<s>", "</s>"})
    assert "llama2" in llama2 and "llama3" not in llama2 and "smollm2" not in llama2
    assert "smollm2" in families.for_model("", "llama", {"<|im_start|>", "<|im_end|>"})


def test_a_template_needs_the_tokens_that_it_writes_and_stops_at() -> None:
    assert families.needs("llama3") == {
        "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"
    }  # fmt: skip
    assert families.needs("deepseekr1") == {"<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"}
    assert families.needs("llama2") == frozenset()


def test_the_committed_page_is_current() -> None:
    page = (DOCS / "templates.md").read_text(encoding="utf-8")
    assert page == reference.page(), "run: python -m shared.templates.reference > docs/templates.md"
