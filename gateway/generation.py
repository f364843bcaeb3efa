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
#: Engine whose beams heed stops, schemas and penalties.
HEEDING = engines.TRANSFORMERS


def complaints(given: Mapping[str, Any], request: type[Schema] | None = None) -> list[Complaint]:
    """What is wrong with each parameter by itself."""
    return sampling.complaints(given, request) or list(answer_schemas.complaints(given))


def kept_complaints(given: Mapping[str, Any], field: str) -> Iterator[Complaint]:
    """About parameters that are to be kept under `field`: only those that are declared, none against another."""
    known = sampling.names() | asking.GUIDED.keys()
    for name in given:
        if name not in known:
            text = Text("is no generation parameter{near}", near=did_you_mean(name, known))
            yield Complaint(field=f"{field}.{name[:200]}", message=text, code="unknown_field")
    said = {name: value for name, value in given.items() if name in known}
    for wrong in complaints(said) or sampling.conflicts(asking.merged(said), beams_heed=True):
        yield replace(wrong, field=f"{field}.{wrong.field}")


def job_complaints(spec: GenerateSpec) -> Iterator[Complaint]:
    """What no declaration of a parameter says of it, nor of two of them."""
    said = asking.of_spec(spec.sampling)
    yield from answer_schemas.complaints(said)
    yield from sampling.conflicts(said, beams_heed=True)


def filled(store: Store, project_id: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body of a generation job over its preset, and that over the parameters of the deployment that answers now: as
    they are at this moment, whatever becomes of them. Raises InvalidSpec."""
    if body.get("kind") != "generate":
        return body
    name, preset = body.get("model") or body.get("model_name_or_path"), body.get(PRESET)
    running = routing.fleet(store, project_id)
    found = routing.find(running, str(name), partial(routing.version, store, project_id))
    defaults = (found.spec.get(DEFAULTS) or {}) if found else {}
    under = asking.merged(defaults, _preset(store, project_id, preset if isinstance(preset, str) else None))
    over = {*body, *(other for said in body for other in asking.INSTEAD_OF.get(said, ()))}
    return {**{said: value for said, value in under.items() if said not in over}, **body}


def settled(
    store: Store, project_id: str, given: Mapping[str, Any], deployment: Deployment, path: str
) -> dict[str, Any] | None:
    """What the deployment is asked instead of the request; None: the request as it is. Raises InvalidSpec."""
    engine = engines.ENGINES[deployment.spec.get("engine") or engines.VLLM]
    layers = [deployment.spec.get(DEFAULTS) or {}, _preset(store, project_id, given.get(PRESET))]
    own: Mapping[str, Any] = given
    if path == RESPONSES:
        _check_answers_responses(engine, given)
        layers, own = [responses.heeded(layer) for layer in layers], responses.older(given)
    said = asking.merged(*layers, own)
    heeds, stream = engine.name == HEEDING, bool(given.get("stream"))
    if wrong := list(sampling.conflicts(said, path=path, stream=stream, beams_heed=heeds)):
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
