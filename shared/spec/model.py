"""The model that a training starts from, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from shared.fields import Message, shown
from shared.param import MISSING, param
from shared.tongues import Text

ATTENTION = ("auto", "disabled", "sdpa", "fa2", "fa3")
#: Names that transformers has for the same.
SAME_ATTENTION = {"eager": "disabled", "flash_attention_2": "fa2", "flash_attention_3": "fa3"}
QUANTIZER = "bnb"
#: Libraries that LF knows besides.
OTHER_QUANTIZERS = ("gptq", "awq", "aqlm", "quanto", "eetq", "hqq", "mxfp4", "fp8")


def _attention(value: str) -> Message | None:
    if value in ATTENTION:
        return None
    near = Text("; did you mean {close!r}?", close=SAME_ATTENTION[value]) if value in SAME_ATTENTION else ""
    text = "is {value}: must be one of {allowed}{near}"
    return Message(text, "invalid_choice", value=shown(value), allowed=", ".join(ATTENTION), near=near)


def _other_quantizer(value: str) -> Message | None:
    if value == QUANTIZER:
        return None
    if value in OTHER_QUANTIZERS:
        text = "is {value!r}: only bitsandbytes quantizes a base that adapters learn beside; use bnb"
        return Message(text, "unsupported", value=value)
    return Message("is {value}: must be {allowed}", "invalid_choice", value=shown(value), allowed=QUANTIZER)


@dataclass(frozen=True, kw_only=True)
class Model:
    model_name_or_path: str = param(
        MISSING,
        "Model to train: a name of the catalog, a hub id, or a path under the server's import roots.",
        type=str,
        kind="model",
        aliases=("model",),
        advice="7B and below for simple tasks; 32B is a good choice for middle and large ones.",
    )
    adapter_name_or_path: str | None = param(
        None,
        "Adapter of the catalog whose training is continued (with `create_new_adapter`: merged in first). Of several, "
        "with commas between, all but the last are merged in first.",
        type=str,
        kind="model",
        deprecated=("checkpoint_dir",),
    )
    model_revision: str = param("main", "Branch, tag or commit when the model comes from the hub.")
    trust_remote_code: bool = param(
        False,
        "Whether the model may bring Python code of its own.",
        advice="Only models on the administrator's list may; others load without.",
    )
    flash_attn: str = param(
        "auto",
        "Attention kernel; `auto` takes the fastest that is there, `disabled` is eager attention.",
        choices=ATTENTION,
        check=_attention,
        advice="auto: eager attention keeps score matrices that grow with the square of the length.",
    )
    quantization_bit: int | None = param(
        None,
        "Load the frozen base in this many bits (QLoRA); only with finetuning_type lora.",
        type=int,
        choices=(4, 8),
        unit="bits",
        advice="4 for 7B and above on cards of 16 GB or less.",
        picture="A photo saved in fewer colours: a little detail is lost and much room is won.",
    )
    quantization_method: str = param(
        "bnb",
        "Library that quantizes while loading.",
        choices=(QUANTIZER,),
        check=_other_quantizer,
    )
    quantization_type: str = param("nf4", "Number format of 4-bit weights.", choices=("nf4", "fp4"))
    double_quantization: bool = param(True, "Whether the scales of 4-bit weights are quantized too.")
    disable_gradient_checkpointing: bool = param(
        False,
        "Keep all activations instead of computing them again in the backward pass.",
        advice="Leave false when memory is tight; true is faster when it is not.",
        picture="Keeping every sheet of scratch paper: no sum is done twice, but the desk must be large.",
    )
    use_reentrant_gc: bool = param(True, "Re-entrant variant of gradient checkpointing.")
    upcast_layernorm: bool = param(False, "Keep the weights of layer norms in float32.")
    enable_liger_kernel: bool = param(
        False, "Fused kernels (GPU only) that lower activation memory.", advice="true on NVIDIA cards."
    )
    hf_hub_token: str | None = param(
        None, "Hugging Face token for gated models; sealed apart from the job.", type=str, secret=True
    )

    @property
    def adapters(self) -> list[str]:
        """As LF has them: names with commas between, each upon those before it."""
        return [name.strip() for name in (self.adapter_name_or_path or "").split(",") if name.strip()]
