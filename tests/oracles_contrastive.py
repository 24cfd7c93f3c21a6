"""The losses of learning without labels in plain loops over numbers, written from the papers' equations."""

import math

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def info_nce(query: Tensor, key: Tensor, negatives: Tensor, t: float) -> list[float]:
    losses = []
    for q, k in zip(query, key, strict=True):
        positive = math.exp(dot(q, k) / t)
        losses.append(-math.log(positive / (positive + sum(math.exp(dot(q, n) / t) for n in negatives))))
    return losses


def mixed_info_nce(z: Tensor, keys: Tensor, weights: Tensor, negatives: Tensor, t: float) -> list[float]:
    losses = [0.0] * len(z)
    for s in range(keys.shape[1]):
        for i, value in enumerate(info_nce(z, keys[:, s], negatives, t)):
            losses[i] += float(weights[i, s]) * value
    return losses


def in_batch(
    query: Tensor, keys: Tensor, targets: list[list[int]], weights: list[list[float]], t: float
) -> list[float]:
    """Each query among all keys, with a soft target: rows ``targets`` with ``weights``."""
    losses = []
    for i, q in enumerate(query):
        total = sum(math.exp(dot(q, k) / t) for k in keys)
        losses.append(
            -sum(
                w * math.log(math.exp(dot(q, keys[r]) / t) / total) for r, w in zip(targets[i], weights[i], strict=True)
            )
        )
    return losses


def local_bce(z: Tensor, key: Tensor, partner: Tensor, lam: Tensor, t: float) -> list[float]:
    losses = []
    for a, k, p, share in zip(z, key, partner, lam, strict=True):
        own, other = math.exp(dot(a, k) / t), math.exp(dot(a, p) / t)
        p_own = own / (own + other)
        losses.append(-float(share) * math.log(p_own) - (1.0 - float(share)) * math.log(1.0 - p_own))
    return losses


def nt_xent(z1: Tensor, z2: Tensor, t: float) -> list[float]:
    z, count = [*z1, *z2], len(z1)
    losses = []
    for i in range(2 * count):
        positive = (i + count) % (2 * count)
        total = sum(math.exp(dot(z[i], z[j]) / t) for j in range(2 * count) if j != i)
        losses.append(-math.log(math.exp(dot(z[i], z[positive]) / t) / total))
    return losses


def squared_distance(a: Tensor, b: Tensor) -> float:
    return sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True))


def mixed_regression(prediction: Tensor, targets: Tensor, weights: Tensor) -> list[float]:
    return [
        sum(float(w) * squared_distance(p, t) for w, t in zip(ws, ts, strict=True))
        for p, ts, ws in zip(prediction, targets, weights, strict=True)
    ]


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """SwAV's pseudo-code (arXiv:2006.09882, Algorithm 1), on lists; Q[p][b]."""
    batch, prototypes = scores.shape
    highest = float(scores.max())
    q = [[math.exp((float(scores[b, p]) - highest) / epsilon) for b in range(batch)] for p in range(prototypes)]
    total = sum(map(sum, q))
    q = [[value / total for value in row] for row in q]
    for _ in range(iterations):
        for p in range(prototypes):
            size = sum(q[p])
            q[p] = [value / (size * prototypes) for value in q[p]]
        for b in range(batch):
            size = sum(q[p][b] for p in range(prototypes))
            for p in range(prototypes):
                q[p][b] /= size * batch
    return [[q[p][b] * batch for p in range(prototypes)] for b in range(batch)]


def swapped(scores: Tensor, codes: Tensor, t: float) -> list[float]:
    losses = []
    for row, code in zip(scores, codes, strict=True):
        total = sum(math.exp(float(s) / t) for s in row)
        losses.append(-sum(float(c) * math.log(math.exp(float(s) / t) / total) for s, c in zip(row, code, strict=True)))
    return losses


def barlow_twins(z1: Tensor, z2: Tensor, redundancy: float, eps: float) -> float:
    batch, dim = z1.shape

    def standard(z: Tensor) -> list[list[float]]:
        columns = []
        for i in range(dim):
            column = [float(z[b, i]) for b in range(batch)]
            mean = sum(column) / batch
            var = sum((value - mean) ** 2 for value in column) / batch
            columns.append([(value - mean) / math.sqrt(var + eps) for value in column])
        return columns

    a, b = standard(z1), standard(z2)
    loss = 0.0
    for i in range(dim):
        for j in range(dim):
            c = sum(x * y for x, y in zip(a[i], b[j], strict=True)) / batch
            loss += (1.0 - c) ** 2 if i == j else redundancy * c**2
    return loss


def entropy(lam: Tensor) -> Tensor:
    """H(lam) in nats; 0 at 0 and 1."""
    return -(torch.xlogy(lam, lam) + torch.xlogy(1.0 - lam, 1.0 - lam))
