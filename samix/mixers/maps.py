"""Mixing by maps that exist already: stored for a data set, cropped with their images, contested among k images.

The maps are those of :class:`samix.mixers.score.ScoreMixer` with one map an image, from ``mix.network.mixer.project``.
With stored maps a mix costs no network at all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.batch import MixedBatch
from samix.mixers.base import resize
from samix.mixers.score import fit_offset
from samix.mixups.salient import farthest_cycle

CELLS = 16  # per side of a stored map


def mix_by_maps(images: Tensor, labels: Tensor, maps: Tensor, shares: Tensor, index: Tensor) -> MixedBatch:
    """Mixes k images by the softmax over their maps.

    Args:
        images: (B, C, H, W). Not modified.
        labels: (B,) class ids, or (B, K) float targets.
        maps: (B, 1, h, w) score of each image's cells.
        shares: (B, k) share of each source in the mix, at least 0; rows sum to 1.
        index: (B, k) int64 row of each source; column 0 is the own row.

    Returns:
        MixedBatch whose weights are the shares.

    Raises:
        ValueError: shares and index differ in shape, or maps are not one for each image.

    Example:
        >>> images, labels, maps = torch.randn(4, 3, 32, 32), torch.arange(4), torch.randn(4, 1, 8, 8)
        >>> index = torch.stack([torch.arange(4), torch.arange(4).roll(1), torch.arange(4).roll(2)], dim=1)
        >>> mix_by_maps(images, labels, maps, torch.full((4, 3), 1 / 3), index).labels.shape
        torch.Size([4, 3])
    """
    if shares.shape != index.shape or shares.dim() != 2 or len(shares) != len(images):
        raise ValueError(
            f"shares and index must be ({len(images)}, k), got {tuple(shares.shape)} and {tuple(index.shape)}"
        )
    if maps.dim() != 4 or maps.shape[:2] != (len(images), 1):
        raise ValueError(f"maps must be ({len(images)}, 1, h, w), got {tuple(maps.shape)}; use a mixer with maps=1")
    masks = softmax_masks(maps[index, 0], shares, (images.shape[-2], images.shape[-1]))
    mixed = torch.zeros(images.shape, dtype=torch.promote_types(images.dtype, torch.float32), device=images.device)
    for source in range(shares.shape[1]):
        mixed += masks[:, source : source + 1] * images[index[:, source]]
    return MixedBatch(mixed.to(images.dtype), labels[index], shares.float(), index, masks[:, :1])


def softmax_masks(maps: Tensor, shares: Tensor, size: tuple[int, int], sweeps: int = 8) -> Tensor:
    """Computes the masks of mixes of k images: a softmax over their maps, offset so that each has its share.

    A sweep solves the offset of one image against the rest after another. For two images the first solution is exact,
    and the mask is that of :func:`samix.mixers.score.contest_mask`.

    Args:
        maps: (B, k, h, w) score of each source.
        shares: (B, k), at least 0; rows sum to 1.
        size: (H, W) of the images.
        sweeps: passes over the sources; after 8 the shares are within 0.01.

    Returns:
        (B, k, H, W) float32; sums to 1 over k.
    """
    with torch.autocast(maps.device.type, enabled=False):
        logits = list(resize(maps.float(), size, "bilinear").split(1, dim=1))  # type: ignore[no-untyped-call]
        sources, sweeps = (1, 1) if len(logits) == 2 else (len(logits), sweeps)
        for _ in range(sweeps):
            for k in range(sources):
                rest = torch.cat(logits[:k] + logits[k + 1 :], dim=1).logsumexp(1, keepdim=True)
                logits[k] = logits[k] + fit_offset(logits[k] - rest, shares[:, k])
        return torch.cat(logits, dim=1).softmax(1)


class MapStore:
    """The maps of a data set's images: 16 x 16 cells of 8 bits, 256 bytes an image.

    Args:
        count: N, images of the data set.
        limit: scores are kept within [-limit, limit]; four times the generator's gain is enough.
    """

    def __init__(self, count: int, limit: float = 10.0) -> None:
        self.values = torch.zeros(count, CELLS, CELLS, dtype=torch.int8)
        self.filled = torch.zeros(count, dtype=torch.bool)
        self.limit = limit

    def write(self, rows: Tensor, maps: Tensor) -> None:
        """Stores the maps (B, 1, h, w) of the images with these numbers (B,)."""
        cells = resize(maps.detach().float().cpu(), (CELLS, CELLS), "bilinear")
        self.values[rows] = (cells[:, 0] * (127 / self.limit)).round().clamp(-127, 127).to(torch.int8)
        self.filled[rows] = True

    def read(self, rows: Tensor) -> Tensor:
        """Returns the maps (B, 1, 16, 16) float32 of the images with these numbers."""
        if not bool(self.filled[rows].all()):
            missing = rows[~self.filled[rows]][0]
            raise KeyError(f"image {int(missing)} has no stored map; store it with write")
        return self.values[rows].float().unsqueeze(1) * (self.limit / 127)


def crop_maps(maps: Tensor, boxes: Tensor, flipped: Tensor, size: tuple[int, int]) -> Tensor:
    """Samples the maps of crops from the maps of whole images.

    Args:
        maps: (B, 1, h, w) of the whole images.
        boxes: (B, 4) crops (x0, y0, x1, y1) as shares of the image's sides; outside of it the edge is repeated.
        flipped: (B,) bool, whether the crop was flipped left to right afterwards.
        size: cells (h', w') of the result.

    Returns:
        (B, 1, h', w'), sampled bilinearly.
    """
    boxes = boxes.to(maps)
    low, span = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    theta = maps.new_zeros(len(maps), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = span[:, 0] * (1.0 - 2.0 * flipped.to(maps)), span[:, 1]
    theta[:, :, 2] = 2.0 * low + span - 1.0
    grid = F.affine_grid(theta, [len(maps), 1, *size], align_corners=False)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def least_overlap(maps: Tensor) -> Tensor:
    """Pairs images that score high in different places, by :func:`samix.mixups.salient.farthest_cycle`.

    Args:
        maps: (B, 1, h, w).

    Returns:
        (B,) partners, int64 on the CPU; for B >= 2 none is its own.
    """
    scores = maps[:, 0].float()
    return farthest_cycle(torch.sigmoid(scores - scores.flatten(1).median(1).values.view(-1, 1, 1)))
