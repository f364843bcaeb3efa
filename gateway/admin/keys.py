"""API keys on the server: made, listed and revoked in the ledger itself, so that the first one needs no key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from sqlalchemy.exc import DBAPIError

from gateway.cli import show
from shared.errors import TunesmithError
from shared.settings import Settings
from shared.store import Store


class LedgerUnusable(TunesmithError):
    """The ledger cannot be used."""


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """The ledger. Raises LedgerUnusable when it has no tables yet or cannot be reached."""
    store = Store(settings.database_url)
    try:
        yield store
    except DBAPIError as error:
        raise LedgerUnusable(
            f"the ledger cannot be used ({error.orig}): run `tunesmith migrate` if it is new, else see "
            "TUNESMITH_DATABASE_URL"
        ) from error
    finally:
        store.close()


def create(store: Store, console: Console, name: str, role: str, share: float = 1.0) -> int:
    """The secret goes to standard output alone, so that a script can take it."""
    _, secret = store.keys.create(store.projects.default().id, name, role, share=share)
    console.out(secret, highlight=False)
    return 0


def take_over(store: Store, console: Console, name: str, role: str, file: Path) -> int:
    """A key whose secret was made elsewhere, for services that start by themselves. Done before: nothing happens."""
    secret = file.read_text().strip()
    if store.keys.authenticate(secret) is None:
        store.keys.create(store.projects.default().id, name, role, secret=secret)
    console.print(f"{name} is known")
    return 0


def revoke(store: Store, console: Console, key_id: str) -> int:
    store.keys.revoke(store.projects.default().id, key_id)
    console.print(f"revoked {key_id}")
    return 0


def show_all(store: Store, console: Console, as_json: bool) -> int:
    keys = store.keys.list(store.projects.default().id)
    if as_json:
        show.as_json(
            console,
            [
                {"id": key.id, "name": key.name, "role": key.role, "prefix": key.prefix, "share": key.share}
                for key in keys
            ],
        )
        return 0
    rows = [(key.id, key.name, key.role, f"{key.share:g}", f"{key.prefix}...") for key in keys]
    show.table(console, ("id", "name", "role", "share", "key"), rows, "no keys")
    return 0
