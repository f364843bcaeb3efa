"""The table behind a folder of plug-ins: its own files, imported sorted, each holding one declaration.

A folder's `__init__` calls `load` once while it is imported; the table never changes afterwards.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from shared.fields import Message, shown
from shared.nearest import did_you_mean


def load(package: str, path: Iterable[str], attribute: str) -> Mapping[str, Any]:
    """The declaration `attribute` of every file of the package, by the file's name."""
    names = sorted(module.name for module in pkgutil.iter_modules(path))
    return MappingProxyType({name: getattr(importlib.import_module(f"{package}.{name}"), attribute) for name in names})


def complaint(value: str, table: Iterable[str], later: Mapping[str, str]) -> Message | None:
    """What is wrong with a name: nothing, known but not supported yet, or unknown with the nearest."""
    known = sorted(table)
    if value in known:
        return None
    if value in later:
        return Message("{value!r} is not supported yet: {later}", "unsupported", value=value, later=later[value])
    near = did_you_mean(value, [*known, *later])
    return Message(
        "is {value}: must be one of {allowed}{near}",
        "invalid_choice",
        value=shown(value),
        allowed=", ".join(known),
        near=near,
    )
