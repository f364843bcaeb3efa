"""Clients that are broken, hostile, many at once or suddenly gone, against the running gateway."""

from __future__ import annotations

import io
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import http, tailer
from tests.platform import ROWS, Platform, jsonl, make_platform, serve, wait_until

GOOD: dict[str, Any] = {"model_name_or_path": "tiny-model", "dataset": "sums", "stage": "sft"}
BOUNDARY = {"Content-Type": "multipart/form-data; boundary=X"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("strange"), max_body_bytes=100_000)
    assert made.post("/v1/models", {"name": "tiny-model", "model_name_or_path": "tiny"}).status_code == 201
    assert upload(made, "sums.jsonl").status_code == 201
    return made


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[httpx.Client]:
    with serve(platform) as url, httpx.Client(base_url=url, headers=platform.headers(), timeout=30) as made:
        yield made


def upload(platform: Platform, filename: str, content: bytes = jsonl(ROWS), **form: str) -> Any:
    data = {"file": (io.BytesIO(content), filename), **form}
    return platform.client.post("/v1/datasets", data=data, headers=platform.headers())


def at_once(client: httpx.Client, ask: Callable[[httpx.Client, int], httpx.Response]) -> list[httpx.Response]:
    """The answers to ten requests that are sent together."""
    answers: list[httpx.Response] = []
    together = threading.Barrier(10)

    def go(index: int) -> None:
        with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=30) as own:
            together.wait()
            answers.append(ask(own, index))

    threads = [threading.Thread(target=go, args=(index,)) for index in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def assert_refused(answer: Any, status: int) -> dict[str, Any]:
    """In the one envelope, without anything of the inside."""
    body = json.loads(answer.text)
    assert (answer.status_code, body["status"]) == (status, status), body
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == body["instance"]
    assert {"message", "type", "param", "code"} <= body["error"].keys()
    assert "Traceback" not in answer.text and "/work" not in answer.text and "site-packages" not in answer.text
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"abc", {"Content-Type": "multipart/form-data"}, 422),
        (b"", BOUNDARY, 422),
        (b"\xff\0" * 99, BOUNDARY, 422),
        (b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc', BOUNDARY, 422),
        (b'--X\r\nContent-Disposition: form-data; filename="a"\r\n\r\n{}\r\n--X--\r\n', BOUNDARY, 422),
        (b'--X\r\nContent-Disposition: form-data; name="file"\r\n\r\n{}\r\n--X--\r\n', BOUNDARY, 422),
        (b'--X\r\nContent-Disposition: form-data; name="p"\r\n\r\nv\r\n' * 2000 + b"--X--\r\n", BOUNDARY, 413),
        (b'--X\r\nContent-Disposition: form-data; name="name"\r\n\r\n' + b"a" * 900_000 + b"\r\n--X--", BOUNDARY, 413),
    ],
)
def test_uploads_that_are_none_are_refused_and_the_connection_goes_on(
    client: httpx.Client, data: bytes, headers: dict[str, str], status: int
) -> None:
    for _ in range(3):
        assert_refused(client.post("/v1/datasets", content=data, headers=headers), status)
    assert client.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize("content_type", ["application/json", "application/yaml"])
def test_a_body_of_unknown_length_is_not_cut_off_at_the_limit(client: httpx.Client, content_type: str) -> None:
    text = "".join(f'"x{n}": 1,\n' for n in range(20_000)).encode()
    answer = client.post("/v1/jobs", content=iter([b"{", text, b"}"]), headers={"Content-Type": content_type})
    assert assert_refused(answer, 413)["code"] == "too_large"


@pytest.mark.parametrize(
    ("filename", "name"),
    [("a,b.jsonl", "a_b"), ("..", "dataset"), ("/", "dataset"), ("x/../y.jsonl", "y"), ("\u202ex.jsonl", "_x")],
)
def test_a_filename_becomes_a_name_that_can_be_asked_for(platform: Platform, filename: str, name: str) -> None:
    made = upload(platform, filename, jsonl(ROWS[:2])).get_json()
    assert made["name"] == name
    assert platform.get(f"/v1/datasets/{name}").get_json()["id"] == made["id"]


@pytest.mark.parametrize("name", ["a,b", "a/b", "", " x", "..", "x" * 201, "a\0b", "\u202e", "a\\b"])
def test_a_name_that_could_not_be_asked_for_is_refused(platform: Platform, name: str) -> None:
    assert upload(platform, "a.jsonl", name=name).get_json()["error"]["param"] == "name"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "SPAM"])
def test_a_wrong_method_says_which_are_right(client: httpx.Client, method: str) -> None:
    answer = client.request(method, "/v1/jobs")
    assert assert_refused(answer, 405)["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs/%00", "/v1/jobs/%ff", "/v1/jobs/%ed%a0%80", "/v1/models/a//b", "/v1/models/a%2Fb", "/v1//jobs", "/nope"],
)
def test_odd_paths_are_not_found(client: httpx.Client, path: str) -> None:
    assert_refused(client.get(path), 404)


@pytest.mark.parametrize("limit", ["0" * 30 + "5", "9" * 3000, "-1", "1.0", "%00", "\u0665"])
def test_odd_numbers_of_a_query_are_refused(client: httpx.Client, limit: str) -> None:
    assert_refused(client.get(f"/v1/jobs?limit={limit}"), 422)


@pytest.mark.parametrize("header", [b"Basic \xff", b"Basic !", b"Bearer \xff", b"Digest a=b", b"Bearer a=b, c=d", b""])
def test_odd_credentials_open_nothing(client: httpx.Client, header: bytes) -> None:
    assert_refused(httpx.get(client.base_url.join("/v1/jobs"), headers={b"Authorization": header}), 401)


