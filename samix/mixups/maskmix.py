"""MaskMix: square cells of each image, chosen at random (Zhao et al., ICLR 2023, arXiv:2304.12043)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samix.batch import Mixed, check_pair
from samix.mixups.base import Augmentation, Guides, choose
from samix.runtime.typed_options import Count, CountOr0


def maskmix(x: Tensor, partner: Tensor, lam: Tensor, scores: Tensor, *, cell: int) -> Mixed:
    """Chooses square cells of each image at random.

    MaskMix, the image side of MixPro (Zhao et al., ICLR 2023, arXiv:2304.12043): of the ``T = ceil(H / cell) *
    ceil(W / cell)`` cells, ``ceil(lam T)`` keep the own image. Cells at the lower and right border are cut where the
    cell does not divide the image; the released code counts them as whole, here lam is the share of pixels.

    Args:
        scores: (B, T) random numbers, row by row; the lowest of them keep the own image.
        cell: side of a cell in pixels.
    """
    check_pair(x, partner, lam)
    height, width = x.shape[2:]
    rows, columns = math.ceil(height / cell), math.ceil(width / cell)
    if scores.shape != (len(x), rows * columns):
        raise ValueError(f"scores must have shape ({len(x)}, {rows * columns}), got {tuple(scores.shape)}")
    rank = scores.argsort(dim=1, stable=True).argsort(dim=1)  # of each cell
    own = (rank < torch.ceil(lam * (rows * columns)).unsqueeze(1)).float().view(len(x), rows, columns)
    at_row, at_column = (torch.arange(side, device=x.device) // cell for side in (height, width))
    return choose(x, partner, own.index_select(1, at_row).index_select(2, at_column).unsqueeze(1))


@dataclass
class MaskMix(Augmentation):
    """Takes each large cell from one of the two images at random, see :func:`maskmix`.

    Args:
        cell: side of a cell in pixels; 0 takes a quarter of the shorter side, rounded up: the published 56 at 224.
        patch: the side is rounded up to a multiple of this. The paper asks for a multiple of the network's patch, the
            released configurations have 56 with patches of 16; 1 leaves it as it is.

    Example:
        >>> batch = samix.MaskMix()(images, labels)
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "maskmix"
    family: ClassVar[str] = "By patches"

    cell: CountOr0 = 0
    patch: Count = 1

    def side(self, shape: torch.Size) -> int:
        """Side of a cell, for images of this shape (B, C, H, W)."""
        cell = self.cell or math.ceil(min(shape[2:]) / 4)
        return math.ceil(cell / self.patch) * self.patch

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        count = math.ceil(shape[2] / self.side(shape)) * math.ceil(shape[3] / self.side(shape))
        return {"scores": torch.rand(shape[0], count, generator=self.generator)}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return maskmix(x, partner, lam, extras["scores"], cell=self.side(x.shape))
