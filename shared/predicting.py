"""LF's files that evaluate: it has one command for training, validation and prediction, told apart by switches.

`do_predict`, `do_eval` or `task` without a training is a job of kind evaluate; beside a training that writes answers
when it validates (`predict_with_generate`), the evaluation follows it. What such a file says of training is left aside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared import schema
from shared.advice.finding import Finding, Origin, info
from shared.errors import Complaint
from shared.spec import EvaluateSpec, TrainSpec
from shared.tongues import Text

#: Groups of a training that say nothing of what is measured.
OF_TRAINING = frozenset(
    {
        "train",
        "loss",
        "optimizer",
        "loop",
        "distributed",
        "lora",
        "freeze",
        "tuning",
        "output",
        "tracking",
        "preference",
        "plugged",
    }
)
#: Of other groups.
NOT_READ = frozenset({
    "packing", "neat_packing", "disable_shuffling", "eval_on_each_dataset", "flash_attn", "upcast_layernorm",
    "use_reentrant_gc", "disable_gradient_checkpointing", "enable_liger_kernel", "streaming", "buffer_size",
})  # fmt: skip
#: Formats that a training computes in -> those of an evaluation.
DTYPES = {"bf16": "bfloat16", "pure_bf16": "bfloat16", "fp16": "float16"}
NEEDS_DATA = "is true, but there are no rows to answer: give eval_dataset"

TRAINS = "is true, but an evaluation trains nothing: leave kind out, and the evaluation follows the training"


def is_evaluation(body: Mapping[str, Any]) -> bool:
    """Whether a body that names no kind asks for an evaluation alone; without a `dataset` nothing could be trained."""
    if body.get("do_train") is True:
        return False
    if body.get("do_predict") is True or body.get("task") or body.get("tasks"):
        return True
    validates = body.get("do_eval") is True or body.get("predict_with_generate") is True
    return validates and (body.get("do_train") is False or not body.get("dataset"))


def evaluation(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as EvaluateSpec has them."""
    made = {name: value for name, value in body.items() if name not in ignored(body)}
    if made.pop("do_predict", None) is True and made.get("stage", "sft") == "sft":
        made["predict_with_generate"] = True
    wanted = next((dtype for name, dtype in DTYPES.items() if body.get(name) is True), None)
    return ({"infer_dtype": wanted} if wanted else {}) | made


def contradictions(body: Mapping[str, Any]) -> list[Complaint]:
    return [Complaint(field="do_train", message=TRAINS)] if body.get("do_train") is True else []


def ignored(body: Mapping[str, Any]) -> list[str]:
    """Names of fields that an evaluation does not read, because a training alone does or another says more."""
    own = {name for param in schema.params(EvaluateSpec) for name in param.names}
    theirs = {
        name
        for param in schema.params(TrainSpec)
        if param.path[0] in OF_TRAINING or param.wire in NOT_READ
        for name in (*param.names, *param.deprecated)
    }
    both = {"dataset"} if body.get("dataset") and body.get("eval_dataset") else set()
    return [name for name in body if name in (theirs - own) | both]


def remarks(spec: Any, body: Mapping[str, Any]) -> Iterator[Finding]:
    """One for each such field that asks for something."""
    if not isinstance(spec, EvaluateSpec):
        return
    switches = {"do_train", "do_eval", "finetuning_type", "report_to", "plot_loss", "compute_accuracy", *DTYPES}
    defaults = {name: param.default for param in schema.params(TrainSpec) for name in param.names}
    for name in ignored(body):
        if name not in switches and body[name] not in (None, defaults.get(name)):
            text = Text("{name} changes nothing in an evaluation: it is read when a model is trained.", name=name)
            if name == "dataset":
                text = Text("dataset is not read beside eval_dataset: the evaluation is on that.")
            yield info(name, Origin.REFERENCE, text, "Leave it out.")


def followed(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None, list[Complaint]]:
    """A training's fields, the evaluation that follows it where the file asks for one, and what is wrong with that."""
    switches = ("predict_with_generate", "do_predict")
    rest = {name: value for name, value in body.items() if name not in switches}
    asked = next((name for name in switches if body.get(name) is True), None)
    if asked is None:
        return dict(body), None, []
    if not body.get("eval_dataset"):
        return rest, None, [Complaint(field=asked, message=NEEDS_DATA)]
    trained = {name for param in schema.params(TrainSpec) for name in param.names}
    shared = {
        name
        for param in schema.params(EvaluateSpec)
        for name in param.names
        if param.kind != "model" and not param.secret
    }
    given = {name: value for name, value in body.items() if name in shared and name not in ("dataset", "output_dir")}
    entry = {"kind": "evaluate", **given, "predict_with_generate": True}
    entry.pop("do_predict", None)
    # Beams and the like are the evaluation's alone.
    return {name: value for name, value in rest.items() if name in trained or name not in shared}, entry, []
