"""AutoMix's step with a score generator: one map an image, learned for mixing (arXiv:2111.15454, carried further)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from samix.methods.automix import AutoMix
from samix.methods.options import LearnedOptions
from samix.mixers.score import ScoreMixerConfig


@dataclass(frozen=True)
class ScoreMixOptions(LearnedOptions, ScoreMixerConfig):
    """Options of the step, and those of its generator, see :class:`ScoreMixerConfig`.

    Args:
        mask_weight: weight of the mask loss; 0, since the masks have mean lam, and their contrast, by construction.
    """

    mask_weight: float = 0.0


SCORE_PRESETS: dict[str, ScoreMixOptions] = {
    "reference": ScoreMixOptions(),
    "fast": ScoreMixOptions(preset="fast", mixed_share=0.5, generator_share=0.5, generator_every=2),
}


class ScoreMix(AutoMix):
    """A network, its averaged copy, and a score generator, trained together; the step is :class:`AutoMix`'s.

    Args:
        model, num_classes, feature, classifier, generator: as for :class:`AutoMix`.
        options: a :class:`ScoreMixOptions`, or the name of a preset: ``reference`` or ``fast``.
    """

    presets: ClassVar[Any] = SCORE_PRESETS
