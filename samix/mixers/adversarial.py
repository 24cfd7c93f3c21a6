"""Adversarial AutoMix's generator: masks of any number of images that sum to 1 at every pixel."""

from __future__ import annotations

from collections.abc import Sequence
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
    resize,
)


@dataclass(frozen=True)
class AdversarialMixerConfig(MaskGeneratorConfig):
    """What Adversarial AutoMix's generator is.

    Args:
        lam_channel: append each image's share as a constant channel. A third of the released configurations leave it
            out, and their masks cannot follow the labels' shares.
        upsample: of the masks, ``bilinear`` [released code, CNNs] or ``nearest`` [ViTs].
    """

    name: ClassVar[str] = "adautomix"

    lam_channel: bool = True
    upsample: Upsample = "bilinear"


class AdversarialMixer(MaskGenerator):
    """Paints masks for two or more images: the generator of Adversarial AutoMix (arXiv:2312.11954, section 3.2).

    Each image looks, with its queries, for the keys of all others, weighs its own contents by what it finds, and the
    images compete for every pixel: ``t_i = softmax(Q_i^T sum_{j != i} K_j / sqrt(d)) v_i``, and the masks are the
    softmax over the images of ``U(t_1), ..., U(t_S)``. Weights are shared by all images, so the order of the images
    does not matter and one generator serves any number of them.

    Example:
        >>> mixer = samix.AdversarialMixer(64).eval()
        >>> z = mixer.project(torch.randn(4, 64, 8, 8))  # feature maps of a batch
        >>> mixer.predict_mask(z, z.flip(0), torch.full((4,), 0.3), (32, 32)).shape
        torch.Size([4, 1, 32, 32])
    """

    config_class = AdversarialMixerConfig

    def __init__(self, dim: int, config: AdversarialMixerConfig | None = None, **options: object) -> None:
        super().__init__(dim, config, **options)
        channels = dim + self.config.lam_channel
        self.query = nn.Conv2d(channels, attention_width(dim), 1)
        self.key = nn.Conv2d(channels, attention_width(dim), 1)
        self.value = nn.Conv2d(channels, 1, 1, bias=False)  # the softmax over images would cancel it
        init_weights(self)

    def project(self, z: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, 2 d + 1, h, w): query, key and content, still without lam's share."""
        weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])[:, : self.dim]
        bias = torch.cat([self.query.bias, self.key.bias, weight.new_zeros(1)])  # type: ignore[list-item]  # they have one
        return F.conv2d(z, weight, bias)

    def attend_alone(self, projected: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query (B, d, n), key (B, d, n) and content (B, n) of one image of each mix, with its share lam (B,)."""
        maps = projected.flatten(2)  # (B, 2 d + 1, n)
        if self.config.lam_channel:
            weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])[:, self.dim].view(1, -1, 1)
            maps = maps + lam.view(-1, 1, 1) * weight
        width = self.query.out_channels
        return F.relu(maps[:, :width]), F.relu(maps[:, width : 2 * width]), maps[:, -1]

    def predict_masks(self, sources: Sequence[Tensor], lam: Tensor, size: tuple[int, int]) -> Tensor:
        """The masks of S images. Attention, softmax and masks are float32, also under autocast.

        Args:
            sources: S projections (B, 2 d + 1, h, w) from :meth:`project`, S >= 2.
            lam: (B, S) share of each image in the label, in [0, 1].
            size: (H, W) of the images.

        Returns:
            (B, S, H, W) float32 in (0, 1), the S of each pixel sum to 1.
        """
        height, width = sources[0].shape[-2:]
        parts = [self.attend_alone(source, lam[:, i]) for i, source in enumerate(sources)]
        logits = []
        with torch.autocast(sources[0].device.type, enabled=False):
            keys = [key.float() for _, key, _ in parts]
            for i, (query, _, content) in enumerate(parts):
                others = torch.stack([key for j, key in enumerate(keys) if j != i]).sum(0)  # (B, d, n)
                scaled = query.float() * query.shape[1] ** -0.5
                attention = torch.softmax(scaled.transpose(1, 2) @ others, dim=2)  # (B, n, n)
                logit = (attention @ content.float().unsqueeze(2)).view(-1, 1, height, width)
                logits.append(resize(logit, size, self.config.upsample))
            return torch.softmax(torch.cat(logits, dim=1), dim=1)

    def predict_mask(self, projected: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """The own mask (B, 1, H, W) of pairs, as :class:`MaskGenerator` has it; the partner's is its complement."""
        return self.predict_masks([projected, partner], torch.stack([lam, 1.0 - lam], dim=1), size)[:, :1]
