"""What is to follow a job (`then`), checked with the job: every entry's spec, names and its own followers.

An entry whose model is left out takes the one that the job before it makes. The ledger brings followers about in the
transaction that finishes the job (shared/store/finish.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway import generation, labels, rewards
from gateway.admission import kept, missing, model_of, pinned, requires
from gateway.fitness import unfit
from gateway.services import Services
from shared import catalog, request, schema
from shared.errors import Complaint, InvalidSpec
from shared.request import Envelope
from shared.spec import SPECS, EvaluateSpec
from shared.store.finish import MADE_MODEL
from shared.tongues import Text

#: Where a follower's spec names the model that the job before it makes.
MODEL_FIELDS = {
    **dict.fromkeys(("export", "train", "evaluate", "push"), "model_name_or_path"),
    **dict.fromkeys(("generate", "deploy"), "model"),
}
#: What an evaluation takes from a training that it follows.
SAME_ROWS = ("eval_dataset", "dataset_dir", "stage", "cutoff_len", "max_samples", "mask_history", "default_system")
#: Followers of one job, those of followers included: each is stored with all its defaults.
MAX_FOLLOWERS = 32


def checked(
    services: Services,
    project_id: str,
    entries: Sequence[Mapping[str, Any]],
    parent: dict[str, Any],
    complaints: list[Complaint],
) -> list[dict[str, Any]]:
    """The entries as the ledger takes them; what is wrong with them is added to `complaints`."""
    if _count(entries, MAX_FOLLOWERS + 1) > MAX_FOLLOWERS:
        message = Text("has more than {most} entries with those below", most=MAX_FOLLOWERS)
        complaints.append(Complaint(field="then", message=message))
        return []
    return _all(services, project_id, entries, model_of(parent), complaints, "", parent)


def _all(
    services: Services,
    project_id: str,
    entries: Iterable[Mapping[str, Any]],
    made_from: str | None,
    complaints: list[Complaint],
    place: str,
    parent: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """`parent` is the spec of the job before, as it is kept."""
    made = []
    for index, given in enumerate(entries):
        below = f"{place}then[{index}]."
        try:
            entry = _on_the_same_rows(given, parent) if given.get("kind") == "evaluate" else given
            made.append(_one(services, project_id, entry, made_from, complaints, below))
            complaints += _after_rewards(parent.get("stage"), made[-1], below)
        except InvalidSpec as error:
            complaints += [replace(found, field=below + found.field) for found in error.complaints]
    return made


def _on_the_same_rows(entry: Mapping[str, Any], parent: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation that names no data is on what the training before validates on, read as it reads it."""
    names = {name: param.wire for param in schema.params(EvaluateSpec) for name in param.names}
    said = {names[name] for name in entry if name in names}
    if said & {"eval_dataset", "tasks"} or not parent.get("eval_dataset"):
        return dict(entry)
    same = {name: parent[name] for name in SAME_ROWS if name in parent and name not in said}
    return same | dict(entry)


def _one(
    services: Services,
    project_id: str,
    entry: Mapping[str, Any],
    made_from: str | None,
    complaints: list[Complaint],
    place: str,
) -> dict[str, Any]:
    kind = str(entry["kind"])
    envelope, given = _load(kind, generation.filled(services.store, project_id, entry))
    spec = labels.settled(services, project_id, given)
    wire = kept(services, project_id, spec, made_from)
    wrong = list(missing(services, project_id, spec, follows=True))
    wrong = wrong or list(unfit(services, project_id, spec, wire, made_from))
    wrong += [*_secrets(kind, entry), *_endless(kind, envelope)]
    complaints += [replace(found, field=place + found.field) for found in wrong]
    source = model_of(wire)
    made = {
        "kind": kind,
        "spec": wire,
        "metadata": envelope.metadata,
        "requires": requires(spec, envelope.requires),
        "request": {"suffix": envelope.suffix, catalog.PINS: pinned(services, project_id, spec)},
        "then": _all(
            services,
            project_id,
            envelope.then,
            made_from if source == MADE_MODEL else source,
            complaints,
            place,
            wire,
        ),
    }
    # Left out, the ledger gives the priority of the job before.
    return made | {name: getattr(envelope, name) for name in ("name", "priority") if entry.get(name) is not None}


def _after_rewards(stage: str | None, follower: Mapping[str, Any], place: str) -> list[Complaint]:
    """What stage rm makes scores answers and writes none: only another training of rewards can go on with it."""
    spec = follower["spec"]
    if stage != rewards.STAGE or model_of(spec) != MADE_MODEL or spec.get("stage") == rewards.STAGE:
        return []
    text = "would be the reward model that stage rm makes, which writes no answers: name another model"
    return [Complaint(field=place + MODEL_FIELDS[follower["kind"]], message=text, code="wrong_kind")]


def _load(kind: str, entry: Mapping[str, Any]) -> tuple[Envelope, Any]:
    """Envelope and spec. Raises InvalidSpec."""
    # A deployment's name is a field of its spec.
    names = {param.wire for param in schema.params(Envelope)} - ({"name"} if kind == "deploy" else set())
    fields = {name: value for name, value in entry.items() if name not in names}
    model = next(param for param in schema.params(SPECS[kind]) if param.wire == MODEL_FIELDS[kind])
    if not fields.keys() & set(model.names):
        fields[model.wire] = MADE_MODEL
    envelope = schema.load(Envelope, {name: value for name, value in entry.items() if name in names - {"kind"}})
    spec: Any = schema.load(SPECS[kind], request.with_devices(kind, envelope, fields))
    return request.pushed_after(envelope, spec), spec


def _secrets(kind: str, entry: Mapping[str, Any]) -> list[Complaint]:
    names = [param.wire for param in schema.params(SPECS[kind]) if param.secret and entry.get(param.wire) is not None]
    return [
        Complaint(field=name, message="give it to the job itself: followers get the job's secrets") for name in names
    ]


def _endless(kind: str, envelope: Envelope) -> list[Complaint]:
    if kind != "deploy" or not envelope.then:
        return []
    return [Complaint(field="then", message="cannot follow a deployment: it has no end")]


def _count(entries: Iterable[Any], enough: int) -> int:
    """Entries with those below them; stops counting at `enough`. What is no list or object is refused elsewhere."""
    left, count = list(entries), 0
    while left and count < enough:
        entry, count = left.pop(), count + 1
        below = entry.get("then") if isinstance(entry, Mapping) else None
        left += below[: enough + 1] if isinstance(below, list) else []
    return count
