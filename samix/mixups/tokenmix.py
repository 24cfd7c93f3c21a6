"""TokenMix: cells of the patch grid, and labels by shares of activation (Liu et al., ECCV 2022, arXiv:2207.08409)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_pair, pair_batch
from samix.mixups.base import Guides, Requirements, choose, take_rows, to_device
from samix.mixups.cells import grid_of, to_pixels
from samix.mixups.guided import GuidedAugmentation
from samix.mixups.saliency import class_activation
from samix.mixups.switching import SwitchingAugmentation
from samix.networks.attention import class_attention
from samix.networks.inference import inspecting
from samix.runtime.typed_options import Count, Share


def tokenmix(x: Tensor, partner: Tensor, lam: Tensor, cells: Tensor) -> Mixed:
    """Chooses cells of the patch grid.

    TokenMix (Liu et al., ECCV 2022, arXiv:2207.08409), the image side.

    Args:
        lam: (B,); where it is 1, x is left whole, whatever the cells.
        cells: (B, gh, gw) or (1, gh, gw), float32, 1 where the partner shows; see :func:`block_cells`.
    """
    check_pair(x, partner, lam)
    return choose(x, partner, to_pixels(_own(cells, lam), (x.shape[2], x.shape[3])))


def _own(cells: Tensor, lam: Tensor) -> Tensor:
    """(B, gh, gw) float32: 1 where the own image shows."""
    return 1.0 - cells * (lam < 1.0).view(-1, 1, 1)


def tokenmix_weights(own_map: Tensor, partner_map: Tensor, cells: Tensor, lam: Tensor) -> Tensor:
    """The share of each image's activation that the mix shows.

    TokenMix: with maps that sum to 1, ``w_a = sum(map_a M)`` and ``w_b = sum(map_b (1 - M))``. They need not sum to 1:
    where both objects are covered, both weights are small. (OpenMixup's version takes the wrong side of the mask, for
    both.)

    Args:
        own_map: (B, h, w) at least 0, of any resolution; brought to the grid. All 0 counts as uniform.

    Returns:
        (B, 2) float32 in [0, 1].
    """
    own, grid = _own(cells, lam), (cells.shape[1], cells.shape[2])
    kept = (_normalised(own_map, grid) * own).sum((1, 2))
    pasted = (_normalised(partner_map, grid) * (1.0 - own)).sum((1, 2))
    whole = (own == 1.0).flatten(1).all(1)  # exact, as sums are not
    kept, pasted = torch.where(whole, 1.0, kept), torch.where((own == 0.0).flatten(1).all(1), 1.0, pasted)
    return torch.stack([kept, pasted], dim=1).clamp(0.0, 1.0)


def _normalised(guide: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h, w) -> (B, gh, gw), each of them with sum 1."""
    guide = guide.float().unsqueeze(1)
    if guide.shape[2:] != grid:
        shrinks = guide.shape[2] >= grid[0] and guide.shape[3] >= grid[1]
        resized = F.adaptive_avg_pool2d(guide, grid) if shrinks else F.interpolate(guide, grid, mode="bilinear")
        guide = resized.clamp(min=0.0)
    guide = guide.squeeze(1)
    total = guide.sum((1, 2), keepdim=True)
    return torch.where(total > 0.0, guide / torch.where(total > 0.0, total, 1.0), 1.0 / math.prod(grid))


_TRIES = 10  # to place a rectangle
_LOG_ASPECT = -math.log(0.3)  # of rectangles, log-uniform on both sides of a square


