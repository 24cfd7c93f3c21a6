"""``occlusion``: how much of an image does a classifier need? Accuracy against the share of patches dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.analysis.base import Analysis, Findings, nearest_half, pixels_of
from samix.analysis.passes import Predict, accuracy, check_classified
from samix.analysis.subject import Subject
from samix.mixups.saliency import gradient_saliency
from samix.networks.attention import attention_layers, class_attention
from samix.networks.inference import evaluating
from samix.runtime.checks import Range
from samix.runtime.typed_options import Share
from samix.viz.figures import IMAGE_A, IMAGE_B, THIRD, add_axes, bare, figure, label
from samix.viz.pictures import show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class OcclusionCurve:
    """Accuracy in percent, by share of the patches dropped."""

    shares: tuple[float, ...]  # of the patches that are dropped, in [0, 1]
    random: tuple[float, ...]  # top-1 where patches are drawn
    salient: tuple[float, ...]  # where the most salient go first
    non_salient: tuple[float, ...]  # where the least salient go first
    area: float  # mean of ``random`` over the shares


def drop_patches(images: Tensor, score: Tensor, share: float) -> Tensor:
    """Sets the cells with the highest scores to 0, the mean colour of normalised images.

    Args:
        images: (N, C, H, W), normalised. Not modified.
        score: (N, h, w) of each cell of a grid; a pixel belongs to ``floor(y h / H), floor(x w / W)``.
        share: in [0, 1]; ``round(share h w)`` cells of each image are dropped.
    """
    if not 0.0 <= share <= 1.0 or score.dim() != 3 or len(score) != len(images):
        raise ValueError(
            f"need score ({len(images)}, h, w) and a share in [0, 1], got {tuple(score.shape)} and {share}"
        )
    flat = score.flatten(1)
    count = int(share * flat.shape[1] + 0.5)
    dropped = torch.zeros_like(flat, dtype=torch.bool)
    dropped.scatter_(1, flat.argsort(dim=1, descending=True, stable=True)[:, :count], True)
    cells = dropped.view_as(score)
    row, column = (
        torch.arange(size, device=images.device) * n // size
        for size, n in zip(images.shape[2:], score.shape[1:], strict=True)
    )
    return images.masked_fill(cells[:, row][:, :, column][:, None], 0.0)


def occlusion_curve(
    predict: Predict, images: Tensor, labels: Tensor, guide: Tensor, shares: Sequence[float], *, seed: int = 0
) -> OcclusionCurve:
    """Measures accuracy with patches dropped by chance, and by saliency in both orders.

    Naseer et al. 2021 (arXiv:2105.10497), their random, salient and non-salient PatchDrop. Each image has a random
    order of its own, and a larger share drops the same patches and more.

    Args:
        predict: images to logits (N, K).
        images: (N, C, H, W), normalised.
        labels: (N,) class ids.
        guide: (N, h, w) saliency of each cell, see :func:`cell_saliency`.
        shares: of the cells dropped, in [0, 1].
        seed: of the random order.
    """
    check_classified(images, labels)
    if not shares:
        raise ValueError("shares must be one or more numbers in [0, 1], got none")
    order = torch.rand(guide.shape, generator=torch.Generator().manual_seed(seed)).to(images.device)
    guide = guide.to(images.device)

    def curve(score: Tensor) -> tuple[float, ...]:
        return tuple(accuracy(predict(drop_patches(images, score, share)), labels) for share in shares)

    random = curve(order)
    return OcclusionCurve(tuple(map(float, shares)), random, curve(guide), curve(-guide), sum(random) / len(random))


def cell_saliency(
    model: nn.Module, images: Tensor, labels: Tensor, grid: int = 8, batch_size: int = 100
) -> tuple[Tensor, str]:
    """Computes saliency by cell (N, h, w), and its name: a plain ViT's attention to its patches, else the gradient.

    Networks without patches have ``grid`` cells per side, at most the images' shorter side. The model is not changed.
    """
    parts = torch.split(images, batch_size)
    if reads_attention(model):
        with evaluating(model):
            return torch.cat([class_attention(model, part)[1] for part in parts]), "attention"
    if not 1 <= grid <= min(images.shape[2:]):
        raise ValueError(f"grid must be 1 to {min(images.shape[2:])} cells for these images, got {grid}")
    maps = [gradient_saliency(model, x, y) for x, y in zip(parts, torch.split(labels, batch_size), strict=True)]
    return F.adaptive_avg_pool2d(torch.cat(maps), grid), "gradient"


def reads_attention(model: nn.Module) -> bool:
    """Returns whether this is a plain ViT, whose attention can be read."""
    try:
        attention_layers(model)
    except ValueError:
        return False
    return True


def draw(curve: OcclusionCurve, examples: Sequence[tuple[str, Tensor]], kind: str, title: str) -> Figure:
    """Draws accuracy by share dropped, and examples (3, H, W) in [0, 1] with their names."""
    fig = figure(8.8, 3.7)
    grid = fig.add_gridspec(2, 4, width_ratios=(2.6, 2.6, 1.5, 1.5))
    ax = add_axes(fig, grid[:, :2])
    for name, values, colour in (
        ("random", curve.random, THIRD),
        ("most salient first", curve.salient, IMAGE_B),
        ("least salient first", curve.non_salient, IMAGE_A),
    ):
        ax.plot([100.0 * share for share in curve.shares], values, color=colour, marker=".", label=name)
    ax.set_ylim(-3, 103)
    label(ax, f"patches dropped; salience by the network's {kind}", "% of patches dropped", "top-1, %")
    for number, (name, pixels) in enumerate(examples):
        show_image(bare(fig.add_subplot(grid[number // 2, 2 + number % 2]), name), pixels)
    fig.suptitle(title, fontsize=10)
    return fig


@dataclass(frozen=True)
class Occlusion(Analysis):
    """Accuracy against the share of patches dropped: by chance, most or least salient first.

    Args:
        shares: of the patches dropped.
        grid: cells per side for networks other than a plain ViT.
    """

    name: ClassVar[str] = "occlusion"

    shares: tuple[Share, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    grid: Annotated[int, Range(1, 1024)] = 8

    def analyse(self, subject: Subject) -> Findings:
        images, labels = subject.classified().images, subject.labels
        guide, kind = cell_saliency(subject.network, images, labels, self.grid, self.batch_size)
        curve = occlusion_curve(subject.predict, images, labels, guide, self.shares, seed=self.seed)
        random = torch.rand(guide[:1].shape, generator=torch.Generator().manual_seed(self.seed)).to(guide.device)
        drops = {"whole": (random, 0.0), "random 50 %": (random, 0.5)}
        drops |= {"salient 25 %": (guide[:1], 0.25), "non-salient 25 %": (-guide[:1], 0.25)}
        examples = [(name, pixels_of(subject, drop_patches(images[:1], *drop))[0]) for name, drop in drops.items()]
        n = nearest_half(curve.shares)
        line = (
            f"top-1 with {100 * curve.shares[n]:g} % of {guide.shape[1]} x {guide.shape[2]} patches dropped: random "
            f"{curve.random[n]:.1f} %, salient {curve.salient[n]:.1f} %, non-salient "
            f"{curve.non_salient[n]:.1f} %; mean of the random curve {curve.area:.1f} %"
        )
        results = {"salience": kind, "grid": list(guide.shape[1:]), "result": curve}
        return Findings(line, results, draw(curve, examples, kind, subject.title))
