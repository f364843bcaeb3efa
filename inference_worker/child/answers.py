"""The answers of a generation job on disk: one line each, in the form of OpenAI's batch output, never lost twice.

A checkpoint is a copy of all lines so far; the worker publishes it and the next attempt starts from it. Copies are
made when the file has grown by a tenth, so that all of them together stay near ten times its size.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import IO, Any

from shared.attempt import Attempt

NAME = "answers.jsonl"
#: Not more often than that, however fast the rows come.
CHECKPOINT_SECONDS = 10.0
GROWTH = 1.1


class Answers:
    """Not for several threads at once."""

    def __init__(self, attempt: Attempt):
        self._attempt = attempt
        self._path = Path(attempt.run["output_dir"]) / NAME
        #: custom_id of every row that is answered.
        self.done: set[str] = set()
        self.num_failed = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._resume(attempt.run.get("resume_from"))
        self._file: IO[bytes] = open(self._path, "ab")  # noqa: SIM115 - open as long as the job runs
        self._saved_at = time.monotonic()
        self._saved_bytes = self._path.stat().st_size

    def add(self, custom_id: str, status: int, body: Any) -> None:
        """`status` is the HTTP status of the replica's answer; 0: it could not be asked."""
        line = {
            "id": f"{self._attempt.run['job_id']}-{len(self.done) + 1}",
            "custom_id": custom_id,
            "response": {"status_code": status, "body": body} if status == 200 else None,
            "error": None if status == 200 else _error(body),
        }
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._count(line)

    def save_if_due(self) -> None:
        is_due = time.monotonic() - self._saved_at > CHECKPOINT_SECONDS
        if is_due and self._file.tell() >= self._saved_bytes * GROWTH and self._file.tell() > self._saved_bytes:
            self.save()

    def save(self) -> None:
        """A checkpoint of all that is answered; its files never change again."""
        self._file.flush()
        if not self.done or self._file.tell() == self._saved_bytes:
            return
        folder = Path(self._attempt.run["scratch_dir"]) / "checkpoints" / str(len(self.done))
        folder.mkdir(parents=True)
        shutil.copyfile(self._path, folder / NAME)
        metrics = {"num_rows": len(self.done), "num_failed": self.num_failed}
        self._attempt.emit("checkpoint", step=len(self.done), path=str(folder), metrics=metrics)
        self._saved_at, self._saved_bytes = time.monotonic(), self._file.tell()

    def close(self) -> None:
        self._file.close()

    def _resume(self, folder: str | None) -> None:
        if folder is None:
            return
        with open(Path(folder) / NAME, "rb") as file, open(self._path, "wb") as copy:
            for line in file:
                self._count(json.loads(line))
                copy.write(line)

    def _count(self, line: dict[str, Any]) -> None:
        self.done.add(line["custom_id"])
        if line["error"] is not None:
            self.num_failed += 1
            return
        usage = line["response"]["body"].get("usage") or {}
        self.prompt_tokens += usage.get("prompt_tokens") or 0
        self.completion_tokens += usage.get("completion_tokens") or 0


def _error(body: Any) -> dict[str, Any]:
    told = body.get("error") if isinstance(body, dict) else None
    told = told if isinstance(told, dict) else {"message": str(body)[:1000]}
    return {"code": str(told.get("code") or "request_failed"), "message": str(told.get("message"))}
