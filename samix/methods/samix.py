"""SAMix (Li et al. 2022, arXiv:2111.15454), supervised: AutoMix's step with a Mixer that sees both images."""

from __future__ import annotations

from dataclasses import dataclass

from samix.methods.automix import AutoMix
from samix.methods.options import LearnedOptions
from samix.mixers.samix import SAMixerConfig
from samix.runtime.typed_options import Weight


@dataclass(frozen=True)
class SAMixOptions(LearnedOptions, SAMixerConfig):
    """Options of SAMix: those of the step, and those of its Mixer, see :class:`SAMixerConfig`.

    Args:
        mask_variance: weight of the mask's variance in the mask loss.

    Example:
        >>> samix.SAMixOptions(mask_weight=0.5).mask_weight
        0.5
    """

    mask_variance: Weight = 2.0


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
    """Trains a network together with SAMix's Mixer, which learns to mix its images; the step is :class:`AutoMix`'s.

    Args:
        options: a :class:`SAMixOptions`, or the name of a preset: ``reference`` (as the released code trains),
            ``paper`` (learned gamma, eta-balanced generator loss, per-sample mask loss), or ``fast`` (as ``reference``,
            for two thirds of the price: half of the batch is mixed, and in every second step the Mixer learns from
            half of it).

    Example:
        >>> model = timm.create_model("test_resnet", num_classes=10)
        >>> method = samix.SAMix(model, num_classes=10, feature=2)
        >>> loss, parts = method(torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]))
    """

    presets = SAMIX_PRESETS
