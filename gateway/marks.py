"""What users write on a model: aliases, tags and metadata. Their form only; what they mean is the ledger's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from shared import schema
from shared.errors import Complaint
from shared.fields import shown
from shared.nearest import did_you_mean
from shared.request import MAX_METADATA
from shared.store.models import LATEST
from shared.tongues import Text

ALIAS = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)
MAX_MARKS, MAX_TAG_CHARS, MAX_KEY_CHARS, MAX_VALUE_CHARS = 32, 64, 64, 512
#: Of a base model's metadata: where it came from, by which a second registration is recognized.
SOURCE = "source"


def load(given: Mapping[str, Any]) -> dict[str, Any]:
    """As Models.update takes it. Raises InvalidSpec with every complaint"""
    checks = {"aliases": _aliases, "tags": _tags, "metadata": _metadata}
    complaints = [
        Complaint(field=name, message=Text("is unknown{near}", near=did_you_mean(name, checks)), code="unknown_field")
        for name in given
        if name not in checks
    ]
    for name, check in checks.items():
        if name in given and (wrong := check(given[name])) is not None:
            complaints.append(Complaint(field=name, message=wrong))
    if complaints:
        raise schema.refusal(complaints)
    return dict(given)


def _aliases(value: Any) -> Text | None:
    if (wrong := _texts(value)) is not None:
        return wrong
    text = "has {name}: must be a letter and up to 63 letters, digits, _ . or -, and not `latest`"
    bad = [name for name in value if not ALIAS.fullmatch(name) or name == LATEST]
    return Text(text, name=shown(bad[0])) if bad else None


def _tags(value: Any) -> Text | None:
    if (wrong := _texts(value)) is not None:
        return wrong
    bad = [name for name in value if not 0 < len(name) <= MAX_TAG_CHARS or not name.isprintable()]
    text = "has {name}: must be 1 to {most} printable characters"
    return Text(text, name=shown(bad[0]), most=MAX_TAG_CHARS) if bad else None


def _texts(value: Any) -> Text | None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return Text("is {value}: must be a list of texts", value=shown(value))
    too_many = Text("has {count} entries: at most {most}", count=len(value), most=MAX_MARKS)
    return too_many if len(value) > MAX_MARKS else None


def _metadata(value: Any) -> Text | None:
    if not isinstance(value, dict):
        return Text("is {value}: must be an object", value=shown(value))
    if SOURCE in value:
        return Text("has {name}: it tells where the model came from and stays", name=shown(SOURCE))
    if len(value) > MAX_METADATA:
        return Text("has {count} pairs: at most {most}", count=len(value), most=MAX_METADATA)
    for key, text in value.items():
        fits = text is None or (isinstance(text, str) and len(text) <= MAX_VALUE_CHARS and "\0" not in text)
        if not fits or not 0 < len(key) <= MAX_KEY_CHARS or "\0" in key:
            return Text("has {key}: names up to 64 characters, values texts up to 512", key=shown(key))
    return None
