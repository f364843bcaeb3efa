"""README.md of an exported model: where it comes from, what was measured, how to serve it. Text only, no decisions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import formats
from shared.serving import where

#: Figures that whoever loads a format may not tell, and how they are written.
LOGIT_FIGURES = {"relative_difference": ".4f", "max_abs_difference": ".3f", "top1_agreement": ".1%"}


@dataclass(frozen=True, kw_only=True)
class Card:
    #: Name in the catalog.
    name: str
    base_name: str
    #: Name of the model that was exported, e.g. an adapter's.
    source_name: str
    #: Names of the datasets it was trained on.
    datasets: list[str] = field(default_factory=list)
    format: str
    #: Spec of the training, by wire name; empty when not known.
    training: Mapping[str, Any] = field(default_factory=dict)
    verification: Mapping[str, Any]
    quantization: Mapping[str, Any] | None = None
    licence: str | None = None


def find_licence(model: Path) -> str | None:
    """What the base's own card says, else the title of its licence file."""
    card = model / "README.md"
    if card.is_file() and (
        found := re.search(r"^licen[sc]e:\s*(\S.*)$", card.read_text(errors="replace")[:4000], re.M)
    ):
        return found[1].strip()
    for file in sorted([*model.glob("LICENSE*"), *model.glob("LICENCE*")]):
        lines = (line.strip() for line in file.read_text(errors="replace").splitlines())
        return next((line for line in lines if line), None)
    return None


def render(card: Card) -> str:
    parts = [front_matter(card), f"# {card.name}\n", origin(card), figures(card), serving(card)]
    if card.training:
        given = {name: value for name, value in card.training.items() if value is not None}
        spec = json.dumps(given, indent=2, sort_keys=True)
        parts.append(f"## Training parameters\n\n```json\n{spec}\n```\n")
    return "\n".join(parts)


def front_matter(card: Card) -> str:
    lines = ["---", f"base_model: {json.dumps(card.base_name)}"]
    # The Hub's list of licences is lower-case identifiers; a title taken from a file is not one.
    if card.licence and re.fullmatch(r"[a-z0-9.\-]+", card.licence):
        lines.append(f"license: {card.licence}")
    if card.datasets:
        lines += ["datasets:", *(f"- {json.dumps(name)}" for name in card.datasets)]
    return "\n".join([*lines, "library_name: transformers", "pipeline_tag: text-generation", "---", ""])


def origin(card: Card) -> str:
    rows = {
        "Base model": card.base_name,
        "Exported from": card.source_name,
        "Trained on": ", ".join(card.datasets) or "not known",
        "Licence of the base": card.licence or "not known: ask whoever published the base",
        "Format": card.format + (f" ({quantized(card.quantization)})" if card.quantization else ""),
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def quantized(details: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in details.items())


def figures(card: Card) -> str:
    """The comparison that every export has to pass before it is published."""
    rows = []
    for title, key in (("merged against trained", "merge"), ("quantized against merged", "quantized")):
        if found := card.verification.get(key):
            logits = [f"{found[name]:{form}}" if name in found else "not told" for name, form in LOGIT_FIGURES.items()]
            cells = [title, *logits, f"{found['loss_reference']:.4f}", f"{found['loss']:.4f}"]
            rows.append(f"| {' | '.join(cells)} |\n")
    rows_from = card.verification.get("rows_from", "")
    lines = "".join(f"- {line}\n" for line in proven(card.verification))
    return (
        "## Verification\n\n"
        f"On {card.verification.get('num_rows')} rows ({rows_from}).\n\n"
        "| | relative difference of logits | largest difference | same likeliest token | loss before | loss after |\n"
        "|---|---|---|---|---|---|\n" + "".join(rows) + "\n" + lines
    )


def proven(verification: Mapping[str, Any]) -> Iterator[str]:
    """In words, also what was not proven."""
    if prompted := verification.get("prompts"):
        same = f"{prompted['num_same']} of {prompted['num_prompts']}"
        yield f"Prompts: {same} are the same tokens as in {prompted['compared_with']}; generation stops at tokens " + (
            ", ".join(map(str, prompted["stops"])) or "that no file names"
        )
    if weighed := verification.get("weights"):
        if weighed["compared"]:
            told = f"{weighed['num_same']} tensors are the base's to the bit, {weighed['num_changed']} have changed"
            yield f"Weights: {told} as the adapter says"
        else:
            yield f"Weights: not compared, {weighed['why']}"
    if ratio := (verification.get("quantized") or {}).get("perplexity_ratio"):
        yield f"Perplexity: {ratio:.3f} times that of the merged model"
    if vllm := verification.get("vllm"):
        yield from _by_vllm(vllm)
    if left_out := verification.get("left_out"):
        yield f"Not compared: {left_out}"


def _by_vllm(vllm: Mapping[str, Any]) -> Iterator[str]:
    for name in ("merged", "quantized"):
        if found := vllm.get(name):
            said = f"loss {found['loss']:.4f}, {found['num_same_prompts']} prompts the same" if found["proven"] else ""
            yield f"vLLM, {name} files: {said or 'not asked, ' + found['why']}"
    if not vllm["proven"] and vllm.get("why"):
        yield f"vLLM: not asked, {vllm['why']}"


def serving(card: Card) -> str:
    if file := (card.quantization or {}).get("file"):
        return (
            "## Serving\n\n"
            f"With llama.cpp, from this folder:\n\n```\nllama-server --jinja -m {file}\n```\n\n"
            f"With Ollama:\n\n```\nollama create '{card.name}' -f Modelfile\nollama run '{card.name}'\n```\n"
        )
    served = formats.get(card.format).where((card.quantization or {}).get("num_bits"))
    if served is None:
        return "## Serving\n\nvLLM has no kernel for weights of this width: transformers loads the files.\n"
    beside = f", with the package `{served.package}` beside it" if served.package else ""
    return (
        "## Serving\n\n"
        f"vLLM serves this format on {where(served)}{beside}.\n\n"
        "With Tunesmith:\n\n```\n"
        f"curl -H 'Authorization: Bearer ...' -d '{{\"model\": \"{card.name}\"}}' .../v1/deployments\n```\n\n"
        "With vLLM, from this folder:\n\n```\n"
        f"python -m vllm.entrypoints.openai.api_server --model . --served-model-name '{card.name}'\n```\n"
    )
