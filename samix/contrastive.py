"""Losses of learning without labels, clean and mixed: pure functions, float32 (or float64), one value per sample.

Letters: B queries, D embedding, K negatives, k sources of a mix, t temperature. Queries, keys and negatives are unit
vectors. Keys never carry a gradient where a momentum network made them; that is the caller's affair.

Two families of mixed losses are in use (they differ in their denominators): *separate*, a sum of one contrastive loss
per source (Un-Mix, SAMix), and *shared*, one softmax that holds all positives (i-Mix, MixCo). All are affine in lam.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """Float32, or float64 as it came: losses are not computed in half precision."""
    return x if x.dtype == torch.float64 else x.float()


def normalized(x: Tensor) -> Tensor:
    """Rows of unit length, float32, also under autocast: (B, D) -> (B, D)."""
    return F.normalize(exact(x), dim=1)


def info_nce(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE against a queue: cross-entropy of the positive among positive and negatives.

    MoCo (He et al. 2020, arXiv:1911.05722), Eq. (1), as ``softplus(logsumexp(q N / t) - q k / t)``, which is the same.

    Args:
        query: (B, D) unit vectors.
        key: (B, D) the positive of each query.
        negatives: (K, D); K may be 0, and the loss then is 0.
        temperature: > 0.

    Returns:
        (B,) in nats, at least 0.
    """
    positive = (exact(query) * exact(key)).sum(1) / temperature
    return F.softplus(_rest(query, negatives, temperature) - positive)


def mixed_info_nce(z: Tensor, keys: Tensor, weights: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """``sum_s weights_s info_nce(z, keys_s)``: each source with a softmax of its own (separate denominators).

    Un-Mix (Shen et al. 2022, arXiv:2003.05438), SAMix (Li et al. 2022, arXiv:2111.15454). It draws z to all sources but
    does not say in what proportion; that is what :func:`local_bce` adds.

    Args:
        z: (B, D) unit vectors of mixed images.
        keys: (B, k, D) keys of the sources.
        weights: (B, k) their shares, rows sum to 1.
        negatives: (K, D).
        temperature: > 0.

    Returns:
        (B,) in nats; for weights (1, 0) equal to :func:`info_nce` with the first key.
    """
    positive = torch.einsum("bd,bkd->bk", exact(z), exact(keys)) / temperature
    loss = F.softplus(_rest(z, negatives, temperature).unsqueeze(1) - positive)  # (B, k)
    return _weighted(weights, loss)


def shared_mixed_info_nce(z: Tensor, keys: Tensor, weights: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """One softmax over all sources and the negatives, with the weights as soft target (shared denominator).

    i-Mix (Lee et al. 2021, arXiv:2010.08887), MixCo (Kim et al. 2020, arXiv:2010.06300). At least the entropy of the
    weights.

    Args:
        z: (B, D).
        keys: (B, k, D).
        weights: (B, k), rows sum to 1.
        negatives: (K, D).
        temperature: > 0.

    Returns:
        (B,) in nats.
    """
    positive = torch.einsum("bd,bkd->bk", exact(z), exact(keys)) / temperature
    rest = _rest(z, negatives, temperature)
    total = torch.logsumexp(torch.cat([positive, rest.unsqueeze(1)], dim=1), dim=1)
    return total - _weighted(weights, positive)


def in_batch_info_nce(
    query: Tensor,
    keys: Tensor,
    targets: Tensor,
    temperature: float,
    weights: Tensor | None = None,
    extra_negatives: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the keys of a batch: the others' keys are the negatives.

    MoCo v3 (Chen et al. 2021, arXiv:2104.02057), and the N-pair form of i-Mix.

    Args:
        query: (B, D).
        keys: (N, D) keys of the batch, of all processes.
        targets: (B,) int64 row of the positive, or (B, k) rows of several.
        temperature: > 0.
        weights: (B, k) share of each target; None for one target.
        extra_negatives: (K, D), behind the keys; a queue.

    Returns:
        (B,) in nats.
    """
    pool = keys if extra_negatives is None else torch.cat([keys, extra_negatives])
    log_p = F.log_softmax(exact(query) @ exact(pool).T / temperature, dim=1)
    if weights is None:
        return -log_p.gather(1, targets.view(-1, 1)).squeeze(1)
    return -_weighted(weights, log_p.gather(1, targets))


def local_bce(z: Tensor, key: Tensor, partner_key: Tensor, lam: Tensor, temperature: float) -> Tensor:
    """SAMix's local term: how z is split between its two sources alone, ``BCE(sigmoid((z k - z k') / t), lam)``.

    SAMix (Li et al. 2022, arXiv:2111.15454), section 3.2, l_+. At least H(lam), reached where the sigmoid is lam.

    Args:
        z: (B, D).
        key: (B, D) of the own image.
        partner_key: (B, D).
        lam: (B,) share of the own image.
        temperature: > 0.

    Returns:
        (B,) in nats.
    """
    logit = (exact(z) * (exact(key) - exact(partner_key))).sum(1) / temperature
    return F.binary_cross_entropy_with_logits(logit, lam.to(logit.dtype), reduction="none")


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss: of the 2B vectors each must find its other view among all others.

    SimCLR (Chen et al. 2020, arXiv:2002.05709), Eq. (1).

    Args:
        z1: (B, D) unit vectors of one view.
        z2: (B, D) of the other.
        temperature: > 0.

    Returns:
        (2B,) in nats, first those of z1.
    """
    z = torch.cat([exact(z1), exact(z2)])
    count = len(z)
    own = torch.eye(count, dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(own, -torch.inf)
    targets = torch.arange(count, device=z.device).roll(count // 2)
    return F.cross_entropy(logits, targets, reduction="none")


def regression_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """``||p - t||^2 = 2 - 2 <p, t>`` of unit vectors: BYOL (Grill et al. 2020, arXiv:2006.07733), Eq. (2).

    Args:
        prediction: (B, D) unit vectors.
        target: (B, D) unit vectors.

    Returns:
        (B,) in [0, 4].
    """
    return 2.0 - 2.0 * (exact(prediction) * exact(target)).sum(1)


def mixed_regression_loss(prediction: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """``sum_s weights_s ||p - t_s||^2``, which is ``2 - 2 <p, sum_s weights_s t_s>`` for weights that sum to 1.

    BSIM (Chu et al. 2020, arXiv:2012.09387). The blended target is not brought to unit length again.

    Args:
        prediction: (B, D) unit vectors.
        targets: (B, k, D) unit vectors of the sources.
        weights: (B, k), rows sum to 1.

    Returns:
        (B,), at least ``2 - 2 ||sum_s weights_s t_s||``.
    """
    similarity = torch.einsum("bd,bkd->bk", exact(prediction), exact(targets))
    return _weighted(weights, 2.0 - 2.0 * similarity)


def _rest(query: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Logsumexp of the negatives' similarities, (B,); -inf without negatives."""
    if len(negatives) == 0:
        return torch.full((len(query),), -torch.inf, dtype=exact(query).dtype, device=query.device)
    return torch.logsumexp(exact(query) @ exact(negatives).T / temperature, dim=1)


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Sum over sources; a source of weight 0 leaves the others' values bit for bit as they are."""
    return (weights.to(values.dtype) * values).sum(1)
