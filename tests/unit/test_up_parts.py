"""Parts of `tunesmith up` that start nothing: which broker, which ports, which commands."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gateway.admin import home, up
from gateway.admin.services import WITH_METRICS, services
from gateway.cli.client import CLIENT_FILE
from shared.settings import Settings

COMPOSE = Path(__file__).resolve().parents[2] / "compose.yaml"


def test_the_embedded_broker_listens_on_a_socket_below_home(tmp_path: Path) -> None:
    settings, broker = up.with_broker(Settings(home=tmp_path))
    assert settings.broker_url == f"redis+socket://{tmp_path}/broker/redis.sock"
    assert broker is not None
    assert "unixsocketperm 700" in Path(broker.argv[1]).read_text()


def test_a_home_too_deep_for_a_socket_gets_a_loopback_port_with_a_password(tmp_path: Path) -> None:
    settings, broker = up.with_broker(Settings(home=tmp_path / ("x" * 110)))
    assert settings.broker_url.startswith("redis://:") and "@127.0.0.1:" in settings.broker_url
    assert broker is not None
    configuration = Path(broker.argv[1])
    assert "requirepass" in configuration.read_text()
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600


def test_no_broker_is_started_beside_a_given_one(tmp_path: Path) -> None:
    given = Settings(home=tmp_path, broker_url="redis://elsewhere:6379/0")
    assert up.with_broker(given) == (given, None)


def test_services_get_the_token_of_the_ray_cluster_that_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/etc/ray/token")
    given = up.environment(Settings(home=tmp_path, ray_address="ray://head:10001"))
    assert (given["RAY_AUTH_MODE"], given["RAY_AUTH_TOKEN_PATH"]) == ("token", "/etc/ray/token")
    assert "RAY_AUTH_TOKEN_PATH" not in up.environment(Settings(home=tmp_path))


def test_workers_are_started_as_the_containers_start_them() -> None:
    contained = YAML(typ="safe").load(COMPOSE.read_text())["services"]
    ports = dict.fromkeys(WITH_METRICS, 1)
    embedded = {service.name: service.argv for service in services(Settings(), ports)}
    for name in ("beat", "generate"):
        # Flags as words, those with a value as --name=value there and as -n value here.
        _, *words = contained[name]["command"]
        assert {word.partition("=")[2] or word for word in words} <= {*embedded[name], "--beat"}, name
        assert ("--beat" in words) == ("-B" in embedded[name])


def test_metrics_ports_follow_the_gateways_and_avoid_taken_ones() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = home.free_ports("127.0.0.1", taken - 1, ("a", "b"))
    assert ports["b"] != taken and ports["a"] != ports["b"]


def test_the_client_file_keeps_its_key_when_the_port_changes(tmp_path: Path) -> None:
    home.write_client_file(Settings(home=tmp_path, port=1), "secret")
    home.write_client_file(Settings(home=tmp_path, port=2, host="0.0.0.0"), None)
    assert json.loads((tmp_path / CLIENT_FILE).read_text()) == {"url": "http://127.0.0.1:2", "key": "secret"}
    assert stat.S_IMODE((tmp_path / CLIENT_FILE).stat().st_mode) == 0o600


def test_one_supervisor_per_home(tmp_path: Path) -> None:
    with home.hold(tmp_path), pytest.raises(home.AlreadyRunning, match="process"), home.hold(tmp_path):
        pass
    with home.hold(tmp_path):
        pass
