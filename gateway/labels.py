"""Where a model is named by the `output_dir` or `export_dir` of the job that made it, as LLaMA Factory's files do.

There they are folders; here they are labels, and the newest model that was made under one answers to it.
"""

from __future__ import annotations

from typing import Any

from gateway import resuming
from gateway.admission import names_in
from gateway.services import Services
from shared import schema
from shared.errors import NotFound

#: In the config of a model: under which label it was made.
LABEL = "output_dir"


def settled(services: Services, project_id: str, spec: Any) -> Any:
    """The spec with such labels replaced by the names of the catalog."""
    wire = schema.to_wire(spec)
    named = {param.wire: wire[param.wire] for param in schema.params(type(spec)) if param.kind == "model"}
    found = {
        field: ",".join(_made_under(services, project_id, part) or part for part in names_in(field, name))
        for field, name in named.items()
        if isinstance(name, str)
    }
    changed = {field: name for field, name in found.items() if name != named[field]}
    return schema.changed(spec, changed | resuming.settled(services, project_id, spec))


def _made_under(services: Services, project_id: str, label: str) -> str | None:
    """None where nothing was made under it; of a checkpoint's id its name."""
    try:
        return services.store.models.get(project_id, label).name
    except NotFound:
        models = services.store.models.list(project_id)  # oldest first
        made = [model.name for model in models if model.config.get(LABEL) == label]
        return made[-1] if made else None
