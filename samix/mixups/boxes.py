"""Mixups that paste a rectangle: CutMix, and ResizeMix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from samix.batch import Mixed, check_pair
from samix.mixups.base import Augmentation, Guides, Requirements, as_array, choose, on_host
from samix.runtime.typed_options import PositiveShare

Array = NDArray[Any]


def cutmix(x: Tensor, partner: Tensor, lam: Tensor, centre: Tensor, *, clip: bool = True) -> Mixed:
    """Pastes a box of each partner into each image, at the same place.

    CutMix (Yun et al. 2019, arXiv:1905.04899), Eq. (1) the mix, Eq. (2) the box, with the released code's rounding:
    sides ``floor(H r)`` and ``floor(W r)``, ``r = sqrt(1 - lam)``, halved by ``// 2`` on both sides of the centre. One
    box per sample, where the released code has one per batch. At lam = 0 we show the whole partner; the released code
    would let the border cut that box too.

    Args:
        centre: (B, 2) in [0, 1), row and column of the box's centre as shares of H and W.
        clip: let the border cut the box [paper]. False keeps it whole and inside, and spreads its place evenly.
    """
    check_pair(x, partner, lam)
    height, width = x.shape[-2:]
    ratio = torch.sqrt(1.0 - lam)
    top, bottom = cut_side(ratio, centre[:, 0], height, clip)
    left, right = cut_side(ratio, centre[:, 1], width, clip)
    inside = span(top, bottom, height).unsqueeze(2) & span(left, right, width).unsqueeze(1)  # (B, H, W)
    inside = inside.unsqueeze(1)
    kept = (height * width - (bottom - top) * (right - left)) / (height * width)
    return Mixed(torch.where(inside, partner, x), kept, (~inside).float())


def cutmix_rows(x: Tensor, index: Tensor, lam: Tensor, centre: Tensor, *, clip: bool = True) -> Mixed:
    """``cutmix(x, x[index], ...)`` on the CPU: copies x once, and of the partners only what is inside a box.

    Args:
        x: (B, C, H, W), see :func:`samix.mixups.base.on_host`. Not modified.
        index: (B,) int64 rows of the partners.

    Returns:
        Mixed, bit by bit as above.
    """
    height, width = x.shape[-2:]
    (top, left), (bottom, right) = _sides_on_host(lam.numpy(), centre.numpy(), height, width, clip)
    rows, columns = _outside(top, bottom, height), _outside(left, right, width)
    mask = torch.maximum(rows.unsqueeze(2), columns.unsqueeze(1)).unsqueeze(1)
    kept = (height * width - (bottom - top) * (right - left)) / np.float32(height * width)
    images = x.clone()
    source, into = as_array(x), as_array(images)
    sides = (index.numpy(), top, bottom, left, right)
    for row, (other, above, below, before, after) in enumerate(zip(*[side.tolist() for side in sides], strict=True)):
        into[row, :, above:below, before:after] = source[other, :, above:below, before:after]
    return Mixed(images, torch.from_numpy(kept.astype(np.float32)), mask)


def resizemix(x: Tensor, partner: Tensor, lam: Tensor, centre: Tensor) -> Mixed:
    """Pastes each whole partner, made smaller, into each image.

    ResizeMix (Qin et al. 2020, arXiv:2012.11101), as the authors' code does it: the patch has ``floor(s H)`` x
    ``floor(s W)`` pixels (at least one), ``s = sqrt(1 - lam)`` being the paper's scale, and its place is drawn by its
    centre and then shifted inside. Pixels are sampled as ``F.interpolate(mode="bilinear", align_corners=False,
    antialias=False)`` does, up to rounding; the released code takes the nearest pixel. Anti-aliasing is not available
    with a size per sample. A NaN pixel of the partner reaches its neighbours inside the patch, and no other.

    Args:
        centre: (B, 2) in [0, 1), row and column of the patch's centre, before it is shifted.
    """
    check_pair(x, partner, lam)
    height, width = x.shape[-2:]
    scale = torch.sqrt(1.0 - lam)
    top, rows = _patch_side(scale, centre[:, 0], height)
    left, columns = _patch_side(scale, centre[:, 1], width)
    inside = span(top, top + rows, height).unsqueeze(2) & span(left, left + columns, width).unsqueeze(1)
    inside = inside & (lam < 1.0).view(-1, 1, 1)  # lam = 1: not even the smallest patch
    along_x, along_y = _patch_grid(left, columns, width), _patch_grid(top, rows, height)  # (B, W), (B, H)
    grid = torch.stack([along_x.unsqueeze(1).expand_as(inside), along_y.unsqueeze(2).expand_as(inside)], dim=3)
    dtype = torch.promote_types(partner.dtype, torch.float32)
    small = F.grid_sample(partner.to(dtype), grid.to(dtype), padding_mode="border", align_corners=False).to(x.dtype)
    small = torch.where((lam > 0.0).view(-1, 1, 1, 1), small, partner)  # full size: exact, no rounding
    return choose(x, small, (~inside.unsqueeze(1)).float())


# All coordinates are float32 whole numbers: exact, and the same on every device.


def span(start: Tensor, stop: Tensor, size: int) -> Tensor:
    """(B,) bounds -> (B, size): whether start <= coordinate < stop."""
    at = torch.arange(size, device=start.device, dtype=torch.float32)
    return (at >= start.unsqueeze(1)) & (at < stop.unsqueeze(1))


def cut_side(ratio: Tensor, centre: Tensor, size: int, clip: bool = True) -> tuple[Tensor, Tensor]:
    """First row and end (both (B,)) of CutMix's box along one side."""
    cut = torch.floor(size * ratio)
    if not clip:
        start = torch.floor(centre * (size - cut + 1.0))
        return start, start + cut
    middle, half = torch.floor(centre * size), torch.floor(cut / 2.0)
    start, stop = (middle - half).clamp(min=0.0), (middle + half).clamp(max=size)
    whole = ratio == 1.0
    return torch.where(whole, 0.0, start), torch.where(whole, float(size), stop)


