"""Settings: read from variables and files, handed on to children unchanged, refused when they cannot work."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared import tracing
from shared.settings import InvalidSetting, Settings


def test_a_service_started_with_the_environment_sees_the_same_settings(tmp_path: Path) -> None:
    variables = {"TUNESMITH_HOME": str(tmp_path), "TUNESMITH_IMPORT_ROOTS": "/a, /b", "TUNESMITH_HUB": "no"}
    first = Settings.from_env(variables)
    assert first.import_roots == [Path("/a"), Path("/b")]
    assert first.hub is False
    assert Settings.from_env(first.environment()) == first


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql+psycopg://somebody@/ledger\n")
    read = Settings.from_env({"TUNESMITH_DATABASE_URL_FILE": str(tmp_path / "url")})
    assert read.database_url == "postgresql+psycopg://somebody@/ledger"
    with pytest.raises(InvalidSetting, match="TUNESMITH_DATABASE_URL_FILE"):
        Settings.from_env({"TUNESMITH_DATABASE_URL_FILE": str(tmp_path / "nothing")})


def test_the_hubs_own_variable_names_its_mirror() -> None:
    assert Settings.from_env({"HF_ENDPOINT": "https://mirror"}).hub_url == "https://mirror"
    both = {"HF_ENDPOINT": "https://mirror", "TUNESMITH_HUB_URL": "https://ours"}
    assert Settings.from_env(both).hub_url == "https://ours"
    assert Settings.from_env({}).hub_url == "https://huggingface.co"


def test_opentelemetrys_own_variables_turn_traces_on() -> None:
    read = Settings.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/", "OTEL_EXPORTER_OTLP_HEADERS": "a=b"})
    assert (tracing.url(read), read.otlp_headers) == ("http://c:4318/v1/traces", "a=b")
    assert "a=b" not in repr(read) and tracing.url(Settings()) == ""
    assert isinstance(tracing.make(Settings(), "gateway"), tracing.NoTracer)
    with pytest.raises(InvalidSetting, match="TUNESMITH_OTLP_ENDPOINT is 'collector:4317"):
        tracing.make(Settings(otlp_endpoint="collector:4317"), "gateway")


def test_without_a_collector_nothing_of_opentelemetry_is_loaded() -> None:
    code = (
        "import sys; from gateway import factory, wsgi; sys.exit(any('opentelemetry' in name for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "eighty"), ("HUB", "maybe"), ("LEASE_SECONDS", ""), ("KEEPER_SECONDS", "31")]
)
def test_a_setting_that_cannot_work_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=f"TUNESMITH_{name}"):
        Settings.from_env({f"TUNESMITH_{name}": value})


@pytest.mark.slow
def test_a_collector_that_never_answers_holds_up_neither_spans_nor_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracer = tracing.make(Settings(otlp_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}"), "gateway")
        began = time.monotonic()
        for _ in range(5000):
            tracer.start("a span").end()
        assert time.monotonic() - began < 5
        tracer.close()
        assert time.monotonic() - began < 10
