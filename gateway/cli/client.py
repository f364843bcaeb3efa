"""The HTTP client of the command line and the demo: JSON requests, server-sent events, errors as the server words them.

It knows the wire, not the product: which routes there are is known by the commands. It never reads the ledger.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from shared.settings import Settings, process_environment

#: Written by `tunesmith up` below its home, mode 0600.
CLIENT_FILE = "client.json"
#: Waits between two tries to follow a stream that broke, seconds.
RECONNECT_SECONDS = (0.5, 1.0, 2.0, 5.0)
FINISHED = frozenset({"succeeded", "failed", "cancelled"})
FINISHED_DEPLOYMENT = frozenset({"ready", "failed", "stopped"})


class Unreachable(Exception):
    """Nobody answers at the platform's address."""


class ApiError(Exception):
    """The server refused: its message, the field it names, and every complaint."""

    def __init__(self, status: int, error: dict[str, Any]):
        self.status = status
        self.message = str(error.get("message") or f"the server answered {status}")
        self.message_zh = error.get("message_zh")
        self.field = error.get("param")
        self.code = error.get("code")
        self.issues: list[dict[str, Any]] = error.get("issues") or []
        super().__init__(self.message)


@dataclass(frozen=True, kw_only=True)
class ServerEvent:
    #: The event's number as text; None on streams without numbers.
    id: str | None
    type: str
    data: str


