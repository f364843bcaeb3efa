"""What a pair of answers costs: the losses of stage `dpo`, pure functions of log-probabilities.

Each takes, for every pair, how the better and the worse answer `score`: the log-ratio to the reference, log pi(y|x) -
log pi_ref(y|x), summed over the answer's tokens or (AVERAGED) its mean; for losses without a reference the mean
log-probability alone. Equal to TRL's DPOTrainer for the same batch where TRL has the loss; a test compares them. TRL's
`aot` sorts the answers of a whole batch and is not here: its value would depend on how a step is cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

#: Losses that compare means over tokens instead of sums.
AVERAGED = frozenset({"ipo", "orpo", "simpo", "sigmoid_norm"})
#: Temperature of `discopop`, as in its paper.
DISCOPOP_TAU = 0.05


# p: pairs
@dataclass(frozen=True, kw_only=True)
class Scores:
    chosen: torch.Tensor  # p
    rejected: torch.Tensor  # p
    beta: float
    #: Share of pairs whose order is wrong.
    smoothing: float = 0.0
    #: Margin of `simpo`.
    gamma: float = 0.0
    #: The mean of a value over all processes, for `kto_pair`.
    mean: Callable[[torch.Tensor], torch.Tensor] = torch.mean

    @property
    def delta(self) -> torch.Tensor:
        return self.chosen - self.rejected


def sigmoid(s: Scores) -> torch.Tensor:
    """DPO, https://arxiv.org/abs/2305.18290 Eq. 7; with smoothing e, cDPO: -(1 - e) log s(bd) - e log s(-bd)."""
    right, wrong = logsigmoid(s.beta * s.delta), logsigmoid(-s.beta * s.delta)
    return -(1 - s.smoothing) * right - s.smoothing * wrong


def hinge(s: Scores) -> torch.Tensor:
    """SLiC, https://arxiv.org/abs/2305.10425 Eq. 1, of rewards: max(0, 1 - bd)."""
    return torch.relu(1 - s.beta * s.delta)


def ipo(s: Scores) -> torch.Tensor:
    """IPO, https://arxiv.org/abs/2310.12036 Eq. 17: (d - 1/(2b))^2, of means over tokens."""
    return (s.delta - 1 / (2 * s.beta)) ** 2


def kto_pair(s: Scores) -> torch.Tensor:
    """KTO of pairs, https://arxiv.org/abs/2402.01306 Eq. 7: the KL that one half is compared with is estimated on the
    other, and no gradient goes through it. The mean of both answers' losses."""
    chosen_kl, rejected_kl = (s.mean(score.detach()).clamp(min=0) for score in (s.chosen, s.rejected))
    better = 1 - torch.sigmoid(s.beta * (s.chosen - rejected_kl))
    worse = 1 - torch.sigmoid(s.beta * (chosen_kl - s.rejected))
    return (better + worse) / 2


def orpo(s: Scores) -> torch.Tensor:
    """ORPO, https://arxiv.org/abs/2403.07691 Eq. 6: -log p(y_w) - b log s(log odds(y_w) - log odds(y_l)), with p the
    mean probability of a token and odds p / (1 - p)."""
    return -s.chosen + s.beta * odds_ratio(s)


def odds_ratio(s: Scores) -> torch.Tensor:
    odds = [score - torch.log1p(-torch.exp(score)) for score in (s.chosen, s.rejected)]
    return -logsigmoid(odds[0] - odds[1])


def simpo(s: Scores) -> torch.Tensor:
    """SimPO, https://arxiv.org/abs/2405.14734 Eq. 6: -log s(bd - gamma), of mean log-probabilities."""
    return -logsigmoid(s.beta * s.delta - s.gamma)


def sigmoid_norm(s: Scores) -> torch.Tensor:
    """DPO of means over tokens (Tulu 3, https://arxiv.org/abs/2411.15124, Eq. 6)."""
    return -logsigmoid(s.beta * s.delta)


