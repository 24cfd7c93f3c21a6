"""TL-Align: labels of tokens go through a ViT as the tokens do (Xiao et al., ICCV 2023, arXiv:2210.06455)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.mixups.relabelling import Relabelling, area, with_lam
from samix.networks.attention import (
    attention_layers,
    patch_grid,
    predicts_from_class_token,
    prefix_tokens,
    watching,
)
from samix.networks.inference import unwrap
from samix.runtime.typed_options import Count


def align_labels(attentions: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Takes the tokens' labels through the network, block by block, as attention takes the tokens.

    TL-Align (Xiao et al., ICCV 2023, arXiv:2210.06455): ``Y <- (Y + A Y) / 2``, where the half that stays mirrors the
    skip connection.

    Args:
        attentions: of each block, (B, T, T), mean over heads, rows sum to 1; see
            :func:`samix.networks.attention.capture_attention`.
        labels: (B, T, k) of each token: k = K classes, or k = 2 shares of the own and of the partner's image, which
            say the same, as all steps are linear.

    Returns:
        (B, T, k) float32, of the last block's tokens.
    """
    labels = labels.float()
    for attention in attentions:
        labels = align_step(attention, labels)
    return labels


def align_step(attention: Tensor, labels: Tensor) -> Tensor:
    """One block of :func:`align_labels`, in float32 also under autocast."""
    with torch.autocast(labels.device.type, enabled=False):
        return torch.lerp(labels, attention.detach().float() @ labels, 0.5)


def token_shares(mask: Tensor, lam: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """The share of own and partner in each token.

    Args:
        mask: (B, 1, H, W) share of the own image.
        lam: (B,) share of the own image in the class token, and in all tokens before the patches.
        grid: rows and columns of the patches.
        prefix: number of tokens before the patches.

    Returns:
        (B, T, 2) float32; rows sum to 1. A patch's share is the mean of its pixels: 0 or 1 where the mask keeps to the
        patches' borders.
    """
    patches = F.adaptive_avg_pool2d(mask.float(), grid).flatten(1)
    own = torch.cat([lam.unsqueeze(1).expand(-1, prefix), patches], dim=1)
    return torch.stack([own, 1.0 - own], dim=2)


@dataclass
class TokenLabelAlign(Relabelling):
    """Wraps a mixup: labels follow the attention of all blocks, see :func:`align_labels`. For ViTs of timm.

    The label is read where the classifier reads: at the class token, or as the mean of the tokens that are pooled.

    Args:
        base: CutMix by whole patches, so that every token is pure; with another, border tokens count by their pixels.
        patch: side of the network's patches in pixels, for that box.

    Example:
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32, depth=2)
        >>> logits, batch = samix.TokenLabelAlign().forward_through(model, images, labels)
        >>> loss = batch.loss(logits)
    """

    name: ClassVar[str] = "tla"

    base: str = "patchcutmix"
    patch: Count = 16

    def base_options(self) -> dict[str, Any]:
        return {"patch": self.patch} if self.base == "patchcutmix" else {}

    def relabel(self, model: nn.Module, batch: MixedBatch, images: Tensor) -> tuple[Tensor, MixedBatch]:
        """Takes the tokens' shares along while the network runs; no attention is kept."""
        attention_layers(model)
        assert batch.mask is not None
        grid = patch_grid(model, (images.shape[2], images.shape[3]))
        lam, prefix = area(batch), prefix_tokens(model)
        shares = [token_shares(batch.mask, lam, grid, prefix)]

        def step(attention: Tensor) -> None:
            shares.append(align_step(attention.mean(1), shares.pop()))

        with watching(model, step):
            logits = model(batch.images)
        read = shares[0][:, _read_tokens(model)].mean(1)  # (B, 2)
        # Rows of attention sum to 1 but for rounding, so an unmixed row is told apart
        aligned = torch.where((lam == 0.0) | (lam == 1.0), lam, read[:, 0] / read.sum(1))
        return logits, with_lam(batch, aligned)


def _read_tokens(model: nn.Module) -> slice:
    """The tokens that the classifier of a timm ViT reads."""
    net = unwrap(model)
    prefix = prefix_tokens(model)
    if predicts_from_class_token(model):
        return slice(0, 2 if hasattr(net, "head_dist") else 1)  # the mean of class and distillation token
    return slice(0 if getattr(net, "pool_include_prefix", False) else prefix, None)
