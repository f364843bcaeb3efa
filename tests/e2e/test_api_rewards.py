"""At the door of stage ppo: what scores the answers must be a reward model, and fit the model that is trained."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from shared.records import NewModel
from tests.platform import ROWS, Platform, jsonl, make_platform

GOOD: dict[str, Any] = {"model_name_or_path": "base", "dataset": "sums", "stage": "ppo"}
FULL = GOOD | {"reward_model_type": "full"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("rewards"))
    root = made.settings.import_roots[0]
    write(root / "scores", "config.json", {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]})
    write(root / "speaks", "config.json", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    write(root / "adapts", "adapter_config.json", {"task_type": "SEQ_CLS"})
    write(root / "talks", "adapter_config.json", {"task_type": "CAUSAL_LM"})
    for name in ("base", "other"):
        assert made.post("/v1/models", {"name": name, "model_name_or_path": "tiny"}).status_code == 201
    add(made, "ft", "adapter", "sft")
    add(made, "judge", "adapter", "rm")
    add(made, "other-judge", "adapter", "rm", base="other")
    add(made, "whole-judge", "merged", "rm")
    add(made, "whole", "merged", "sft")
    add(made, "small", "quantized", None)
    data = {"file": (io.BytesIO(jsonl(ROWS)), "sums.jsonl"), "purpose": "fine-tune", "name": "sums"}
    assert made.client.post("/v1/datasets", data=data, headers=made.headers()).status_code == 201
    return made


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / name).write_text(json.dumps(content))


def add(platform: Platform, name: str, kind: str, stage: str | None, *, base: str = "base") -> None:
    files: dict[str, Any] = {"uri": "store://m", "digest": "d", "size_bytes": 1, "format": "safetensors"}
    config = {"stage": stage} if stage else {}
    model = NewModel(name=name, kind=kind, base_model=base, config=config, **files)
    platform.store.models.create(platform.store.projects.default().id, model)


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        (GOOD | {"reward_model": "nobody"}, "reward_model", "there is no model"),
        (GOOD | {"reward_model": "ft"}, "reward_model", "gives no scores"),
        (GOOD | {"reward_model": "whole-judge"}, "reward_model", "set reward_model_type to full"),
        (GOOD | {"reward_model": "other-judge"}, "reward_model", "trained on 'other'"),
        (GOOD | {"reward_model": "judge", "model_name_or_path": "other"}, "reward_model", "trained on 'base'"),
        (GOOD | {"reward_model": "talks"}, "reward_model", "gives no scores"),
        (GOOD | {"reward_model": "scores"}, "reward_model", "set reward_model_type to full"),
        (FULL | {"reward_model": "judge"}, "reward_model", "reward_model_adapters"),
        (FULL | {"reward_model": "whole"}, "reward_model", "train one with stage rm"),
        (FULL | {"reward_model": "speaks"}, "reward_model", "train one with stage rm"),
        (FULL | {"reward_model": "small"}, "reward_model", "quantized"),
        (FULL | {"reward_model": "base", "reward_model_adapters": "ft"}, "reward_model_adapters", "gives no scores"),
        (FULL | {"reward_model": "other", "reward_model_adapters": "judge"}, "reward_model_adapters", "not on 'other'"),
        (FULL | {"reward_model": "base", "reward_model_adapters": "whole"}, "reward_model_adapters", "no adapter"),
    ],
)
def test_what_gives_no_scores_or_does_not_fit_is_refused(
    platform: Platform, body: dict[str, Any], field: str, told: str
) -> None:
    answer = platform.post("/v1/jobs", body)
    assert answer.status_code == 422, answer.get_json()
    issues = {issue["field"]: issue["message"] for issue in answer.get_json()["error"]["issues"]}
    assert told in issues[field]


@pytest.mark.parametrize(
    "body",
    [
        GOOD | {"reward_model": "judge"},
        GOOD | {"reward_model": "judge", "model_name_or_path": "ft"},
        GOOD | {"reward_model": "adapts"},
        FULL | {"reward_model": "whole-judge"},
        FULL | {"reward_model": "scores", "finetuning_type": "full"},
        FULL | {"reward_model": "base", "reward_model_adapters": "judge"},
        {
            "model_name_or_path": "base", "dataset": "sums",
            "then": [{"kind": "train", "dataset": "sums", "stage": "ppo", "reward_model": "judge"}],
        },
    ],
)  # fmt: skip
def test_a_reward_model_that_fits_is_taken(platform: Platform, body: dict[str, Any]) -> None:
    answer = platform.post("/v1/jobs", body)
    assert answer.status_code == 201, answer.get_json()
