"""Checkpoints: looked up, used as models by their names, removed. Made in the fenced transactions in attempts.py.

A removed one leaves its row at once; its files are `discarded`, and whoever cleans the storage deletes them later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, String, and_, cast, delete, or_, select, update

from shared.errors import Conflict
from shared.job import TERMINAL, Job, Kind, Status
from shared.records import Checkpoint, Model
from shared.store.columns import record
from shared.store.discarded import discard
from shared.store.engine import Database
from shared.store.moves import lock, lock_project
from shared.store.paging import check_job, one
from shared.store.tables import attempts, checkpoints, deployments, jobs, models, replicas

#: In every name and id of a checkpoint.
MARK = "ckpt-"
#: Let go of at once: more follow the next time.
MAX_EXPIRED = 100


class Checkpoints:
    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, project_id: str, job_id: str) -> list[Checkpoint]:
        """Oldest first."""
        with self._database.read() as connection:
            check_job(connection, project_id, job_id)
            return of_job(connection, job_id)

    def get(self, project_id: str, id_or_name: str, *, job_id: str | None = None) -> Checkpoint:
        """The newest of that name: a damaged one may have been written again."""
        query = _named(project_id, id_or_name)
        query = query if job_id is None else query.where(checkpoints.c.job_id == job_id)
        with self._database.read() as connection:
            return record(Checkpoint, one(connection, query, f"checkpoint {id_or_name!r}"))

    def latest(self, job_id: str) -> Checkpoint | None:
        """Where the next attempt resumes."""
        with self._database.read() as connection:
            return next((found for found in reversed(of_job(connection, job_id)) if found.is_resumable), None)

    def delete(self, project_id: str, job_id: str, id_or_name: str) -> Checkpoint:
        """Raises: Conflict while something uses it, or its own job would go on from it"""
        with self._database.write() as connection:
            job = lock(connection, job_id, project_id)
            lock_project(connection, project_id)
            query = _named(project_id, id_or_name).where(checkpoints.c.job_id == job_id)
            found = record(Checkpoint, one(connection, query, f"checkpoint {id_or_name!r}"))
            newest = next((one for one in reversed(of_job(connection, job_id)) if one.is_resumable), None)
            if job.status not in TERMINAL and newest == found:
                text = "Job {job_id} goes on from checkpoint {id}: cancel the job first, or wait for a newer one"
                raise Conflict(text, job_id=job_id, id=found.id)
            if user := in_use(connection, project_id, [found]).get(found.id):
                raise Conflict("Checkpoint {id} is in use by {user}: delete that first", id=found.id, user=user)
            remove(connection, [found])
            return found

    def expire(self, finished_before: datetime, storage_id: str, *, as_models: bool) -> int:
        """Let go of checkpoints of jobs that were over by then, in one storage, unless something needs them; how many.

        `as_models`: those that are models stay as such, and only the training cannot go on from them any more.
        """
        over = jobs.c.status.in_(TERMINAL), jobs.c.finished_at < finished_before
        query = select(checkpoints, jobs.c.project_id).join(jobs, jobs.c.id == checkpoints.c.job_id).where(*over)
        its = attempts.c.job_id == checkpoints.c.job_id, attempts.c.number == checkpoints.c.attempt
        query = query.join(attempts, and_(*its)).where(attempts.c.storage_id == storage_id).limit(MAX_EXPIRED)
        query = query.where(checkpoints.c.uri != "") if as_models else query
        with self._database.read() as connection:
            found = list(connection.execute(query).mappings())
        for row in found:
            with self._database.write() as connection:
                lock_project(connection, row["project_id"])
                _let_go(connection, row["project_id"], record(Checkpoint, row), as_models)
        return len(found)


def _let_go(connection: Connection, project_id: str, checkpoint: Checkpoint, as_model: bool) -> None:
    if checkpoint.id in in_use(connection, project_id, [checkpoint]):
        return
    if not (as_model and checkpoint.model):
        return remove(connection, [checkpoint])
    row = update(checkpoints).where(checkpoints.c.id == checkpoint.id)
    connection.execute(row.values(uri="", digest="", size_bytes=0))
    discard(connection, [checkpoint.uri], _storage_of(connection, checkpoint))


def of_job(connection: Connection, job_id: str) -> list[Checkpoint]:
    """Oldest first."""
    query = select(checkpoints).where(checkpoints.c.job_id == job_id)
    rows = connection.execute(query.order_by(checkpoints.c.step, checkpoints.c.created_at)).mappings()
    return [record(Checkpoint, row) for row in rows]


def holds_answers(connection: Connection, job: Job) -> bool:
    """Whether rows of it are answered, which outlive the job: a worker makes files of them."""
    mine = select(1).where(checkpoints.c.job_id == job.id)
    return job.kind == Kind.GENERATE and connection.execute(mine.limit(1)).first() is not None


def as_model(connection: Connection, project_id: str, id_or_name: str) -> Model | None:
    """The checkpoint as a record of the catalog; None: there is none of that name that is a model."""
    if MARK not in id_or_name:
        return None
    row = connection.execute(_named(project_id, id_or_name)).mappings().first()
    found = record(Checkpoint, row) if row else None
    if found is None or found.name is None:
        return None
    config = {**found.model.get("config", {}), "checkpoint": found.id, "step": found.step, "metrics": found.metrics}
    told = {**found.model, "config": config, "job_id": found.job_id, "created_at": found.created_at}
    return Model(**told, id=found.id, project_id=project_id, name=found.name)


def on_base(connection: Connection, project_id: str, base: str) -> list[str]:
    """Names of the adapters among them that are nothing without this base."""
    query = select(checkpoints.c.name, checkpoints.c.model).join(jobs, jobs.c.id == checkpoints.c.job_id)
    named = query.where(jobs.c.project_id == project_id, checkpoints.c.name.is_not(None))
    its = named.where(checkpoints.c.model["base_model"].as_string() == base)
    return [name for name, model in connection.execute(its) if model.get("kind") == "adapter"]


def remove(connection: Connection, gone: Collection[Checkpoint]) -> None:
    """The rows go, and so may the files."""
    for checkpoint in gone:
        connection.execute(delete(checkpoints).where(checkpoints.c.id == checkpoint.id))
        uris = [uri for uri in (checkpoint.uri, checkpoint.model.get("uri")) if uri]
        discard(connection, uris, _storage_of(connection, checkpoint))


def in_use(connection: Connection, project_id: str, given: Collection[Checkpoint]) -> dict[str, str]:
    """Which of these are needed, by id: by a job that is not over, a deployment, or a model that was made from one."""
    ids = {word: checkpoint.id for checkpoint in given for word in (checkpoint.id, checkpoint.name) if word}
    return {ids[word]: user for user, word in _mentions(connection, project_id) if word in ids}


def _mentions(connection: Connection, project_id: str) -> Iterator[tuple[str, str]]:
    """Who needs something, and the words that may name a checkpoint."""
    unfinished = [jobs.c.project_id == project_id, jobs.c.status.in_(set(Status) - TERMINAL)]
    marked = or_(*(cast(column, String).contains(MARK) for column in (jobs.c.spec, jobs.c.then)))
    for job_id, spec, then in connection.execute(
        select(jobs.c.id, jobs.c.spec, jobs.c.then).where(*unfinished, marked)
    ):
        yield from ((f"job {job_id}", word) for word in _words([spec, then]))
    live = select(replicas.c.deployment_id).where(replicas.c.status != "stopped")
    served = and_(
        deployments.c.project_id == project_id, or_(deployments.c.wanted == "running", deployments.c.id.in_(live))
    )
    query = select(deployments.c.name, deployments.c.model_name, deployments.c.spec).where(served)
    for name, model_name, spec in connection.execute(query):
        yield from ((f"deployment {name!r}", word) for word in _words([model_name, spec]))
    bases = select(models.c.name, models.c.base_model).where(models.c.project_id == project_id)
    for name, base in connection.execute(bases.where(models.c.base_model.contains(MARK))):
        yield f"model {name!r}", base


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (part.strip() for part in value.split(","))
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _words(item)


def _named(project_id: str, id_or_name: str) -> Select[Any]:
    is_it = or_(checkpoints.c.id == id_or_name, checkpoints.c.name == id_or_name)
    query = select(checkpoints).join(jobs, jobs.c.id == checkpoints.c.job_id)
    newest = checkpoints.c.is_damaged, checkpoints.c.created_at.desc()
    return query.where(jobs.c.project_id == project_id, is_it).order_by(*newest).limit(1)


def _storage_of(connection: Connection, checkpoint: Checkpoint) -> str | None:
    mine = attempts.c.job_id == checkpoint.job_id, attempts.c.number == checkpoint.attempt
    return connection.execute(select(attempts.c.storage_id).where(*mine)).scalar()
