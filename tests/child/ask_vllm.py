"""Run by the inference interpreter: vLLM loads one folder after another, in one process, and scores rows of tokens.

Input (argv[1]): JSON with "folders" and "rows" (token ids). Output (argv[2]): by folder the nats of each row's tokens
but the first, and a greedy answer to it.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    told = {folder: ask(folder, asked["rows"]) for folder in asked["folders"]}
    Path(sys.argv[2]).write_text(json.dumps(told))


def ask(folder: str, rows: list[list[int]]) -> list[dict[str, Any]]:
    llm = LLM(model=folder, dtype="bfloat16", enforce_eager=True, max_model_len=128, max_num_seqs=4)
    params = SamplingParams(temperature=0, max_tokens=8, prompt_logprobs=0, ignore_eos=True)
    given = llm.generate([{"prompt_token_ids": row} for row in rows], params, use_tqdm=False)
    told = [
        {
            "nats": [-step[token].logprob for token, step in zip(row[1:], one.prompt_logprobs[1:], strict=True)],
            "answer": list(one.outputs[0].token_ids),
        }
        for row, one in zip(rows, given, strict=True)
    ]
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    return told


if __name__ == "__main__":
    main()
