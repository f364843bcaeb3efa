"""What holds for all tests: the command line speaks English, whoever runs them, and long files begin first."""

from __future__ import annotations

import pytest

#: Files that take minutes, longest first: begun last they would run on alone.
LONG = (
    "test_main_job", "test_inference", "test_supervision", "test_fleet", "test_train_distributed", "test_train_ppo",
    "test_engine_transformers", "test_hosted", "test_export_run", "test_train_control", "test_train_dpo",
    "test_export_autoround", "test_nodes",
)  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: index for index, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
