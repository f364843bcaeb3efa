"""`dataset_info.json`: which entry an upload means, what an entry says, and what it leads to below an import root."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared import catalog, datasetinfo
from shared.errors import InvalidDataset, NotFound
from shared.settings import Settings
from shared.store import Store

PAIRS = {"file_name": "pairs.json", "ranking": True, "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}}
INFO = {
    "facts": {"file_name": "facts.json"},
    "pairs": PAIRS,
    "book": {"file_name": "book.txt", "columns": {"prompt": "text"}},
}


@pytest.mark.parametrize(
    ("given", "name", "filename", "entry"),
    [
        (PAIRS, None, "anything.json", "anything"),
        ({"columns": {"prompt": "q", "response": "a"}}, "mine", "x.json", "mine"),
        (INFO, "pairs", "x.json", "pairs"),
        (INFO, None, "pairs.json", "pairs"),
        (INFO, "mine", "book.txt", "book"),
        ({"facts": {"file_name": "other.json"}}, "mine", "x.json", "facts"),
    ],
)
def test_an_upload_finds_its_entry(given: Any, name: str | None, filename: str, entry: str) -> None:
    assert datasetinfo.chosen(given, name, filename).name == entry


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "must be an object"),
        ({}, "must be an object"),
        (INFO, "has no entry for 'mine'"),
        ({"formatting": "chatml"}, "must be one of alpaca"),
        ({"file_nam": "x"}, "did you mean 'file_name'"),
        ({"columns": {"prompt": 3}}, "columns must be an object of texts"),
        ({"columns": ["prompt"]}, "columns must be an object of texts"),
        ({"columns": {"promt": "q"}}, "did you mean 'prompt'"),
        ({"tags": {"role": "from"}, "formatting": "sharegpt"}, "has 'role'"),
        ({"ranking": "yes"}, "ranking must be true or false"),
        ({"num_samples": 0}, "whole number from 1"),
        ({"num_samples": "10"}, "whole number from 1"),
        ({"num_samples": True}, "whole number from 1"),
        ({"split": "test"}, "a file has none"),
        ({"subset": "en"}, "a file has none"),
        ({"formatting": 5}, "formatting must be text"),
    ],
)
def test_descriptions_that_say_nothing_right_are_refused(given: Any, told: str) -> None:
    with pytest.raises(InvalidDataset) as refused:
        datasetinfo.chosen(given, "mine", "x.json")
    assert refused.value.field == "dataset_info"
    assert told in refused.value.message


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "import" / "data"
    folder.mkdir(parents=True)
    for name in ("facts.json", "pairs.json", "book.txt"):
        (folder / name).write_text("[]")
    (tmp_path / "secret.json").write_text("[]")
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    others: dict[str, Any] = {
        "hub": {"hf_hub_url": "org/name", "ms_hub_url": "other/name", "subset": "en", "split": "test"},
        "scope": {"ms_hub_url": "org/name"},
        "mind": {"om_hub_url": "org/name"},
        "script": {"script_url": "loader"},
        "bucket": {"cloud_file_name": "s3://bucket/x.json"},
        "gone": {"file_name": "gone.json"},
        "out": {"file_name": "../../secret.json"},
        "absolute": {"file_name": str(tmp_path / "secret.json")},
        "linked": {"file_name": "link.json"},
        "nowhere": {"formatting": "alpaca"},
        "no-entry": "facts.json",
    }
    (folder / datasetinfo.FILE_NAME).write_text(json.dumps(INFO | others))
    return tmp_path / "import"


def resolve(root: Path, name: str, dataset_dir: str | None = None, *, hub: bool = False) -> catalog.Resolved:
    store = Store(f"sqlite:///{root.parent}/ledger.db")
    store.migrate()
    settings = Settings(home=root.parent, import_roots=[root], hub=hub)
    return catalog.resolve_dataset(store, settings, store.projects.default().id, name, dataset_dir)


@pytest.mark.parametrize("dataset_dir", [None, "data", "./data", "other", "..", "/", "REMOTE:org/name", "a" * 300])
def test_an_entry_below_an_import_root_is_a_dataset(root: Path, dataset_dir: str | None) -> None:
    found = resolve(root, "pairs", dataset_dir)
    assert found.path == root / "data" / "pairs.json"
    assert found.reading is not None
    format, kept = found.reading
    assert (format, kept["ranking"], kept["columns"]["chosen"]) == ("alpaca", True, "good")


def test_online_means_that_no_description_is_read(root: Path) -> None:
    with pytest.raises(NotFound):
        resolve(root, "pairs", "ONLINE")


def test_the_folder_that_is_named_comes_before_others(root: Path) -> None:
    (root / "other").mkdir()
    (root / "other" / "mine.json").write_text("[]")
    (root / "other" / datasetinfo.FILE_NAME).write_text(json.dumps({"pairs": {"file_name": "mine.json"}}))
    assert resolve(root, "pairs", "other").path == root / "other" / "mine.json"
    assert resolve(root, "pairs").path == root / "data" / "pairs.json"


def test_descriptions_outside_of_the_import_roots_are_not_read(root: Path) -> None:
    (root.parent / datasetinfo.FILE_NAME).write_text(json.dumps({"theirs": {"file_name": "secret.json"}}))
    (root / "link").symlink_to(root.parent)
    for dataset_dir in ("..", str(root.parent), "link"):
        with pytest.raises(NotFound):
            resolve(root, "theirs", dataset_dir)


def test_an_entry_on_the_hub_keeps_its_part(root: Path) -> None:
    found = resolve(root, "hub", hub=True)
    assert (found.hub_id, found.path) == ("org/name", None)
    assert found.reading is not None
    assert {name: found.reading[1][name] for name in ("subset", "split")} == {"subset": "en", "split": "test"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hub", "switched off"),
        ("scope", "ModelScope"),
        ("mind", "OpenMind"),
        ("script", "script"),
        ("bucket", "bucket"),
        ("gone", "'gone.json' is not in data"),
        ("out", "leads out of data"),
        ("absolute", "leads out of data"),
        ("linked", "leads out of data"),
        ("nowhere", "give file_name or hf_hub_url"),
        ("no-entry", "must be an object"),
        ("fcats", "'facts'"),
    ],
)
def test_entries_that_cannot_be_had_are_refused_with_the_reason(root: Path, name: str, told: str) -> None:
    with pytest.raises(NotFound) as refused:
        resolve(root, name)
    assert told in refused.value.message


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": {}, "a": {}}', b"\xff", b"[" * 100_000])
def test_a_broken_file_of_descriptions_is_told(root: Path, content: bytes) -> None:
    (root / "data" / datasetinfo.FILE_NAME).write_bytes(content)
    with pytest.raises(NotFound, match=r"data/dataset_info.json"):
        resolve(root, "facts")
