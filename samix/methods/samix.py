"""SAMix (Li et al. 2022, arXiv:2111.15454), supervised: AutoMix's step with a Mixer that sees both images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from samix.methods.automix import AutoMix
from samix.methods.options import LearnedOptions, samixer_of
from samix.mixers.learned import Attention, Content, MaskGenerator, Upsample


@dataclass(frozen=True)
class SAMixOptions(LearnedOptions):
    """Options of SAMix: those of the step, and its Mixer's, see :class:`samix.mixers.learned.SAMixer`.

    Args:
        mask_variance: weight of the mask's variance in the mask loss.
        gamma: strength of the lam encoding; None learns it.
        lam_scale: k of lam' = f(lam; k).
        dropout: on the content map.
        activation: of the content branch.
        norm: of the content branch.
        upsample: of the mask.
        attention: ``mixing``, or AutoMix's ``cross``, for ablations.
        content: ``nonlinear``, or AutoMix's ``linear``, for ablations.
    """

    name: ClassVar[str] = "samix"

    mask_variance: float = 2.0
    gamma: float | None = 1.0
    lam_scale: float = -1.0
    dropout: float = 0.0
    activation: Literal["elu", "relu"] = "elu"
    norm: Literal["batch", "layer"] = "batch"
    upsample: Upsample = "bilinear"
    attention: Attention = "mixing"
    content: Content = "nonlinear"


SAMIX_PRESETS: dict[str, SAMixOptions] = {
    "reference": SAMixOptions(),
    "paper": SAMixOptions(
        preset="paper",
        ema_decay_end=1.0,
        gamma=None,
        activation="relu",
        eta=0.5,
        mask_over_batch=False,
        mask_schedule="linear",
        adjust_prob=0.25,
    ),
    "fast": SAMixOptions(preset="fast", mixed_share=0.5, generator_share=0.5, generator_every=2),
}


class SAMix(AutoMix):
    """A network, its averaged copy, and SAMix's Mixer, trained together; the step is :class:`AutoMix`'s.

    Args:
        model, num_classes, feature, classifier, generator: as for :class:`AutoMix`.
        options: a :class:`SAMixOptions`, or the name of a preset: ``reference`` (as the released code trains),
            ``paper`` (learned gamma, eta-balanced generator loss, per-sample mask loss), or ``fast`` (as ``reference``,
            for two thirds of the price: half of the batch is mixed, and in every second step the Mixer learns from
            half of it).
    """

    presets: ClassVar[Any] = SAMIX_PRESETS

    def build_mixer(self, dim: int) -> MaskGenerator:
        """SAMix's Mixer for feature maps of ``dim`` channels."""
        return samixer_of(self.options, dim)
