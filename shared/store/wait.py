"""`python -m shared.store.wait [--reach]`: ends when the ledger is of this version; for what starts beside a migration.

With `--reach` it ends as soon as the ledger answers: before the migration itself. Changes nothing.
"""

from __future__ import annotations

import logging
import sys
import time

from sqlalchemy.exc import DBAPIError

from shared import logs
from shared.settings import Settings
from shared.store.engine import Database
from shared.store.migrate import schema

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
#: How often it is told what is waited for.
TELL_SECONDS = 15.0


def missing(database: Database, *, reach: bool = False) -> str | None:
    """What is still to come; None: nothing."""
    try:
        found = schema(database)
    except DBAPIError as error:
        return f"the ledger does not answer ({error.orig})"
    if reach or not found.is_behind:
        return None
    return f"the ledger is at revision {found.current} and this version wants {found.head}: `tunesmith migrate`"


def main(settings: Settings, *, reach: bool) -> None:
    database = Database(settings.database_url)
    told = float("-inf")
    while why := missing(database, reach=reach):
        if time.monotonic() - told > TELL_SECONDS:
            log.info("Waiting: %s", why)
            told = time.monotonic()
        time.sleep(POLL_SECONDS)
    database.close()


if __name__ == "__main__":
    own = Settings.from_env()
    logs.configure("wait", own.log_level)
    main(own, reach="--reach" in sys.argv[1:])
