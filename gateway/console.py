"""The page at `/`: static files of gateway/web, a client of the API like any other. It holds no data."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, send_from_directory

WEB = Path(__file__).parent / "web"

blueprint = Blueprint("console", __name__, static_folder=str(WEB), static_url_path="/static")


@blueprint.route("/")
def index() -> Response:
    page = send_from_directory(WEB, "index.html")
    page.headers["Content-Security-Policy"] = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'"
    return page
