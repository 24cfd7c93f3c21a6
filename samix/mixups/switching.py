"""Batches that get plain MixUp instead: half of what the published ViT recipes do, shared by their mixups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from samix.batch import MixedBatch
from samix.mixups.base import Augmentation
from samix.mixups.handmade import MixUp
from samix.runtime.typed_options import Share


@dataclass
class SwitchingAugmentation(Augmentation):
    """Base of mixups that leave some batches to MixUp, as the recipes after DeiT do (Touvron et al. 2021).

    A call with a lam of its own always gets the method itself. Where mixing is switched off (alpha <= 0, or by prob),
    MixUp is too.

    Args:
        switch: probability, per batch, of plain MixUp instead.
        mixup_alpha: lam ~ Beta(mixup_alpha, mixup_alpha) of that MixUp.
    """

    switch: Share = 0.0
    mixup_alpha: float = 0.8

    def draw_switch(self) -> bool:
        """Whether this batch is left to :meth:`instead`."""
        if self.switch == 0.0 or self.alpha <= 0.0:
            return False
        return float(torch.rand(1, generator=self.generator)) < self.switch

    def instead(self) -> Augmentation:
        """The mixup of the other batches; it draws from this object's generator."""
        shares = (self.mixup_alpha, self.prob, self.per_sample, self.pairing)
        return MixUp(*shares, generator=self.generator, targets=self.targets)

    def __call__(
        self, images: Tensor, labels: Tensor, *, lam: Tensor | float | None = None, **given: Any
    ) -> MixedBatch:
        """Mixes a batch, by MixUp where that is drawn; see :class:`Augmentation` for what it takes."""
        if lam is None and self.draw_switch():
            return self.instead()(images, labels, index=given.get("index"))
        return super().__call__(images, labels, lam=lam, **given)
