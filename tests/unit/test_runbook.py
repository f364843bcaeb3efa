"""The page at `/runbook`: where a click on an alert arrives, without a key."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.factory import create_app
from shared.settings import Settings

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yml"


def test_every_alert_leads_to_its_section_of_a_page_that_wants_no_key(tmp_path: Path) -> None:
    answer = create_app(Settings(home=tmp_path)).test_client().get("/runbook")

    sections = set(re.findall(r'<h3 id="(\w+)">', answer.text))
    led_to = set(re.findall(r"}}#(\w+)'", RULES.read_text()))
    assert answer.status_code == 200 and answer.mimetype == "text/html"
    assert len(led_to) > 20 and led_to == sections
    assert "<table>" in answer.text and 'href="http' not in answer.text
