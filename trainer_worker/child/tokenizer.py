"""The tokenizer of a training: the model's, with the chat template that the spec names. No weights are read here."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from shared import templates
from shared.conversation import Encoder
from shared.errors import InvalidSpec
from shared.spec import TrainSpec
from shared.templates.render import Program


def load(model_path: str, spec: TrainSpec) -> PreTrainedTokenizerBase:
    """Raises InvalidSpec when neither the model nor the spec has a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(
        model_path, revision=spec.model.model_revision, trust_remote_code=spec.model.trust_remote_code
    )
    if spec.data.template is not None:
        tokenizer.chat_template = templates.get(spec.data.template).jinja
    if not tokenizer.chat_template:
        raise InvalidSpec(
            f"the model has no chat template of its own: name one of {', '.join(templates.names())}", field="template"
        )
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = tokenizer.chat_template.get("default") or next(iter(tokenizer.chat_template.values()))
    if tokenizer.eos_token_id is None:
        raise InvalidSpec("the model's tokenizer has no end-of-text token", field="model_name_or_path")
    return tokenizer


def encoder(tokenizer: PreTrainedTokenizerBase, spec: TrainSpec) -> Encoder:
    named = templates.get(spec.data.template).stop_words if spec.data.template else ()
    special = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return Encoder(
        program=Program(str(tokenizer.chat_template)),
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
        values=template_values(tokenizer),
        stops=tuple(dict.fromkeys([str(tokenizer.eos_token), *named, *special])),
        end_id=int(tokenizer.eos_token_id),
        default_system=spec.data.default_system,
        train_on_prompt=spec.data.train_on_prompt,
        mask_history=spec.data.mask_history,
        cutoff_len=spec.data.cutoff_len,
    )


def template_values(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Special tokens by name, as transformers hands them to a template."""
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
