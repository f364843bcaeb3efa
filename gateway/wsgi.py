"""Entry point of gunicorn: `gunicorn --config python:gateway.gunicorn_conf gateway.wsgi:app`."""

from __future__ import annotations

from gateway import create_app
from shared import logs
from shared.settings import Settings

_settings = Settings.from_env()
logs.configure("gateway", _settings.log_level)
app = create_app(_settings)
