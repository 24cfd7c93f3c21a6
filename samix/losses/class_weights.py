"""Cross-entropy that weighs classes of different size alike."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from samix.batch import MixedBatch


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """``N / (K n_k)`` of each class, float32 (K,): the mean over all N images is 1; 0 for a class without images.

    Args:
        labels: (N,) class ids.
        num_classes: K.
    """
    counts = labels.bincount(minlength=num_classes).float()
    return (len(labels) / (num_classes * counts)).masked_fill(counts == 0, 0.0)


def weighted_cross_entropy(logits: Tensor, batch: MixedBatch, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """``-sum_ik w_k t_ik log p_ik / sum_ik w_k t_ik`` over the mixed targets t; for class ids, torch's weighted mean.

    Args:
        logits: (B, K).
        batch: mixed images with class targets.
        weights: (K,) of the classes.
        smoothing: label smoothing in [0, 1).

    Returns:
        Scalar, in nats.
    """
    targets = batch.soft_targets(logits.shape[1], smoothing) * weights.to(logits.device)
    return -(targets * F.log_softmax(logits.float(), dim=1)).sum() / targets.sum()
