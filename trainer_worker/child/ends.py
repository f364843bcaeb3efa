"""Where an answer ends when the model is asked: the tokens at which whoever serves the model must stop."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig, PreTrainedTokenizerBase

from shared import templates
from shared.spec import TrainSpec
from trainer_worker.child.context import Context
from trainer_worker.child.model import load_config

GENERATION = "generation_config.json"


def end_ids(tokenizer: PreTrainedTokenizerBase, own: GenerationConfig | None, spec: TrainSpec) -> set[int]:
    """The tokenizer's end of text, those that the model's own file names, and the named template's stop words."""
    known = own.eos_token_id if own is not None else None
    named = templates.get(spec.data.template).stop_words if spec.data.template else ()
    encoded = (tokenizer.encode(word, add_special_tokens=False) for word in named)
    words = {ids[0] for ids in encoded if len(ids) == 1}
    return {int(tokenizer.eos_token_id), *words, *([known] if isinstance(known, int) else known or ())}


def publish(folder: Path, tokenizer: PreTrainedTokenizerBase, context: Context) -> None:
    """The base's generation_config.json, with the ends that a named template taught the model."""
    if context.spec.data.template is None:
        return
    config = _own(context)
    config.eos_token_id = sorted(end_ids(tokenizer, config, context.spec))
    # Not save_pretrained: it refuses what some models' own files say of sampling.
    config.to_json_file(folder / GENERATION)


def _own(context: Context) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(context.run["model_path"], revision=context.spec.model.model_revision)
    except OSError:
        return GenerationConfig.from_model_config(load_config(context))
