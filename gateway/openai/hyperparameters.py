"""OpenAI's fine-tuning request as a job of ours, and back. Pure functions of the two.

`learning_rate_multiplier` counts in BASE_LEARNING_RATE, LF's own rate for LoRA SFT; the rate itself is told in the
job's spec. What OpenAI has no word for (rank, cutoff, template ...) comes under LF's names, in `x_train` or beside
OpenAI's hyperparameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared import schema
from shared.errors import Complaint, InvalidRequest
from shared.fields import shown
from shared.job import Job
from shared.tongues import Text

BASE_LEARNING_RATE = 1e-4
#: Larger than any that makes sense; whole numbers of JSON may be larger than a float can hold.
MAX_NUMBER = 1e9
#: What "auto" means.
AUTO: dict[str, Any] = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}
FIELDS = frozenset(
    {"model", "training_file", "validation_file", "suffix", "seed", "metadata", "integrations", "method"}
    | {"hyperparameters", "x_train"}
)


class UnsupportedMethod(InvalidRequest):
    """This fine-tuning method is not offered."""

    code = "unsupported_method"


def job_body(given: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the native job. Raises InvalidSpec, UnsupportedMethod."""
    _check(given)
    told = _told(given)
    own = {name: value for name, value in told.items() if name not in AUTO}
    made: dict[str, Any] = {
        "kind": "train",
        "model_name_or_path": given["model"],
        "dataset": [given["training_file"]],
        "num_train_epochs": _number(told, "n_epochs"),
        "per_device_train_batch_size": _number(told, "batch_size"),
        "learning_rate": BASE_LEARNING_RATE * _number(told, "learning_rate_multiplier"),
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
    }
    made |= {"eval_dataset": [given["validation_file"]]} if given.get("validation_file") else {}
    made |= {name: given[name] for name in ("suffix", "seed", "metadata") if given.get(name) is not None}
    return made | own | dict(given.get("x_train") or {})


def hyperparameters(job: Job) -> dict[str, Any]:
    """What the client sees: numbers, as the spec has them."""
    spec = job.spec
    epochs = spec["num_train_epochs"]
    return {
        "n_epochs": int(epochs) if float(epochs).is_integer() else epochs,
        "batch_size": spec["per_device_train_batch_size"],
        "learning_rate_multiplier": spec["learning_rate"] / BASE_LEARNING_RATE,
    }


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
    if given.get("integrations"):
        message = "are not offered yet: leave them out, the job's events and metrics have the loss"
        complaints.append(Complaint(field="integrations", message=message, code="unsupported"))
    if complaints:
        raise schema.refusal(complaints)


def _told(given: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of the method, else the old ones at the top; "auto" is as good as left out."""
    method = given.get("method") or {"type": "supervised"}
    kind = method.get("type", "supervised")
    if kind != "supervised":
        message = f"method.type is {shown(kind)}: only 'supervised' is offered so far"
        raise UnsupportedMethod(message, field="method.type")
    inner = _object(method.get("supervised"), "method.supervised")
    unknown = [f"method.{name}" for name in method if name not in ("type", "supervised")]
    unknown += [f"method.supervised.{name}" for name in inner if name != "hyperparameters"]
    if unknown:
        raise schema.refusal([Complaint(field=name, message="is unknown", code="unknown_field") for name in unknown])
    told = _object(inner.get("hyperparameters"), "method.supervised.hyperparameters")
    told = told or given.get("hyperparameters") or {}
    return {name: value for name, value in told.items() if value != "auto"}


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