# The same in NumPy, which on so few numbers takes a third of the time. A test holds the two together.


def _sides_on_host(lam: Array, centre: Array, height: int, width: int, clip: bool) -> tuple[Array, Array]:
    """(2, B) int64 first row and column of CutMix's box, and its ends, of lam (B,) and centre (B, 2) float32."""
    size = np.array([[height], [width]], dtype=np.float32)
    ratio = np.sqrt(1.0 - lam)
    cut = (size * ratio).astype(np.int64)
    if not clip:
        start = (centre.T * (size - cut.astype(np.float32) + np.float32(1.0))).astype(np.int64)
        return start, start + cut
    middle = (centre.T * size).astype(np.int64)
    start, stop = np.maximum(middle - cut // 2, 0), np.minimum(middle + cut // 2, size.astype(np.int64))
    whole = ratio == 1.0
    return (np.where(whole, 0, start), np.where(whole, size.astype(np.int64), stop)) if whole.any() else (start, stop)


def _outside(start: Array, stop: Array, size: int) -> Tensor:
    """(B,) bounds -> (B, size) float32: 0 on start <= coordinate < stop."""
    at = np.arange(size)
    return torch.from_numpy(((at < start[:, None]) | (at >= stop[:, None])).astype(np.float32))


def _patch_side(scale: Tensor, centre: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First row and length (both (B,)) of ResizeMix's patch along one side."""
    length = torch.floor(scale * size).clamp(min=1.0)
    start = torch.floor(centre * size) - torch.floor(length / 2.0)
    return torch.minimum(start.clamp(min=0.0), size - length), length


def _patch_grid(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where each output row looks in the partner, in grid_sample's coordinates: (B, size)."""
    at = torch.arange(size, device=start.device) - start.unsqueeze(1)
    return (2.0 * at + 1.0) / length.unsqueeze(1) - 1.0


@dataclass
class CutMix(Augmentation):
    """Pastes a box of image B into image A, see :func:`cutmix`. The label takes the exact share of pixels.

    Published (Yun et al. 2019, arXiv:1905.04899): alpha 1, prob 0.5 on CIFAR and 1 on ImageNet.

    Args:
        clip: False keeps every box whole and inside, so that lam is met to within rounding.

    Example:
        >>> mix = samix.CutMix(alpha=1.0)
        >>> batch = mix(torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]))
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "cutmix"

    clip: bool = True

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        return {"centre": torch.rand(shape[0], 2, generator=self.generator)}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return cutmix(x, partner, lam, extras["centre"], clip=self.clip)

    def apply_rows(self, x: Tensor, index: Tensor, lam: Tensor, **extras: Tensor) -> Mixed:
        if on_host(x) and type(self).apply is CutMix.apply:
            return cutmix_rows(x, index, lam, extras["centre"], clip=self.clip)
        return super().apply_rows(x, index, lam, **extras)


@dataclass
class ResizeMix(Augmentation):
    """Shrinks image B and pastes all of it into image A, see :func:`resizemix`.

    The scale of the patch is ``scale_min + (scale_max - scale_min) * u`` with u ~ Beta(alpha, alpha): alpha = 1 is the
    paper's uniform scale. A lam given by the caller takes the scale sqrt(1 - lam), in these bounds or not.

    Args:
        scale_min: smallest side of the patch, as a share of the image's, in (0, 1].
        scale_max: largest.

    Example:
        >>> batch = samix.ResizeMix()(images, labels)
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "resizemix"
    requirements = Requirements(preserves_geometry=False)

    scale_min: PositiveShare = 0.1
    scale_max: PositiveShare = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min must be at most scale_max, got {self.scale_min} and {self.scale_max}")

    def draw_lam(self, batch_size: int) -> Tensor:
        """(B,) 1 - scale^2; 1 when this batch is not to be mixed."""
        drawn = super().draw_lam(batch_size)
        scale = self.scale_max - (self.scale_max - self.scale_min) * drawn
        return torch.where(drawn < 1.0, 1.0 - scale**2, 1.0)

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        return {"centre": torch.rand(shape[0], 2, generator=self.generator)}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return resizemix(x, partner, lam, extras["centre"])
