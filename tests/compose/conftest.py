"""One stack for all tests of this folder: what they do is one day in its life.

`make test` takes the services that need no image of torch or vLLM; `make compose-test` builds all images and takes all
services but Grafana, whose image it may not have.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared import interpreters
from shared.settings import Settings
from tests.compose import borrowed
from tests.compose.stack import Stack
from tests.compose.work import ROW, Work
from tests.engine.daemon import EngineMissing
from tests.engine.engine import ROOT, Engine, opened
from tests.platform import jsonl

UPSTREAM = {"redis": "redis:7.2-bookworm", "postgres": "postgres:17-bookworm", "prometheus": "prom/prometheus:v3.5.0"}
FEW = (*UPSTREAM, "migrate", "gateway", "beat", "trainer")
ALL = (*FEW, "generate", "export", "inference")


@contextmanager
def or_skipped() -> Iterator[None]:
    try:
        yield
    except EngineMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with or_skipped(), opened() as engine:
        engine.check()
        yield engine


@pytest.fixture(scope="session")
def stack(
    request: pytest.FixtureRequest,
    engine: Engine,
    tiny: Callable[[], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    is_whole = any(item.get_closest_marker("slow") for item in request.session.items)
    if not is_whole and not borrowed.is_possible():
        pytest.skip(
            f"{borrowed.PACKAGES} is not there (`make setup` with Python 3.11): `make compose-test` builds images"
        )
    with ThreadPoolExecutor() as pool:
        upstream = pool.submit(engine.provide, *UPSTREAM.values())
        if is_whole:
            engine.build("gateway", "trainer", "export", "inference")
        else:
            engine.build("gateway", wheels=borrowed.packages(engine.folder / "wheels"))
        upstream.result()
    stack = Stack(engine, tmp_path_factory.mktemp("compose"), ALL if is_whole else FEW)
    stack.prepare("" if is_whole else borrowed.override())
    with or_skipped():
        engine.enter("run")
    with engine.entered():
        try:
            stack.up()
            yield stack
        finally:
            stack.down("--volumes")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """A small random model, made by the trainer's Python (this one has no torch) while the stack comes up."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    code = (
        "import sys; from pathlib import Path; from tests.child.export_fixtures import llama; "
        "llama(Path(sys.argv[1]), hidden_size=128, intermediate_size=256, max_position_embeddings=1024)"
    )
    command = [interpreters.trainer(Settings()), "-c", code, str(folder)]
    making = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})

    def made() -> Path:
        assert making.wait(300) == 0
        return folder

    yield made
    making.kill()


@pytest.fixture(scope="session")
def work(stack: Stack, tiny: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> Work:
    """The stack with a model and a dataset."""
    files = {path.name: path for path in tiny().iterdir()}
    stack.client.upload_folder("/v1/models", files, {"name": "tiny"})
    rows = tmp_path_factory.mktemp("rows") / "answers.jsonl"
    rows.write_bytes(jsonl([ROW] * 32))
    stack.client.upload("/v1/datasets", rows, {"name": "answers"})
    return Work(stack)
