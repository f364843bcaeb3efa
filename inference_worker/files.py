"""What a deployment serves, brought to this machine: model folder, adapter and chat template. May download."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared import adapterfiles, catalog, parsers, serving, templates
from shared.errors import InvalidSpec
from shared.settings import Settings
from shared.spec import DeploySpec
from shared.vllm_arguments import Files, adaptable, context_length

if TYPE_CHECKING:
    from shared.artifact import ArtifactStore
    from shared.records import Model
    from shared.store import Store

TEMPLATE, GENERATION = "chat_template.jinja", "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


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
    template = chat_template(spec, record.template, Path(folder), adapter, to)
    written, tokens = _template_text(template, Path(folder)), _tokens(Path(folder))
    return Files(
        model=folder,
        format=record.format,
        num_bits=serving.width_of(record.config),
        context_length=context_length(Path(folder)),
        adapter=adapter,
        adapter_rank=rank,
        base_name=record.base_model if adapter else None,
        adaptable=adaptable(Path(folder)),
        chat_template=template,
        calls=parsers.of_calls(written, tokens),
        thoughts=parsers.of_thoughts(written, tokens),
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


def _template_text(replacing: Path | None, model: Path) -> str:
    """What answers follow; empty where it is in neither."""
    if replacing is not None or (model / TEMPLATE).is_file():
        return (replacing or model / TEMPLATE).read_text(encoding="utf-8")
    if not (model / TOKENIZER_CONFIG).is_file():
        return ""
    told = _read(model / TOKENIZER_CONFIG).get("chat_template")
    # Of several templates, the one for tools has everything.
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)


def _tokens(model: Path) -> Callable[[str], bool]:
    """Whether the tokenizer has a token of this text. Looked for in its file as it lies there: most have megabytes."""
    path = model / "tokenizer.json"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return lambda token: json.dumps(token, ensure_ascii=False) in text


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
