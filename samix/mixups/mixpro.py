"""MixPro: MaskMix, and labels that move from the area to the attention (Zhao et al., ICLR 2023, arXiv:2304.12043)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.mixups.base import Augmentation
from samix.mixups.boxes import CutMix
from samix.mixups.handmade import RandomChoice
from samix.mixups.relabelling import Relabelling, area, with_lam
from samix.mixups.transmix import attention_lam
from samix.networks.attention import class_attention
from samix.runtime.typed_options import Share, ShareBelow1


def progress_factor(logits: Tensor, target: Tensor) -> Tensor:
    """How far the network has come with each sample: the cosine of its prediction and the label.

    MixPro's progressive attention labelling. The released code lets the gradient through; this is a weight, so here
    there is none.

    Args:
        logits: (B, K).
        target: (B, K) mixed label, at least 0.

    Returns:
        (B,) float32 in [0, 1].
    """
    prediction = logits.detach().float().softmax(dim=1)
    return F.cosine_similarity(prediction, target.float(), dim=1).clamp(0.0, 1.0)


def mixpro_lam(attention_share: Tensor, lam_area: Tensor, progress: Tensor) -> Tensor:
    """The label's lam: the area early in training, the attention later.

    MixPro (Zhao et al., ICLR 2023, arXiv:2304.12043): ``progress lam_attention + (1 - progress) lam_area``.

    Args:
        attention_share: (B,), see :func:`attention_lam`.
        lam_area: (B,).
        progress: (B,) in [0, 1], see :func:`progress_factor`.

    Returns:
        (B,) float32, between the two.
    """
    return torch.lerp(lam_area, attention_share, progress)


@dataclass
class MixPro(Relabelling):
    """Mixes by MaskMix; labels move from area to attention as the network learns. For ViTs of timm.

    See :func:`samix.mixups.maskmix.maskmix`, :func:`mixpro_lam`. Without the labels' part it is MaskMix.

    Args:
        base: MaskMix, or another.
        switch: probability, per batch, of MixUp or CutMix (half and half) instead, as released.
        smoothing: label smoothing of the label that the prediction is compared with.

    Example:
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32, depth=2)
        >>> logits, batch = samix.MixPro().forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "mixpro"

    switch: Share = 0.5
    base: str = "maskmix"
    smoothing: ShareBelow1 = 0.1

    def instead(self) -> Augmentation:
        mixup = super().instead()
        other = CutMix(1.0, mixup.prob, mixup.per_sample, mixup.pairing, generator=self.generator, targets=self.targets)
        return RandomChoice([mixup, other], generator=self.generator)

    def relabel(self, model: nn.Module, batch: MixedBatch, images: Tensor) -> tuple[Tensor, MixedBatch]:
        if batch.kind not in ("class", "soft", None):
            raise ValueError(
                f"MixPro compares softmax predictions with labels of one class per image, got {batch.kind} labels; use "
                "TransMix"
            )
        logits, attention = class_attention(model, batch.images)
        assert batch.mask is not None
        by_area = with_lam(batch, area(batch))
        progress = progress_factor(logits, by_area.soft_targets(logits.shape[1], self.smoothing))
        lam = mixpro_lam(attention_lam(attention, batch.mask), by_area.lam, progress)
        return logits, with_lam(batch, lam)
