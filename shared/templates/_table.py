"""Of what each template is made: its words, its tool format, where an answer ends, and how it thinks.

Words are files of words/, later ones over earlier ones; several names share one. System prompts are in systems.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entry:
    words: tuple[str, ...]
    #: File of tools/.
    tools: str = "default"
    #: Texts at which an answer ends, besides the model's own end of text.
    stops: tuple[str, ...] = ()
    #: The words have no end of text: one stands at the end of the conversation, and ends every answer in the loss.
    ends_once: bool = False
    #: The first stop is the end-of-text token from then on.
    stop_is_eos: bool = False
    #: What stands before and after a thought; None: not for models that think.
    thought: tuple[str, str] | None = None
    #: How the thought is written that an answer does not have; None: the two words alone.
    empty_thought: str | None = None
    #: Made for pictures, sound or film too, of which only the text is written here.
    media: bool = False


IM_END = ("<|im_end|>",)
IM_BOTH = ("<|im_end|>", "<|im_start|>")
EOT = ("<|eot_id|>", "<|eom_id|>")
GLM = ("<|user|>", "<|observation|>")
THINK = ("<think>\n", "\n</think>\n\n")
TIGHT = ("<think>", "</think>")
ENTRIES: Mapping[str, Entry] = {
    "aeva": Entry(
        words=("glm4",), tools="glm4_moe", stops=GLM, ends_once=True, thought=TIGHT, empty_thought="</think>"
    ),
    "alpaca": Entry(words=("alpaca",)),
    "bailing": Entry(words=("bailing",), stops=("<|endoftext|>",), ends_once=True),
    "bailing_v2": Entry(words=("bailing_v2",), tools="ling", stops=("<|endoftext|>",), ends_once=True),
    "breeze": Entry(words=("breeze",), ends_once=True),
    "chatglm3": Entry(words=("chatglm3",), tools="glm4", stops=GLM, ends_once=True),
    "chatml": Entry(words=("chatml", "tool_role"), stops=IM_BOTH, stop_is_eos=True),
    "chatml_de": Entry(words=("chatml", "tool_role"), stops=IM_BOTH, stop_is_eos=True),
    "cohere": Entry(words=("cohere",)),
    "cpm4": Entry(words=("chatml", "tool_role", "begins_with_bos"), stops=IM_END),
    "dbrx": Entry(words=("chatml", "tool_role"), stops=IM_END, stop_is_eos=True),
    "deepseek": Entry(words=("deepseek",)),
    "deepseek3": Entry(words=("deepseek3",)),
    "deepseekcoder": Entry(words=("deepseekcoder",)),
    "deepseekr1": Entry(words=("deepseek3",), thought=THINK),
    "default": Entry(words=("default",)),
    "dots_ocr": Entry(words=("dots_ocr",), stops=("<|endofassistant|>",), ends_once=True, media=True),
    "empty": Entry(words=("empty",)),
    "ernie": Entry(words=("ernie",), stops=IM_END),
    "ernie_nothink": Entry(words=("ernie_nothink",), stops=("<|end_of_sentence|>",)),
    "ernie_vl": Entry(words=("ernie_vl",), stops=("<|end_of_sentence|>",), stop_is_eos=True, thought=THINK, media=True),
    "exaone": Entry(words=("exaone",)),
    "falcon": Entry(words=("falcon",), ends_once=True),
    "falcon_h1": Entry(words=("chatml", "tool_role", "begins_with_bos"), stops=("<|im_end|>", "<|end_of_text|>")),
    "fewshot": Entry(words=("fewshot",), ends_once=True),
    "gemma": Entry(words=("gemma",), stops=("<end_of_turn>",), stop_is_eos=True),
    "gemma2": Entry(words=("gemma",), stops=("<eos>", "<end_of_turn>"), ends_once=True),
    "gemma3": Entry(words=("gemma",), stops=("<end_of_turn>",), stop_is_eos=True, media=True),
    "gemma3n": Entry(words=("gemma",), stops=("<end_of_turn>",), stop_is_eos=True, media=True),
    "gemma4": Entry(
        words=("gemma4",),
        tools="gemma4",
        stops=("<turn|>",),
        stop_is_eos=True,
        thought=("<|channel>thought\n", "<channel|>"),
        media=True,
    ),
    "gemma4n": Entry(
        words=("gemma4",),
        tools="gemma4",
        stops=("<turn|>",),
        stop_is_eos=True,
        thought=("<|channel>thought\n", "<channel|>"),
        media=True,
    ),
    "glm4": Entry(words=("glm4",), tools="glm4", stops=GLM, ends_once=True),
    "glm4_5v": Entry(
        words=("glm4",),
        tools="glm4_moe",
        stops=("<|user|>", "<|observation|>", "</answer>"),
        ends_once=True,
        thought=THINK,
        media=True,
    ),
    "glm4_7": Entry(
        words=("glm4",), tools="glm4_moe", stops=GLM, ends_once=True, thought=TIGHT, empty_thought="</think>"
    ),
    "glm4_moe": Entry(words=("glm4",), tools="glm4_moe", stops=GLM, ends_once=True, thought=THINK),
    "glm4v": Entry(
        words=("glm4",),
        tools="glm4",
        stops=("<|user|>", "<|observation|>", "</answer>"),
        ends_once=True,
        thought=THINK,
        media=True,
    ),
    "glm_ocr": Entry(words=("glm4",), tools="glm4", stops=GLM, ends_once=True, media=True),
    "glmz1": Entry(words=("glm4",), tools="glm4", stops=GLM, ends_once=True, thought=THINK),
    "gpt_oss": Entry(
        words=("gpt_oss",),
        ends_once=True,
        thought=("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ),
    "granite3": Entry(words=("granite3",)),
    "granite3_vision": Entry(words=("granite3_vision",), media=True),
    "granite4": Entry(words=("granite3", "granite4"), stops=("<|end_of_text|>",)),
    "hunyuan": Entry(words=("hunyuan",), stops=("<|eos|>",)),
    "hunyuan_small": Entry(words=("hunyuan_small",), stops=("<\uff5chy_place\u2581holder\u2581no\u25812\uff5c>",)),
    "hy3": Entry(words=("hy3",), stops=("<\uff5chy_eos\uff5c>",), stop_is_eos=True, thought=TIGHT),
    "hy_dense_1_8b": Entry(
        words=("hy_dense_1_8b",), stops=("<\uff5chy_place\u2581holder\u2581no\u25812\uff5c>",), ends_once=True
    ),
    "hy_dense_7b": Entry(words=("hy_dense_7b",), stops=("<|eos|>",), ends_once=True),
    "index": Entry(words=("index",), ends_once=True),
    "intern2": Entry(words=("chatml", "begins_with_bos"), stops=IM_END),
    "intern_s1": Entry(words=("chatml", "begins_with_bos"), stops=IM_END, media=True),
    "intern_vl": Entry(words=("chatml", "begins_with_bos"), stops=IM_END, media=True),
    "keye_vl": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, thought=THINK, media=True),
    "kimi_vl": Entry(words=("kimi",), stops=IM_END, thought=("\u25c1think\u25b7", "\u25c1/think\u25b7"), media=True),
    "lfm2": Entry(words=("chatml", "lfm2"), tools="lfm2", stops=IM_END, stop_is_eos=True),
    "lfm2_vl": Entry(words=("chatml", "lfm2"), tools="lfm2", stops=IM_END, stop_is_eos=True, media=True),
    "llama2": Entry(words=("llama2",)),
    "llama2_zh": Entry(words=("llama2",)),
    "llama3": Entry(words=("llama3",), tools="llama3", stops=EOT, stop_is_eos=True),
    "llama4": Entry(words=("llama4",), tools="llama3", stops=("<|eot|>", "<|eom|>"), stop_is_eos=True, media=True),
    "llava": Entry(words=("vicuna",), media=True),
    "llava_next": Entry(words=("vicuna",), media=True),
    "llava_next_llama3": Entry(words=("llama3",), tools="llama3", stops=EOT, stop_is_eos=True, media=True),
    "llava_next_mistral": Entry(words=("mistral",), tools="mistral", media=True),
    "llava_next_qwen": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, media=True),
    "llava_next_video": Entry(words=("vicuna",), media=True),
    "llava_next_video_mistral": Entry(words=("mistral",), tools="mistral", media=True),
    "llava_next_video_yi": Entry(words=("chatml",), stops=IM_END, media=True),
    "llava_next_yi": Entry(words=("chatml",), stops=IM_END, media=True),
    "mimo": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, thought=THINK),
    "mimo_v2": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, thought=TIGHT),
    "mimo_vl": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, thought=THINK, media=True),
    "minicpm_o": Entry(words=("chatml",), stops=IM_END, media=True),
    "minicpm_v": Entry(words=("chatml",), stops=IM_END, media=True),
    "minicpm_v_4_6": Entry(words=("chatml",), stops=IM_END, media=True),
    "minimax1": Entry(words=("minimax1",), tools="minimax1", stops=("<end_of_sentence>",)),
    "minimax2": Entry(words=("minimax2",), tools="minimax2", stops=("[e~[",), thought=THINK),
    "ministral": Entry(words=("ministral",), tools="mistral"),
    "ministral3": Entry(words=("ministral",), tools="mistral", media=True),
    "mistral": Entry(words=("mistral",), tools="mistral"),
    "mistral_small": Entry(words=("mistral_small",), tools="mistral", media=True),
    "mllama": Entry(words=("llama3",), tools="llama3", stops=EOT, stop_is_eos=True, media=True),
    "moonlight": Entry(words=("kimi",), stops=IM_END, stop_is_eos=True),
    "moss_vl": Entry(words=("chatml", "qwen", "moss_vl"), tools="qwen", stops=IM_END, stop_is_eos=True, media=True),
    "olmo": Entry(words=("olmo",)),
    "openchat": Entry(words=("openchat",)),
    "openchat-3.6": Entry(words=("openchat-3.6",), stops=("<|eot_id|>",)),
    "opencoder": Entry(words=("chatml", "tool_role"), stops=IM_END),
    "paligemma": Entry(words=("paligemma",), media=True),
    "paligemma_chat": Entry(words=("paligemma_chat",), stops=("<end_of_turn>",), stop_is_eos=True, media=True),
    "phi": Entry(words=("phi",), stops=("<|end|>",), stop_is_eos=True),
    "phi4": Entry(words=("phi4",), stops=IM_END, stop_is_eos=True),
    "phi4_mini": Entry(words=("phi4_mini",), tools="phi4_mini", stops=("<|end|>",), stop_is_eos=True),
    "phi_small": Entry(words=("phi",), stops=("<|end|>",), stop_is_eos=True),
    "pixtral": Entry(words=("ministral",), tools="mistral", media=True),
    "qwen": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True),
    "qwen2_audio": Entry(words=("chatml",), stops=IM_END, stop_is_eos=True, media=True),
    "qwen2_omni": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, media=True),
    "qwen2_vl": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, media=True),
    "qwen3": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, thought=THINK),
    "qwen3_5": Entry(
        words=("chatml", "qwen"), tools="qwen3_5", stops=IM_END, stop_is_eos=True, thought=THINK, media=True
    ),
    "qwen3_5_nothink": Entry(words=("chatml", "qwen"), tools="qwen3_5", stops=IM_END, stop_is_eos=True, media=True),
    "qwen3_6": Entry(
        words=("chatml", "qwen"), tools="qwen3_5", stops=IM_END, stop_is_eos=True, thought=THINK, media=True
    ),
    "qwen3_nothink": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True),
    "qwen3_omni": Entry(
        words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, thought=THINK, media=True
    ),
    "qwen3_omni_nothink": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, media=True),
    "qwen3_vl": Entry(
        words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, thought=THINK, media=True
    ),
    "qwen3_vl_nothink": Entry(words=("chatml", "qwen"), tools="qwen", stops=IM_END, stop_is_eos=True, media=True),
    "sailor": Entry(words=("sailor",), stops=IM_END),
    "seed_coder": Entry(words=("seed",)),
    "seed_oss": Entry(words=("seed", "seed_oss"), tools="seed_oss", thought=("<seed:think>", "</seed:think>")),
    "smollm": Entry(words=("chatml",), stops=IM_END),
    "smollm2": Entry(words=("chatml",), stops=IM_END),
    "solar": Entry(words=("solar",), ends_once=True),
    "starchat": Entry(words=("starchat",), stops=("<|end|>",)),
    "telechat2": Entry(words=("telechat2",)),
    "vicuna": Entry(words=("vicuna",)),
    "video_llava": Entry(words=("vicuna",), media=True),
    "xuanyuan": Entry(words=("xuanyuan",)),
    "yi": Entry(words=("chatml",), stops=IM_END),
    "yi_vl": Entry(words=("yi_vl",), stops=("###",), ends_once=True, media=True),
    "youtu": Entry(words=("youtu",), stops=("<|end_of_text|>",), stop_is_eos=True, thought=THINK),
    "youtu_vl": Entry(words=("youtu_vl",), stops=("<|end_of_text|>",), media=True),
    "yuan": Entry(words=("yuan",), stops=("<eod>",)),
    "zephyr": Entry(words=("zephyr",)),
}
