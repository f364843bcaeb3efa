"""Plans: a body that could be posted as a job is answered with what it would take, and nothing is run or kept.

It passes the job's own door (schema, fitness), so that what is planned can be posted as it is. Only what does not
exist is no refusal here: a plan may be made before model and data are there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from gateway import (
    body,
    exportplans,
    followers,
    generation,
    labels,
    openapi,
    previews,
    pushing,
    remarks,
    suitors,
    surroundings,
)
from gateway.admission import kept, missing, requires
from gateway.auth import project_id
from gateway.fitness import unfit
from gateway.services import services
from shared import request, schema, tracking
from shared.advice import doctor, exports, plan, presets, shapes
from shared.advice.cards import Cards
from shared.advice.finding import Finding, Origin, warning
from shared.errors import Complaint, InvalidSpec, NotFound, TunesmithError
from shared.fields import Message
from shared.layout import FORMATS, Layout
from shared.param import param
from shared.spec import ExportSpec, TrainSpec
from shared.tongues import Text

blueprint = Blueprint("plans", __name__, url_prefix="/v1/plans", description="What a job would take")

#: What may be told of the samples' lengths: tokens and shares.
LENGTHS = ("p50", "p95", "p99", "length_mean", "length_max", "share_cut", "share_unanswered", "num_unusable")
#: Of them what depends on cutoff_len.
CUT = ("share_cut", "share_unanswered")
MAX_LENGTH = 1e9
#: A cutoff_len that cuts nothing, tokens.
UNCUT = 131_072


def _lengths(value: dict[str, Any]) -> Message | None:
    for name, number in value.items():
        if name not in LENGTHS:
            return Message("has {name!r}: may have {allowed}", name=str(name)[:40], allowed=", ".join(LENGTHS))
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= MAX_LENGTH:
            text = "has {name} = {number}: must be a number from 0 to {most:.0f}"
            return Message(text, name=name, number=str(number)[:40], most=MAX_LENGTH)
    return None


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a plan takes beside the fields of a job."""

    gpus: dict[str, Any] | None = param(
        None, "Cards: kind, count, memory_gib. Left out: what workers report.", type=dict, source="ours"
    )
    config: dict[str, Any] | None = param(
        None, "The model's config.json, where the platform does not have the model.", type=dict, source="ours"
    )
    num_rows: int | None = param(
        None, "Rows of the training data. Left out: as uploaded.", type=int, minimum=1, source="ours"
    )
    lengths: dict[str, Any] = param(
        {}, "Statistics of the samples' lengths, as a preview gives them.", source="ours", check=_lengths
    )
    goal: str | None = param(
        None, "Ask for a recommended spec: what shall be learned.", type=str, choices=("style", "knowledge"),
        source="ours",
    )  # fmt: skip

    def resolved(self) -> Beside:
        return self


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody=openapi.PLAN_BODY, responses=openapi.ok("Plan"))
def create() -> Response:
    """Plan a job: memory by part, steps, does it fit, the nearest change that makes it fit, findings. Runs nothing

    The body of a job, and beside it `gpus`, `config`, `num_rows` and `lengths`, all optional. With `goal` (style or
    knowledge) it is completed: the answer has a recommended spec that posts as it is, with a reason for each value.
    Of an export: the size of every format, disk, memory and seconds, and what serves it.
    """
    given = body.spec_object()
    names = {made.name for made in dataclasses.fields(Beside)}
    beside, complaints = _beside({name: value for name, value in given.items() if name in names})
    rest = {name: value for name, value in given.items() if name not in names}
    if beside is not None and beside.goal and rest.get("stage") is None:
        rest |= _stage(rest.get("dataset"))
    return jsonify(_answer(rest, beside, complaints))


def _stage(dataset: Any) -> dict[str, str]:
    """The stage that the rows of the data are for, where one is to be recommended and the catalog has them."""
    first = dataset[0] if isinstance(dataset, list) and dataset else dataset
    with suppress(NotFound):
        record = services().store.datasets.get(project_id(), str(first).partition(",")[0])
        if record.format in FORMATS:
            return {"stage": previews.STAGES[Layout.from_record(record.format, record.columns).kind]}
    return {}


def _answer(rest: dict[str, Any], beside: Beside | None, complaints: list[Complaint]) -> dict[str, Any]:
    cards, shape, wrong = _read(beside)
    complaints = [*complaints, *wrong]
    try:
        envelope, spec = request.load(generation.filled(services().store, project_id(), rest))
    except InvalidSpec as error:
        raise schema.refusal([*complaints, *error.complaints]) from error
    spec = labels.settled(services(), project_id(), spec)
    recommended: dict[str, Any] = {}
    if beside is not None and beside.goal and not complaints and isinstance(spec, TrainSpec):
        spec, recommended = _recommended(rest, spec, beside, cards, shape)
    wire = kept(services(), project_id(), spec)
    found = list(missing(services(), project_id(), spec))
    absent = [complaint for complaint in found if _is_absence(complaint)]
    complaints += [complaint for complaint in found if not _is_absence(complaint)]
    complaints += [] if found else unfit(services(), project_id(), spec, wire)
    if complaints := [*complaints, *_after(envelope.then, wire)]:
        raise schema.refusal(complaints)
    told = {"object": "plan", "kind": envelope.kind, "spec": wire}
    said = [
        *_absent(absent),
        *_keyless(spec, envelope),
        *remarks.beside_doctor(services(), project_id(), spec, wire, rest),
    ]
    if envelope.requires:
        said += suitors.remarks(services(), str(envelope.kind), requires(spec, envelope.requires))
    if isinstance(spec, ExportSpec):
        return told | _export(spec, envelope.requires, shape, said)
    if not isinstance(spec, TrainSpec):
        return told | {"findings": [finding.as_dict() for finding in (*said, *doctor.findings(spec))]}
    known = _known(spec, beside, cards, shape)
    known = dataclasses.replace(known, lengths=recommended.pop("lengths", known.lengths))
    return told | plan.make(spec, known, said) | recommended


