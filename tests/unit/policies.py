"""NetworkPolicies as a network plug-in reads them: whether one end may open a connection to another.

A policy that selects a pod denies it, in its direction, what no policy allows. The other end is a pod with the labels
of its namespace, or an address outside of the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

NAMESPACE = "kubernetes.io/metadata.name"


@dataclass(frozen=True, kw_only=True)
class End:
    name: str
    #: Of a pod; an address has neither.
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


def reaches(policies: Sequence[Mapping[str, Any]], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    out = _passes(policies, "Egress", source, target, port, protocol)
    return out and _passes(policies, "Ingress", target, source, port, protocol)


def _passes(
    policies: Sequence[Mapping[str, Any]], direction: str, pod: End, other: End, port: int, protocol: str
) -> bool:
    of_pod = [one for one in policies if direction in one["spec"]["policyTypes"] and _is_of(one, pod)]
    rules = [rule for one in of_pod for rule in _rules(one, direction)]
    return not of_pod or any(_allows(rule, other, port, protocol) for rule in rules)


def _is_of(policy: Mapping[str, Any], pod: End) -> bool:
    same = policy["metadata"]["namespace"] == pod.namespace
    return same and not pod.address and selects(policy["spec"]["podSelector"], pod.labels)


def _rules(policy: Mapping[str, Any], direction: str) -> list[Mapping[str, Any]]:
    peers = {"Ingress": "from", "Egress": "to"}[direction]
    here = policy["metadata"]["namespace"]
    rules = policy["spec"].get(direction.lower()) or []
    return [{"peers": rule.get(peers) or [], "ports": rule.get("ports") or [], "namespace": here} for rule in rules]


def _allows(rule: Mapping[str, Any], other: End, port: int, protocol: str) -> bool:
    ports = [(one.get("protocol", "TCP"), one.get("port", port)) for one in rule["ports"]]
    peers = rule["peers"]
    return (not ports or (protocol, port) in ports) and (
        not peers or any(_is_peer(peer, other, rule["namespace"]) for peer in peers)
    )


def _is_peer(peer: Mapping[str, Any], other: End, here: str) -> bool:
    if "ipBlock" in peer:
        return bool(other.address) and _is_within(other.address, peer["ipBlock"])
    if other.address:
        return False
    if "namespaceSelector" in peer:
        near = selects(peer["namespaceSelector"], {NAMESPACE: other.namespace})
    else:
        near = other.namespace == here
    return near and selects(peer.get("podSelector", {}), other.labels)


def _is_within(address: str, block: Mapping[str, Any]) -> bool:
    # An address of one version is in no network of the other.
    found = ip_address(address)
    return found in ip_network(block["cidr"]) and not any(found in ip_network(one) for one in block.get("except", ()))


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """An empty selector selects everything. Raises KeyError for an operator that the chart does not use."""
    checks = {"In": lambda value, values: value in values, "NotIn": lambda value, values: value not in values}
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        checks[one["operator"]](labels.get(one["key"]), one["values"]) for one in selector.get("matchExpressions", ())
    )
