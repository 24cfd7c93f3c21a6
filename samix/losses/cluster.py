"""The loss of a classifier of clusters, of clean and of mixed images: a pure function.

Letters: B batch, C clusters, k sources of a mix.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from samix.losses.contrastive import exact


def weighted_cross_entropy(logits: Tensor, labels: Tensor, shares: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of mixed images with class weights: ``sum lam w_y CE(y) / sum lam w_y`` over images and sources.

    For one source of share 1 this is torch's weighted mean. The sum is divided by the sum of the weights, so that their
    scale has no effect; the released code divides by the number of images, and its loss is about C times smaller.

    Args:
        logits: (B, C), computed in float32.
        labels: (B, k) int64 clusters of the sources.
        shares: (B, k), at least 0.
        weights: (C,) positive class weights.

    Returns:
        Scalar, in nats.
    """
    nll = -F.log_softmax(exact(logits), dim=1).gather(1, labels)
    each = shares.to(nll.dtype) * weights.to(nll.dtype)[labels]
    return (each * nll).sum() / each.sum()
