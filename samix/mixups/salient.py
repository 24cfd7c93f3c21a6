"""Mixups guided by saliency: SaliencyMix, GuidedMixup, Saliency Grafting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from samix.batch import Mixed, check_pair
from samix.mixups.base import Guides, Requirements, blend, choose
from samix.mixups.boxes import cutmix
from samix.mixups.cells import to_pixels
from samix.mixups.guided import GuidedAugmentation, check_guide, need_guides
from samix.mixups.saliency import activation_map, blur, fine_grained, gaussian, gradient_saliency, spectral_residual
from samix.runtime.typed_options import Count, Positive, Share

# Policies -------------------------------------------------------------------------------------------------------------


def saliencymix(
    x: Tensor, partner: Tensor, lam: Tensor, saliency: Tensor, centre: Tensor, *, one_box: bool = False
) -> Mixed:
    """Pastes a box around the most salient pixel of each partner into each image, at the same place.

    SaliencyMix (Uddin et al. 2021, arXiv:2006.01791), "salient to corresponding". The released code looks at one image
    per batch, the partner of the first, and gives that box to all; ``one_box`` does so too. It also hands normalised
    float pixels to a detector for 8-bit ones, which then finds nothing; here maps are made of the true pixels.

    Args:
        saliency: (B, h, w) of the partners; of equal values the first is the most salient.
        centre: (B, 2) in [0, 1), where the box is put if the map is flat, as shares of H and W.
        one_box: the first partner's map decides for all.

    Raises:
        ValueError: x, partner, lam and saliency do not agree in shape.
    """
    check_pair(x, partner, lam)
    check_guide(saliency, x)
    height, width = saliency.shape[1:]
    flat = torch.nan_to_num(saliency.float()).flatten(1)
    top = flat.argmax(1)
    peak = torch.stack([(top // width + 0.5) / height, (top % width + 0.5) / width], dim=1)
    centre = torch.where((flat.amax(1) > flat.amin(1)).unsqueeze(1), peak, centre)
    return cutmix(x, partner, lam, centre[:1].expand_as(centre) if one_box else centre)


def guidedmixup(x: Tensor, partner: Tensor, lam: Tensor, guides: Guides) -> Mixed:
    """Adds images pixel by pixel, each by its share of the saliency there.

    GuidedMixup (Kang and Kim 2023, arXiv:2306.16612): with maps s and s' that sum to 1, the mask is s / (s + s'). That
    is lam = 0.5; another lam tilts it, lam s / (lam s + (1 - lam) s').

    Args:
        lam: (B,) in [0, 1]; 0.5 is the paper's.
        guides: (B, h, w) saliency of x and of partner, at least 0. A map without any is taken as even.

    Returns:
        Mixed; its lam is the mean of the mask.

    Raises:
        ValueError: x, partner, lam and guides do not agree in shape.
    """
    check_pair(x, partner, lam)
    own, other = (_shares(_spread(guide, x)) for guide in guides)
    tilt = lam.view(-1, 1, 1)
    own, other = tilt * own, (1.0 - tilt) * other
    total = own + other
    mask = torch.where(total > 0.0, own / torch.where(total > 0.0, total, 1.0), tilt).unsqueeze(1)
    return Mixed(blend(x, partner, mask), mask.mean((1, 2, 3)), mask)


def saliency_grafting(
    x: Tensor,
    partner: Tensor,
    lam: Tensor,
    guides: Guides,
    chance: Tensor,
    *,
    temperature: float = 0.2,
    norm: int = 2,
) -> Mixed:
    """Grafts some of the partner's salient cells into each image, and labels by the saliency that is left.

    Saliency Grafting (Park et al. 2022, arXiv:2112.08796). A softmax of the partner's map keeps the cells that are not
    below its mean; of these each is grafted with probability 1 - lam. With I(s, m) = ||s m|| / ||s||, the own label's
    share is I(own) / (I(own) + I(partner)), of the own map where x shows and of the partner's where that shows. There
    is no public code; temperature, grid and norm are our reading.

    Args:
        lam: (B,) share of the partner's salient cells that are left out; 1 gives x.
        guides: (B, h, w) saliency of x and of partner, at least 0. A map without any is taken as even.
        chance: (B, gh, gw) in [0, 1), of the cells; a cell is grafted where it is at least lam.
        temperature: of the softmax over cells of the map divided by its maximum, > 0.
        norm: 1 or 2, of the importance.

    Returns:
        Mixed; its mask is binary, its lam the importance, not the area.

    Raises:
        ValueError: x, partner, lam, guides and chance do not agree in shape.
    """
    check_pair(x, partner, lam)
    grid = (chance.shape[1], chance.shape[2])
    own, other = (_even_if_empty(_pooled(guide, x, grid)) for guide in guides)
    weights = torch.softmax(other.flatten(1) / other.amax((1, 2)).unsqueeze(1) / temperature, dim=1).view_as(other)
    salient = weights >= weights.mean((1, 2), keepdim=True) * (1.0 - 1e-5)  # flat maps: all cells
    grafted = salient & (chance >= lam.view(-1, 1, 1))
    size = (x.shape[2], x.shape[3])
    mixed = choose(x, partner, to_pixels((~grafted).float(), size))
    kept = mixed.mask.squeeze(1)
    importance = _importance(to_pixels(own, size).squeeze(1), kept, norm)
    total = importance + _importance(to_pixels(other, size).squeeze(1), 1.0 - kept, norm)
    share = torch.where(total > 0.0, importance / torch.where(total > 0.0, total, 1.0), mixed.lam)
    return mixed._replace(lam=share)


def farthest_cycle(maps: Tensor) -> Tensor:
    """Pairs images whose maps differ: one cycle, each row going to the farthest row that is still free.

    GuidedMixup's greedy pairing: it starts at the two rows that are farthest of all and closes the cycle. The
    distances, Euclidean between maps that sum to 1, are made on the maps' device; the walk of B steps runs on the CPU.

    Args:
        maps: (B, h, w), at least 0.

    Returns:
        (B,) int64 on the CPU; no row is paired with itself for B >= 2.
    """
    with torch.autocast(maps.device.type, enabled=False):
        shares = _shares(_clean(maps)).flatten(1)
        shares = (shares - shares.mean(0)) * shares.shape[1]  # differences are small beside the maps themselves
        distance = torch.cdist(shares, shares)
    return torch.from_numpy(_walk((distance + distance.T).cpu().numpy()))  # rounding is not the same both ways


def _walk(distance: NDArray[np.float32]) -> NDArray[np.int64]:
    """Partner of each row of a (B, B) matrix, by the walk to the farthest free row; of equal ones the first."""
    size = len(distance)
    index = np.zeros(size, dtype=np.int64)
    if size == 1:
        return index
    off = distance.copy()
    np.fill_diagonal(off, -1.0)
    first, at = divmod(int(off.argmax()), size)
    index[first] = at
    off[:, [first, at]] = -1.0
    for _ in range(size - 2):
        index[at] = int(off[at].argmax())
        at = int(index[at])
        off[:, at] = -1.0
    index[at] = first
    return index


# Maps -----------------------------------------------------------------------------------------------------------------


def _clean(guide: Tensor) -> Tensor:
    """float32, at least 0, finite."""
    return torch.nan_to_num(guide.float(), nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0.0)


def _spread(guide: Tensor, x: Tensor) -> Tensor:
    """A map (B, h, w) at the size of the images, (B, H, W), bilinear."""
    check_guide(guide, x)
    guide, size = _clean(guide), x.shape[2:]
    if guide.shape[1:] == size:
        return guide
    return F.interpolate(guide.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)


def _pooled(guide: Tensor, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map (B, h, w) as means over the cells of a grid."""
    check_guide(guide, x)
    guide = _clean(guide)
    return guide if guide.shape[1:] == grid else F.adaptive_avg_pool2d(guide.unsqueeze(1), grid).squeeze(1)


def _even_if_empty(guide: Tensor) -> Tensor:
    """All 1 where the map (B, h, w) is 0 everywhere; divided by its largest value elsewhere."""
    top = guide.amax((1, 2), keepdim=True)
    return torch.where(top > 0.0, guide / torch.where(top > 0.0, top, 1.0), 1.0)


def _shares(guide: Tensor) -> Tensor:
    """A map (B, h, w) that sums to 1; even if it is 0 everywhere."""
    guide = _even_if_empty(guide)
    return guide / guide.sum((1, 2), keepdim=True)


def _importance(guide: Tensor, where: Tensor, norm: int) -> Tensor:
    """(B,) the norm of a map where it shows, as a share of the whole."""
    powers = guide if norm == 1 else guide**2
    share = (powers * where).sum((1, 2)) / powers.sum((1, 2))
    return share if norm == 1 else share.sqrt()


# Augmentations --------------------------------------------------------------------------------------------------------


@dataclass
class SaliencyMix(GuidedAugmentation):
    """Pastes a box around the most salient pixel of image B, see :func:`saliencymix`. Published: alpha 1, prob 0.5.

    Args:
        saliency: the detector: ``spectral`` :func:`samix.mixups.saliency.spectral_residual`, the cheaper; ``fine``
            :func:`samix.mixups.saliency.fine_grained`, the paper's.
        one_box: one box for the whole batch, from the partner of the first image, as in the released code.

    Example:
        >>> batch = samix.SaliencyMix()(images, labels)
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "saliencymix"

    prob: Share = 0.5
    saliency: Literal["spectral", "fine"] = "spectral"
    one_box: bool = False

    def look(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        detect = spectral_residual if self.saliency == "spectral" else fine_grained
        return detect(images, self.mean, self.std)

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        return {"centre": torch.rand(shape[0], 2, generator=self.generator)}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return saliencymix(x, partner, lam, need_guides(guides)[1], extras["centre"], one_box=self.one_box)


@dataclass
class GuidedMixup(GuidedAugmentation):
    """Blends each pixel in the ratio of the two images' saliency, see :func:`guidedmixup`.

    Maps that are made here are blurred (7 x 7, sigma 3); maps that are given as ``guide`` are taken as they are.

    Args:
        alpha: not used, but <= 0 switches mixing off.
        prob: 0.5 is published for ``spectral``, 0.8 for ``gradient``.
        saliency: ``spectral`` :func:`samix.mixups.saliency.spectral_residual`, no network; ``gradient``
            :func:`samix.mixups.saliency.gradient_saliency` of the network in training.
        greedy: pair by :func:`farthest_cycle`; False pairs as ``pairing`` says.

    Example:
        >>> batch = samix.GuidedMixup()(images, labels)
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "guidedmixup"

    prob: Share = 0.5
    saliency: Literal["spectral", "gradient"] = "spectral"
    greedy: bool = True

    @property
    def requirements(self) -> Requirements:
        return Requirements(model=self.saliency == "gradient")

    def draw_lam(self, batch_size: int) -> Tensor:
        """(B,) 0.5, the paper's even mask; 1 when this batch is not to be mixed."""
        skip = float(torch.rand(1, generator=self.generator)) >= self.prob or self.alpha <= 0.0
        return torch.full((batch_size,), 1.0 if skip else 0.5)

    def draw_index(self, guide: Tensor) -> Tensor | None:
        return farthest_cycle(guide) if self.greedy else None

    def look(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        if model is None or self.saliency == "spectral":
            return spectral_residual(images, self.mean, self.std, size=128, style="guidedmixup")
        return blur(gradient_saliency(model, images, labels, self.targets), gaussian(7, 3.0))

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return guidedmixup(x, partner, lam, need_guides(guides))


@dataclass
class SaliencyGrafting(GuidedAugmentation):
    """Pastes a random part of image B's salient cells, see :func:`saliency_grafting`.

    Args:
        alpha: lam ~ Beta(alpha, alpha) is the share of salient cells that are *not* grafted.
        per_sample: as in the paper, one lam per sample.
        temperature: of the softmax over the cells of the partner's map, > 0; with a lower one fewer cells are salient.
        grid: cells per side, at most one per pixel.
        norm: 1 or 2, the norm by which importance, and so the label, is measured.
        feature: dotted name of the layer whose output (B, D, h, w) is looked at; empty takes a timm network's last map.

    Example:
        >>> logits, batch = samix.SaliencyGrafting().forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "saliency_grafting"
    requirements = Requirements(model=True)

    alpha: float = 2.0
    per_sample: bool = True
    temperature: Positive = 0.2
    grid: Count = 7
    norm: Literal[1, 2] = 2
    feature: str = ""

    def look(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        assert model is not None
        return activation_map(model, images, feature=self.feature, absolute=True)

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        cells = (min(self.grid, shape[2]), min(self.grid, shape[3]))
        return {"chance": torch.rand(shape[0], *cells, generator=self.generator)}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        options = {"temperature": self.temperature, "norm": self.norm}
        return saliency_grafting(x, partner, lam, need_guides(guides), extras["chance"], **options)  # type: ignore[arg-type]
