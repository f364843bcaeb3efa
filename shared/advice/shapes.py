"""The shape of a model as its config.json tells it: exact counts of weights, widths for activations.

Nothing is read from a name. What the shape does not hold: weights of vision and audio towers (only the text part is
trained here), and those that quantized files hold in other forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.advice.families import FAMILIES, Config, Family, Matrix, llama

#: Largest plausible number in a config: a posted one must not make numbers that cannot be shown.
MAX_SIZE = 10_000_000
#: What a model cannot be without, by the names under which families have it.
NEEDED = (
    ("num_hidden_layers", "n_layer", "num_layers"),
    ("hidden_size", "n_embd", "d_model"),
    ("num_attention_heads", "n_head"),
    ("vocab_size",),
)
#: Other numbers that are read as sizes.
SIZES = (
    "num_key_value_heads", "num_kv_heads", "head_dim", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size",
    "moe_intermediate_size", "shared_expert_intermediate_size", "num_experts", "num_local_experts",
    "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "first_k_dense_replace", "decoder_sparse_step",
    "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "n_positions",
    "max_position_embeddings", "num_ln_in_parallel_attn", "sliding_window",
)  # fmt: skip
#: Matrices of a gated MLP.
MLP = frozenset({"gate_proj", "up_proj", "down_proj"})
#: Families with learned positions.
POSITIONS = frozenset({"gpt2"})


class UnreadableShape(ValueError):
    """The config.json does not say what a shape needs."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One decoder-only language model."""

    #: `model_type` of its config.
    family: str
    #: Whether its blocks are listed; else they were taken for Llama's.
    is_known: bool
    is_gated: bool
    is_tied: bool
    #: Whether queries and keys have norms of their own.
    norms_queries: bool
    #: Whether adapters on the MLP go to the experts, and to them alone (see `adapted`).
    adapts_experts: bool
    #: Whether attention scores are capped, which no fused kernel here does.
    caps_scores: bool
    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    #: Width of the MLP that one token passes: for a mixture, of the experts it is sent to.
    inner: int
    vocab: int
    #: Longest sequence the model was made for, tokens; 0: not told.
    max_length: int
    matrices: tuple[Matrix, ...]
    #: Weights of norms and other vectors.
    vectors: int
    #: Weights of embeddings (tokens, and positions where they are learned).
    embedding: int
    #: Weights of an output of its own, 0 when it shares the embedding's.
    head: int
    #: Share of its experts that one token passes, 1 without experts.
    active_share: float
    #: Number format of its files as the config says it: "bfloat16", "float16", "float32".
    dtype: str
    #: `quant_method` of files that are quantized already, else empty.
    quantized: str

    @property
    def num_weights(self) -> int:
        return self.embedding + self.head + self.vectors + sum(matrix.num_weights for matrix in self.matrices)

    @property
    def num_active(self) -> int:
        """Weights that one token passes."""
        idle = sum(m.num_weights for m in self.matrices if m.is_expert and m.name != "router") * (1 - self.active_share)
        return round(self.num_weights - idle)

    @property
    def num_linear(self) -> int:
        """Weights of the linear layers inside the blocks: what is loaded in 4 or 8 bits."""
        return sum(m.count * m.inputs * m.outputs for m in self.matrices if not m.is_expert)

    @property
    def num_expert(self) -> int:
        return sum(m.num_weights for m in self.matrices if m.is_expert and m.name != "router")

    @property
    def largest_module(self) -> int:
        """Weights of the largest single module, which ZeRO-3 gathers at once."""
        blocks = [m.num_weights // (self.num_layers if m.is_expert else m.count) for m in self.matrices if m.count]
        return max(self.embedding, self.head, *blocks)

    def adapted(self, targets: Sequence[str], rank: int) -> int:
        """Weights of LoRA on these matrices (`all`: every linear layer of the blocks): r * (inputs + outputs) each. Of
        experts peft takes the joint gate and up matrix with twice the rank."""
        made = sum(rank * m.count * (m.inputs + m.outputs) for m in self.targeted(targets))
        if self.adapts_experts and ("all" in targets or not MLP.isdisjoint(targets)):
            for m in self.matrices:
                if m.is_expert and m.name != "router":
                    made += rank * (2 if "gate_up" in m.name else 1) * m.count * (m.inputs + m.outputs)
        return made

    def targeted(self, targets: Sequence[str]) -> Iterator[Matrix]:
        for matrix in self.matrices:
            goes_to_experts = self.adapts_experts and matrix.name in MLP
            if (
                not matrix.is_expert
                and not goes_to_experts
                and ("all" in targets or any(name.endswith(matrix.name) for name in targets))
            ):
                yield matrix

    def linear_names(self) -> list[str]:
        return sorted({matrix.name for matrix in self.matrices if not matrix.is_expert})


def read(raw: Mapping[str, Any]) -> Shape:
    """The shape that a config.json describes. Raises UnreadableShape."""
    text = raw.get("text_config")
    inner = {**raw, **text} if isinstance(text, dict) else dict(raw)
    _check(inner)
    config = Config(raw=inner)
    name = str(inner.get("model_type") or "")
    family = FAMILIES.get(name)
    return _shape(config, name, family or Family(blocks=llama), is_known=family is not None)


def _check(raw: Mapping[str, Any]) -> None:
    for names in NEEDED:
        value = next((raw[name] for name in names if raw.get(name) is not None), None)
        if value is None:
            raise UnreadableShape(f"config.json has no {names[0]}")
    for name in (*(name for names in NEEDED for name in names), *SIZES):
        value = raw.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SIZE):
            raise UnreadableShape(f"{name} is {str(value)[:40]!r}: must be a whole number up to {MAX_SIZE:,}")
    dense = raw.get("mlp_only_layers")
    if dense is not None and not (isinstance(dense, list) and all(type(layer) is int for layer in dense)):
        raise UnreadableShape(f"mlp_only_layers is {str(dense)[:40]!r}: must be a list of numbers of layers")
    if raw.get("decoder_sparse_step") == 0:
        raise UnreadableShape("decoder_sparse_step is 0: must be 1 or more")
    config = Config(raw=raw)
    if not (config.layers and config.hidden and config.heads and config.kv_heads and config.head_size):
        raise UnreadableShape("num_hidden_layers, hidden_size and the number and size of heads must be above 0")
    if config.layers > 10_000:
        raise UnreadableShape(f"num_hidden_layers is {config.layers}: at most 10,000")


