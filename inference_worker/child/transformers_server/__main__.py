"""`python -m inference_worker.child.transformers_server`: loads a model and answers until it is ended.

The key is in the environment (REPLICA_API_KEY), not on the command line, which every user of the machine can read.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import uvicorn

from inference_worker.child.transformers_server.adapters import Adapters, merged, shares
from inference_worker.child.transformers_server.app import Serving, make_app
from inference_worker.child.transformers_server.batch import Batch, is_joinable
from inference_worker.child.transformers_server.model import Served, Source, kwargs_of, load
from inference_worker.child.transformers_server.scheduler import Limits, Scheduler
from inference_worker.child.transformers_server.whole import Whole

#: Tokens of a prompt that are computed between two steps of the others.
CHUNK_TOKENS = {"cpu": 256, "cuda": 2048}
GIB = 1024**3


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(asctime)s %(name)s: %(message)s")
    given = arguments()
    torch.manual_seed(given.seed)
    served = load(
        Source(
            folder=given.model,
            dtype=given.dtype,
            max_model_len=given.max_model_len,
            chat_template=given.chat_template,
            chat_template_kwargs=kwargs_of(given.default_chat_template_kwargs),
            generation=given.generation_config or given.model,
            trust_remote_code=given.trust_remote_code,
            num_devices=given.tensor_parallel_size,
        )
    )
    serving = make_serving(served, given)
    uvicorn.run(make_app(serving), host=given.host, port=given.port, log_level="warning", access_log=False)


def make_serving(served: Served, given: argparse.Namespace) -> Serving:
    served, adapters, name = with_adapter(served, given)
    together = None
    if is_joinable(served.model, served.device):
        together = Scheduler(served.model, served.device, adapters, limits(served, adapters, given))
        threading.Thread(target=together.run, name="scheduler", daemon=True).start()
    return Serving(
        served=served,
        adapters=adapters,
        together=together,
        one_by_one=Whole(served, adapters),
        names=(name,),
        folder=given.model,
        api_key=os.environ.get("REPLICA_API_KEY", ""),
        chance=random.Random(given.seed),
    )


def with_adapter(served: Served, given: argparse.Namespace) -> tuple[Served, Adapters, str]:
    """The adapter that it starts with beside the base; or, where rows of a batch cannot have it, in the base's place.
    The name is that of the model without an adapter beside it."""
    adapters = Adapters(served.model, given.max_lora_rank)
    if given.lora_modules is None:
        return served, adapters, given.served_model_name
    module = json.loads(given.lora_modules)
    name, folder = module["name"], Path(module["path"])
    if shares(folder, given.max_lora_rank):
        adapters.load(name, folder)
        return served, adapters, given.served_model_name
    whole = replace(served, model=merged(served.model, folder))
    # No base is there any more for others: none has rank 0.
    return whole, Adapters(whole.model, 0), name


@torch.inference_mode()
def limits(served: Served, adapters: Adapters, given: argparse.Namespace) -> Limits:
    """The size of a position is measured: configs tell it in many ways."""
    trial = Batch(served.model, served.device)
    with adapters.rows([None]):
        trial.forward(torch.zeros(1, 8, dtype=torch.long, device=served.device))
    return Limits(
        max_num_seqs=given.max_num_seqs,
        cache_bytes=cache_bytes(served.device, given),
        bytes_per_token=trial.size_bytes() // trial.length,
        chunk_tokens=CHUNK_TOKENS.get(served.device.type, 256),
    )


def cache_bytes(device: torch.device, given: argparse.Namespace) -> int:
    """On a card: what the share of its memory leaves beside the weights; joining two caches takes both for a moment."""
    if device.type != "cuda":
        return int(given.kv_cache_gib * GIB)
    free, total = torch.cuda.mem_get_info(device)
    return int(max(given.gpu_memory_utilization * total - (total - free), 0.05 * total) / 2)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="transformers_server")
    add: Any = parser.add_argument
    add("--model", required=True)
    add("--served-model-name", required=True)
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--dtype", default="auto", choices=("auto", "float16", "bfloat16", "float32"))
    add("--max-model-len", type=int, required=True)
    add("--max-num-seqs", type=int, default=32)
    add("--seed", type=int, default=0)
    add("--chat-template", type=Path)
    add("--default-chat-template-kwargs")
    add("--generation-config")
    add("--lora-modules")
    add("--max-lora-rank", type=int, default=64)
    add("--tensor-parallel-size", type=int, default=1)
    add("--gpu-memory-utilization", type=float, default=0.9)
    add("--kv-cache-gib", type=float, default=1.0)
    add("--trust-remote-code", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
