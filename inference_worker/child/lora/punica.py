"""LoRA in a batch whose rows belong to different adapters or to none, on a CPU (Punica: Chen et al. 2023, arXiv
2310.18547; its kernels for GPUs are vLLM's).

Rows are grouped by adapter once for each step. Each group is two matrix products for each layer, x A^T and then B^T
onto the layer's output, whatever number of matrices the layer packs: those of q, k and v stand below and beside each
other. Rows of the base are in no group, and a batch of the base alone costs a look at an empty list.

vLLM keeps every slot's matrices padded to the largest rank that is allowed. They are packed to the rank that they have
when they are first used. Layers that an adapter leaves alone are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

# Letters of shapes: T tokens or rows, I inputs, O outputs of all matrices together, R rank of all together,
# S slots for adapters, P the largest rank that is allowed.

#: Rows of one product. In float32 so few rows take 15 us for one layer of 576 to 960, in bfloat16 66 us, nearly all of
#: it to set the product up; of 256 rows at once float32 takes 3 times as long, in pieces of 64 as long as bfloat16.
MAX_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Group:
    """The rows of a batch that one adapter answers."""

    slot: int
    #: Of at most MAX_ROWS each; slices where they stand together, which cost no copy.
    pieces: list[slice | torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One adapter's matrices of one layer, float32."""

    down: torch.Tensor  # (I, R)
    up: torch.Tensor  # (R, O)


class Adapters(PunicaWrapperCPU):
    """A subclass because vLLM's layers call a PunicaWrapper by its methods; nothing is inherited that computes."""

    def __init__(self, max_num_batched_tokens: int, max_batches: int, device: torch.device | str, **more: Any):
        super().__init__(max_num_batched_tokens, max_batches, device, **more)
        self._groups: list[Group] = []
        self._sampled: list[Group] = []
        #: By slot and the layer's first matrix; None: the adapter has none in that layer.
        self._packed: dict[int, dict[int, Packed | None]] = {}
        #: vLLM's list of what is in each slot, and a copy of what it held when they were packed.
        self._slots: list[int | None] = []
        self._held: list[int | None] = []

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **more: Any
    ) -> None:
        self._update_base_metadata(mapping, lora_index_to_id, max_loras, vocab_size)
        self._forget(lora_index_to_id)
        self._groups, self._sampled = grouped(self.token_lora_indices), grouped(self.sampler_indices)
        self.no_lora = not self._groups

    def _forget(self, slots: list[int | None]) -> None:
        """Drop what was packed of adapters that left their slots. An adapter that is replaced under its own id
        (`load_inplace`) would not be seen to: nobody asks for that here."""
        if slots is not self._slots:
            # All adapters were removed, those of vLLM's warm-up, whose ids are given again.
            self._slots, self._held = slots, [None] * len(slots)
            self._packed = {slot: {} for slot in range(len(slots))}
        for slot, (held, there) in enumerate(zip(self._held, slots, strict=True)):
            if held != there:
                self._packed[slot], self._held[slot] = {}, there

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
            if packed is not None:
                add(y, x, packed, group.pieces, scale)

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
        if len(x) != len(self.sampler_indices):
            # Logits of a prompt's tokens, of one request that nobody names: better without its adapter's part than
            # with other requests'.
            return
        # The logits may be padded, or not as the matrix is.
        width = min(y.shape[-1], lora_b_stacked.shape[-2])
        for group in self._sampled:
            packed = self._pack(group.slot, (lora_a_stacked,), (lora_b_stacked,), (width,))
            if packed is not None:
                add(y[:, :width], x, packed, group.pieces, scale)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, add_inputs: bool = True, **more: Any
    ) -> None:
        # x, (T, P), holds the rows of A already: those of slot 0 where there is no adapter.
        for group in self._groups:
            for rows in group.pieces:
                put(y, rows, torch.mm(x[rows], lora_b_stacked[group.slot, 0].T))

    def add_shrink(self, y: Any, x: torch.Tensor, lora_a_stacked: Any, scale: float, **more: Any) -> None:
        raise NotImplementedError("layers whose adapters are sharded in full are computed on GPUs only")

    def add_expand(
        self, y: torch.Tensor, x: Any, lora_b_stacked: Any, output_slices: Any, *rest: Any, **more: Any
    ) -> None:
        raise NotImplementedError("layers whose adapters are sharded in full are computed on GPUs only")

    def _pack(
        self, slot: int, downs: tuple[torch.Tensor, ...], ups: tuple[torch.Tensor, ...], sizes: tuple[int, ...]
    ) -> Packed | None:
        packed, layer = self._packed[slot], downs[0].data_ptr()
        if layer not in packed:
            packed[layer] = pack([down[slot, 0] for down in downs], [up[slot, 0] for up in ups], sizes)
        return packed[layer]


def grouped(slots: torch.Tensor) -> list[Group]:
    """Groups of the rows whose slots are told, (T,); -1: none."""
    there = [slot for slot in slots.unique().tolist() if slot >= 0]
    return [Group(slot=slot, pieces=pieces((slots == slot).nonzero()[:, 0])) for slot in there]


def pieces(rows: torch.Tensor) -> list[slice | torch.Tensor]:
    """Indices of rows, rising, in pieces that are computed at once."""
    return [
        slice(first, last + 1) if (last := int(piece[-1])) - (first := int(piece[0])) + 1 == len(piece) else piece
        for piece in rows.split(MAX_ROWS)
    ]


def add(y: torch.Tensor, x: torch.Tensor, packed: Packed, pieces: list[slice | torch.Tensor], scale: float) -> None:
    """Add `scale * x @ down @ up` to y, (T, O), in the rows of each piece."""
    for rows in pieces:
        put(y, rows, torch.mm(torch.mm(x[rows].float(), packed.down), packed.up), scale)


def put(y: torch.Tensor, rows: slice | torch.Tensor, more: torch.Tensor, scale: float = 1.0) -> None:
    if isinstance(rows, slice):
        y[rows].add_(more, alpha=scale)
    else:
        y.index_add_(0, rows, more.to(y.dtype), alpha=scale)


def pack(downs: list[torch.Tensor], ups: list[torch.Tensor], sizes: tuple[int, ...]) -> Packed | None:
    """Matrices (P, I) and (outputs, P) without their padding: rows of A that are zero add nothing, whatever B holds."""
    ranks = [rank_of(down) for down in downs]
    if not any(ranks):
        return None
    lowered = torch.cat([down[:rank] for down, rank in zip(downs, ranks, strict=True)]).float()
    up = lowered.new_zeros(sum(ranks), sum(sizes))
    row = column = 0
    for each, rank, size in zip(ups, ranks, sizes, strict=True):
        up[row : row + rank, column : column + size] = each[:size, :rank].T
        row, column = row + rank, column + size
    return Packed(down=lowered.T.contiguous(), up=up)


def rank_of(down: torch.Tensor) -> int:
    """Rows of A, (P, I), up to the last that is not zero."""
    used = down.any(dim=1).nonzero()
    return int(used[-1]) + 1 if len(used) else 0
