"""Which requests go the short way: plain ones, of what is known. All others leave no trace of having been looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.http1 import Asked, asked
from gateway.patience import Client, Drain
from gateway.services import NAME as SERVICES
from gateway.services import Services
from gateway.shortcut import NAME, Shortcut
from shared import schema
from shared.records import NewModel
from shared.spec import DeploySpec
from tests.platform import Platform, make_platform
from tests.unit.upstream import Upstream, event, serving

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "hello"}], "stream": True}
IN_PROGRESS = "tunesmith_answers_in_progress", "tunesmith_http_requests_in_progress"


@dataclass
class Way:
    platform: Platform

    def request(self, body: Any = None, *, role: str = "admin", path: str = CHAT, **headers: str) -> Asked:
        data = body if isinstance(body, bytes) else json.dumps(BODY if body is None else body).encode()
        told = {"Content-Type": "application/json", "Content-Length": str(len(data))} | self.platform.headers(role)
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items()), "", ""]
        found = asked("\r\n".join(lines).encode() + data)
        assert found is not None and found.is_whole
        return found

    @property
    def shortcut(self) -> Shortcut:
        return cast(Shortcut, self.platform.app.extensions[NAME])

    def is_short(self, found: Asked, client: Client | None = None) -> bool:
        """Whether it goes the short way, which is then ended."""
        begun = self.shortcut.begin(found, client or Client())
        if begun is not None:
            begun.ended(None)
        return begun is not None

    def in_progress(self) -> list[float]:
        registry = cast(Services, self.platform.app.extensions[SERVICES]).metrics.registry
        found = registry.get_sample_value(IN_PROGRESS[0], {"model": "smol"}), registry.get_sample_value(IN_PROGRESS[1])
        return [value or 0.0 for value in found]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with serving(Upstream(pieces=[event("a"), b"data: [DONE]\n\n"])) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Platform:
    return deploy(make_platform(tmp_path_factory.mktemp("way")), upstream)


def deploy(platform: Platform, upstream: Upstream) -> Platform:
    store, project = platform.store, platform.store.projects.default().id
    new = NewModel(name="smol", kind="base", uri="store://m", digest="d", size_bytes=1, format="safetensors")
    store.models.create(project, new)
    wire = schema.to_wire(schema.load(DeploySpec, {"model": "smol"}))
    store.deployments.create(project, name="smol", model_name="smol", spec=wire)
    replica = store.replicas.claim_next("worker", None)
    assert replica is not None
    store.replicas.renew(replica.id, replica.attempt, status="ready", url=upstream.url, api_key="key")
    return platform


@pytest.fixture
def way(deployed: Platform) -> Way:
    """Where what was asked for a moment ago is known."""
    deployed.post(CHAT, BODY).get_data()
    deployed.post(CHAT, BODY, role="viewer")
    return Way(deployed)


def test_a_plain_stream_goes_the_short_way_and_counts_until_it_ends(way: Way) -> None:
    begun = way.shortcut.begin(way.request(), Client())
    assert begun is not None and way.in_progress() == [1, 1]
    begun.ended(None)
    assert way.in_progress() == [0, 0]


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0.5, "top_p": 0.9, "max_tokens": 5, "stop": ["x"]},
        {"max_new_tokens": 5, "do_sample": False},
        {"stream_options": {"include_usage": True}},
        {"user": "me", "somebody_elses": {"a": 1}},
    ],
)
def test_parameters_are_no_reason_for_the_long_way(way: Way, more: dict[str, Any]) -> None:
    assert way.is_short(way.request(BODY | more))


@pytest.mark.parametrize(
    "body",
    [
        {**BODY, "stream": False},
        {name: value for name, value in BODY.items() if name != "stream"},
        {**BODY, "temperature": 9.0},
        {**BODY, "model": "nobody"},
        {**BODY, "model": "family@3"},
        {**BODY, "model": 5},
        {**BODY, "messages": []},
        {**BODY, "preset": "any"},
        {**BODY, "tools": []},
        {**BODY, "response_format": {"type": "json_object"}},
        {**BODY, "guided_regex": "(a+)+b"},
        {**BODY, "max_length": 100},
        {**BODY, "messages": [{"role": "user", "content": "x" * 20_000}]},
        [BODY],
        b"{",
        b"\xff{}",
        b'{"stream": true, "stream": true}',
    ],
)
def test_what_is_refused_or_needs_a_closer_look_goes_the_long_way(way: Way, body: Any) -> None:
    assert not way.is_short(way.request(body))
    assert way.in_progress() == [0, 0]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Encoding": "gzip"},
        {"Expect": "100-continue"},
        {"Authorization": "Bearer somebody"},
        {"Authorization": "Basic QTpC"},
        {"Authorization": ""},
    ],
)
def test_unusual_requests_and_unknown_keys_go_the_long_way(way: Way, headers: dict[str, str]) -> None:
    assert not way.is_short(way.request(**headers))


def test_a_viewers_key_and_other_routes_go_the_long_way(way: Way) -> None:
    assert not way.is_short(way.request(role="viewer"))
    assert not way.is_short(way.request(path="/v1/compare"))
    assert not way.is_short(way.request(path=f"{CHAT}?x=1"))


def test_nothing_is_begun_by_a_gateway_that_ends(way: Way) -> None:
    assert not way.is_short(way.request(), Client(drain=Drain(ends_at=0.0)))
    assert way.in_progress() == [0, 0]


def test_what_is_not_known_yet_is_not_waited_for(tmp_path: Path, upstream: Upstream) -> None:
    way = Way(deploy(make_platform(tmp_path), upstream))
    assert not way.is_short(way.request())
    way.platform.post(CHAT, BODY).get_data()
    assert way.is_short(way.request())
