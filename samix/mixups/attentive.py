"""Mixups guided by what a network attends to: AttentiveMix, SnapMix."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_pair, pair_batch
from samix.mixups.base import Guides, Requirements, choose, sample_lam, take_rows, to_device
from samix.mixups.boxes import cut_side, span
from samix.mixups.cells import to_pixels
from samix.mixups.guided import GuidedAugmentation, check_guide, need_guides
from samix.mixups.saliency import activation_map, as_pixels, class_activation
from samix.runtime.typed_options import Count, CountOr0

# AttentiveMix ---------------------------------------------------------------------------------------------------------


def attentivemix(x: Tensor, partner: Tensor, lam: Tensor, scores: Tensor) -> Mixed:
    """Keeps the cells that score highest in each image; the partner shows elsewhere.

    Attentive CutMix (Walawalkar et al. 2020, arXiv:2003.13048), which fixes their number, k of gh gw cells, so that
    lam = k / (gh gw). OpenMixup's variant, AttentiveMix+, draws lam.

    Args:
        lam: (B,) in [0, 1]; floor(lam gh gw) cells are kept, at least one, but none for lam = 0.
        scores: (B, gh, gw) of x; of equal cells the first goes before. Pixel h is in the cell floor(h gh / H).

    Raises:
        ValueError: x, partner, lam and scores do not agree in shape.
    """
    check_pair(x, partner, lam)
    check_guide(scores, x)
    cells = scores.shape[1] * scores.shape[2]
    count = torch.floor(lam * cells + 1e-3).clamp(min=1.0) * (lam > 0.0)  # k / cells may be just below k
    order = torch.nan_to_num(scores.float()).flatten(1).argsort(dim=1, descending=True, stable=True)
    own = (order.argsort(dim=1) < count.unsqueeze(1)).view_as(scores)
    return choose(x, partner, to_pixels(own.float(), (x.shape[2], x.shape[3])))


@dataclass
class AttentiveMix(GuidedAugmentation):
    """Pastes the cells of image A to which a network attends onto image B, see :func:`attentivemix`.

    The maps are the channel mean of the network's last feature map. A lam given by the caller sets the number of cells.

    Args:
        alpha: lam ~ Beta(alpha, alpha) if k is 0; <= 0 switches mixing off.
        k: cells kept, of grid x grid; 0 draws lam and keeps floor(lam grid^2), at least one: AttentiveMix+.
        grid: cells per side, at most one per pixel; the map is pooled to them.
        network: a timm network with pre-trained weights to look with, fetched at first use, such as ``resnet50``, the
            paper's; empty looks with the network in training, which sees little at first.
        feature: dotted name of the layer whose output (B, D, h, w) is looked at; empty takes a timm network's last map.
        frozen: a network of your own to look with; it is given the images as they are.

    Example:
        >>> logits, batch = samix.AttentiveMix().forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "attentivemix"

    alpha: float = 2.0
    k: CountOr0 = 6
    grid: Count = 7
    network: str = ""
    feature: str = ""
    frozen: nn.Module | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k > self.grid**2:
            raise ValueError(f"k must be at most grid^2, got grid {self.grid} and k {self.k}")
        if self.network and self.frozen is not None:
            raise ValueError(f"give one network to look with, got network={self.network!r} and frozen=")
        self._fetched: nn.Module | None = None

    @property
    def requirements(self) -> Requirements:
        return Requirements(model=not self.network and self.frozen is None)

    def draw_lam(self, batch_size: int) -> Tensor:
        """(B,) the share of cells to be kept; 1 when this batch is not to be mixed."""
        if not self.k or self.alpha <= 0.0:
            return super().draw_lam(batch_size)
        skip = float(torch.rand(1, generator=self.generator)) >= self.prob
        return torch.full((batch_size,), 1.0 if skip else self.k / self.grid**2)

    def look(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        if self.network:
            maps = self._fetched_map(images)
        else:
            network = model if self.frozen is None else self.frozen
            assert network is not None
            maps = activation_map(network, images, feature=self.feature)
        return maps - maps.amin((1, 2), keepdim=True)

    def _fetched_map(self, images: Tensor) -> Tensor:
        """The named network's activations, of the images at the size and normalisation it was trained with."""
        if self._fetched is None:
            import timm

            try:
                self._fetched = timm.create_model(self.network, pretrained=True).requires_grad_(False)
            except RuntimeError as error:  # timm's, of a name that it does not know
                raise ValueError(f"network must be one of timm's with weights, got {self.network!r}: {error}") from None
        net: Any = self._fetched.to(images.device)
        trained = net.pretrained_cfg
        pixels = as_pixels(images, self.mean, self.std)
        if pixels.shape[1] != 3:
            pixels = pixels.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        pixels = F.interpolate(pixels, trained["input_size"][1:], mode="bilinear", align_corners=False, antialias=True)
        mean, std = (to_device(torch.tensor(trained[k]), images.device).view(1, 3, 1, 1) for k in ("mean", "std"))
        return activation_map(net, (pixels - mean) / std, feature=self.feature)

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        """See :func:`attentivemix`; the own map counts."""
        scores = need_guides(guides)[0]
        cells = (min(self.grid, x.shape[2]), min(self.grid, x.shape[3]))
        return attentivemix(x, partner, lam, F.adaptive_avg_pool2d(scores.unsqueeze(1), cells).squeeze(1))


# SnapMix --------------------------------------------------------------------------------------------------------------


def snapmix(
    x: Tensor,
    partner: Tensor,
    lam: Tensor,
    source_lam: Tensor,
    centre: Tensor,
    source_centre: Tensor,
    guides: Guides,
) -> tuple[Mixed, Tensor]:
    """Pastes a box of each partner, resized, into a box of each image, and labels by the activation in the boxes.

    SnapMix (Huang et al. 2021, arXiv:2012.04846). The own label's share is 1 minus what is covered of the own map, the
    partner's is what was cut out of the partner's map; they need not sum to 1. Boxes are those of CutMix, clipped;
    where either is empty, nothing is pasted. lam = 0 shows the whole partner.

    Args:
        lam: (B,) 1 minus the area of the box in x wanted.
        source_lam: (B,) 1 minus the area of the box in the partner wanted.
        centre: (B, 2) in [0, 1), centre of the box in x, as shares of H and W.
        source_centre: (B, 2) of the box in the partner.
        guides: (B, h, w) activation of its own class in x and in partner. The smallest value counts as 0; a flat map
            counts each pixel alike.

    Returns:
        Mixed, whose lam is the own label's share and whose mask is the box, and the partner label's share (B,).

    Raises:
        ValueError: the inputs do not agree in shape.
    """
    check_pair(x, partner, lam)
    check_pair(x, partner, source_lam)
    size = x.shape[2:]
    ratio = torch.sqrt(1.0 - lam)
    source_ratio = torch.where(lam == 0.0, 1.0, torch.sqrt(1.0 - source_lam))
    box = [cut_side(ratio, centre[:, i], size[i]) for i in (0, 1)]
    source = [cut_side(source_ratio, source_centre[:, i], size[i]) for i in (0, 1)]
    sides = [stop - start for start, stop in (*box, *source)]
    filled = torch.stack(sides).amin(0) > 0.0
    inside, cut = (_area(b, size) * filled.view(-1, 1, 1) for b in (box, source))
    pasted = torch.where((lam > 0.0).view(-1, 1, 1, 1), _stretched(partner, box, source), partner)
    own_map, partner_map = (_percent(guide, x) for guide in guides)
    mixed = choose(x, pasted, 1.0 - inside.unsqueeze(1))
    whole = filled & (lam == 0.0)  # exact there, whatever the sums round to
    share = torch.where(whole, 0.0, (1.0 - (own_map * inside).sum((1, 2))).clamp(0.0, 1.0))
    partner_share = torch.where(whole, 1.0, (partner_map * cut).sum((1, 2)).clamp(0.0, 1.0))
    return mixed._replace(lam=share), partner_share


def _area(box: list[tuple[Tensor, Tensor]], size: torch.Size) -> Tensor:
    """(B, H, W) float32, 1 inside the box."""
    rows, columns = (span(*ends, side) for ends, side in zip(box, size, strict=True))
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).float()


