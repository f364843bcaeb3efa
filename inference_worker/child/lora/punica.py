"""LoRA in a batch whose rows belong to different adapters or to none, on a CPU (Punica: Chen et al. 2023, arXiv
2310.18547; its kernels for GPUs are vLLM's).

Rows are grouped by adapter once for each step. Each group is two matrix products for each layer, x A^T and then B^T
onto the layer's output, whatever number of matrices the layer packs: those of q, k and v stand below and beside each
other. Rows of the base are in no group, and a batch of the base alone costs a look at an empty list.

vLLM keeps every slot's matrices padded to the largest rank that is allowed. They are packed to the rank that they have
when they are first used, and again when they were written to. Layers that an adapter leaves alone are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

# Letters of shapes: T tokens or rows, I inputs, O outputs of all matrices together, R rank of all together,
# S slots for adapters, P the largest rank that is allowed.


@dataclass(frozen=True, kw_only=True)
class Group:
    """The rows of a batch that one adapter answers."""

    slot: int
    #: A slice where they stand together, which costs no copy.
    rows: slice | torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One adapter's matrices of one layer. None: it has none there."""

    down: torch.Tensor | None  # (R, I)
    up: torch.Tensor  # (R, O)
    #: Of the slots' matrices when they were packed.
    versions: tuple[int, ...]


class Adapters(PunicaWrapperCPU):
    """A subclass because vLLM's layers call a PunicaWrapper by its methods; nothing is inherited that computes."""

    def __init__(self, max_num_batched_tokens: int, max_batches: int, device: torch.device | str, **more: Any):
        super().__init__(max_num_batched_tokens, max_batches, device, **more)
        self._groups: list[Group] = []
        self._sampled: list[Group] = []
        self._packed: dict[tuple[int, int], Packed] = {}

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **more: Any
    ) -> None:
        self._update_base_metadata(mapping, lora_index_to_id, max_loras, vocab_size)
        self._groups, self._sampled = grouped(self.token_lora_indices), grouped(self.sampler_indices)
        self.no_lora = not self._groups

    def add_lora_linear(
        self,
        y: torch.Tensor,  # (T, O)
        x: torch.Tensor,  # (T, I)
        lora_a_stacked: tuple[torch.Tensor, ...],  # each (S, 1, P, I)
        lora_b_stacked: tuple[torch.Tensor, ...],  # each (S, 1, its outputs, P)
        scale: float,
        output_slices: tuple[int, ...],
        **more: Any,
    ) -> None:
        for group in self._groups:
            packed = self._pack(group.slot, lora_a_stacked, lora_b_stacked, output_slices)
            if packed.down is not None:
                add(y, torch.mm(x[group.rows], packed.down.T), packed.up, group.rows, scale)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **more: Any,
    ) -> None:
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        # The logits may be padded, or not as the matrix is.
        width = min(y.shape[-1], lora_b_stacked.shape[-2])
        for group in self._sampled:
            packed = self._pack(group.slot, (lora_a_stacked,), (lora_b_stacked,), (width,))
            if packed.down is not None:
                add(y[:, :width], torch.mm(x[group.rows], packed.down.T), packed.up, group.rows, scale)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, add_inputs: bool = True, **more: Any
    ) -> None:
        # x holds the rows of A already: those of slot 0 where there is no adapter.
        for group in self._groups:
            add(y, x[group.rows], lora_b_stacked[group.slot, 0].T, group.rows, 1.0)

    def add_shrink(self, y: Any, x: torch.Tensor, lora_a_stacked: Any, scale: float, **more: Any) -> None:
        raise NotImplementedError("layers whose adapters are sharded in full are computed on GPUs only")

    def add_expand(
        self, y: torch.Tensor, x: Any, lora_b_stacked: Any, output_slices: Any, *rest: Any, **more: Any
    ) -> None:
        raise NotImplementedError("layers whose adapters are sharded in full are computed on GPUs only")

    def _pack(
        self, slot: int, downs: tuple[torch.Tensor, ...], ups: tuple[torch.Tensor, ...], sizes: tuple[int, ...]
    ) -> Packed:
        key, versions = (downs[0].data_ptr(), slot), tuple(each._version for each in (*downs, *ups))
        found = self._packed.get(key)
        if found is None or found.versions != versions:
            found = self._packed[key] = pack(slot, downs, ups, sizes, versions)
        return found


def grouped(slots: torch.Tensor) -> list[Group]:
    """Groups of the rows whose slots are told, (T,); -1: none."""
    found = []
    for slot in slots.unique().tolist():
        if slot >= 0:
            rows = (slots == slot).nonzero().squeeze(1)
            first, last = int(rows[0]), int(rows[-1])
            together = last - first + 1 == len(rows)
            found.append(Group(slot=slot, rows=slice(first, last + 1) if together else rows))
    return found


def add(y: torch.Tensor, low: torch.Tensor, up: torch.Tensor, rows: slice | torch.Tensor, scale: float) -> None:
    """Add `scale * low @ up` to some rows of y; low: (rows, R), up: (R, O)."""
    low = low.to(y.dtype)
    if isinstance(rows, slice):
        y[rows].addmm_(low, up.to(y.dtype), alpha=scale)
    else:
        y.index_add_(0, rows, torch.mm(low, up.to(y.dtype)), alpha=scale)


def pack(
    slot: int, downs: tuple[torch.Tensor, ...], ups: tuple[torch.Tensor, ...], sizes: tuple[int, ...], versions: Any
) -> Packed:
    """The matrices of one slot without their padding: rows of A that are zero add nothing, whatever B holds."""
    ranks = [rank_of(down[slot, 0]) for down in downs]
    down = torch.cat([each[slot, 0, :rank] for each, rank in zip(downs, ranks, strict=True)])
    up = down.new_zeros(sum(ranks), sum(sizes))
    row = column = 0
    for each, rank, size in zip(ups, ranks, sizes, strict=True):
        up[row : row + rank, column : column + size] = each[slot, 0, :size, :rank].T
        row, column = row + rank, column + size
    return Packed(down=down if row else None, up=up, versions=versions)


def rank_of(down: torch.Tensor) -> int:
    """Rows of A, (P, I), up to the last that is not zero."""
    used = down.any(dim=1).nonzero()
    return int(used[-1]) + 1 if len(used) else 0
