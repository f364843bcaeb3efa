"""Freeze: train some layers of the model, leave the rest as they are."""

from __future__ import annotations

from shared.declarations import Method

METHOD = Method(name="freeze", doc="Train the last or first layers, freeze the rest.", makes="merged")
