"""What `tunesmith backup` and `tunesmith restore` do and say."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
from rich.console import Console
from rich.markup import escape

from gateway.admin import home, keys
from gateway.admin.backup import make, restore
from gateway.admin.backup.hold import Say
from gateway.admin.backup.place import Backup, Place
from gateway.cli import show
from shared.artifact import ArtifactStore
from shared.errors import TunesmithError
from shared.settings import Settings
from shared.store import Store

INCOMPLETE = 1
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class BrokenOff(TunesmithError):
    """A disk or an object store refused."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    store: Store
    artifacts: ArtifactStore
    place: Place
    scratch: Path


@contextmanager
def _telling(what: str, url: str) -> Iterator[None]:
    """What to do about a full disk, wrong keys, a server that is away. Raises BrokenOff"""
    try:
        yield
    except (OSError, BotoCoreError) as refused:
        if isinstance(refused, OSError) and refused.errno in FULL:
            advice = f"make room in {url}, and in TUNESMITH_RUN_DIR and TUNESMITH_STORAGE_URL"
        elif isinstance(refused, PermissionError) and "://" not in url:
            owner = os.getuid()
            advice = (
                f"it runs as user {owner}, who must own the folder (in a container: the one that is mounted there): "
            )
            advice += f"`chown -R {owner} FOLDER`"
        else:
            advice = f"see that {url} is there and may be used, for S3 with the keys and AWS_ENDPOINT_URL given here"
        raise BrokenOff(
            f"the {what} broke off ({type(refused).__name__}: {refused}): {advice}; done again, it goes on from there"
        ) from refused


@contextmanager
def opened(settings: Settings, url: str, what: str) -> Iterator[Opened]:
    with _telling(what, url), keys.opened(settings) as store, make.scratch(settings) as scratch:
        artifacts = ArtifactStore(settings.storage_url, settings.run_dir / "cache")
        yield Opened(store=store, artifacts=artifacts, place=Place(url), scratch=scratch)


def back_up(
    settings: Settings, console: Console, url: str, *, keep: int | None, with_secrets: bool, as_json: bool
) -> int:
    """1 when files that records name are not there: the rest is saved."""
    say = _sayer(console, as_json)
    with opened(settings, url, "backup") as at, at.place.held(say):
        made = make.make(at.store, at.artifacts, at.place, at.scratch, say, with_secrets=with_secrets)
        gone = make.prune(at.place, keep, at.scratch, like=made) if keep else (0, 0)
    if as_json:
        show.as_json(console, asdict(made))
    else:
        _tell(console, made, gone)
    return INCOMPLETE if made.missing else 0


def show_all(console: Console, url: str, *, as_json: bool) -> int:
    with _telling("list", url):
        backups = Place(url).backups()
    if as_json:
        show.as_json(console, [asdict(backup) for backup in backups])
        return 0
    rows = [
        (backup.id, show.moment(backup.created_at), backup.version, sum(backup.tables.values()), backup.num_artifacts,
         show.size(backup.size_bytes), show.size(backup.new_bytes), "no" if backup.missing else "yes")
        for backup in backups
    ]  # fmt: skip
    columns = ("backup", "made", "version", "rows", "artifacts", "size", "new", "whole")
    show.table(console, columns, rows, f"no backups in {url}")
    return 0


def check(settings: Settings, console: Console, url: str, id: str | None) -> int:
    with _telling("check", url), make.scratch(settings) as scratch:
        place = Place(url)
        backup = place.backup(id)
        size = make.check(place, backup, scratch)
    console.print(f"backup {backup.id} is whole: {sum(backup.tables.values())} rows, {show.size(size)} of files read")
    return 0


def bring_back(settings: Settings, console: Console, url: str, id: str | None, *, as_json: bool) -> int:
    with opened(settings, url, "restore") as at, ExitStack() as stack:
        if at.store.database.is_sqlite:
            stack.enter_context(home.hold(settings.home))  # no platform runs on this file meanwhile
        backup = at.place.backup(id)
        say = _sayer(console, as_json)
        written = restore.restore(at.store, at.artifacts, at.place, backup, at.scratch, say)
    if as_json:
        show.as_json(console, {"backup": backup.id, "tables": backup.tables, "artifacts_written": written})
        return 0
    console.print(
        f"[green]restored[/] backup {backup.id} of {show.moment(backup.created_at)}: {sum(backup.tables.values())} "
        f"rows, {backup.num_artifacts} artifacts ({written} written, {backup.num_artifacts - written} were there)"
    )
    console.print("Jobs that ran go on from their checkpoints once workers start. API keys are those of the backup.")
    console.print(
        "Those made here before are gone, Prometheus' too: `up`, compose and the chart make it anew at their start."
    )
    return 0


def _tell(console: Console, made: Backup, gone: tuple[int, int]) -> None:
    console.print(
        f"[green]backup {made.id}[/]: {sum(made.tables.values())} rows, {made.num_artifacts} artifacts of "
        f"{show.size(made.size_bytes)}, {show.size(made.new_bytes)} of them new; written files read again"
    )
    if any(gone):
        console.print(f"let go: {gone[0]} older backups, {gone[1]} files")
    for uri in made.missing:
        console.print(f"[red]missing[/] {escape(uri)}: a record names it, and its files are gone or damaged")


def _sayer(console: Console, is_quiet: bool) -> Say:
    def say(text: str) -> None:
        if not is_quiet:
            console.print(f"[dim]{escape(text)}[/]", soft_wrap=True)

    return say
