"""`tunesmith datasets import DIR`: every file that a `dataset_info.json` describes, uploaded with its description.

What cannot be uploaded (a folder, a dataset on a hub, a refused file) is told, and the others go on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from gateway.cli.client import ApiError, Client
from shared import datasetinfo
from shared.errors import InvalidDataset


def run(client: Client, console: Console, folder: Path) -> int:
    """How many datasets failed that should have been uploaded. Raises InvalidDataset for an unreadable description."""
    entries = datasetinfo.read(folder / datasetinfo.FILE_NAME)
    made = failed = 0
    for name, given in entries.items():
        try:
            file = _file(folder, name, given)
            fields = {"name": name, "dataset_info": json.dumps(given)}
            dataset = client.upload("/v1/datasets", file, fields)
        except _Skipped as skipped:
            console.print(f"{name}: left out, {skipped}", soft_wrap=True, markup=False)
        except (InvalidDataset, ApiError) as error:
            if isinstance(error, ApiError) and error.status in (401, 403):
                raise
            failed += 1
            console.print(f"{name}: refused, {error}", soft_wrap=True, markup=False)
        else:
            made += 1
            told = f"{dataset['num_rows']} rows, {dataset['kind']}"
            console.print(f"{name}: {dataset['id']}, {told}", soft_wrap=True, markup=False)
    console.print(f"{made} uploaded, {failed} refused, {len(entries) - made - failed} left out")
    return failed


class _Skipped(Exception):
    """The entry describes nothing that can be uploaded from here."""


def _file(folder: Path, name: str, given: Any) -> Path:
    entry = datasetinfo.parse(name, given)
    if entry.file_name is None:
        raise _Skipped(f"it is {entry.hub_id} on the Hub: name that in a job")
    file = folder / entry.file_name
    if file.is_dir():
        raise _Skipped("it is a folder: copy it below an import root of the server")
    if not file.is_file():
        raise _Skipped(f"{entry.file_name} is not there")
    return file
