"""Losses of learning without labels, clean and mixed: pure functions, float32 (or float64), one value per sample.

Letters: B queries, D embedding, K negatives, k sources of a mix, P prototypes, t temperature. Queries, keys and
negatives are unit vectors. Keys never carry a gradient where a momentum network made them; that is the caller's affair.

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


def similarities(x: Tensor, y: Tensor) -> Tensor:
    """Every dot product, (A, D), (B, D) -> (A, B), float32 also under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return exact(x) @ exact(y).T


def info_nce(
    query: Tensor, key: Tensor, negatives: Tensor, temperature: float, own_negatives: Tensor | None = None
) -> Tensor:
    """InfoNCE against a queue: cross-entropy of the positive among positive and negatives.

    MoCo (He et al. 2020, arXiv:1911.05722), Eq. (1), as ``softplus(logsumexp(q N / t) - q k / t)``, which is the same.

    Args:
        query: (B, D) unit vectors.
        key: (B, D) the positive of each query.
        negatives: (K, D); K may be 0, and the loss then is 0.
        temperature: > 0.
        own_negatives: (B, S, D) further negatives of each query alone (MoCHi, arXiv:2010.01028), or None.

    Returns:
        (B,) in nats, at least 0.
    """
    positive = (exact(query) * exact(key)).sum(1) / temperature
    rest = _rest(query, negatives, temperature)
    if own_negatives is not None:
        with torch.autocast(query.device.type, enabled=False):
            own = torch.einsum("bd,bsd->bs", exact(query), exact(own_negatives)) / temperature
        rest = torch.logaddexp(rest, torch.logsumexp(own, dim=1))
    return _softplus(rest - positive)


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
    positive = _to_sources(z, keys) / temperature
    loss = _softplus(_rest(z, negatives, temperature).unsqueeze(1) - positive)  # (B, k)
    return _weighted(weights, loss)