class Client:
    def __init__(self, url: str, key: str):
        self.url = url.rstrip("/")
        self.key = key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Uploads are validated row by row before the answer comes; 10 s to connect is plenty for a gateway that lives.
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=httpx.Timeout(600.0, connect=10.0))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        return self._json("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Any = None) -> Any:
        return self._json("POST", path, json=body)

    def post_yaml(self, path: str, text: str) -> Any:
        return self._json("POST", path, content=text.encode(), headers={"Content-Type": "application/yaml"})

    def patch(self, path: str, body: Any) -> Any:
        return self._json("PATCH", path, json=body)

    def put(self, path: str, body: Any) -> Any:
        return self._json("PUT", path, json=body)

    def delete(self, path: str) -> Any:
        return self._json("DELETE", path)

    def upload(self, path: str, file: Path, fields: dict[str, str]) -> Any:
        with file.open("rb") as stream:
            return self._json("POST", path, files={"file": (file.name, stream)}, data=fields)

    def upload_folder(self, path: str, files: Mapping[str, Path], fields: dict[str, str]) -> Any:
        """Each file under its path within the folder."""
        with ExitStack() as stack:
            parts = [("files", (name, stack.enter_context(file.open("rb")))) for name, file in files.items()]
            return self._json("POST", path, files=parts, data=fields)

    def download(self, url: str, target: Path, /, **query: Any) -> None:
        """One file into `target`, its folders made."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._errors(), self._http.stream("GET", url, params=query) as response:
            if response.is_error:
                response.read()
                raise _api_error(response)
            with target.open("wb") as file:
                for piece in response.iter_bytes():
                    file.write(piece)

    def resume(self, url: str, target: Path, tag: str, tell: Callable[[int], None]) -> None:
        """The rest of a file into `target`, whatever of it is there, over broken lines; `tag` is its entity tag and
        `tell` hears how many bytes are there. A line that brings nothing any more is given up. Raises Unreachable"""
        target.parent.mkdir(parents=True, exist_ok=True)
        tries = 0
        while True:
            before = target.stat().st_size if target.exists() else 0
            try:
                return self._append(url, target, tag, tell)
            except Unreachable:
                tries = 0 if target.exists() and target.stat().st_size > before else tries + 1
                if tries > len(RECONNECT_SECONDS):
                    raise
                time.sleep(RECONNECT_SECONDS[max(tries - 1, 0)])

    def _append(self, url: str, target: Path, tag: str, tell: Callable[[int], None]) -> None:
        got = target.stat().st_size if target.exists() else 0
        headers = {"Range": f"bytes={got}-", "If-Range": f'"{tag}"'} if got else {}
        with self._errors(), self._http.stream("GET", url, headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # all of it is there
            if response.is_error:
                response.read()
                raise _api_error(response)
            is_rest = response.status_code == httpx.codes.PARTIAL_CONTENT
            with target.open("ab" if is_rest else "wb") as file:
                for piece in response.iter_bytes():
                    file.write(piece)
                    tell(file.tell())

    def is_ready(self) -> bool:
        try:
            return self._http.get("/readyz", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    def pages(self, path: str, limit: int, **query: Any) -> Iterator[dict[str, Any]]:
        """Items of a paged list, at most `limit`, asking for no more pages than needed."""
        after = None
        while limit > 0:
            page = self.get(path, limit=min(limit, 100), after=after, **query)
            yield from page["data"][:limit]
            limit -= len(page["data"])
            if not page.get("has_more") or not page["data"]:
                return
            after = page["data"][-1]["id"]

    @contextmanager
    def events(
        self, method: str, path: str, *, body: Any = None, after: str | None = None
    ) -> Iterator[Iterator[ServerEvent]]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        # Heartbeats come every 15 s: four missed mean that the line is dead.
        timeout = httpx.Timeout(600.0 if body else 60.0, connect=10.0)
        with (
            self._errors(),
            self._http.stream(method, path, json=body, headers=headers, timeout=timeout) as response,
        ):
            if response.is_error:
                response.read()
                raise _api_error(response)
            yield parse_events(response.iter_lines())

    def _json(self, method: str, path: str, **options: Any) -> Any:
        with self._errors():
            response = self._http.request(method, path, **options)
        if response.is_error:
            raise _api_error(response)
        return response.json() if response.content else None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise Unreachable(f"{self.url} does not answer ({error})") from error


def connect(settings: Settings) -> Client:
    """The platform named by TUNESMITH_URL and TUNESMITH_API_KEY, else the one that runs in this home."""
    given = process_environment("TUNESMITH_URL", "TUNESMITH_API_KEY")
    saved = read_client_file(settings.home)
    url = given.get("TUNESMITH_URL") or saved.get("url") or f"http://{settings.host}:{settings.port}"
    return Client(url, given.get("TUNESMITH_API_KEY") or saved.get("key") or "")


def read_client_file(home: Path) -> dict[str, str]:
    try:
        return dict(json.loads((home / CLIENT_FILE).read_text()))
    except (FileNotFoundError, PermissionError):
        return {}


def follow(client: Client, job_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
    """Every event of a job in order, each once, until the job is finished; a broken line is taken up where it broke."""
    last, tries = str(after), 0
    while True:
        try:
            with client.events("GET", f"/v1/jobs/{job_id}/events/stream", after=last) as events:
                for event in events:
                    last, tries = event.id or last, 0
                    yield {"type": event.type, **json.loads(event.data)}
                    if event.type == "done":
                        return
            # Ended in good order without `done`: everything up to it was read before (`after` is past it).
            if client.get(f"/v1/jobs/{job_id}")["status"] in FINISHED:
                return
        except (Unreachable, ApiError) as error:
            if isinstance(error, ApiError) and error.status < 500:
                raise
        time.sleep(RECONNECT_SECONDS[min(tries, len(RECONNECT_SECONDS) - 1)])
        tries += 1


def parse_events(lines: Iterable[str]) -> Iterator[ServerEvent]:
    """Server-sent events from their lines; comments are skipped, several data lines joined."""
    number, kind, data = None, "message", list[str]()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerEvent(id=number, type=kind, data="\n".join(data))
            kind, data = "message", []
        elif name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id":
            number = value


def _api_error(response: httpx.Response) -> ApiError:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": f"{response.status_code} {response.reason_phrase}: {response.text[:200]}"}
    return ApiError(response.status_code, error)


def wait_deployment(client: Client, deployment_id: str) -> dict[str, Any]:
    """The deployment, once it is ready or has ended. The server has the time limit: `replica_start_seconds`."""
    while True:
        deployment = dict(client.get(f"/v1/deployments/{deployment_id}"))
        if deployment["status"] in FINISHED_DEPLOYMENT:
            return deployment
        time.sleep(0.5)
