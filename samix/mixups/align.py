"""AlignMix: the cells of two feature maps are matched before they are added."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_images, check_labels, check_pair, pair_batch
from samix.mixups.base import Augmentation, Guides, Requirements, as_map, blend
from samix.mixups.handmade import mixup
from samix.mixups.hidden import Policy, forward_mixed_after, forward_mixed_at
from samix.networks.backbone import find_layer, not_timm, stages_of
from samix.networks.inference import unwrap
from samix.runtime.typed_options import Count, Positive, Share


def sinkhorn(cost: Tensor, epsilon: float = 0.1, iterations: int = 100) -> Tensor:
    """Entropic optimal transport between equal weights: r times the plan of least ``<plan, cost> - epsilon H(plan)``.

    Sinkhorn's algorithm (Cuturi 2013, arXiv:1306.0895) on logarithms, so that no cost is too large. Always the same
    number of iterations, where AlignMix's released code looks on the host whether to stop; the last one fits the
    columns.

    Args:
        cost: (B, r, r), any float type; computed in float32, or float64.
        epsilon: > 0; smaller is nearer to a permutation, and needs more iterations.
        iterations: at least 1.

    Returns:
        (B, r, r) of at least 0; columns sum to 1, rows nearly.
    """
    scaled = cost * (-1.0 / epsilon)  # (B, r, r)
    uniform = -math.log(cost.shape[1])
    column = torch.zeros_like(cost[:, :1])  # (B, 1, r), potentials over epsilon
    for _ in range(iterations - 1):
        row = uniform - torch.logsumexp(scaled + column, dim=2, keepdim=True)  # (B, r, 1)
        column = uniform - torch.logsumexp(scaled + row, dim=1, keepdim=True)
    row = uniform - torch.logsumexp(scaled + column, dim=2, keepdim=True)
    return torch.softmax(scaled + row, dim=1)  # the last fit of the columns, exact for any cost


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(B, C, r) and (B, C, r) -> (B, r, r) of ``|x_i - y_j|^2``, without the (B, r, r, C) differences.

    Both are moved by x's mean first, which changes no distance and keeps digits where features are large.
    """
    centre = x.mean(dim=2, keepdim=True)
    x, y = x - centre, y - centre
    norms = x.square().sum(1).unsqueeze(2) + y.square().sum(1).unsqueeze(1)
    return torch.baddbmm(norms, x.transpose(1, 2), y, alpha=-2.0).clamp(min=0.0)


@torch.no_grad()
def alignment(x: Tensor, y: Tensor, epsilon: float = 0.1, iterations: int = 100) -> Tensor:
    """P (B, r, r): how much of y's cell j belongs to x's cell i; columns sum to 1. No gradient, no autocast.

    Args:
        x: (B, C, r) cells of a feature map.
        y: (B, C, r) cells of its partner's.
    """
    with torch.autocast(x.device.type, enabled=False):
        dtype = torch.promote_types(x.dtype, torch.float32)
        return sinkhorn(squared_distances(x.to(dtype), y.to(dtype)), epsilon, iterations)


def alignmix(
    x: Tensor, partner: Tensor, lam: Tensor, keep_own: Tensor, epsilon: float = 0.1, iterations: int = 100
) -> Mixed:
    """Adds two feature maps after one has been carried to the places of the other.

    AlignMix (Venkataramanan et al. 2022, arXiv:2103.15375), Eq. (2) to (6). With P of :func:`alignment` and maps as
    C x r matrices: ``lam F + (1 - lam) F' P^T`` in the places of the own map, or ``lam F P + (1 - lam) F'`` in the
    partner's. Gradients flow to both maps, not through P. Where lam is 1 or 0 the map comes back as it was, also in
    the places of the other, where the paper has F P.

    Args:
        keep_own: () or (B,) bool, whose places are kept.

    Returns:
        Mixed; the mask is the constant lam.
    """
    check_pair(x, partner, lam)
    own, other = x.flatten(2), partner.flatten(2)  # (B, C, r)
    plan = alignment(own, other, epsilon, iterations)
    keep = keep_own.view(-1, 1, 1)
    pure = ((lam == 0.0) | (lam == 1.0)).view(-1, 1, 1)
    with torch.autocast(x.device.type, enabled=False):
        carried_other = (other.to(plan.dtype) @ plan.transpose(1, 2)).to(x.dtype)
        carried_own = (own.to(plan.dtype) @ plan).to(x.dtype)
    first = torch.where(keep | pure, own, carried_own)
    second = torch.where(keep & ~pure, carried_other, other)
    mixed = blend(first, second, lam.view(-1, 1, 1)).view_as(x)
    return Mixed(mixed, lam, as_map(lam, x))


