"""The whole step of SAMix-I and SAMix-C in plain loops, from the equations of the paper and of the released code.

Numbers are float64 tensors without shape, so that the loop has a gradient. Only networks are run as they are.
"""

import math

import torch
from torch import Tensor

from samix.mixups.base import sample_lam


def unit(vector: Tensor) -> Tensor:
    return vector / sum(value**2 for value in vector) ** 0.5


def dot(a: Tensor, b: Tensor) -> Tensor:
    return sum(x * y for x, y in zip(a, b, strict=True))


def nce(z: Tensor, key: Tensor, negatives: Tensor, t: float) -> Tensor:
    positive = torch.exp(dot(z, key) / t)
    return -torch.log(positive / (positive + sum(torch.exp(dot(z, n) / t) for n in negatives)))


def between(a: Tensor, b: Tensor, lam: float) -> Tensor:
    """The local term of one mix: cross-entropy of the two-way softmax of two logits with lam."""
    a, b = torch.exp(a), torch.exp(b)
    return -lam * torch.log(a / (a + b)) - (1 - lam) * torch.log(b / (a + b))


def factor(schedule: str, progress: float, done: int) -> float:
    return {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "warmup": math.exp(-(math.pi**2) * progress**2 * done / 12),
    }[schedule]


def mean_of(mask: Tensor) -> Tensor:
    return sum(mask.flatten()) / mask.numel()


def adjusted(mask: Tensor, lam: float, margin: float) -> Tensor:
    mean = mean_of(mask)
    if margin >= 0 and mean > lam + margin:
        return mask * lam / mean
    if margin >= 0 and mean < lam - margin:
        return 1 - (1 - mask) * (1 - lam) / (1 - mean)
    return mask


def mask_loss(masks: Tensor, lam: list[float], margin: float, variance: float, over_batch: bool) -> Tensor:
    groups = [(masks, sum(lam) / len(lam))] if over_batch else list(zip(masks, lam, strict=True))
    total = 0.0
    for mask, share in groups:
        mean = mean_of(mask)
        total = total + max(abs(mean - share) - margin, 0 * mean)
        total = total - variance * sum((value - mean) ** 2 for value in mask.flatten()) / mask.numel()
    return total / len(groups)


def cluster_ce(logits: Tensor, labels: list[tuple[int, ...]], shares: list[tuple[float, ...]], w: list[float]):
    """Cross-entropy weighted by the classes: the sum of weighted terms by the sum of the weights."""
    total, weight = 0.0, 0.0
    for row, ids, parts in zip(logits, labels, shares, strict=True):
        for y, share in zip(ids, parts, strict=True):
            total = total - share * w[y] * torch.log(torch.exp(row[y]) / sum(torch.exp(value) for value in row))
            weight += share * w[y]
    return total / weight


def extended(key: Tensor, other: Tensor, generator: torch.Generator, beyond: bool) -> tuple[Tensor, Tensor]:
    """Points between the two keys of each image, or beyond them, and the mirrored points."""
    share = sample_lam(2.0, key.numel(), per_sample=True, generator=generator).view(key.shape)
    if beyond:
        share = share + (torch.rand((), generator=generator) < 0.5)
    rows = list(zip(share.double(), key, other, strict=True))
    own, mirrored = ([unit(w * k + (1 - w) * p) for w, k, p in rows], [unit(w * p + (1 - w) * k) for w, k, p in rows])
    return torch.stack(own), torch.stack(mirrored)


def cluster_terms(mixup, embedding, judged, labels, lam, index) -> tuple[Tensor, Tensor, Tensor]:
    """The Mixer's local and global term, and the loss of the head."""
    w, count = [float(value) for value in mixup.clusters.weights], len(labels)
    pairs = [(labels[i], labels[index[i]]) for i in range(count)]
    shares = [(value, 1 - value) for value in lam]
    logits = mixup.ema_head(judged)
    apart = [i for i in range(count) if pairs[i][0] != pairs[i][1]]
    local = sum(between(*(logits[i, y] for y in pairs[i]), lam[i]) for i in apart) / len(apart)
    clean = cluster_ce(mixup.head(embedding), [(y,) for y in labels], [(1.0,)] * count, w)
    mixed = cluster_ce(mixup.head(judged.detach()), pairs, shares, w)
    return local, cluster_ce(logits, pairs, shares, w), clean + mixed


