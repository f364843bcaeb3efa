"""Whether this gateway can do its work, and what is missing: what must be there, and what is only told.

Without ledger, tables and storage nothing can be answered: requests belong elsewhere. Without broker, beat or workers
they are answered and jobs wait: a probe that failed for it would take the API away as well, and with it the place where
one sees why. Whoever asks has no key, so nothing here says more than what to do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from gateway.admin.services import without_workers
from gateway.patience import DRAIN, Drain
from gateway.services import Services
from shared import volumes
from shared.metrics.ledger import SILENT_SECONDS
from shared.queue import HOUSEKEEPING
from shared.records import Worker
from shared.settings import InvalidSetting

log = logging.getLogger(__name__)

#: A beat that did not sweep for so many intervals is gone, or hangs.
LATE_SWEEPS = 6


@dataclass(frozen=True, kw_only=True)
class Readiness:
    #: What must be there and is not: its name, and what to do.
    missing: Mapping[str, str]
    #: What lacks besides.
    warnings: Mapping[str, str]

    @property
    def is_ready(self) -> bool:
        return not self.missing

    def as_dict(self) -> dict[str, Any]:
        status = "ready" if self.is_ready else "unready"
        told = {"status": status, "missing": dict(self.missing), "warnings": dict(self.warnings)}
        return told | {"broker": "broker" not in self.warnings}


class Checks:
    """All that is looked at."""

    def __init__(self, services: Services):
        self._services = services

    def look(self, environ: Mapping[str, Any]) -> Readiness:
        """`environ`: of the request that asks, whose server may be about to end."""
        missing = self._why({"ledger": self._ledger, "artifacts": self._artifacts, "run_dir": self._run_dir})
        if (drain := environ.get(DRAIN)) is not None and isinstance(drain, Drain) and drain.ends_at is not None:
            missing["gateway"] = "this gateway is shutting down"
        if "ledger" not in missing:
            missing |= self._why({"migrations": self._behind})
        looks = {"broker": self._broker, "disk": self._disk}
        if "ledger" not in missing and "migrations" not in missing:
            looks |= {"schema": self._ahead, "beat": self._beat, "workers": self._workers, "versions": self._versions}
        return Readiness(missing=missing, warnings=self._why(looks))

    def _why(self, looks: Mapping[str, Callable[[], str]]) -> dict[str, str]:
        found = {}
        for name, look in looks.items():
            try:
                why = look()
            except Exception as error:  # a probe: whatever is wrong, the answer is that it is
                log.warning("The check of %s failed: %s", name, error)
                why = f"the check failed ({type(error).__name__}): see the gateway's log"
            if why:
                found[name] = why
        return found

    def _ledger(self) -> str:
        try:
            self._services.store.ping()
        except InvalidSetting as error:
            return error.message
        except Exception as error:  # as above
            log.warning("The ledger does not answer: %s", error)
            return f"the ledger does not answer ({type(error).__name__}): is its database up, its address right?"
        return ""

    def _behind(self) -> str:
        there = self._services.store.schema()
        return there.lacks if there.is_behind else ""

    def _ahead(self) -> str:
        there = self._services.store.schema()
        if there.current == there.head:
            return ""
        return f"the ledger was migrated by a newer version ({there.current}): update this service, too"

    def _artifacts(self) -> str:
        try:
            self._services.storage_probe.check(self._services.artifacts)
        except Exception as error:  # as above
            log.warning("The storage cannot be written: %s", error)
            return f"the storage cannot be written ({type(error).__name__}): is it there, full, or somebody else's?"
        return ""

    def _run_dir(self) -> str:
        """Uploads go there first."""
        try:
            self._services.settings.run_dir.mkdir(parents=True, exist_ok=True)
            probe = self._services.settings.run_dir / f".probe-{threading.get_ident()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            return f"the folder of TUNESMITH_RUN_DIR cannot be written ({error.strerror})"
        return ""

    def _broker(self) -> str:
        if self._services.queue.depth(HOUSEKEEPING) is not None:
            return ""
        return "the broker does not answer: jobs are kept, and begin when it is back"

    def _disk(self) -> str:
        settings = self._services.settings
        volume = volumes.fullest([settings.run_dir, *filter(None, [self._services.artifacts.root])])
        return f"{volume}: nothing more can be kept" if volume is not None and volume.is_full else ""

    def _beat(self) -> str:
        age = self._services.store.sweeps.age_seconds()
        late = LATE_SWEEPS * self._services.settings.sweep_seconds
        if age is not None and age < max(late, self._services.settings.lease_seconds):
            return ""
        since = "since the ledger was made" if age is None else f"for {age:.0f} s"
        return f"beat has not swept {since}: jobs of lost workers stay where they are. Start exactly one beat"

    def _alive(self) -> list[Worker]:
        return [one for one in self._services.store.workers.list() if one.age_seconds < SILENT_SECONDS]

    def _workers(self) -> str:
        lacking = without_workers(self._alive())
        if not lacking:
            return ""
        start = ", ".join(dict.fromkeys(lacking.values()))
        return f"nobody works on {', '.join(lacking)}: such work waits until a worker is started ({start})"

    def _versions(self) -> str:
        ours = version("tunesmith")
        others = sorted({f"{one.id} {one.version}" for one in self._alive() if one.version != ours})
        return f"this gateway is {ours}; others are not: {', '.join(others)}" if others else ""
