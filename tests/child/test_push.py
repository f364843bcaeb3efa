"""A push by the Hub's own client, to a Hub on this machine: all files in one commit, and none when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export_worker.child.push import Order, public_card
from export_worker.push import environment
from shared.settings import process_environment
from tests import hub
from tests.hub import Hub

WEIGHTS = os.urandom(50_000)
CARD = """---
base_model: "tiny"
license: apache-2.0
datasets:
- "facts"
library_name: transformers
---
# mine
"""


@pytest.fixture
def there() -> Iterator[Hub]:
    with hub.serve() as made:
        yield made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in {
        "model.safetensors": WEIGHTS, "config.json": b"{}", "README.md": CARD.encode(), "manifest.json": b"{}",
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    return folder


def push(there: Hub, model: Path, token: str = hub.TOKEN, **changes: Any) -> dict[str, Any]:
    """The last event of a push as a process of its own."""
    attempt = model.parent / f"attempt{there.num_uploads}-{len(there.commits)}"
    attempt.mkdir()
    run = {
        "endpoint": there.url, "repository": "me/mine", "private": True, "revision": "main", "model_path": str(model),
        "name": "mine", "base": "org/tiny", "relation": "finetune", **changes,
    }  # fmt: skip
    (attempt / "run.json").write_text(json.dumps(run))
    env = process_environment("PATH") | environment(there.url) | {"HF_TOKEN": token, "HF_HOME": str(model.parent)}
    command = [sys.executable, "-m", "export_worker.child.push", str(attempt)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert token not in ended.stdout + ended.stderr
    text = (attempt / "events.jsonl").read_text()
    assert token not in text
    last: dict[str, Any] = json.loads(text.splitlines()[-1])
    return last


def test_a_model_appears_whole_in_one_commit_and_takes_the_place_of_an_earlier_one(there: Hub, model: Path) -> None:
    done = push(there, model)

    files = there.files["me/mine", "main"]
    assert done["type"] == "done", done
    assert (done["data"]["url"], done["data"]["num_files"]) == (f"{there.url}/me/mine", 3)
    assert set(files) == {"model.safetensors", "config.json", "README.md"}
    assert files["model.safetensors"] == WEIGHTS
    assert there.private == {"me/mine": True}
    assert len(there.commits) == 1

    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    (model / "config.json").write_text("[]")
    files["picture.png"] = b"theirs"
    assert push(there, model, revision="next")["type"] == "done"
    assert there.num_uploads == 1  # the same content again
    assert set(there.files["me/mine", "next"]) == {
        "model-00001-of-00001.safetensors", "config.json", "README.md", "picture.png"
    }  # fmt: skip
    assert "model.safetensors" in files


def test_a_token_that_may_not_write_is_told_and_a_hub_that_is_away_is_tried_again_later(
    there: Hub, model: Path
) -> None:
    refused = push(there, model, token="hf_reads")["data"]["error"]
    assert (refused["code"], "may not write" in refused["message"]) == ("hub_refused", True)
    assert there.files == {}
    away = push(Hub(url="http://127.0.0.1:9", num_uploads=7), model)["data"]["error"]
    assert away["code"] == "hub_unreachable"


def test_a_card_says_on_the_hub_only_what_is_true_there() -> None:
    order = Order(
        folder=Path(), name="mine", repository="me/mine", revision="main", private=True, base=None, relation="adapter"
    )
    assert public_card(order, CARD) == "---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n# mine\n"
    assert public_card(order, "# mine\n") == "---\nlibrary_name: peft\n---\n\n# mine\n"
