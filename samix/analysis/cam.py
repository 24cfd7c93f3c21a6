"""``cam``: where a network sees each class of a mixed image, by Grad-CAM."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.analysis.base import Findings, MixingAnalysis, evenly, pixels_of
from samix.analysis.subject import Subject
from samix.batch import MixedBatch, check_images, check_labels
from samix.networks import last_map
from samix.networks.inference import unwrap
from samix.runtime.typed_options import Count, CountOr0, Share
from samix.viz.figures import bare, figure
from samix.viz.mixes import select_rows
from samix.viz.pictures import show_image, tight

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class MixedCam:
    """Where a network sees the two classes of mixed images."""

    own: Tensor  # (N, h, w) map of class a, at least 0
    partner: Tensor  # (N, h, w) map of class b
    inside: float  # mean over maps of the share that lies on pixels of its own class, by the mask; NaN without masks
    chance: float  # mean share of the pixels that are, which a flat map gets


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor, layer: str = "") -> Tensor:
    """Computes the gradient-weighted class activation map, (N, h, w) float32, at least 0, not scaled.

    See :func:`samix.networks.last_map.grad_cam`.

    Args:
        model: classifier; left as it was.
        images: (N, C, H, W), normalised. Not modified.
        classes: (N,) class ids, whose logits are explained.
        layer: dotted name of the layer whose output is the map. Empty takes the last map of a timm network; of a ViT
            the patches that enter its last block's attention, as those that leave it have no gradient where a class
            token is read.

    Raises:
        ValueError: no such layer, or one whose output is not a map.
    """
    check_images(images)
    check_labels(classes, len(images))
    blocks: Any = getattr(unwrap(model), "blocks", ())
    if not layer and len(blocks) and hasattr(blocks[-1], "norm1"):
        layer = f"blocks.{len(blocks) - 1}.norm1"
    return last_map.grad_cam(model, images, classes, layer)[0]


def mixed_cam(model: nn.Module, batch: MixedBatch, layer: str = "") -> MixedCam:
    """Computes Grad-CAM of both classes of each mixed image, and how much of each map lies on pixels of its class.

    Args:
        model: classifier; left as it was.
        batch: mixed images with class ids, and masks to compare with.
        layer: see :func:`grad_cam`.

    Raises:
        ValueError: as :func:`grad_cam`, or labels that are not class ids.
    """
    if batch.labels.dim() != 2 or batch.labels.is_floating_point():
        raise ValueError(f"mixed_cam needs class ids (B, k), got {batch.labels.dtype} {tuple(batch.labels.shape)}")
    own, partner = (grad_cam(model, batch.images, batch.labels[:, column], layer) for column in (0, 1))
    if batch.mask is None:
        return MixedCam(own, partner, float("nan"), float("nan"))
    mask = batch.mask.float()
    size = batch.images.shape[2:]
    shares, areas = [], []
    for cam, region in ((own, mask), (partner, 1.0 - mask)):
        region = region.expand(-1, 1, *size).squeeze(1)
        large = enlarge(cam, (size[0], size[1]))
        total, area = large.sum((1, 2)), region.mean((1, 2))
        seen = (total > 0) & (area > 0)
        shares.append(((large * region).sum((1, 2)) / total.clamp(min=1e-12))[seen])
        areas.append(area[seen])
    inside, chance = torch.cat(shares), torch.cat(areas)
    return MixedCam(own, partner, float(inside.mean()), float(chance.mean()))


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarges maps (N, h, w) to (N, *size), bilinearly."""
    return F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False).squeeze(1)


def draw(
    sources: Sequence[Tensor],
    mixed: Tensor,
    masks: Tensor | None,
    result: MixedCam,
    names: Sequence[Sequence[str]],
    title: str,
) -> Figure:
    """Draws a row for each pair: images A and B, mask, mixed image, and the maps of both classes."""
    heads = ["image A", "image B", "mask (white: A)", "mixed", "class of A", "class of B"]
    fig = figure(1.3 * len(heads), 1.36 * len(mixed) + 0.55)
    axes = tight(fig).subplots(len(mixed), len(heads), squeeze=False)
    size = (mixed.shape[2], mixed.shape[3])
    maps = [enlarge(part, size).cpu() for part in (result.own, result.partner)]
    for row, line in enumerate(axes):
        for ax, head in zip(line, heads, strict=True):
            bare(ax, head if row == 0 else "", 9)
        for ax, pixels in zip((line[0], line[1], line[3]), (*sources, mixed), strict=True):
            show_image(ax, pixels[row].cpu())
        if masks is not None:
            show_image(line[2], masks[row].float().cpu().expand(1, *size))
        for ax, cams in zip(line[4:], maps, strict=True):
            show_image(ax, mixed[row].cpu())
            top = float(cams[row].max())
            shown = (cams[row] / max(top, 1e-12)).numpy()
            ax.imshow(shown, cmap="inferno", alpha=0.55, vmin=0, vmax=1, interpolation="bilinear")
            if top <= 0:
                ax.set_xlabel("nowhere", fontsize=6)
        for ax, name in zip(line[:2], names[row], strict=True):
            ax.set_xlabel(name, fontsize=7)
    fig.suptitle(title, fontsize=9)
    return fig


@dataclass(frozen=True)
class Cam(MixingAnalysis):
    """Grad-CAM of mixed images for both of their classes.

    Args:
        lam: share of image A.
        rows: pairs in the picture.
        layer: dotted name of the layer that gives the map; empty for timm's networks.
    """

    name: ClassVar[str] = "cam"

    images: CountOr0 = 100
    lam: Share = 0.5
    rows: Count = 4
    layer: str = ""

    def analyse(self, subject: Subject) -> Findings:
        mix, name = subject.classified().mixing(self.mixup, subject.partners(self.seed), self.seed)
        batch = mix(self.lam)
        kept = (batch.labels[:, 0] != batch.labels[:, 1]).nonzero().flatten()
        if len(kept) == 0:
            raise ValueError("no pair has two classes; take more images, or images of several classes")
        batch = select_rows(batch, kept)
        result = mixed_cam(subject.network, batch, self.layer)
        few = evenly(len(kept), self.rows).to(kept.device)
        figure = draw(
            [pixels_of(subject, subject.images[batch.index[few, k]]) for k in (0, 1)],
            pixels_of(subject, batch.images[few]),
            None if batch.mask is None else batch.mask[few],
            dataclasses.replace(result, own=result.own[few], partner=result.partner[few]),
            [[subject.class_names[label] for label in pair] for pair in batch.labels[few, :2].tolist()],
            f"{subject.title}; mixed by {name} at λ = {self.lam:g}",
        )
        nowhere = float(((result.own.amax((1, 2)) <= 0) | (result.partner.amax((1, 2)) <= 0)).float().mean())
        share = "no masks to compare with"
        if not math.isnan(result.inside):
            share = (
                f"{100 * result.inside:.1f} % of the maps lie on pixels of their class (a flat map: "
                f"{100 * result.chance:.1f} %)"
            )
        line = f"mixed by {name} at lambda {self.lam:g}, {len(kept)} pairs: {share}; a class unseen in {nowhere:.1%}"
        return Findings(line, {"mixup": name, "pairs": len(kept), "unseen": nowhere, "result": result}, figure)
