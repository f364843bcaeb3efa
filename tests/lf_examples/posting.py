"""LLaMA Factory's example configs, posted to the real gateway as they are: what each is answered.

Their models are Hub ids, or labels of jobs before (`saves/...`), which lie in the catalog here; their datasets are tiny
uploads under the same names and of the same shapes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import yaml
from shared.records import NewModel
from tests.platform import Platform, jsonl, make_platform

FOLDER = Path(__file__).parent
EXPECTED = FOLDER / "expected.yaml"

ALPACA = [{"instruction": f"Twice {n}?", "input": "", "output": str(2 * n)} for n in range(20)]
TURN = {"from": "human", "value": "Twice 2?"}
PAIRS = [
    {"conversations": [TURN], "chosen": {"from": "gpt", "value": "4"}, "rejected": {"from": "gpt", "value": str(n)}}
    for n in range(5, 25)
]
LABELLED = [
    {"messages": [{"role": "user", "content": "Twice 2?"}, {"role": "assistant", "content": str(n)}], "label": n == 4}
    for n in range(20)
]
TEXTS = [{"text": f"Twice {n} is {2 * n}."} for n in range(20)]

#: Names that the examples use -> rows of the shape that LF's dataset of this name has, and its description.
DATASETS: Mapping[str, tuple[list[Any], dict[str, str]]] = {
    **dict.fromkeys(("identity", "alpaca_en_demo", "alpaca_zh_demo", "alpaca_zh", "math", "med"), (ALPACA, {})),
    # Images are no part of rows here: the examples that use these are refused before their rows matter.
    **dict.fromkeys(("mllm_demo", "llava_1k_en", "llava_1k_zh"), (ALPACA, {})),
    "rlhf_v": (PAIRS, {"formatting": "sharegpt", "ranking": "true"}),
    "dpo_en_demo": (
        PAIRS,
        {
            "formatting": "sharegpt",
            "ranking": "true",
            "columns": json.dumps({"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}),
        },
    ),
    "kto_en_demo": (
        LABELLED,
        {"formatting": "openai", "columns": json.dumps({"messages": "messages", "kto_tag": "label"})},
    ),
    "c4_demo": (TEXTS, {"columns": json.dumps({"prompt": "text"})}),
}
#: Labels of jobs before -> the base that they trained, and what they made.
MADE: Mapping[str, tuple[str, str]] = {
    "saves/llama3-8b/lora/sft": ("meta-llama/Meta-Llama-3-8B-Instruct", "adapter"),
    "saves/qwen3-4b/lora/sft": ("Qwen/Qwen3-4B-Instruct-2507", "adapter"),
    "saves/qwen3-vl-4b/lora/sft": ("Qwen/Qwen3-VL-4B-Instruct", "adapter"),
    "saves/moss-vl-11b/lora/sft": ("OpenMOSS-Team/MOSS-VL-Instruct-0708", "adapter"),
    "saves/tiny/lora/sft": ("tiny", "adapter"),
    "saves/qwen3-4b/full/sft": ("Qwen/Qwen3-4B-Instruct-2507", "merged"),
}
#: What is deployed has to be in the catalog.
REGISTERED = ("Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-VL-4B-Instruct", "OpenMOSS-Team/MOSS-VL-Instruct-0708")


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    #: Kind of the job that is queued, "deploy" for a deployment; None: refused.
    kind: str | None
    id: str | None
    #: Field -> message.
    refused: Mapping[str, str]
    spec: Mapping[str, Any]


def files() -> list[str]:
    """Every example, as the table names it."""
    found = (path.relative_to(FOLDER) for path in FOLDER.glob("*/**/*.yaml"))
    return sorted(str(path) for path in found)


def expected() -> dict[str, str | dict[str, str]]:
    """File -> kind of the job that it becomes, or field -> part of the message."""
    return yaml.parse(EXPECTED.read_text())


def furnished(home: Path) -> Platform:
    """A gateway whose catalog has what the examples name."""
    platform = make_platform(home, hub=True)
    for name, (rows, described) in DATASETS.items():
        form = {"file": (io.BytesIO(jsonl(rows)), f"{name}.jsonl"), "name": name, **described}
        answer = platform.client.post("/v1/datasets", data=form, headers=platform.headers())
        assert answer.status_code == 201, answer.get_json()
    calibration = platform.settings.import_roots[0] / "data" / "c4_demo.jsonl"
    calibration.parent.mkdir()
    calibration.write_bytes(jsonl(TEXTS))
    for name in REGISTERED:
        assert platform.post("/v1/models", {"name": name, "model_name_or_path": name}).status_code == 201
    for label, (base, kind) in MADE.items():
        _made(platform, label, base, kind)
    _made(platform, "small", "tiny", "quantized", name="small")
    _made(platform, "whole", "Qwen/Qwen3-4B-Instruct-2507", "merged", name="whole")
    _made(platform, "scorer", "tiny", "adapter", name="scorer", stage="rm")
    _made(platform, "whole-scorer", "tiny", "merged", name="whole-scorer", stage="rm")
    return platform


def _made(platform: Platform, label: str, base: str, kind: str, *, name: str | None = None, **config: str) -> None:
    model = NewModel(
        name=name or f"ft:{label}", kind=kind, base_model=base, uri="store://made", digest="d", size_bytes=1,
        format="safetensors", config={"output_dir": label, **config},
    )  # fmt: skip
    platform.store.models.create(platform.store.projects.default().id, model)


def post(platform: Platform, file: str) -> Answer:
    """The answer to the file as it lies there."""
    path = "/v1/deployments" if file.startswith("inference/") else "/v1/jobs"
    headers = platform.headers() | {"Content-Type": "application/yaml"}
    answer = platform.client.post(path, data=(FOLDER / file).read_bytes(), headers=headers)
    body = answer.get_json()
    if answer.status_code >= 400:
        issues = body["error"].get("issues") or []
        refused = {issue["field"]: issue["message"] for issue in issues}
        return Answer(status=answer.status_code, kind=None, id=None, refused=refused, spec={})
    kind = "deploy" if path == "/v1/deployments" else body["kind"]
    return Answer(status=answer.status_code, kind=kind, id=body["id"], refused={}, spec=body["spec"])
