"""One file for llama.cpp and Ollama, written by llama.cpp's own conversion and quantized by its own code."""

from __future__ import annotations

from shared.declarations import Format

#: llama.cpp's names for its mixes of types, and the width that most weights have in each, bits. Where only a width is
#: asked for, the first name of that width is taken.
QUANTIZED = {
    "q4_k_m": 4, "q4_k_s": 4, "q4_0": 4, "q8_0": 8, "q6_k": 6, "q5_k_m": 5, "q5_k_s": 5, "q5_0": 5,
    "q3_k_m": 3, "q3_k_l": 3, "q3_k_s": 3, "q2_k": 2,
}  # fmt: skip
#: Types that quantize nothing, for those who quantize elsewhere.
FLOATS = ("f16", "bf16", "f32")

#: Architectures, as in config.json, that transformers loads and llama.cpp has.
ARCHITECTURES = (
    "AfmoeForCausalLM", "ApertusForCausalLM", "ArceeForCausalLM", "BambaForCausalLM", "BitNetForCausalLM",
    "BloomForCausalLM", "Cohere2ForCausalLM", "Cohere2MoeForCausalLM", "CohereForCausalLM", "DbrxForCausalLM",
    "DeepseekV2ForCausalLM", "DeepseekV32ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV4ForCausalLM",
    "Dots1ForCausalLM", "Ernie4_5ForCausalLM", "Ernie4_5_MoeForCausalLM", "Exaone4ForCausalLM",
    "ExaoneMoeForCausalLM", "FalconForCausalLM", "FalconH1ForCausalLM", "FalconMambaForCausalLM", "GPT2LMHeadModel",
    "GPTBigCodeForCausalLM", "GPTNeoXForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM",
    "Gemma3ForConditionalGeneration", "Gemma3nForCausalLM", "Gemma3nForConditionalGeneration",
    "Gemma4AssistantForCausalLM", "Gemma4ForCausalLM", "Gemma4ForConditionalGeneration",
    "Gemma4UnifiedAssistantForCausalLM", "Gemma4UnifiedForConditionalGeneration", "GemmaForCausalLM",
    "Glm4ForCausalLM", "Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM", "GlmForCausalLM", "GlmMoeDsaForCausalLM",
    "GptOssForCausalLM", "GraniteForCausalLM", "GraniteMoeForCausalLM", "GraniteMoeHybridForCausalLM",
    "GraniteMoeSharedForCausalLM", "HYV3ForCausalLM", "HunYuanDenseV1ForCausalLM", "HunYuanMoEV1ForCausalLM",
    "Jais2ForCausalLM", "JambaForCausalLM", "KimiLinearForCausalLM", "LagunaForCausalLM", "Lfm2ForCausalLM",
    "Lfm2MoeForCausalLM", "Llama4ForCausalLM", "LlamaForCausalLM", "Mamba2ForCausalLM", "MambaForCausalLM",
    "MellumForCausalLM", "MiMoV2FlashForCausalLM", "MiniCPM3ForCausalLM", "MiniMaxM2ForCausalLM",
    "Ministral3ForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "NemotronForCausalLM",
    "NemotronHForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "OlmoForCausalLM", "OlmoeForCausalLM",
    "Phi3ForCausalLM", "PhiForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM", "Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM",
    "SeedOssForCausalLM", "SmolLM3ForCausalLM", "SolarOpenForCausalLM", "StableLmForCausalLM",
    "Starcoder2ForCausalLM", "YoutuForCausalLM",
)  # fmt: skip

FORMAT = Format(
    name="gguf",
    doc="One GGUF file for llama.cpp and Ollama, with a Modelfile; export_gguf_type says how it is quantized.",
    bits=tuple(dict.fromkeys(QUANTIZED.values())),
    default_for=(2, 3, 5, 6),
    calibrated=True,
    programs=("llama.cpp", "Ollama"),
    converted=True,
    served=None,
)


def type_of_bits(bits: int | None) -> str:
    """What a width alone means; None: what most people download."""
    return next(name for name, width in QUANTIZED.items() if bits in (None, width))
