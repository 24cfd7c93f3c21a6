"""SAMix (Li et al. 2022, arXiv:2111.15454), supervised: AutoMix's step with a Mixer that sees both images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from samix.methods.automix import AutoMix
from samix.methods.options import LearnedOptions
from samix.mixers.samix import SAMixerConfig


@dataclass(frozen=True)
class SAMixOptions(LearnedOptions, SAMixerConfig):
    """Options of SAMix: those of the step, and those of its Mixer, see :class:`SAMixerConfig`.

    Args:
        mask_variance: weight of the mask's variance in the mask loss.
    """

    mask_variance: float = 2.0


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
