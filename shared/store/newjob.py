"""Making a job's row, and finding the one that the same request made before.

The `openai` client sends a POST again on its own after a lost answer. So the create looks, while it holds the project's
row, for a job of the same `Idempotency-Key`, or of the same fingerprint made within TWIN_SECONDS. A job that failed or
was cancelled is no twin by fingerprint: sending it again is then meant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, insert, select

from shared import requirements
from shared.correlation import Origin
from shared.errors import Complaint, Conflict, InvalidRequest
from shared.ids import new_id
from shared.job import Job, Kind, Status, Wanted
from shared.records import NewEvent
from shared.store.columns import now, record, to_json
from shared.store.moves import JOB_COLUMNS, save
from shared.store.tables import job_labels, job_secrets, jobs
from shared.tongues import Text

PREFIXES = {
    Kind.TRAIN: "ftjob-", Kind.EXPORT: "export-", Kind.GENERATE: "generate-", Kind.EVALUATE: "evaluate-",
    Kind.PUSH: "push-",
}  # fmt: skip
#: A create with the same fingerprint within this many seconds is the same job.
TWIN_SECONDS = 60
MAX_PRIORITY = 1000


@dataclass(frozen=True, kw_only=True)
class NewJob:
    kind: Kind
    spec: dict[str, Any]
    name: str | None = None
    priority: int = 0
    requires: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    then: list[dict[str, Any]] = field(default_factory=list)
    parent_id: str | None = None
    fingerprint: str | None = None
    idempotency_key: str | None = None
    owner: str = ""
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    findings: Iterable[Any] = ()

    @property
    def body_digest(self) -> str:
        """Tells two bodies apart that came with one idempotency key."""
        body = [self.kind.value, self.name, self.priority, self.spec, self.requires, self.metadata, self.then]
        return self.fingerprint or hashlib.sha256(to_json(body).encode()).hexdigest()


def find_twin(connection: Connection, project_id: str, new: NewJob) -> Job | None:
    """The job that the same request made before. The caller holds the project's row.

    Raises: Conflict
    """
    if new.idempotency_key:
        query = select(*JOB_COLUMNS, jobs.c.body_digest).where(
            jobs.c.project_id == project_id, jobs.c.idempotency_key == new.idempotency_key
        )
        row = connection.execute(query).mappings().first()
        if row and row["body_digest"] != new.body_digest:
            raise Conflict(
                "Idempotency key {key!r} was used for job {job} with another body",
                key=new.idempotency_key,
                job=row["id"],
            )
        return record(Job, row) if row else None
    if new.fingerprint is None:
        return None
    query = select(*JOB_COLUMNS).where(
        jobs.c.project_id == project_id,
        jobs.c.fingerprint == new.fingerprint,
        jobs.c.created_at > now() - timedelta(seconds=TWIN_SECONDS),
        jobs.c.status.not_in([Status.FAILED, Status.CANCELLED]),
    )
    row = connection.execute(query.order_by(jobs.c.created_at.desc()).limit(1)).mappings().first()
    return record(Job, row) if row else None


def insert_job(connection: Connection, project_id: str, new: NewJob) -> Job:
    """The queued job with its first events, labels and secrets."""
    check_priority(new.priority)
    job = Job(
        id=new_id(PREFIXES[new.kind]),
        project_id=project_id,
        kind=new.kind,
        status=Status.QUEUED,
        wanted=Wanted.RUN,
        name=new.name,
        priority=new.priority,
        spec=new.spec,
        requires=new.requires,
        metadata=new.metadata,
        request=new.request,
        then=new.then,
        parent_id=new.parent_id,
        created_at=now(),
    )
    connection.execute(insert(jobs).values({**_columns(job), **_hidden(new)}))
    _insert_beside(connection, job.id, new)
    queued = NewEvent(type="status", message="Job is queued", data={"status": Status.QUEUED.value})
    return save(connection, job, job, [queued, *(_finding(finding) for finding in new.findings)])


def check_priority(priority: int) -> None:
    if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        text = "priority is {priority}: use a number from {low} to {high}"
        message = Text(text, priority=priority, low=-MAX_PRIORITY, high=MAX_PRIORITY)
        raise InvalidRequest(message, complaints=[Complaint(field="priority", message=message)])


def _columns(job: Job) -> dict[str, Any]:
    return {column.name: getattr(job, column.name) for column in JOB_COLUMNS}


def _hidden(new: NewJob) -> dict[str, Any]:
    """The columns that Job does not show."""
    return {
        "owner": new.owner,
        "num_devices": requirements.num_devices(new.requires),
        "storage_id": new.requires.get("storage_id"),
        "gpu_kind": requirements.key(new.requires["gpu_kind"]) if new.requires.get("gpu_kind") else None,
        "min_gpu_memory_gib": new.requires.get("min_gpu_memory_gib"),
        "accelerator": new.requires.get("accelerator"),
        "fingerprint": new.fingerprint,
        "idempotency_key": new.idempotency_key,
        "body_digest": new.body_digest,
    }


def _insert_beside(connection: Connection, job_id: str, new: NewJob) -> None:
    labels = [{"job_id": job_id, "label": label} for label in sorted(set(new.requires.get("labels") or ()))]
    secrets = [{"job_id": job_id, "name": name, "value": value} for name, value in new.secrets.items()]
    if labels:
        connection.execute(insert(job_labels), labels)
    if secrets:
        connection.execute(insert(job_secrets), secrets)


def _finding(finding: Any) -> NewEvent:
    """A finding of the doctor (a dataclass or mapping with severity, field, message, advice, source)."""
    data: dict[str, Any] = asdict(finding) if is_dataclass(finding) and not isinstance(finding, type) else dict(finding)
    level = "info" if data.get("severity") == "info" else "warning"
    return NewEvent(type="finding", level=level, message=str(data.get("message", "")), data=data)


def from_then(entry: Mapping[str, Any], *, parent: Job, secrets: Mapping[str, str], owner: str) -> NewJob:
    """The job that an entry of `then` describes, for the same user and request; it gets those secrets that its spec
    names."""
    given = {
        name: entry[name] for name in ("name", "priority", "requires", "metadata", "request", "then") if name in entry
    }
    given["request"] = {**given.get("request", {}), **Origin.of(parent.request).envelope()}
    spec = dict(entry["spec"])
    return NewJob(
        kind=Kind(entry["kind"]),
        spec=spec,
        parent_id=parent.id,
        owner=owner,
        secrets={name: value for name, value in secrets.items() if name in spec},
        **{"priority": parent.priority, **given},
    )
