"""Adapters on vLLM's CPU backend: a plug-in of vLLM's (pyproject.toml names it), read by every process of a server.

vLLM's own kernels for CPUs give rows without an adapter that of the last slot wherever another row has one, and copy
the adapter's matrices for every token. Ours are in punica.py; everything else of vLLM's platform stays as it is, and
where vLLM computes on anything but a plain CPU nothing changes at all.
"""

from __future__ import annotations

#: What vLLM would take, and what it takes instead.
REPLACED, REPLACEMENT = "vllm.platforms.cpu.CpuPlatform", "inference_worker.child.lora.platform.AdaptingCpuPlatform"


def platform() -> str | None:
    """The platform to take in place of vLLM's own; None: its own is right."""
    from vllm.platforms import cpu_platform_plugin

    return REPLACEMENT if cpu_platform_plugin() == REPLACED else None
