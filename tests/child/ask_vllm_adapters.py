"""Run by the inference interpreter: vLLM answers rows of a base and of adapters, batch by batch, in one process.

Input (argv[1]): JSON with "model", "adapters" (folders by name), "lora" (arguments of vLLM), "batches" of [name or
null, token ids] and "architectures". Output (argv[2]): "platform", by batch and row the nats of its tokens but the
first, and a greedy answer to it, and "refused": the architectures that take no adapters.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.model_executor.models import ModelRegistry, supports_lora
from vllm.platforms import current_platform


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    llm = LLM(
        model=asked["model"], dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=8, enable_lora=True,
        **asked["lora"],
    )  # fmt: skip
    requests = {
        name: LoRARequest(name, n, folder) for n, (name, folder) in enumerate(asked["adapters"].items(), start=1)
    }
    told = [ask(llm, requests, rows) for rows in asked["batches"]]
    platform = f"{type(current_platform).__module__}.{type(current_platform).__name__}"
    classes = {name: ModelRegistry.models[name].load_model_cls() for name in asked["architectures"]}
    refused = [name for name, made in classes.items() if not supports_lora(made)]
    Path(sys.argv[2]).write_text(json.dumps({"platform": platform, "batches": told, "refused": refused}))


def ask(llm: LLM, requests: dict[str, LoRARequest], rows: list[Any]) -> list[dict[str, Any]]:
    params = SamplingParams(temperature=0, max_tokens=10, prompt_logprobs=0, ignore_eos=True)
    prompts = [{"prompt_token_ids": ids} for _, ids in rows]
    adapters = [requests[name] if name else None for name, _ in rows]
    given = llm.generate(prompts, params, lora_request=adapters, use_tqdm=False)
    return [
        {
            "nats": [-step[token].logprob for token, step in zip(ids[1:], one.prompt_logprobs[1:], strict=True)],
            "answer": list(one.outputs[0].token_ids),
        }
        for (_, ids), one in zip(rows, given, strict=True)
    ]


if __name__ == "__main__":
    main()
