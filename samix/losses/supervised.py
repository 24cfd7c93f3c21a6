"""Losses of mixed samples and of masks: pure functions, float32, each with its equation.

Reduced by a mean *after* each sample has been weighed by its own lam: reducing before would leave only lam's mean.

Those in :data:`LOSSES` take a mixed batch, ``loss(logits, batch)``; logits of float64 stay so, all others become
float32. They read no value on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.batch import MixedBatch, check_smoothing
from samix.losses.contrastive import exact
from samix.runtime.checks import check_choice, check_number

DecoupledMode = Literal["both", "less", "more"]


def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, partner_labels: Tensor, lam: Tensor, smoothing: float = 0.0
) -> Tensor:
    """``mean_i lam_i CE(logits_i, labels_i) + (1 - lam_i) CE(logits_i, partner_labels_i)``.

    MixUp (Zhang et al. 2018, arXiv:1710.09412); equal to cross-entropy with the two-hot soft target.

    Args:
        logits: (B, K).
        labels: (B,) int64.
        partner_labels: (B,) int64.
        lam: (B,) share of the own label, in [0, 1].
        smoothing: label smoothing in [0, 1).

    Returns:
        Scalar, in nats.
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    own = log_p.gather(1, labels[:, None]).squeeze(1)
    other = log_p.gather(1, partner_labels[:, None]).squeeze(1)
    loss = -(lam * own + (1.0 - lam) * other).mean()
    return (1.0 - smoothing) * loss - smoothing * log_p.mean() if smoothing else loss


def local_cross_entropy(logits: Tensor, labels: Tensor, partner_labels: Tensor, lam: Tensor) -> Tensor:
    """SAMix's local term l_+ ("parametric BCE"): how lam splits between the two mixed classes alone.

    ``BCE(sigmoid(u_a - u_b), lam)`` with the logits u of the two classes (arXiv:2111.15454, section 3.2; the two-way
    softmax is the class-level mirror of its instance-level form). Pairs of one class carry no information; the mean is
    over the other pairs.

    Args:
        logits: (B, K).
        labels: (B,) int64, class a.
        partner_labels: (B,) int64, class b.
        lam: (B,) share of class a, in [0, 1].

    Returns:
        Scalar, in nats; 0 where all pairs are of one class.
    """
    u = exact(logits)
    difference = (u.gather(1, labels[:, None]) - u.gather(1, partner_labels[:, None])).squeeze(1)
    bce = F.binary_cross_entropy_with_logits(difference, lam.to(u.dtype), reduction="none")
    apart = (labels != partner_labels).to(u.dtype)
    return (bce * apart).sum() / apart.sum().clamp(min=1.0)


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
    mean = exact(mask).mean(dim=(1, 2, 3))
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
    values = exact(mask).reshape(1 if over_batch else len(mask), -1)
    return values.var(dim=1, correction=0).mean()


def mask_loss(mask: Tensor, lam: Tensor, margin: float, variance_weight: float, *, over_batch: bool) -> Tensor:
    """Computes :func:`mask_mean_loss` less the weighted :func:`mask_variance`: what trains a mask alone."""
    loss = mask_mean_loss(mask, lam, margin, over_batch=over_batch)
    return loss - variance_weight * mask_variance(mask, over_batch=over_batch) if variance_weight else loss


# Losses of a mixed batch, by name -------------------------------------------------------------------------------------


def soft_cross_entropy(logits: Tensor, batch: MixedBatch, smoothing: float = 0.0) -> Tensor:
    """``-mean_i sum_k y_ik log softmax(z_i)_k`` against the mixed target y; the default for one class per image.

    Equal to the two-term loss of MixUp (arXiv:1710.09412) where the weights sum to 1; where they do not, each source's
    cross-entropy is weighed by its own weight.

    Args:
        logits: (B, K), or (B, K, H, W) for class ids at each pixel.
        batch: what was mixed.
        smoothing: label smoothing in [0, 1); it commutes with mixing.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: labels that are values, or smoothing out of range.
    """
    if batch.dense:
        return batch.label_loss(logits, smoothing)
    check_smoothing(smoothing)
    log_p = F.log_softmax(exact(logits), dim=1)
    if batch.target is None and not batch.labels.is_floating_point():
        nll = -(1.0 - smoothing) * log_p.gather(1, batch.labels)
        if smoothing:
            nll = nll - smoothing * log_p.mean(1, keepdim=True)
        return (batch.weights * nll).sum(1).mean()
    return -(batch.soft_targets(logits.shape[1], smoothing) * log_p).sum(1).mean()


