"""Write deploy/grafana/dashboards/*.json. `make docs` calls it; a test says when it was not called."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana.panels import inference, overview, slo, training, work
from deploy.grafana.panels.render import to_json

FOLDER = Path(__file__).resolve().parents[1] / "dashboards"
BOARDS = (overview.BOARD, training.BOARD, inference.BOARD, work.BOARD, slo.BOARD)


def texts() -> dict[str, str]:
    """By file name."""
    return {f"{board.uid.removeprefix('tunesmith-')}.json": to_json(board) for board in BOARDS}


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / name).write_text(text)
