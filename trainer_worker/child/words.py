"""New tokens: the tokenizer gets them, and the model's embeddings get rows for them.

A new row begins as the mean of the rows before and noise of standard deviation 1 / sqrt(width), as in LF, or as the
mean of the rows of the words that describe its token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from shared.spec import TrainSpec
from trainer_worker.child.context import Context

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

MULTIPLE = 64


def add(tokenizer: PreTrainedTokenizerBase, spec: TrainSpec) -> None:
    tokenizer.add_tokens(list(spec.new_tokens.add_tokens))
    tokenizer.add_tokens(list(spec.new_tokens.special), special_tokens=True)


def grow(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_known: int, context: Context) -> None:
    """`num_known` tokens were there before the new ones were added."""
    rows = model.get_input_embeddings().weight.shape[0]
    first = min(num_known, rows)
    if len(tokenizer) == first:
        return
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=MULTIPLE, mean_resizing=False)
        size = model.get_input_embeddings().weight.shape[0]
        context.emit("message", f"The model has {size} embeddings instead of {rows}")
    for weight in _tables(model):
        begin(weight, first, _described(tokenizer, context.spec), kind=context.spec.new_tokens.init_special_tokens)


def _tables(model: Any) -> Iterator[torch.Tensor]:
    """Embeddings, and the output where it has weights of its own."""
    known, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    yield known.data
    if head is not None and head.weight is not known:
        yield head.weight.data


def begin(weight: torch.Tensor, first: int, described: dict[int, list[int]], *, kind: str) -> None:
    """Rows from `first` on are new; `described` says of tokens by which known ones."""
    import torch  # a preparation, which only adds words, does without

    known = weight[:first].float()
    new = known.mean(dim=0, keepdim=True).repeat(len(weight) - first, 1)
    noise = torch.randn_like(new) / math.sqrt(weight.shape[1])
    for token, words in described.items():
        if kind != "noise_init" and token >= first and (kept := [word for word in words if word < first]):
            new[token - first] = known[kept].mean(dim=0)
            noise[token - first] *= kind == "desc_init_w_noise"
    weight[first:] = (new + noise).to(weight.dtype)


def _described(tokenizer: PreTrainedTokenizerBase, spec: TrainSpec) -> dict[int, list[int]]:
    texts = spec.new_tokens.new_special_tokens_config or {}
    return {
        int(tokenizer.convert_tokens_to_ids(token)): tokenizer.encode(text, add_special_tokens=False)
        for token, text in texts.items()
    }


def embedding_names(model: Any) -> list[str]:
    """The modules that hold rows of words, by the last part of their names."""
    held = [model.get_input_embeddings()]
    if not model.config.get_text_config().tie_word_embeddings and model.get_output_embeddings() is not None:
        held.append(model.get_output_embeddings())
    return [name.rpartition(".")[2] for name, module in model.named_modules() if any(module is one for one in held)]
