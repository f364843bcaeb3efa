"""Who reaches whom, and who does not, under the chart's NetworkPolicies with each file of values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from tests.unit.charted import VALUES, helm, needs_helm, pod_labels, read
from tests.unit.policies import End, reaches

pytestmark = needs_helm

#: A port that no policy names: replicas of vLLM, ranks and Ray's workers choose such.
ANY = 40123
COMPONENT, SERVICE = "app.kubernetes.io/component", "tunesmith.io/service"
OUTSIDE = {
    "stranger": End(name="a pod of the namespace that is not the release's", namespace="models", labels={"app": "x"}),
    "namesake": End(
        name="a pod with our labels in another namespace",
        namespace="default",
        labels={"app.kubernetes.io/name": "tunesmith", "app.kubernetes.io/instance": "tunesmith", COMPONENT: "gateway"},
    ),
    "prometheus": End(name="Prometheus", namespace="monitoring"),
    "ingress": End(name="the Ingress controller", namespace="ingress-nginx"),
    "kuberay": End(name="KubeRay's operator", namespace="kuberay-system"),
    "dns": End(name="the cluster's DNS", namespace="kube-system", labels={"k8s-app": "kube-dns"}),
    "node dns": End(name="the node's DNS cache", address="169.254.20.10"),
    "database": End(name="a PostgreSQL or Redis outside", address="10.20.3.4"),
    "private": End(name="another private address", address="10.0.0.7"),
    "metadata": End(name="the cloud's metadata, with the node's keys", address="169.254.169.254"),
    "pod identity": End(name="EKS Pod Identity's agent", address="169.254.170.23"),
    "public": End(name="the Hub, S3", address="18.0.0.1"),
    "public v6": End(name="the Hub, S3 by IPv6", address="2600:9000::1"),
    "private v6": End(name="a private IPv6 address", address="fd00:ec2::23"),
}
LEDGER = {"postgres": 5432, "redis": 6379}
#: Who speaks to nobody but DNS.
SILENT = set(LEDGER)


class Network:
    """What the chart makes of some values, and the ends in it."""

    def __init__(self, *arguments: str):
        found = read(helm(*arguments).stdout)
        self.policies = [one for one in found if one["kind"] == "NetworkPolicy"]
        self.inside = {
            labels[COMPONENT]: End(name=labels[COMPONENT], namespace="models", labels=labels)
            for labels in pod_labels(found)
        }
        self.ours = [name for name in self.inside if name not in SILENT]

    def of(self, service: str) -> list[str]:
        return [name for name, end in self.inside.items() if end.labels.get(SERVICE) == service]

    def reach(self, source: str, target: str, port: int, protocol: str = "TCP") -> bool:
        ends = OUTSIDE | self.inside
        return reaches(self.policies, ends[source], ends[target], port, protocol)


@cache
def network(name: str, *given: str) -> Network:
    values = next(str(path) for path in VALUES if path.stem == name)
    return Network("--values", values, *(word for one in given for word in ("--set", one)))


@pytest.fixture(params=[path.stem for path in VALUES])
def net(request: pytest.FixtureRequest) -> Network:
    return network(request.param)


def missing(
    net: Network, sources: Sequence[str], targets: Sequence[str], port: int, **of: Any
) -> list[tuple[str, str]]:
    return [(a, b) for a in sources for b in targets if a != b and not net.reach(a, b, port, **of)]


def open_(net: Network, sources: Sequence[str], targets: Sequence[str], *ports: int) -> list[tuple[str, str, int]]:
    return [(a, b, port) for a in sources for b in targets for port in ports if a != b and net.reach(a, b, port)]


def test_every_pod_asks_for_names(net: Network) -> None:
    for protocol in ("UDP", "TCP"):
        assert missing(net, list(net.inside), ["dns", "node dns"], 53, protocol=protocol) == []


def test_ledger_and_broker_are_reached_by_those_that_need_them_and_by_nobody_else(net: Network) -> None:
    needing = [name for name in net.ours if name not in ("ray", "test")]
    others = ["ray", "test", *OUTSIDE]
    for data, port in LEDGER.items():
        if data in net.inside:
            assert missing(net, needing, [data], port) == []
            assert open_(net, [name for name in others if name in net.inside or name in OUTSIDE], [data], port) == []
            assert open_(net, needing, [data], ANY) == []
        else:
            assert missing(net, needing, ["database"], port) == []


def test_replicas_are_reached_by_gateways_and_generation_and_by_no_training(net: Network) -> None:
    replicas = net.of("inference")
    assert replicas and missing(net, ["gateway", *net.of("generate")], replicas, ANY) == []
    others = [*net.of("trainer"), *net.of("export"), "beat", "migrate", "test", *OUTSIDE]
    assert open_(net, [name for name in others if name in net.inside or name in OUTSIDE], replicas, ANY, 8000) == []


def test_nodes_of_a_training_reach_each_other_on_any_port(net: Network) -> None:
    trainers = net.of("trainer")
    for name in trainers:
        assert net.reach(name, name, ANY)
    assert missing(net, trainers, trainers, ANY) == []
    others = [name for name in (*net.inside, *OUTSIDE) if name not in trainers]
    assert open_(net, others, trainers, ANY) == []


def test_rays_nodes_reach_each_other_and_are_reached_by_workers_that_start_trainings_there() -> None:
    net = network("many-nodes")
    assert all(net.reach("ray", "ray", port) for port in (6379, 8076, 10001, ANY))
    assert net.reach("trainer-ray", "ray", 10001) and net.reach("kuberay", "ray", 6379)
    others = [name for name in (*net.inside, *OUTSIDE) if name not in ("ray", "kuberay", *net.of("trainer"))]
    assert open_(net, others, ["ray"], 6379, 8076, 10001, ANY) == []


def test_prometheus_reaches_every_page_of_metrics_and_nothing_else(net: Network) -> None:
    pages = [name for name, end in net.inside.items() if end.labels.get("tunesmith.io/metrics")]
    assert {"beat", *net.of("trainer"), *net.of("export"), *net.of("inference"), *net.of("generate")} == {*pages}
    assert missing(net, ["prometheus"], pages, 9100) == [] and net.reach("prometheus", "gateway", 8000)
    assert open_(net, ["stranger", "namesake", "ingress"], pages, 9100) == []
    assert open_(net, ["prometheus"], list(net.inside), 5432, 6379, 10001, ANY) == []


def test_gateways_are_reached_by_whom_the_values_name_and_by_helms_test(net: Network) -> None:
    assert missing(net, ["test", "prometheus", "ingress"], ["gateway"], 8000) == []
    assert net.reach("stranger", "gateway", 8000) == (net is not network("many-nodes"))
    assert open_(net, [*net.inside, *OUTSIDE], ["gateway"], ANY) == []


def test_the_hub_and_s3_are_reached_by_either_protocol_but_no_private_address_is(net: Network) -> None:
    assert missing(net, net.ours, ["public", "public v6"], 443) == []
    inward = ["private", "metadata", "pod identity", "private v6"]
    assert open_(net, net.ours, inward, 80, 443) == []
    assert open_(net, net.ours, ["public", "public v6"], 22, 5432) == []
    assert open_(net, sorted(SILENT & {*net.inside}), [*net.ours, *OUTSIDE], 80, 443, 8000, 5432, 6379, ANY) == []


def test_without_the_internet_what_the_values_name_is_still_reached() -> None:
    egress = "networkPolicy.egress[0]"
    named = (f"{egress}.to[0].ipBlock.cidr=169.254.170.23/32", f"{egress}.ports[0].port=80")
    net = network("one-gpu-node", "networkPolicy.internet=false", *named)
    assert missing(net, net.ours, ["pod identity"], 80) == []
    assert open_(net, net.ours, ["public", "public v6", "metadata"], 80, 443) == []
