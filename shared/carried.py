"""What requests to an adapter say beside what their clients say, where its host's server would answer otherwise.

A server has one chat template, one generation config and one set of template arguments: those of the deployment that
started it. What an adapter on it needs instead goes along with each request to it. What a client says comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Members that only conversations have.
OF_CHATS = ("chat_template", "chat_template_kwargs")
CHAT_SUFFIX = "/chat/completions"


def into(given: Mapping[str, Any], carries: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The body that goes to the server: what `given` leaves out is as `carries` says."""
    said = {name: value for name, value in given.items() if value is not None}
    added = {name: value for name, value in carries.items() if name not in said}
    if not path.endswith(CHAT_SUFFIX):
        added = {name: value for name, value in added.items() if name not in OF_CHATS}
    elif "chat_template_kwargs" in carries and isinstance(said.get("chat_template_kwargs"), dict):
        added["chat_template_kwargs"] = {**carries["chat_template_kwargs"], **said["chat_template_kwargs"]}
    if said.get("ignore_eos"):
        added.pop("stop_token_ids", None)
    elif isinstance(also := said.get("stop_token_ids"), list):
        added["stop_token_ids"] = [*also, *(id for id in carries.get("stop_token_ids", ()) if id not in also)]
    return {**given, **added}
