"""Mixups on the patch grid of a transformer: CutMix by whole patches, MaskMix, TokenMix and SMMix.

The grid is given by the side of a patch in pixels, or by the map that guides the mixup; images need not be square, nor
a whole number of patches: the cell of pixel row h is ``floor(h gh / H)``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_images, check_labels, check_pair, pair_batch
from samix.mixing import Augmentation, Guides, choose, take_rows, to_device
from samix.mixups.guided import GuidedAugmentation
from samix.networks.attention import attention_layers, class_attention, patches_of, received_attention
from samix.networks.backbone import hooked
from samix.networks.modes import looking, unwrap
from samix.switching import SwitchingAugmentation, idle

# ---------------------------------------------------------------------------------------------------------------------
# Cells and pixels.


def grid_of(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of whole patches in an image of size (H, W), at least one each."""
    return max(size[0] // patch, 1), max(size[1] // patch, 1)


def to_pixels(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, gh, gw) -> (B, 1, H, W): every pixel gets its cell's value."""
    (height, width), device = size, cells.device
    rows = torch.arange(height, device=device) * cells.shape[1] // height
    columns = torch.arange(width, device=device) * cells.shape[2] // width
    return cells.index_select(1, rows).index_select(2, columns).unsqueeze(1)


def _between(start: Tensor, stop: Tensor, size: int) -> Tensor:
    """(B,) whole numbers -> (B, size) float32: 1 on start <= cell < stop."""
    at = torch.arange(size, device=start.device)
    return ((at >= start.unsqueeze(1)) & (at < stop.unsqueeze(1))).float()


def _check_side(name: str, value: int) -> None:
    """Raises ValueError unless a side in pixels is a whole number, at least 1."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of pixels, at least 1, got {value!r}")


# ---------------------------------------------------------------------------------------------------------------------
# CutMix by whole patches.


def cutmix_patches(
    x: Tensor, partner: Tensor, lam: Tensor, centre: Tensor, *, patch: int = 16, clip: bool = True
) -> Mixed:
    """CutMix whose box has its borders on patch borders, so that no token of a ViT is mixed.

    TL-Align's (Xiao et al., ICCV 2023, arXiv:2210.06455). On so coarse a grid CutMix's own rounding would make small
    boxes smaller still (a side of 3 becomes 2); here a box has ``floor(gh r + 1/2)`` x ``floor(gw r + 1/2)`` patches,
    ``r = sqrt(1 - lam)``.

    Args:
        x: (B, C, H, W) images. Not modified.
        partner: (B, C, H, W).
        lam: (B,) share of x wanted, in [0, 1].
        centre: (B, 2) in [0, 1), row and column of the box's centre as shares of H and W.
        patch: side of a patch in pixels.
        clip: let the border cut the box, as CutMix does. False keeps it whole and inside.

    Returns:
        Mixed; its lam is the exact area left to x.

    Raises:
        ValueError: x and partner, or lam, differ in shape.
    """
    check_pair(x, partner, lam)
    rows, columns = grid_of((x.shape[2], x.shape[3]), patch)
    ratio = torch.sqrt(1.0 - lam)
    inside = _box_side(ratio, centre[:, 0], rows, clip).unsqueeze(2) * (
        _box_side(ratio, centre[:, 1], columns, clip).unsqueeze(1)
    )
    return choose(x, partner, to_pixels(1.0 - inside, (x.shape[2], x.shape[3])))


def _box_side(ratio: Tensor, centre: Tensor, size: int, clip: bool) -> Tensor:
    """(B, size) float32: 1 where the box is, along one side of the grid."""
    cut = torch.floor(size * ratio + 0.5)
    if clip:
        start = torch.floor(centre * size) - torch.floor(cut / 2.0)
        start = torch.where(ratio == 1.0, 0.0, start)
    else:
        start = torch.floor(centre * (size - cut + 1.0))
    return _between(start, start + cut, size)


@dataclass
class PatchCutMix(Augmentation):
    """CutMix by whole patches, see :func:`cutmix_patches`.

    Args:
        patch: side of the network's patches in pixels.
        clip: False keeps every box whole and inside, so that lam is met to within rounding.
    """

    name: ClassVar[str] = "patchcutmix"

    patch: int = 16
    clip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_side("patch", self.patch)

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        """The centres (B, 2)."""
        return {"centre": torch.rand(shape[0], 2, generator=self.generator)}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        """See :func:`cutmix_patches`."""
        return cutmix_patches(x, partner, lam, extras["centre"], patch=self.patch, clip=self.clip)


# ---------------------------------------------------------------------------------------------------------------------
# MaskMix.


def maskmix(x: Tensor, partner: Tensor, lam: Tensor, scores: Tensor, *, cell: int) -> Mixed:
    """Chooses square cells of each image at random.

    MaskMix, the image side of MixPro (Zhao et al., ICLR 2023, arXiv:2304.12043): of the ``T = ceil(H / cell) *
    ceil(W / cell)`` cells, ``ceil(lam T)`` keep the own image. Cells at the lower and right border are cut where the
    cell does not divide the image; the released code counts them as whole, here lam is the share of pixels.

    Args:
        x: (B, C, H, W) images. Not modified.
        partner: (B, C, H, W).
        lam: (B,) share of x wanted, in [0, 1].
        scores: (B, T) random numbers, row by row; the lowest of them keep the own image.
        cell: side of a cell in pixels.

    Returns:
        Mixed; its lam is the exact area left to x.

    Raises:
        ValueError: x and partner, or lam, differ in shape, or there is not one score per cell.
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
    """MaskMix, see :func:`maskmix`; its cells are drawn for each sample.

    Args:
        cell: side of a cell in pixels; 0 takes a quarter of the shorter side, rounded up: the published 56 at 224.
        patch: the side is rounded up to a multiple of this. The paper asks for a multiple of the network's patch, the
            released configurations have 56 with patches of 16; 1 leaves it as it is.
    """

    name: ClassVar[str] = "maskmix"

    cell: int = 0
    patch: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_side("patch", self.patch)
        if self.cell != 0:
            _check_side("cell", self.cell)

    def side(self, shape: torch.Size) -> int:
        """Side of a cell, for images of this shape (B, C, H, W)."""
        cell = self.cell or math.ceil(min(shape[2:]) / 4)
        return math.ceil(cell / self.patch) * self.patch

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        """The scores (B, T)."""
        count = math.ceil(shape[2] / self.side(shape)) * math.ceil(shape[3] / self.side(shape))
        return {"scores": torch.rand(shape[0], count, generator=self.generator)}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        """See :func:`maskmix`."""
        return maskmix(x, partner, lam, extras["scores"], cell=self.side(x.shape))


# ---------------------------------------------------------------------------------------------------------------------
# TokenMix.


def tokenmix(x: Tensor, partner: Tensor, lam: Tensor, cells: Tensor) -> Mixed:
    """Chooses cells of the patch grid.

    TokenMix (Liu et al., ECCV 2022, arXiv:2207.08409), the image side.

    Args:
        x: (B, C, H, W) images. Not modified.
        partner: (B, C, H, W).
        lam: (B,); where it is 1, x is left whole, whatever the cells.
        cells: (B, gh, gw) or (1, gh, gw), float32, 1 where the partner shows; see :func:`block_cells`.

    Returns:
        Mixed; its lam is the exact area left to x.

    Raises:
        ValueError: x and partner, or lam, differ in shape.
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
        partner_map: as own_map.
        cells: as for :func:`tokenmix`.
        lam: as for :func:`tokenmix`.

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


def block_cells(grid: tuple[int, int], count: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
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


def _place(cells: np.ndarray[Any, np.dtype[np.float32]], missing: int, rng: np.random.Generator) -> int:
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
    """TokenMix, see :func:`tokenmix`; the label's weights are shares of activation, see :func:`tokenmix_weights`.

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
    """

    name: ClassVar[str] = "tokenmix"

    switch: float = 0.5
    patch: int = 16
    style: Style = "block"
    fixed_lam: float | None = 0.5
    surplus: float = 1.0 / 14.0
    maps: Maps = "activation"
    teacher: nn.Module | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_side("patch", self.patch)
        if self.style not in ("block", "random"):
            raise ValueError(f"style must be block or random, got {self.style!r}")
        if self.maps not in ("activation", "attention", "area"):
            raise ValueError(f"maps must be activation, attention or area, got {self.maps!r}")
        if self.fixed_lam is not None and not 0.0 <= self.fixed_lam <= 1.0:
            raise ValueError(f"fixed_lam must be in [0, 1] or None, got {self.fixed_lam}")
        if not 0.0 <= self.surplus <= 1.0:
            raise ValueError(f"surplus must be in [0, 1], got {self.surplus}")

    @property
    def needs_model(self) -> bool:  # type: ignore[override]  # an option decides
        """Whether the maps are read from the network in training."""
        return self.maps == "attention" or (self.maps == "activation" and self.teacher is None)

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
            with looking(network) as inner:
                return class_attention(inner, images)[1]
        from samix.saliency import class_activation

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

    def _mask(
        self, grid: tuple[int, int], count: int, rng: np.random.Generator
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(gh, gw) float32, 1 where the partner shows."""
        if count == math.prod(grid):
            return np.ones(grid, dtype=np.float32)
        if self.style == "block":
            return block_cells(grid, count, rng)
        return (rng.permutation(math.prod(grid)) < count).astype(np.float32).reshape(grid)

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        """See :func:`tokenmix`."""
        return tokenmix(x, partner, lam, extras["cells"])

    def mix_guided(
        self, images: Tensor, labels: Tensor, guide: Tensor, lam: Tensor, index: Tensor | None
    ) -> MixedBatch:
        """Draws pairs and cells, mixes, and weighs the labels by the maps."""
        cells = to_device(self.draw_cells(lam, (images.shape[2], images.shape[3])), images.device)
        lam, index = self.draw(images, lam, index)
        batch = pair_batch(self.apply(images, take_rows(images, index), lam, cells=cells), labels, index)
        if self.maps == "area":
            return batch
        return dataclasses.replace(batch, weights=tokenmix_weights(guide, guide[index], cells, lam))


# ---------------------------------------------------------------------------------------------------------------------
# SMMix.


def smmix(
    x: Tensor,
    partner: Tensor,
    lam: Tensor,
    own_map: Tensor,
    partner_map: Tensor,
    *,
    min_side: float = 0.25,
    max_side: float = 0.75,
) -> Mixed:
    """Pastes the partner's window of most attention over the own window of least attention.

    SMMix (Chen et al., ICCV 2023, arXiv:2212.12977). The window's side is a whole number s of tokens, between
    ``floor(min_side g)`` and ``floor(max_side g)`` for a grid of side g, all alike likely when ``sqrt(1 - lam)`` is
    uniform between min_side and max_side; beyond these it is ``floor(g sqrt(1 - lam))``. Rows and columns of a grid
    that is not square have sides of their own.

    Args:
        x: (B, C, H, W) images. Not modified.
        partner: (B, C, H, W).
        lam: (B,) share of x wanted, in [0, 1].
        own_map: (B, gh, gw) attention of x on the patch grid, at least 0; of equal windows the first one is taken.
        partner_map: of the partner.
        min_side: smallest side of a window drawn, as a share of the grid's.
        max_side: largest.

    Returns:
        Mixed; its lam is the exact area left to x, 1 - s^2 / g^2.

    Raises:
        ValueError: x and partner, or lam, differ in shape.
    """
    check_pair(x, partner, lam)
    (height, width), (rows, columns) = x.shape[2:], own_map.shape[1:]
    ratio = torch.sqrt(1.0 - lam)
    tall, wide = _window(ratio, rows, min_side, max_side), _window(ratio, columns, min_side, max_side)
    top, left = _best_window(own_map, tall, wide, least=True)
    from_top, from_left = _best_window(partner_map, tall, wide, least=False)
    inside = _between(top, top + tall, rows).unsqueeze(2) * _between(left, left + wide, columns).unsqueeze(1)
    at_row = _moved(top, from_top, rows, height)  # (B, H): where each row looks in the partner
    at_column = _moved(left, from_left, columns, width)
    moved = partner.gather(2, at_row.view(len(x), 1, height, 1).expand_as(partner))
    moved = moved.gather(3, at_column.view(len(x), 1, 1, width).expand_as(partner))
    return choose(x, moved, to_pixels(1.0 - inside, (height, width)))


def _window(ratio: Tensor, size: int, min_side: float, max_side: float) -> Tensor:
    """(B,) side of the window in tokens, float32 whole numbers."""
    low, high = math.floor(min_side * size), math.floor(max_side * size)
    span = max(max_side - min_side, 1e-6)
    drawn = (low + torch.floor((ratio - min_side) / span * (high - low + 1))).clamp(low, high)
    between = (ratio >= min_side - 1e-6) & (ratio <= max_side + 1e-6)  # lam was squared and its root taken
    return torch.where(between, drawn, torch.floor(ratio * size))


def _best_window(guide: Tensor, tall: Tensor, wide: Tensor, *, least: bool) -> tuple[Tensor, Tensor]:
    """First row and column (both (B,) float32) of the window with the smallest or largest sum."""
    rows, columns = guide.shape[1:]
    down, across = _windows(tall, rows), _windows(wide, columns)  # (B, starts, cells)
    sums = down @ guide.float() @ across.transpose(1, 2)  # (B, rows, columns), by the window's first cell
    start = torch.arange(rows, device=guide.device), torch.arange(columns, device=guide.device)
    fits_down = start[0] + tall.unsqueeze(1) <= rows
    fits_across = start[1] + wide.unsqueeze(1) <= columns
    fits = fits_down.unsqueeze(2) & fits_across.unsqueeze(1)
    best = torch.where(fits, -sums if least else sums, -math.inf).flatten(1).argmax(1)
    return (best // columns).float(), (best % columns).float()


def _windows(side: Tensor, size: int) -> Tensor:
    """(B,) sides -> (B, size, size) float32: row t is 1 on t <= cell < t + side."""
    at = torch.arange(size, device=side.device)
    ahead = at.unsqueeze(0) - at.unsqueeze(1)  # cell - start
    return ((ahead >= 0) & (ahead < side.view(-1, 1, 1))).float()


def _moved(to: Tensor, source: Tensor, cells: int, size: int) -> Tensor:
    """(B, size) int64: the pixel that lands on each pixel when cell ``source`` is moved to cell ``to``."""
    first = [torch.ceil(cell * size / cells).long() for cell in (to, source)]  # of the cell's pixels
    at = torch.arange(size, device=to.device) + (first[1] - first[0]).unsqueeze(1)
    return at.clamp(0, size - 1)


def consistency_loss(logits: Tensor, clean: Tensor, batch: MixedBatch) -> Tensor:
    """How far the prediction of the mix is from the mix of the clean predictions.

    SMMix: KL(softmax(lam z_clean + (1 - lam) z_clean of the partner) || softmax(z)), mean over the batch.

    Args:
        logits: (B, K) of the mixed images.
        clean: (B, K) of the clean images, a target: no gradient.
        batch: the pairs and their lam.

    Returns:
        Scalar, in nats.
    """
    clean = clean.detach().float()
    expected = torch.lerp(clean[batch.index[:, 1]], clean, batch.lam.unsqueeze(1))
    log_p, log_q = F.log_softmax(logits.float(), dim=1), F.log_softmax(expected, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def region_loss(tokens: Tensor, batch: MixedBatch, classify: Callable[[Tensor], Tensor]) -> Tensor:
    """Cross-entropy of the own region's mean token against the own label, and of the partner's against the partner's.

    SMMix. A region that is empty, as the partner's in an unmixed row, does not count.

    Args:
        tokens: (B, gh, gw, D) of the mixed images.
        batch: with a mask (B, 1, H, W), and labels that are class ids (B, 2) or targets (B, 2, K).
        classify: (B, D) -> (B, K).

    Returns:
        Scalar, in nats: the sum of the two means over the batch.
    """
    assert batch.mask is not None
    own = F.adaptive_avg_pool2d(batch.mask, (tokens.shape[1], tokens.shape[2])).transpose(1, 3).transpose(1, 2)
    total = tokens.new_zeros((), dtype=torch.float32)
    for source, share in enumerate((own, 1.0 - own)):  # (B, gh, gw, 1)
        size = share.sum((1, 2))
        pooled = (tokens.float() * share).sum((1, 2)) / size.clamp(min=1e-6)
        each = F.cross_entropy(classify(pooled).float(), batch.labels[:, source], reduction="none")
        total = total + (each * (size.squeeze(1) > 0.0)).mean()
    return total


@dataclass
class SMMix(SwitchingAugmentation, GuidedAugmentation):
    """SMMix, see :func:`smmix`, with its two further losses where it runs the network (a timm ViT).

    The maps are the attention that each patch receives in the last block on the clean images: one extra pass in eval
    mode, without a graph, which also gives the clean predictions. A call on images alone mixes them, without losses.

    Args:
        alpha: <= 0 switches mixing off; otherwise without effect, as the window's side is drawn evenly.
        min_side: smallest side of a window, as a share of the grid's, in (0, 1].
        max_side: largest.
        regions: weight of the losses of the two regions' mean tokens, each classified by a head of its own; without
            that head, see :meth:`attach`, they are left out.
        consistency: weight of the divergence between the prediction and the mixed clean predictions.
        switch: half of the batches, as released.
        head: of the regions; made by :meth:`attach`.
    """

    name: ClassVar[str] = "smmix"
    keeps_place: ClassVar[bool] = False
    needs_model: ClassVar[bool] = True

    switch: float = 0.5
    min_side: float = 0.25
    max_side: float = 0.75
    regions: float = 0.5
    consistency: float = 1.0
    head: nn.Module | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.min_side <= self.max_side <= 1.0:
            raise ValueError(f"need 0 < min_side <= max_side <= 1, got {self.min_side} and {self.max_side}")
        if self.regions < 0.0 or self.consistency < 0.0:
            raise ValueError(f"weights must be at least 0, got regions={self.regions}, consistency={self.consistency}")

    def draw_lam(self, batch_size: int) -> Tensor:
        """(B,) 1 - side^2, the side uniform; 1 where this batch is not to be mixed."""
        on = super().draw_lam(batch_size) < 1.0
        count = batch_size if self.per_sample else 1
        side = self.min_side + (self.max_side - self.min_side) * torch.rand(count, generator=self.generator)
        return torch.where(on, 1.0 - side**2, 1.0)

    def look(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        """(B, gh, gw) attention received by each patch."""
        assert model is not None
        with looking(model) as inner:
            return received_attention(inner, images)[1]

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        """See :func:`smmix`."""
        if guides is None:
            raise ValueError("SMMix needs guides, the attention maps (B, gh, gw) of x and of its partner")
        return smmix(x, partner, lam, *guides, min_side=self.min_side, max_side=self.max_side)

    def attach(self, model: nn.Module, num_classes: int) -> nn.Module | None:
        """Makes the head that classifies the regions' tokens.

        Raises:
            ValueError: not a timm ViT.
        """
        attention_layers(model)
        net: Any = unwrap(model)
        self.head = nn.Linear(net.num_features, num_classes, device=next(net.parameters()).device)
        return self.head

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Looks at the clean images, mixes them, runs the network on the mix, and adds the two losses.

        Args:
            model: a timm ViT, (B, C, H, W) to (B, K).
            images: (B, C, H, W). Not modified.
            labels: (B,) class ids, or (B, K) float targets.

        Returns:
            Logits (B, K), and the batch with ``extra``.

        Raises:
            TypeError, ValueError: wrong images or labels, or a network whose attention cannot be read.
        """
        check_images(images)
        check_labels(labels, len(images))
        if labels.dim() == 1 and labels.is_floating_point():
            raise ValueError("SMMix classifies regions, these labels are values; call mix(images, labels, model=model)")
        if self.draw_switch():
            batch = self.instead()(images, labels)
            return model(batch.images), self._with(batch, {})
        lam = self.draw_lam(len(images))
        if len(images) == 1 or bool((lam == 1.0).all()):
            return model(images), self._with(
                GuidedAugmentation.__call__(self, images, labels, lam=1.0, model=model), {}
            )
        with torch.no_grad():
            with looking(model) as inner:
                clean, guide = received_attention(inner, images)
            batch = self.mix_guided(images, labels, guide, lam, None)
        tokens: list[Tensor] = []
        net: Any = unwrap(model)
        with hooked(net.norm.register_forward_hook(lambda _layer, _args, output: tokens.append(output))):
            logits = model(batch.images)
        terms = {"consistency": self.consistency * consistency_loss(logits, clean, batch)}
        if self.head is not None:
            patches = patches_of(tokens[0], net, images)
            patches = patches.reshape(len(images), guide.shape[1], guide.shape[2], -1)
            terms["regions"] = self.regions * region_loss(patches, batch, self._classify(net))
        return logits, self._with(batch, terms)

    def _classify(self, net: Any) -> Any:
        """(B, D) mean tokens -> (B, K), through the norm that the network puts behind its own mean."""
        head: Any = self.head
        return lambda pooled: head(net.fc_norm(pooled).to(head.weight.dtype))

    def _with(self, batch: MixedBatch, terms: Mapping[str, Tensor]) -> MixedBatch:
        """The batch with further losses; the head is always part of the graph, as DistributedDataParallel asks."""
        extra = dict(terms)
        if self.head is not None and "regions" not in extra:
            extra["regions"] = idle(self.head)
        return dataclasses.replace(batch, extra=extra)
