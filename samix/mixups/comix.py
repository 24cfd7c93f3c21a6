"""Co-Mixup: many images mixed into as many, chosen together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import MixedBatch, TargetKind, as_targets, check_images, check_labels, target_kind
from samix.mixups.base import Requirements, blend, to_device
from samix.mixups.guided import GuidedAugmentation
from samix.mixups.puzzle import Saliency, block_grid, block_saliency
from samix.mixups.saliency import gradient_saliency, spectral_residual
from samix.mixups.transport import Grid, cells
from samix.mixups.transport import starts as block_starts
from samix.runtime.typed_options import Count, Share, Weight

_FORBIDDEN = 1e4  # added to the cost of what must not be chosen
_HALVES = ((0, 1), (0, 2), (1, 2))  # pairs among the three inputs an output uses most


class CoProblem(NamedTuple):
    """What is minimised for G partitions of m inputs and m outputs, on N blocks.

    Args:
        unary: (G, m outputs, N, m inputs) cost of showing an input's block: minus its saliency, minus the prior.
        likeness: (G, m, m), A: how much it costs that two outputs use these two inputs.
        real: (G, m) bool; False fills up the last partition.
        grid: blocks along the height and the width.
        beta: weight of borders between blocks, over N.
        gamma: weight of the coupling, over N.
        threshold: tau N; an input used less than this by the other outputs costs nothing.
    """

    unary: Tensor
    likeness: Tensor
    real: Tensor
    grid: Grid
    beta: float
    gamma: float
    threshold: float


def objective(problem: CoProblem, z: Tensor) -> Tensor:
    """What Co-Mixup minimises.

        sum_j [sum_i unary . z_ji + beta / 2 sum_(i, i' neighbours) |z_ji - z_ji'|^2] + gamma sum_j c_j . h(A p_j)

    c_j counts the blocks of each input in output j, p_j those in the other outputs, h(v) = v where v > tau, else 0.
    With tau = 0 the last term is the paper's sum over pairs of outputs, ``c_j A c_j'``.

    Args:
        problem: see :class:`CoProblem`.
        z: (G, m, N, m) share of each input in each block of each output.

    Returns:
        (G,).
    """
    used = _used(z, problem.real)
    own = _own_energy(problem, problem.unary, z) * problem.real
    return own.sum(1) + _coupling(problem, used)


def _used(z: Tensor, real: Tensor) -> Tensor:
    """c: (G, m, m) blocks of each input in each output."""
    return z.sum(2) * real.unsqueeze(2)


def _own_energy(problem: CoProblem, unary: Tensor, z: Tensor) -> Tensor:
    """Unary and border terms of each output: (..., N, m) -> (...)."""
    at = z.reshape(*z.shape[:-2], *problem.grid, z.shape[-1])
    below = (at[..., 1:, :, :] - at[..., :-1, :, :]).square().sum((-3, -2, -1))
    right = (at[..., 1:, :] - at[..., :-1, :]).square().sum((-3, -2, -1))
    return (unary * z).sum((-2, -1)) + problem.beta / 2.0 * (below + right)


def _coupling(problem: CoProblem, used: Tensor) -> Tensor:
    """The coupling gamma sum_j c_j . h(A p_j): used (..., G, m, m) -> (..., G)."""
    around = (used.sum(-2, keepdim=True) - used) @ problem.likeness  # A is symmetric
    return problem.gamma * (used * around * (around > problem.threshold)).sum((-2, -1))


@torch.no_grad()
def solve_together(problem: CoProblem, z: Tensor, sweeps: int = 4) -> tuple[Tensor, Tensor]:
    """Chooses each output's blocks in turn, the others held; all partitions at once.

    As the released code goes about it: the coupling becomes a linear cost ``2 gamma h(A p)`` of each input, from the
    second sweep on a block may be shared half and half by two of the three inputs that the output uses most, and in the
    sweep before the last an output that equals an earlier one is made again with the inputs of its twin made dearer.
    The labels of an output are found there by alpha-expansion, here by iterated conditional modes from three starts.

    As the cost is linear, a sweep may make the objective larger; of the sweeps since twins were parted, the best is
    given. Their number is fixed: nothing waits for the device.

    Args:
        z: (G, m, N, m) where to start.
        sweeps: over all outputs.

    Returns:
        The best z, and its objective before the first sweep and after each (sweeps + 1, G).
    """
    best, z = z, z.clone()
    history = [objective(problem, z)]
    for sweep in range(sweeps):
        apart = sweeps > 1 and sweep == sweeps - 2
        for j in range(z.shape[1]):
            z[:, j] = _best_output(problem, z, j, halves=sweep > 0, apart=apart)
        value = objective(problem, z)
        better = (value < history[-1]) | apart
        best = torch.where(better.view(-1, 1, 1, 1), z, best)
        history.append(torch.where(better, value, history[-1]))
    return best, torch.stack(history)


def _best_output(problem: CoProblem, z: Tensor, j: int, *, halves: bool, apart: bool) -> Tensor:
    """The blocks (G, N, m) of output j, given the others."""
    now = z[:, j]  # (G, N, m)
    used = _used(z, problem.real)
    around = ((used.sum(1) - used[:, j]).unsqueeze(1) @ problem.likeness).squeeze(1)  # (G, m)
    dear = 2.0 * problem.gamma * around * (around > problem.threshold)
    if apart and j > 0:
        twin = (z[:, :j] == now.unsqueeze(1)).all(-1).all(-1).any(1)
        dear = dear + (twin.unsqueeze(1) & (used[:, j] > 0)).float() / now.shape[1]
    cost = problem.unary[:, j] + dear.unsqueeze(1)
    choices = _choices(used[:, j], halves)
    alone = F.one_hot(cost.argmin(2), cost.shape[2]).to(cost.dtype)
    single = F.one_hot(cost.sum(1).argmin(1), cost.shape[2]).to(cost.dtype).unsqueeze(1).expand_as(now)
    starts = torch.stack([now, alone, single])
    options = torch.cat([starts[:1], _modes(problem, cost, choices, starts)])  # (4, G, N, m)
    best = _own_energy(problem, cost, options).argmin(0)
    made = options.gather(0, best.view(1, -1, 1, 1).expand_as(options[:1])).squeeze(0)
    return torch.where(problem.real[:, j].view(-1, 1, 1), made, now)


def _choices(used: Tensor, halves: bool) -> Tensor:
    """What a block may show, (G, L, m): one input, or halves of two that the output, used (G, m), uses already."""
    groups, size = used.shape
    whole = torch.eye(size, dtype=used.dtype, device=used.device).expand(groups, -1, -1)
    if not halves or size < 2:
        return whole
    most, which = used.topk(min(size, 3), dim=1)
    parts = []
    for a, b in _HALVES[: 3 if size > 2 else 1]:
        first, second = whole[0][which[:, a]], whole[0][which[:, b]]
        parts.append(torch.where((most[:, b] > 0).unsqueeze(1), (first + second) / 2.0, first))
    return torch.cat([whole, torch.stack(parts, dim=1)], dim=1)


def _modes(problem: CoProblem, cost: Tensor, choices: Tensor, z: Tensor, sweeps: int = 3) -> Tensor:
    """Iterated conditional modes on a chess board, from S starts at once.

    Args:
        cost: (G, N, m) of each input in each block.
        choices: (G, L, m) what a block may show.
        z: (S, G, N, m) starts.
        sweeps: over the board.

    Returns:
        (S, G, N, m).
    """
    height, width = problem.grid
    at = torch.arange(height * width, device=z.device)
    row, column = at // width, at % width
    steps = (row.unsqueeze(1) - row).abs() + (column.unsqueeze(1) - column).abs()
    beside = (steps == 1).to(z.dtype)  # (N, N)
    size = choices.square().sum(2).unsqueeze(1) * beside.sum(1).view(1, -1, 1) / 2.0  # (G, N, L)
    alone = cost @ choices.transpose(1, 2) + problem.beta * size
    black = ((row + column) % 2 == 0).view(1, -1, 1)
    for half in range(2 * sweeps):
        pull = (beside @ z) @ choices.transpose(1, 2)
        best = (alone - problem.beta * pull).argmin(3)
        chosen = choices.expand(len(z), -1, -1, -1).gather(2, best.unsqueeze(3).expand_as(z))
        z = torch.where(black == (half % 2 == 0), chosen, z)
    return z


def likeness(saliency: Tensor, omega: float) -> Tensor:
    """A of Co-Mixup: ``(1 - omega) I + omega D``, D the distance of the inputs' peaks, over the partition's largest.

    Args:
        saliency: (G, m, h, w) maps; the peak is that of its mean over 8 x 8 pixels, or less for smaller maps.
        omega: in [0, 1].

    Returns:
        (G, m, m) symmetric, in [0, 1].
    """
    size, height, width = saliency.shape[1:]
    smooth = F.avg_pool2d(saliency, (min(8, height), min(8, width)), stride=1)
    peak = smooth.flatten(2).argmax(2)
    columns = smooth.shape[3]
    place = torch.stack([peak // columns, peak % columns], dim=2).float()  # (G, m, 2)
    apart = (place.unsqueeze(2) - place.unsqueeze(1)).abs().sum(3)
    apart = apart / apart.amax((1, 2), keepdim=True).clamp(min=1.0)
    return (1.0 - omega) * torch.eye(size, device=saliency.device) + omega * apart


def gather_blocks(images: Tensor, rows: Tensor, shares: Tensor, grid: Grid) -> Tensor:
    """Each block from one row of the batch, or from two.

    Args:
        images: (B, C, H, W). Not modified.
        rows: (B, N, 2) int64, the rows that a block shows.
        shares: (B, N) share of the first; 1 takes its pixels as they are.
        grid: blocks along H and W.

    Returns:
        (B, C, H, W).
    """
    height, width = images.shape[2:]
    y, x = torch.arange(height, device=images.device).unsqueeze(1), torch.arange(width, device=images.device)
    block = cells(height, grid[0], images.device).unsqueeze(1) * grid[1] + cells(width, grid[1], images.device)
    first, second = (images.permute(0, 2, 3, 1)[rows[:, block, i], y, x].permute(0, 3, 1, 2) for i in (0, 1))
    share = shares[:, block].unsqueeze(1)
    mixed = torch.where(share == 1.0, first, blend(first, second, share))
    layout = torch.contiguous_format if images.is_contiguous() else torch.channels_last
    return mixed.contiguous(memory_format=layout)


@dataclass
class CoMixup(GuidedAugmentation):
    """Mixes many images at once, so that outputs are salient and differ (Kim et al., ICLR 2021, arXiv:2102.03065).

    The batch is cut into partitions of m images, in its order, and each gives m mixed images whose blocks come from any
    of its images, so that they show much saliency, few borders, and different things. Labels are k-way: each source
    weighs its share of the pixels. There is no lam and no partner: a lam of 1, and an ``index`` that pairs a row with
    itself, leave a row unmixed, other values have no effect. Settings are the released code's.

    Args:
        alpha: of the Dirichlet prior over the images, drawn for each mixed image; <= 0 switches mixing off.
        beta: weight of borders between blocks of different images.
        gamma: weight of the coupling, which keeps an image from being used often.
        tau: how often, as a multiple of one image's blocks, the other mixed images may use an image at no cost.
        eta: weight of the prior.
        omega: how much images with distant peaks of saliency are kept out of different mixed images, in [0, 1].
        partition: m, images that are mixed together; the last partition may be smaller.
        blocks: blocks along the shorter side, never more than pixels.
        sweeps: over the mixed images of a partition.
        saliency: gradient of the loss, or spectral residual, which needs no network.
        clean_weight: weight of the clean images' loss in training; above 0 it costs a further pass.

    Example:
        >>> logits, batch = samix.CoMixup().forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "comixup"

    alpha: float = 2.0
    beta: Weight = 0.32
    gamma: Weight = 1.0
    tau: Weight = 0.83
    eta: Weight = 0.05
    omega: Share = 0.001
    partition: Count = 20
    blocks: Count = 4
    sweeps: Count = 4
    saliency: Saliency = "gradient"
    clean_weight: Weight = 1.0

    @property
    def requirements(self) -> Requirements:
        losses = ("clean",) if self.clean_weight else ()
        return Requirements(model=self.saliency == "gradient", preserves_geometry=False, own_losses=losses)

    def check_batch(self, images: Tensor, labels: Tensor) -> None:
        """Raises unless images and labels can be mixed; labels at each pixel cannot, with more than two sources."""
        check_images(images)
        check_labels(labels, len(images), size=tuple(images.shape[2:]))
        if labels.dim() == 3:
            raise ValueError(
                "CoMixup mixes more than two images, so it cannot mix labels at each pixel; use PuzzleMix or CutMix"
            )

    def look(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        if self.saliency == "spectral":
            return spectral_residual(images, self.mean, self.std)
        assert model is not None  # __call__ has seen to it
        return gradient_saliency(model, images, labels, self.targets)

    def draw_lam(self, batch_size: int) -> Tensor:
        """(B,) 0, or 1 when this batch is not to be mixed."""
        skip = float(torch.rand(1, generator=self.generator)) >= self.prob or self.alpha <= 0.0
        return torch.full((batch_size,), float(skip))

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        """``prior`` (B, m), rows sum to 1 over the partition; ``start`` (B, N) in [0, 1), where the search starts."""
        size = min(self.partition, shape[0])
        grid = block_grid((shape[2], shape[3]), self.blocks)
        seed = torch.randint(2**62, (2,), generator=self.generator).numpy()
        real = torch.arange(shape[0]).unsqueeze(1) // size * size + torch.arange(size) < shape[0]
        drawn = np.random.default_rng(seed).standard_gamma(max(self.alpha, 1e-3), (shape[0], size))
        prior = torch.from_numpy(drawn) * real
        prior = (prior / prior.sum(1, keepdim=True).clamp(min=1e-300)).float()
        return {"prior": prior, "start": torch.rand(shape[0], grid[0] * grid[1], generator=self.generator)}

    def problem(self, guide: Tensor, prior: Tensor, grid: Grid) -> CoProblem:
        """The objective for maps (B, h, w) and a prior (B, m)."""
        batch, size, nodes = len(guide), prior.shape[1], grid[0] * grid[1]
        groups = -(-batch // size)
        filler = groups * size - batch
        saliency = F.pad(block_saliency(guide, grid).flatten(1), (0, 0, 0, filler)).view(groups, 1, size, nodes)
        real = (torch.arange(groups * size, device=guide.device) < batch).view(groups, size)
        prior = F.pad(prior, (0, 0, 0, filler)).view(groups, size, 1, size)
        maps = F.pad(torch.nan_to_num(guide, posinf=0.0), (0, 0, 0, 0, 0, filler)).view(groups, size, *guide.shape[1:])
        unary = -saliency.transpose(2, 3) - self.eta / nodes * torch.log(prior + 1e-8)
        unary = unary + _FORBIDDEN * ~real.view(groups, 1, 1, size)
        return CoProblem(
            unary=unary,
            likeness=likeness(maps, self.omega),
            real=real,
            grid=grid,
            beta=self.beta / nodes,
            gamma=self.gamma / nodes,
            threshold=self.tau * nodes,
        )

    def choose_blocks(self, guide: Tensor, prior: Tensor, start: Tensor, grid: Grid) -> Tensor:
        """The share z (B, N, m) of each image of the partition in each block."""
        problem = self.problem(guide, prior, grid)
        groups, size = problem.real.shape
        members = problem.real.sum(1).repeat_interleave(size)[: len(guide)].unsqueeze(1)
        first = F.one_hot((start * members).long().clamp(max=size - 1), size).float()
        first = F.pad(first, (0, 0, 0, 0, 0, groups * size - len(guide))).view(groups, size, *first.shape[1:])
        z, _ = solve_together(problem, first, self.sweeps)
        return z.flatten(0, 1)[: len(guide)]

    def mix_guided(
        self, images: Tensor, labels: Tensor, guide: Tensor, lam: Tensor, index: Tensor | None
    ) -> MixedBatch:
        """Chooses blocks, gathers them, and weighs the labels by pixels; (B, m) sources, the own first."""
        batch = len(images)
        rows = torch.arange(batch, device=images.device)
        if index is not None:
            lam, _ = self.draw(images, lam, index)
        lam = to_device(lam, images.device)
        extras = self.extras_for(images)
        grid = block_grid((images.shape[2], images.shape[3]), self.blocks)
        z = self.choose_blocks(guide, extras["prior"], extras["start"], grid)
        size = z.shape[2]
        base = rows // size * size
        own = F.one_hot(rows - base, size).to(z.dtype).unsqueeze(1)
        z = torch.where((lam == 1.0).view(-1, 1, 1), own, z)
        share, which = z.topk(min(2, size), dim=2)  # a block shows one image, or halves of two
        taken = (base.view(-1, 1, 1) + which).clamp(max=batch - 1).expand(-1, -1, 2)
        return _many_way_batch(
            gather_blocks(images, taken, share[:, :, 0], grid), labels, z, own.squeeze(1), grid, self.targets
        )

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        logits, batch = super().forward_through(model, images, labels)
        return logits, self.with_clean_loss(batch, model, images, labels, self.clean_weight)


def _many_way_batch(
    mixed: Tensor, labels: Tensor, z: Tensor, own: Tensor, grid: Grid, targets: TargetKind | None
) -> MixedBatch:
    """Puts labels to z (B, N, m); own (B, m) marks the own image, which comes first, the others then by weight."""
    batch, _, size = z.shape
    height, width = mixed.shape[2:]
    at_y, at_x = cells(height, grid[0], z.device), cells(width, grid[1], z.device)
    tall, wide = (block_starts(side, n, z.device).diff() for side, n in zip((height, width), grid, strict=True))
    area = tall.unsqueeze(1) * wide  # pixels of each block
    weights = (z * area.flatten().to(z.dtype).view(1, -1, 1)).sum(1) / (height * width)  # (B, m)
    order = (weights + 2.0 * own).argsort(1, descending=True)
    rows = torch.arange(batch, device=z.device).unsqueeze(1)
    index = rows // size * size + order
    index = torch.where(index < batch, index, rows)  # what fills up the last partition has weight 0
    weights = weights.gather(1, order)
    if size == 1:  # there is always a second column
        index, weights = index.expand(-1, 2), F.pad(weights, (0, 1))
    kind, labels = target_kind(labels, targets), as_targets(labels, targets)
    shown = (z * own.unsqueeze(1)).sum(2).view(batch, *grid)  # (B, nh, nw) share of the own image
    return MixedBatch(
        images=mixed,
        labels=labels[index],
        weights=weights,
        index=index,
        mask=shown[:, at_y][:, :, at_x].unsqueeze(1),
        kind=kind,
    )
