"""The methods that mix in contrastive learning, in plain loops over images, written from their papers' equations."""

import math

import torch
from oracles_contrastive import dot, info_nce, nt_xent
from torch import Tensor


def unit(v: Tensor) -> Tensor:
    return v / math.sqrt(dot(v, v))


def probabilities(query: Tensor, keys: list[Tensor], t: float) -> list[float]:
    powers = [math.exp(dot(query, key) / t) for key in keys]
    return [power / sum(powers) for power in powers]


def imix(z: Tensor, keys: Tensor, queue: Tensor, partner: list[int], lam: list[float], t: float) -> float:
    """Mean over b of lam CE(b) + (1 - lam) CE(b'), over the keys of the batch and then the queue's."""
    total = 0.0
    for b, mix in enumerate(z):
        p = probabilities(mix, [*keys, *queue], t)
        total += -lam[b] * math.log(p[b]) - (1.0 - lam[b]) * math.log(p[partner[b]])
    return total / len(z)


def unmix(clean: Tensor, z: Tensor, keys: Tensor, queue: Tensor, lam: float, t: float) -> float:
    """L_clean + lam nce(z, k) + (1 - lam) nce(z reversed, k)."""
    rows = len(z)
    backwards = torch.stack([z[rows - 1 - b] for b in range(rows)])
    first, second, own = (info_nce(q, keys, queue, t) for q in (clean, z, backwards))
    return sum(first) / rows + lam * sum(second) / rows + (1.0 - lam) * sum(own) / rows


def mixco(z: Tensor, keys: Tensor, queue: Tensor, lam: list[float], t: float) -> float:
    """Mean over the N / 2 mixes of the cross-entropy with a soft target at b and at b + N / 2."""
    half = len(keys) // 2
    assert len(z) == half
    total = 0.0
    for b in range(half):
        p = probabilities(z[b], [*keys, *queue], t)
        target = [0.0] * len(p)
        target[b], target[b + half] = lam[b], 1.0 - lam[b]
        total -= sum(share * math.log(q) for share, q in zip(target, p, strict=True))
    return total / half


def mixed_negatives(
    query: Tensor, queue: Tensor, hardest: int, pairs: Tensor, shares: Tensor, single: Tensor, query_shares: Tensor
) -> list[list[Tensor]]:
    found = []
    for b, q in enumerate(query):
        hard = sorted(queue, key=lambda n, q=q: -dot(q, n))[:hardest]
        own = []
        for (i, j), a in zip(pairs[b].tolist(), shares[b].tolist(), strict=True):
            own.append(unit(a * hard[i] + (1.0 - a) * hard[j]))
        for j, share in zip(single[b].tolist(), query_shares[b].tolist(), strict=True):
            own.append(unit(share * q + (1.0 - share) * hard[j]))
        found.append(own)
    return found


def mochi(query: Tensor, keys: Tensor, queue: Tensor, own: list[list[Tensor]], t: float) -> float:
    losses = [
        info_nce(query[b : b + 1], keys[b : b + 1], torch.stack([*queue, *own[b]]), t)[0] for b in range(len(query))
    ]
    return sum(losses) / len(losses)


def noisy(images: Tensor, partner: list[int], lam: list[float]) -> Tensor:
    return torch.stack([lam[i] * images[i] + (1.0 - lam[i]) * images[partner[i]] for i in range(len(images))])


def dacl(z1: Tensor, z2: Tensor, t: float) -> float:
    losses = nt_xent(z1, z2, t)
    return sum(losses) / len(losses)


def sdmp(
    query: Tensor, mixed_query: Tensor, key_a: Tensor, key_b: Tensor, key_mixed: Tensor, lam: list[float], t: float
) -> tuple[float, float, float]:
    """Source, mix-source and mix-mix, each times 2 t."""
    rows = len(query)
    source = mix_source = mix_mix = 0.0
    for i in range(rows):
        j = rows - 1 - i
        source -= math.log(probabilities(query[i], [*key_b], t)[i])
        p = probabilities(mixed_query[i], [*key_a], t)
        mix_source -= 0.5 * math.log(lam[i] * p[i] + (1.0 - lam[i]) * p[j])
        p = probabilities(mixed_query[i], [*key_mixed], t)
        c = min(lam[i], 1.0 - lam[j]) + min(1.0 - lam[i], lam[j])
        mix_mix -= 0.5 * math.log((p[i] + c * p[j]) / (1.0 + c))
    return tuple(2.0 * t * term / rows for term in (source, mix_source, mix_mix))
