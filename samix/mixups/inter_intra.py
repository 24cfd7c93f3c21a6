"""CutMix between classes, MixUp inside one: a mixup that asks whether two images are of one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samix.batch import Mixed, MixedBatch, pair_batch
from samix.mixups.base import Augmentation, Guides, Requirements, sample_lam, take_rows
from samix.mixups.boxes import cutmix
from samix.mixups.handmade import mixup


def inter_intra_mix(x: Tensor, partner: Tensor, lam: Tensor, intra_lam: Tensor, same: Tensor, centre: Tensor) -> Mixed:
    """Pastes a box where the pair is of two classes, adds the images where it is of one.

    SAMix (Li et al. 2022, arXiv:2111.15454), appendix: mix strongly between classes, weakly inside one.

    Args:
        lam: (B,) share of x where the classes differ, see :func:`samix.mixups.boxes.cutmix`.
        intra_lam: (B,) share of x where they are the same.
        same: (B,) bool.
        centre: (B, 2) of the boxes.

    Returns:
        Mixed; its lam is the area left to x, or the share drawn.
    """
    between, inside = cutmix(x, partner, lam, centre), mixup(x, partner, intra_lam)
    wide = same.view(-1, 1, 1, 1)
    return Mixed(
        torch.where(wide, inside.images, between.images),
        torch.where(same, inside.lam, between.lam),
        torch.where(wide, inside.mask, between.mask),
    )


@dataclass
class InterIntraMix(Augmentation):
    """CutMix of pairs of two classes and MixUp of pairs of one, see :func:`inter_intra_mix`.

    The hand-made reference of SAMix-C (arXiv:2111.15454). ``alpha`` is CutMix's; published: 2 or 4. Without labels it
    takes clusters, see :class:`samix.methods.contrastive.pseudo_labels.PseudoLabelOptions`.

    Args:
        intra_alpha: lam ~ Beta(intra_alpha, intra_alpha) of pairs of one class.
    """

    name: ClassVar[str] = "interintra"
    requirements = Requirements(classes=True)

    alpha: float = 2.0
    per_sample: bool = True
    intra_alpha: float = 0.2

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        centre = torch.rand(shape[0], 2, generator=self.generator)
        lam = sample_lam(self.intra_alpha, shape[0], per_sample=self.per_sample, generator=self.generator)
        return {"centre": centre, "intra_lam": lam}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return inter_intra_mix(x, partner, lam, **extras)

    def mix_batch(self, images: Tensor, labels: Tensor, lam: Tensor | float | None, index: Tensor | None) -> MixedBatch:
        """Mixes pairs of both kinds; a lam that is given holds for both."""
        if labels.dim() != 1 or labels.is_floating_point():
            raise ValueError(
                f"InterIntraMix compares class ids ({len(images)},) int64, got {labels.dtype} {tuple(labels.shape)}; "
                "of one-hot labels take .argmax(1)"
            )
        given = lam is not None
        lam, index = self.draw(images, lam, index)
        extras = self.extras_for(images)
        if given:
            extras["intra_lam"] = lam
        # where lam is 1, as in a row that is paired with itself, neither kind is mixed
        extras["intra_lam"] = torch.where(lam == 1.0, 1.0, extras["intra_lam"])
        extras["same"] = labels == labels[index]
        mixed = self.apply(images, take_rows(images, index), lam, None, **extras)
        return pair_batch(mixed, labels, index, self.targets)
