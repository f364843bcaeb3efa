"""What a push asks of its child: files as they were sealed, the base by its name on the Hub, and how to reach it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export_worker.push import PushWork, environment
from shared import folder, schema
from shared.artifact import CorruptArtifact
from shared.job import Kind
from shared.records import NewModel
from shared.spec import PushSpec
from shared.work import Run
from tests.platform import Platform, make_platform, write_model


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return make_platform(tmp_path, hub=True)


def claim(platform: Platform, model: str, base: str) -> Run:
    project = platform.store.projects.default().id
    write_model(platform.settings.home / model)
    sealed = platform.artifacts.put_folder(platform.settings.home / model, platform.artifacts.uri("models", model))
    told = {"uri": sealed.uri, "digest": sealed.digest, "size_bytes": sealed.size_bytes, "format": "safetensors"}
    platform.store.models.create(project, NewModel(name=model, kind="adapter", base_model=base, **told))
    spec = schema.load(PushSpec, {"model": model, "export_hub_model_id": "me/mine"})
    platform.store.jobs.create(project, kind=Kind.PUSH, spec=schema.to_wire(spec))
    claim = platform.store.attempts.claim_next(
        worker_id="w", kinds=[Kind.PUSH], storage_id=platform.artifacts.storage_id()
    )
    assert claim is not None
    made = folder.make(platform.settings, claim.job, claim.attempt)
    parts = {"settings": platform.settings, "store": platform.store, "artifacts": platform.artifacts}
    return Run(job=claim.job, attempt=claim.attempt, folder=made, **parts)  # type: ignore[arg-type]


def test_the_base_is_named_as_the_hub_knows_it(platform: Platform) -> None:
    platform.post("/v1/models", {"name": "short", "model_name_or_path": "Qwen/Qwen2.5-0.5B"})
    platform.post("/v1/models", {"name": "tiny", "model_name_or_path": "tiny"})
    for base, told in {"short": "Qwen/Qwen2.5-0.5B", "tiny": None, "org/unregistered": "org/unregistered"}.items():
        run = PushWork().run_json(claim(platform, f"of-{base.replace('/', '-')}", base))
        assert (run["base"], run["relation"], run["private"]) == (told, "adapter", True)


def test_what_was_changed_since_it_was_sealed_is_not_given_to_others(platform: Platform) -> None:
    run = claim(platform, "mine", "org/base")
    path = platform.artifacts.local_path("store://models/mine") / "config.json"
    path.chmod(0o644)
    path.write_text("[]")
    with pytest.raises(CorruptArtifact):
        PushWork().run_json(run)


def test_a_mirror_is_spoken_to_as_all_of_them_understand(platform: Platform) -> None:
    assert "HF_HUB_DISABLE_XET" not in environment("https://huggingface.co")
    assert environment("http://mirror.local/hf/")["HF_HUB_DISABLE_XET"] == "1"
    run = claim(platform, "mine", "org/base")
    python = replace(platform.settings, trainer_python="/bin/true")
    (phase,) = PushWork().phases(replace(run, settings=python))
    assert (phase.needs_devices, "HF_TOKEN" in phase.env) == (False, False)
