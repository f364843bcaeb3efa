"""The answers of a generation job on disk, one line each in the form of OpenAI's batch output: those that came, and
apart from them the rows that failed. No line is asked for twice.

A line is written in one piece as soon as it is there: whatever ends this process, the next attempt on this machine
finds the journal. For other machines a checkpoint is published now and then, with the lines since the one before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from shared.attempt import Attempt
from shared.bulk import Row

ANSWERS, ERRORS = "answers.jsonl", "errors.jsonl"
NAMES = (ANSWERS, ERRORS)
#: Between two checkpoints: at least so long, and of a long job a share of its time, so that they do not become many.
CHECKPOINT_SECONDS = 10.0
CHECKPOINT_SHARE = 0.01
OK = 200


class Answers:
    """Not for several threads at once."""

    def __init__(self, attempt: Attempt):
        self._attempt = attempt
        folder = Path(attempt.run["journal_dir"])
        folder.mkdir(exist_ok=True)
        self._paths = {name: folder / name for name in NAMES}
        #: custom_id of every row that is answered or has failed.
        self.done: set[str] = set()
        self.num_failed = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        #: Of the completion tokens those of thoughts, as far as the engine tells them.
        self.reasoning_tokens = 0
        #: Of this attempt alone.
        self.num_added = 0
        # Without a buffer: what is written outlives a kill.
        self._files = {name: _opened(path) for name, path in self._paths.items()}
        for published in attempt.run.get("published") or ():
            self._take_over(Path(published))
        self._saved = self._ends()
        # Their last lines may lie on this machine only: the next checkpoint has them.
        for journal in attempt.run.get("journals") or ():
            self._take_over(Path(journal))
        self._began = self._saved_at = time.monotonic()

    def add(self, row: Row, status: int, body: Any, *, request_id: str | None = None) -> None:
        """`status` is the HTTP status of the replica's answer; 0: nobody answered, and `body` says why."""
        line = {
            "id": f"batch_req_{self._attempt.run['job_id']}-{len(self.done) + 1}",
            "custom_id": row.custom_id,
            "response": {"status_code": status, "request_id": request_id, "body": body} if status else None,
            "error": None if status == OK else _error(body),
            **({} if row.label is None else {"label": row.label}),
        }
        self._write(line, json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self.num_added += 1

    def save_if_due(self) -> None:
        pause = max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * (time.monotonic() - self._began))
        if time.monotonic() - self._saved_at > pause:
            self.save()

    def save(self) -> None:
        """A checkpoint of what came since the last one; its files never change again."""
        ends = self._ends()
        if ends == self._saved:
            return
        folder = Path(self._attempt.run["scratch_dir"]) / "checkpoints" / str(len(self.done))
        folder.mkdir(parents=True)
        for name, path in self._paths.items():
            with open(path, "rb") as file:
                file.seek(self._saved[name])
                (folder / name).write_bytes(file.read(ends[name] - self._saved[name]))
        metrics = {"num_rows": len(self.done), "num_failed": self.num_failed}
        self._attempt.emit("checkpoint", step=len(self.done), path=str(folder), metrics=metrics)
        self._saved_at, self._saved = time.monotonic(), ends

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _ends(self) -> dict[str, int]:
        return {name: file.tell() for name, file in self._files.items()}

    def _take_over(self, folder: Path) -> None:
        """The lines of an earlier attempt that are not here yet."""
        for name in NAMES:
            for text, line in lines(folder / name):
                if line["custom_id"] not in self.done:
                    self._write(line, text)

    def _write(self, line: dict[str, Any], text: bytes) -> None:
        file = self._files[ANSWERS if line["error"] is None else ERRORS]
        while text:  # a full disk may take a part
            text = text[file.write(text) :]
        self.done.add(line["custom_id"])
        if line["error"] is not None:
            self.num_failed += 1
            return
        body = line["response"]["body"]
        usage = (body.get("usage") if isinstance(body, dict) else None) or {}
        self.prompt_tokens += usage.get("prompt_tokens") or 0
        self.completion_tokens += usage.get("completion_tokens") or 0
        self.reasoning_tokens += (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0


def merge(sources: Iterable[Path], journal: Path) -> tuple[int, int]:
    """Bring the lines of other journals into one; how many are answered in it then, and how many failed."""
    journal.mkdir(exist_ok=True)
    done: set[str] = set()
    counts = dict.fromkeys(NAMES, 0)
    for name in NAMES:
        whole = sum(len(text) for text, _ in lines(journal / name))
        with open(journal / name, "ab") as file:
            file.truncate(whole)  # what a kill left half written goes
    for folder in (journal, *sources):
        for name in NAMES:
            found = list(lines(folder / name))
            new = [(text, line["custom_id"]) for text, line in found if line["custom_id"] not in done]
            done.update(id for _, id in new)
            counts[name] += len(new)
            if folder != journal:
                with open(journal / name, "ab") as file:
                    file.writelines(text for text, _ in new)
    return counts[ANSWERS], counts[ERRORS]


def _opened(path: Path) -> IO[bytes]:
    return open(path, "ab", buffering=0)


def lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Whole lines with what they say; one that a kill left half written is dropped."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for text in file:
            if not text.endswith(b"\n"):
                return
            yield text, json.loads(text)


def _error(body: Any) -> dict[str, Any]:
    told = body.get("error") if isinstance(body, dict) else None
    told = told if isinstance(told, dict) else {"message": str(body)[:1000]}
    return {"code": str(told.get("code") or "request_failed"), "message": str(told.get("message"))}
