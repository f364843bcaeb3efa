"""The tokenizer of a training: the model's, with the chat template that the spec names. No weights are read here."""

from __future__ import annotations

from dataclasses import replace

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from shared import stages, vocabulary
from shared.conversation import Encoder
from shared.errors import InvalidSpec
from shared.spec import TrainSpec
from shared.vocabulary import Vocabulary
from trainer_worker.child import words


def load(model_path: str, spec: TrainSpec) -> PreTrainedTokenizerBase:
    """Raises InvalidSpec when neither the model nor the spec has a chat template and the stage needs one."""
    tokenizer = own(model_path, spec)
    words.add(tokenizer, spec)
    if tokenizer.eos_token_id is None:
        raise InvalidSpec("the model's tokenizer has no end-of-text token", field="model_name_or_path")
    worded = vocabulary.with_template(known(tokenizer), spec)
    tokenizer.chat_template = worded.chat_template
    # Some templates end answers with another token: served, the model shall stop there.
    tokenizer.eos_token = worded.eos_token
    if stages.get(spec.tuning.stage).predicts == "score":
        set_padding_apart(tokenizer)
    return tokenizer


def set_padding_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    """transformers reads a score at the last token that is no padding: that must not look like the end of a text."""
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    candidates = [tokenizer.unk_token, *special, tokenizer.bos_token]
    tokenizer.pad_token = next((text for text in candidates if text and text != tokenizer.eos_token), None)


def own(model_path: str, spec: TrainSpec) -> PreTrainedTokenizerBase:
    """The model's, as it came."""
    return AutoTokenizer.from_pretrained(
        model_path, revision=spec.model.model_revision, trust_remote_code=spec.model.trust_remote_code
    )


def encoder(tokenizer: PreTrainedTokenizerBase, spec: TrainSpec) -> Encoder:
    """New special tokens stand within answers: unlike the model's own they end none."""
    found = known(tokenizer)
    ends = tuple(token for token in found.special if token not in spec.new_tokens.special)
    return vocabulary.encoder(replace(found, special=ends), spec)


def known(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """What the encoder needs to know of it."""
    return vocabulary.of_transformers(tokenizer)
