"""What the door looks at of an adapter's files: can vLLM serve it, and how does whoever serves it ask it?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.admission import record_of
from gateway.services import Services
from shared import adapterfiles, catalog, engines
from shared.adapterfiles import SERVING, TEMPLATE, AdapterFiles
from shared.errors import Complaint, NotFound
from shared.records import Model
from shared.spec import DeploySpec
from shared.tongues import Text


def files_of(services: Services, project_id: str, name: str) -> AdapterFiles | None:
    """As its record says, or as the files say where it does not (a checkpoint); None: it is none, or they cannot be
    read."""
    model = record_of(services, project_id, name)
    if model is None or model.kind != "adapter":
        return None
    if (told := model.config.get(SERVING)) is not None:
        return AdapterFiles.load(told)
    # Trained here with the model's own template, which was then put beside it.
    own = model.template is None and model.job_id is not None
    try:
        return adapterfiles.parse(lambda file: _read(services, model, file), own_template=own)
    except (OSError, ValueError):
        return None


def unservable(services: Services, project_id: str, spec: DeploySpec) -> Iterator[Complaint]:
    """What an adapter has that vLLM would refuse, or pass over in silence."""
    if spec.engine != engines.VLLM:
        return
    files = files_of(services, project_id, spec.served)
    if files is not None and files.extensions:
        text = "is {name!r}, an adapter with {extensions}, which vLLM does not serve: export it merged, and deploy that"
        message = Text(text, name=spec.served, extensions=", ".join(files.extensions))
        field = "model" if spec.served == spec.model else "adapter_name_or_path"
        yield Complaint(field=field, message=message, code="not_served_here")


def is_base_template(services: Services, project_id: str, base: str, folder: Path) -> bool:
    """Whether the chat template beside an adapter is its base's own."""
    model, here = record_of(services, project_id, base), folder / TEMPLATE
    if model is None or not here.is_file():
        return False
    try:
        return _read(services, model, TEMPLATE) == here.read_bytes()
    except OSError:
        return False


def _read(services: Services, model: Model, file: str) -> bytes:
    if catalog.is_on_hub(model.uri):
        raise FileNotFoundError(file)
    try:
        with services.artifacts.open(f"{model.uri}/{file}") as content:
            return content.read()
    except NotFound as error:
        raise FileNotFoundError(file) from error
