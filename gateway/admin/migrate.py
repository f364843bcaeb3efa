"""`tunesmith migrate`: the ledger's tables, brought to this version."""

from __future__ import annotations

from rich.console import Console

from gateway.admin.keys import opened
from shared.settings import Settings


def run(settings: Settings, console: Console) -> int:
    with opened(settings) as store:
        store.migrate()
    console.print("the ledger is up to date")
    return 0
