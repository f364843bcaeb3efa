"""The body of a request for a job, taken apart: what to run (the spec) and how to run it (the envelope).

Envelope fields stand beside the spec's flat fields in the same body, so that an LF YAML posts as it is. What is
checked here is their form; whether models and datasets exist is asked of the catalog by the gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from marshmallow import fields

from shared import predicting, requirements, schema, yaml
from shared.errors import Complaint, InvalidRequest, InvalidSpec
from shared.fields import Message, checked_text, refuse, shown
from shared.job import Kind
from shared.param import param
from shared.spec import SPECS, ExportSpec, Repository
from shared.tongues import Text

__all__ = ["Envelope", "load", "parse_yaml", "split_envelope"]

#: What may follow a job that succeeded.
FOLLOWERS = ("train", "export", "generate", "evaluate", "push", "deploy")
MAX_FOLLOWERS = 8
MAX_METADATA = 16
#: What a push after an export takes from it.
WHERE = tuple(param.wire for param in schema.params(Repository))
#: How many processes a training has, one for each device.
PROCESSES = "num_processes"
#: Of `requires` what a kind of job cannot use: exports and evaluations have one device, generation has the
#: replicas', a push none.
CARDS = ("num_devices", "gpu_kind", "min_gpu_memory_gib", "accelerator")
USELESS = {
    **dict.fromkeys(("export", "evaluate"), ("num_devices",)),
    **dict.fromkeys(("generate", "push"), CARDS),
    "deploy": (*CARDS, "labels"),
}

parse_yaml = yaml.parse


class Objects(fields.List[Any]):
    """A list of objects."""

    def __init__(self, **kwargs: Any):
        super().__init__(fields.Dict(), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise refuse("is {value}: must be a list of objects", "invalid_type", value=shown(value))
        return value


def _metadata(value: dict[str, Any]) -> Message | None:
    if len(value) > MAX_METADATA:
        return Message("has {count} pairs: at most {most}", count=len(value), most=MAX_METADATA)
    for key, text in value.items():
        if len(key) > 64 or not isinstance(text, str) or len(text) > 512:
            return Message("has {key}: names up to 64 characters, values texts up to 512", key=shown(key))
        checked_text(key + text)
    return None


def _short(value: str) -> Message | None:
    return Message("has {count} characters: at most {most}", count=len(value), most=256) if len(value) > 256 else None


def _suffix(value: str) -> Message | None:
    allowed = 0 < len(value) <= 64 and all(char.isalnum() or char in "-_." for char in value)
    return None if allowed else Message("is {value}: 1 to 64 letters, digits, - _ or .", value=shown(value))


def _followers(value: list[dict[str, Any]]) -> Message | None:
    if len(value) > MAX_FOLLOWERS:
        return Message("has {count} entries: at most {most}", count=len(value), most=MAX_FOLLOWERS)
    wrong = [entry.get("kind") for entry in value if entry.get("kind") not in FOLLOWERS]
    if not wrong:
        return None
    allowed = ", ".join(FOLLOWERS)
    return Message("has an entry of kind {kind}: must be one of {allowed}", kind=shown(wrong[0]), allowed=allowed)


@dataclass(frozen=True, kw_only=True)
class Envelope:
    kind: str | None = param(
        None,
        "What kind of job. Left out: export where a field starts with `export_`, evaluate where `do_predict`, "
        "`do_eval` or `task` is given without a training, else train.",
        type=str,
        choices=("train", "export", "generate", "evaluate", "push"),
        source="ours",
    )
    name: str | None = param(None, "A name for people.", type=str, source="ours", check=_short)
    priority: int = param(
        0, "Higher runs first; above 0 is for administrators.", minimum=-100, maximum=100, source="ours"
    )
    requires: dict[str, Any] = param(
        {},
        "What the worker must have: `num_devices`, `gpu_kind` (A100, H100-80GB), `min_gpu_memory_gib`, `accelerator` "
        "(any, cuda, cpu), `labels`.",
        source="ours",
    )
    metadata: dict[str, str] = param({}, "Up to 16 texts kept with the job.", source="OpenAI", check=_metadata)
    then: list[dict[str, Any]] = param(
        [],
        "What to start when the job has succeeded, e.g. [{kind: export}, {kind: deploy}].",
        source="ours",
        field_class=Objects,
        check=_followers,
    )
    suffix: str | None = param(
        None, "Goes into the name of the trained model.", type=str, source="OpenAI", check=_suffix
    )

    def resolved(self) -> Envelope:
        return self


def split_envelope(body: Mapping[str, Any]) -> tuple[Envelope, dict[str, Any]]:
    """The envelope, its kind written out, and the fields left for the spec. Raises InvalidSpec."""
    if not isinstance(body, Mapping):
        raise InvalidRequest("the body must be an object of names and values")
    names = {param.wire for param in schema.params(Envelope)}
    given = {name: value for name, value in body.items() if name in names}
    rest = {name: value for name, value in body.items() if name not in names}
    if given.get("kind") is None:
        given["kind"] = guess_kind(rest)
    return schema.load(Envelope, given), rest


def _evaluated(envelope: Envelope, kind: str, rest: dict[str, Any]) -> tuple[Envelope, dict[str, Any], list[Complaint]]:
    """With LF's switches of evaluation taken for what they mean here."""
    if kind == Kind.EVALUATE:
        return envelope, predicting.evaluation(rest), predicting.contradictions(rest)
    if kind != Kind.TRAIN:
        return envelope, rest, []
    rest, follower, wrong = predicting.followed(rest)
    return (replace(envelope, then=[*envelope.then, follower]) if follower else envelope), rest, wrong