def test_half_a_surrogate_pair_is_told_as_text(client: httpx.Client) -> None:
    body = json.dumps(GOOD)[:-1] + ', "\\ud800": 1}'
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert_refused(answer, 422)
    assert "\\ud800" in answer.json()["error"]["message"]


def test_a_flood_of_broken_rows_is_not_read_to_its_end(client: httpx.Client) -> None:
    began = time.monotonic()
    answer = client.post("/v1/datasets", files={"file": ("flood.jsonl", b"{}\n" * 3_000_000)})
    assert "10000 of the first 10000 rows are invalid" in assert_refused(answer, 422)["message"]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("method", [{"sft": {}}, {"type": "supervised", "supervised": {"hyper": {}}}])
def test_what_a_fine_tuning_method_does_not_have_is_named(client: httpx.Client, method: dict[str, Any]) -> None:
    body = {"model": "tiny-model", "training_file": "sums", "method": method}
    assert assert_refused(client.post("/v1/fine_tuning/jobs", json=body), 422)["issues"][0]["code"] == "unknown_field"


@pytest.mark.parametrize("kind", ["train", None])
def test_a_kind_that_is_null_is_one_left_out(client: httpx.Client, kind: str | None) -> None:
    assert client.post("/v1/jobs", json=GOOD | {"kind": kind, "seed": 31}).json()["kind"] == "train"


def test_the_same_at_once_is_one_record(client: httpx.Client, platform: Platform) -> None:
    content = jsonl(ROWS[:7])
    for ask in (
        lambda own, _: own.post("/v1/datasets", files={"file": ("same.jsonl", content)}),
        lambda own, _: own.post("/v1/models", json={"name": "same", "model_name_or_path": "tiny"}),
        lambda own, _: own.post("/v1/deployments", json={"model": "tiny-model"}),
        lambda own, _: own.post("/v1/jobs", json=GOOD | {"seed": 77}),
    ):
        answers = at_once(client, ask)
        assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]
        assert len({answer.json()["id"] for answer in answers}) == 1
    models = [model for model in platform.store.models.list(platform.store.projects.default().id)]
    assert len(list((platform.settings.home / "artifacts" / "models").iterdir())) == len(models)


def test_jobs_without_metadata_can_be_asked_for(client: httpx.Client) -> None:
    for seed in range(400, 403):
        client.post("/v1/jobs", json=GOOD | {"seed": seed, "metadata": {"team": "a"} if seed == 401 else {}})
    for path in ("/v1/jobs", "/v1/fine_tuning/jobs"):
        first = client.get(f"{path}?metadata=null&limit=1").json()
        second = client.get(f"{path}?metadata=null&limit=1&after={first['last_id']}").json()
        assert first["has_more"]
        assert [job["metadata"] for job in first["data"] + second["data"]] == [{}, {}]
        assert first["last_id"] != second["last_id"]


def test_a_client_that_vanishes_in_an_upload_leaves_nothing(client: httpx.Client, platform: Platform) -> None:
    head = (
        f"POST /v1/datasets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {platform.keys['user']}\r\n"
        "Content-Type: multipart/form-data; boundary=X\r\nContent-Length: 99999\r\n\r\n"
        '--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    )
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as connection:
        connection.sendall(head.encode())
        time.sleep(0.2)
    folder = platform.settings.run_dir / "uploads"
    wait_until(lambda: not list(folder.iterdir()), 5, "the upload is gone")


def test_streams_leave_threads_for_others_and_an_id_beyond_the_last_misses_nothing(client: httpx.Client) -> None:
    job = client.post("/v1/jobs", json=GOOD | {"seed": 500}).json()
    path = f"/v1/jobs/{job['id']}/events/stream"
    for _ in range(3):  # nobody reads the body of these: they must not count
        assert client.head(path).status_code == 200
    limits = httpx.Limits(max_connections=300)
    with httpx.Client(base_url=client.base_url, headers=client.headers, limits=limits, timeout=30) as own:
        streams = [own.stream("GET", path, headers={"Last-Event-ID": "9" * 18}) for _ in range(tailer.MAX_STREAMS)]
        answers = [stream.__enter__() for stream in streams]
        pieces = [answer.iter_text() for answer in answers]
        assert {next(piece) for piece in pieces} == {"retry: 3000\n\n"}
        refused = own.get(path)
        assert_refused(refused, 503)
        assert int(refused.headers["retry-after"]) > 0
        assert own.get("/healthz", timeout=2).status_code == 200
        own.post(f"/v1/jobs/{job['id']}/cancel")
        assert all("cancelled" in "".join(piece) for piece in pieces)
    assert client.get(path).status_code == 200


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    platform = make_platform(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # What the gateway is given with its start: no file may be larger.
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with serve(platform) as url:
            files = {"file": ("big.jsonl", jsonl(ROWS) * 1000)}
            answer = httpx.post(f"{url}/v1/datasets", files=files, headers=platform.headers(), timeout=30)
            assert assert_refused(answer, http.NoRoom.status)["code"] == "insufficient_storage"
            assert answer.headers["x-should-retry"] == "false"
            assert list((platform.settings.run_dir / "uploads").iterdir()) == []
            assert httpx.get(f"{url}/v1/datasets", headers=platform.headers()).json()["data"] == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_ledger_that_is_away_is_worth_another_try(tmp_path: Path) -> None:
    platform = make_platform(tmp_path, database_url=f"sqlite:///{tmp_path / 'ledger' / 'l.sqlite3'}")
    platform.store.close()
    (tmp_path / "ledger").rename(tmp_path / "elsewhere")
    answer = platform.get("/v1/jobs")
    assert_refused(answer, 503)
    assert answer.headers["Retry-After"]
