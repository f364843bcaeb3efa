"""The page at `/`: its scripts find on it what they look for."""

from __future__ import annotations

import re

from gateway.console import WEB


def test_every_element_that_a_script_names_is_on_the_page() -> None:
    page = (WEB / "index.html").read_text()
    scripts = re.findall(r'<script src="static/([\w.]+)"', page)
    named = {name for script in scripts for name in re.findall(r'\$\("([\w-]+)"\)', (WEB / script).read_text())}

    assert scripts == [
        "console.js", "export.js", "registry.js", "forms.js", "deployments.js", "chat.js", "compare.js", "bulk.js",
    ]  # fmt: skip
    assert len(named) > 40
    assert not named - set(re.findall(r'id="([\w-]+)"', page))


def test_every_script_and_style_is_served_as_it_lies_there() -> None:
    page = (WEB / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="static/([\w.]+)"', page):
        assert (WEB / name).is_file()
