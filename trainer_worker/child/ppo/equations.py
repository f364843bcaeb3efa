"""The equations of PPO for language models, on tensors of answers: rewards, advantages, losses, and what is carried on.

Schulman et al. 2017 (arXiv 1707.06347) as used with human preferences by Ziegler et al. 2019 (arXiv 1909.08593). Their
constants, which LLaMA Factory does not let be set either, stand here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

#: Discount and trace decay of the advantages: answers are short, a late reward counts as an early one.
GAMMA, LAMBDA = 1.0, 0.95
#: How far a probability's ratio, and a value, may move from where they were when the answers were drawn.
CLIP, VALUE_CLIP = 0.2, 0.2
#: Weight of the value loss beside the policy's.
VALUE_WEIGHT = 0.1
#: Weight of the divergence at first, and the number of answers over which it is steered.
FIRST_COEFFICIENT, HORIZON = 0.2, 10_000
#: Keeps deviations of nothing from dividing by zero.
TINY = 1e-8

#: Sums numbers over all processes.
Reduce = Callable[[list[float]], list[float]]


# b: answers, n: tokens of the longest; mask: which tokens belong to the answer, at least one of each
def token_rewards(
    scores: torch.Tensor,  # b
    logprobs: torch.Tensor,  # b n
    reference: torch.Tensor,  # b n
    mask: torch.Tensor,  # b n
    coefficient: float,
) -> torch.Tensor:
    """R(x, y) = r(x, y) - beta log(pi(y|x) / rho(y|x)) (Ziegler et al., eq. 2), each token paying for itself and the
    last one getting the score."""
    rewards = -coefficient * (logprobs - reference) * mask
    last = mask.sum(dim=1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def advantages(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # all b n
    """A_t = delta_t + gamma lambda A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t (arXiv 1506.02438, eq. 16); nothing
    comes after an answer's last token."""
    following = torch.zeros_like(values[:, 0])
    advantage = torch.zeros_like(following)
    found = []
    for step in reversed(range(values.shape[1])):
        inside = mask[:, step]
        delta = rewards[:, step] + GAMMA * following - values[:, step]
        advantage = (delta + GAMMA * LAMBDA * advantage) * inside
        following = values[:, step] * inside
        found.append(advantage)
    return torch.stack(found[::-1], dim=1)


def whitened(values: torch.Tensor, mask: torch.Tensor, reduce: Reduce, *, centred: bool = True) -> torch.Tensor:
    """With deviation 1 over the tokens of all processes, and mean 0 where `centred`."""
    chosen = values[mask].double()
    count, total, squares = reduce([float(len(chosen)), chosen.sum().item(), chosen.square().sum().item()])
    mean = total / count
    deviation = math.sqrt(max(squares / count - mean**2, 0.0) + TINY)
    white = (values - mean) / deviation
    return (white if centred else white + mean) * mask


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Summed over the answers' tokens."""

    policy: torch.Tensor
    value: torch.Tensor
    #: Tokens whose ratio the clipping holds back.
    num_clipped: torch.Tensor


def losses(
    *,
    logprobs: torch.Tensor,  # b n, of the policy as it is now; likewise values
    values: torch.Tensor,
    old_logprobs: torch.Tensor,  # b n, of the policy that drew the answers; likewise old_values
    old_values: torch.Tensor,
    advantages: torch.Tensor,  # b n
    returns: torch.Tensor,  # b n
    mask: torch.Tensor,  # b n
) -> Losses:
    """L^CLIP = min(r A, clip(r, 1 - eps, 1 + eps) A) with r = pi / pi_old (arXiv 1707.06347, eq. 7), and the squared
    error of the values, which are held near the old ones in the same way; both as losses."""
    ratio = torch.exp(logprobs - old_logprobs)
    plain = -advantages * ratio
    held = -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)
    near = torch.clamp(values, min=old_values - VALUE_CLIP, max=old_values + VALUE_CLIP)
    value = torch.maximum((values - returns).square(), (near - returns).square()) / 2
    return Losses(
        policy=torch.maximum(plain, held)[mask].sum(),
        value=value[mask].sum(),
        num_clipped=(held > plain)[mask].sum(),
    )


class Penalty:
    """The weight of the divergence, steered towards a target (Ziegler et al., section 2.2): e = clip(KL / target - 1,
    -0.2, 0.2), beta <- beta (1 + K e), K the share of HORIZON that was answered since."""

    def __init__(self, target: float):
        self._target = target
        self.coefficient = FIRST_COEFFICIENT

    def steer(self, divergence: float, num_answers: int) -> None:
        """`divergence` is the mean over the answers of the sum over their tokens, nats."""
        error = min(max(divergence / self._target - 1, -0.2), 0.2)
        self.coefficient *= 1 + error * num_answers / HORIZON


class Running:
    """Mean and deviation of every score so far (Chan, Golub and LeVeque 1979: of two sets from those of each)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    @property
    def deviation(self) -> float:
        return math.sqrt(self.squares / max(self.count - 1, 1.0) + TINY)

    def take(self, scores: torch.Tensor, reduce: Reduce) -> None:
        """The scores of this process; `reduce` brings those of the others."""
        values = scores.double()
        count, total = reduce([float(len(values)), values.sum().item()])
        mean = total / count
        (squares,) = reduce([(values - mean).square().sum().item()])
        apart = mean - self.mean
        both = self.count + count
        self.squares += squares + apart**2 * self.count * count / both
        self.mean += apart * count / both
        self.count = both

    def normalised(self, scores: torch.Tensor) -> torch.Tensor:
        return (scores - self.mean) / self.deviation
