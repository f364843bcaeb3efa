"""What a deployment serves, brought to this machine: model folder, adapter and chat template. May download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared import adapterfiles, catalog, serving, templates
from shared.errors import InvalidSpec
from shared.settings import Settings
from shared.spec import DeploySpec
from shared.vllm_arguments import Files, adaptable, context_length

if TYPE_CHECKING:
    from shared.artifact import ArtifactStore
    from shared.records import Model
    from shared.store import Store

TEMPLATE, GENERATION = "chat_template.jinja", "generation_config.json"


def bring(
    store: Store, artifacts: ArtifactStore, settings: Settings, project_id: str, model: str, spec: DeploySpec, to: Path
) -> Files:
    """The files of `model`; what has to be written (a chat template) goes below `to`."""
    record = store.models.get(project_id, model)
    folder = catalog.location(record.uri, artifacts)
    adapter, rank = None, 0
    if record.kind == "adapter":
        adapter, rank = Path(folder), adapter_rank(Path(folder))
        folder = _base(store, settings, project_id, record).local(artifacts)
    return Files(
        model=folder,
        format=record.format,
        num_bits=serving.width_of(record.config),
        context_length=context_length(Path(folder)),
        adapter=adapter,
        adapter_rank=rank,
        base_name=record.base_model if adapter else None,
        adaptable=adaptable(Path(folder)),
        chat_template=chat_template(spec, record.template, Path(folder), adapter, to),
        generation=adapter if adapter and (adapter / GENERATION).is_file() else None,
    )


def chat_template(
    spec: DeploySpec, trained_with: str | None, model: Path, adapter: Path | None, to: Path
) -> Path | None:
    """What the spec names, else the file that was trained with; None where vLLM finds it in the model's own folder."""
    if spec.template is not None:
        return write_template(spec.template, to)
    if adapter is not None and (adapter / TEMPLATE).is_file():
        return adapter / TEMPLATE
    # Models of before the file was kept with them.
    return None if (model / TEMPLATE).is_file() else write_template(trained_with, to)


def adapter_rank(folder: Path) -> int:
    """The largest rank of any of its matrices."""
    return adapterfiles.rank(_read(folder / adapterfiles.CONFIG))


def write_template(name: str | None, to: Path) -> Path | None:
    """The named chat template as a file; None where the model's own is meant."""
    if (name := templates.settled(name)) is None:
        return None
    template = templates.get(name)
    path = to / f"{template.name}.jinja"
    path.write_text(template.jinja, encoding="utf-8")
    return path


def _base(store: Store, settings: Settings, project_id: str, adapter: Model) -> catalog.Resolved:
    if not adapter.base_model:
        raise InvalidSpec(f"adapter {adapter.name!r} does not say which base model it belongs to", field="model")
    return catalog.resolve_model(store, settings, project_id, adapter.base_model)


def _read(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text())
    return config
