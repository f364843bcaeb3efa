"""vLLM: its command is shared with exports, which are proven by it (shared/vllm_arguments.py)."""

from __future__ import annotations

from shared.vllm_arguments import argv, env

__all__ = ["argv", "env"]
