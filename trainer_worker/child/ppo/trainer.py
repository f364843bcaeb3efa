"""The training of stage ppo: at each step answers are drawn, judged, and learned from, several times over.

A step of the Trainer, of its schedule and its checkpoints is one round of answers, as in LLaMA Factory: ppo_epochs
passes over them, each in ppo_buffer_size changes of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from trainer_worker.child.objective import Autocast
from trainer_worker.child.ppo import equations
from trainer_worker.child.ppo.objective import Carried
from trainer_worker.child.ppo.reward import Scorer
from trainer_worker.child.ppo.rollout import Rollouts, draw, look
from trainer_worker.child.trainer import StageTrainer


@dataclass(frozen=True, kw_only=True)
class Actors:
    """Who takes part beside the model that is trained."""

    #: The model as it was at first.
    reference: torch.nn.Module
    scorer: Scorer
    drawing: GenerationConfig
    autocast: Autocast

    def to(self, device: torch.device) -> None:
        self.reference.to(device)
        self.scorer.to(device)


# b: answers, n: tokens of the longest
@dataclass(frozen=True, kw_only=True)
class Experience:
    """Answers, and what was thought of them when they were drawn; all b n."""

    rollouts: Rollouts
    logprobs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def rows(self, chosen: torch.Tensor) -> Experience:
        tensors = {name: value[chosen] for name, value in vars(self).items() if name != "rollouts"}
        return Experience(rollouts=self.rollouts.rows(chosen), **tensors)


class PpoTrainer(StageTrainer):
    objective: Carried

    def __init__(self, *given: Any, actors: Actors, **rest: Any):
        super().__init__(*given, **rest)
        self.actors = actors
        spec = self.context.spec
        self._ppo, self._temperature = spec.plugged["ppo"], spec.drawing.temperature
        # Answers of a small batch, and small batches of one change of the weights.
        self._num_at_once = spec.train.per_device_train_batch_size
        self._num_small = spec.train.gradient_accumulation_steps

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        optimizer.add_param_group({"params": list(self.objective.head.parameters()), "weight_decay": 0.0})
        return optimizer

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One round. The Trainer itself takes the last change of the weights, and the step of the schedule."""
        experience = self._experience(self._prepare_inputs(inputs))
        attention = experience.rollouts.attention
        self.throughput.add_answers(int(attention.sum()), len(attention))
        model.train()
        loss, changes = torch.zeros((), device=self.args.device), list(self._changes(len(experience.rollouts)))
        for number, batches in enumerate(changes, start=1):
            loss += self._accumulate(model, [experience.rows(rows) for rows in batches]) / len(changes)
            if number < len(changes):
                self._clip_grad_norm(model)
                self.optimizer.step()
        return loss

    @torch.no_grad()
    def _experience(self, prompts: dict[str, torch.Tensor]) -> Experience:
        self.model.eval()
        with self.actors.autocast():
            rollouts = draw(self.model, prompts, self.actors.drawing, self._num_at_once)
        parts = [self._looked_at(rollouts.rows(rows)) for rows in self._small(torch.arange(len(rollouts)))]
        scores, logprobs, reference, values = (torch.cat(part) for part in zip(*parts, strict=True))
        mask = rollouts.mask
        divergence = ((logprobs - reference) * mask).sum(dim=1)
        self._tell(rollouts, scores, divergence)
        rewards = equations.token_rewards(
            self._normalised(scores), logprobs, reference, mask, self.objective.penalty.coefficient
        )
        if self._ppo.ppo_whiten_rewards:
            rewards = equations.whitened(rewards, mask, self._sum, centred=False)
        advantages = equations.advantages(rewards, values, mask)
        total, count = self._sum([divergence.sum().item(), float(len(divergence))])
        self.objective.penalty.steer(total / count, int(count))
        return Experience(
            rollouts=rollouts,
            logprobs=logprobs,
            values=values,
            advantages=equations.whitened(advantages, mask, self._sum),
            returns=advantages + values,
        )

    def _looked_at(self, rollouts: Rollouts) -> tuple[torch.Tensor, ...]:
        """Scores (b); log-probabilities of the policy and of the reference, and values (b n)."""
        scores = self.actors.scorer(rollouts)
        with self.actors.autocast():
            logprobs, hidden = look(self.model, rollouts, self._temperature)
            reference, _ = look(self.actors.reference, rollouts, self._temperature)
        return scores, logprobs, reference, self._values(hidden, rollouts.mask)

    def _values(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # b n h, b n -> b n
        values: torch.Tensor = self.objective.head(hidden.float())[..., 0] * mask
        return values

    def _normalised(self, scores: torch.Tensor) -> torch.Tensor:
        if not self._ppo.ppo_score_norm:
            return scores
        self.objective.scores.take(scores, self._sum)
        return self.objective.scores.normalised(scores)

    def _tell(self, rollouts: Rollouts, scores: torch.Tensor, divergence: torch.Tensor) -> None:
        count = len(rollouts)
        ends = torch.tensor(self.actors.drawing.eos_token_id, device=scores.device)
        ended = (torch.isin(rollouts.answers, ends) & rollouts.mask).any(dim=1)
        told = {
            "reward": scores.sum(),
            "objective/kl": divergence.sum(),
            "objective/kl_coefficient": self.objective.penalty.coefficient * count,
            "answers/length": rollouts.mask.sum(),
            "answers/ended": ended.sum(),
        }
        self._add(self._sums, {name: (value, count) for name, value in told.items()})

    def _changes(self, count: int) -> Iterator[list[torch.Tensor]]:
        """The rows of each change of the weights, in small batches; every pass in an order of its own."""
        size = self._num_at_once * self._num_small
        for _ in range(self._ppo.ppo_epochs):
            for rows in torch.randperm(count).split(size):
                yield list(self._small(rows))

    def _small(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return rows.split(self._num_at_once)

    def _accumulate(self, model: Any, batches: list[Experience]) -> torch.Tensor:
        """Gradients of one change, a mean over its answers' tokens in all processes; the loss."""
        self.optimizer.zero_grad()
        (num_tokens,) = self._sum([float(sum(int(batch.rollouts.mask.sum()) for batch in batches))])
        loss = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(batches, start=1):
            # Gradients are exchanged once, after the last small batch.
            with self.accelerator.no_sync(model) if number < len(batches) else nullcontext():
                # Times the processes, because their gradients are averaged.
                part = self._loss(model, batch) * (self.args.world_size / num_tokens)
                self.accelerator.backward(part)
            loss += part.detach()
        for weight in self.objective.head.parameters():  # outside of what exchanges the model's
            weight.grad = self.accelerator.reduce(weight.grad, "mean")
        return loss

    def _loss(self, model: Any, batch: Experience) -> torch.Tensor:
        rollouts = batch.rollouts
        with self.actors.autocast():
            logprobs, hidden = look(model, rollouts, self._temperature)
        found = equations.losses(
            logprobs=logprobs,
            values=self._values(hidden, rollouts.mask),
            old_logprobs=batch.logprobs,
            old_values=batch.values,
            advantages=batch.advantages,
            returns=batch.returns,
            mask=rollouts.mask,
        )
        told = {"loss/policy": found.policy, "loss/value": found.value, "policy/clip_fraction": found.num_clipped}
        count = rollouts.mask.sum()
        self._add(self._sums, {name: (value, count) for name, value in told.items()})
        return found.policy + equations.VALUE_WEIGHT * found.value

    def _clip_grad_norm(self, model: Any) -> Any:
        weights = [*model.parameters(), *self.objective.head.parameters()]
        return self.accelerator.clip_grad_norm_(weights, self.args.max_grad_norm or float("inf"))