def block_cells(grid: tuple[int, int], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Covers cells of a grid by rectangles, until ``count`` are covered.

    TokenMix's block mask, which is BEiT's (Bao et al. 2022, arXiv:2106.08254): a rectangle's area is uniform between 1
    and what is still missing, its aspect log-uniform in [0.3, 1 / 0.3]; it is taken when it adds at least one cell and
    not too many. After ten rectangles in a row that are not taken it ends, with fewer cells.

    Args:
        grid: rows and columns.
        count: cells to cover.
        rng: of the draws.

    Returns:
        (gh, gw) float32, 1 where covered.
    """
    cells = np.zeros(grid, dtype=np.float32)
    missing = count
    while missing > 0:
        added = _place(cells, missing, rng)
        if added == 0:
            break
        missing -= added
    return cells


def _place(cells: NDArray[np.float32], missing: int, rng: np.random.Generator) -> int:
    """Covers one rectangle; returns how many cells it added, 0 where none was taken."""
    for _ in range(_TRIES):
        area, aspect = rng.uniform(1.0, missing), math.exp(rng.uniform(-_LOG_ASPECT, _LOG_ASPECT))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (1 <= height <= cells.shape[0] and 1 <= width <= cells.shape[1]):
            continue
        top, left = rng.integers(cells.shape[0] - height + 1), rng.integers(cells.shape[1] - width + 1)
        window = cells[top : top + height, left : left + width]
        added = int(window.size - window.sum())
        if 1 <= added <= missing:
            window[:] = 1.0
            return added
    return 0


Maps = Literal["activation", "attention", "area"]
Style = Literal["block", "random"]


@dataclass
class TokenMix(SwitchingAugmentation, GuidedAugmentation):
    """Exchanges rectangles of patches, and labels by activation, see :func:`tokenmix` and :func:`tokenmix_weights`.

    As released: lam is always 1/2, one mask per batch, MixUp for half of the batches, the maps a teacher's. The mask is
    drawn on the CPU. Published with binary cross-entropy and with partners by ``flip``.

    Args:
        patch: side of the network's patches in pixels.
        style: ``block`` rectangles, or ``random`` cells.
        fixed_lam: lam of every batch, 0.5 as released; None draws it from Beta(alpha, alpha).
        surplus: share of the patches that is covered beyond 1 - lam; the released code's 14 of 196.
        maps: where the weights come from: ``activation`` class activation maps of the teacher, or of the network in
            training where there is none; ``attention`` the network's own attention on the raw images, as the paper's
            alternative; ``area`` no maps: shares of pixels.
        switch: half of the batches, as released.
        teacher: a frozen network for the activation maps.

    Example:
        >>> logits, batch = samix.TokenMix(patch=8).forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "tokenmix"
    family: ClassVar[str] = "By patches"

    switch: Share = 0.5
    patch: Count = 16
    style: Style = "block"
    fixed_lam: Share | None = 0.5
    surplus: Share = 1.0 / 14.0
    maps: Maps = "activation"
    teacher: nn.Module | None = field(default=None, kw_only=True, repr=False, compare=False)

    @property
    def requirements(self) -> Requirements:
        return Requirements(model=self.maps == "attention" or (self.maps == "activation" and self.teacher is None))

    def check_batch(self, images: Tensor, labels: Tensor) -> None:
        super().check_batch(images, labels)
        if self.maps != "area":
            self.check_kind(labels, "class", "soft", "multilabel", instead='use maps="area" for shares of pixels')

    def draw_lam(self, batch_size: int) -> Tensor:
        """(B,) ``fixed_lam``, or a draw; 1 where this batch is not to be mixed."""
        lam = super().draw_lam(batch_size)
        return lam if self.fixed_lam is None else torch.where(lam < 1.0, self.fixed_lam, lam)

    def look(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        """The map of each image, see ``maps``.

        Raises:
            ValueError: no network to look at, or one that cannot be read.
        """
        if self.maps == "area":
            return torch.ones(len(images), 1, 1, device=images.device)
        network = model if self.maps == "attention" or self.teacher is None else self.teacher
        if network is None:
            raise ValueError(
                "TokenMix reads the shares of its labels from a network: give model=, a teacher=, the maps (B, h, w) "
                'as guide=, or TokenMix(maps="area") for shares of pixels'
            )
        if self.maps == "attention":
            with inspecting(network) as inner:
                return class_attention(inner, images)[1]
        return class_activation(network, images, labels)

    def covered(self, lam: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B,) int64, how many cells are covered: ``floor((1 - lam) N) + surplus``; none for lam = 1, all for 0."""
        total = math.prod(grid)
        count = torch.floor((1.0 - lam.double()) * total).long() + round(self.surplus * total)
        count = torch.where(lam == 0.0, total, count.clamp(max=total))
        return torch.where(lam == 1.0, 0, count)

    def draw_cells(self, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, gh, gw) float32, 1 where the partner shows; the same for all where lam is, unless ``per_sample``."""
        grid = grid_of(size, self.patch)
        counts = self.covered(lam.cpu(), grid).tolist()
        rng = np.random.default_rng(torch.randint(2**62, (2,), generator=self.generator).numpy())
        shared = not self.per_sample and len(set(counts)) == 1
        masks = [self._mask(grid, count, rng) for count in (counts[:1] if shared else counts)]
        return torch.from_numpy(np.stack(masks)).expand(len(lam), -1, -1)

    def _mask(self, grid: tuple[int, int], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """(gh, gw) float32, 1 where the partner shows."""
        if count == math.prod(grid):
            return np.ones(grid, dtype=np.float32)
        if self.style == "block":
            return block_cells(grid, count, rng)
        return (rng.permutation(math.prod(grid)) < count).astype(np.float32).reshape(grid)

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return tokenmix(x, partner, lam, extras["cells"])

    def mix_guided(
        self, images: Tensor, labels: Tensor, guide: Tensor, lam: Tensor, index: Tensor | None
    ) -> MixedBatch:
        """Draws pairs and cells, mixes, and weighs the labels by the maps."""
        cells = to_device(self.draw_cells(lam, (images.shape[2], images.shape[3])), images.device)
        lam, index = self.draw(images, lam, index)
        mixed = self.apply(images, take_rows(images, index), lam, cells=cells)
        batch = pair_batch(mixed, labels, index, self.targets)
        if self.maps == "area":
            return batch
        return dataclasses.replace(batch, weights=tokenmix_weights(guide, guide[index], cells, lam))
