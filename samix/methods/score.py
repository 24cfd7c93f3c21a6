"""AutoMix's step with a score generator: one map an image, learned for mixing (arXiv:2111.15454, carried further)."""

from __future__ import annotations

from dataclasses import dataclass

from samix.methods.automix import AutoMix
from samix.methods.options import LearnedOptions
from samix.mixers.score import ScoreMixerConfig
from samix.runtime.typed_options import Weight


@dataclass(frozen=True)
class ScoreMixOptions(LearnedOptions, ScoreMixerConfig):
    """Options of ScoreMix: those of the step, and those of its generator, see :class:`ScoreMixerConfig`.

    Args:
        mask_weight: weight of the mask loss; 0, since the masks have mean lam, and their contrast, by construction.

    Example:
        >>> samix.ScoreMixOptions(alpha=1.0).alpha
        1.0
    """

    mask_weight: Weight = 0.0


SCORE_PRESETS: dict[str, ScoreMixOptions] = {
    "reference": ScoreMixOptions(),
    "fast": ScoreMixOptions(preset="fast", mixed_share=0.5, generator_share=0.5, generator_every=2),
}


class ScoreMix(AutoMix):
    """Trains a network together with a score generator that mixes its images; the step is :class:`AutoMix`'s.

    Args:
        options: a :class:`ScoreMixOptions`, or the name of a preset: ``reference`` or ``fast``.

    Example:
        >>> model = timm.create_model("test_resnet", num_classes=10)
        >>> method = samix.ScoreMix(model, num_classes=10, feature=2)
        >>> loss, parts = method(torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]))
    """

    presets = SCORE_PRESETS
