"""The proof, before anything is published, that the files answer as the trained model does.

The base with its adapter beside it is read first, from the trainer's own files and through peft; then the written
files, loaded as a server will load them. Small models are compared in float32, so that what is seen is the files'
rounding and not that of the arithmetic. Limits are wide: a right merge lies several times below them, a wrong one (a
lost or doubled change, another base, a damaged file) several times above.
Not here: answers through vLLM, and comparing models that do not fit into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from export_worker.child.rows import Sample
from shared.errors import TunesmithError

#: Rows compared, and tokens of each: seconds on a CPU for a small model.
MAX_ROWS = 6
MAX_TOKENS = 256
#: Rows answered greedily, and tokens of each answer.
NUM_ANSWERS = 2
ANSWER_TOKENS = 24
#: Checkpoints up to this size are compared in float32.
FLOAT32_MAX_BYTES = 4 * 10**9


class VerificationFailed(TunesmithError):
    """The exported files do not answer as the trained model does; nothing was published."""

    code = "verification_failed"


@dataclass(frozen=True, kw_only=True)
class Limits:
    #: Norm of the difference of the logits over the norm of the logits.
    merge_relative: float = 0.05
    #: The same difference over the difference that the adapter makes: 1 means that it was lost.
    merge_of_effect: float = 0.5
    #: Below this relative effect rounding to the file's type hides the adapter, and its share says nothing.
    smallest_effect: float = 0.02
    #: Share of positions where the likeliest token is the same.
    merge_top1: float = 0.9
    #: Loss of the quantized model above the merged one's, nats per token.
    quantized_loss: float = 0.5


LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one model says about the rows."""

    logits: list[torch.Tensor]  # per row (scored tokens, vocabulary), float32
    #: Mean over all scored tokens, nats.
    loss: float
    answers: list[str]


def comparison_dtype(folder: Path) -> torch.dtype | str:
    size = sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    return torch.float32 if size <= FLOAT32_MAX_BYTES else "auto"


def shorten(samples: Sequence[Sample]) -> list[Sample]:
    """The rows that are compared: few, and of long ones the part where the scored tokens begin."""
    return [window(sample, max(0, sample.score_from - MAX_TOKENS // 2)) for sample in samples[:MAX_ROWS]]


def window(sample: Sample, start: int) -> Sample:
    return Sample(
        input_ids=sample.input_ids[start : start + MAX_TOKENS],
        score_from=sample.score_from - start,
        answer_from=min(sample.answer_from - start, MAX_TOKENS),
    )


@torch.inference_mode()
def read_logits(model: PreTrainedModel | PeftModel, samples: Sequence[Sample]) -> list[torch.Tensor]:
    found = []
    for sample in samples:
        ids = torch.tensor([sample.input_ids], device=model.device)  # (1, tokens)
        logits = model(input_ids=ids).logits[0]  # (tokens, vocabulary)
        found.append(logits[sample.score_from - 1 : -1].float().cpu())
    return found


def read_model(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample]
) -> Reading:
    logits = read_logits(model, samples)
    targets = torch.cat([torch.tensor(sample.input_ids[sample.score_from :]) for sample in samples])
    loss = torch.nn.functional.cross_entropy(torch.cat(logits), targets).item()
    return Reading(logits=logits, loss=loss, answers=[answer(model, tokenizer, one) for one in samples[:NUM_ANSWERS]])


@torch.inference_mode()
def answer(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, sample: Sample) -> str:
    prompt = torch.tensor([sample.input_ids[: sample.answer_from]], device=model.device)
    generated = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=ANSWER_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )
    return str(
        tokenizer.decode(generated[0, prompt.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


def read_effect(model: PreTrainedModel | PeftModel, reading: Reading, samples: Sequence[Sample]) -> float | None:
    """How far the adapter moves the logits from the base's, relative to their size; None without an adapter."""
    if not isinstance(model, PeftModel):
        return None
    with model.disable_adapter():
        return relative(reading.logits, read_logits(model, samples))


def relative(reference: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Norm of the difference over the norm of the reference, both free of the per-token constant softmax ignores."""
    a, b = (centred(torch.cat(list(logits))) for logits in (reference, other))
    return ((a - b).norm() / a.norm()).item()


def centred(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.mean(dim=-1, keepdim=True)


def compare(reference: Reading, other: Reading) -> dict[str, float]:
    a, b = torch.cat(reference.logits), torch.cat(other.logits)  # (all scored tokens, vocabulary)
    return {
        "max_abs_difference": (a - b).abs().max().item(),
        "relative_difference": relative(reference.logits, other.logits),
        "top1_agreement": (a.argmax(-1) == b.argmax(-1)).float().mean().item(),
        "loss_reference": reference.loss,
        "loss": other.loss,
        "perplexity": float(torch.tensor(other.loss).exp()),
        "num_tokens": len(a),
    }


def check_merge(trained: Reading, merged: Reading, effect: float | None, limits: Limits = LIMITS) -> dict[str, Any]:
    """The figures of the comparison. Raises VerificationFailed, with them, when one is beyond its limit."""
    found: dict[str, Any] = compare(trained, merged) | {"adapter_effect": effect, "limits": asdict(limits)}
    difference = found["relative_difference"]
    failures = []
    # Written so that a NaN fails: no comparison with it is true.
    if not difference <= limits.merge_relative:
        failures.append(f"logits differ by {difference:.3f} of their size (limit {limits.merge_relative})")
    if effect is not None and effect >= limits.smallest_effect and not difference <= limits.merge_of_effect * effect:
        failures.append(f"{difference / effect:.0%} of what the adapter does is lost")
    if not found["top1_agreement"] >= limits.merge_top1:
        failures.append(f"the likeliest token agrees at {found['top1_agreement']:.0%} (limit {limits.merge_top1:.0%})")
    _fail("the merged model does not answer as the trained one", failures)
    return found


def check_quantized(merged: Reading, quantized: Reading, limits: Limits = LIMITS) -> dict[str, Any]:
    """The figures of the quantized model against the merged one. Raises VerificationFailed beyond the limit."""
    found: dict[str, Any] = compare(merged, quantized)
    found |= {"loss_increase": quantized.loss - merged.loss, "limits": asdict(limits)}
    if not found["loss_increase"] <= limits.quantized_loss:
        increase = f"loss rises from {merged.loss:.3f} to {quantized.loss:.3f} nats per token"
        _fail("the quantized model is too far from the merged one", [f"{increase} (limit +{limits.quantized_loss})"])
    return found


def _fail(what: str, failures: Sequence[str]) -> None:
    if failures:
        raise VerificationFailed(f"{what}: {'; '.join(failures)}. Nothing was published.")
