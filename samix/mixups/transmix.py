"""TransMix: labels follow the attention of a ViT (Chen et al., CVPR 2022, arXiv:2111.09833)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.mixups.relabelling import Relabelling, area, with_lam
from samix.networks.attention import class_attention
from samix.runtime.typed_options import Share


def attention_lam(attention: Tensor, mask: Tensor) -> Tensor:
    """The share of the attention that falls on own pixels.

    TransMix: ``sum(a M) / sum(a)``, with the mask M taken at one pixel of each patch, as "nearest" resizing does.

    Args:
        attention: (B, gh, gw) at least 0, on the patch grid, without a graph.
        mask: (B, 1, H, W) share of the own image.

    Returns:
        (B,) float32 in [0, 1].
    """
    own = F.interpolate(mask.float(), attention.shape[1:], mode="nearest").squeeze(1)
    attention = attention.detach().float()
    total = attention.sum((1, 2))
    share = (attention * own).sum((1, 2)) / torch.where(total > 0.0, total, 1.0)
    return torch.where(total > 0.0, share, own.mean((1, 2))).clamp(0.0, 1.0)


def transmix_lam(attention: Tensor, mask: Tensor, lam_area: Tensor | None = None, ratio: float = 0.5) -> Tensor:
    """The label's lam, between the share of pixels and the share of attention.

    TransMix (Chen et al., CVPR 2022, arXiv:2111.09833): ``(1 - ratio) lam_area + ratio lam_attention``.

    Args:
        attention: as :func:`attention_lam`, see :func:`samix.networks.attention.class_attention`.
        mask: as :func:`attention_lam`.
        lam_area: (B,); None takes the mask's mean.
        ratio: 0 the area alone, 1 the attention alone; 1/2 as published.

    Returns:
        (B,) float32 in [0, 1].
    """
    lam_area = mask.float().mean((1, 2, 3)) if lam_area is None else lam_area
    return torch.lerp(lam_area, attention_lam(attention, mask), ratio)


@dataclass
class TransMix(Relabelling):
    """Wraps a mixup: half of the label follows the attention, see :func:`transmix_lam`. For ViTs of timm.

    Args:
        switch: as released: CutMix for 0.8 of the batches, MixUp for the rest, which keep their labels.
        ratio: share of the attention in lam, the rest is area; in [0, 1].

    Example:
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32, depth=2)
        >>> logits, batch = samix.TransMix().forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "transmix"

    switch: Share = 0.2
    ratio: Share = 0.5

    def relabel(self, model: nn.Module, batch: MixedBatch, images: Tensor) -> tuple[Tensor, MixedBatch]:
        logits, attention = class_attention(model, batch.images)
        assert batch.mask is not None
        return logits, with_lam(batch, transmix_lam(attention, batch.mask, area(batch), self.ratio))