def binary_cross_entropy(
    logits: Tensor,
    batch: MixedBatch,
    *,
    smoothing: float = 0.0,
    threshold: float | None = None,
    sum_classes: bool = False,
) -> Tensor:
    """``mean_ik BCE(sigmoid(z_ik), y_ik)`` against the mixed target y: one yes or no for each class.

    "ResNet strikes back" (Wightman et al. 2021, arXiv:2110.00476), section 2; with timm's options, and equal to its
    loss. Also the loss of multi-hot labels. The target is capped at 1, which only weights that sum to more can reach.

    Args:
        logits: (B, K).
        batch: what was mixed; class ids, one-hot or multi-hot labels.
        smoothing: label smoothing in [0, 1), before the threshold.
        threshold: in [0, 1); targets above it become 1, all others 0, so lam is lost. RSB: 0.2. None keeps them soft.
        sum_classes: sum over classes rather than average them, K times as much.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: labels at each pixel, labels that are values, or an option out of range.
    """
    target = _targets(logits, batch, smoothing).clamp(max=1.0)
    if threshold is not None:
        check_threshold(threshold)
        target = (target > threshold).float()
    return _binary(logits, target, sum_classes)


def softmax_bce(logits: Tensor, batch: MixedBatch, smoothing: float = 0.0) -> Tensor:
    """``mean_ik BCE(softmax(z_i)_k, y_ik)``: binary cross-entropy of probabilities that sum to 1.

    What the released codes of ManifoldMix (arXiv:1806.05236), PuzzleMix (CIFAR; arXiv:2009.06962) and Co-Mixup
    (arXiv:2102.03065) train with, for reproducing them: its gradient is about K times smaller than cross-entropy's.
    They cut logarithms off at -100; here they are exact, also where a probability rounds to 1.

    Args:
        logits: (B, K), K >= 2.
        batch: what was mixed.
        smoothing: label smoothing in [0, 1).

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: one class only, labels at each pixel, labels that are values, or smoothing out of range.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"softmax_bce needs at least two classes, got logits {tuple(logits.shape)}")
    target = _targets(logits, batch, smoothing).clamp(max=1.0)
    z = exact(logits)
    log_p = F.log_softmax(z, dim=1)
    # log(1 - p): of the largest by the sum of the others, of all others by log1p, as p <= 1/2 there
    top = torch.zeros_like(z, dtype=torch.bool).scatter(1, z.argmax(1, keepdim=True), True)
    others = z.masked_fill(top, -torch.inf).logsumexp(1, keepdim=True) - z.logsumexp(1, keepdim=True)
    log_not = torch.where(top, others, torch.log1p(-log_p.exp().masked_fill(top, 0.0)))
    return -(target * log_p + (1.0 - target) * log_not).mean()


def decoupled_cross_entropy(
    logits: Tensor,
    batch: MixedBatch,
    *,
    eta: float = 0.1,
    power: float = 1.0,
    threshold: float = 1.0,
    mode: DecoupledMode = "both",
    smoothing: float = 0.0,
) -> Tensor:
    """Computes mixed cross-entropy, plus a term for each of the two classes in which the other takes no part.

    DecoupledMix (Liu et al. 2023, arXiv:2203.10761). With classes a, b, shares lam_a, lam_b and r of
    :func:`rescale_lam`::

        mean_i CE(z, y) + eta (r(lam_a) l_a + r(lam_b) l_b),   l_a = -z_a + log sum_{k != b} exp(z_k),  l_b likewise

    Each class gains confidence without taking it from the other. Pairs of one class and samples that are not mixed have
    no such term. The released code finds the classes by comparing the target with the first sample's lam; here every
    sample may have its own. Its configurations for CIFAR-100 have eta from 0.01 to 0.5, thresholds 0, 0.5 and 1, and
    ``less`` or ``more``.

    Args:
        logits: (B, K).
        batch: what was mixed: two class ids for each image.
        eta: weight of the decoupled terms, at least 0; 0 leaves mixed cross-entropy.
        power: of r; 0 gives each class the whole weight, whatever its share.
        threshold: of r, in [0, 1].
        mode: which classes have the term: ``both``, or that with the smaller share (``less``) or the larger (``more``);
            two equal shares both have it.
        smoothing: label smoothing in [0, 1), of the first term only.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: other labels than two class ids for each image, or an option out of range.
    """
    check_two_classes(batch)
    check_number("eta", eta, 0)
    check_choice("mode", mode, get_args(DecoupledMode))
    check_rescale(power, threshold)
    z, labels = exact(logits), batch.labels
    mixed = (labels[:, 0] != labels[:, 1]) & (batch.weights > 0.0).all(1)
    weights = rescale_lam(batch.weights, power, threshold) * mixed.unsqueeze(1)
    if mode != "both":
        share, other_share = batch.weights, batch.weights.flip(1)
        weights = weights * (share <= other_share if mode == "less" else share >= other_share)
    total = z.new_zeros(len(z))
    for own, other in ((0, 1), (1, 0)):
        hidden = torch.zeros_like(z, dtype=torch.bool).scatter(1, labels[:, other, None], mixed.unsqueeze(1))
        rest = z.masked_fill(hidden, -torch.inf).logsumexp(1)
        total = total + weights[:, own] * (rest - z.gather(1, labels[:, own, None]).squeeze(1))
    return soft_cross_entropy(logits, batch, smoothing) + eta * total.mean()


def decoupled_bce(
    logits: Tensor,
    batch: MixedBatch,
    *,
    power: float = 1.0,
    threshold: float = 0.8,
    smoothing: float = 0.0,
    sum_classes: bool = False,
) -> Tensor:
    """Binary cross-entropy in which both classes' targets are raised by :func:`rescale_lam`.

    DecoupledMix's form for binary losses (arXiv:2203.10761): the target is r(lam_a) for class a and r(lam_b) for class
    b, capped at 1 where both are one class. ``power=1, threshold=1`` is :func:`binary_cross_entropy`; ``power=0`` is
    the plain two-hot target.

    Args:
        logits: (B, K).
        batch: what was mixed: two class ids for each image.
        power: of r, at least 0.
        threshold: of r, in [0, 1]; the default is our choice.
        smoothing: label smoothing in [0, 1), of the raised target.
        sum_classes: sum over classes rather than average them.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: other labels than two class ids for each image, or an option out of range.
    """
    check_two_classes(batch)
    check_rescale(power, threshold)
    check_smoothing(smoothing)
    raised = rescale_lam(batch.weights, power, threshold)
    raised = torch.where(batch.weights > 0.0, raised, 0.0)  # power = 0: a source without a share has no target
    target = torch.zeros(logits.shape, device=logits.device).scatter_add(1, batch.labels, raised).clamp(max=1.0)
    if smoothing:
        target = target * (1.0 - smoothing) + smoothing / logits.shape[1]
    return _binary(logits, target, sum_classes)


def rescale_lam(lam: Tensor, power: float = 1.0, threshold: float = 1.0) -> Tensor:
    """Computes DecoupledMix's ``r(lam) = (lam / t)^p`` where lam < t, else 1; the identity for p = t = 1.

    Args:
        lam: any shape, in [0, 1].
        power: p, at least 0.
        threshold: t, in [0, 1]; 0 gives 1 everywhere.
    """
    if threshold == 0.0:
        return torch.ones_like(lam)
    return (lam / threshold).clamp(max=1.0).pow(power)


def check_threshold(threshold: float | None) -> None:
    """Raises ValueError unless threshold is None, which keeps targets soft, or in [0, 1)."""
    if threshold is not None:
        check_number("threshold", threshold, 0, 1, open_high=True)


def check_rescale(power: float, threshold: float) -> None:
    """Raises ValueError unless power is at least 0 and threshold in [0, 1]."""
    check_number("power", power, 0)
    check_number("threshold", threshold, 0, 1)


def check_two_classes(batch: MixedBatch) -> None:
    """Raises ValueError unless the batch has two class ids for each image, and no dense target."""
    if batch.labels.shape[1:] != (2,) or batch.labels.is_floating_point() or batch.target is not None:
        kind = "a dense target" if batch.target is not None else f"{batch.labels.dtype} {tuple(batch.labels.shape)}"
        raise ValueError(
            f"decoupled losses need two class ids for each image, got {kind}; use binary_cross_entropy or the default"
        )


def _targets(logits: Tensor, batch: MixedBatch, smoothing: float) -> Tensor:
    """The mixed target (B, K) of whole images."""
    if batch.dense or logits.dim() != 2:
        raise ValueError(
            f"this loss is for one label per image and logits (B, K), got logits {tuple(logits.shape)}; "
            'use "ce" for labels at each pixel'
        )
    return batch.soft_targets(logits.shape[1], smoothing)


def _binary(logits: Tensor, target: Tensor, sum_classes: bool) -> Tensor:
    """BCE with logits against targets of the same shape, averaged over the batch."""
    z = exact(logits)
    loss = F.binary_cross_entropy_with_logits(z, target.to(z.dtype), reduction="none")
    return loss.sum(1).mean() if sum_classes else loss.mean()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "ce": soft_cross_entropy,
    "bce": binary_cross_entropy,
    "softmax_bce": softmax_bce,
    "decoupled": decoupled_cross_entropy,
    "decoupled_bce": decoupled_bce,
}
