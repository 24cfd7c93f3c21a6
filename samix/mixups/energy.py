"""The energy whose minimum is PuzzleMix's mask, and two ways to find it.

On a grid of nh x nw blocks, z is the own image's share of each block, one of ``L`` levels 0, 1 / (L - 1), ..., 1:

    E(z) = sum_i unary(i, z_i) + sum_(i, j neighbours) w_ij (z_i - z_j)^2

With K = L - 1 binary variables per block, b_(i,1) >= ... >= b_(i,K) and K z_i = sum_t b_(i,t), this is a cut problem:

    E = const + sum_(i,t) c_(i,t) b_(i,t) + sum_(i,j) (w_ij / K^2) sum_(t,s) |b_(i,t) - b_(j,s)|
    c_(i,t) = unary(i, t) - unary(i, t - 1) + (2 t - 1 - K) sum_(j of i) w_ij / K^2

Where unaries are convex in z and w >= 0, the smallest cut is the global minimum (Ishikawa 2003), and it comes with the
b in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 120  # of solve_dual: mean energy within 1e-3 of the exact minimum up to 16 x 16 blocks


class MaskProblem(NamedTuple):
    """Energies: unary (B, L, nh, nw); w to the block below (B, nh - 1, nw) and to the right (B, nh, nw - 1)."""

    unary: Tensor
    below: Tensor
    right: Tensor


Solver = Callable[[MaskProblem], Tensor]  # -> z (B, nh, nw)


def energy(problem: MaskProblem, z: Tensor) -> Tensor:
    """The energy of each mask.

    Args:
        problem: the energy.
        z: (B, nh, nw), values among the L levels.

    Returns:
        (B,).
    """
    top = problem.unary.shape[1] - 1
    unary = problem.unary.gather(1, (z * top).round().long().unsqueeze(1)).sum((1, 2, 3))
    below = problem.below * (z[:, 1:] - z[:, :-1]) ** 2
    right = problem.right * (z[:, :, 1:] - z[:, :, :-1]) ** 2
    return unary + below.sum((1, 2)) + right.sum((1, 2))


# The batched solver ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def solve_dual(problem: MaskProblem, iterations: int = ITERATIONS) -> Tensor:
    """The minimum, all samples at once, by accelerated projected gradient on a dual.

    A cut is the set where the solution u of ``min_u |u|^2 / 2 + c u + sum w |u_i - u_j|`` is above 0 (Chambolle 2004).
    This problem is strongly convex, its dual is a quadratic in a box, and there the method of Beck and Teboulle (FISTA,
    2009) needs no step size to be tuned. The levels of a block share their neighbours, so u comes ordered as c is. A
    primal-dual iteration on the cut itself (Chambolle and Pock 2011) needs about three times as many steps.

    Nothing waits for the device. The result is never worse than the best constant mask.

    Args:
        problem: the energy; unaries convex in z, w at least 0.
        iterations: steps. A grid of n blocks per side needs some multiple of n.

    Returns:
        z (B, nh, nw).
    """
    batch, levels, height, width = problem.unary.shape
    cost, capacity = _cut(problem)  # (K, N, B), (E, B): the samples are contiguous, so that every step is one long loop
    down = (height - 1) * width
    top, lower = levels - 1, -capacity
    ahead = torch.zeros(top, top, *capacity.shape, dtype=cost.dtype, device=cost.device)  # FISTA's point of view
    last = torch.zeros_like(ahead)
    slope = torch.empty_like(cost)
    momentum, step = 1.0, 1.0 / (8.0 * top)  # at most 4 K edges at a node: the Laplacian is at most 8 K
    for _ in range(iterations):
        _minus_u(ahead, cost, width, down, out=slope)
        ahead[:, :, :down].add_(slope[None, :, width:], alpha=step).sub_(slope[:, None, :-width], alpha=step)
        ahead[:, :, down:].add_(slope[None, :, 1:], alpha=step).sub_(slope[:, None, :-1], alpha=step)
        torch.clamp(ahead, lower, capacity, out=ahead)
        following = (1.0 + math.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        last.lerp_(ahead, 1.0 + (momentum - 1.0) / following)
        momentum, ahead, last = following, last, ahead
    _minus_u(last, cost, width, down, out=slope)
    z = (slope < 0).sum(0).to(cost.dtype) / top
    return _or_constant(problem, z.view(height, width, batch).permute(2, 0, 1).contiguous())


def _cut(problem: MaskProblem) -> tuple[Tensor, Tensor]:
    """C (K, N, B) and w / K^2 (E, B) of the cut; edges to the block below, then to the next block.

    Blocks are counted row by row. The last of a row has an edge of weight 0 to the first of the next, so that both
    kinds of edges are plain shifts.
    """
    batch, levels, height, width = problem.unary.shape
    top, nodes = levels - 1, height * width
    below, right = problem.below / top**2, F.pad(problem.right, (0, 1)) / top**2
    degree = F.pad(below, (0, 0, 0, 1)) + F.pad(below, (0, 0, 1, 0)) + right + right.roll(1, 2)
    t = torch.arange(1, levels, device=degree.device).view(1, top, 1, 1)
    cost = problem.unary.diff(dim=1) + (2 * t - 1 - top) * degree.unsqueeze(1)
    capacity = torch.cat([below.flatten(1), right.flatten(1)[:, :-1]], dim=1)
    return cost.permute(1, 2, 3, 0).reshape(top, nodes, batch).contiguous(), capacity.t().contiguous()


def _minus_u(dual: Tensor, cost: Tensor, width: int, down: int, *, out: Tensor) -> None:
    """Writes ``-u = c + divergence of the dual`` (K, K, E, B) into out (K, N, B)."""
    out.copy_(cost)
    nodes = cost.shape[1]
    for t in range(len(cost)):
        out[:, : nodes - width].add_(dual[:, t, :down])
        out[:, width:].sub_(dual[t, :, :down])
        out[:, :-1].add_(dual[:, t, down:])
        out[:, 1:].sub_(dual[t, :, down:])


def _or_constant(problem: MaskProblem, z: Tensor) -> Tensor:
    """z, or the best constant mask where that has less energy."""
    lowest, level = problem.unary.sum((2, 3)).min(1)  # a constant mask has no edges
    constant = level.to(z.dtype) / (problem.unary.shape[1] - 1)
    return torch.where((lowest < energy(problem, z)).view(-1, 1, 1), constant.view(-1, 1, 1), z)


# The exact minimum, on the CPU, one sample after another --------------------------------------------------------------


@torch.no_grad()
def solve_exact(problem: MaskProblem) -> Tensor:
    """The global minimum, by SciPy's maximum flow; waits for the device. Costs are rounded to about 9 digits.

    Args:
        problem: the energy; unaries convex in z, w at least 0.

    Returns:
        z (B, nh, nw), on the problem's device.
    """
    batch, levels, height, width = problem.unary.shape
    cost, capacity = (part.double().cpu().numpy() for part in _cut(problem))
    if not (np.isfinite(cost).all() and np.isfinite(capacity).all()):
        raise ValueError("the mask's energy is not finite: check the images and the saliency maps for NaN")
    at = np.arange(height * width)
    ends = np.concatenate([at[:-width], at[:-1]]), np.concatenate([at[width:], at[1:]])
    cuts = [_smallest_cut(cost[:, :, b], capacity[:, b], ends) for b in range(batch)]
    z = torch.from_numpy(np.stack(cuts).sum(1)).to(problem.unary) / (levels - 1)
    return z.view(batch, height, width)


def _smallest_cut(cost: np.ndarray, capacity: np.ndarray, ends: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The b (K, N) of one sample; cost (K, N), capacity (E,), and the two blocks of each edge."""
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped, unused-ignore]
    from scipy.sparse.csgraph import (  # type: ignore[import-untyped, unused-ignore]
        breadth_first_order,
        maximum_flow,
    )

    top, nodes = cost.shape
    source, sink = top * nodes, top * nodes + 1
    scale = 1e9 / (np.abs(cost).sum() + 2 * top**2 * capacity.sum() + 1e-300)  # all flow together fits an int32
    price, width = np.rint(cost * scale).astype(np.int64).ravel(), np.rint(capacity * scale).astype(np.int64)
    node = np.arange(top * nodes)
    # b = 1 is the source's side: it pays a positive cost at the sink; b = 0 pays what a negative one would have gained.
    arcs = [
        (node, np.full_like(node, sink), price.clip(min=0)),
        (np.full_like(node, source), node, (-price).clip(min=0)),
    ]
    for t in range(top):
        for s in range(top):
            first, second = ends[0] + t * nodes, ends[1] + s * nodes
            arcs += [(first, second, width), (second, first, width)]
    start, stop, size = (np.concatenate(part) for part in zip(*arcs, strict=True))
    graph = csr_matrix((size.astype(np.int32), (start, stop)), shape=(sink + 1, sink + 1))
    rest = graph - maximum_flow(graph, source, sink).flow
    rest.data[rest.data < 0] = 0
    rest.eliminate_zeros()
    cut = np.zeros(sink + 1, dtype=np.int64)
    cut[breadth_first_order(rest, source, return_predecessors=False)] = 1
    return cut[: top * nodes].reshape(top, nodes)
