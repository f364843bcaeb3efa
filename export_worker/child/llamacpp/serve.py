"""`python -m export_worker.child.llamacpp.serve`: llama.cpp with one GGUF file, on a local port, until stdin closes.

A process of its own, because llama.cpp ends the process it is in when something about a file displeases it. The first
line of stdin is JSON {"file", "context_tokens", "threads", "key"}; the first line of stdout {"address"}.
"""

from __future__ import annotations

import json
import sys

import xllamacpp


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    try:
        server = xllamacpp.Server(parameters(**asked))
    except RuntimeError:
        # llama.cpp has said why on stderr.
        sys.exit(1)
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


def parameters(*, file: str, context_tokens: int, threads: int, key: str) -> xllamacpp.CommonParams:
    found = xllamacpp.CommonParams()
    found.model.path = file
    found.n_ctx = context_tokens
    found.n_parallel = 1
    found.cpuparams.n_threads = found.cpuparams_batch.n_threads = threads
    # What was written is compared, on the CPU: an accelerator would need another build, and rounds otherwise.
    found.n_gpu_layers = 0
    found.fit_params = found.warmup = found.ui = found.endpoint_slots = False
    found.check_tensors = True
    found.hostnames = ["127.0.0.1"]
    found.api_keys = [key]
    # Errors only.
    found.verbosity = 1
    return found


if __name__ == "__main__":
    main()
