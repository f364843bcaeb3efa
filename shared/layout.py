"""How the rows of a dataset are laid out: its format, its columns, its tags, and so of what kind its rows are.

Names are LF's (`dataset_info.json`): alpaca, sharegpt and openai; where `columns` are given, those left out do not
exist; where none are given, the defaults hold. Rows themselves are read by shared/rows.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shared.tongues import Text

#: Column of the row that each role of a format reads when `columns` is not given.
DEFAULT_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "alpaca": {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "history": "history",
        "system": "system",
    },
    "sharegpt": {"messages": "conversations", "system": "system", "tools": "tools"},
    "openai": {"messages": "messages", "system": "system", "tools": "tools"},
}
MEDIA = ("images", "videos", "audios")
COLUMN_ROLES = frozenset(
    {"prompt", "query", "response", "history", "messages", "system", "tools", "chosen", "rejected", "kto_tag", *MEDIA}
)
DEFAULT_TAGS: Mapping[str, Mapping[str, str]] = {
    "sharegpt": {
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": "human",
        "assistant_tag": "gpt",
        "observation_tag": "observation",
        "function_tag": "function_call",
        "system_tag": "system",
    },
    "openai": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "observation_tag": "tool",
        "function_tag": "function",
        "system_tag": "system",
    },
}
TAG_ROLES = frozenset(DEFAULT_TAGS["sharegpt"])
FORMATS = tuple(DEFAULT_COLUMNS)
ANSWERS = {"chosen": "chosen", "rejected": "rejected"}
#: What goes before the name of a column that lies inside the column `input`, as in OpenAI's preference rows.
INSIDE_INPUT = "input."
PREFERENCE = {
    "messages": "input.messages",
    "tools": "input.tools",
    "chosen": "preferred_output",
    "rejected": "non_preferred_output",
}
#: Kind of the rows of a dataset -> how a sentence calls them.
KINDS: Mapping[str, str] = {
    "messages": "conversations that end with an answer",
    "pair": "preference pairs",
    "labelled": "answers with a label",
    "text": "plain text",
}
#: What a dataset of the wanted kind is made of.
HOW_TO: Mapping[str, str] = {
    "messages": "name the answer's column as `response`, or the conversation's as `messages`",
    "pair": "set `ranking` to true and name the columns `chosen` and `rejected`",
    "labelled": "name the column that holds true or false as `kto_tag`",
    "text": "name the text's column as `prompt` and no other column, or upload a .txt file",
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the rows of one dataset are read."""

    #: alpaca, sharegpt or openai.
    format: str
    #: Role (prompt, response, messages, ...) -> column of the row.
    columns: Mapping[str, str] = field(default_factory=dict)
    #: Role of a message -> what the data calls it.
    tags: Mapping[str, str] = field(default_factory=dict)
    #: Whether a row holds a better and a worse answer.
    ranking: bool = False

    @classmethod
    def of(
        cls,
        format: str,
        columns: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        ranking: bool | None = None,
    ) -> Layout:
        """LF's rule: what is given counts alone, what is not given at all takes the defaults. Two answers that are
        named make a ranking where nobody says."""
        given = {role: name for role, name in (columns or {}).items() if isinstance(name, str)}
        has_pair = ANSWERS.keys() <= given.keys()
        ranked = has_pair if ranking is None else ranking
        return cls(
            format=format,
            columns=given or {**DEFAULT_COLUMNS[format], **(ANSWERS if ranked else {})},
            tags={**DEFAULT_TAGS.get(format, {}), **(tags or {})},
            ranking=ranked,
        )

    @classmethod
    def from_record(cls, format: str, kept: Mapping[str, Any]) -> Layout:
        """As the ledger has it."""
        return cls.of(format, kept.get("columns"), kept.get("tags"), kept.get("ranking"))

    def as_record(self) -> dict[str, Any]:
        return {"columns": dict(self.columns), "tags": dict(self.tags), "ranking": self.ranking}

    @property
    def kind(self) -> str:
        return kind_of(self)


def kind_of(layout: Layout) -> str:
    """What the rows are: "messages", "pair", "labelled" or "text"."""
    if layout.ranking:
        return "pair"
    if "kto_tag" in layout.columns:
        return "labelled"
    return "text" if layout.format == "alpaca" and "response" not in layout.columns else "messages"


def wrong_kind(kind: str, stage: str, wanted: str) -> Text | None:
    """What is wrong with a dataset of rows of this kind for a stage, and what to do; None where they suit."""
    if kind == wanted:
        return None
    text = "has rows that are {given}, but stage {stage} needs {wanted}: {advice}"
    given, needed, advice = Text(KINDS[kind]), Text(KINDS[wanted]), Text(HOW_TO[wanted])
    return Text(text, given=given, stage=stage, wanted=needed, advice=advice)


def lacking(layout: Layout) -> Text | None:
    """What the columns of a layout lack to be read."""
    wanted: tuple[str, ...] = ("prompt",) if layout.format == "alpaca" else ("messages",)
    wanted += tuple(ANSWERS) if layout.ranking else ()
    if layout.format == "alpaca" and "kto_tag" in layout.columns:
        wanted += ("response",)
    missing = next((role for role in wanted if role not in layout.columns), None)
    if missing == "prompt" and "messages" in layout.columns:
        return Text("names messages, which alpaca does not have: set formatting to sharegpt or openai")
    if missing is None and layout.ranking and "kto_tag" in layout.columns:
        return Text("names kto_tag in a ranking: a row holds two answers, or one with a label")
    text = "names no {missing}: where columns are given, those left out do not exist"
    return Text(text, missing=missing) if missing else None


def detect(row: Mapping[str, Any]) -> Layout | None:
    """The layout, kind of rows included, that a first row suggests."""
    if isinstance(row.get("input"), dict) and "preferred_output" in row:
        return Layout.of("openai", PREFERENCE)
    found = _conversation(row) or _instruction(row)
    if found is None and isinstance(row.get("text"), str):
        return Layout.of("alpaca", {"prompt": "text"})
    return found


def _conversation(row: Mapping[str, Any]) -> Layout | None:
    column = next((name for name in ("messages", "conversations", "prompt") if isinstance(row.get(name), list)), None)
    if column is None:
        return None
    first = next((message for message in row[column] if isinstance(message, dict)), {})
    is_openai = "role" in first or (column == "messages" and not first)
    made = Layout.of("openai" if is_openai else "sharegpt")
    return _with_verdict(row, replace(made, columns={**made.columns, "messages": column}))


def _instruction(row: Mapping[str, Any]) -> Layout | None:
    if "instruction" in row or "output" in row:
        return _with_verdict(row, Layout.of("alpaca"))
    prompt = next((name for name in ("prompt", "question") if name in row), None)
    if prompt is None or (prompt == "question" and not ANSWERS.keys() <= row.keys()):
        return None
    response = next((name for name in ("completion", "response") if name in row), "completion")
    return _with_verdict(row, Layout.of("alpaca", {"prompt": prompt, "response": response}))


def _with_verdict(row: Mapping[str, Any], layout: Layout) -> Layout:
    """The same layout for a row that holds two answers, or a label beside its answer."""
    if ANSWERS.keys() <= row.keys():
        columns = {role: name for role, name in layout.columns.items() if role != "response"}
        return replace(layout, columns={**columns, **ANSWERS}, ranking=True)
    label = next((name for name in ("kto_tag", "label") if isinstance(row.get(name), bool)), None)
    return replace(layout, columns={**layout.columns, "kto_tag": label}) if label else layout
