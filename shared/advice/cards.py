"""The cards that a plan is for: known kinds with what matters of them, or what the caller says.

Memory is what programs see (torch's `total_memory`), a little less than the name says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.fields import Message, shown
from shared.nearest import did_you_mean
from shared.param import param
from shared.rules import rule
from shared.tongues import Text

#: Cards of one machine where nothing else is said.
PER_HOST = 8


@dataclass(frozen=True, kw_only=True)
class Kind:
    memory_gib: float
    #: Of dense matrices in 16 bits, summed in float32, as the maker says: 10^12 operations per second.
    teraflops: float
    has_bf16: bool = True
    has_fp8: bool = False
    has_nvlink: bool = False


KINDS: Mapping[str, Kind] = {
    "B200": Kind(teraflops=2250, memory_gib=178.0, has_fp8=True, has_nvlink=True),
    "H200": Kind(teraflops=989, memory_gib=139.7, has_fp8=True, has_nvlink=True),
    "H100-80GB": Kind(teraflops=989, memory_gib=79.1, has_fp8=True, has_nvlink=True),
    "H100-PCIE-80GB": Kind(teraflops=756, memory_gib=79.1, has_fp8=True),
    "H800-80GB": Kind(teraflops=989, memory_gib=79.1, has_fp8=True, has_nvlink=True),
    "H20-96GB": Kind(teraflops=148, memory_gib=95.0, has_fp8=True, has_nvlink=True),
    "A100-80GB": Kind(teraflops=312, memory_gib=79.2, has_nvlink=True),
    "A100-40GB": Kind(teraflops=312, memory_gib=39.4, has_nvlink=True),
    "A100-PCIE-40GB": Kind(teraflops=312, memory_gib=39.4),
    "A800-80GB": Kind(teraflops=312, memory_gib=79.2, has_nvlink=True),
    "L40S-48GB": Kind(teraflops=362, memory_gib=44.4, has_fp8=True),
    "L40-48GB": Kind(teraflops=181, memory_gib=44.4, has_fp8=True),
    "L4-24GB": Kind(teraflops=121, memory_gib=22.0, has_fp8=True),
    "A40-48GB": Kind(teraflops=150, memory_gib=44.4),
    "A10-24GB": Kind(teraflops=125, memory_gib=22.0),
    "A10G-24GB": Kind(teraflops=70, memory_gib=22.0),
    "RTX-6000-ADA-48GB": Kind(teraflops=364, memory_gib=47.5, has_fp8=True),
    "RTX-A6000-48GB": Kind(teraflops=155, memory_gib=47.5),
    "RTX-5090-32GB": Kind(teraflops=209.5, memory_gib=31.4, has_fp8=True),
    "RTX-4090-24GB": Kind(teraflops=165, memory_gib=23.6, has_fp8=True),
    "RTX-4080-16GB": Kind(teraflops=97.5, memory_gib=15.7, has_fp8=True),
    "RTX-3090-24GB": Kind(teraflops=71, memory_gib=23.6),
    "RTX-3060-12GB": Kind(teraflops=25.5, memory_gib=11.7),
    "V100-32GB": Kind(teraflops=125, memory_gib=31.7, has_bf16=False, has_nvlink=True),
    "V100-16GB": Kind(teraflops=125, memory_gib=15.8, has_bf16=False, has_nvlink=True),
    "T4-16GB": Kind(teraflops=65, memory_gib=14.6, has_bf16=False),
    "P100-16GB": Kind(teraflops=18.7, memory_gib=15.9, has_bf16=False),
    "RTX-2080-TI-11GB": Kind(teraflops=54, memory_gib=10.7, has_bf16=False),
}


def find(name: str) -> str | None:
    """The kind of this name, however it is written: `a100-80gb`, `A100_80GB`, `NVIDIA A100 80GB`, `H200`, `T4`."""
    plain = _plain(name)
    known = {_plain(kind): kind for kind in KINDS}
    if plain in known:
        return known[plain]
    # A name without its size means the only one that begins so.
    begin = [kind for other, kind in known.items() if other.rpartition("-")[0] == plain and other.endswith("GB")]
    return begin[0] if len(begin) == 1 else None


def _plain(name: str) -> str:
    words = name.upper().replace("_", " ").replace("-", " ").split()
    return "-".join(
        word
        for word in words
        if word not in ("NVIDIA", "GEFORCE", "TESLA", "SXM", "SXM2", "SXM4", "SXM5", "HBM3", "GENERATION")
    )


def _kind(value: str) -> Message | None:
    if find(value) is None and len(value) > 60:
        return Message("is {value}: at most 60 characters", value=shown(value))
    return None


@dataclass(frozen=True, kw_only=True)
class Cards:
    """`gpus` of a plan."""

    kind: str | None = param(None, "Kind of card, e.g. A100-80GB.", type=str, source="ours", check=_kind)
    count: int = param(1, "Cards of the training together.", minimum=1, maximum=1024, source="ours")
    memory_gib: float | None = param(
        None, "Memory of one card. Left out: the kind's.", type=float, minimum=1.0, maximum=4096.0, source="ours",
        unit="GiB", aliases=("memory",),
    )  # fmt: skip
    host_memory_gib: float | None = param(
        None, "RAM of one machine. Left out: not checked.", type=float, minimum=1.0, maximum=1e6, source="ours",
        unit="GiB",
    )  # fmt: skip
    per_host: int | None = param(None, "Cards of one machine. Left out: up to 8.", type=int, minimum=1, source="ours")

    @rule("memory_gib", code="required")
    def memory_is_known(self) -> str | None:
        if self.memory_gib is not None or (self.kind is not None and find(self.kind) is not None):
            return None
        if self.kind is None:
            return "is missing: give it, or a kind of card"
        known = ", ".join(KINDS)
        near = did_you_mean(self.kind.upper(), KINDS)
        text = "is needed for a card that is not known ({kind}{near}); known are {known}"
        return Text(text, kind=shown(self.kind), near=near, known=known)

    def resolved(self) -> Cards:
        return self

    @property
    def known(self) -> Kind | None:
        found = find(self.kind) if self.kind else None
        return KINDS[found] if found else None

    @property
    def gib(self) -> float:
        known = self.known
        return self.memory_gib if self.memory_gib is not None else known.memory_gib if known else 0.0

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bfloat16 (Ampere and later); unknown cards do."""
        return self.known is None or self.known.has_bf16

    @property
    def on_one_host(self) -> int:
        return min(self.count, self.per_host or PER_HOST)

    def spread(self, count: int) -> dict[str, int]:
        """The fields of a spec that take so many cards, of several machines where one has not enough."""
        each = self.per_host or PER_HOST
        is_whole = count > each and count % each == 0
        return {"num_processes": each, "num_nodes": count // each} if is_whole else {"num_processes": count}

    @property
    def words(self) -> str:
        name = find(self.kind) if self.kind else None
        return f"{self.count} x {name or self.kind or f'{self.gib:g} GiB'}"
