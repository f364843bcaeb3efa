"""Full: train every weight."""

from __future__ import annotations

from shared.declarations import Method

METHOD = Method(name="full", doc="Train every weight of the model.", makes="merged")
