"""Which weights the blocks of each model family have, from the fields of its config.json.

One function a family returns its matrices, from which everything is derived: parameter counts, adapters, activations.
The counts are compared with transformers' own models in tests/child/test_shapes.py. A family that is not listed is
read as Llama's, which most are copies of; `is_known` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Matrix:
    name: str
    inputs: int
    outputs: int
    #: How many of them the whole model has.
    count: int
    has_bias: bool = False
    #: Of an expert: held in one tensor with the others, which neither adapters nor 4-bit loading reach.
    is_expert: bool = False

    @property
    def num_weights(self) -> int:
        return self.count * self.outputs * (self.inputs + self.has_bias)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    matrices: tuple[Matrix, ...]
    #: Weights of norms and other vectors, of all layers and after the last.
    vectors: int


@dataclass(frozen=True, kw_only=True)
class Family:
    blocks: Callable[[Config], Blocks]
    #: Whether the output shares the embedding's weights where the config says nothing.
    is_tied: bool = False
    #: Whether its MLP has a gate: three matrices, not two.
    is_gated: bool = True
    #: Whether queries and keys have norms of their own.
    norms_queries: bool = False
    #: Whether peft takes the names of an MLP's matrices for those of the experts, where both are there.
    adapts_experts: bool = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """The numbers of a config.json under one name each."""

    raw: Mapping[str, Any]

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of these fields that is there and not null."""
        return next((self.raw[name] for name in names if self.raw.get(name) is not None), default)

    @property
    def layers(self) -> int:
        return int(self.get("num_hidden_layers", "n_layer", "num_layers"))

    @property
    def hidden(self) -> int:
        return int(self.get("hidden_size", "n_embd", "d_model"))

    @property
    def heads(self) -> int:
        return int(self.get("num_attention_heads", "n_head"))

    @property
    def kv_heads(self) -> int:
        return int(self.get("num_key_value_heads", default=self.heads))

    @property
    def head_size(self) -> int:
        return int(self.get("head_dim", default=self.hidden // self.heads))

    @property
    def inner(self) -> int:
        return int(self.get("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", default=4 * self.hidden))


def _attention(c: Config, *, qkv_bias: bool = False, out_bias: bool = False) -> list[Matrix]:
    width, narrow = c.heads * c.head_size, c.kv_heads * c.head_size
    return [
        Matrix(name="q_proj", inputs=c.hidden, outputs=width, count=c.layers, has_bias=qkv_bias),
        Matrix(name="k_proj", inputs=c.hidden, outputs=narrow, count=c.layers, has_bias=qkv_bias),
        Matrix(name="v_proj", inputs=c.hidden, outputs=narrow, count=c.layers, has_bias=qkv_bias),
        Matrix(name="o_proj", inputs=width, outputs=c.hidden, count=c.layers, has_bias=out_bias),
    ]


def _gated(c: Config, inner: int, count: int, *, has_bias: bool = False) -> list[Matrix]:
    return [
        Matrix(name="gate_proj", inputs=c.hidden, outputs=inner, count=count, has_bias=has_bias),
        Matrix(name="up_proj", inputs=c.hidden, outputs=inner, count=count, has_bias=has_bias),
        Matrix(name="down_proj", inputs=inner, outputs=c.hidden, count=count, has_bias=has_bias),
    ]


def _two(c: Config, first: str, second: str, *, has_bias: bool = True) -> list[Matrix]:
    return [
        Matrix(name=first, inputs=c.hidden, outputs=c.inner, count=c.layers, has_bias=has_bias),
        Matrix(name=second, inputs=c.inner, outputs=c.hidden, count=c.layers, has_bias=has_bias),
    ]


def _experts(c: Config, inner: int, num_experts: int, layers: int, *, has_bias: bool = False) -> list[Matrix]:
    count = num_experts * layers
    return [
        Matrix(name="experts.gate_up_proj", inputs=c.hidden, outputs=2 * inner, count=count, has_bias=has_bias,
               is_expert=True),
        Matrix(name="experts.down_proj", inputs=inner, outputs=c.hidden, count=count, has_bias=has_bias,
               is_expert=True),
    ]  # fmt: skip


def _norms(c: Config, per_layer: float, *, has_bias: bool = False, last: bool = True) -> int:
    """`per_layer` vectors of the hidden width in each layer, and one after the last."""
    return int((c.layers * per_layer + last) * c.hidden * (1 + has_bias))


def llama(c: Config) -> Blocks:
    bias = bool(c.get("attention_bias", default=False))
    attention = _attention(c, qkv_bias=bias, out_bias=bias)
    mlp = _gated(c, c.inner, c.layers, has_bias=bool(c.get("mlp_bias", default=False)))
    return Blocks(matrices=(*attention, *mlp), vectors=_norms(c, 2))


def qwen2(c: Config) -> Blocks:
    return Blocks(matrices=(*_attention(c, qkv_bias=True), *_gated(c, c.inner, c.layers)), vectors=_norms(c, 2))


def qwen3(c: Config) -> Blocks:
    made = llama(c)
    return Blocks(matrices=made.matrices, vectors=made.vectors + 2 * c.layers * c.head_size)


def gemma2(c: Config) -> Blocks:
    made = llama(c)
    return Blocks(matrices=made.matrices, vectors=_norms(c, 4))


def gemma3(c: Config) -> Blocks:
    return Blocks(matrices=gemma2(c).matrices, vectors=_norms(c, 4) + 2 * c.layers * c.head_size)


def olmo2(c: Config) -> Blocks:
    """Norms after attention and MLP, and over all heads of queries and keys."""
    width = (c.heads + c.kv_heads) * c.head_size
    return Blocks(matrices=llama(c).matrices, vectors=_norms(c, 2) + c.layers * width)


def _fused(c: Config, *, qkv_bias: bool = False) -> list[Matrix]:
    width = (c.heads + 2 * c.kv_heads) * c.head_size
    return [
        Matrix(name="qkv_proj", inputs=c.hidden, outputs=width, count=c.layers, has_bias=qkv_bias),
        Matrix(name="o_proj", inputs=c.heads * c.head_size, outputs=c.hidden, count=c.layers),
    ]


def _fused_mlp(c: Config) -> list[Matrix]:
    return [
        Matrix(name="gate_up_proj", inputs=c.hidden, outputs=2 * c.inner, count=c.layers),
        Matrix(name="down_proj", inputs=c.inner, outputs=c.hidden, count=c.layers),
    ]


def phi3(c: Config) -> Blocks:
    return Blocks(matrices=(*_fused(c), *_fused_mlp(c)), vectors=_norms(c, 2))


def glm4(c: Config) -> Blocks:
    attention = _attention(c, qkv_bias=bool(c.get("attention_bias", default=False)))
    return Blocks(matrices=(*attention, *_fused_mlp(c)), vectors=_norms(c, 4))


def phi(c: Config) -> Blocks:
    attention = _attention(c, qkv_bias=True, out_bias=True)
    norms = _norms(c, 1, has_bias=True)
    if c.get("qk_layernorm", default=False):
        norms += 4 * c.layers * c.head_size
    return Blocks(matrices=(*attention, *_two(c, "fc1", "fc2")), vectors=norms)


def starcoder2(c: Config) -> Blocks:
    bias = bool(c.get("use_bias", default=True))
    attention = _attention(c, qkv_bias=bias, out_bias=bias)
    return Blocks(matrices=(*attention, *_two(c, "c_fc", "c_proj", has_bias=bias)), vectors=_norms(c, 2, has_bias=True))


def gpt2(c: Config) -> Blocks:
    attention = [
        Matrix(name="c_attn", inputs=c.hidden, outputs=3 * c.hidden, count=c.layers, has_bias=True),
        Matrix(name="c_proj", inputs=c.hidden, outputs=c.hidden, count=c.layers, has_bias=True),
    ]
    return Blocks(matrices=(*attention, *_two(c, "c_fc", "c_proj")), vectors=_norms(c, 2, has_bias=True))


def _joint(c: Config, *, width: int, has_bias: bool) -> list[Matrix]:
    return [
        Matrix(name="query_key_value", inputs=c.hidden, outputs=width, count=c.layers, has_bias=has_bias),
        Matrix(name="dense", inputs=c.hidden, outputs=c.hidden, count=c.layers, has_bias=has_bias),
    ]


def gpt_neox(c: Config) -> Blocks:
    attention = _joint(c, width=3 * c.hidden, has_bias=bool(c.get("attention_bias", default=True)))
    mlp = _two(c, "dense_h_to_4h", "dense_4h_to_h")
    return Blocks(matrices=(*attention, *mlp), vectors=_norms(c, 2, has_bias=True))


def falcon(c: Config) -> Blocks:
    is_new, bias = bool(c.get("new_decoder_architecture")), bool(c.get("bias", default=False))
    one_key = bool(c.get("multi_query", default=True)) and not is_new
    kv_heads = int(c.get("num_kv_heads", default=c.heads)) if is_new else 1 if one_key else c.heads
    attention = _joint(c, width=(c.heads + 2 * kv_heads) * c.head_size, has_bias=bias)
    mlp = _two(c, "dense_h_to_4h", "dense_4h_to_h", has_bias=bias)
    in_parallel = bool(c.get("parallel_attn", default=True))
    norms = int(c.get("num_ln_in_parallel_attn", default=2)) if is_new and in_parallel else 1 if in_parallel else 2
    return Blocks(matrices=(*attention, *mlp), vectors=_norms(c, norms, has_bias=True))


def mixtral(c: Config) -> Blocks:
    num_experts = int(c.get("num_local_experts", default=8))
    router = Matrix(name="router", inputs=c.hidden, outputs=num_experts, count=c.layers, is_expert=True)
    experts = _experts(c, c.inner, num_experts, c.layers)
    return Blocks(matrices=(*_attention(c), router, *experts), vectors=_norms(c, 2))


def gpt_oss(c: Config) -> Blocks:
    num_experts = int(c.get("num_local_experts", default=128))
    bias = bool(c.get("attention_bias", default=True))
    router = Matrix(name="router", inputs=c.hidden, outputs=num_experts, count=c.layers, has_bias=True, is_expert=True)
    experts = _experts(c, c.inner, num_experts, c.layers, has_bias=True)
    sinks = c.layers * c.heads
    attention = _attention(c, qkv_bias=bias, out_bias=bias)
    return Blocks(matrices=(*attention, router, *experts), vectors=_norms(c, 2) + sinks)


def _sparse_layers(c: Config) -> int:
    """Layers with experts where every `decoder_sparse_step`-th has them, but for those listed."""
    step, dense = int(c.get("decoder_sparse_step", default=1)), c.get("mlp_only_layers", default=())
    return sum(1 for layer in range(c.layers) if layer not in dense and (layer + 1) % step == 0)


def _qwen_experts(c: Config) -> list[Matrix]:
    sparse, num_experts = _sparse_layers(c), int(c.get("num_experts", "num_local_experts", default=128))
    inner = int(c.get("moe_intermediate_size", default=c.inner))
    router = Matrix(name="router", inputs=c.hidden, outputs=num_experts, count=sparse, is_expert=True)
    return [router, *_experts(c, inner, num_experts, sparse), *_gated(c, c.inner, c.layers - sparse)]


def qwen2_moe(c: Config) -> Blocks:
    shared, sparse = int(c.get("shared_expert_intermediate_size", default=5632)), _sparse_layers(c)
    gate = Matrix(name="shared_expert_gate", inputs=c.hidden, outputs=1, count=sparse)
    attention = _attention(c, qkv_bias=bool(c.get("qkv_bias", default=True)))
    beside = (*_gated(c, shared, sparse), gate)
    return Blocks(matrices=(*attention, *_qwen_experts(c), *beside), vectors=_norms(c, 2))


def qwen3_moe(c: Config) -> Blocks:
    bias = bool(c.get("attention_bias", default=False))
    attention = _attention(c, qkv_bias=bias, out_bias=bias)
    norms = _norms(c, 2) + 2 * c.layers * c.head_size
    return Blocks(matrices=(*attention, *_qwen_experts(c)), vectors=norms)


def _latent(c: Config) -> tuple[list[Matrix], int]:
    """Multi-head latent attention: keys and values through a narrow matrix; and the weights of its norms."""
    bias = bool(c.get("attention_bias", default=False))
    rank, rope = int(c.get("kv_lora_rank", default=512)), int(c.get("qk_rope_head_dim", default=64))
    nope, value = int(c.get("qk_nope_head_dim", default=128)), int(c.get("v_head_dim", default=128))
    queries, inputs = c.get("q_lora_rank"), c.hidden
    made, norms = [], c.layers * rank
    if queries:
        made.append(Matrix(name="q_a_proj", inputs=c.hidden, outputs=queries, count=c.layers, has_bias=bias))
        norms, inputs = norms + c.layers * queries, queries
    first = "q_b_proj" if queries else "q_proj"
    made += [
        Matrix(name=first, inputs=inputs, outputs=c.heads * (nope + rope), count=c.layers),
        Matrix(name="kv_a_proj_with_mqa", inputs=c.hidden, outputs=rank + rope, count=c.layers, has_bias=bias),
        Matrix(name="kv_b_proj", inputs=rank, outputs=c.heads * (nope + value), count=c.layers),
        Matrix(name="o_proj", inputs=c.heads * value, outputs=c.hidden, count=c.layers, has_bias=bias),
    ]
    return made, norms


def _routed(c: Config) -> list[Matrix]:
    """DeepSeek's experts: the first layers dense, some experts for every token."""
    dense = min(int(c.get("first_k_dense_replace", default=0)), c.layers)
    sparse, inner = c.layers - dense, int(c.get("moe_intermediate_size", default=c.inner))
    num_experts = int(c.get("n_routed_experts", default=64))
    num_shared = int(c.get("n_shared_experts", default=0))
    router = Matrix(name="router", inputs=c.hidden, outputs=num_experts, count=sparse, is_expert=True)
    beside = _gated(c, inner * num_shared, sparse) if num_shared else []
    return [router, *_experts(c, inner, num_experts, sparse), *beside, *_gated(c, c.inner, dense)]


def deepseek(c: Config) -> Blocks:
    attention, norms = _latent(c)
    return Blocks(matrices=(*attention, *_routed(c)), vectors=_norms(c, 2) + norms)


def glm4_moe(c: Config) -> Blocks:
    attention = _attention(c, qkv_bias=bool(c.get("attention_bias", default=False)))
    norms = 2 * c.layers * c.head_size if c.get("use_qk_norm", default=False) else 0
    return Blocks(matrices=(*attention, *_routed(c)), vectors=_norms(c, 2) + norms)


#: By `model_type`.
FAMILIES: Mapping[str, Family] = {
    **{name: Family(blocks=llama) for name in ("llama", "mistral", "ministral", "smollm3", "seed_oss", "granite")},
    "qwen2": Family(blocks=qwen2),
    "qwen3": Family(blocks=qwen3, norms_queries=True),
    "gemma": Family(blocks=llama, is_tied=True),
    "gemma2": Family(blocks=gemma2, is_tied=True),
    "gemma3_text": Family(blocks=gemma3, is_tied=True, norms_queries=True),
    "olmo2": Family(blocks=olmo2, norms_queries=True),
    "phi": Family(blocks=phi, is_gated=False),
    "phi3": Family(blocks=phi3),
    "glm4": Family(blocks=glm4),
    "starcoder2": Family(blocks=starcoder2, is_tied=True, is_gated=False),
    "gpt2": Family(blocks=gpt2, is_tied=True, is_gated=False),
    "gpt_neox": Family(blocks=gpt_neox, is_gated=False),
    "falcon": Family(blocks=falcon, is_tied=True, is_gated=False),
    "mixtral": Family(blocks=mixtral),
    "qwen2_moe": Family(blocks=qwen2_moe),
    "qwen3_moe": Family(blocks=qwen3_moe, norms_queries=True, adapts_experts=True),
    "deepseek_v2": Family(blocks=deepseek, adapts_experts=True),
    "deepseek_v3": Family(blocks=deepseek, adapts_experts=True),
    "glm4_moe": Family(blocks=glm4_moe, adapts_experts=True),
    "gpt_oss": Family(blocks=gpt_oss),
}