def whole_step(method, batch, draws, replay, labels=None):
    """The loss of one step, and its parts by name.

    Args:
        method: a MoCo with SAMix-I or SAMix-C.
        batch: two views, and ids.
        draws: those of the encoder branch and of the Mixer branch, (lam, index) each.
        replay: a generator in the state of the method's, for what else is drawn.
        labels: cluster of each image, for SAMix-C that has clusters.
    """
    o, m, mixer, t = method.options, method.mixup.options, method.mixup.mixer, method.options.temperature
    view_q, view_k, *_ = batch
    count, size = len(view_q), tuple(view_q.shape[2:])
    queue = method.queue.snapshot()
    with torch.no_grad():
        embedding = method.ema_encoder(view_k)
        key = torch.stack([unit(v) for v in embedding])
        other_key = torch.stack([unit(v) for v in method.ema_encoder(view_q)])
        maps_q, maps_k = (method.ema_encoder.feature_map(view) for view in (view_q, view_k))
    cross = m.pair == "cross"
    partner_view, partner_maps = (view_k, maps_k) if cross else (view_q, maps_q)
    partner_key = other_key if cross else key

    def masks_of(lam, index):
        z, partner = mixer.project(maps_q), mixer.project(partner_maps)
        return mixer.predict_mask(z, partner[index], torch.tensor(lam, dtype=torch.float64), size)

    def mix(masks, index):
        return torch.stack([s * view_q[i] + (1 - s) * partner_view[index[i]] for i, s in enumerate(masks)])

    def contrast(embeddings, lam, index):
        total = 0.0
        for i, z in enumerate(unit(v) for v in embeddings):
            total = total + lam[i] * nce(z, key[i], queue, t) + (1 - lam[i]) * nce(z, partner_key[index[i]], queue, t)
        return total / count

    parts = {"nce": sum(nce(unit(z), key[i], queue, t) for i, z in enumerate(method.encoder(view_q))) / count}
    lam, index = draws[0]
    finished = []
    for i, mask in enumerate(masks_of(lam, index).detach()):
        mask = adjusted(mask, lam[i], m.adjust_margin)
        plain = min(lam[i], 1 - lam[i]) <= m.lam_margin or (
            labels is not None and m.auto_label and labels[i] == labels[index[i]]
        )
        finished.append(torch.full_like(mask, lam[i]) if plain else mask)
    parts["mixed"] = contrast(method.encoder(mix(finished, index)), lam, index)

    lam, index = draws[1]
    masks = masks_of(lam, index)
    judged = method.ema_encoder(mix(masks, index))
    local = None
    if labels is None or m.local == "keys":
        own, partner = key, partner_key
        if m.extended:
            own, partner = extended(key, partner_key, replay, beyond=labels is None)
        local = 0.0
        for i, z in enumerate(unit(v) for v in judged):
            local = local + between(dot(z, own[i]) / t, dot(z, partner[index[i]]) / t, lam[i]) / count
    if labels is None:
        final = contrast(judged, lam, index)
    else:
        by_clusters, final, parts["clusters"] = cluster_terms(method.mixup, embedding, judged, labels, lam, index)
        local = by_clusters if local is None else local
    local_weight = m.local_weight * factor(m.local_schedule, method.progress, method.step)
    parts["generation"] = local_weight * local + m.global_weight * final
    parts["mask"] = mask_loss(masks, lam, m.mask_margin, m.mask_variance, m.mask_over_batch)
    mask_weight = m.mask_weight * factor(m.mask_schedule, method.progress, method.step)
    loss = parts["nce"] + o.mixed_weight * parts["mixed"] + parts["generation"] + mask_weight * parts["mask"]
    return loss + parts.get("clusters", 0.0), parts
