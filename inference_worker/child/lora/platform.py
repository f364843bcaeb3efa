"""vLLM's platform for CPUs, with other kernels for adapters."""

from __future__ import annotations

from vllm.platforms.cpu import CpuPlatform

KERNELS = "inference_worker.child.lora.punica.Adapters"


class AdaptingCpuPlatform(CpuPlatform):
    """A subclass because vLLM asks its platform, a class, for everything."""

    @classmethod
    def get_punica_wrapper(cls) -> str:
        return KERNELS
