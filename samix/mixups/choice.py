"""MixUp or CutMix at random, as most recipes since DeiT mix: by name, with options of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from samix.mixups.base import Augmentation, Pairing, new_generator
from samix.mixups.boxes import CutMix
from samix.mixups.handmade import MixUp, RandomChoice
from samix.runtime.typed_options import Share, check_options


@dataclass(init=False)
class MixUpOrCutMix(RandomChoice):
    """MixUp or CutMix, one of them for each batch, as timm's ``Mixup`` mixes.

    Args:
        mixup_alpha: of MixUp.
        cutmix_alpha: of CutMix.
        switch_prob: probability of CutMix, in [0, 1].
        pairing: how partners are drawn; timm's is ``flip``.
    """

    alpha: float = field(default=1.0, init=False, repr=False)  # no option: each choice has its own
    choices: tuple[Augmentation, ...] = field(default=(), init=False, repr=False)
    weights: tuple[float, ...] = field(default=(), init=False, repr=False)
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    switch_prob: Share = 0.5

    def __init__(
        self,
        mixup_alpha: float | None = None,
        cutmix_alpha: float | None = None,
        switch_prob: float = 0.5,
        prob: float = 1.0,
        per_sample: bool = False,
        pairing: Pairing = "randperm",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        self.mixup_alpha = type(self).mixup_alpha if mixup_alpha is None else mixup_alpha
        self.cutmix_alpha = type(self).cutmix_alpha if cutmix_alpha is None else cutmix_alpha
        self.switch_prob = switch_prob
        check_options(self)
        own = generator or new_generator()
        choices = [
            cls(alpha=alpha, prob=prob, per_sample=per_sample, pairing=pairing, generator=own)
            for cls, alpha in ((MixUp, self.mixup_alpha), (CutMix, self.cutmix_alpha))
        ]
        super().__init__(choices, [1.0 - switch_prob, switch_prob], generator=own)
        self.prob, self.per_sample, self.pairing = prob, per_sample, pairing

    def options(self) -> dict[str, object]:
        names = ("mixup_alpha", "cutmix_alpha", "switch_prob", "prob", "per_sample", "pairing")
        return {name: getattr(self, name) for name in names}


@dataclass(init=False)
class DeiTMix(MixUpOrCutMix):
    """MixUp 0.8 or CutMix 1, half and half: DeiT (Touvron et al. 2021, arXiv:2012.12877)."""

    name: ClassVar[str] = "deit"


@dataclass(init=False)
class RSBMix(MixUpOrCutMix):
    """MixUp 0.1 or CutMix 1, half and half: "ResNet strikes back" (Wightman et al. 2021, arXiv:2110.00476)."""

    name: ClassVar[str] = "rsb"

    mixup_alpha: float = 0.1
