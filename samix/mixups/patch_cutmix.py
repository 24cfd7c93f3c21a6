"""CutMix by whole patches of a transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samix.batch import Mixed, check_pair
from samix.mixups.base import Augmentation, Guides, choose
from samix.mixups.boxes import span
from samix.mixups.cells import grid_of, to_pixels
from samix.runtime.typed_options import Count


def cutmix_patches(
    x: Tensor, partner: Tensor, lam: Tensor, centre: Tensor, *, patch: int = 16, clip: bool = True
) -> Mixed:
    """CutMix whose box has its borders on patch borders, so that no token of a ViT is mixed.

    TL-Align's (Xiao et al., ICCV 2023, arXiv:2210.06455). On so coarse a grid CutMix's own rounding would make small
    boxes smaller still (a side of 3 becomes 2); here a box has ``floor(gh r + 1/2)`` x ``floor(gw r + 1/2)`` patches,
    ``r = sqrt(1 - lam)``.

    Args:
        centre: (B, 2) in [0, 1), row and column of the box's centre as shares of H and W.
        patch: side of a patch in pixels.
        clip: let the border cut the box, as CutMix does. False keeps it whole and inside.
    """
    check_pair(x, partner, lam)
    rows, columns = grid_of((x.shape[2], x.shape[3]), patch)
    ratio = torch.sqrt(1.0 - lam)
    down, across = _box_side(ratio, centre[:, 0], rows, clip), _box_side(ratio, centre[:, 1], columns, clip)
    inside = down.unsqueeze(2) & across.unsqueeze(1)
    return choose(x, partner, to_pixels((~inside).float(), (x.shape[2], x.shape[3])))


def _box_side(ratio: Tensor, centre: Tensor, size: int, clip: bool) -> Tensor:
    """(B, size): whether the box is there, along one side of the grid."""
    cut = torch.floor(size * ratio + 0.5)
    if clip:
        start = torch.floor(centre * size) - torch.floor(cut / 2.0)
        start = torch.where(ratio == 1.0, 0.0, start)
    else:
        start = torch.floor(centre * (size - cut + 1.0))
    return span(start, start + cut, size)


@dataclass
class PatchCutMix(Augmentation):
    """Pastes a box of whole patches, see :func:`cutmix_patches`.

    Args:
        patch: side of the network's patches in pixels.
        clip: False keeps every box whole and inside, so that lam is met to within rounding.

    Example:
        >>> batch = samix.PatchCutMix(patch=8)(images, labels)
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "patchcutmix"
    family: ClassVar[str] = "By patches"

    patch: Count = 16
    clip: bool = True

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        return {"centre": torch.rand(shape[0], 2, generator=self.generator)}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return cutmix_patches(x, partner, lam, extras["centre"], patch=self.patch, clip=self.clip)
