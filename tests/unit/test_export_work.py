"""What an export asks of its child, and what it publishes, from real records in a real ledger and storage."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export_worker import command
from export_worker.work import ExportWork, WrongBase
from shared import catalog, fingerprint, folder, recovery, schema
from shared.artifact import ArtifactStore
from shared.attempt import describe
from shared.errors import ChildFailed, InvalidSpec, NotAllowed, NotFound, Unavailable
from shared.job import Job, Kind, Status
from shared.records import NewModel
from shared.settings import Settings
from shared.spec import ExportSpec, TrainSpec
from shared.store import Store
from shared.volumes import NoRoom
from shared.work import Run

ADAPTER = "ft:tiny:local::12345678"
TRAINING = {
    "model_name_or_path": "tiny",
    "stage": "sft",
    "dataset": ["facts"],
    "eval_dataset": ["questions"],
    "template": "qwen",
}


class Ledger:
    """A base, two datasets, a training and the adapter that it made."""

    def __init__(self, settings: Settings, store: Store, artifacts: ArtifactStore, scratch: Path):
        self.settings, self.store, self.artifacts, self._scratch = settings, store, artifacts, scratch
        self.project = store.projects.default().id
        for name in ("facts", "questions"):
            self.add_dataset(name)
        self.add_model("tiny", kind="base")
        self.training = self.succeed("train", schema.to_wire(schema.load(TrainSpec, TRAINING)))
        self.add_model(ADAPTER, kind="adapter", base_model="tiny", job_id=self.training.id)

    def add_dataset(self, name: str, text: str = '{"messages": []}\n') -> None:
        file = self._scratch / f"{name}.jsonl"
        file.write_text(text)
        sealed = self.artifacts.put_file(file, self.artifacts.uri("datasets", f"{name}-{len(text)}"))
        columns = {"columns": {"messages": "messages"}, "tags": {}}
        self.store.datasets.create(
            self.project, name=name, filename=file.name, purpose="fine-tune", format="openai", columns=columns,
            num_rows=1, size_bytes=sealed.size_bytes, digest=sealed.digest, uri=sealed.uri,
        )  # fmt: skip

    def add_model(self, name: str, **members: Any) -> None:
        files = self._scratch / f"model-{name.replace(':', '-')}"
        files.mkdir()
        (files / "config.json").write_text("{}")
        sealed = self.artifacts.put_folder(files, self.artifacts.uri("models", files.name))
        sealing = {"uri": sealed.uri, "digest": sealed.digest, "size_bytes": sealed.size_bytes}
        self.store.models.create(self.project, NewModel(name=name, format="safetensors", **sealing, **members))

    def succeed(self, kind: str, spec: dict[str, Any]) -> Job:
        run = self.claim(kind, spec)
        return self.store.attempts.finish(run.job.id, run.attempt, status=Status.SUCCEEDED)

    def claim(self, kind: str, spec: dict[str, Any], **settings: Any) -> Run:
        fields = (spec.get(name) for name in ("export_quantization_dataset", "dataset", "eval_dataset"))
        named = [name for given in fields for name in ([given] if isinstance(given, str) else given or ())]
        meant = [self.store.datasets.get(self.project, name) for name in named]
        pins = {one.name: {"id": one.id, "digest": one.digest} for one in meant}
        self.store.jobs.create(self.project, kind=Kind(kind), spec=spec, request={catalog.PINS: pins})
        claim = self.store.attempts.claim_next(
            worker_id="w", kinds=[Kind(kind)], num_devices=1, storage_id=self.artifacts.storage_id()
        )
        assert claim is not None
        return Run(
            job=claim.job, attempt=claim.attempt, folder=folder.make(self.settings, claim.job, claim.attempt),
            settings=replace(self.settings, **settings), store=self.store, artifacts=self.artifacts,
        )  # fmt: skip

    def export(self, **settings: Any) -> Any:
        def claim(**body: Any) -> Run:
            return self.claim("export", schema.to_wire(schema.load(ExportSpec, body)), **settings)

        return claim


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    settings = Settings(home=tmp_path / "home", import_roots=[tmp_path / "imports"], trainer_python="")
    with Store(settings.database_url) as store:
        store.migrate()
        yield Ledger(settings, store, ArtifactStore(settings.storage_url, tmp_path / "cache"), tmp_path)


def done_with(run: Run, **members: Any) -> Mapping[str, Any]:
    """What the child says after it wrote its output."""
    (run.output / "model.safetensors").write_text("weights")
    sealed = run.artifacts.put_folder(run.output, run.uri("probe"))
    files = {file.path: {"sha256": file.sha256} for file in sealed.files}
    verification = {"merge": {"relative_difference": 0.001}}
    told = {"format": "merged", "method": "streamed", "verification": verification, "quantization": None}
    return told | {"size_bytes": 7, "seconds": {"merge": 1.0}, "files": files} | members


def test_an_adapters_base_template_and_texts_are_found_from_its_training(ledger: Ledger) -> None:
    run = ledger.export()(model_name_or_path=ADAPTER, export_format="w4a16")

    told = ExportWork().run_json(run)

    assert Path(told["model_path"]).name == "model-tiny"
    assert [Path(path).name for path in told["adapter_paths"]] == ["model-ft-tiny-local--12345678"]
    assert told["template"] == ledger.training.spec["template"]
    assert told["wording"]["enable_thinking"] is True
    assert [(one["name"], one["format"]) for one in told["calibration"]] == [("facts", "openai")]
    assert [one["name"] for one in told["held_out"]] == ["questions"]
    assert told["calibration"][0]["columns"] == {"columns": {"messages": "messages"}, "tags": {}}
    assert told["lineage"]["name"] == f"{ADAPTER}:w4a16"
    assert told["lineage"]["training_job"] == ledger.training.id


def test_a_template_that_the_export_names_is_written_in_its_own_words(ledger: Ledger) -> None:
    told = ExportWork().run_json(ledger.export()(model_name_or_path=ADAPTER, template="chatml"))
    assert (told["template"], told["wording"]) == ("chatml", {})


def test_lf_style_names_base_and_adapter(ledger: Ledger) -> None:
    run = ledger.export()(model_name_or_path="tiny", adapter_name_or_path=ADAPTER, export_dir="models/my_export")
    told = ExportWork().run_json(run)
    assert len(told["adapter_paths"]) == 1
    assert told["lineage"]["source_name"] == ADAPTER
    assert told["lineage"]["name"] == "my_export"


def test_an_adapter_is_merged_into_its_own_base_only(ledger: Ledger) -> None:
    ledger.add_model("other", kind="base")
    run = ledger.export()(model_name_or_path="other", adapter_name_or_path=ADAPTER)
    with pytest.raises(InvalidSpec, match="was trained on tiny, not on other"):
        ExportWork().run_json(run)


def test_several_adapters_of_one_base_are_merged_in_their_order_with_their_weights(ledger: Ledger) -> None:
    ledger.add_model("second", kind="adapter", base_model="tiny")
    names = f"second, {ADAPTER}"
    run = ledger.export()(model_name_or_path="tiny", adapter_name_or_path=names, adapter_weights=[0.25, 1])
    told = ExportWork().run_json(run)
    assert [Path(path).name for path in told["adapter_paths"]] == ["model-second", "model-ft-tiny-local--12345678"]
    assert (told["adapter_weights"], told["lineage"]["source_name"]) == ([0.25, 1.0], ADAPTER)
    told = ExportWork().run_json(ledger.export()(model_name_or_path=ADAPTER, adapter_name_or_path="second"))
    assert (len(told["adapter_paths"]), told["adapter_weights"]) == (2, [1.0, 1.0])


def test_an_adapter_of_weights_that_were_replaced_under_the_same_name_is_refused(ledger: Ledger) -> None:
    known = ledger.store.models.get(ledger.project, "tiny").digest
    for name, digest in (("fits", known), ("late", "0" * 64)):
        ledger.add_model(name, kind="adapter", base_model="tiny", config={"base_digest": digest})
    assert ExportWork().run_json(ledger.export()(model_name_or_path="fits"))["adapter_weights"] == [1.0]
    with pytest.raises(InvalidSpec, match="an earlier model of the name tiny"):
        ExportWork().run_json(ledger.export()(model_name_or_path="late"))


def test_a_base_alone_has_no_adapter_and_no_texts(ledger: Ledger) -> None:
    told = ExportWork().run_json(ledger.export()(model_name_or_path="tiny"))
    assert (told["adapter_paths"], told["calibration"], told["held_out"]) == ([], [], [])
    assert told["lineage"]["name"] == "tiny:merged"


def test_a_named_calibration_dataset_goes_before_the_trainings(ledger: Ledger) -> None:
    export = ledger.export()
    run = export(model_name_or_path=ADAPTER, export_format="w4a16", export_quantization_dataset="questions")
    assert [one["name"] for one in ExportWork().run_json(run)["calibration"]] == ["questions"]


def test_the_uploads_of_the_training_are_used_though_newer_ones_have_their_names(ledger: Ledger) -> None:
    for name in ("facts", "questions"):
        ledger.add_dataset(name, '{"messages": []}\n' * 2)
    told = ExportWork().run_json(ledger.export()(model_name_or_path=ADAPTER, export_format="w4a16"))
    pins = catalog.pins(ledger.training.request)
    assert [one["digest"] for one in told["calibration"]] == [pins["facts"]["digest"]]
    assert [one["digest"] for one in told["held_out"]] == [pins["questions"]["digest"]]
    assert ledger.store.datasets.get(ledger.project, "facts").digest != pins["facts"]["digest"]


def test_a_deleted_dataset_of_the_training_is_left_out_and_told(ledger: Ledger) -> None:
    ledger.store.datasets.delete(ledger.project, "facts")
    # Another one of its name is not what the model was trained on.
    ledger.add_dataset("facts", '{"messages": []}\n' * 2)
    told = ExportWork().run_json(ledger.export()(model_name_or_path=ADAPTER))
    assert (told["calibration"], told["gone"]) == ([], ["facts"])


def test_a_named_dataset_that_was_deleted_since_is_missed_by_its_name(ledger: Ledger) -> None:
    run = ledger.export()(model_name_or_path=ADAPTER, export_format="w4a16", export_quantization_dataset="facts")
    ledger.store.datasets.delete(ledger.project, "facts")
    with pytest.raises(NotFound, match="'facts' was deleted after this export was asked for") as raised:
        ExportWork().run_json(run)
    assert raised.value.field == "export_quantization_dataset"


def test_a_file_as_lf_names_it_is_the_dataset_that_was_made_of_it(ledger: Ledger) -> None:
    for name in ("data/facts.jsonl", "facts.json", "facts"):
        found = catalog.resolve_dataset(ledger.store, ledger.settings, ledger.project, name)
        assert (found.name, found.record.name) == (name, "facts")
    # No data file's name, but one of the Hub's form.
    assert catalog.resolve_dataset(ledger.store, ledger.settings, ledger.project, "data/facts").hub_id == "data/facts"


def test_code_of_a_model_runs_only_when_the_administrator_named_it(ledger: Ledger) -> None:
    body = {"model_name_or_path": "tiny", "trust_remote_code": True}
    with pytest.raises(NotAllowed):
        ExportWork().run_json(ledger.export()(**body))
    assert ExportWork().run_json(ledger.export(trust_remote_code=["tiny"])(**body))["adapter_paths"] == []


def test_finish_publishes_a_model_with_its_lineage(ledger: Ledger) -> None:
    run = ledger.export()(model_name_or_path=ADAPTER)
    folder.write_run_json(run, ExportWork().run_json(run))

    finish = ExportWork().finish(run, done_with(run))

    [model] = finish.models
    assert (model.name, model.kind, model.format) == (f"{ADAPTER}:merged", "merged", "merged")
    assert model.config["output_dir"] is None
    assert (model.base_model, model.job_id) == ("tiny", run.job.id)
    assert (model.config["parent"], model.config["training_job"]) == (ADAPTER, ledger.training.id)
    assert model.config["verification"] == finish.result["verification"]
    assert run.artifacts.verify(model.uri).digest == model.digest
    assert f"attempts/{run.attempt}/" in model.uri


def test_an_exported_model_still_knows_its_training(ledger: Ledger) -> None:
    run = ledger.export()(model_name_or_path=ADAPTER)
    folder.write_run_json(run, ExportWork().run_json(run))
    finish = ExportWork().finish(run, done_with(run))
    ledger.store.attempts.finish(
        run.job.id, run.attempt, status=Status.SUCCEEDED, result=dict(finish.result), models=finish.models
    )

    told = ExportWork().run_json(ledger.export()(model_name_or_path=f"{ADAPTER}:merged", export_quantization_bit=4))

    assert told["adapter_paths"] == []
    assert [one["name"] for one in told["calibration"]] == ["facts"]
    assert told["lineage"]["name"] == f"{ADAPTER}:merged:w4a16"


def test_records_that_went_away_meanwhile_do_not_cost_the_result(ledger: Ledger) -> None:
    run = ledger.export()(model_name_or_path=ADAPTER)
    folder.write_run_json(run, ExportWork().run_json(run))
    ledger.store.models.delete(ledger.project, ADAPTER)
    assert ExportWork().finish(run, done_with(run)).models[0].config["parent"] == ADAPTER


def test_files_that_changed_after_their_verification_are_not_published(ledger: Ledger) -> None:
    run = ledger.export()(model_name_or_path=ADAPTER)
    folder.write_run_json(run, ExportWork().run_json(run))
    done = done_with(run, files={"model.safetensors": {"sha256": "0" * 64}})
    with pytest.raises(ChildFailed):
        ExportWork().finish(run, done)


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(ledger: Ledger) -> None:
    uri = ledger.artifacts.uri("models", "huge")
    ledger.store.models.create(
        ledger.project,
        NewModel(name="huge", kind="base", format="safetensors", uri=uri, digest="sha256:0", size_bytes=10**18),
    )

    with pytest.raises(NoRoom, match=r"GiB would be written, and .* free") as raised:
        ExportWork().run_json(ledger.export()(model_name_or_path="huge"))

    described = describe(raised.value)
    assert described["code"] == "disk_full" and described["details"]["needed_bytes"] > 10**18
    assert recovery.answer(ledger.training, described, ledger.settings.run_dir).error["message"].count("free") == 1


def test_what_cannot_be_sealed_whole_leaves_nothing_in_the_storage(ledger: Ledger) -> None:
    run = ledger.export()(model_name_or_path="tiny")
    for name in ("a.json", "z.safetensors"):
        (run.output / name).write_text("content")
    place = Path(ledger.settings.storage_url) / "jobs" / run.job.id / "attempts" / str(run.attempt) / "model"
    (place / "z.safetensors").mkdir(parents=True)  # in the way of the last file

    with pytest.raises(OSError, match="irectory"):
        run.publish(run.output, "model")

    assert not place.exists()
    assert {path.name for path in run.output.iterdir()} == {"a.json", "z.safetensors"}


def test_the_child_is_the_trainers_python_without_a_network_when_the_hub_is_off(ledger: Ledger) -> None:
    run = ledger.export(hub=False, trainer_python="/bin/true")(model_name_or_path="tiny", export_verify_vllm="off")
    [phase] = ExportWork().phases(run)
    assert list(phase.argv) == ["/bin/true", "-m", "export_worker.child", str(run.folder)]
    assert phase.env["HF_HUB_OFFLINE"] == "1"
    assert not phase.needs_devices, "on the CPU it goes beside a training"
    on_a_card = replace(run, job=replace(run.job, requires={"num_devices": 1}))
    assert ExportWork().phases(on_a_card)[0].needs_devices
    assert ExportWork().run_json(run)["not_served"] == "export_verify_vllm is off"


def test_vllm_is_asked_in_a_phase_of_its_own_where_it_is_there(ledger: Ledger) -> None:
    there = {"trainer_python": "/bin/true", "inference_python": "/bin/false"}
    run = ledger.export(**there)(model_name_or_path="tiny")
    [_, phase] = ExportWork().phases(run)
    assert list(phase.argv) == ["/bin/false", "-m", "export_worker.child.served", str(run.folder)]
    assert not phase.needs_devices
    assert ExportWork().run_json(run)["serves"] is True


def test_an_export_that_has_to_ask_vllm_fails_at_once_where_there_is_none(ledger: Ledger) -> None:
    away = ledger.export(inference_python="/nowhere/python")
    told = ExportWork().run_json(away(model_name_or_path="tiny"))
    assert told["serves"] is False and "/nowhere/python" in told["not_served"]
    with pytest.raises(Unavailable, match="/nowhere/python"):
        ExportWork().run_json(away(model_name_or_path="tiny", export_verify_vllm="require"))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        (None, "ft:x:merged"),
        ("out", "out"),
        ("models/llama3_lora_sft", "llama3_lora_sft"),
        ("../../etc/passwd", "passwd"),
        ("C:\\models\\mine", "mine"),
        ("my model!", "my-model"),
        ("..", "ft:x:merged"),
        ("/", "ft:x:merged"),
    ],
)
def test_an_export_dir_is_a_label_only(label: str | None, name: str) -> None:
    assert command.model_name("ft:x", "merged", label) == name


def test_run_json_is_plain_json(ledger: Ledger) -> None:
    run = ledger.export()(model_name_or_path=ADAPTER, hf_hub_token="hf_secret")
    folder.write_run_json(run, ExportWork().run_json(run))
    text = (run.folder / "run.json").read_text()
    assert json.loads(text)["output_dir"] == str(run.output)
    assert "hf_secret" not in text


def write_safetensors(folder: Path, value: int) -> Path:
    folder.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<i", value))
    return folder


def test_a_base_that_has_other_weights_than_when_the_adapter_was_trained_is_no_base_of_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    imports = tmp_path / "imports"
    imports.mkdir()
    base = write_safetensors(imports / "mine", 1)
    made = {"base_fingerprint": fingerprint.of_model(base)}
    ledger.add_model("ft:mine", kind="adapter", base_model="mine", config=made)
    assert ExportWork().run_json(ledger.export()(model_name_or_path="ft:mine"))["model_path"] == str(base)

    shutil.rmtree(base)
    write_safetensors(base, 2)
    with pytest.raises(WrongBase, match="mine has other weights than when ft:mine was trained on it"):
        ExportWork().run_json(ledger.export()(model_name_or_path="ft:mine"))
