"""vLLM: its command is shared with exports, which are proven by it (shared/vllm_arguments.py)."""

from __future__ import annotations

import re

from shared.vllm_arguments import argv, env

__all__ = ["argv", "env", "explained"]

#: How it refuses a model whose code it does not have; the hundreds that it has follow.
UNKNOWN = re.compile(r"Model architectures? .+? (?:is|are) not supported")


def explained(why: str) -> str:
    """What its log says, with what to do about it where that is known."""
    if (refused := UNKNOWN.search(why)) is None:
        return why
    return f"{refused[0]}; engine transformers may have them: deploy it with `engine: transformers`, which is slower"
