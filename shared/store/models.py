"""The catalog's rows: base models, adapters, merged and quantized models, by a name that is unique in its project."""

from __future__ import annotations

from sqlalchemy import Connection, and_, delete, insert, or_, select

from shared.errors import Conflict
from shared.ids import new_id
from shared.records import Model, NewModel
from shared.store.checkpoints import as_model
from shared.store.columns import now, record
from shared.store.discarded import adopt
from shared.store.engine import Database
from shared.store.moves import lock_project
from shared.store.names import check_name
from shared.store.paging import one
from shared.store.tables import deployments, models, replicas


class Models:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, project_id: str, new: NewModel) -> Model:
        check_name(new.name)
        with self._database.write() as connection:
            lock_project(connection, project_id)
            if model_is_taken(connection, project_id, new.name):
                raise Conflict("There is a model {name!r} in this project already", field="name", name=new.name)
            return insert_model(connection, project_id, new)

    def get(self, project_id: str, name: str) -> Model:
        """Also a checkpoint, by its name or id: whatever takes a model takes it."""
        query = select(models).where(models.c.project_id == project_id, models.c.name == name)
        with self._database.read() as connection:
            return as_model(connection, project_id, name) or record(Model, one(connection, query, f"model {name!r}"))

    def list(self, project_id: str, *, kind: str | None = None) -> list[Model]:
        """Oldest first."""
        query = select(models).where(models.c.project_id == project_id).order_by(models.c.created_at, models.c.id)
        query = query if kind is None else query.where(models.c.kind == kind)
        with self._database.read() as connection:
            return [record(Model, row) for row in connection.execute(query).mappings()]

    def delete(self, project_id: str, name: str) -> Model:
        """The deleted record, so that its files can go too. Raises: Conflict while it is deployed or is a base."""
        with self._database.write() as connection:
            lock_project(connection, project_id)
            query = select(models).where(models.c.project_id == project_id, models.c.name == name)
            model = record(Model, one(connection, query, f"model {name!r}"))
            if user := _live_deployment(connection, project_id, name) or _adapter_on(connection, project_id, name):
                raise Conflict("Model {name!r} is in use by {user}: delete that first", name=name, user=user)
            connection.execute(delete(models).where(models.c.id == model.id))
            return model


def insert_model(connection: Connection, project_id: str, new: NewModel) -> Model:
    model = Model(**vars(new), id=new_id("model-"), project_id=project_id, created_at=now())
    connection.execute(insert(models).values(vars(model)))
    adopt(connection, [model.uri])
    return model


def model_is_taken(connection: Connection, project_id: str, name: str) -> bool:
    query = select(1).where(models.c.project_id == project_id, models.c.name == name)
    return connection.execute(query).first() is not None


def _live_deployment(connection: Connection, project_id: str, name: str) -> str | None:
    """A deployment that serves the model, or whose last replicas still do."""
    still = select(replicas.c.deployment_id).where(replicas.c.status != "stopped")
    live = or_(deployments.c.wanted == "running", deployments.c.id.in_(still))
    query = select(deployments.c.name).where(
        and_(deployments.c.project_id == project_id, deployments.c.model_name == name, live)
    )
    found = connection.execute(query.limit(1)).scalar()
    return None if found is None else f"deployment {found!r}"


def _adapter_on(connection: Connection, project_id: str, name: str) -> str | None:
    """An adapter is nothing without its base."""
    query = select(models.c.name).where(
        models.c.project_id == project_id, models.c.kind == "adapter", models.c.base_model == name
    )
    found = connection.execute(query.limit(1)).scalar()
    return None if found is None else f"adapter {found!r}"
