"""AutoMix's Mix Block (Liu et al. 2022, arXiv:2103.13027), and the released code where it is more precise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.mixers.base import (
    MaskGenerator,
    MaskGeneratorConfig,
    Upsample,
    attention_width,
    init_weights,
)


@dataclass(frozen=True)
class AutoMixerConfig(MaskGeneratorConfig):
    """What a Mix Block is.

    Args:
        lam_channel: append lam (own) and 1 - lam (partner) as a constant channel. The released code leaves it out on
            CIFAR and Tiny-ImageNet, where the mask is then the same for every lam.
        upsample: of the mask, ``nearest`` [released code] or ``bilinear``.
    """

    name: ClassVar[str] = "automix"

    lam_channel: bool = True
    upsample: Upsample = "nearest"


class AutoMixer(MaskGenerator):
    """Paints masks by attention from image A to image B: AutoMix's Mix Block (arXiv:2103.13027, Eq. 6 and 7).

    Query and key share one convolution of [z; lam]; the content is a linear map of the partner's features.

    Example:
        >>> mixer = samix.AutoMixer(64).eval()
        >>> z = mixer.project(torch.randn(4, 64, 8, 8))  # feature maps of a batch
        >>> mixer.predict_mask(z, z.flip(0), torch.full((4,), 0.3), (32, 32)).shape
        torch.Size([4, 1, 32, 32])
    """

    config_class = AutoMixerConfig

    def __init__(self, dim: int, config: AutoMixerConfig | None = None, **options: object) -> None:
        super().__init__(dim, config, **options)
        channels = dim + self.config.lam_channel
        self.query_key = nn.Conv2d(channels, attention_width(dim), 1)
        self.value = nn.Conv2d(channels, 1, 1)
        init_weights(self)

    def project(self, z: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, d + 1, h, w): shared query/key map and content, still without lam's share."""
        weight = torch.cat([self.query_key.weight, self.value.weight])[:, : self.dim]
        bias = torch.cat([self.query_key.bias, self.value.bias])  # type: ignore[list-item]  # both have one
        return F.conv2d(z, weight, bias)

    def attend(self, projected: Tensor, partner: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adds lam's channel: W [z; lam] = W_z z + lam w."""
        own, other = projected.flatten(2), partner.flatten(2)  # (B, d + 1, n)
        if self.config.lam_channel:
            weight = torch.cat([self.query_key.weight, self.value.weight])[:, self.dim].view(1, -1, 1)  # (1, d + 1, 1)
            own = own + lam.view(-1, 1, 1) * weight
            other = other + (1.0 - lam).view(-1, 1, 1) * weight
        return own[:, :-1], other[:, :-1], other[:, -1]
