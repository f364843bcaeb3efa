"""A model that recites: each of its tokens is followed by one other, so that what a real engine reads is known before.

One layer that adds nothing, embeddings of one dimension for each token, and a head that says which token comes next.
Run by the trainer's interpreter: `python -m tests.child.reciting FOLDER`.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SIZE = 128
END, UNKNOWN = "<|im_end|>", "[UNK]"
#: Tokens of their own in the vocabulary, as a thinking model's.
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
#: As Qwen3's: thoughts can be left out, and calls are JSON between marks.
TEMPLATE = (
    '{% if tools %}Calls: <tool_call>{"name": ..., "arguments": ...}</tool_call>\n{% endif %}'
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if tools %} calls{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
#: What follows the last token of a prompt: thoughts and an answer, the answer alone, a call.
RECITED = (
    ("\n", "<think>", "Two", " plus", " one.", "</think>", "\n\n", "It", " is", " three.", END),
    (" calls", "<tool_call>", '{"name":', ' "now",', ' "arguments":', ' {"zone":', ' "UTC"}}', "</tool_call>", END),
)


def make(folder: Path) -> None:
    follows = {token: after for chain in RECITED for token, after in itertools.pairwise(chain)}
    tokens = list(dict.fromkeys([UNKNOWN, END, "<|im_start|>", *MARKS, "user", "assistant", *follows]))
    ids = {token: id for id, token in enumerate(tokens)}
    _tokenizer(ids).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=SIZE, hidden_size=SIZE, intermediate_size=SIZE, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=ids[END],
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        layer = model.model.layers[0]
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight, model.lm_head.weight):
            weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(SIZE))
        for token, id in ids.items():
            model.lm_head.weight[ids[follows.get(token, END)], id] = 4.0  # after the norm 45 above all others
    model.to(torch.bfloat16).save_pretrained(folder)


def _tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+| ?[^\s<]+|<[^\s>]*>|<| "), behavior="isolated")
    made.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token=UNKNOWN, eos_token=END, model_max_length=256)
    fast.add_tokens(list(MARKS))
    fast.chat_template = TEMPLATE
    return fast


if __name__ == "__main__":
    make(Path(sys.argv[1]))
