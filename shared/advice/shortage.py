"""What to change when a training that did not fit has nothing smaller left to try: the plan's nearest fit.

Whatever the estimate said of what has failed, it needed more than there was: what fits must be estimated below it, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared import schema
from shared.advice import fit, hardware, shapes
from shared.advice.cards import Cards
from shared.errors import TunesmithError
from shared.spec import TrainSpec


def advice(
    stored: Mapping[str, Any], adjusted: Mapping[str, Any], config: Mapping[str, Any] | None, known: Mapping[str, Any]
) -> dict[str, Any]:
    """A sentence, and the change as it is posted (`nearest`, None: nothing that is known fits). `config` is the model's
    config.json, `known` what the attempt told: `total_gib` of a device, its `num_processes`, its `longest` sequence."""
    try:
        spec = schema.from_stored(TrainSpec, stored)
        wires = {param.wire for param in schema.params(TrainSpec)}
        spec = schema.changed(spec, {name: value for name, value in adjusted.items() if name in wires})
        shape = shapes.read(config or {})
    except (TunesmithError, shapes.UnreadableShape):
        return {"message": "Take a smaller model, shorter samples or larger cards.", "nearest": None}
    longest = int(known["longest"]) if known.get("longest") else None
    cards = Cards(count=int(known.get("num_processes") or 1), memory_gib=float(known.get("total_gib") or 1e6))
    made = fit.fit(spec, shape, cards, longest)
    room = Cards(count=cards.count, memory_gib=min(cards.gib, made.gib))
    found = fit.nearest(spec, shape, room, longest)
    nearest = None if found is None else {
        "patch": dict(found.patch),
        "what": list(found.what),
        "gpus": found.fitted.cards.count,
        "per_gpu_gib": found.fitted.memory.gib(),
    }  # fmt: skip
    return {"message": str(hardware.in_words(found)), "nearest": nearest}
