"""`python merge_peft.py BASE ADAPTER OUT`: the same as peft's documentation shows it."""

from __future__ import annotations

import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

if __name__ == "__main__":
    base, adapter, out = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out, max_shard_size="5GB")
    AutoTokenizer.from_pretrained(base).save_pretrained(out)
