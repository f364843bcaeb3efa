"""Every way in which a job's own processes end badly: its code, what to do, what to change, and whether to try again.

The table is what the reference and the API tell; `code_of` finds an exception's place in it, by the names of classes
and by words, because torch's and the Hub's classes cannot be imported here. Standard library only: children use it.
Nothing is decided here beyond that: shared/recovery.py says what a failure leads to.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Failure:
    #: Stable: clients may switch on it.
    code: str
    #: When it is said.
    what: str
    #: What to do, the end of the message; empty: the message says it.
    advice: str = ""
    #: The parameter to change.
    field: str | None = None
    #: Whether the same again may end otherwise: then the job is tried again by itself, a few times.
    retryable: bool = False
    #: How long to wait before: at once, what is away would be away still.
    wait_seconds: float = 0.0


#: Stands in a message before the last lines of a log.
LOG = "The end of its log:"
BATCH = "per_device_train_batch_size"
#: What smaller batches may cure; see shared/ladder.py.
MEMORY = frozenset({"out_of_memory", "host_out_of_memory"})
#: A volume has no room.
DISK = "disk_full"
#: What says only that something failed: a place that knows what it was doing knows better.
UNKNOWN = "child_failed"
#: What a rank says when another one is gone: never the first cause.
PEER = "peer_lost"

TABLE: Mapping[str, Failure] = {
    failure.code: failure
    for failure in (
        Failure(
            code="out_of_memory",
            what="a GPU's memory did not suffice; smaller batches and recomputing were tried before",
            field=BATCH,
        ),
        Failure(
            code="host_out_of_memory",
            what="the machine's memory, or what a process or container may take of it, did not suffice; as above",
            field=BATCH,
        ),
        Failure(code="diverged", what="the loss is no number any more", field="learning_rate"),
        Failure(code="invalid_dataset", what="rows that cannot be trained on; the message names them", field="dataset"),
        Failure(
            code="child_crashed",
            what="a process ended by a signal (SIGSEGV, SIGABRT, SIGBUS, SIGILL), or without saying why",
            advice="The same again would crash again: see the last lines",
        ),
        Failure(
            code="child_killed",
            what="a process was killed from outside (SIGKILL), and not by the kernel for want of memory",
            advice="Somebody or something on that machine ended it",
            retryable=True,
        ),
        Failure(
            code=PEER,
            what="the processes lost each other (NCCL, gloo), and none of them says why",
            advice="See the network between the machines, and ddp_timeout where one works for long alone",
            field="ddp_timeout",
            retryable=True,
        ),
        Failure(code="worker_lost", what="the workers that had the job went silent, several in a row", retryable=True),
        Failure(
            code="device_failed",
            what="a GPU reported an error of its own (ECC, fallen off the bus, launch failure)",
            advice="See nvidia-smi and dmesg on that machine",
            retryable=True,
        ),
        Failure(
            code=DISK,
            what="a file could not be written; the message names the volume and what is free on it",
            advice="Make room, then send the job again",
            field="save_total_limit",
        ),
        Failure(
            code="model_not_loaded",
            what="the base model or its tokenizer cannot be loaded",
            advice="See that the files are whole and of an architecture that the trainer knows",
            field="model_name_or_path",
        ),
        Failure(
            code="missing_dependency",
            what="a package is not there, or broken",
            advice="Install it into the environment of the children (TUNESMITH_TRAINER_PYTHON)",
        ),
        Failure(
            code="hub_unreachable",
            what="the Hugging Face Hub did not answer",
            advice="See the network and HF_ENDPOINT, or register model and dataset from files",
            retryable=True,
            wait_seconds=30.0,
        ),
        Failure(
            code="hub_refused",
            what="the Hub does not take the files of a push, or not with this token; the message has its answer",
            advice="See that the token may write to the repository, then push the model again",
            field="hf_hub_token",
        ),
        Failure(
            code="deepspeed_build_failed",
            what="DeepSpeed could not compile one of its operations",
            advice="It needs a C++ compiler, and nvcc of torch's CUDA version: install them, or train without offload",
            field="deepspeed",
        ),
        Failure(
            code="ray_cluster_unfit",
            what="the server's Ray cluster cannot be joined, lacks devices, or its nodes do not see the job's files",
            field="use_ray",
        ),
        Failure(
            code="ray_cluster_unreachable",
            what="the head of the server's Ray cluster does not answer",
            advice="See that it runs, and TUNESMITH_RAY_ADDRESS",
            field="use_ray",
            retryable=True,
            wait_seconds=30.0,
        ),
        Failure(
            code="verification_failed",
            what="exported files do not answer as what was trained; the message names the limits that were crossed, "
            "`details` has the figures, and nothing was published",
            advice="Limits are export_max_*; a quantized model that is too far off wants more bits or texts",
        ),
        Failure(
            code="wrong_base",
            what="the base of that name has other weights than when the adapter was trained on it",
            field="model_name_or_path",
        ),
        Failure(
            code="not_served",
            what="vLLM does not load what was exported, or does not answer, and export_verify_vllm requires it",
            field="export_verify_vllm",
        ),
        Failure(code=UNKNOWN, what="an error of another kind; class and message are the child's"),
        Failure(code="worker_failed", what="an error outside of the job's processes: fetching inputs, publishing"),
    )
}

#: Classes by name, and words of messages; the first that fits counts.
SIGNS: tuple[tuple[str, frozenset[str], str], ...] = (
    (
        "out_of_memory",
        frozenset({"OutOfMemoryError"}),
        r"(CUDA|HIP|NPU|driver).{0,20}out of memory|(CUBLAS|CUDNN|CUSOLVER)_STATUS_ALLOC_FAILED"
        r"|cudaErrorMemoryAllocation|Cuda failure.{0,20}out of memory",
    ),
    (
        "host_out_of_memory",
        frozenset({"MemoryError"}),
        r"DefaultCPUAllocator: (can't allocate|not enough) memory|std::bad_alloc|Cannot allocate memory",
    ),
    ("disk_full", frozenset(), r"No space left on device|Disk quota exceeded|database or disk is full"),
    (
        "device_failed",
        frozenset(),
        r"uncorrectable (NVLink|ECC) error|unspecified launch failure|GPU is lost|fallen off the bus"
        r"|CUDA error: (hardware|misaligned|an illegal instruction)",
    ),
    (
        PEER,
        frozenset({"DistBackendError", "DistNetworkError", "DistStoreError"}),
        r"(gloo|nccl|ProcessGroup|TCPStore|c10d).*(Connection (closed|reset|refused)|Timed out|timeout|Broken pipe"
        r"|Socket|remote process exited|recv|abort)",
    ),
    (
        "deepspeed_build_failed",
        frozenset({"CUDAMismatchException", "MissingCUDAException"}),
        r"Error building extension|Ninja is required to load|Unable to JIT load the",
    ),
    (
        "model_not_loaded",
        frozenset({"RepositoryNotFoundError", "GatedRepoError", "RevisionNotFoundError", "OfflineModeIsEnabled"}),
        r"outgoing traffic has been disabled|HF_HUB_OFFLINE|offline mode",
    ),
    (
        "hub_unreachable",
        frozenset({
            "ConnectError", "ConnectTimeout", "ConnectionError", "ConnectTimeoutError", "MaxRetryError", "ProxyError",
            "ReadTimeout", "RemoteProtocolError", "SSLError", "NewConnectionError", "NameResolutionError",
        }),
        r"[Cc]ouldn't connect to '?https?://|Couldn't reach|(50[0234]|429) (Server|Client) Error",
    ),
    ("missing_dependency", frozenset({"ImportError", "ModuleNotFoundError", "PackageNotFoundError"}), r"(?!)"),
)  # fmt: skip
INTRODUCTION = """# Failures of jobs