def _export(spec: ExportSpec, asked: dict[str, Any], shape: shapes.Shape | None, said: list[Finding]) -> dict[str, Any]:
    known = exportplans.known(services(), project_id(), spec, asked, asks_hub=shape is None)
    known = dataclasses.replace(known, shape=shape or known.shape)
    found = [*said, *exports.findings(spec, known), *doctor.findings(spec)]
    return exports.make(spec, known, doctor.by_severity(found))


def _is_absence(complaint: Complaint) -> bool:
    return complaint.code.endswith("_not_found")


def _after(entries: list[dict[str, Any]], wire: dict[str, Any]) -> list[Complaint]:
    """What is wrong with what follows, but for what does not exist yet."""
    complaints: list[Complaint] = []
    followers.checked(services(), project_id(), entries, wire, complaints)
    return [complaint for complaint in complaints if not _is_absence(complaint)]


def _recommended(
    rest: Mapping[str, Any], spec: TrainSpec, beside: Beside, cards: Cards | None, shape: shapes.Shape | None
) -> tuple[TrainSpec, dict[str, Any]]:
    """A spec completed from what was given; it as a body (`recommended`), and the reason for each value."""
    known = _known(spec, beside, cards, shape)
    if not known.lengths:
        known = dataclasses.replace(known, lengths=_measured(spec))
    names = {name: made.wire for made in schema.params(TrainSpec) for name in made.names}
    given = {names[name]: value for name, value in rest.items() if name in names}
    body, reasons = presets.recommend(given, known, str(beside.goal))
    return schema.load(TrainSpec, body), {"recommended": body, "reasons": reasons, "lengths": known.lengths}


def _measured(spec: TrainSpec) -> dict[str, Any]:
    """The lengths of the first dataset's samples before any is cut, where model and data are there to count them."""
    whole = schema.changed(spec, {"cutoff_len": UNCUT})
    with suppress(TunesmithError):
        record = services().store.datasets.get(project_id(), spec.data.dataset[0])
        lengths = previews.measured(services(), project_id(), record, whole, [])["lengths"]
        return {name: lengths[name] for name in LENGTHS if name in lengths and name not in CUT}
    return {}


def _known(spec: TrainSpec, beside: Beside | None, cards: Cards | None, shape: shapes.Shape | None) -> plan.Known:
    """What the caller says goes before what the platform knows."""
    known = surroundings.known(services(), project_id(), spec, asks_hub=shape is None)
    beside = beside or Beside()
    return plan.Known(
        shape=shape or known.shape,
        cards=cards or known.cards,
        num_rows=beside.num_rows or known.num_rows,
        lengths=beside.lengths or known.lengths,
    )


def _beside(given: Mapping[str, Any]) -> tuple[Beside | None, list[Complaint]]:
    try:
        return schema.load(Beside, given), []
    except InvalidSpec as error:
        return None, list(error.complaints)


def _read(beside: Beside | None) -> tuple[Cards | None, shapes.Shape | None, list[Complaint]]:
    """The cards and the shape that the caller gives, and what is wrong with them."""
    cards, shape, complaints = None, None, list[Complaint]()
    if beside is None:
        return None, None, []
    if beside.gpus is not None:
        try:
            cards = schema.load(Cards, beside.gpus)
        except InvalidSpec as error:
            complaints += [dataclasses.replace(made, field=f"gpus.{made.field}") for made in error.complaints]
    if beside.config is not None:
        try:
            shape = shapes.read(beside.config)
        except shapes.UnreadableShape as error:
            complaints.append(Complaint(field="config", message=Text("cannot be read: {error}", error=error.args[0])))
    return cards, shape, complaints


def _keyless(spec: Any, envelope: request.Envelope) -> Iterator[Finding]:
    """Nor is a tracker's or the Hub's key that is missing."""
    settings = services().settings
    missing = list(pushing.unready(settings, str(envelope.kind), spec, envelope.then))
    if isinstance(spec, TrainSpec):
        missing += tracking.missing(settings, spec, schema.secrets(spec))
    for made in missing:
        text = Text("{field} {complaint}.", field=made.field, complaint=made.message)
        yield warning(made.field, Origin.ESTIMATE, text, Text("A job without it would be refused."))


def _absent(complaints: list[Complaint]) -> list[Finding]:
    """What does not exist is no refusal of a plan."""
    advice = Text("A job that names it would be refused: upload or register it first.")
    told = [(made.field, Text("{field} {complaint}.", field=made.field, complaint=made.message)) for made in complaints]
    return [warning(field, Origin.ESTIMATE, text, advice) for field, text in told]
