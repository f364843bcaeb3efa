"""Grafana's dashboards: written by their source, complete for whoever looks at them, where Grafana finds them."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from ruamel.yaml import YAML

from deploy.grafana.panels import slo
from deploy.grafana.panels.__main__ import FOLDER, texts
from deploy.grafana.panels.render import UNITS
from tests.monitoring import panel_queries

ROOT = Path(__file__).resolve().parents[2]
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def read_yaml(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(path.read_text()))


def test_the_committed_dashboards_are_what_their_source_says() -> None:
    """Else: make docs."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == texts()


def test_no_two_dashboards_have_the_same_address_or_title() -> None:
    for name in ("uid", "title"):
        assert len({board[name] for board in BOARDS.values()}) == len(BOARDS) >= 5


@each_board
def test_every_panel_has_an_id_a_unit_and_says_what_it_shows(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) and 0 not in ids
    for panel in board["panels"]:
        if panel["type"] != "row":
            unit = panel["fieldConfig"]["defaults"]["unit"]
            assert unit in UNITS or unit.startswith("suffix:"), (panel["title"], unit)
            assert panel["description"].endswith("."), panel["title"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert all(target["datasource"] == panel["datasource"] for target in panel["targets"]) and panel["targets"]


@each_board
def test_panels_fill_their_lines_and_none_covers_another(board: dict[str, Any]) -> None:
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert set(taken) == {(x, y) for x in range(24) for y in range(max(y for _, y in taken) + 1)}


@each_board
def test_a_query_asks_for_variables_that_the_dashboard_has(board: dict[str, Any]) -> None:
    known = {variable["name"] for variable in board["templating"]["list"]}
    asked = {
        name
        for panel in board["panels"]
        for target in panel.get("targets", [])
        for name in re.findall(r"\$(\w+)", target["expr"])
    }
    assert {name for name in asked if not name.startswith("__")} == known - {"datasource"}


@each_board
def test_every_dashboard_leads_to_the_others(board: dict[str, Any]) -> None:
    (link,) = board["links"]
    assert link["type"] == "dashboards" and set(link["tags"]) <= set(board["tags"])
    assert link["keepTime"] is True


def test_every_query_is_promql() -> None:
    for name, expr in panel_queries().items():
        assert promql_parser.parse(expr), name


def test_what_a_panel_reads_of_recording_rules_is_recorded_and_the_targets_are_those_of_the_alerts() -> None:
    groups = read_yaml(ROOT / "deploy" / "prometheus" / "rules.yml")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    asked = {name for expr in panel_queries().values() for name in re.findall(r"tunesmith:[\w:]+", expr)}
    assert asked and asked <= recorded
    alerts = " ".join(rule["expr"] for rule in rules if "alert" in rule)
    for promise in slo.PROMISES:
        if promise.recorded:
            assert f"{promise.recorded}:ratio_rate1h > {slo.FAST} * {round(1 - promise.target, 6)}" in alerts


def test_less_and_more_are_coloured_in_the_order_of_their_limits() -> None:
    for board in BOARDS.values():
        for panel in board["panels"]:
            steps = panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {}).get("steps", [])
            limits = [step["value"] for step in steps[1:]]
            assert all(low <= high for low, high in pairwise(limits)), panel["title"]


def test_grafana_finds_dashboards_and_data_source_where_compose_puts_them() -> None:
    mounts = [mount.split(":") for mount in read_yaml(ROOT / "compose.yaml")["services"]["grafana"]["volumes"]]
    inside = {where: source for source, where, *_ in mounts}
    (provider,) = read_yaml(PROVISIONING / "dashboards" / "tunesmith.yaml")["providers"]
    assert inside[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    assert inside["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    (source,) = read_yaml(PROVISIONING / "datasources" / "prometheus.yaml")["datasources"]
    assert source["type"] == "prometheus" and source["isDefault"] is True
    assert source["url"] == "http://prometheus:9090" and "prometheus" in read_yaml(ROOT / "compose.yaml")["services"]
    scraped = read_yaml(ROOT / "deploy" / "prometheus" / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
