"""Tasks of lm-evaluation-harness whose data is at hand: those of the administrator's folder, known by their YAML files.

The library itself is heavy and only the child has it; here their names are read, so that a wrong one is refused at the
door. A task's file may name Python code of its own: whoever fills the folder is trusted.
"""

from __future__ import annotations

import re
from pathlib import Path

#: Where a task's or group's file says its name; a group's `task:` is a list, which begins on a line of its own.
NAME = re.compile(r"^(?:task|group):[ \t]*[\"']?([\w.+:|-]+)[\"']?[ \t]*(?:#.*)?$", re.MULTILINE)


def names(folder: str) -> list[str]:
    """Raises OSError where a file cannot be read."""
    files = sorted(path for path in Path(folder).rglob("*.y*ml")) if folder else []
    return sorted({name for path in files for name in NAME.findall(path.read_text(errors="replace"))})
