"""Every argument of LLaMA Factory, posted to the real gateway: taken, taken without effect, or refused and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared import schema, yaml
from shared.errors import InvalidSpec
from shared.spec import SPECS
from tests.lf_examples.posting import FOLDER
from tests.platform import Platform

#: A request of each kind that is accepted; the argument is put into it.
BASE: Mapping[str, Mapping[str, Any]] = {
    "train": {"model_name_or_path": "tiny", "dataset": "identity"},
    "export": {"kind": "export", "model_name_or_path": "tiny"},
    "generate": {"kind": "generate", "model": "whole", "dataset": "identity"},
    "evaluate": {"kind": "evaluate", "model": "whole", "dataset": "identity"},
    "deploy": {"model": "whole"},
}
PAIRS = {"stage": "dpo", "dataset": "dpo_en_demo"}
LABELLED = {"stage": "kto", "dataset": "kto_en_demo"}
REWARDED = {"stage": "ppo", "reward_model": "scorer"}
ANSWERED = {"predict_with_generate": True}
#: What has to be said beside an argument so that it can mean anything.
BESIDE: Mapping[str, Mapping[str, Any]] = {
    "create_new_adapter": {"adapter_name_or_path": "org/adapter"},
    "stage": {"dataset": "dpo_en_demo"},
    "eval_strategy": {"val_size": 0.1},
    "eval_steps": {"val_size": 0.1},
    "do_eval": {"val_size": 0.1},
    **dict.fromkeys(("pref_beta", "pref_ftx", "pref_bco_weight", "pref_loss", "dpo_label_smoothing"), PAIRS),
    **dict.fromkeys(("ref_model", "ld_alpha"), PAIRS),
    "ref_model_adapters": PAIRS | {"ref_model": "tiny"},
    "ref_model_quantization_bit": PAIRS | {"ref_model": "tiny"},
    "simpo_gamma": PAIRS | {"pref_loss": "simpo"},
    **dict.fromkeys(("kto_chosen_weight", "kto_rejected_weight"), LABELLED),
    **dict.fromkeys(
        ("ppo_buffer_size", "ppo_epochs", "ppo_score_norm", "ppo_target", "ppo_whiten_rewards"), REWARDED
    ),
    "reward_model_adapters": REWARDED | {"reward_model": "tiny", "reward_model_type": "full"},
    "reward_model_quantization_bit": REWARDED | {"reward_model": "whole-scorer", "reward_model_type": "full"},
    **dict.fromkeys(("eval_num_beams", "generation_num_beams"), ANSWERED),
    "length_penalty": {"num_beams": 2},
    "n_shot": {"task": "mmlu_test"},
    "use_swanlab": {"swanlab_mode": "local"},
    "reward_model_type": REWARDED | {"reward_model": "whole-scorer"},
}  # fmt: skip
#: Accepted, though the spec is no other: what LF has to be told is always so here.
ALWAYS_SO = frozenset({"do_train", "auto_find_batch_size"})
#: What it says is kept in the fields that it names.
SPREAD = frozenset({"vllm_config"})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    #: "supported", "without effect" or "refused".
    status: str
    #: What is said under the argument's name.
    message: str = ""


def groups() -> dict[str, dict[str, list[Any]]]:
    """Group -> argument -> its default in LF, and another value."""
    return yaml.parse((FOLDER / "arguments.yaml").read_text())


#: LF means something else by it than the kind of job here that has a field of this name.
OF_TRAINING = frozenset({"tensor_parallel_size"})


def kind_of(name: str) -> str:
    """The kind of job that has the argument; train for those that none has."""
    if name in OF_TRAINING:
        return "train"
    return next((kind for kind, spec in SPECS.items() if _wire(spec, name)), "train")


def answer(platform: Platform, name: str, value: Any, kind: str) -> tuple[int, dict[str, Any]]:
    path = "/v1/deployments" if kind == "deploy" else "/v1/jobs"
    body = BASE[kind] | BESIDE.get(name, {}) | {name: value}
    found = platform.post(path, {**body, **({"name": f"with-{name}"} if kind == "deploy" else {})})
    return found.status_code, found.get_json()


def outcome(platform: Platform, name: str, value: Any) -> Outcome:
    kind = kind_of(name)
    status, body = answer(platform, name, value, kind)
    if status >= 400:
        issues = {issue["field"]: issue["message"] for issue in body["error"].get("issues") or []}
        return Outcome(status="refused", message=issues.get(_wire(SPECS[kind], name) or name, f"?? {issues}"))
    told = dict(findings(platform, body["id"])) if kind != "deploy" else {}
    wire = _wire(SPECS[kind], name)
    if wire is None:
        return Outcome(status="without effect", message=told.get(name, ""))
    said, left_out = body["spec"], _left_out(name, kind)
    changed = any(said[field] != left_out[field] for field in (left_out if name in SPREAD else [wire]))
    if name not in ALWAYS_SO and not changed and wire not in told:
        return Outcome(status="ignored")
    return Outcome(status="supported")


def _left_out(name: str, kind: str) -> dict[str, Any]:
    """The spec of the same request without the argument; where that is none, of the base request."""
    spec = SPECS[kind]
    base = {key: value for key, value in BASE[kind].items() if key != "kind"}
    try:
        left = {key: value for key, value in (base | BESIDE.get(name, {})).items() if key != name}
        return schema.to_wire(schema.load(spec, left, partial=True))
    except InvalidSpec:
        return schema.to_wire(schema.load(spec, base))


def findings(platform: Platform, job: str) -> Iterator[tuple[str, str]]:
    for event in platform.get(f"/v1/jobs/{job}/events?limit=1000").get_json()["data"]:
        if field := event["data"].get("field"):
            yield field, event["message"]


def _wire(spec: type, name: str) -> str | None:
    return next((param.wire for param in schema.params(spec) if name in param.names), None)
