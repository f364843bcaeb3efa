"""What nvidia-smi says of this machine's GPUs."""

from __future__ import annotations

import subprocess


def query(*fields: str) -> list[list[str]]:
    """One row per GPU; none when there is no such program or it fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
