"""An S3 server on this machine with one empty bucket, and the environment that leads clients to it. For tests."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import fsspec
import httpx
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "tunesmith-test"


@contextlib.contextmanager
def serve(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """The bucket's URL. As an administrator would do it: keys and endpoint are variables of the services."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
    for name, value in zip(names, ("key", "s3-secret", f"http://{host}:{port}", "us-east-1"), strict=True):
        patch.setenv(name, value)
    s3 = fsspec.get_filesystem_class("s3")
    s3.clear_instance_cache()
    # What it keeps belongs to the process, and outlives a server.
    httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()
    try:
        s3(skip_instance_cache=True).mkdir(BUCKET)
        yield f"s3://{BUCKET}"
    finally:
        s3.clear_instance_cache()
        server.stop()
