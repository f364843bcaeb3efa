"""Tiny datasets of preferences."""

from __future__ import annotations

import json
from pathlib import Path

from training import ANSWERS, QUESTIONS

BAD = "Red red red."


def make_pairs(path: Path, num_rows: int = 16) -> Path:
    """The better answer is a sentence, the worse one always the same; of different lengths, no two rows alike."""
    rows = [
        {
            "instruction": f"{QUESTIONS[n % 5]} ({n})",
            "input": "",
            "chosen": " ".join(ANSWERS[(n + k) % 5] for k in range(1 + n % 3)),
            "rejected": BAD if n % 2 else f"{BAD} {BAD}",
        }
        for n in range(num_rows)
    ]
    path.write_text(json.dumps(rows))
    return path


def make_labelled(path: Path, num_rows: int = 16) -> Path:
    rows = [
        {"instruction": f"{QUESTIONS[n % 5]} ({n})", "output": ANSWERS[n % 5] if n % 2 else BAD, "kto_tag": bool(n % 2)}
        for n in range(num_rows)
    ]
    path.write_text(json.dumps(rows))
    return path
