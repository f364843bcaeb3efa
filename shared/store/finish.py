"""The last transaction of a job: its status, what it made, and what comes `then`, all or nothing.

Nothing that a user named may make this fail, or a trained model would be lost over a name: a name that is taken gets a
number, and an entry of `then` that cannot be brought about becomes a warning in the job's events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import DataError, IntegrityError

from shared.errors import TunesmithError
from shared.job import Job, Status
from shared.records import NewDataset, NewEvaluation, NewEvent, NewModel
from shared.store.claims import secrets_of
from shared.store.datasets import insert_dataset
from shared.store.deployments import deployment_is_taken, insert_deployment
from shared.store.evaluations import insert_evaluation
from shared.store.hosting import place
from shared.store.models import insert_model, model_is_taken
from shared.store.moves import end_attempt, lock_project, move
from shared.store.names import free_name
from shared.store.newjob import from_then, insert_job
from shared.store.tables import jobs

#: In a spec of `then`: the model that the job before has made.
MADE_MODEL = "$model"


def finish(
    connection: Connection,
    job: Job,
    *,
    status: Status,
    result: dict[str, Any],
    error: dict[str, Any] | None,
    models: Sequence[NewModel],
    datasets: Sequence[NewDataset],
    evaluations: Sequence[NewEvaluation] = (),
    new_events: list[NewEvent],
) -> Job:
    """Move the held `job` to `status`. `result` gets "model" (the first one's name) and "datasets" (ids)."""
    lock_project(connection, job.project_id)
    names = [_add_model(connection, job, model) for model in models]
    ids = [insert_dataset(connection, job.project_id, dataset).id for dataset in datasets]
    for evaluation in evaluations:
        insert_evaluation(connection, job.project_id, job.id, evaluation)
    result = {**result, **({"model": names[0]} if names else {}), **({"datasets": ids} if ids else {})}
    if status == Status.SUCCEEDED:
        new_events = new_events + _then(connection, job, result)
    end_attempt(connection, job, status.value, (error or {}).get("message"), error)
    return move(
        connection,
        job,
        status,
        _message(status, error),
        level="error" if status == Status.FAILED else "info",
        data={"result": result} if error is None else {"error": error},
        new_events=new_events,
        result=result,
        error=error,
        phase=None,
    )


def _message(status: Status, error: Mapping[str, Any] | None) -> str:
    if status == Status.FAILED:
        return f"Job failed: {(error or {}).get('message', 'no reason was given')}"
    return "Job has succeeded" if status == Status.SUCCEEDED else "Job was cancelled"


def _add_model(connection: Connection, job: Job, model: NewModel) -> str:
    name = free_name(model.name, partial(model_is_taken, connection, job.project_id))
    family = model.family or model.name
    made = replace(model, name=name, family=family, job_id=model.job_id or job.id)
    return insert_model(connection, job.project_id, made).name


def _then(connection: Connection, job: Job, result: Mapping[str, Any]) -> list[NewEvent]:
    """Bring about every entry of the job's `then`; one event each."""
    secrets = secrets_of(connection, job.id) if job.then else {}
    owner = connection.execute(select(jobs.c.owner).where(jobs.c.id == job.id)).scalar_one()
    told = []
    for entry in job.then:
        try:
            spec = _with_model(entry["spec"], result.get("model"))
            with connection.begin_nested():  # what fails is undone, the rest of the transaction stands
                told.append(_follow(connection, job, {**entry, "spec": spec}, secrets, owner))
        except (KeyError, TypeError, ValueError, AttributeError, TunesmithError, DataError, IntegrityError) as error:
            told.append(NewEvent(type="message", level="warning", message=f"What should follow could not: {error}"))
    return told


def _with_model(value: Any, model: str | None) -> Any:
    """`value` with the made model's name for MADE_MODEL."""
    if value == MADE_MODEL:
        if model is None:
            raise ValueError(f"{MADE_MODEL} stands for the model that the job made, and it made none")
        return model
    if isinstance(value, dict):
        return {key: _with_model(item, model) for key, item in value.items()}
    return [_with_model(item, model) for item in value] if isinstance(value, list) else value


def _follow(
    connection: Connection, job: Job, entry: Mapping[str, Any], secrets: Mapping[str, str], owner: str
) -> NewEvent:
    """One entry: `{"kind", "spec", ...}` as of jobs.create, or kind "deploy" with a deployment's spec."""
    if entry["kind"] != "deploy":
        made = insert_job(connection, job.project_id, from_then(entry, parent=job, secrets=secrets, owner=owner))
        return NewEvent(type="message", message=f"Then follows {made.id}", data={"job_id": made.id})
    spec = entry["spec"]
    model = spec.get("adapter_name_or_path") or spec["model"]
    name = entry.get("name") or spec.get("name") or model
    name = free_name(name, partial(deployment_is_taken, connection, job.project_id))
    placement = place(connection, job.project_id, model, spec)
    deployment = insert_deployment(
        connection, job.project_id, name=name, model_name=model, spec=spec, placement=placement
    )
    message = f"Then follows deployment {deployment.name!r}"
    return NewEvent(type="message", message=message, data={"deployment_id": deployment.id})
