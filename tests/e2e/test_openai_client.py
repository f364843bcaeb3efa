"""The official `openai` client, unmodified, against the running gateway."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from shared.job import Kind, Status
from shared.records import NewEvent, NewModel
from tests.platform import ROWS, Platform, jsonl, make_platform, serve


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("openai"))
    made.post("/v1/models", {"name": "org/tiny model", "model_name_or_path": "tiny"})
    return made


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with serve(platform) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key=platform.keys["admin"], max_retries=1)


@pytest.fixture(scope="module")
def training_file(client: openai.OpenAI) -> str:
    return client.files.create(file=("sums.jsonl", jsonl(ROWS)), purpose="fine-tune").id


def test_files_come_and_go(client: openai.OpenAI) -> None:
    content = jsonl(ROWS[:4])
    made = client.files.create(file=("four.jsonl", content), purpose="fine-tune")
    assert client.files.wait_for_processing(made.id, max_wait_seconds=5).status == "processed"
    assert client.files.retrieve(made.id).bytes == len(content)
    assert client.files.content(made.id).read() == content
    assert made.id in [file.id for file in client.files.list(purpose="fine-tune")]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_broken_rows_survive_into_the_clients_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.files.create(file=("bad.jsonl", jsonl(ROWS[:1]) + b"{\n"), purpose="fine-tune")
    assert refused.value.code == "invalid_dataset"
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["issues"][0]["line"] == 2
    assert refused.value.request_id


def test_a_job_lives_through_the_client(client: openai.OpenAI, platform: Platform, training_file: str) -> None:
    job = client.fine_tuning.jobs.create(
        model="org/tiny model",
        training_file=training_file,
        suffix="sums",
        seed=3,
        metadata={"team": "a"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 2}},
        },
        extra_body={"x_train": {"lora_rank": 4, "cutoff_len": 128}},
    )
    assert (job.status, job.model, job.training_file, job.seed) == ("queued", "org/tiny model", training_file, 3)
    assert job.hyperparameters.n_epochs == 2
    spec = platform.get(f"/v1/jobs/{job.id}").get_json()["spec"]
    assert (spec["lora_rank"], spec["cutoff_len"], spec["learning_rate"]) == (4, 128, 2e-4)
    assert [found.id for found in client.fine_tuning.jobs.list(metadata={"team": "a"})] == [job.id]
    run_by_hand(platform, job.id)
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.fine_tuned_model) == ("succeeded", "ft:tiny:sums")
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    last_event = platform.get(f"/v1/jobs/{job.id}").get_json()["last_event"]
    assert len(events) == len({event.id for event in events}) == last_event
    assert [event.data["train_loss"] for event in events if event.type == "metrics"] == [0.5, 1.0]
    assert client.models.retrieve("ft:tiny:sums").id == "ft:tiny:sums"
    assert client.models.delete("ft:tiny:sums").deleted


def test_preferences_are_learned_by_dpo(client: openai.OpenAI, platform: Platform) -> None:
    said = {"role": "assistant", "content": "So."}
    row = {
        "input": {"messages": [{"role": "user", "content": "Why?"}]},
        "preferred_output": [said],
        "non_preferred_output": [{**said, "content": "No."}],
    }
    file = client.files.create(file=("pairs.jsonl", jsonl([row] * 8)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="org/tiny model",
        training_file=file.id,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3, "learning_rate_multiplier": "auto"}}},
    )
    assert job.method is not None and job.method.dpo is not None and job.method.dpo.hyperparameters is not None
    assert (job.method.type, job.method.dpo.hyperparameters.beta) == ("dpo", 0.3)
    spec = platform.get(f"/v1/jobs/{job.id}").get_json()["spec"]
    assert (spec["stage"], spec["pref_beta"], spec["learning_rate"]) == ("dpo", 0.3, 5e-6)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_files_of_a_finished_job_are_listed_and_downloaded(
    client: openai.OpenAI, platform: Platform, training_file: str
) -> None:
    job = client.fine_tuning.jobs.create(model="org/tiny model", training_file=training_file, seed=77)
    assert platform.get(f"/v1/jobs/{job.id}/files").get_json()["data"] == []
    run_by_hand(platform, job.id)

    listed = platform.get(f"/v1/jobs/{job.id}/files").get_json()["data"]
    drawn = platform.get(f"/v1/jobs/{job.id}/curves.svg")
    content = platform.get(f"/v1/jobs/{job.id}/files?path=config.json")

    assert "config.json" in [file["path"] for file in listed]
    assert content.get_data() == (platform.settings.import_roots[0] / "tiny" / "config.json").read_bytes()
    assert content.headers["Content-Disposition"] == "attachment"
    assert drawn.mimetype == "image/svg+xml" and "<polyline" in drawn.get_data(as_text=True)
    for path in ("../config.json", "/etc/passwd", "manifest.json"):
        assert platform.get(f"/v1/jobs/{job.id}/files?path={path}").status_code == 404


def run_by_hand(platform: Platform, job_id: str) -> None:
    """What a worker writes into the ledger for a training."""
    claim = platform.store.attempts.claim_next(worker_id="w", kinds=[Kind.TRAIN], num_devices=1, storage_id=None)
    assert claim is not None and claim.job.id == job_id
    metrics = [NewEvent(type="metrics", message=f"step {n}", data={"step": n, "loss": 1 / n}) for n in (1, 2)]
    platform.store.attempts.renew(job_id, claim.attempt, events=metrics)
    sealed = platform.artifacts.put_folder(platform.settings.import_roots[0] / "tiny", "store://models/ft")
    model = NewModel(
        name="ft:tiny:sums", kind="adapter", uri=sealed.uri, digest=sealed.digest, size_bytes=1, format="safetensors"
    )
    platform.store.attempts.finish(job_id, claim.attempt, status=Status.SUCCEEDED, models=[model])


def test_cancel_pause_and_resume_post_empty_bodies(client: openai.OpenAI, training_file: str) -> None:
    job = client.fine_tuning.jobs.create(model="org/tiny model", training_file=training_file, seed=4)
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.resume(job.id)
    assert refused.value.code == "invalid_job_state"


def test_the_integration_of_wandb_is_report_to_wandb(client: openai.OpenAI, training_file: str) -> None:
    asked = {"type": "wandb", "wandb": {"project": "mine", "name": "first run"}}
    given = {"model": "org/tiny model", "training_file": training_file, "integrations": [asked]}
    with pytest.raises(openai.UnprocessableEntityError, match="wandb_api_key is missing"):
        client.fine_tuning.jobs.create(**given)

    job = client.fine_tuning.jobs.create(
        **given, metadata={"team": "a"}, extra_body={"x_train": {"wandb_api_key": "k"}}
    )

    assert job.integrations is not None
    told = job.integrations[0].wandb
    assert (told.project, told.name, told.tags) == ("mine", "first run", ["team=a"])
    given["integrations"] = [{"type": "wandb", "wandb": {"project": "mine", "entity": "others"}}, {"type": "comet"}]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(**given)
    assert isinstance(refused.value.body, dict)
    issues = [issue["field"] for issue in refused.value.body["issues"]]
    assert issues == ["integrations.wandb.entity", "integrations"]


def test_a_repeated_create_is_one_job(client: openai.OpenAI, training_file: str) -> None:
    create = client.fine_tuning.jobs.create
    first, again = (create(model="org/tiny model", training_file=training_file, seed=5) for _ in range(2))
    assert first.id == again.id


def test_a_model_with_a_slash_and_a_space_is_found(client: openai.OpenAI) -> None:
    assert client.models.retrieve("org/tiny model").owned_by == "tunesmith"
    assert "org/tiny model" in [model.id for model in client.models.list()]


def test_what_is_not_offered_is_refused_by_its_name(client: openai.OpenAI, training_file: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(
            model="org/tiny model",
            training_file=training_file,
            method={"type": "reinforcement"},  # type: ignore[typeddict-item]
        )
    assert (refused.value.code, refused.value.param) == ("unsupported_method", "method.type")
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        client.fine_tuning.jobs.create(
            model="org/tiny model", training_file=training_file, extra_body={"x_train": {"a": 1}}
        )
    assert isinstance(wrong.value.body, dict)
    assert {issue["field"] for issue in wrong.value.body["issues"]} == {"a"}


def test_a_wrong_key_and_an_unknown_cursor_are_named(client: openai.OpenAI, platform: Platform) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="ts-wrong").models.list()
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.list(after="ftjob-nope")
    assert refused.value.code == "invalid_cursor"


def test_a_model_that_is_not_served_says_what_to_do(client: openai.OpenAI) -> None:
    message = {"role": "user", "content": "Hello"}
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="org/tiny modl", messages=[message])
    assert unknown.value.code == "model_not_found"
    assert "org/tiny model" in unknown.value.message
    with pytest.raises(openai.InternalServerError) as idle:
        client.with_options(max_retries=0).chat.completions.create(model="org/tiny model", messages=[message])
    assert idle.value.status_code == 503
    assert "/v1/deployments" in idle.value.message


def test_what_is_not_served_says_so_and_what_there_is_instead(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="make no embeddings"):
        client.embeddings.create(model="org/tiny model", input="hi")
    with pytest.raises(openai.NotFoundError, match="send what was said before again"):
        client.responses.retrieve("resp_1")
