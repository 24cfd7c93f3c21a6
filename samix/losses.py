"""Losses of mixed samples and of masks: pure functions, float32, each with its equation.

Reduced by a mean *after* each sample has been weighed by its own lam: reducing before would leave only lam's mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mixed_cross_entropy(logits: Tensor, labels: Tensor, partner_labels: Tensor, lam: Tensor) -> Tensor:
    """``mean_i lam_i CE(logits_i, labels_i) + (1 - lam_i) CE(logits_i, partner_labels_i)``.

    MixUp (Zhang et al. 2018, arXiv:1710.09412); equal to cross-entropy with the two-hot soft target.

    Args:
        logits: (B, K).
        labels: (B,) int64.
        partner_labels: (B,) int64.
        lam: (B,) share of the own label, in [0, 1].

    Returns:
        Scalar, in nats.
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    own = log_p.gather(1, labels[:, None]).squeeze(1)
    other = log_p.gather(1, partner_labels[:, None]).squeeze(1)
    return -(lam * own + (1.0 - lam) * other).mean()


def local_cross_entropy(logits: Tensor, labels: Tensor, partner_labels: Tensor, lam: Tensor) -> Tensor:
    """SAMix's local term l_+ ("parametric BCE"): how lam splits between the two mixed classes alone.

    ``BCE(sigmoid(u_a - u_b), lam)`` with the logits u of the two classes (arXiv:2111.15454, section 3.2; the two-way
    softmax is the class-level mirror of its instance-level form). Pairs of one class carry no information and are left
    out of the sum; the mean is over the whole batch.

    Args:
        logits: (B, K).
        labels: (B,) int64, class a.
        partner_labels: (B,) int64, class b.
        lam: (B,) share of class a, in [0, 1].

    Returns:
        Scalar, in nats; at least H(lam) for each pair of different classes.
    """
    u = logits.float()
    own = u.gather(1, labels[:, None]).squeeze(1)
    other = u.gather(1, partner_labels[:, None]).squeeze(1)
    bce = F.binary_cross_entropy_with_logits(own - other, lam.float(), reduction="none")
    return torch.where(labels == partner_labels, torch.zeros_like(bce), bce).mean()


def mask_mean_loss(mask: Tensor, lam: Tensor, margin: float = 0.1, *, over_batch: bool = False) -> Tensor:
    """l_mu = max(|mean(mask) - lam| - margin, 0): the mask's mean must follow lam.

    SAMix Eq. for l_mu; AutoMix Eq. (9) writes the same. Per sample as in the papers, averaged; ``over_batch`` takes one
    mean over all masks as the released code does, which a batch of all-0 and all-1 masks satisfies.

    Args:
        mask: (B, 1, H, W) in [0, 1].
        lam: (B,).
        margin: in [0, 1]; no gradient inside it.
        over_batch: one mean for the batch instead of one per sample.

    Returns:
        Scalar in [0, 1].
    """
    mean = mask.float().mean(dim=(1, 2, 3))
    if over_batch:
        mean, lam = mean.mean(), lam.mean()
    return ((mean - lam).abs() - margin).clamp(min=0.0).mean()


def mask_variance(mask: Tensor, *, over_batch: bool = False) -> Tensor:
    """Variance of the mask over its pixels, averaged over the batch; at most 1/4. SAMix maximises it.

    Args:
        mask: (B, 1, H, W) in [0, 1].
        over_batch: one variance over all pixels of all masks, which counts differences between samples too.

    Returns:
        Scalar in [0, 0.25].
    """
    values = mask.float().reshape(1 if over_batch else len(mask), -1)
    return values.var(dim=1, correction=0).mean()
