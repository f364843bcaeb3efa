"""The spec of a push: which model of the catalog becomes the content of which repository of the Hub.

An export that names a repository is followed by one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared.fields import Message, shown
from shared.param import MISSING, group, param
from shared.rules import rule

#: As the Hub has it: owner and name, of up to 96 characters.
REPOSITORY = re.compile(r"(?=.{3,192}$)[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
BRANCH = re.compile(r"[\w][\w.-]{0,95}", re.ASCII)


def _repository(value: str) -> Message | None:
    fits = REPOSITORY.fullmatch(value) and not re.search(r"\.\.|--|\.git$", value)
    return None if fits else Message("is {value}: must be a repository of the Hub, owner/name", value=shown(value))


def _branch(value: str) -> Message | None:
    return None if BRANCH.fullmatch(value) else Message("is {value}: must be a branch's name", value=shown(value))


@dataclass(frozen=True, kw_only=True)
class Repository:
    """Where on the Hub; made when it is not there."""

    export_hub_model_id: str | None = param(
        None, "Repository of the Hub (`owner/name`) to push to. It gets the model's files in one commit, by a job of "
        "kind push that needs hf_hub_token.", type=str, check=_repository,
    )  # fmt: skip
    export_hub_private: bool = param(
        True, "Whether a repository that is made for it is private; one that is there stays as it is.", source="ours",
        advice="true: on the Hub it can be made public at any time, and not taken back.", since=4,
    )  # fmt: skip
    export_hub_revision: str = param("main", "Branch that it is pushed to.", source="ours", check=_branch, since=4)


@dataclass(frozen=True, kw_only=True)
class Pushed:
    model_name_or_path: str = param(
        MISSING,
        "Model to push: any name of the catalog, a checkpoint's too.",
        type=str,
        kind="model",
        aliases=("model",),
        since=4,
    )
    hf_hub_token: str | None = param(
        None, "Hugging Face token that may write to the repository; sealed apart from the job.", type=str, secret=True,
        since=4,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PushSpec:
    source: Pushed = group(Pushed)
    hub: Repository = group(Repository)

    @rule("export_hub_model_id", code="required")
    def a_repository_is_named(self) -> str | None:
        return None if self.hub.export_hub_model_id else "is required"

    def resolved(self) -> PushSpec:
        return self
