"""Full: train every weight."""

from __future__ import annotations

from shared.methods._declaration import Method
from shared.methods._rules import WITHOUT_ADAPTER

METHOD = Method(name="full", doc="Train every weight of the model.", makes="merged", rules=WITHOUT_ADAPTER)
