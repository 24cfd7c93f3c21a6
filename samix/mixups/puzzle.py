"""PuzzleMix: the mask that keeps most saliency of both images, and blocks moved to where they are seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_pair
from samix.mixups.base import Guides, Requirements, blend, choose
from samix.mixups.cells import to_pixels
from samix.mixups.energy import ITERATIONS, MaskProblem, Solver, solve_dual, solve_exact
from samix.mixups.guided import GuidedAugmentation, need_guides
from samix.mixups.saliency import as_pixels, gradient_saliency, spectral_residual
from samix.mixups.transport import Grid, move_blocks, plan_by_swaps, plan_exactly, transport_cost
from samix.runtime.typed_options import AtLeast2, Count, CountOr0, Share, Weight

Saliency = Literal["gradient", "spectral"]
MaskSolver = Literal["dual", "exact"]
Transport = Literal["swaps", "exact"]


def block_grid(size: tuple[int, int], blocks: int) -> Grid:
    """Blocks along H and W: ``blocks`` along the shorter side, about square ones, never more than pixels."""
    short = min(size)
    rows, columns = (min(max(round(blocks * side / short), 1), side) for side in size)
    return rows, columns


def block_saliency(guide: Tensor, grid: Grid) -> Tensor:
    """The share of each block in an image's saliency.

    Args:
        guide: (B, h, w), at least 0; values that are not finite count as 0.
        grid: blocks along the height and the width.

    Returns:
        (B, nh, nw), sum 1; uniform where the map is 0 everywhere.
    """
    level = torch.nan_to_num(guide, nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0.0)
    level = level / level.amax((1, 2), keepdim=True).clamp(min=torch.finfo(level.dtype).tiny)
    share = F.adaptive_avg_pool2d(level.unsqueeze(1), grid).squeeze(1)
    total = share.sum((1, 2), keepdim=True)
    return torch.where(total > 0, share / torch.where(total > 0, total, 1.0), 1.0 / (grid[0] * grid[1]))


def mask_problem(
    saliency: Guides,
    pixels: Guides,
    lam: Tensor,
    *,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
    num_labels: int = 3,
    neigh_size: int = 4,
) -> MaskProblem:
    """PuzzleMix's energy of a mask.

    PuzzleMix (Kim et al. 2020, arXiv:2009.06962), Eq. (3), in the form of the released code: a block that shows one
    image pays the other's share of saliency there; neighbours that differ pay beta; differences of colour across the
    border of two blocks are weighed by beta gamma; ``-log Binomial(L - 1, lam)`` is the prior, times eta and over the
    number of blocks. beta is divided by 16 n, n the blocks per side (the square root of their number).

    Args:
        saliency: two (B, nh, nw), of the own images and of their partners, each with sum 1.
        pixels: two (B, C, H, W) in [0, 1].
        lam: (B,) prior of the own share.
        beta: smoothness of the mask.
        gamma: weight of the colours, in [0, 1].
        eta: weight of the prior.
        num_labels: L, levels of the mask, at least 2.
        neigh_size: pixels that are averaged on each side of a border before colours are compared.

    Returns:
        MaskProblem on the grid of the saliency.
    """
    own, other = saliency[0].clone(), saliency[1].clone()  # what it costs to drop the own block, the partner's
    grid: Grid = (own.shape[1], own.shape[2])
    strength = beta / (16.0 * math.sqrt(grid[0] * grid[1]))
    weights = []
    for dim in (1, 2):
        aa, ab, ba, bb = (gamma * strength * step for step in _colour_steps(pixels, grid, neigh_size, dim))
        for blocks, keep, drop in ((slice(None, -1), aa + ab, ba + bb), (slice(1, None), aa + ba, ab + bb)):
            where = (slice(None), blocks) if dim == 1 else (slice(None), slice(None), blocks)
            other[where] += keep / 2.0
            own[where] += drop / 2.0
        weights.append((strength + (ab + ba - aa - bb) / 2.0).clamp(min=0.0))
    z = (torch.arange(num_labels, device=own.device, dtype=own.dtype) / (num_labels - 1)).view(1, -1, 1, 1)
    prior = _prior(lam.to(own.dtype), num_labels) * (eta / (grid[0] * grid[1]))
    unary = z * other.unsqueeze(1) + (1.0 - z) * own.unsqueeze(1) + prior.unsqueeze(2).unsqueeze(3)
    return MaskProblem(unary, weights[0], weights[1])


def _colour_steps(pixels: Guides, grid: Grid, neigh_size: int, dim: int) -> list[Tensor]:
    """Mean |difference| of colour from each block to the next one along dim (1 below, 2 to the right).

    Own to own, own to partner, partner to own, partner to partner: each (B, nh - 1, nw) or (B, nh, nw - 1).
    """
    parts = [max(side // n // neigh_size, 1) for side, n in zip(pixels[0].shape[2:], grid, strict=True)]
    strips = []
    for image in pixels:
        small = F.adaptive_avg_pool2d(image, (grid[0] * parts[0], grid[1] * parts[1]))
        small = small.view(*image.shape[:2], grid[0], parts[0], grid[1], parts[1])  # (B, C, nh, kh, nw, kw)
        edge = (small[:, :, :-1, -1], small[:, :, 1:, 0]) if dim == 1 else (small[..., :-1, -1], small[..., 1:, 0])
        strips.append(edge)  # (B, C, nh - 1, nw, kw) or (B, C, nh, kh, nw - 1)
    pairs = [(first[0], second[1]) for first in strips for second in strips]
    return [(first - second).abs().mean((1, 4 if dim == 1 else 3)) for first, second in pairs]


def _prior(lam: Tensor, num_labels: int) -> Tensor:
    """(B, L): -log of the binomial probability of each level, given the own share lam (B,)."""
    top = num_labels - 1
    count = torch.arange(num_labels, device=lam.device)
    ways = torch.tensor([math.comb(top, k) for k in range(num_labels)], dtype=lam.dtype).to(lam.device)
    chance = ways * lam.unsqueeze(1) ** count * (1.0 - lam.unsqueeze(1)) ** (top - count)
    return -torch.log(chance + 1e-8)


def puzzlemix(
    x: Tensor, partner: Tensor, lam: Tensor, z: Tensor, *, moves: tuple[Tensor, Tensor, Grid] | None = None
) -> Mixed:
    """Mixes by a mask of blocks; before that, blocks may be moved.

    PuzzleMix (Kim et al. 2020, arXiv:2009.06962), Eq. (1). Pixel rows h belong to block ``floor(h nh / H)``.

    Args:
        lam: (B,) the prior the mask was made with; where it is 1 or 0, that image is given unmixed and unmoved.
        z: (B, nh, nw) own share of each block, in [0, 1], see :func:`mask_problem`.
        moves: plans (B, N) for x and for partner, and the grid of their blocks; None leaves every pixel in its place.

    Returns:
        Mixed; its lam is the mean of the mask.
    """
    check_pair(x, partner, lam)
    end = ((lam == 0.0) | (lam == 1.0)).view(-1, 1, 1)
    mask = to_pixels(z.float(), (x.shape[2], x.shape[3]))
    mask = torch.where(end.unsqueeze(3), lam.view(-1, 1, 1, 1), mask)
    if moves is not None:
        places = torch.arange(moves[0].shape[1], device=x.device)
        x, partner = (
            move_blocks(image, torch.where(end.squeeze(2), places, plan), moves[2])
            for image, plan in ((x, moves[0]), (partner, moves[1]))
        )
    mixed = choose(x, partner, mask)  # its lam: the mean of the mask
    soft = (mask > 0.0) & (mask < 1.0)
    return mixed._replace(images=torch.where(soft, blend(x, partner, mask), mixed.images))


def plan_moves(guides: Guides, z: Tensor, grid: Grid, solver: Transport = "exact", t_eps: float = 0.8) -> Guides:
    """Where to move the blocks of both images of each pair.

    Args:
        guides: two (B, h, w), saliency of the own and of the partners' images.
        z: (B, nh, nw) the mask.
        grid: blocks that are moved, along H and W; the mask is brought to it by its nearest block.
        solver: ``exact`` or ``swaps``.
        t_eps: price of distance.

    Returns:
        Plans (B, N) int64 of the own and of the partners' images.
    """
    solve = plan_exactly if solver == "exact" else plan_by_swaps
    rows, columns = ((2 * torch.arange(n, device=z.device) + 1) * m for n, m in zip(grid, z.shape[1:], strict=True))
    z = z[:, rows // (2 * grid[0])][:, :, columns // (2 * grid[1])]
    own = solve(transport_cost(block_saliency(guides[0], grid), z > 0.0, t_eps))
    other = solve(transport_cost(block_saliency(guides[1], grid), z < 1.0, t_eps))
    return own, other


@dataclass
class PuzzleMix(GuidedAugmentation):
    """Solves for a block mask that keeps much saliency of both images (Kim et al., ICML 2020, arXiv:2009.06962).

    The lam that is drawn is a prior; each sample's label takes the mean of its mask. One saliency pass (forward and
    backward) is made per batch. The paper moves blocks, ``transport=True``; it is off here, as it rarely moves any at
    the published settings, needs the CPU for its exact solver, and takes pixels away from labels at each pixel. The
    released code finds the mask by swaps of two labels, which is not always its minimum.

    Args:
        beta: smoothness of the mask; the larger, the fewer borders.
        gamma: how much borders keep to places where colours agree, in [0, 1].
        eta: weight of the prior, how closely the mask follows the lam drawn.
        num_labels: levels of the mask, at least 2; 3 lets a block be half own, half partner.
        neigh_size: pixels that are averaged on each side of a border before colours are compared.
        blocks: blocks along the shorter side; 0 draws 2, 4, 8 or 16 for each batch, never more than pixels.
        solver: dual on the device, all samples at once; exact on the CPU, by SciPy.
        iterations: steps of dual.
        saliency: gradient of the loss, or spectral residual, which needs no network.
        transport: moves salient blocks to where the mask shows them; labels at each pixel cannot be mixed then.
        transport_solver: exact on the CPU, by SciPy; swaps on the device, all samples at once.
        t_eps: price of moving a block across the image.
        t_size: side of the blocks that are moved, in pixels; 0 moves the mask's own blocks. Published: 4 at 32 pixels,
            0 at 224.
        clean_weight: weight of the clean images' loss in training; above 0 it costs a further pass.

    Example:
        >>> logits, batch = samix.PuzzleMix(blocks=4).forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "puzzlemix"

    beta: Weight = 1.2
    gamma: Share = 0.5
    eta: Weight = 0.2
    num_labels: AtLeast2 = 3
    neigh_size: Count = 4
    blocks: CountOr0 = 0
    solver: MaskSolver = "dual"
    iterations: Count = ITERATIONS
    saliency: Saliency = "gradient"
    transport: bool = False
    transport_solver: Transport = "exact"
    t_eps: Weight = 0.8
    t_size: CountOr0 = 0
    clean_weight: Weight = 0.0

    @property
    def requirements(self) -> Requirements:
        losses = ("clean",) if self.clean_weight else ()
        return Requirements(model=self.saliency == "gradient", preserves_geometry=not self.transport, own_losses=losses)

    def look(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        if self.saliency == "spectral":
            return spectral_residual(images, self.mean, self.std)
        assert model is not None  # __call__ has seen to it
        return gradient_saliency(model, images, labels, self.targets)

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        drawn = 2 ** (1 + int(torch.randint(4, (1,), generator=self.generator)))
        return {"blocks": torch.tensor(self.blocks or drawn)}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        guides = need_guides(guides)
        size = (x.shape[2], x.shape[3])
        grid = block_grid(size, int(extras["blocks"]))
        pixels = as_pixels(x, self.mean, self.std), as_pixels(partner, self.mean, self.std)
        problem = mask_problem(
            (block_saliency(guides[0], grid), block_saliency(guides[1], grid)),
            pixels,
            lam,
            beta=self.beta,
            gamma=self.gamma,
            eta=self.eta,
            num_labels=self.num_labels,
            neigh_size=self.neigh_size,
        )
        z = self.solve(problem)
        if not self.transport:
            return puzzlemix(x, partner, lam, z)
        if self.t_size:
            grid = max(size[0] // self.t_size, 1), max(size[1] // self.t_size, 1)
        own, other = plan_moves(guides, z, grid, self.transport_solver, self.t_eps)
        return puzzlemix(x, partner, lam, z, moves=(own, other, grid))

    @property
    def solve(self) -> Solver:
        """The solver that the options name."""
        return solve_exact if self.solver == "exact" else partial(solve_dual, iterations=self.iterations)

    def extras_for(self, images: Tensor) -> dict[str, Tensor]:
        """The number of blocks, which stays on the CPU: shapes depend on it."""
        return self.draw_extras(images.shape)

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        logits, batch = super().forward_through(model, images, labels)
        return logits, self.with_clean_loss(batch, model, images, labels, self.clean_weight)