def robust(s: Scores) -> torch.Tensor:
    """Robust DPO, https://arxiv.org/abs/2403.00409 Eq. 10: unbiased when a share e of the pairs is the wrong way."""
    right, wrong = logsigmoid(s.beta * s.delta), logsigmoid(-s.beta * s.delta)
    return (s.smoothing * wrong - (1 - s.smoothing) * right) / (1 - 2 * s.smoothing)


def exo_pair(s: Scores) -> torch.Tensor:
    """EXO, https://arxiv.org/abs/2402.00856 Eq. 16: KL from the model's preference to (1 - e, e)."""
    right, wrong = logsigmoid(s.beta * s.delta), logsigmoid(-s.beta * s.delta)
    sure, unsure = torch.log(torch.tensor([1 - s.smoothing, s.smoothing]))
    return right.exp() * (right - sure) + wrong.exp() * (wrong - unsure)


def nca_pair(s: Scores) -> torch.Tensor:
    """NCA, https://arxiv.org/abs/2402.05369 Eq. 11, of two answers."""
    chosen, rejected = s.beta * s.chosen, s.beta * s.rejected
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def bco_pair(s: Scores) -> torch.Tensor:
    """BCO, https://arxiv.org/abs/2404.04656 Eq. 8, without its shift: each answer is classified by itself."""
    return -logsigmoid(s.beta * s.chosen) - logsigmoid(-s.beta * s.rejected)


def sppo_hard(s: Scores) -> torch.Tensor:
    """SPPO, https://arxiv.org/abs/2405.00675 Eq. 4.7, with a probability of 1 for the better answer."""
    return (s.chosen - 0.5 / s.beta) ** 2 + (s.rejected + 0.5 / s.beta) ** 2


def apo_zero(s: Scores) -> torch.Tensor:
    """APO, https://arxiv.org/abs/2408.06266 Eq. 7: the better answer likelier, the worse one less likely."""
    return 1 - torch.sigmoid(s.beta * s.chosen) + torch.sigmoid(s.beta * s.rejected)


def apo_down(s: Scores) -> torch.Tensor:
    """APO, https://arxiv.org/abs/2408.06266 Eq. 8: both less likely, the worse one more so."""
    return torch.sigmoid(s.beta * s.chosen) + 1 - torch.sigmoid(s.beta * s.delta)


def discopop(s: Scores) -> torch.Tensor:
    """DiscoPOP, https://arxiv.org/abs/2406.08414 Eq. 5: between a logistic and an exponential loss."""
    logits = s.beta * s.delta
    weight = torch.sigmoid(logits / DISCOPOP_TAU)
    return -logsigmoid(logits) * (1 - weight) + torch.exp(-logits) * weight


Loss = Callable[[Scores], torch.Tensor]
LOSSES: Mapping[str, Loss] = {
    loss.__name__: loss
    for loss in (
        sigmoid, hinge, ipo, kto_pair, orpo, simpo, apo_down, apo_zero, bco_pair, discopop, exo_pair, nca_pair, robust,
        sigmoid_norm, sppo_hard,
    )
}  # fmt: skip


def bco(s: Scores, shift: float) -> torch.Tensor:
    """BCO, https://arxiv.org/abs/2404.04656 Eq. 8: -log s(r_w - shift) - log s(-(r_l - shift)), the shift being the
    mean reward so far."""
    return -logsigmoid(s.beta * s.chosen - shift) - logsigmoid(-(s.beta * s.rejected - shift))


def kto(ratios: torch.Tensor, labels: torch.Tensor, kl: torch.Tensor, beta: float) -> torch.Tensor:
    """KTO, https://arxiv.org/abs/2402.01306 Eq. 7: 1 - s(b(r - kl)) of a desirable answer, 1 - s(b(kl - r)) of one
    that is not; `ratios` and `labels` of each answer (a), `kl` one value."""
    sign = labels.to(ratios.dtype) * 2 - 1
    return 1 - torch.sigmoid(beta * sign * (ratios - kl))
