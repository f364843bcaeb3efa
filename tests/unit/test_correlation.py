"""Ids of requests and jobs in the lines of logs: in every thread that works for them, and in no other."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared import correlation, crash, logs
from shared.correlation import Origin

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CHILD = """
import logging, sys, threading
from shared import logs
from shared.attempt import Attempt
logs.begin_child(Attempt(sys.argv[1]), "train", rank=0)
thread = threading.Thread(target=lambda: logging.getLogger("somebody.else").warning("no GPU"))
thread.start(); thread.join()
logging.getLogger("somebody.else").info("not worth a line")
print("as it is")
"""


def test_ids_are_in_a_line_while_they_are_bound() -> None:
    record = logging.makeLogRecord({"msg": "hello", "levelname": "INFO", "attempt": 2})
    formatter = logs.JsonFormatter("gateway")

    with correlation.bound(request_id="req_1", job_id="job-1", trace_id=""):
        line = json.loads(formatter.format(record))

    assert (line["request_id"], line["job_id"], line["attempt"]) == ("req_1", "job-1", 2)
    assert "trace_id" not in line and "request_id" not in json.loads(formatter.format(record))


def test_ids_go_along_to_another_thread_where_they_are_carried() -> None:
    with ThreadPoolExecutor(1) as pool, correlation.bound(job_id="job-1"):
        assert pool.submit(correlation.current).result() == {}
        assert pool.submit(correlation.carried(correlation.current)).result() == {"job_id": "job-1"}


@pytest.mark.parametrize(
    "traceparent",
    ["", "1", f"00-{TRACE}-00f067aa0ba902b7", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{TRACE}-{'0' * 16}-01"],
)
def test_what_is_no_traceparent_names_no_trace(traceparent: str) -> None:
    assert correlation.trace_id(traceparent) == ""


def test_an_origin_survives_the_record_of_its_job() -> None:
    origin = Origin(request_id="req_1", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    assert Origin.of(json.loads(json.dumps(origin.envelope()))) == origin
    assert origin.ids() == {"request_id": "req_1", "trace_id": TRACE}
    assert Origin.of({"suffix": "x"}).envelope() == {}


def test_a_childs_log_says_whose_it_is_and_only_what_went_wrong_counts_as_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"job_id": "job-1", "attempt": 3, "request_id": "req_1"}))
    (tmp_path / "logs").mkdir()
    with (tmp_path / "logs" / "rank0.log").open("wb") as log:
        subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], stdout=log, stderr=log, check=True)

    began, warned = [
        json.loads(line) for line in (tmp_path / "logs" / "rank0.log").read_text().splitlines() if line[0] == "{"
    ]

    ids = {"job_id": "job-1", "attempt": 3, "request_id": "req_1", "rank": 0, "service": "train"}
    assert ids.items() <= began.items() and ids.items() <= warned.items()
    assert (warned["message"], warned["level"]) == ("no GPU", "warning")
    said = crash.last_lines(tmp_path, "train")
    assert "no GPU" in said and "as it is" in said and logs.BEGAN not in said