def _shape(c: Config, name: str, family: Family, *, is_known: bool) -> Shape:
    blocks, vocab = family.blocks(c), int(c.get("vocab_size"))
    positions = int(c.get("n_positions", "max_position_embeddings", default=0))
    is_tied = bool(c.get("tie_word_embeddings", default=family.is_tied))
    quantized = c.get("quantization_config", default={})
    share = _active_share(c, blocks.matrices)
    return Shape(
        family=name,
        is_known=is_known,
        is_gated=family.is_gated,
        is_tied=is_tied,
        norms_queries=family.norms_queries,
        adapts_experts=family.adapts_experts and any(m.name in MLP and m.count for m in blocks.matrices),
        caps_scores=bool(c.get("attn_logit_softcapping")),
        num_layers=c.layers,
        hidden=c.hidden,
        num_heads=c.heads,
        num_kv_heads=_kv_heads(c, name),
        head_size=_head_size(c),
        inner=_inner(c, blocks.matrices, share),
        vocab=vocab,
        max_length=positions,
        matrices=blocks.matrices,
        vectors=blocks.vectors,
        embedding=(vocab + (positions if name in POSITIONS else 0)) * c.hidden,
        head=0 if is_tied else vocab * (c.hidden + (name == "phi")),
        active_share=share,
        dtype=str(c.get("dtype", "torch_dtype", default="float32")).removeprefix("torch."),
        quantized=str(quantized.get("quant_method", "")) if isinstance(quantized, dict) else "",
    )


def _kv_heads(c: Config, name: str) -> int:
    if name == "falcon" and c.get("multi_query", default=True) and not c.get("new_decoder_architecture"):
        return 1
    return int(c.get("num_kv_heads", default=c.kv_heads))


def _head_size(c: Config) -> int:
    """Of latent attention: what queries and keys have together."""
    if c.get("kv_lora_rank"):
        return int(c.get("qk_nope_head_dim", default=128)) + int(c.get("qk_rope_head_dim", default=64))
    return c.head_size


def _active_share(c: Config, matrices: Sequence[Matrix]) -> float:
    routers = [matrix.outputs for matrix in matrices if matrix.name == "router" and matrix.count]
    chosen = int(c.get("num_experts_per_tok", "experts_per_token", default=2))
    return min(chosen / max(routers[0], 1), 1.0) if routers else 1.0


def _inner(c: Config, matrices: Sequence[Matrix], share: float) -> int:
    """Mean over the layers of the width of all MLPs that a token passes."""
    down = [m for m in matrices if m.name in ("down_proj", "experts.down_proj")]
    if not any(m.is_expert for m in down):
        return c.inner
    return round(sum(m.inputs * m.count * (share if m.is_expert else 1) for m in down) / c.layers)
