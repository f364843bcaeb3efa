"""The page at /runbook: what each alert means and what to do. A click on an alert arrives here; it holds no data."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from flask import Blueprint, Response
from markdown_it import MarkdownIt

from gateway.console import WEB
from shared.errors import NotFound

#: In an image beside the console, in a checkout among the docs.
FILES = (WEB / "runbook.md", Path(__file__).resolve().parents[1] / "docs" / "runbook.md")
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tunesmith: runbook</title><link rel="stylesheet" href="static/console.css"></head>
<body><main>
{body}</main></body>
</html>
"""
POLICY = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'"

blueprint = Blueprint("runbook", __name__)


@blueprint.route("/runbook")
def page() -> Response:
    """The runbook as a page whose sections have the alerts' names"""
    if (file := next((path for path in FILES if path.is_file()), None)) is None:
        raise NotFound("This installation came without its runbook: see docs/runbook.md of its source")
    answer = Response(PAGE.format(body=rendered(file.read_text())), content_type="text/html; charset=utf-8")
    answer.headers["Content-Security-Policy"] = POLICY
    return answer


def rendered(text: str) -> str:
    """Markdown as HTML: each heading has its words as id, as code hosts do it."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    for heading, words in pairwise(tokens):
        if heading.type == "heading_open":
            heading.attrSet("id", words.content.lower().replace(" ", "-"))
    return str(reader.renderer.render(tokens, reader.options, {}))
