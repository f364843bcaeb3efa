"""From a request to what its replica is asked: its parameters over its preset's over those of the deployment.

Also the check of parameters that are kept for later requests: of presets and of deployments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from marshmallow import Schema

from gateway import answer_schemas
from shared import asking, engines, responses, routing, sampling
from shared.asking import RESPONSES
from shared.engines import Engine
from shared.errors import Complaint, InvalidSpec, NotFound
from shared.nearest import did_you_mean
from shared.records import Deployment
from shared.spec import GenerateSpec
from shared.store import Store
from shared.tongues import Text

#: Member of a deployment's spec that holds parameters for requests which do not say them.
DEFAULTS = "generation"
PRESET = "preset"
#: Engine whose beams heed stops and the penalty of repetition.
HEEDING = engines.TRANSFORMERS


def complaints(given: Mapping[str, Any], request: type[Schema] | None = None) -> list[Complaint]:
    """What is wrong with each parameter by itself."""
    return sampling.complaints(given, request) or list(answer_schemas.complaints(given))


def kept_complaints(
    given: Mapping[str, Any], field: str, *, beams_heed: bool = True, own: Mapping[str, Any] | None = None
) -> Iterator[Complaint]:
    """About parameters that are to be kept under `field`: only those that are declared, none against another, as far
    as it is known who will answer. `beams_heed`, `own`: of sampling.conflicts."""
    known = sampling.names() | asking.GUIDED.keys()
    for name in given:
        if name not in known:
            text = Text("is no generation parameter{near}", near=did_you_mean(name, known))
            yield Complaint(field=f"{field}.{name[:200]}", message=text, code="unknown_field")
    said = {name: value for name, value in given.items() if name in known}
    for wrong in complaints(said) or sampling.conflicts(asking.merged(said), beams_heed=beams_heed, own=own):
        yield replace(wrong, field=f"{field}.{wrong.field}")


def job_complaints(store: Store, project_id: str, spec: GenerateSpec) -> Iterator[Complaint]:
    """What no declaration of a parameter says of it, nor of two of them."""
    said = asking.of_spec(spec.sampling)
    yield from answer_schemas.complaints(said)
    # Not of how tokens are drawn: a spec always says that (see `filled`).
    yield from sampling.conflicts(said, beams_heed=beams_heed(store, project_id, spec.model), own={})


def beams_heed(store: Store, project_id: str, model: str | None) -> bool:
    """Whether somebody may answer to it whose beams heed more than vLLM's: an engine that does, or nobody yet."""
    shares = routing.shares(routing.fleet(store, project_id), model or "", partial(routing.version, store, project_id))
    return not shares or any(deployment.spec.get("engine") == HEEDING for deployment, _ in shares)


def filled(store: Store, project_id: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body of a generation job over its preset, and that over the parameters of the deployment that answers now: as
    they are at this moment, whatever becomes of them. Raises InvalidSpec."""
    if body.get("kind") != "generate":
        return body
    name, preset = body.get("model") or body.get("model_name_or_path"), body.get(PRESET)
    running = routing.fleet(store, project_id)
    found = routing.find(running, str(name), partial(routing.version, store, project_id))
    defaults = (found.spec.get(DEFAULTS) or {}) if found else {}
    chosen = _preset(store, project_id, preset if isinstance(preset, str) else None)
    own = {said: value for said, value in body.items() if said in sampling.names()}
    if sampling.complaints(own):
        own = {}  # told when it is loaded
    if wrong := list(sampling.drawn_beside_beams(own)):
        raise refusal(wrong)
    under = asking.merged(defaults, chosen)
    # A member may take the place of one below that has another name.
    left = asking.merged(under, own)
    return {**{said: value for said, value in under.items() if said in left and said not in body}, **body}


def settled(
    store: Store,
    project_id: str,
    given: Mapping[str, Any],
    deployment: Deployment,
    path: str,
    unless_said: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """What the deployment is asked instead of the request; None: the request as it is. `unless_said`: what lies under
    all others. Raises InvalidSpec."""
    engine = engines.ENGINES[deployment.spec.get("engine") or engines.VLLM]
    defaults = deployment.spec.get(DEFAULTS) or {}
    under = asking.merged(unless_said, defaults) if unless_said else defaults
    layers = [under, _preset(store, project_id, given.get(PRESET))]
    own: Mapping[str, Any] = given
    if path == RESPONSES:
        _check_answers_responses(engine, given)
        layers, own = [responses.heeded(layer) for layer in layers], responses.older(given)
    said = asking.merged(*layers, own)
    heeds, stream = engine.name == HEEDING, bool(given.get("stream"))
    if wrong := list(sampling.conflicts(said, path=path, stream=stream, beams_heed=heeds, own=given)):
        raise refusal(wrong)
    is_same = not any(layers) and not asking.is_foreign(given, path) and given.get("model") == deployment.name
    return None if is_same else {**said, "model": given.get("model")}


def _check_answers_responses(engine: Engine, given: Mapping[str, Any]) -> None:
    """Raises InvalidSpec."""
    if not engine.responses:
        text = "is {name!r}, whose engine {engine} has no responses: use /v1/chat/completions"
        message = Text(text, name=given.get("model"), engine=engine.name)
        raise refusal([Complaint(field="model", message=message, code="not_allowed")])


def refusal(wrong: list[Complaint]) -> InvalidSpec:
    return InvalidSpec("; ".join(f"{made.field} {made.message}" for made in wrong[:3]), complaints=wrong)


def _preset(store: Store, project_id: str, name: str | None) -> Mapping[str, Any]:
    """Raises InvalidSpec where there is none of that name."""
    if name is None:
        return {}
    try:
        return store.presets.get(project_id, name).parameters
    except NotFound:
        near = did_you_mean(name, [preset.name for preset in store.presets.list(project_id)])
        text = Text("is {name!r}: there is no such preset{near}", name=name[:200], near=near)
        raise refusal([Complaint(field="preset", message=text, code="preset_not_found")]) from None
