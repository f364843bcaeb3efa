"""Projects and their API keys. A key's secret is shown once and kept as its sha256: it is 256 random bits, so a slow
hash would only slow every request down.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from shared.errors import Complaint, Conflict, InvalidRequest
from shared.ids import new_id
from shared.records import ApiKey, Project
from shared.store.columns import now, record
from shared.store.engine import Database
from shared.store.moves import lock_project
from shared.store.names import check_name
from shared.store.paging import one
from shared.store.tables import api_keys, projects
from shared.tongues import Text

ROLES = ("admin", "user", "viewer")
DEFAULT_PROJECT = "default"
SECRET_PREFIX = "ts-"
#: How much of a secret is kept in the open: enough to tell keys apart and to find the row.
PREFIX_CHARACTERS = 11


MIN_SHARE, MAX_SHARE = 0.01, 100.0
#: Of a secret made elsewhere: shorter ones can be guessed.
MIN_SECRET_CHARACTERS = 32


class Projects:
    def __init__(self, database: Database) -> None:
        self._database = database

    def default(self) -> Project:
        """The project of whoever has not made one; made when it is not there yet."""
        try:
            return self._named(DEFAULT_PROJECT) or self.create(DEFAULT_PROJECT)
        except Conflict:  # another process was faster
            return self._named(DEFAULT_PROJECT) or self.create(DEFAULT_PROJECT)

    def create(self, name: str, *, share: float = 1.0) -> Project:
        check_name(name)
        project = Project(id=new_id("proj-"), name=name, created_at=now(), share=_checked(share))
        try:
            with self._database.write() as connection:
                connection.execute(insert(projects).values(vars(project)))
        except IntegrityError as error:
            raise Conflict("There is a project {name!r} already", field="name", name=name) from error
        return project

    def list(self) -> list[Project]:
        with self._database.read() as connection:
            query = select(projects).order_by(projects.c.created_at, projects.c.id)
            return [record(Project, row) for row in connection.execute(query).mappings()]

    def _named(self, name: str) -> Project | None:
        with self._database.read() as connection:
            row = connection.execute(select(projects).where(projects.c.name == name)).mappings().first()
            return record(Project, row) if row else None


class Keys:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, project_id: str, name: str, role: str, *, secret: str | None = None, share: float = 1.0
    ) -> tuple[ApiKey, str]:
        """The key's record and its secret, which nobody can look up later; `secret` is one made elsewhere, `share` what
        it gets of the devices when others want them too, relative to theirs."""
        if role not in ROLES:
            message = Text("role is {role!r}: use one of {allowed}", role=role, allowed=", ".join(ROLES))
            raise InvalidRequest(message, complaints=[Complaint(field="role", message=message)])
        secret = SECRET_PREFIX + secrets.token_urlsafe(32) if secret is None else secret
        if not secret.startswith(SECRET_PREFIX) or len(secret) < MIN_SECRET_CHARACTERS:
            raise InvalidRequest(
                "a secret begins with {prefix} and has {least} characters or more",
                prefix=SECRET_PREFIX,
                least=MIN_SECRET_CHARACTERS,
            )
        key = ApiKey(
            id=new_id("key-"),
            project_id=project_id,
            name=name,
            role=role,
            prefix=secret[:PREFIX_CHARACTERS],
            created_at=now(),
            share=_checked(share),
        )
        with self._database.write() as connection:
            lock_project(connection, project_id)
            connection.execute(insert(api_keys).values(**vars(key), hash=_hash(secret)))
        return key, secret

    def authenticate(self, secret: str) -> ApiKey | None:
        """The key of this secret; None when there is none or it was revoked."""
        query = select(api_keys).where(api_keys.c.prefix == secret[:PREFIX_CHARACTERS], api_keys.c.revoked_at.is_(None))
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        given = _hash(secret)
        # compare_digest: how long it takes must not tell how much of a guess was right.
        return next((record(ApiKey, row) for row in rows if hmac.compare_digest(row["hash"], given)), None)

    def valid(self, ids: Collection[str]) -> dict[str, ApiKey]:
        """By id, those of these keys that open something."""
        query = select(api_keys).where(api_keys.c.id.in_(ids), api_keys.c.revoked_at.is_(None))
        with self._database.read() as connection:
            return {row["id"]: record(ApiKey, row) for row in connection.execute(query).mappings()}

    def revoke(self, project_id: str, key_id: str) -> ApiKey:
        """From now on the key opens nothing. A revoked key stays as it is."""
        mine = (api_keys.c.project_id == project_id, api_keys.c.id == key_id)
        with self._database.write() as connection:
            first = update(api_keys).where(*mine, api_keys.c.revoked_at.is_(None))
            connection.execute(first.values(revoked_at=now()))
            return record(ApiKey, one(connection, select(api_keys).where(*mine), f"key {key_id!r}"))

    def list(self, project_id: str) -> list[ApiKey]:
        query = select(api_keys).where(api_keys.c.project_id == project_id)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(api_keys.c.created_at, api_keys.c.id)).mappings()
            return [record(ApiKey, row) for row in rows]


def _checked(share: float) -> float:
    if not MIN_SHARE <= share <= MAX_SHARE:
        message = Text(
            "share is {share}: use a number from {low} to {high}", share=share, low=MIN_SHARE, high=MAX_SHARE
        )
        raise InvalidRequest(message, complaints=[Complaint(field="share", message=message)])
    return share


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
