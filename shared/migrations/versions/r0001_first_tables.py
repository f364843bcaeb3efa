"""The first tables: projects and keys, jobs with what belongs to them, the catalog, deployments, workers.

A revision is never changed once released: it names its types itself and imports no table of today.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKeyConstraint,
    Integer,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON_ = JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    _meta()
    _projects()
    _workers()
    _api_keys()
    _datasets()
    _deployments()
    _jobs()
    _attempts()
    _checkpoints()
    _events()
    _job_labels()
    _job_secrets()
    _models()
    _replicas()


def downgrade() -> None:
    for table in (
        "replicas",
        "models",
        "job_secrets",
        "job_labels",
        "events",
        "checkpoints",
        "attempts",
        "jobs",
        "deployments",
        "datasets",
        "api_keys",
        "workers",
        "projects",
        "meta",
    ):
        op.drop_table(table)


def _meta() -> None:
    op.create_table(
        "meta",
        Column("key", Text(), nullable=False),
        Column("value", Text(), nullable=False),
        PrimaryKeyConstraint("key", name="pk_meta"),
    )


def _projects() -> None:
    op.create_table(
        "projects",
        Column("id", Text(), nullable=False),
        Column("name", Text(), nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("id", name="pk_projects"),
        UniqueConstraint("name", name="uq_projects_name"),
    )


def _workers() -> None:
    op.create_table(
        "workers",
        Column("id", Text(), nullable=False),
        Column("kinds", JSON_, nullable=False),
        Column("host", Text(), nullable=False),
        Column("devices", JSON_, nullable=False),
        Column("storage_id", Text(), nullable=False),
        Column("labels", JSON_, nullable=False),
        Column("metrics_url", Text()),
        Column("version", Text(), nullable=False),
        Column("started_at", DateTime(timezone=True), nullable=False),
        Column("seen_at", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("id", name="pk_workers"),
    )


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        Column("id", Text(), nullable=False),
        Column("project_id", Text(), nullable=False),
        Column("name", Text(), nullable=False),
        Column("role", Text(), nullable=False),
        Column("prefix", Text(), nullable=False),
        Column("hash", Text(), nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("revoked_at", DateTime(timezone=True)),
        ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_api_keys_project_id"),
        PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_prefix", "api_keys", ["prefix"])


def _datasets() -> None:
    op.create_table(
        "datasets",
        Column("id", Text(), nullable=False),
        Column("project_id", Text(), nullable=False),
        Column("name", Text(), nullable=False),
        Column("filename", Text(), nullable=False),
        Column("purpose", Text(), nullable=False),
        Column("format", Text()),
        Column("columns", JSON_, nullable=False),
        Column("num_rows", BigInteger(), nullable=False),
        Column("size_bytes", BigInteger(), nullable=False),
        Column("digest", Text(), nullable=False),
        Column("uri", Text(), nullable=False),
        Column("status", Text(), nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_datasets_project_id"),
        PrimaryKeyConstraint("id", name="pk_datasets"),
    )
    op.create_index("ix_datasets_project_id_created_at_id", "datasets", ["project_id", "created_at", "id"])
    op.create_index("ix_datasets_project_id_name", "datasets", ["project_id", "name"])


def _deployments() -> None:
    op.create_table(
        "deployments",
        Column("id", Text(), nullable=False),
        Column("project_id", Text(), nullable=False),
        Column("name", Text(), nullable=False),
        Column("model_name", Text(), nullable=False),
        Column("spec", JSON_, nullable=False),
        Column("wanted", Text(), nullable=False),
        Column("generation", Integer(), nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_deployments_project_id"),
        PrimaryKeyConstraint("id", name="pk_deployments"),
    )
    op.create_index(
        "uq_deployments_running_name",
        "deployments",
        ["project_id", "name"],
        unique=True,
        sqlite_where=text("wanted = 'running'"),
        postgresql_where=text("wanted = 'running'"),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        Column("id", Text(), nullable=False),
        Column("project_id", Text(), nullable=False),
        Column("kind", Text(), nullable=False),
        Column("status", Text(), nullable=False),
        Column("wanted", Text(), nullable=False),
        Column("name", Text()),
        Column("priority", Integer(), nullable=False),
        Column("spec", JSON_, nullable=False),
        Column("requires", JSON_, nullable=False),
        Column("metadata", JSON_, nullable=False),
        Column("request", JSON_, nullable=False),
        Column("then", JSON_, nullable=False),
        Column("parent_id", Text()),
        Column("attempt", Integer(), nullable=False),
        Column("lost_attempts", Integer(), nullable=False),
        Column("worker_id", Text()),
        Column("phase", Text()),
        Column("progress", JSON_, nullable=False),
        Column("result", JSON_, nullable=False),
        Column("error", JSON_),
        Column("last_event", BigInteger(), nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("started_at", DateTime(timezone=True)),
        Column("finished_at", DateTime(timezone=True)),
        Column("owner", Text(), nullable=False),
        Column("num_devices", Integer(), nullable=False),
        Column("storage_id", Text()),
        Column("fingerprint", Text()),
        Column("idempotency_key", Text()),
        Column("body_digest", Text(), nullable=False),
        ForeignKeyConstraint(["parent_id"], ["jobs.id"], name="fk_jobs_parent_id"),
        ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_jobs_project_id"),
        PrimaryKeyConstraint("id", name="pk_jobs"),
        UniqueConstraint("project_id", "idempotency_key", name="uq_jobs_project_id_idempotency_key"),
    )
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"])
    op.create_index("ix_jobs_project_id_created_at_id", "jobs", ["project_id", "created_at", "id"])
    op.create_index("ix_jobs_project_id_fingerprint", "jobs", ["project_id", "fingerprint"])
    op.create_index("ix_jobs_status_kind", "jobs", ["status", "kind"])


def _attempts() -> None:
    op.create_table(
        "attempts",
        Column("job_id", Text(), nullable=False),
        Column("number", Integer(), autoincrement=False, nullable=False),
        Column("worker_id", Text(), nullable=False),
        Column("storage_id", Text()),
        Column("beat", BigInteger(), nullable=False),
        Column("events_offset", BigInteger(), nullable=False),
        Column("status", Text(), nullable=False),
        Column("reason", Text()),
        Column("started_at", DateTime(timezone=True), nullable=False),
        Column("ended_at", DateTime(timezone=True)),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id"),
        PrimaryKeyConstraint("job_id", "number", name="pk_attempts"),
    )


def _checkpoints() -> None:
    op.create_table(
        "checkpoints",
        Column("id", Text(), nullable=False),
        Column("job_id", Text(), nullable=False),
        Column("attempt", Integer(), nullable=False),
        Column("step", BigInteger(), nullable=False),
        Column("uri", Text(), nullable=False),
        Column("digest", Text(), nullable=False),
        Column("size_bytes", BigInteger(), nullable=False),
        Column("metrics", JSON_, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_checkpoints_job_id"),
        PrimaryKeyConstraint("id", name="pk_checkpoints"),
        UniqueConstraint("job_id", "attempt", "step", name="uq_checkpoints_job_id_attempt_step"),
    )


def _events() -> None:
    op.create_table(
        "events",
        Column("job_id", Text(), nullable=False),
        Column("number", BigInteger(), autoincrement=False, nullable=False),
        Column("attempt", Integer(), nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("level", Text(), nullable=False),
        Column("type", Text(), nullable=False),
        Column("message", Text(), nullable=False),
        Column("data", JSON_, nullable=False),
        Column("superseded", Boolean(), nullable=False),
        Column("step", BigInteger()),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id"),
        PrimaryKeyConstraint("job_id", "number", name="pk_events"),
    )


def _job_labels() -> None:
    op.create_table(
        "job_labels",
        Column("job_id", Text(), nullable=False),
        Column("label", Text(), nullable=False),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_labels_job_id"),
        PrimaryKeyConstraint("job_id", "label", name="pk_job_labels"),
    )


def _job_secrets() -> None:
    op.create_table(
        "job_secrets",
        Column("job_id", Text(), nullable=False),
        Column("name", Text(), nullable=False),
        Column("value", Text(), nullable=False),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_secrets_job_id"),
        PrimaryKeyConstraint("job_id", "name", name="pk_job_secrets"),
    )


def _models() -> None:
    op.create_table(
        "models",
        Column("id", Text(), nullable=False),
        Column("project_id", Text(), nullable=False),
        Column("name", Text(), nullable=False),
        Column("kind", Text(), nullable=False),
        Column("base_model", Text()),
        Column("job_id", Text()),
        Column("uri", Text(), nullable=False),
        Column("digest", Text(), nullable=False),
        Column("size_bytes", BigInteger(), nullable=False),
        Column("format", Text(), nullable=False),
        Column("template", Text()),
        Column("config", JSON_, nullable=False),
        Column("metadata", JSON_, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_models_job_id"),
        ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_models_project_id"),
        PrimaryKeyConstraint("id", name="pk_models"),
        UniqueConstraint("project_id", "name", name="uq_models_project_id_name"),
    )


def _replicas() -> None:
    op.create_table(
        "replicas",
        Column("id", Text(), nullable=False),
        Column("deployment_id", Text(), nullable=False),
        Column("ordinal", Integer(), nullable=False),
        Column("served_name", Text(), nullable=False),
        Column("status", Text(), nullable=False),
        Column("wanted", Text(), nullable=False),
        Column("generation", Integer(), nullable=False),
        Column("attempt", Integer(), nullable=False),
        Column("beat", BigInteger(), nullable=False),
        Column("worker_id", Text()),
        Column("storage_id", Text()),
        Column("url", Text()),
        Column("api_key", Text()),
        Column("load", Float(), nullable=False),
        Column("error", Text()),
        Column("log_tail", Text()),
        Column("num_failures", Integer(), nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        ForeignKeyConstraint(["deployment_id"], ["deployments.id"], name="fk_replicas_deployment_id"),
        PrimaryKeyConstraint("id", name="pk_replicas"),
        UniqueConstraint("deployment_id", "ordinal", name="uq_replicas_deployment_id_ordinal"),
    )
    op.create_index("ix_replicas_status", "replicas", ["status"])
