"""`python -m shared.inspection`: one dataset file looked at in a process of its own.

For files whose readers are native code, which a broken file can bring down or fill the memory with, and for large ones,
which would keep a gateway's other threads waiting for minutes. Order and answer are one JSON object each.
"""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared import dataset, reading
from shared.datasetinfo import Description, refused
from shared.errors import Complaint, InvalidDataset, TunesmithError
from shared.layout import Layout

log = logging.getLogger(__name__)

#: Address space, bytes: a record batch of Arrow is held whole, all else row by row.
MAX_MEMORY_BYTES = 2 * 1024**3
#: Seconds of computing for each byte; text takes about 1/20 of it, Parquet unpacks to a multiple of itself.
SECONDS_PER_BYTE = 1e-6
MIN_SECONDS = 20
#: Text files up to here are looked at where the request is: a process takes 0.3 s to start.
SMALL_BYTES = 2 * 1024**2
#: Exit codes: Python's own of an error that nobody expected, and ours.
FAILED, OUT_OF_MEMORY = 1, 3


def is_small(path: Path, filename: str) -> bool:
    """Whether `dataset.inspect` may look at it where the request is. Raises InvalidDataset."""
    return dataset.container_of(path, filename) in reading.READERS and path.stat().st_size <= SMALL_BYTES


def inspect(path: Path, description: Description, *, filename: str) -> dataset.Report:
    """As dataset.inspect, in a process of its own. Raises InvalidDataset."""
    seconds = MIN_SECONDS + int(SECONDS_PER_BYTE * path.stat().st_size)
    order = {"path": str(path), "filename": filename, "seconds": seconds, "described": vars(description)}
    command = [sys.executable, "-P", "-m", "shared.inspection"]
    done = subprocess.run(command, input=json.dumps(order).encode(), capture_output=True, check=False)
    if done.returncode == FAILED:
        log.error("An upload could not be looked at", extra={"stderr": done.stderr.decode(errors="replace")[-4000:]})
        raise TunesmithError("the file could not be looked at: the server's log says why")
    if done.returncode:  # ended by a signal: native code gave up, or the limit of memory or time was reached
        message = "takes more memory or time than its size allows: write it in smaller batches, or as JSONL"
        raise refused("file", message, "too_costly")
    return _answered(json.loads(done.stdout))


def _answered(answer: Mapping[str, Any]) -> dataset.Report:
    if "message" in answer:
        complaints = [Complaint(**complaint) for complaint in answer["complaints"]]
        raise InvalidDataset(answer["message"], field=answer["field"], complaints=complaints)
    layout = Layout.from_record(answer["format"], answer["reading"])
    told = {name: answer["reading"][name] for name in ("container", "num_samples")}
    return dataset.Report(layout=layout, num_rows=answer["num_rows"], **told)


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (order["seconds"], order["seconds"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    described = Description(**order["described"])
    try:
        report = dataset.inspect(Path(order["path"]), described, filename=order["filename"])
        answer = {"format": report.layout.format, "reading": report.as_record(), "num_rows": report.num_rows}
    except InvalidDataset as error:
        complaints = [complaint.as_dict() for complaint in error.complaints]
        answer = {"message": error.message, "field": error.field, "complaints": complaints}
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
