"""Freeze: train some layers of the model, leave the rest as they are."""

from __future__ import annotations

from shared.methods._declaration import Method
from shared.methods._rules import WITHOUT_ADAPTER

METHOD = Method(
    name="freeze",
    doc="Train the last or first layers, freeze the rest.",
    makes="merged",
    group="freeze",
    rules=WITHOUT_ADAPTER,
)
