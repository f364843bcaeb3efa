"""What the model makes of the data's own answers: the loss of each sample, or which answer of a pair is the better.

An evaluation's loss is the mean over all learned tokens of a dataset, as a validation's is; a pair counts as told right
where the better answer has the higher score (stage rm) or is the more probable (stage dpo), as a whole and by token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.nn.functional import logsigmoid

from shared.statistics import mean, ratio, told
from trainer_worker.child import likelihood
from trainer_worker.child.batch import Item, Pairs
from trainer_worker.child.datasets import Items
from trainer_worker.child.evaluation.loading import Loaded, moved
from trainer_worker.child.loss import nll
from trainer_worker.child.model import HEAD
from trainer_worker.child.objective import learned_logits

T = TypeVar("T")
Line = dict[str, Any]
#: From a batch of items to one line each.
Score = Callable[[Sequence[Item]], list[Line]]


def scorer(loaded: Loaded, stage: str) -> Score:
    if stage == "rm":
        from trainer_worker.child.stages.rm import Ranking  # takes seconds: the whole Trainer comes with it

        inner = loaded.model.get_base_model() if loaded.has_adapter else loaded.model
        # Weights of peft's copy of the head and of a whole model alike; computed in float32 as in a training.
        ranking = Ranking(head=getattr(inner, HEAD).float(), dtype=torch.float32, autocast=loaded.autocast)
        collate = Pairs(inner=loaded.collator, scored=True)
        return lambda items: rewards(ranking.scores(loaded.model, moved(collate(items), loaded.device)))
    if stage == "dpo":
        collate = Pairs(inner=loaded.collator)
        return lambda items: log_probabilities(loaded, moved(collate(items), loaded.device))
    return lambda items: token_losses(loaded, moved(loaded.collator(items), loaded.device))


# n: learned tokens of the batch, p: pairs
def token_losses(loaded: Loaded, batch: Mapping[str, Any]) -> list[Line]:
    logits, targets = learned_logits(loaded.model, batch, loaded.autocast), batch["targets"]  # n v, n
    losses, right = nll(logits, targets), logits.argmax(dim=1) == targets
    parts = zip(losses.double().split(batch["counts"]), right.split(batch["counts"]), strict=True)
    return [{"loss": float(own.sum()), "num_tokens": len(own), "num_right": int(hits.sum())} for own, hits in parts]


def rewards(scores: torch.Tensor) -> list[Line]:  # 2p
    return [{"chosen": chosen, "rejected": rejected} for chosen, rejected in scores.view(-1, 2).tolist()]


def log_probabilities(loaded: Loaded, batch: Mapping[str, Any]) -> list[Line]:
    tokens = likelihood.token_logps(loaded.model, batch, loaded.autocast)
    sums = likelihood.by_sample(tokens, batch["counts"]).view(-1, 2).tolist()
    counts = zip(batch["counts"][::2], batch["counts"][1::2], strict=True)
    return [
        {"chosen": chosen, "rejected": rejected, "num_tokens": number}
        for (chosen, rejected), number in zip(sums, counts, strict=True)
    ]


def batches(items: Items, size: int, done: int) -> Iterator[tuple[list[int], list[Item]]]:
    """Places and items, the longest first: what does not fit shows at once, and batches hold little padding. `done`
    are left out."""
    order = sorted(range(len(items)), key=lambda index: (-int(items.lengths[index]), index))
    for start in range(done, len(order), size):
        places = order[start : start + size]
        yield places, [items[place] for place in places]


def halving(score: Callable[[Sequence[T]], list[Line]], items: Sequence[T]) -> list[Line]:
    """The same with smaller batches where the memory does not suffice. Raises torch.OutOfMemoryError for one alone."""
    try:
        return score(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(items) // 2
    return halving(score, items[:half]) + halving(score, items[half:])


def measured(lines: Sequence[Line], stage: str) -> dict[str, float]:
    return pairs_measured(lines) if stage in ("rm", "dpo") else losses_measured(lines)


def losses_measured(lines: Sequence[Line]) -> dict[str, float]:
    counts = [line["num_tokens"] for line in lines]
    loss, error = ratio([line["loss"] for line in lines], counts)
    accuracy = ratio([line["num_right"] for line in lines], counts)
    perplexity = math.exp(min(loss, 700.0))
    # By the delta method: d exp(x) = exp(x) dx.
    widened = None if error is None else perplexity * error
    return told(eval_loss=(loss, error), perplexity=(perplexity, widened), eval_accuracy=accuracy) | {
        "num_tokens": sum(counts)
    }


def pairs_measured(lines: Sequence[Line]) -> dict[str, float]:
    """Under a training's names; of probabilities, also by token, since a longer answer is always less probable."""
    accuracy = mean([float(line["chosen"] > line["rejected"]) for line in lines])
    margin = mean([line["chosen"] - line["rejected"] for line in lines])
    if "num_tokens" not in lines[0]:
        differences = torch.tensor([line["chosen"] - line["rejected"] for line in lines], dtype=torch.float64)
        loss = mean((-logsigmoid(differences)).tolist())
        return told(**{"eval_loss": loss, "eval_accuracy": accuracy, "eval_rewards/margins": margin})
    by_token = [line["chosen"] / line["num_tokens"][0] > line["rejected"] / line["num_tokens"][1] for line in lines]
    return told(
        eval_accuracy=accuracy, eval_accuracy_by_token=mean(list(map(float, by_token))),
        **{"eval_logps/margins": margin},
    )  # fmt: skip