def align_activations(x: Tensor, partner: Tensor, lam: Tensor, *, prefix: int, last: bool, policy: Policy) -> Mixed:
    """:func:`alignmix` of a layer's output in its own form: a map, channels last, or tokens after ``prefix`` others.

    Args:
        x: (B, C, h, w), (B, h, w, C) or (B, N, C).
        lam: (B,).
        prefix: class and register tokens at the front, which are added without being matched.
        last: whether maps have their channels last.
        policy: :func:`alignmix` with its other arguments bound.
    """
    if x.dim() == 3:
        front = blend(x[:, :prefix], partner[:, :prefix], lam.view(-1, 1, 1))
        own, other = (t[:, prefix:].transpose(1, 2).unsqueeze(3) for t in (x, partner))  # (B, C, N, 1)
        mixed = policy(own, other, lam).images.squeeze(3).transpose(1, 2)
        images = torch.cat([front, mixed], dim=1)
    elif x.dim() == 4 and last:
        images = policy(x.permute(0, 3, 1, 2), partner.permute(0, 3, 1, 2), lam).images.permute(0, 2, 3, 1)
    elif x.dim() == 4:
        images = policy(x, partner, lam).images
    else:
        raise ValueError(f"AlignMix matches the cells of a map (B, D, h, w) or tokens, got {tuple(x.shape)}")
    return Mixed(images, lam, as_map(lam, x))


@dataclass
class AlignMix(Augmentation):
    """Aligns two feature maps by optimal transport and adds them, see :func:`alignmix`; MixUp in half of the steps.

    Each aligned step keeps the places of the own map or of the partner's by a second coin. Called on images alone,
    without a network, it is MixUp. The paper's variant with an autoencoder is left out.

    Args:
        alpha: 2 in the paper.
        epsilon: strength of the entropy in the matching, > 0.
        iterations: of Sinkhorn's algorithm, at least 1.
        input_prob: probability of MixUp of the images, per step.
        layer: dotted name of the layer after which maps are aligned; empty takes the last stage of a timm network.

    Example:
        >>> logits, batch = samix.AlignMix(iterations=10).forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "alignmix"
    family: ClassVar[str] = "In hidden layers"
    requirements = Requirements(preserves_geometry=False, inside_network=True)

    alpha: float = 2.0
    epsilon: Positive = 0.1
    iterations: Count = 100
    input_prob: Share = 0.5
    layer: str = ""

    def describe(self) -> str:
        return "mixed at the input, where it is mixup"

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return mixup(x, partner, lam)

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Draws the two coins, and runs the network on mixed images or with its last feature map mixed."""
        check_images(images)
        check_labels(labels, len(images))
        inner: Any = unwrap(model)
        layer = find_layer(inner, self.layer or last_layer(inner), "aligned")
        lam, index = self.draw(images)
        coins = torch.rand(2, generator=self.generator)
        if float(coins[0]) < self.input_prob:
            logits, mixed = forward_mixed_at(model, mixup, model, images, lam, index)
        else:
            keep_own = torch.full((), bool(coins[1] < 0.5), device=images.device)
            policy = partial(alignmix, keep_own=keep_own, epsilon=self.epsilon, iterations=self.iterations)
            prefix = int(getattr(inner, "num_prefix_tokens", 0))
            last = getattr(inner, "output_fmt", "NCHW") == "NHWC"
            mix = partial(align_activations, prefix=prefix, last=last, policy=policy)
            logits, mixed = forward_mixed_after(layer, mix, model, images, lam, index)
        mixed = Mixed(mixed.images.detach(), lam, as_map(lam, images))
        return logits, pair_batch(mixed, labels, index, self.targets)


def last_layer(model: nn.Module) -> str:
    """The name of a timm network's last stage or block."""
    if not hasattr(model, "feature_info"):
        raise not_timm(model, 'name the layer to align after, layer="layer.name"')
    return stages_of(model)[-1]["module"]