def guess_kind(rest: Mapping[str, Any]) -> str:
    """Export where a field says so. Beside a dataset only a value that is not the default does: LF's own parser knows
    one set of arguments for both, and files that write all of them out are trainings."""
    exports = [param for param in schema.params(ExportSpec) if param.wire.startswith("export_")]
    given = [param for param in exports if rest.get(param.wire) is not None]
    if rest.get("dataset") is not None:
        given = [param for param in given if rest[param.wire] != param.default]
    if not given and predicting.is_evaluation(rest):
        return Kind.EVALUATE.value
    return Kind.EXPORT.value if given else Kind.TRAIN.value


def load(body: Mapping[str, Any]) -> tuple[Envelope, Any]:
    """Envelope and spec of a whole body. Raises InvalidSpec with the complaints about both."""
    schema.check_size(body)
    complaints: list[Complaint] = []
    envelope, rest = Envelope(), dict(body)
    try:
        envelope, rest = split_envelope(body)
    except InvalidSpec as error:
        complaints += error.complaints
        if any(found.field == "kind" for found in complaints):
            raise
        rest = {name: value for name, value in body.items() if name not in {p.wire for p in schema.params(Envelope)}}
    spec: Any = None
    kind = envelope.kind or body.get("kind") or guess_kind(rest)
    envelope, rest, wrong = _evaluated(envelope, str(kind), rest)
    complaints += wrong
    try:
        rest = with_devices(str(kind), envelope, rest)
    except InvalidSpec as error:
        complaints += error.complaints
    try:
        spec = schema.load(SPECS[str(kind)], rest)
    except InvalidSpec as error:
        complaints += error.complaints
    if complaints:
        raise schema.refusal(complaints)
    return pushed_after(envelope, spec), spec


def pushed_after(envelope: Envelope, spec: Any) -> Envelope:
    """An export that names a repository is followed by its push: what is away there costs no export."""
    if not isinstance(spec, ExportSpec) or spec.hub.export_hub_model_id is None:
        return envelope
    where = {name: value for name, value in schema.to_wire(spec).items() if name in WHERE}
    return replace(envelope, then=[*envelope.then, {"kind": Kind.PUSH.value, **where}])


def with_devices(kind: str, envelope: Envelope, rest: dict[str, Any]) -> dict[str, Any]:
    """The spec's fields with what `requires` says of them: a training has a process for each device.

    Raises InvalidSpec when `requires` is wrong, or asks what this kind of job has no use for.
    """
    asked = requirements.load(envelope.requires)
    if kind == Kind.TRAIN and asked.num_devices is not None:
        names = next(param.names for param in schema.params(SPECS[kind]) if param.wire == PROCESSES)
        given = [rest[name] for name in names if rest.get(name) is not None]
        if given and given != [asked.num_devices]:
            text = Text(
                "is {count} beside num_processes {given}: leave one of them out",
                count=asked.num_devices,
                given=shown(given[0]),
            )
            raise schema.refusal([Complaint(field="requires.num_devices", message=text)])
        return {**rest, **({} if given else {PROCESSES: asked.num_devices})}
    useless = USELESS.get(kind, ())
    wrong = [name for name in asked.as_dict() if name in useless]
    if wrong:
        text = Text("has no meaning for a job of kind {kind}: leave it out", kind=kind)
        raise schema.refusal([Complaint(field=f"requires.{name}", message=text) for name in wrong])
    return rest
