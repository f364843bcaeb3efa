"""Number formats of a training, decided in one place from the spec, the stored weights and the device.

Weights that do not change are kept as they are stored: bfloat16 loses nothing of a bfloat16 checkpoint. Weights that
are trained are float32 unless `pure_bf16` says otherwise: with 8 bits of mantissa small steps vanish. Computing in
bfloat16 with float32 adapters costs no speed on a CPU (273 against 270 tokens per CPU second for all in bfloat16,
243 when peft casts the activations to the adapters' format instead).

Not every CPU that has bfloat16 is fast in it: one of Intel's without AMX multiplies matrices with 87 GFLOP/s a core in
bfloat16 and with 172 in float32. There a base is computed with in float32, which is exact, where the memory is ample.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from shared.errors import InvalidSpec
from shared.spec import TrainSpec

HALVES = (torch.bfloat16, torch.float16)
#: Share of a machine's memory that a base may take in float32 where half of that would do.
AMPLE = 0.25
#: Words of /proc/cpuinfo by which a CPU is one that is faster in bfloat16: matrix units of Intel, of ARM, and AMD's.
FAST_HALVES = ({"amx_bf16"}, {"bf16"}, {"AuthenticAMD", "avx512_bf16"})


@dataclass(frozen=True, kw_only=True)
class Precision:
    #: Of weights that stay as they are.
    frozen: torch.dtype
    #: Of weights that are trained.
    trained: torch.dtype
    #: Of matrix products; None: as the weights are.
    compute: torch.dtype | None = None

    def context(self, device: torch.device) -> AbstractContextManager[object]:
        return nullcontext() if self.compute is None else torch.autocast(device.type, self.compute)


FULL = Precision(frozen=torch.float32, trained=torch.float32)
MIXED_BF16 = Precision(frozen=torch.bfloat16, trained=torch.float32, compute=torch.bfloat16)
MIXED_FP16 = Precision(frozen=torch.float16, trained=torch.float32, compute=torch.float16)
PURE_BF16 = Precision(frozen=torch.bfloat16, trained=torch.bfloat16)
PURE_FP16 = Precision(frozen=torch.float16, trained=torch.float16)


def decide(
    spec: TrainSpec, stored: torch.dtype, device: torch.device, *, deepspeed: bool = False, is_ample: bool = False
) -> Precision:
    """`stored` is the format of the model's files; `is_ample` says that the memory holds more than it must (AMPLE).
    Raises InvalidSpec for float16 on a CPU."""
    wanted = _wanted(spec, stored, device)
    if not deepspeed:
        is_asked = spec.train.bf16 or spec.model.quantization_bit is not None
        is_free = wanted is MIXED_BF16 and not is_asked and device.type == "cpu"
        return FULL if is_free and is_ample and not is_fast_in_bf16(Path("/proc/cpuinfo").read_text()) else wanted
    # DeepSpeed's engine holds one format itself and float32 copies in its optimizer.
    return {torch.bfloat16: PURE_BF16, torch.float16: PURE_FP16}.get(wanted.frozen, FULL)


def _wanted(spec: TrainSpec, stored: torch.dtype, device: torch.device) -> Precision:
    if spec.tuning.pure_bf16:
        return PURE_BF16
    if spec.train.bf16:
        return MIXED_BF16
    if spec.train.fp16:
        if device.type != "cuda":
            raise InvalidSpec("is true: float16 needs a GPU, use bf16 on this machine", field="fp16")
        return MIXED_FP16
    # Nothing was asked for: an adapter beside a half-precision base takes the base as it is stored.
    if spec.tuning.finetuning_type == "lora" and stored in HALVES and has_bf16(device):
        return MIXED_BF16
    return FULL


def is_fast_in_bf16(cpuinfo: str) -> bool:
    """Whether a CPU multiplies in bfloat16 faster than in float32."""
    words = set(cpuinfo.split())
    return any(needed <= words for needed in FAST_HALVES)


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 saves memory there at no great loss of speed."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
