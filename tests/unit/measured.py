"""Published peaks of memory, with what decides them in the stack that was measured.

`SETS` are one setup at several lengths, numbers in GiB a card as their tools print them (torch's and nvidia-smi's "GB"
are GiB). What differs from our own stack and is known from the code that was run is given as numbers: bytes that the
loss keeps of a logit, formats of what is trained. Not in the table, because nothing of it can be modelled here:
Unsloth's kernels (rows A, B, M), torchtune's optimizer inside the backward pass, activation offloading and 8-bit
states together (J full, K full, half of L), a 4-bit base shared by FSDP, which gathers a layer at a time (K 405B),
floors and estimates that ignore the length (M, N), configurations of mixtures that are told in part (Q: Llama-4-Scout,
GLM-4.5-Air), and a ratio between two libraries (R).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.advice import shapes
from shared.advice.memory import ENGINE, Trained, Training
from shared.advice.shapes import Shape

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
#: transformers of 2023: float32 logits, their shifted copy, log-softmax and its gradient, and the half-precision ones.
OLD_LOSS = 18.0
#: Today's, without the copy.
LOSS = 14.0
#: Qwen's own code: half-precision logits and their shifted copy, then float32 under autocast, or not (DeepSpeed).
QWEN_LOSS, QWEN_ENGINE_LOSS = 12.0, 8.0
#: Adapters in float32; in bfloat16 with float32 temporaries of the step.
ADAPTER = Trained(weight=4, gradient=4, optimizer=8)
#: All in bfloat16, with PyTorch 2.0's two temporaries of the step, and with a fused step.
PURE_OLD = Trained(weight=2, gradient=2, optimizer=4, step=4)
FUSED = Trained(weight=2, gradient=2, optimizer=4, step=0)


def shape(**fields: int | bool | str) -> Shape:
    return shapes.read({"model_type": "llama", "tie_word_embeddings": False, **fields})


def sized(hidden: int, layers: int, heads: int, keys: int, inner: int, vocab: int, **more: Any) -> Shape:
    return shape(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=keys,
                 intermediate_size=inner, vocab_size=vocab, **more)  # fmt: skip


LLAMA2_7B = sized(4096, 32, 32, 32, 11008, 32000)
QWEN_2B = sized(2048, 24, 16, 16, 5504, 151936)
QWEN_7B = sized(4096, 32, 32, 32, 11008, 151936)
QWEN_14B = sized(5120, 40, 40, 40, 13696, 152064)
QWEN_72B = sized(8192, 80, 64, 64, 24576, 152064)
LLAMA31_8B = sized(4096, 32, 32, 8, 14336, 128256)
LLAMA31_70B = sized(8192, 80, 64, 8, 28672, 128256)
LLAMA31_405B = sized(16384, 126, 128, 8, 53248, 128256)
LLAMA32_3B = sized(3072, 28, 24, 8, 8192, 128256, tie_word_embeddings=True)
GPT_OSS_20B = sized(2880, 24, 64, 8, 2880, 201088, model_type="gpt_oss", head_dim=64, num_local_experts=32,
                    num_experts_per_tok=4)  # fmt: skip
#: Bytes of a 4-bit weight: nf4 with double quantization, GPTQ in groups of 128.
NF4, GPTQ4 = 0.516, 0.52


def lora(model: Shape, rank: int, **rest: Any) -> Training:
    trained = rest.pop("num_trained", model.adapted(["all"], rank))
    return Training(
        shape=model, num_trained=trained, num_frozen=model.num_weights, **({"trained": ADAPTER, "element": 2} | rest)
    )


def full(model: Shape, **rest: Any) -> Training:
    return Training(shape=model, num_trained=model.num_weights, num_frozen=0, **rest)


@dataclass(frozen=True, kw_only=True)
class Set:
    row: str
    what: str
    training: Training
    #: Length of the sequence -> GiB on one card.
    measured: dict[int, float]
    #: Whether constants were chosen with it; the others only check them.
    calibrates: bool = False
    #: Lengths whose measurement is known to be further off than the bound.
    outside: tuple[int, ...] = ()


def _by_length(*values: float, cards: int = 1) -> dict[int, float]:
    return {length: value / cards for length, value in zip(LENGTHS, values, strict=False)}


_QWEN = {"learned": 1.0, "logit_bytes": QWEN_LOSS, "has_dropout": True}
_QWEN_ENGINE = {"logit_bytes": QWEN_ENGINE_LOSS, "zero": 2, "has_dropout": True, "trained": ENGINE}
_TUNE = {"rows": 2, "logit_bytes": LOSS, "has_overhead": False, "trained": FUSED}

SETS = (
    Set(row="A", what="Llama-2-7B QLoRA r8, FlashAttention-2", calibrates=True,
        training=lora(LLAMA2_7B, 8, frozen_bytes=NF4, logit_bytes=OLD_LOSS),
        measured={1024: 6, 2048: 7, 4096: 9, 8192: 12, 16384: 19, 32768: 32}),
    Set(row="B", what="Llama-2-7B LoRA r8, 4 x 1024, FlashAttention-2",
        training=lora(LLAMA2_7B, 8, rows=4, logit_bytes=OLD_LOSS), measured={1024: 17}),
    Set(row="B", what="Llama-2-7B LoRA r8, 4 x 1024, eager",
        training=lora(LLAMA2_7B, 8, rows=4, logit_bytes=OLD_LOSS, is_eager=True), measured={1024: 18}),
    Set(row="B", what="Llama-2-7B QLoRA r8, 4 x 1024, eager",
        training=lora(LLAMA2_7B, 8, rows=4, logit_bytes=OLD_LOSS, is_eager=True, frozen_bytes=NF4), measured={1024: 9}),
    Set(row="C", what="Qwen-7B LoRA r64",
        training=lora(QWEN_7B, 64, **_QWEN), measured=_by_length(20.1, 20.4, 21.5, 23.8, 29.7, 36.6)),
    Set(row="D", what="Qwen-7B QLoRA r64",
        training=lora(QWEN_7B, 64, frozen_bytes=GPTQ4, **_QWEN_ENGINE),
        measured=_by_length(11.5, 11.5, 12.3, 13.9, 16.9, 23.5)),
    Set(row="E", what="Qwen-7B LoRA r64 with embeddings trained",
        training=lora(QWEN_7B, 64, num_trained=QWEN_7B.adapted(["all"], 64) + QWEN_7B.embedding + QWEN_7B.head,
                      **(_QWEN | {"trained": PURE_OLD})),
        measured=_by_length(33.7, 34.1, 35.2, 35.1, 39.2, 48.5)),
    Set(row="F", what="Qwen-14B LoRA r64",
        training=lora(QWEN_14B, 64, **_QWEN), measured=_by_length(34.6, 35.1, 35.3, 37.4, 42.5, 55.2)),
    Set(row="F", what="Qwen-14B QLoRA r64",
        training=lora(QWEN_14B, 64, frozen_bytes=GPTQ4, **_QWEN_ENGINE),
        measured=_by_length(18.7, 18.4, 18.9, 19.9, 23.0, 27.9)),
    Set(row="G", what="Qwen-1.8B LoRA r64",
        # From 2,048 to 4,096 it took 2.5 KiB a token, twice what it took before and after: the allocator's.
        training=lora(QWEN_2B, 64, **_QWEN), calibrates=True, outside=(4096,),
        measured=_by_length(6.7, 7.4, 8.4, 11.0, 16.2, 21.8)),
    Set(row="G", what="Qwen-1.8B full", calibrates=True,
        training=full(QWEN_2B, trained=ENGINE, zero=2, logit_bytes=QWEN_LOSS),
        measured=_by_length(43.5, 43.5, 43.5, 43.5, 47.1, 48.3)),
    Set(row="H", what="Qwen-72B LoRA r64, ZeRO-3, a quarter of 4 cards",
        training=lora(QWEN_72B, 64, **(_QWEN_ENGINE | {"zero": 3, "num_devices": 4})),
        measured=_by_length(215.4, 217.7, 222.6, 228.8, 249.0, 289.2, cards=4)),
    Set(row="H", what="Qwen-72B QLoRA r64",
        training=lora(QWEN_72B, 64, frozen_bytes=GPTQ4, **_QWEN_ENGINE),
        measured=_by_length(61.4, 61.4, 62.9, 64.1, 68.0, 75.6)),
    Set(row="I", what="Qwen-7B full, ZeRO-3, half of 2 cards",
        training=full(QWEN_7B, trained=ENGINE, zero=3, num_devices=2, logit_bytes=QWEN_LOSS),
        measured=_by_length(139.2, 148.0, 162.0, cards=2)),
    Set(row="J", what="Llama-3.1-8B LoRA r8, 2 x 2048, checkpointing",
        training=lora(LLAMA31_8B, 8, **(_TUNE | {"logit_bytes": 0.5})), measured={2048: 16.2}),
    Set(row="J", what="Llama-3.1-8B LoRA r8, 2 x 2048, none",
        training=lora(LLAMA31_8B, 8, **(_TUNE | {"logit_bytes": 0.5, "checkpointing": False, "is_fused": True})),
        measured={2048: 30.3}),
    Set(row="J", what="Llama-3.1-8B QLoRA r8, 2 x 2048",
        training=lora(LLAMA31_8B, 8, frozen_bytes=NF4, **(_TUNE | {"logit_bytes": 0.5})), measured={2048: 7.4}),
    Set(row="K", what="Llama-3.1-70B LoRA r16, shared by 8 cards",
        training=lora(LLAMA31_70B, 16, zero=3, num_devices=8, **(_TUNE | {"logit_bytes": 0.5})),
        measured={2048: 27.6}),
    Set(row="L", what="Llama-3.2-3B full, packed, no checkpointing",
        training=full(LLAMA32_3B, checkpointing=False, accumulates=False, **_TUNE), measured={4096: 60.0}),
    Set(row="L", what="... compiled",
        training=full(LLAMA32_3B, checkpointing=False, accumulates=False, is_fused=True, **_TUNE),
        measured={4096: 51.0}),
    Set(row="L", what="... chunked cross-entropy",
        training=full(LLAMA32_3B, checkpointing=False, accumulates=False, is_fused=True,
                      **(_TUNE | {"logit_bytes": 0.5})),
        measured={4096: 42.9}),
    Set(row="L", what="... checkpointing",
        training=full(LLAMA32_3B, accumulates=False, is_fused=True, **(_TUNE | {"logit_bytes": 0.5})),
        measured={4096: 24.9}),
    Set(row="O", what="Llama-2-7B LoRA r8 with embeddings and norms, ZeRO-2 on 8 cards",
        training=lora(LLAMA2_7B, 8, zero=2, num_devices=8, logit_bytes=OLD_LOSS, trained=ENGINE,
                      num_trained=LLAMA2_7B.adapted(["all"], 8) + LLAMA2_7B.embedding),
        measured={8192: 25.7}),
    Set(row="Q", what="gpt-oss-20B LoRA, 4096, cut cross-entropy",
        training=lora(GPT_OSS_20B, 8, logit_bytes=0.5), measured={4096: 44.0}),
)  # fmt: skip
