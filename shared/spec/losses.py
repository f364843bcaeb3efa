"""Losses of supervised training other than the plain likelihood of the answer's tokens."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param
from shared.rules import rule
from shared.tongues import Text


@dataclass(frozen=True, kw_only=True)
class Losses:
    use_dft_loss: bool = param(
        False,
        "Weigh each token's loss with the probability that the model gives it (DFT): what is far off counts little.",
        since=2,
        advice="For reasoning and mathematics; for new knowledge use the plain loss.",
    )
    use_asft_loss: bool = param(
        False,
        "DFT held near the model as it was before the training (ASFT): steadier, one more forward pass a step.",
        since=2,
        advice="Where DFT drifts: medicine, law, code.",
    )
    asft_alpha: float = param(
        0.1, "Weight of the distance to the model of before, under ASFT.", minimum=0.0, maximum=100.0, since=2
    )
    use_eaft_loss: bool = param(
        False,
        "Weigh each token's loss with the model's uncertainty there (EAFT): what it is sure of is changed little.",
        since=2,
        advice="Where a model must not forget what it knew.",
    )
    eaft_alpha: float = param(
        1.0, "Power of the uncertainty under EAFT; 0: the plain loss.", minimum=0.0, maximum=100.0, since=2
    )
    label_smoothing_factor: float = param(
        0.0,
        "Share of each target that is spread over the whole vocabulary.",
        minimum=0.0,
        maximum=1.0,
        exclusive_maximum=True,
        source="HF",
        since=2,
        advice="0; 0.1 at most.",
    )
    neftune_noise_alpha: float | None = param(
        None,
        "Noise on the embeddings while training (NEFTune): answers get longer, less is learned by heart.",
        type=float,
        minimum=0.0,
        exclusive_minimum=True,
        maximum=1000.0,
        source="HF",
        since=2,
        advice="5 to 15, for chat on little data.",
    )

    @rule("use_eaft_loss")
    def one_weight(self) -> str | None:
        named = {
            "use_dft_loss": self.use_dft_loss,
            "use_asft_loss": self.use_asft_loss,
            "use_eaft_loss": self.use_eaft_loss,
        }
        given = [name for name, is_given in named.items() if is_given]
        text = "is one of {names}: choose one, each weighs the tokens in its own way"
        return Text(text, names=" and ".join(given)) if given[1:] else None

    @rule("label_smoothing_factor")
    def smoothing_of_the_plain_loss(self) -> str | None:
        other = self.use_dft_loss or self.use_asft_loss or self.use_eaft_loss
        both = self.label_smoothing_factor > 0 and other
        return (
            "smooths the plain loss: leave it out, or use_dft_loss, use_asft_loss and use_eaft_loss" if both else None
        )
