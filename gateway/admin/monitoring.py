"""The configuration of a Prometheus beside `tunesmith up`: that of the containers, with the addresses of this machine.

It only writes files; who wants Prometheus starts it (README, Operate it).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from gateway.admin import home
from shared.settings import Settings
from shared.store import Store

#: Beside the package in a checkout; an image has it in Prometheus' own container.
DEPLOYED = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
FOLDER = "prometheus"
CONFIG = "prometheus.yml"
KEY_NAME = "prometheus"


def write(settings: Settings, store: Store, ports: dict[str, int], deployed: Path = DEPLOYED) -> Path | None:
    """Where the configuration lies now; None where this installation has none to start from."""
    if not (deployed / CONFIG).is_file():
        return None
    folder = settings.home / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    key_file = folder / "key"
    keep_key(store, key_file)
    format = YAML(typ="safe")
    config = local(format.load((deployed / CONFIG).read_text()), settings, ports, key_file)
    format.default_flow_style = False
    with (folder / CONFIG).open("w") as file:
        format.dump(config, file)
    return folder / CONFIG


def keep_key(store: Store, file: Path) -> None:
    """A key that only reads, in a file for this user alone; the one that is there, as long as it is good."""
    if file.is_file() and store.keys.authenticate(file.read_text().strip()) is not None:
        return
    _, secret = store.keys.create(store.projects.default().id, KEY_NAME, "viewer")
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secret)


def local(config: dict[str, Any], settings: Settings, ports: dict[str, int], key_file: Path) -> dict[str, Any]:
    """The deployed configuration, whose processes all run here. Everything but addresses and paths stays."""
    targets = {"gateway": [home.public_url(settings).removeprefix("http://")]}
    targets["beat"] = [f"{settings.metrics_host}:{ports['beat']}"]
    targets["workers"] = [f"{settings.metrics_host}:{port}" for name, port in ports.items() if name != "beat"]
    scrapes = []
    for scrape in config["scrape_configs"]:
        kept = {name: value for name, value in scrape.items() if not name.endswith("_sd_configs")}
        if scrape["job_name"] in targets:
            kept["static_configs"] = [{"targets": targets[scrape["job_name"]]}]
        if "authorization" in kept:
            kept["authorization"] = {"credentials_file": str(key_file.resolve())}
        scrapes.append(kept)
    rules = [str(DEPLOYED / Path(file).relative_to("/etc/prometheus")) for file in config.get("rule_files", [])]
    shared = config["global"] | {"external_labels": {"tunesmith_runbook": f"{home.public_url(settings)}/runbook"}}
    return {**config, "global": shared, "rule_files": rules, "scrape_configs": scrapes}
