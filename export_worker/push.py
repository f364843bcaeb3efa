"""What a push adds to the runner: the model's files on this machine, and what its card may say on the Hub.

The ledger's job is what makes it safe: a Hub that is away, or a worker that dies, is another attempt, and what was
uploaded already is not uploaded again. The token is in the child's environment only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from shared import catalog, interpreters, schema
from shared.errors import InvalidSpec, NotFound
from shared.job import Kind
from shared.records import Model
from shared.spec import PushSpec
from shared.work import Finish, Phase, Run

#: The Hub's own host; who else speaks its protocol knows the older way of uploading only.
HUB_HOST = "huggingface.co"
#: What a model is to its base, in the Hub's words, by its kind.
RELATIONS = {"adapter": "adapter", "merged": "finetune", "quantized": "quantized"}
#: Longest way to the base.
MAX_LINEAGE = 32
RESULT = ("repository", "url", "commit", "num_files", "size_bytes")


class PushWork:
    kind = Kind.PUSH

    def phases(self, run: Run) -> Sequence[Phase]:
        argv = [interpreters.trainer(run.settings), "-m", "export_worker.child.push", str(run.folder)]
        return [Phase(name="push", argv=argv, env=environment(run.settings.hub_url), needs_devices=False)]

    def run_json(self, run: Run) -> Mapping[str, Any]:
        spec = schema.from_stored(PushSpec, run.job.spec)
        model = run.store.models.get(run.job.project_id, spec.source.model_name_or_path)
        if catalog.is_on_hub(model.uri):
            raise InvalidSpec(f"{model.name} lies on the Hub already", field="model_name_or_path")
        return {
            "endpoint": run.settings.hub_url.rstrip("/"),
            "repository": spec.hub.export_hub_model_id,
            "private": spec.hub.export_hub_private,
            "revision": spec.hub.export_hub_revision,
            # What is given to others is what was sealed.
            "model_path": str(run.artifacts.verified_path(model.uri, model.digest)),
            "name": model.name,
            "base": base_on_hub(run, model),
            "relation": RELATIONS.get(model.kind),
        }

    def finish(self, run: Run, done: Mapping[str, Any]) -> Finish:
        return Finish(result={name: done[name] for name in RESULT})


def environment(hub_url: str) -> dict[str, str]:
    env = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub_url.rstrip("/")}
    return env if urlsplit(hub_url).hostname == HUB_HOST else env | {"HF_HUB_DISABLE_XET": "1"}


def base_on_hub(run: Run, model: Model) -> str | None:
    """Hub id of the base that it came from; None: it is not known to be there, and names of the catalog say nothing."""
    name: str | None = model.name
    for _ in range(MAX_LINEAGE):
        try:
            record = run.store.models.get(run.job.project_id, name or "")
        except NotFound:
            return name if name and catalog.is_hub_id(name) else None
        if record.kind == "base" or record.base_model is None:
            place = record.uri.removeprefix(catalog.HUB) if catalog.is_on_hub(record.uri) else record.name
            return place if catalog.is_hub_id(place) and record.name != model.name else None
        name = record.base_model
    return None
