"""Which template belongs to which model: by its name, and by the `model_type` of its config.

Names are matched in order, the special before the general. A type may be shared by many families (`llama` by dozens):
it tells which templates are out of place, the name tells which one is right.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache

from shared import templates
from shared.templates._table import ENTRIES
from shared.templates.render import Program

#: Pattern of a model's name, in lower case and without its owner -> the template it was taught.
NAMES: tuple[tuple[str, str], ...] = (
    (r"^aeva", "aeva"),
    (r"^breeze", "breeze"),
    (r"^chatglm3", "chatglm3"),
    (r"^(aya|c4ai-command)", "cohere"),
    (r"^minicpm-v-4[._]6", "minicpm_v_4_6"),
    (r"^minicpm-o", "minicpm_o"),
    (r"^minicpm-v", "minicpm_v"),
    (r"^minicpm4", "cpm4"),
    (r"^minicpm5", "empty"),
    (r"^dbrx", "dbrx"),
    (r"^deepseek-r1", "deepseekr1"),
    (r"^deepseek-(v3|v2\.5|v2-chat-0628)", "deepseek3"),
    (r"^deepseek-coder-(?!v2)", "deepseekcoder"),
    (r"^deepseek-(llm|math|moe|v2|coder-v2)", "deepseek"),
    (r"^dots\.ocr", "dots_ocr"),
    (r"^ernie-4\.5-vl", "ernie_vl"),
    (r"^ernie-4\.5.*thinking", "ernie"),
    (r"^ernie-4\.5", "ernie_nothink"),
    (r"^exaone-3\.0", "exaone"),
    (r"^falcon-h1", "falcon_h1"),
    (r"^falcon-(7b|11b|40b|180b)", "falcon"),
    (r"^gemma-4-(e\d|12b)", "gemma4n"),
    (r"^gemma-4", "gemma4"),
    (r"^gemma-3n", "gemma3n"),
    (r"^(gemma-2-|gemma-3-(270m|1b)|medgemma-27b-text)", "gemma2"),
    (r"^(gemma-3|medgemma)", "gemma3"),
    (r"^(codegemma|gemma-)", "gemma"),
    (r"^glm-4\.7", "glm4_7"),
    (r"^glm-4\.[56]v", "glm4_5v"),
    (r"^glm-4\.1v", "glm4v"),
    (r"^glm-4\.[56]", "glm4_moe"),
    (r"^glm-ocr", "glm_ocr"),
    (r"^glm-z1", "glmz1"),
    (r"^glm-4-", "glm4"),
    (r"^gpt-oss", "gpt_oss"),
    (r"^granite-vision", "granite3_vision"),
    (r"^granite-4", "granite4"),
    (r"^granite-3", "granite3"),
    (r"^hy-mt2-1\.8b", "hy_dense_1_8b"),
    (r"^hy-mt2-7b", "hy_dense_7b"),
    (r"^hy-mt1\.5-1\.8b", "hunyuan_small"),
    (r"^hy3", "hy3"),
    (r"^(hunyuan|hy-mt1\.5-7b)", "hunyuan"),
    (r"^index-1\.9b", "index"),
    (r"^intern-s1", "intern_s1"),
    (r"^internvl", "intern_vl"),
    (r"^internlm", "intern2"),
    (r"^keye-vl", "keye_vl"),
    (r"^kimi-vl", "kimi_vl"),
    (r"^lfm2.*vl", "lfm2_vl"),
    (r"^lfm2", "lfm2"),
    (r"^(ling|ring)-.*(2\.0|v2)", "bailing_v2"),
    (r"^ling-", "bailing"),
    (r"^llama3-llava-next", "llava_next_llama3"),
    (r"^llama-?4", "llama4"),
    (r"^llama-3\.2-\d+b-vision", "mllama"),
    (r"^((meta-)?llama-?3(?!\d)|mobilellm-r1)", "llama3"),
    (r"^chinese-(llama|alpaca)-2", "llama2_zh"),
    (r"^llama-(2|\d+b)", "llama2"),
    (r"^llava-next-video-7b-32k", "llava_next_video_mistral"),
    (r"^llava-next-video-34b", "llava_next_video_yi"),
    (r"^llava-next-video", "llava_next_video"),
    (r"^llava-next-", "llava_next_qwen"),
    (r"^llava-v1\.6-34b", "llava_next_yi"),
    (r"^llava-v1\.6-mistral", "llava_next_mistral"),
    (r"^llava-v1\.6", "llava_next"),
    (r"^llava-1\.5", "llava"),
    (r"^mimo-v2", "mimo_v2"),
    (r"^mimo-vl-7b-rl", "mimo_vl"),
    (r"^mimo-vl", "qwen2_vl"),
    (r"^mimo", "mimo"),
    (r"^minimax-m2", "minimax2"),
    (r"^minimax-(text|m1)", "minimax1"),
    (r"^ministral-3-", "ministral3"),
    (r"^(ministral|mistral-nemo)", "ministral"),
    (r"^(mistral-small|devstral-small)", "mistral_small"),
    (r"^(codestral|mistral-7b|mixtral)", "mistral"),
    (r"^moonlight", "moonlight"),
    (r"^moss-vl", "moss_vl"),
    (r"^olmo-.*instruct", "olmo"),
    (r"^openchat-3\.6", "openchat-3.6"),
    (r"^openchat", "openchat"),
    (r"^opencoder", "opencoder"),
    (r"^paligemma", "paligemma"),
    (r"^phi-4-mini", "phi4_mini"),
    (r"^phi-4", "phi4"),
    (r"^phi-3-small", "phi_small"),
    (r"^phi-3", "phi"),
    (r"^pixtral", "pixtral"),
    (r"^qwen2-audio", "qwen2_audio"),
    (r"^qwen2(\.5)?-omni", "qwen2_omni"),
    (r"^(qwen2(\.5)?-vl|qvq)", "qwen2_vl"),
    (r"^qwen3-omni.*thinking", "qwen3_omni"),
    (r"^qwen3-omni", "qwen3_omni_nothink"),
    (r"^qwen3-vl.*thinking", "qwen3_vl"),
    (r"^qwen3-vl", "qwen3_vl_nothink"),
    (r"^qwen3\.6", "qwen3_6"),
    (r"^qwen3\.5", "qwen3_5"),
    (r"^qwen3-.*instruct", "qwen3_nothink"),
    (r"^(qwen3-|qwen-agentworld|vibethinker)", "qwen3"),
    (r"^(qwen|codeqwen|qwq|kimi-dev)", "qwen"),
    (r"^sailor", "sailor"),
    (r"^seed-coder", "seed_coder"),
    (r"^seed-oss", "seed_oss"),
    (r"^smollm2", "smollm2"),
    (r"^smollm-", "smollm"),
    (r"^solar-10", "solar"),
    (r"^starchat", "starchat"),
    (r"^telechat2", "telechat2"),
    (r"^vicuna", "vicuna"),
    (r"^video-llava", "video_llava"),
    (r"^xuanyuan", "xuanyuan"),
    (r"^yi-vl", "yi_vl"),
    (r"^yi-", "yi"),
    (r"^youtu-vl", "youtu_vl"),
    (r"^youtu-llm", "youtu"),
    (r"^yuan2", "yuan"),
    (r"^zephyr", "zephyr"),
)
#: `model_type` -> the templates that models of this type were taught; the first is the likeliest.
TYPES: Mapping[str, tuple[str, ...]] = {
    "bailing_moe": ("bailing",),
    "bailing_moe_v2": ("bailing_v2",),
    "chatglm": ("glm4", "chatglm3"),
    "cohere": ("cohere",),
    "cohere2": ("cohere",),
    "dbrx": ("dbrx",),
    "deepseek_v2": ("deepseek", "deepseek3"),
    "deepseek_v3": ("deepseek3", "deepseekr1", "moonlight"),
    "ernie4_5": ("ernie_nothink",),
    "ernie4_5_moe": ("ernie_nothink", "ernie"),
    "exaone": ("exaone",),
    "falcon": ("falcon",),
    "falcon_h1": ("falcon_h1",),
    "gemma": ("gemma",),
    "gemma2": ("gemma2", "gemma"),
    "gemma3": ("gemma3", "gemma2", "gemma"),
    "gemma3_text": ("gemma2", "gemma3", "gemma"),
    "gemma3n": ("gemma3n", "gemma3", "gemma2", "gemma"),
    "gemma4": ("gemma4", "gemma4n"),
    "glm": ("glm4",),
    "glm4": ("glm4", "glmz1"),
    "glm4_moe": ("glm4_moe", "glm4_7"),
    "glm4v": ("glm4v",),
    "glm4v_moe": ("glm4_5v",),
    "gpt_oss": ("gpt_oss",),
    "granite": ("granite3",),
    "granitemoe": ("granite3",),
    "granitemoehybrid": ("granite4",),
    "hunyuan_v1_dense": ("hunyuan", "hunyuan_small", "hy_dense_1_8b", "hy_dense_7b"),
    "hunyuan_v1_moe": ("hunyuan",),
    "internlm2": ("intern2",),
    "internlm3": ("intern2",),
    "lfm2": ("lfm2",),
    "lfm2_vl": ("lfm2_vl",),
    "llama": (
        "llama3", "llama2", "llama2_zh", "deepseek", "deepseekcoder", "deepseekr1", "falcon", "index", "intern2",
        "openchat-3.6", "opencoder", "seed_coder", "smollm", "smollm2", "solar", "telechat2", "vicuna", "xuanyuan",
        "yi", "yuan",
    ),
    "llama4": ("llama4",),
    "lfm2_moe": ("lfm2",),
    "mimo": ("mimo",),
    "minicpm": ("cpm4",),
    "minimax": ("minimax1",),
    "minimax_m2": ("minimax2",),
    "mistral": ("mistral", "ministral", "mistral_small", "breeze", "openchat", "zephyr"),
    "mistral3": ("mistral_small", "ministral3"),
    "mixtral": ("mistral", "zephyr"),
    "mllama": ("mllama", "llama3"),
    "olmo": ("olmo",),
    "phi3": ("phi", "phi4", "phi4_mini", "phi_small"),
    "phimoe": ("phi",),
    "qwen2": ("qwen", "deepseekr1", "mimo", "sailor", "qwen3"),
    "qwen2_5_vl": ("qwen2_vl", "mimo_vl"),
    "qwen2_audio": ("qwen2_audio",),
    "qwen2_moe": ("qwen",),
    "qwen2_vl": ("qwen2_vl",),
    "qwen3": ("qwen3", "qwen3_nothink", "deepseekr1"),
    "qwen3_5": ("qwen3_5", "qwen3_5_nothink", "qwen3_6"),
    "qwen3_5_moe": ("qwen3_5", "qwen3_5_nothink", "qwen3_6"),
    "qwen3_moe": ("qwen3", "qwen3_nothink"),
    "qwen3_next": ("qwen3_nothink", "qwen3"),
    "qwen3_omni_moe": ("qwen3_omni", "qwen3_omni_nothink"),
    "qwen3_vl": ("qwen3_vl", "qwen3_vl_nothink"),
    "qwen3_vl_moe": ("qwen3_vl", "qwen3_vl_nothink"),
    "seed_oss": ("seed_oss",),
    "starcoder2": ("starchat",),
}  # fmt: skip
#: Forms that any model can be taught: nowhere out of place by family.
GENERAL = frozenset({"alpaca", "chatml", "chatml_de", "default", "empty", "fewshot"})
#: What words write as one special token.
TOKEN = re.compile(r"<[|\uff5c][^<>|\uff5c\s]+[|\uff5c]>")


def by_name(name: str) -> str | None:
    """The template of a model of this name (with or without its owner); None: the name says nothing."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return next((template for pattern, template in NAMES if re.search(pattern, last)), None)


