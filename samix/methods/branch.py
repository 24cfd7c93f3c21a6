"""What a branch of a step with a learned mixup sees: pairs with their lam, a part of the batch, images of a size."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """Draws of one branch: lam (n,) float32, partner index (n,) int64 into the batch, and the rows they are for."""

    lam: Tensor
    index: Tensor
    rows: slice = field(default_factory=lambda: slice(None))

    def part(self, rows: slice) -> Draw:
        """The draws of these rows."""
        return Draw(self.lam[rows], self.index[rows], rows)


def part_of(count: int, share: float) -> int:
    """How many of ``count`` images a share in (0, 1] is: at least one."""
    return max(1, round(share * count))


def scaled(images: Tensor, scale: float) -> Tensor:
    """(B, C, H, W) -> (B, C, scale H, scale W), by anti-aliased bilinear interpolation; the images at scale 1."""
    if scale == 1.0:
        return images
    size = [max(1, round(scale * side)) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)
