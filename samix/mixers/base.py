"""What mask generators share: a config, the attention, the mask, and what is done to a mask before it is used.

A mask generator reads feature maps of two images and predicts a mask. All convolutions are 1x1, so a projection of the
*un-permuted* batch serves every pairing of it: ``project`` runs once, ``predict_mask`` takes rows by index.
``W [a; b]`` is computed as ``W1 a + W2 b``, which is the same mathematics.

Letters: B batch, D feature channels, d attention width (D / 2), h w feature cells, n = h w.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, check_pair
from samix.mixups.base import Guides, blend
from samix.runtime.docstrings import inherit_args
from samix.runtime.typed_options import CheckedOptions

if TYPE_CHECKING:
    from typing_extensions import Self

Upsample = Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class MaskGeneratorConfig(CheckedOptions):
    """What a mask generator is, beside the width of its feature map: plain values, saved with its weights.

    The options of a method that trains it derive from it too, so that its fields are options of the method.
    """

    name: ClassVar[str]  # in the registry

    @classmethod
    def of(cls, options: object) -> Self:
        """Takes the fields of this config from the options of a method."""
        names = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in vars(options).items() if name in names})


class MaskGenerator(nn.Module):
    """A network over pairs of feature maps that predicts the mask by which the images are mixed.

    A new one is one file: a config, and a subclass with :meth:`project` and :meth:`attend` (or, where the mask is made
    in another way, :meth:`predict_mask`), registered in :data:`samix.mixers.MASK_GENERATORS` by the config's name.

    Args:
        dim: D, channels of the feature map.
        config: a ``config_class``; None makes one of the options.
        options: fields of the config.
    """

    config_class: ClassVar[type[Any]]  # a MaskGeneratorConfig

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        inherit_args(cls)

    def __init__(self, dim: int, config: Any = None, **options: object) -> None:
        super().__init__()
        self.dim = dim
        self.config = self.config_class(**options) if config is None else config

    def project(self, z: Tensor) -> Tensor:
        """Returns every linear map (B, P, h, w) of the feature map (B, D, h, w) that the masks of all pairings need."""
        raise NotImplementedError

    def attend(self, projected: Tensor, partner: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query (B, d, n), key (B, d, n) and content (B, n) of pairs, from their projections (B, P, h, w)."""
        raise NotImplementedError

    def predict_mask(self, projected: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """Predicts the mask of each pair.

        With attention P = softmax over the partner's cells of (Q^T K / sqrt(d)) and content c of the partner, the
        partner's logit is t = P c and its mask sigmoid(U(t)); the own mask is the complement. Attention, softmax and
        mask are float32, also under autocast.

        Args:
            projected: (B, P, h, w) projections of the own feature maps, from :meth:`project`.
            partner: (B, P, h, w) projections of the partners'.
            lam: (B,) share of the own image, in [0, 1].
            size: (H, W) of the images.

        Returns:
            (B, 1, H, W) float32 in (0, 1), 1 where the own pixel stays.
        """
        height, width = projected.shape[-2:]
        query, key, content = self.attend(projected, partner, lam)
        with torch.autocast(projected.device.type, enabled=False):
            query = query.float() * query.shape[1] ** -0.5  # scaled before the product: no overflow for large features
            attention = torch.softmax(query.transpose(1, 2) @ key.float(), dim=2)  # (B, n, n), rows sum to 1
            logit = (attention @ content.float().unsqueeze(2)).view(-1, 1, height, width)
            return torch.sigmoid(-resize(logit, size, self.config.upsample))  # 1 - sigmoid(t), without the cancellation

    def forward(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None) -> Mixed:
        """Mixes pairs by the predicted mask.

        Args:
            x: (B, C, H, W) images. Not modified.
            partner: (B, C, H, W) their partners.
            lam: (B,) share of the own image in the label, in [0, 1].
            guides: feature maps (B, D, h, w) of x and of partner.

        Returns:
            Mixed; lam is given back as drawn: the label of a learned mixup is lam, not the mask's mean.
        """
        check_pair(x, partner, lam)
        own, other = self.check_guides(guides, len(x))
        mask = self.predict_mask(self.project(own), self.project(other), lam, (x.shape[-2], x.shape[-1]))
        return Mixed(blend(x, partner, mask), lam, mask)

    def check_guides(self, guides: Guides | None, batch_size: int) -> Guides:
        """Raises ValueError unless guides are two maps (B, D, h, w) of this Mixer's width."""
        if guides is None:
            raise ValueError(
                f"{type(self).__name__} needs guides: the feature maps (B, {self.dim}, h, w) of x and of partner"
            )
        for z in guides:
            if z.dim() != 4 or len(z) != batch_size or z.shape[1] != self.dim:
                raise ValueError(f"guides must have shape ({batch_size}, {self.dim}, h, w), got {tuple(z.shape)}")
        return guides

    def after_step(self) -> None:
        """Called after each optimiser step: brings constrained parameters back into their range."""


def resize(logit: Tensor, size: tuple[int, int], mode: Upsample) -> Tensor:
    """(B, 1, h, w) -> (B, 1, H, W) for any size, by nearest neighbour or bilinear without aligned corners."""
    if mode == "nearest":
        return F.interpolate(logit, size, mode="nearest-exact")
    return F.interpolate(logit, size, mode="bilinear", align_corners=False)


def attention_width(dim: int) -> int:
    """Returns d = D // 2, as in the papers."""
    if dim < 2:
        raise ValueError(f"a Mixer needs at least 2 feature channels, got {dim}; choose a deeper feature stage")
    return dim // 2


def init_weights(mixer: nn.Module) -> None:
    """Convolutions N(0, 0.01^2) with bias 0, norms 1 and 0 [released code]: the first masks are 1/2 everywhere."""
    for module in mixer.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


# Post-processing of masks, before the classifier sees them: no gradient, no branch on values ------------------------


def margin_mask(mask: Tensor, lam: Tensor, margin: float) -> Tensor:
    """Plain MixUp where lam is near its ends: mask := lam where min(lam, 1 - lam) <= margin [released code].

    Args:
        mask: (B, 1, H, W) float32.
        lam: (B,).
        margin: in [0, 0.5]; negative switches it off.
    """
    near = (torch.minimum(lam, 1.0 - lam) <= margin).view(-1, 1, 1, 1)
    return torch.where(near, lam.view(-1, 1, 1, 1), mask)


def adjust_mask(mask: Tensor, lam: Tensor, eps: float = 1e-8) -> Tensor:
    """Rescales each mask so that its mean is lam (SAMix, "lambda adjusting").

    Where the mean m is above lam the mask is multiplied by lam / m, elsewhere its complement by (1 - lam) / (1 - m).
    Order of pixels and range [0, 1] are kept; applying it twice changes nothing.

    Args:
        mask: (B, 1, H, W) float32 in [0, 1].
        lam: (B,) in [0, 1].
        eps: keeps the division finite for masks that are 0 or 1 everywhere; those are replaced by lam's end or lam.

    Returns:
        (B, 1, H, W), mean lam over each sample.
    """
    lam = lam.view(-1, 1, 1, 1)
    mean = mask.mean(dim=(1, 2, 3), keepdim=True)
    shrunk = mask * (lam / mean.clamp(min=eps))
    grown = 1.0 - (1.0 - mask) * ((1.0 - lam) / (1.0 - mean).clamp(min=eps))
    return torch.where(mean > lam, shrunk, grown).clamp(0.0, 1.0)
