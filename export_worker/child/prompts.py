"""That the prompt at serving is the prompt at training, and that an answer ends there where it was taught to.

The ids of the training are compared with those that the files about to be published give, through transformers, as
any server makes them. Where vLLM serves the files, its own routes are asked, too (served.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from export_worker.child.asked import Prompt
from export_worker.child.failed import raise_failed
from export_worker.child.held_out import HeldOut
from export_worker.child.rows import encode

GENERATION, CONFIG = "generation_config.json", "config.json"


def check(
    tokenizer: PreTrainedTokenizerBase, folder: Path, held_out: HeldOut, *, enforced: bool = True
) -> dict[str, Any]:
    """Figures; `tokenizer` is that of the folder. Where that is enforced it raises VerificationFailed for other ids, or
    a lost end."""
    differing = [(prompt, ids) for prompt in held_out.prompts if (ids := served(tokenizer, prompt)) != prompt.ids]
    stops = stop_ids(folder)
    lost = [token for token in held_out.ends if token not in stops]
    found = {
        "num_prompts": len(held_out.prompts),
        "num_same": len(held_out.prompts) - len(differing),
        "compared_with": "the training" if held_out.is_trained else "nothing: no training is known",
        "ends": held_out.ends,
        "stops": stops,
    }
    if differing and enforced:
        text = f"{len(differing)} of {len(held_out.prompts)} prompts are other tokens than in the training"
        raise_failed(
            "the template is not that of the training", [f"{text}; {_where(*differing[0])}"], found, "template"
        )
    if lost and enforced:
        names = ", ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(lost))
        raise_failed(
            "answers would not end", [f"they were taught to end with {names}, at which nobody stops"], found, "template"
        )
    return found


def served(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    return encode(tokenizer, prompt.messages, prompt.tools, prompt=True)


def as_served(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The same conversations with the ids that the files make of them."""
    return [replace(prompt, ids=served(tokenizer, prompt)) for prompt in prompts]


def stop_ids(folder: Path) -> list[int]:
    """Tokens at which generation stops by the model's files: generation_config.json, without one config.json."""
    for name in (GENERATION, CONFIG):
        if (folder / name).is_file():
            told = json.loads((folder / name).read_text())
            given = told.get("eos_token_id", (told.get("text_config") or {}).get("eos_token_id"))
            if given is not None or name == CONFIG:
                return [given] if isinstance(given, int) else sorted(given or ())
    return []


def complete_ends(folder: Path, ends: Sequence[int]) -> list[int]:
    """Write what answers were taught to end with into generation_config.json; the tokens that were not there."""
    known = stop_ids(folder)
    if not (lacking := [token for token in ends if token not in known]):
        return []
    file = folder / GENERATION
    told = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(told | {"eos_token_id": sorted({*known, *ends})}, indent=2) + "\n")
    return lacking


def _where(prompt: Prompt, ids: Sequence[int]) -> str:
    place = next((n for n, (a, b) in enumerate(zip(prompt.ids, ids, strict=False)) if a != b), None)
    if place is None:
        return f"one has {len(ids)} tokens instead of {len(prompt.ids)}"
    return f"one has token {ids[place]} at place {place + 1} instead of {prompt.ids[place]}"
