"""`python -m export_worker.child.gguf SRC OUT`: an ordinary Hugging Face folder made from a GGUF file.

The weights come out in bfloat16; what the GGUF rounded away stays away. It is for llama-like models with a byte-level
BPE tokenizer such as SmolLM2, whose GGUF loses three things that are restored here: the tokenizer's digit splitter, its
end-of-turn token, and its length limit. It writes nothing into OUT's place before everything was read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase


def convert(source: Path, out: Path) -> None:
    """`source` is a .gguf file, or a folder that holds exactly one."""
    file = find(source)
    model = load_model(file)
    tokenizer = load_tokenizer(file, model)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def find(source: Path) -> Path:
    """Raises FileNotFoundError when it is not clear which file is meant."""
    files = [source] if source.is_file() else sorted(source.glob("*.gguf"))
    if len(files) != 1:
        raise FileNotFoundError(f"{source} must be a .gguf file or hold exactly one: found {len(files)}")
    return files[0]


def load_model(file: Path) -> PreTrainedModel:
    # Dequantized in float32 and rounded once: straight to bfloat16 would round the block scales as well.
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    ).to(torch.bfloat16)
    # The GGUF's own title would otherwise stand in config.json as if it were a place on the Hub.
    vars(model.config).pop("_model_name_or_path", None)
    return model


def load_tokenizer(file: Path, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # A GGUF names its pre-tokenizer only ("smollm"): without the splitter 2026 becomes tokens never seen in training.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [
            Digits(individual_digits=True),
            ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    # Restored as the token that begins a turn; the model's config has the one that ends it.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.pad_token = tokenizer.eos_token
    # The original does not touch spaces; "true" would decode "a , b" as "a, b".
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = model.config.max_position_embeddings
    return tokenizer


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
