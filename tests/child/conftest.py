"""What the tests of the children share: one tiny model and dataset for all trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import training

from shared import interpreters
from shared.errors import Unavailable
from shared.settings import Settings


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums in one order, so that numbers are the same on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def inference_python() -> str:
    """The Python that has vLLM."""
    try:
        return interpreters.inference(Settings())
    except Unavailable as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a chat template."""
    return training.make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 alpaca rows."""
    return training.make_dataset(tmp_path_factory.mktemp("data") / "rows.json")