def _stretched(partner: Tensor, box: list[tuple[Tensor, Tensor]], source: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The partner's box brought, bilinear, to the place and size of the own box; elsewhere it is of no use."""
    lines = []
    for (start, stop), (first, end), size in zip(box, source, partner.shape[2:], strict=True):
        at = torch.arange(size, device=partner.device) - start.unsqueeze(1) + 0.5  # (B, size)
        from_first = at * ((end - first) / (stop - start).clamp(min=1.0)).unsqueeze(1) - 0.5
        pixel = torch.minimum(from_first.clamp(min=0.0), (end - first - 1.0).clamp(min=0.0).unsqueeze(1))
        lines.append((2.0 * (pixel + first.unsqueeze(1)) + 1.0) / size - 1.0)  # in grid_sample's coordinates
    rows, columns = lines
    shape = (len(partner), *partner.shape[2:])
    grid = torch.stack([columns.unsqueeze(1).expand(shape), rows.unsqueeze(2).expand(shape)], dim=3)
    dtype = torch.promote_types(partner.dtype, torch.float32)
    resized = F.grid_sample(partner.to(dtype), grid.to(dtype), padding_mode="border", align_corners=False)
    return resized.to(partner.dtype)


def _percent(guide: Tensor, x: Tensor) -> Tensor:
    """SnapMix's semantic percent map: (B, h, w) at the size of x, its smallest value taken off, summing to 1."""
    check_guide(guide, x)
    guide = torch.nan_to_num(guide.float(), nan=0.0, posinf=0.0, neginf=0.0).unsqueeze(1)
    guide = F.interpolate(guide, x.shape[2:], mode="bilinear", align_corners=False).squeeze(1)
    low, high = guide.amin((1, 2), keepdim=True), guide.amax((1, 2), keepdim=True)
    flat = high - low <= 1e-6 * high.abs()
    guide = torch.where(flat, 1.0, guide - low) / torch.where(flat, 1.0, high - low)
    return guide / guide.sum((1, 2), keepdim=True)


@dataclass
class SnapMix(GuidedAugmentation):
    """Pastes a resized box, and weights labels by the class activation in both boxes, see :func:`snapmix`.

    The batch's weights do not sum to 1. Of two images of one class the weights add up, as the published equation says;
    the released code counts them twice. Published: prob 1 to fine-tune a pre-trained network, 0.5 from scratch.

    Args:
        alpha: lam, and the share left of the partner, ~ Beta(alpha, alpha); the paper's beta.
        feature: dotted name of the layer whose output (B, D, h, w) is looked at; empty takes a timm network's last map.
        classifier: dotted name of the last linear layer; empty takes a timm network's, or the last one.

    Example:
        >>> logits, batch = samix.SnapMix().forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "snapmix"
    requirements = Requirements(model=True, preserves_geometry=False)

    alpha: float = 5.0
    feature: str = ""
    classifier: str = ""

    def check_batch(self, images: Tensor, labels: Tensor) -> None:
        """Raises unless there are classes to be looked for."""
        super().check_batch(images, labels)
        self.check_kind(labels, "class", "soft", "multilabel", instead="use MixUp for values")

    def look(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        assert model is not None
        return class_activation(model, images, labels, feature=self.feature, classifier=self.classifier)

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        size = shape[0]
        return {
            "source_lam": sample_lam(self.alpha, size, per_sample=self.per_sample, generator=self.generator),
            "centre": torch.rand(size, 2, generator=self.generator),
            "source_centre": torch.rand(size, 2, generator=self.generator),
        }

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return self._snap(x, partner, lam, need_guides(guides), extras)[0]

    def mix_guided(
        self, images: Tensor, labels: Tensor, guide: Tensor, lam: Tensor, index: Tensor | None
    ) -> MixedBatch:
        """Draws pairs, applies the policy, and weighs both labels."""
        lam, index = self.draw(images, lam, index)
        rows = take_rows(images, index)
        mixed, share = self._snap(images, rows, lam, (guide, guide[index]), self.extras_for(images))
        batch = pair_batch(mixed, labels, index, self.targets)
        return replace(batch, weights=torch.stack([mixed.lam, share], dim=1))

    def _snap(
        self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides, extras: dict[str, Tensor]
    ) -> tuple[Mixed, Tensor]:
        """The policy, given the draws."""
        return snapmix(x, partner, lam, extras["source_lam"], extras["centre"], extras["source_centre"], guides)
