"""The catalog's rows: base models, adapters, merged and quantized models, by a name that is unique in its project.

A model is a version of its family, which is the name that was asked for; where it was taken, the name got a number.
`family@3`, `family@latest` and `family@alias` mean one of the versions, wherever a model is named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, or_, select, update

from shared.errors import Conflict, NotFound
from shared.ids import new_id
from shared.records import Model, NewModel
from shared.store.checkpoints import as_model, on_base
from shared.store.columns import now, record
from shared.store.discarded import adopt, discard
from shared.store.engine import Database
from shared.store.moves import lock_project
from shared.store.names import check_name, fitting
from shared.store.paging import one
from shared.store.tables import deployments, families, models, replicas

#: Divides a family from what says which of its versions.
AT = "@"
LATEST = "latest"


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
        """Also a checkpoint, by its name or id, and a version of a family: whatever takes a model takes it."""
        with self._database.read() as connection:
            found = find_model(connection, project_id, name)
        if found is None:
            raise NotFound("There is no {what} in this project", what=f"model {name!r}")
        return found

    def by_id(self, project_id: str, id: str) -> Model | None:
        """Also a checkpoint; None: it is deleted."""
        query = select(models).where(models.c.project_id == project_id, models.c.id == id)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
            return record(Model, row) if row else as_model(connection, project_id, id)

    def list(self, project_id: str, **members: str) -> list[Model]:
        """Oldest first; those with these members (kind, family, base_model, parent_id)."""
        wanted = [models.c[name] == value for name, value in members.items()]
        query = select(models).where(models.c.project_id == project_id, *wanted)
        with self._database.read() as connection:
            found = connection.execute(query.order_by(models.c.created_at, models.c.id)).mappings()
            return [record(Model, row) for row in found]

    def update(
        self,
        project_id: str,
        name: str,
        *,
        aliases: Collection[str] | None = None,
        tags: Collection[str] | None = None,
        metadata: Mapping[str, str | None] | None = None,
    ) -> Model:
        """Aliases and tags as given, the aliases taken from its siblings; of the metadata what is given, None: gone."""
        with self._database.write() as connection:
            lock_project(connection, project_id)
            query = select(models).where(models.c.project_id == project_id, models.c.name == name)
            model = record(Model, one(connection, query, f"model {name!r}"))
            changed: dict[str, Any] = {}
            if aliases is not None:
                changed["aliases"] = sorted(set(aliases))
                _take(connection, model, set(aliases))
            if tags is not None:
                changed["tags"] = sorted(set(tags))
            if metadata is not None:
                merged = {**model.metadata, **metadata}
                changed["metadata"] = {key: text for key, text in merged.items() if text is not None}
            if changed:
                connection.execute(update(models).where(models.c.id == model.id).values(changed))
            return record(Model, one(connection, query, f"model {name!r}"))

    def delete(self, project_id: str, name: str, storage_id: str | None = None) -> Model:
        """The deleted record; its files, in the storage of this id, may go. Raises: Conflict while it is in use"""
        with self._database.write() as connection:
            lock_project(connection, project_id)
            query = select(models).where(models.c.project_id == project_id, models.c.name == name)
            model = record(Model, one(connection, query, f"model {name!r}"))
            if users := ", ".join(_users(connection, project_id, name)):
                raise Conflict("Model {name!r} is in use by {user}: delete that first", name=name, user=users)
            connection.execute(delete(models).where(models.c.id == model.id))
            if storage_id is not None:
                discard(connection, [model.uri], storage_id)
            return model


def find_model(connection: Connection, project_id: str, name: str) -> Model | None:
    query = select(models).where(models.c.project_id == project_id)
    if (found := as_model(connection, project_id, name)) is not None:
        return found
    if (row := connection.execute(query.where(models.c.name == name)).mappings().first()) is not None:
        return record(Model, row)
    family, at, word = name.rpartition(AT)
    if not at:
        return None
    query = query.where(models.c.family == family).order_by(models.c.version.desc())
    versions = [record(Model, row) for row in connection.execute(query).mappings()]
    return next((one for one in versions if word in (LATEST, str(one.version), *one.aliases)), None)


def insert_model(connection: Connection, project_id: str, new: NewModel) -> Model:
    family = fitting(new.family or new.name)
    source = new.config.get("parent") or new.base_model
    parent = find_model(connection, project_id, source) if source else None
    model = Model(
        **vars(new) | {"family": family},
        id=new_id("model-"),
        project_id=project_id,
        created_at=now(),
        version=_next_version(connection, project_id, family),
        parent_id=parent.id if parent else None,
    )
    connection.execute(insert(models).values(vars(model)))
    adopt(connection, [model.uri])
    return model


def model_is_taken(connection: Connection, project_id: str, name: str) -> bool:
    query = select(1).where(models.c.project_id == project_id, models.c.name == name)
    return connection.execute(query).first() is not None


def _next_version(connection: Connection, project_id: str, family: str) -> int:
    """The caller holds the project's row."""
    its = and_(families.c.project_id == project_id, families.c.name == family)
    last = connection.execute(select(families.c.last_version).where(its)).scalar()
    if last is None:
        connection.execute(insert(families).values(project_id=project_id, name=family, last_version=1))
        return 1
    connection.execute(update(families).where(its).values(last_version=last + 1))
    return int(last) + 1


def _take(connection: Connection, model: Model, aliases: Collection[str]) -> None:
    """An alias means one version of a family."""
    siblings = select(models.c.id, models.c.aliases).where(
        models.c.project_id == model.project_id, models.c.family == model.family, models.c.id != model.id
    )
    for sibling, had in list(connection.execute(siblings)):
        kept = [alias for alias in had if alias not in aliases]
        if kept != had:
            connection.execute(update(models).where(models.c.id == sibling).values(aliases=kept))


def _users(connection: Connection, project_id: str, name: str) -> Iterator[str]:
    """Deployments that serve the model, or whose last replicas still do; what is nothing without its base."""
    running = replicas.c.status != "stopped"
    live = or_(deployments.c.wanted == "running", deployments.c.id.in_(select(replicas.c.deployment_id).where(running)))
    # In an update, what serves until the new generation does.
    serving = select(replicas.c.deployment_id).where(running, replicas.c.model_name == name)
    before = deployments.c.rollout["before"]["model_name"].as_string() == name
    its = or_(deployments.c.model_name == name, deployments.c.id.in_(serving), before)
    query = select(deployments.c.name).where(and_(deployments.c.project_id == project_id, its, live))
    yield from (f"deployment {found!r}" for found in connection.execute(query).scalars())
    beside = select(models.c.name).where(
        models.c.project_id == project_id, models.c.kind == "adapter", models.c.base_model == name
    )
    yield from (f"adapter {found!r}" for found in connection.execute(beside).scalars())
    yield from (f"checkpoint {found!r}" for found in on_base(connection, project_id, name))
