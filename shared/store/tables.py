"""The tables of the ledger. A change here needs a revision in shared/migrations; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    UniqueConstraint,
    false,
    text,
)

from shared.job import Kind, Status, Wanted
from shared.store.columns import Choice, Json, Moment, Words

#: Names for what would be unnamed: PostgreSQL and SQLite make up different ones, and a later revision must find them.
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMES)

meta = Table(
    "meta",
    metadata,
    Column("key", Words, primary_key=True),
    Column("value", Words, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", Words, primary_key=True),
    Column("name", Words, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("share", Float, nullable=False, server_default="1"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Words, primary_key=True),
    Column("project_id", Words, ForeignKey("projects.id"), nullable=False),
    Column("name", Words, nullable=False),
    Column("role", Words, nullable=False),
    Column("prefix", Words, nullable=False, index=True),
    #: sha256 of the secret, hex.
    Column("hash", Words, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("revoked_at", Moment),
    Column("share", Float, nullable=False, server_default="1"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Words, primary_key=True),
    Column("project_id", Words, ForeignKey("projects.id"), nullable=False),
    Column("kind", Choice(Kind), nullable=False),
    Column("status", Choice(Status), nullable=False),
    Column("wanted", Choice(Wanted), nullable=False),
    Column("name", Words),
    Column("priority", Integer, nullable=False),
    Column("spec", Json, nullable=False),
    Column("requires", Json, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("request", Json, nullable=False),
    Column("then", Json, nullable=False),
    Column("parent_id", Words, ForeignKey("jobs.id"), index=True),
    Column("attempt", Integer, nullable=False),
    Column("lost_attempts", Integer, nullable=False),
    Column("adjustments", Json, nullable=False, server_default=text("'{}'")),
    Column("worker_id", Words),
    Column("phase", Words),
    Column("progress", Json, nullable=False),
    Column("result", Json, nullable=False),
    Column("error", Json),
    Column("last_event", BigInteger, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    #: Who shares fairly within the project, e.g. the id of the API key; "" when not told.
    Column("owner", Words, nullable=False),
    #: Copies of what `requires` says, for the claim's WHERE; its labels are in job_labels.
    Column("num_devices", Integer, nullable=False),
    Column("storage_id", Words),
    #: As shared/requirements.py `key` writes it.
    Column("gpu_kind", Words),
    Column("min_gpu_memory_gib", Float),
    Column("accelerator", Words),
    #: The host whose devices are kept for this job: see backfill.py.
    Column("reserved_host", Words),
    #: Deduplication of creates: see newjob.py.
    Column("fingerprint", Words),
    Column("idempotency_key", Words),
    Column("body_digest", Words, nullable=False),
    UniqueConstraint("project_id", "idempotency_key"),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "project_id", "fingerprint"),
    Index(None, "status", "kind"),
    Index(None, "kind", "status", "finished_at"),
    Index(None, "reserved_host"),
    # All that a claim and the queue's order ask of a job: the rows themselves, each with its spec, are not read.
    Index(
        "ix_jobs_waiting",
        *("status", "kind", "priority", "created_at", "id", "project_id", "owner", "num_devices", "storage_id"),
        *("gpu_kind", "min_gpu_memory_gib", "accelerator", "reserved_host"),
        sqlite_where=text("status = 'queued'"),
        postgresql_where=text("status = 'queued'"),
    ),
)

#: Device-seconds that an owner has used, worth half after a while: see shares.py.
usage = Table(
    "usage",
    metadata,
    Column("project_id", Words, ForeignKey("projects.id"), primary_key=True),
    Column("owner", Words, primary_key=True),
    Column("device_seconds", Float, nullable=False),
    Column("counted_at", Moment, nullable=False),
)

job_labels = Table(
    "job_labels",
    metadata,
    Column("job_id", Words, ForeignKey("jobs.id"), primary_key=True),
    Column("label", Words, primary_key=True),
)

job_secrets = Table(
    "job_secrets",
    metadata,
    Column("job_id", Words, ForeignKey("jobs.id"), primary_key=True),
    Column("name", Words, primary_key=True),
    Column("value", Words, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", Words, ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("worker_id", Words, nullable=False),
    Column("storage_id", Words),
    Column("beat", BigInteger, nullable=False),
    Column("events_offset", BigInteger, nullable=False),
    Column("status", Words, nullable=False),
    Column("reason", Words),
    #: What it runs with instead of the spec's values.
    Column("adjustments", Json, nullable=False, server_default=text("'{}'")),
    Column("error", Json),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment),
    #: Names of the devices that it has taken; NULL before.
    Column("devices", Json),
)

members = Table(
    "members",
    metadata,
    Column("job_id", Words, ForeignKey("jobs.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("node_rank", Integer, primary_key=True, autoincrement=False),
    Column("worker_id", Words, nullable=False, index=True),
    Column("address", Words, nullable=False),
    #: Of node 0: where the processes meet.
    Column("port", Integer),
    Column("beat", BigInteger, nullable=False),
    Column("status", Words, nullable=False),
    Column("error", Json),
)

events = Table(
    "events",
    metadata,
    Column("job_id", Words, ForeignKey("jobs.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("level", Words, nullable=False),
    Column("type", Words, nullable=False),
    Column("message", Words, nullable=False),
    Column("data", Json, nullable=False),
    Column("superseded", Boolean, nullable=False),
    #: data["step"] of a metrics event, for superseding.
    Column("step", BigInteger),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", Words, primary_key=True),
    Column("job_id", Words, ForeignKey("jobs.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("uri", Words, nullable=False),
    Column("digest", Words, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
    #: What it is called as a model; NULL: it is none.
    Column("name", Words),
    Column("model", Json, nullable=False, server_default="{}"),
    Column("is_damaged", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("job_id", "attempt", "step"),
    Index(None, "name"),
)

#: Files in the storage that no record names (yet): of checkpoints on their way, and of removed ones.
discarded = Table(
    "discarded",
    metadata,
    Column("uri", Words, primary_key=True),
    Column("storage_id", Words),
    #: Of the attempt that is writing them; NULL: nobody does, they may go.
    Column("job_id", Words),
    Column("attempt", Integer),
    Column("created_at", Moment, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", Words, primary_key=True),
    Column("project_id", Words, ForeignKey("projects.id"), nullable=False),
    Column("name", Words, nullable=False),
    Column("filename", Words, nullable=False),
    Column("purpose", Words, nullable=False),
    Column("format", Words),
    Column("columns", Json, nullable=False),
    Column("num_rows", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("digest", Words, nullable=False),
    Column("uri", Words, nullable=False),
    Column("status", Words, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "project_id", "name"),
)

models = Table(
    "models",
    metadata,
    Column("id", Words, primary_key=True),
    Column("project_id", Words, ForeignKey("projects.id"), nullable=False),
    Column("name", Words, nullable=False),
    Column("kind", Words, nullable=False),
    #: A name and no key: bases from the Hub have no row.
    Column("base_model", Words),
    Column("job_id", Words, ForeignKey("jobs.id")),
    Column("uri", Words, nullable=False),
    Column("digest", Words, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("format", Words, nullable=False),
    Column("template", Words),
    Column("config", Json, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("family", Words),
    Column("version", Integer, nullable=False, server_default="1"),
    #: A model's or a checkpoint's, and no key: what came of a model outlives it.
    Column("parent_id", Words, index=True),
    Column("aliases", Json, nullable=False, server_default=text("'[]'")),
    Column("tags", Json, nullable=False, server_default=text("'[]'")),
    UniqueConstraint("project_id", "name"),
    Index(None, "project_id", "family"),
)

#: What models were asked to be called, each with the number of its newest version: none is given twice.
families = Table(
    "families",
    metadata,
    Column("project_id", Words, ForeignKey("projects.id"), primary_key=True),
    Column("name", Words, primary_key=True),
    Column("last_version", Integer, nullable=False),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("id", Words, primary_key=True),
    Column("project_id", Words, ForeignKey("projects.id"), nullable=False),
    Column("job_id", Words, ForeignKey("jobs.id"), nullable=False, index=True),
    #: A name and no key: results outlive the model, and models of the Hub have no row.
    Column("model_name", Words, nullable=False),
    Column("model_id", Words),
    Column("dataset", Words),
    Column("dataset_id", Words),
    Column("dataset_digest", Words),
    Column("task", Words),
    Column("num_samples", BigInteger, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("spec", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index(None, "project_id", "created_at", "id"),
    Index(None, "project_id", "model_id"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("id", Words, primary_key=True),
    Column("project_id", Words, ForeignKey("projects.id"), nullable=False),
    Column("name", Words, nullable=False),
    Column("model_name", Words, nullable=False),
    Column("spec", Json, nullable=False),
    Column("wanted", Words, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    #: The deployment on whose replicas this one's adapter is loaded; NULL: it has replicas of its own.
    Column("host_id", Words, index=True),
    #: Of an adapter: `why` it is where it is, what requests to it carry, and the `previous` one.
    Column("hosting", Json, nullable=False, server_default=text("'{}'")),
    #: Replicas that its load wants now; NULL: as many as its spec says.
    Column("num_wanted", Integer),
    #: When a request last named it, to within seconds; NULL: never.
    Column("asked_at", Moment),
    #: The last change of the spec and how it goes (records.Deployment); NULL: there was none.
    Column("rollout", Json),
    # A name is free again once its deployment was stopped.
    Index(
        "uq_deployments_running_name",
        "project_id",
        "name",
        unique=True,
        sqlite_where=text("wanted = 'running'"),
        postgresql_where=text("wanted = 'running'"),
    ),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", Words, primary_key=True),
    Column("deployment_id", Words, ForeignKey("deployments.id"), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("served_name", Words, nullable=False),
    Column("status", Words, nullable=False, index=True),
    Column("wanted", Words, nullable=False),
    Column("generation", Integer, nullable=False),
    #: Of that generation: one that is replaced goes on with what it had.
    Column("spec", Json, nullable=False, server_default=text("'{}'")),
    Column("model_name", Words, nullable=False, server_default=text("''")),
    Column("attempt", Integer, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("worker_id", Words),
    Column("storage_id", Words),
    Column("ready_at", Moment),
    Column("url", Words),
    Column("api_key", Words),
    Column("load", Float, nullable=False),
    Column("error", Words),
    Column("log_tail", Words),
    Column("num_failures", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    #: Names under which it answers with adapters that are loaded.
    Column("adapters", Json, nullable=False, server_default=text("'[]'")),
    #: Why an adapter that is wanted is not loaded, by its name.
    Column("adapter_errors", Json, nullable=False, server_default=text("'{}'")),
    #: Of the adapters that it takes; NULL: it takes none, or is not up yet.
    Column("max_lora_rank", Integer),
    UniqueConstraint("deployment_id", "ordinal"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Words, primary_key=True),
    Column("kinds", Json, nullable=False),
    Column("host", Words, nullable=False),
    Column("devices", Json, nullable=False),
    Column("storage_id", Words, nullable=False),
    Column("labels", Json, nullable=False),
    Column("metrics_url", Words),
    Column("version", Words, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("machine", Json, nullable=False, server_default="{}"),
    #: Where other workers reach its processes.
    Column("address", Words),
)