def for_model(name: str = "", model_type: str | None = None, tokens: Collection[str] | None = None) -> tuple[str, ...]:
    """Templates that the model was taught, the likeliest first; `tokens`: every special token of its tokenizer."""
    named = by_name(name)
    found = dict.fromkeys([*([named] if named else []), *TYPES.get(model_type or "", ())])
    return tuple(one for one in found if tokens is None or not (needs(one) - set(tokens)))


def out_of_place(template: str, model_type: str | None) -> bool:
    """Whether no model of this type was taught the template."""
    taught = TYPES.get(model_type or "", ())
    return bool(taught) and template not in taught and template not in GENERAL


def siblings(template: str, right: str) -> bool:
    """Whether the two differ in thinking alone, or the template is for any model."""
    return template in GENERAL or template.removesuffix("_nothink") == right.removesuffix("_nothink")


@cache
def needs(template: str) -> frozenset[str]:
    """Special tokens that the template writes or stops at."""
    stops = {word for word in ENTRIES[template].stops if word.startswith("<") and word.endswith(">")}
    talk = [{"role": role, "content": ""} for role in ("system", "user", "assistant")]
    return frozenset(stops | set(TOKEN.findall(Program(templates.get(template).jinja).render(talk))))


def models_of(template: str) -> list[str]:
    """`model_type`s that use the template, for tables."""
    return sorted(kind for kind, made in TYPES.items() if template in made)
