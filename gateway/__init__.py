"""The HTTP service: native API, the OpenAI-compatible view on the same records, and the page.

It validates, records and answers. It runs no job and loads no model: workers do, told by the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from shared.settings import Settings
    from shared.store import Store


def create_app(settings: Settings, store: Store | None = None) -> Flask:
    """The WSGI app. Opens nothing: ledger, broker and artifacts are reached by the first request that needs them."""
    # Imported here: the command line lives in this package and starts without flask.
    from gateway import factory

    return factory.create_app(settings, store)