def in_batch_info_nce(
    query: Tensor,
    keys: Tensor,
    targets: Tensor,
    temperature: float,
    weights: Tensor | None = None,
    extra_negatives: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the keys of a batch: the others' keys are the negatives.

    MoCo v3 (Chen et al. 2021, arXiv:2104.02057). With several targets one softmax holds them all, as in i-Mix (Lee et
    al. 2021, arXiv:2010.08887) and MixCo (Kim et al. 2020, arXiv:2010.06300): at least the entropy of the weights.

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
    log_p = F.log_softmax(similarities(query, pool) / temperature, dim=1)
    if weights is None:
        return -log_p.gather(1, targets.view(-1, 1)).squeeze(1)
    return -_weighted(weights, log_p.gather(1, targets))


def mixture_info_nce(query: Tensor, keys: Tensor, targets: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """``-log sum_s weights_s p_s``, p the softmax over the keys of a batch: any of the targets will do.

    SDMP (Ren et al. 2022, arXiv:2206.07692). Convex in the weights, not affine: at most :func:`in_batch_info_nce` with
    the same weights, and equal to it where one of them is 1.

    Args:
        query: (B, D).
        keys: (N, D) keys of the batch, of all processes.
        targets: (B, k) int64 rows of the positives.
        weights: (B, k), rows sum to 1.
        temperature: > 0.

    Returns:
        (B,) in nats.
    """
    log_p = F.log_softmax(similarities(query, keys) / temperature, dim=1).gather(1, targets)
    return -torch.logsumexp(log_p + weights.to(log_p.dtype).log(), dim=1)


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


def nt_xent(
    z1: Tensor, z2: Tensor, temperature: float, everyone: tuple[Tensor, Tensor] | None = None, first: int = 0
) -> Tensor:
    """SimCLR's loss: of the vectors of both views each must find its other view among all others.

    SimCLR (Chen et al. 2020, arXiv:2002.05709), Eq. (1).

    Args:
        z1: (B, D) unit vectors of one view.
        z2: (B, D) of the other.
        temperature: > 0.
        everyone: (N, D) vectors of either view on all processes; None where z1 and z2 are all there are.
        first: row of everyone at which z1 and z2 begin.

    Returns:
        (2B,) in nats, first those of z1.
    """
    z = torch.cat([z1, z2])
    pool = z if everyone is None else torch.cat(everyone)
    rows = torch.arange(first, first + len(z1), device=z.device)
    own = torch.cat([rows, rows + len(pool) // 2])  # (2B,) where each vector itself stands in the pool
    logits = similarities(z, pool) / temperature
    logits = logits.scatter(1, own.unsqueeze(1), -torch.inf)
    return F.cross_entropy(logits, own.roll(len(z1)), reduction="none")


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
    return _weighted(weights, 2.0 - 2.0 * _to_sources(prediction, targets))


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Codes that use all prototypes alike: rows and columns are scaled in turn, rows last.

    SwAV (Caron et al. 2020, arXiv:2006.09882), Eq. (3) to (5) and Algorithm 1; computed with logarithms, so that no
    entry underflows, whatever epsilon.

    Args:
        scores: (B, P) dot products with the prototypes, of all images that share the prototypes out among them.
        epsilon: > 0; the larger, the more even the codes.
        iterations: at least 1.

    Returns:
        (B, P) shares, without a graph; rows sum to 1, columns to B / P as far as the iterations have come.
    """
    log_q = exact(scores) / epsilon
    for _ in range(iterations):
        log_q = log_q - torch.logsumexp(log_q, dim=0, keepdim=True)
        log_q = log_q - torch.logsumexp(log_q, dim=1, keepdim=True)
    return log_q.exp()


def swapped_prediction(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of a view's scores against another view's codes.

    SwAV (Caron et al. 2020, arXiv:2006.09882), Eq. (2). Linear in the codes, so the codes of a mix are the mix of its
    sources' codes.

    Args:
        scores: (B, P) dot products of unit vectors with the prototypes.
        codes: (B, P) from :func:`sinkhorn`; no gradient reaches them.
        temperature: > 0.

    Returns:
        (B,) in nats.
    """
    return -(codes.detach() * F.log_softmax(exact(scores) / temperature, dim=1)).sum(1)


def barlow_twins(z1: Tensor, z2: Tensor, redundancy: float = 0.0051, eps: float = 1e-5) -> Tensor:
    """``sum_i (1 - C_ii)^2 + redundancy sum_{i != j} C_ij^2`` of the correlation C of two views' columns.

    Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230), Eq. (1) and (2). Columns are standardised here, by the
    biased variance, as BatchNorm without scale and shift does in training.

    Args:
        z1: (B, D), any scale.
        z2: (B, D).
        redundancy: weight of the second sum.
        eps: added to the variance.

    Returns:
        Scalar, as the loss is one of columns, not of samples.
    """
    with torch.autocast(z1.device.type, enabled=False):
        correlation = _standardised(exact(z1), eps).T @ _standardised(exact(z2), eps) / len(z1)  # (D, D)
    dim = len(correlation)
    # without its last entry the flat matrix has rows of D + 1, which begin with the diagonal
    others = correlation.flatten()[:-1].view(dim - 1, dim + 1)[:, 1:]
    return (1.0 - correlation.diagonal()).square().sum() + redundancy * others.square().sum()


def _standardised(z: Tensor, eps: float) -> Tensor:
    """Columns of mean 0 and variance 1."""
    return (z - z.mean(0)) / torch.sqrt(z.var(0, correction=0) + eps)


def _to_sources(z: Tensor, keys: Tensor) -> Tensor:
    """Dot products of each row with its own sources, (B, D), (B, k, D) -> (B, k), float32 also under autocast."""
    return (exact(z).unsqueeze(1) * exact(keys)).sum(2)


def _rest(query: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Logsumexp of the negatives' similarities, (B,); -inf without negatives."""
    if len(negatives) == 0:
        return torch.full((len(query),), -torch.inf, dtype=exact(query).dtype, device=query.device)
    return torch.logsumexp(similarities(query, negatives) / temperature, dim=1)


def _softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``; torch's own is linear from 20 on, which is wrong in the ninth digit of a float64."""
    return F.softplus(x, threshold=50.0)


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Sum over sources; a source of weight 0 leaves the others' values bit for bit as they are."""
    return (weights.to(values.dtype) * values).sum(1)
