"""On whose replicas an adapter is loaded: which deployments of its base fit, and what requests to it carry there.

Pure functions of what the ledger knows; it asks them in the transaction that makes the deployment
(shared/store/hosting.py). An adapter is only put where it answers as it would on replicas of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared import engines, schema, templates, vllm_arguments
from shared.adapterfiles import AdapterFiles
from shared.errors import InvalidSpec
from shared.nearest import did_you_mean
from shared.records import Deployment
from shared.spec import DeploySpec
from shared.spec.deploy_hosting import OWN
from shared.tongues import Text

#: Parameters that say nothing of the server, or that requests carry.
FREE = frozenset({
    "model", "adapter_name_or_path", "name", "template", "enable_thinking", "preserve_thinking", "adapter_host",
    "generation", "max_concurrent_requests", "request_timeout_seconds", "wake_timeout_seconds", "replicas",
    "update_order", "vllm_max_lora_rank", "enable_lora", "max_loras", "max_cpu_loras",
})  # fmt: skip
#: What the server itself is: here a default is no "as you like".
STRICT = frozenset({"engine"})
#: Members of generation_config.json that become a server's defaults, with the values that do nothing.
DEFAULTS: Mapping[str, float] = {
    "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The adapter that is to be served, and how."""

    #: In the catalog.
    name: str
    base: str
    spec: DeploySpec
    files: AdapterFiles


@dataclass(frozen=True, kw_only=True)
class Host:
    """A deployment with replicas of its own."""

    deployment: Deployment
    spec: DeploySpec
    #: The whole model that its replicas hold, in the catalog.
    base: str
    #: config.json of that; empty: it is not known here.
    base_config: Mapping[str, Any] = field(default_factory=dict)
    #: Of the adapter that it serves itself, if any.
    files: AdapterFiles | None = None


@dataclass(frozen=True, kw_only=True)
class Placement:
    #: None: replicas of its own.
    host_id: str | None = None
    host_name: str | None = None
    #: Why it gets replicas of its own.
    why: str | None = None
    #: See shared/carried.py.
    carries: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stored(self) -> dict[str, Any]:
        told = {"why": self.why, "carries": dict(self.carries)}
        return {name: value for name, value in told.items() if value}


def place(adapter: Adapter, hosts: Sequence[Host]) -> Placement:
    """Raises InvalidSpec when the deployment that is asked for does not fit."""
    asked = adapter.spec.hosting.adapter_host
    if asked == OWN:
        return Placement()
    if asked is not None:
        return _on(adapter, _named(asked, hosts))
    ready_first = sorted(hosts, key=lambda host: host.deployment.status != "ready")
    of_base = [host for host in ready_first if host.base == adapter.base]
    reasons = []
    for host in of_base:
        if (why := misfit(adapter, host)) is None:
            return _on(adapter, host)
        reasons.append(Text("{host!r} {why}", host=host.deployment.name, why=why))
    if reasons:
        return Placement(why=Text("it gets replicas of its own: {reason}", reason=reasons[0]))
    return Placement(why=Text("it gets replicas of its own: no deployment serves its base {base!r}", base=adapter.base))


def _on(adapter: Adapter, host: Host) -> Placement:
    if (why := misfit(adapter, host)) is not None:
        text = "is {host!r}, which {why}; leave it out, or say own"
        raise InvalidSpec(text, field="adapter_host", host=host.deployment.name, why=why)
    told = carries(adapter, host)
    return Placement(host_id=host.deployment.id, host_name=host.deployment.name, carries=told)


def _named(name: str, hosts: Iterable[Host]) -> Host:
    known = {host.deployment.name: host for host in hosts}
    if name in known:
        return known[name]
    near = did_you_mean(name, list(known))
    text = "is {name!r}: no deployment with replicas of its own has that name{near}"
    raise InvalidSpec(text, field="adapter_host", name=name, near=near)


def misfit(adapter: Adapter, host: Host) -> Text | None:
    """Why the adapter cannot be loaded there, or would not answer as it should; None: it fits."""
    return next(_misfits(adapter, host), None)


