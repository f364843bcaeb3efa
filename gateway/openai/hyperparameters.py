"""OpenAI's fine-tuning request as a job of ours, and back. Pure functions of the two.

`learning_rate_multiplier` counts in the rate of LF's own LoRA examples for the method's stage; the rate itself is told
in the job's spec. What OpenAI has no word for (rank, cutoff, template ...) comes under LF's names, in `x_train` or
beside OpenAI's hyperparameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.openai import integrations
from shared import schema, stages
from shared.errors import Complaint, InvalidRequest
from shared.fields import shown
from shared.job import Job
from shared.tongues import Text

#: OpenAI's methods -> our stages.
METHODS: Mapping[str, str] = {"supervised": "sft", "dpo": "dpo"}
#: Larger than any that makes sense; whole numbers of JSON may be larger than a float can hold.
MAX_NUMBER = 1e9
#: What "auto" means.
AUTO: dict[str, Any] = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}
#: OpenAI's names of fields that LF calls otherwise.
OWN_NAMES = {"beta": "pref_beta"}
FIELDS = frozenset(
    {"model", "training_file", "validation_file", "suffix", "seed", "metadata", "integrations", "method"}
    | {"hyperparameters", "x_train", "priority", "requires"}
)


class UnsupportedMethod(InvalidRequest):
    """This fine-tuning method is not offered."""

    code = "unsupported_method"


def job_body(given: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the native job. Raises InvalidSpec, UnsupportedMethod."""
    _check(given)
    method, told = _told(given)
    own = {OWN_NAMES.get(name, name): value for name, value in told.items() if name not in AUTO}
    made: dict[str, Any] = {
        "kind": "train",
        "stage": METHODS[method],
        "model_name_or_path": given["model"],
        "dataset": [given["training_file"]],
        "num_train_epochs": _number(told, "n_epochs"),
        "per_device_train_batch_size": _number(told, "batch_size"),
        "learning_rate": base_learning_rate(METHODS[method]) * _number(told, "learning_rate_multiplier"),
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
    }
    made |= {"eval_dataset": [given["validation_file"]]} if given.get("validation_file") else {}
    made |= {
        name: given[name]
        for name in ("suffix", "seed", "metadata", "priority", "requires")
        if given.get(name) is not None
    }
    return made | integrations.fields(given) | own | dict(given.get("x_train") or {})


def base_learning_rate(stage: str) -> float:
    return float(stages.get(stage).rates["lora"].lf)


def hyperparameters(job: Job) -> dict[str, Any]:
    """What the client sees: numbers, as the spec has them."""
    spec = job.spec
    epochs = spec["num_train_epochs"]
    told = {
        "n_epochs": int(epochs) if float(epochs).is_integer() else epochs,
        "batch_size": spec["per_device_train_batch_size"],
        "learning_rate_multiplier": spec["learning_rate"] / base_learning_rate(spec["stage"]),
    }
    return told | ({"beta": spec["pref_beta"]} if spec["stage"] == "dpo" else {})


def method(job: Job) -> dict[str, Any]:
    """The job's method in OpenAI's words; stages that it has no word for are told as supervised."""
    kind = next((name for name, stage in METHODS.items() if stage == job.spec["stage"]), "supervised")
    return {"type": kind, kind: {"hyperparameters": hyperparameters(job)}}


def _check(given: Mapping[str, Any]) -> None:
    complaints = [
        Complaint(field=name, message="is unknown: LF's fields go into x_train", code="unknown_field")
        for name in given
        if name not in FIELDS
    ]
    for name in ("model", "training_file"):
        if not isinstance(given.get(name), str) or not given[name]:
            complaints.append(Complaint(field=name, message="is required: a text", code="required"))
    for name in ("method", "hyperparameters", "x_train"):
        if given.get(name) is not None and not isinstance(given[name], dict):
            complaints.append(Complaint(field=name, message="must be an object", code="invalid_type"))
    complaints += integrations.complaints(given)
    if complaints:
        raise schema.refusal(complaints)


def _told(given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method and its hyperparameters, else the old ones at the top; "auto" is as good as left out."""
    method = given.get("method") or {"type": "supervised"}
    kind = method.get("type", "supervised")
    if not isinstance(kind, str) or kind not in METHODS:
        message = f"method.type is {shown(kind)}: must be one of {', '.join(METHODS)}"
        raise UnsupportedMethod(message, field="method.type")
    inner = _object(method.get(kind), f"method.{kind}")
    unknown = [f"method.{name}" for name in method if name not in ("type", kind)]
    unknown += [f"method.{kind}.{name}" for name in inner if name != "hyperparameters"]
    if unknown:
        raise schema.refusal([Complaint(field=name, message="is unknown", code="unknown_field") for name in unknown])
    told = _object(inner.get("hyperparameters"), f"method.{kind}.hyperparameters")
    told = told or given.get("hyperparameters") or {}
    return kind, {name: value for name, value in told.items() if value != "auto"}


def _object(value: Any, field: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise schema.refusal([Complaint(field=field, message="must be an object", code="invalid_type")])
    return value or {}


def _number(told: Mapping[str, Any], name: str) -> Any:
    value = told.get(name, AUTO[name])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_NUMBER:
        message = Text("is {value}: must be 'auto' or a number above 0", value=shown(value))
        raise schema.refusal([Complaint(field=name, message=message)])
    return value