A job that failed says why in `error`: a stable `code`, a `message` that says what to do, the `field` to change, and
`retryable`. `rank` is the process that failed first, whatever the others said afterwards; `details` are numbers (of
memory: what was asked for, used and free, the micro-batch, the longest sequence, the estimate by part; of a full disk:
the volume and what is free). Errors of requests and of single fields have codes of their own.

What may pass is tried again by itself, from the newest checkpoint; three attempts in a row without a new checkpoint
fail the job. Where memory did not suffice, the next attempt trains with half the micro-batch and twice the
accumulation (the batch of a step stays the same, and so does its data), down to 1, then with activations recomputed;
after that the error names the nearest change that fits by the plan (`nearest`). `oom_recovery: false` switches that
off. `adjustments` of the job says what it runs with instead of its spec's values, `GET /v1/jobs/{id}/attempts` what
each attempt ran with and how it ended. This page is generated: `python -m shared.failures`.
"""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def code_of(error: BaseException) -> str:
    """The code of what was raised, or of what it was raised from."""
    chain = list(_chain(error))
    own = getattr(error, "code", None)
    if isinstance(own, str) and own != UNKNOWN:
        return own
    numbers = {link.errno for link in chain if isinstance(link, OSError)}
    if numbers & FULL:
        return "disk_full"
    if errno.ENOMEM in numbers:
        return "host_out_of_memory"
    names = {name for link in chain for name in _names(link)}
    text = "\n".join(map(str, chain))
    found = (code for code, classes, words in SIGNS if names & classes or re.search(words, text, re.DOTALL))
    return next(found, UNKNOWN)


def code_in(text: str) -> str | None:
    """What the last words of a process that was aborted say; None: nothing that is known."""
    if "Watchdog caught collective operation timeout" in text:
        return PEER
    return next((code for code, _, words in SIGNS[:4] if re.search(words, text)), None)


def completed(error: Mapping[str, Any]) -> dict[str, Any]:
    """The error with what its code adds: what to do, the field to change, whether trying again can help."""
    known = TABLE.get(str(error.get("code")))
    message = str(error.get("message") or "no reason was given")
    if known is None:
        return {**error, "message": message, "field": error.get("field"), "retryable": False}
    if known.advice and known.advice not in message:
        said, mark, log = message.partition(f" {LOG}\n")
        message = f"{said.removesuffix('.')}. {known.advice}.{mark}{log}"
    return {**error, "message": message, "field": error.get("field") or known.field, "retryable": known.retryable}


def page() -> str:
    """The reference, docs/failures.md."""
    rows = [
        f"| `{one.code}` | {one.what} | {_cell(one.advice)} | {f'`{one.field}`' if one.field else ''} "
        f"| {'with less' if one.code in MEMORY else 'yes' if one.retryable else 'no'} |"
        for one in TABLE.values()
    ]
    head = "| code | when | what to do | field | tried again |\n|---|---|---|---|---|"
    return "\n".join([INTRODUCTION, head, *rows, ""])


def _cell(advice: str) -> str:
    return advice or "the message says it"


def _names(error: BaseException) -> list[str]:
    """Of its classes. Python's own ConnectionError is no library's: of whom it speaks cannot be told."""
    return [cls.__name__ for cls in type(error).__mro__ if cls is not ConnectionError]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """What it was explicitly raised from; what merely happened before (`__context__`) may be unrelated."""
    link: BaseException | None = error
    for _ in range(8):
        if link is None:
            return
        yield link
        link = link.__cause__


if __name__ == "__main__":
    sys.stdout.write(page())
