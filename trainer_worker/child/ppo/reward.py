"""The model that scores answers: a whole model with a score head, or an adapter beside the one that is trained.

An adapter shares the weights of the base with the training, which does not change them: it costs no second model.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from shared.errors import InvalidSpec
from trainer_worker.child import model as models
from trainer_worker.child import tokenizer
from trainer_worker.child.context import Context
from trainer_worker.child.model import HEAD
from trainer_worker.child.objective import Autocast
from trainer_worker.child.ppo.rollout import Rollouts, positions


class Scorer:
    """One number for each answer, from what the reward model makes of its last token."""

    def __init__(self, model: Any, autocast: Autocast):
        self.model = model.eval().requires_grad_(False)
        self._autocast = autocast
        inner = model.get_base_model() if isinstance(model, PeftModel) else model
        self._backbone = getattr(inner, inner.base_model_prefix)
        self._head = getattr(inner, HEAD).float()

    def to(self, device: torch.device) -> None:
        # A quantized model was loaded where it is, and refuses to be moved.
        if getattr(self.model, "quantization_method", None) is None:
            self.model.to(device)

    # b: answers, t: tokens of prompt and answer, h: width of the model
    def __call__(self, rollouts: Rollouts) -> torch.Tensor:  # -> b
        """The head reads the last token by its place: transformers would look for the last that is no padding, and
        pass over an end of turn where both are the same token."""
        attention = rollouts.attention
        with self._autocast():
            read = self._backbone(
                input_ids=rollouts.ids, attention_mask=attention, position_ids=positions(attention), use_cache=False
            )
        last = attention.shape[1] - 1 - attention.flip(1).argmax(dim=1)
        hidden = read.last_hidden_state[torch.arange(len(last), device=last.device), last]  # b h
        scores: torch.Tensor = self._head(hidden.float())[:, 0]
        return scores


def load(context: Context, base: PreTrainedModel, autocast: Autocast) -> Scorer:
    """Before the base gets an adapter of its own. Raises InvalidSpec for what is no reward model of this vocabulary."""
    run, given = context.run["reward"], context.spec.plugged["ppo"]
    if given.reward_model_type == "lora":
        return Scorer(with_adapter(beside(base), run["adapter_path"], "reward_model"), autocast)
    same_words(context, run["model_path"])
    whole = load_whole(
        context, run["model_path"], base.config._attn_implementation, headless=run["adapter_path"] is not None
    )
    if run["adapter_path"] is not None:
        whole = with_adapter(whole, run["adapter_path"], "reward_model_adapters")
    return Scorer(whole, autocast)


def beside(base: PreTrainedModel) -> PreTrainedModel:
    """A classification model around the same weights, in modules of its own: an adapter on it changes nothing else."""
    config = copy.deepcopy(base.config)
    config.num_labels = 1
    with init_empty_weights():
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    check_head(model, "reward_model")
    inner = getattr(base, base.base_model_prefix)
    shared: dict[int, Any] = {id(weight): weight for weight in inner.parameters()}
    setattr(model, model.base_model_prefix, copy.deepcopy(inner, shared))
    setattr(model, HEAD, torch.nn.Linear(config.hidden_size, 1, bias=False, device=inner.device))
    return model


def load_whole(context: Context, path: str, kernel: str, *, headless: bool) -> PreTrainedModel:
    """`headless`: an adapter brings the head. Raises InvalidSpec where there is none."""
    config = AutoConfig.from_pretrained(path)
    num_scores, config.num_labels = config.num_labels, 1
    model, told = AutoModelForSequenceClassification.from_pretrained(
        path, config=config, dtype=models.stored_dtype(config), attn_implementation=kernel, output_loading_info=True,
        # A head of another size is told below.
        ignore_mismatched_sizes=True,
        **models.quantized(context, context.spec.plugged["ppo"].reward_model_quantization_bit),
    )  # fmt: skip
    check_head(model, "reward_model")
    missing = [name for name in told["missing_keys"] if not (headless and name.startswith(HEAD))]
    if missing:
        text = f"is no reward model: it has no {missing[0]}; train one with stage rm"
        raise InvalidSpec(text, field="reward_model")
    if told["mismatched_keys"]:
        raise InvalidSpec(f"gives {num_scores} scores: a reward model gives one", field="reward_model")
    whole: PreTrainedModel = model
    return whole


def with_adapter(model: PreTrainedModel, path: str, field: str) -> PeftModel:
    """Raises InvalidSpec for an adapter without a score head."""
    adapted = PeftModel.from_pretrained(model, path)
    if HEAD not in (adapted.active_peft_config.modules_to_save or ()):
        raise InvalidSpec("is no reward model: the adapter has no score head; train one with stage rm", field=field)
    return adapted


def check_head(model: PreTrainedModel, field: str) -> None:
    if not isinstance(getattr(model, HEAD, None), torch.nn.Module):
        raise InvalidSpec(f"{type(model).__name__} has no head named {HEAD}: not supported", field=field)


def same_words(context: Context, path: str) -> None:
    """Answers are handed over as ids. Raises InvalidSpec where these mean other words to the reward model."""
    try:
        theirs = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError):
        return  # it brings none: nothing to compare
    ours = tokenizer.load(context.run["model_path"], context.spec)
    if theirs.get_vocab() != ours.get_vocab():
        text = "has another vocabulary than the model that is trained, and answers are scored as token ids"
        raise InvalidSpec(f"{text}: train a reward model on a base of the same family", field="reward_model")