def _misfits(adapter: Adapter, host: Host) -> Iterator[Text]:
    if host.base != adapter.base:
        yield Text("serves {other!r} and not its base {base!r}", other=host.base, base=adapter.base)
    if host.deployment.status == "failed":
        yield Text("has failed")
    if (most := max_rank(host)) is None:
        yield Text("takes no adapters")
    elif adapter.files.rank > most:
        yield Text("takes adapters up to rank {most}, and this has {rank}", most=most, rank=adapter.files.rank)
    if adapter.name == host.deployment.name and host.deployment.model_name != adapter.name:
        yield Text("answers to the adapter's own name")
    yield from _other_server(adapter.spec, host.spec)
    yield from _other_words(adapter, host)
    yield from _other_ends(adapter.files.generation, host.files.generation if host.files else None)


def max_rank(host: Host) -> int | None:
    """Of the adapters that its replicas take, as those that are ready say, else as its spec lets expect; None: none."""
    ready = [replica for replica in host.deployment.replicas if replica.status == "ready"]
    if ready:
        return max((replica.max_lora_rank or 0 for replica in ready), default=0) or None
    enabled = host.spec.adapters.enable_lora
    if enabled is None:
        enabled = host.spec.engine == engines.TRANSFORMERS or vllm_arguments.adapts(host.base_config)
    return vllm_arguments.max_lora_rank(host.spec, host.files.rank if host.files else 0) if enabled else None


def _other_server(asked: DeploySpec, there: DeploySpec) -> Iterator[Text]:
    """What was asked for besides the defaults must be what the host was started with."""
    wire, other = schema.to_wire(asked), schema.to_wire(there)
    for param in schema.params(DeploySpec):
        name, value = param.wire, wire[param.wire]
        if name in FREE or value == other[name] or (value == param.default_value and name not in STRICT):
            continue
        yield Text("has {field} {there}, and not {asked}", field=name, there=other[name], asked=value)


def _other_words(adapter: Adapter, host: Host) -> Iterator[Text]:
    if template(adapter.spec, adapter.files) is None and template(host.spec, host.files) is not None:
        yield Text("answers with another chat template than the model's own, with which the adapter was trained")
    for name in ("enable_thinking", "preserve_thinking"):
        if getattr(adapter.spec, name) is None and getattr(host.spec, name) is not None:
            yield Text("sets {field}, which is left out here", field=name)


def _other_ends(mine: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> Iterator[Text]:
    if mine is None and theirs is None:
        return
    if mine is None or not ends(theirs or {}) <= ends(mine):
        yield Text("ends answers at tokens at which the adapter was not taught to end")
    if (mine or {}).get("max_new_tokens") != (theirs or {}).get("max_new_tokens"):
        yield Text("has another max_new_tokens in its generation config")


def template(spec: DeploySpec, files: AdapterFiles | None) -> str | None:
    """Text of the chat template that it answers with; None: the model's own."""
    if (name := templates.settled(spec.template)) is not None:
        return templates.get(name).jinja
    return files.chat_template if files else None


def ends(generation: Mapping[str, Any]) -> frozenset[int]:
    told = generation.get("eos_token_id")
    return frozenset([told] if isinstance(told, int) else told or ())


def carries(adapter: Adapter, host: Host) -> dict[str, Any]:
    """What requests to the adapter say where the host's server would answer otherwise."""
    told = _generation(adapter.files.generation, host.files.generation if host.files else None)
    if (mine := template(adapter.spec, adapter.files)) != template(host.spec, host.files):
        told["chat_template"] = mine
    said = {name: getattr(adapter.spec, name) for name in ("enable_thinking", "preserve_thinking")}
    thinking = {name: value for name, value in said.items() if value is not None and value != getattr(host.spec, name)}
    return told | ({"chat_template_kwargs": thinking} if thinking else {})


def _generation(mine: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Where the host's are its base's own (`theirs` is None), which nobody has read here, all of the adapter's."""
    if mine is None:
        return {}
    before = theirs or {}
    told = {}
    for name, neutral in DEFAULTS.items():
        value = mine.get(name)
        value = neutral if value is None and before.get(name) is not None else value
        if value is not None and value != before.get(name):
            told[name] = value
    further = sorted(ends(mine) - ends(before))
    return told | ({"stop_token_ids": further} if further else {})
