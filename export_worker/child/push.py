"""`python -m export_worker.child.push <attempt folder>`: the files of one model into one repository of the Hub.

Files are uploaded one after another and appear together, in one commit at the end: nobody sees half a model. What is
there already is not sent again. Not here: anything that reads weights.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

from export_worker.child.watch import Stopped, Watch
from shared import logs
from shared.attempt import Attempt
from shared.errors import TunesmithError

CARD = "README.md"
#: Weights of a whole model: of an earlier push in other pieces they would be read first, and instead.
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
#: Front matter of a card that only the catalog understands: on the Hub a name links to whatever is called so there.
OWN = ("base_model", "base_model_relation", "datasets")
#: What says that the Hub may answer otherwise later.
PASSING = (408, 425, 429, 500, 502, 503, 504)


class HubRefused(TunesmithError):
    """The Hub does not take the files."""

    code = "hub_refused"


class HubUnreachable(TunesmithError):
    """The Hub does not answer."""

    code = "hub_unreachable"


@dataclass(frozen=True, kw_only=True)
class Order:
    """run.json, understood."""

    folder: Path
    #: Name in the catalog.
    name: str
    repository: str
    revision: str
    private: bool
    #: Hub id of the base; None: not on the Hub.
    base: str | None
    #: What it is to its base: adapter, finetune or quantized.
    relation: str | None

    @classmethod
    def from_run(cls, run: Mapping[str, Any]) -> Order:
        names = ("name", "repository", "revision", "private", "base", "relation")
        return cls(folder=Path(run["model_path"]), **{name: run[name] for name in names})

    @property
    def files(self) -> list[Path]:
        """Of the seal nothing: it is the storage's."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path for path in found if path != self.folder / "manifest.json")


def push(order: Order, api: HfApi, watch: Watch) -> dict[str, Any]:
    """The whole push; the result of the `done` event. Raises HubRefused, HubUnreachable"""
    try:
        watch.phase("prepare", f"Looking at {order.repository}")
        there = repository(order, api, watch)
        watch.phase("upload", f"Uploading to {order.repository}")
        additions = upload(order, api, watch)
        watch.phase("commit", "Making the files visible in one commit")
        stale = [CommitOperationDelete(path_in_repo=path) for path in old_weights(additions, there)]
        message = f"{order.name}, by Tunesmith"
        made = api.create_commit(
            order.repository, [*additions, *stale], commit_message=message, revision=order.revision
        )
    except HfHubHTTPError as error:
        raise answered(order, error) from error
    watch.end_phase()
    return {
        "repository": order.repository,
        "url": f"{api.endpoint}/{order.repository}",
        "commit": made.oid,
        "num_files": len(additions),
        "size_bytes": sum(path.stat().st_size for path in order.files),
    }


def repository(order: Order, api: HfApi, watch: Watch) -> list[str]:
    """Make repository and branch where they are not there; the files that are."""
    api.create_repo(order.repository, private=order.private, exist_ok=True)
    try:
        return list(api.list_repo_files(order.repository, revision=order.revision))
    except RevisionNotFoundError:
        api.create_branch(order.repository, branch=order.revision, exist_ok=True)
        watch.say(f"Branch {order.revision} was made, from main")
        return list(api.list_repo_files(order.repository, revision=order.revision))


def upload(order: Order, api: HfApi, watch: Watch) -> list[CommitOperationAdd]:
    """Every file but small ones, which go with the commit; progress by bytes."""
    total, done = sum(path.stat().st_size for path in order.files), 0
    additions = []
    for addition, size in operations(order):
        # Kept open by nobody: `free_memory` would make a file that the commit looks at again an empty one.
        api.preupload_lfs_files(order.repository, [addition], revision=order.revision, free_memory=False)
        additions.append(addition)
        done += size
        watch.progress(done, total, "bytes")
    return additions


def operations(order: Order) -> Iterator[tuple[CommitOperationAdd, int]]:
    """With the card as the Hub may read it; a model without one gets one."""
    card = order.folder / CARD
    text = card.read_text(errors="replace") if card.is_file() else f"# {order.name}\n"
    yield CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=public_card(order, text).encode()), len(text)
    for path in order.files:
        if path != card:
            name = path.relative_to(order.folder).as_posix()
            yield CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)), path.stat().st_size


def public_card(order: Order, text: str) -> str:
    """The card with front matter that says the base by its Hub id, and nothing by names that mean something else
    there."""
    found = re.match(r"---\n(.*?)^---\n?", text, re.DOTALL | re.MULTILINE)
    lines = without(OWN, found[1].splitlines()) if found else []
    if order.base is not None:
        lines += [f"base_model: {order.base}", *([f"base_model_relation: {order.relation}"] if order.relation else [])]
    if order.relation == "adapter" and not any(line.startswith("library_name:") for line in lines):
        lines.append("library_name: peft")
    body = text[found.end() :] if found else text
    return "\n".join(["---", *lines, "---", ""]) + ("" if body.startswith("\n") else "\n") + body


def without(names: tuple[str, ...], lines: list[str]) -> list[str]:
    """The lines of a flat YAML but these members, with the lists below them."""
    kept, is_gone = [], False
    for line in lines:
        if re.match(r"[^\s#-]", line):
            is_gone = line.partition(":")[0] in names
        if not is_gone:
            kept.append(line)
    return kept


def old_weights(additions: list[CommitOperationAdd], there: list[str]) -> list[str]:
    """Weights in the repository that this push does not bring, when it brings a whole model's."""
    brought = {addition.path_in_repo for addition in additions}
    if not any(WEIGHTS.fullmatch(path) for path in brought):
        return []
    return [path for path in there if WEIGHTS.fullmatch(path) and path not in brought]


def answered(order: Order, error: HfHubHTTPError) -> TunesmithError:
    status = error.response.status_code if error.response is not None else None
    said = error.server_message or str(error).splitlines()[0]
    text = f"The Hub answers {status} for {order.repository}: {said}"
    return HubUnreachable(text) if status in PASSING else HubRefused(text)


def main(folder: Path) -> int:
    attempt = Attempt(folder)
    try:
        # By name: a token that somebody left in a cache of this machine is never taken.
        api = HfApi(endpoint=attempt.run["endpoint"], token=os.environ["HF_TOKEN"])
        attempt.done(**push(Order.from_run(attempt.run), api, Watch(attempt)))
    except Stopped:
        attempt.stopped(0)
    except Exception as error:
        attempt.fail(error)
        raise
    return 0


if __name__ == "__main__":
    logs.begin_child(Attempt(Path(sys.argv[1])), "push")
    sys.exit(main(Path(sys.argv[1])))
