"""Online deep clustering in plain loops over images and clusters, on lists of NumPy rows."""

import math

import numpy as np


def unit(row):
    return row / max(math.sqrt(sum(float(v) ** 2 for v in row)), 1e-12)


def best(row, centroids):
    """The number of the centroid of the largest dot product; the first of equals."""
    scores = [sum(float(a) * float(b) for a, b in zip(row, c, strict=True)) for c in centroids]
    return scores.index(max(scores))


def update_samples(bank, labels, centroids, ids, features, momentum):
    """One image after the other, as they come: of an image that comes twice the last row counts."""
    old, bank, labels = bank.copy(), bank.copy(), labels.copy()
    for i, feature in zip(ids, features, strict=True):
        bank[i] = unit((1.0 - momentum) * old[i] + momentum * unit(feature))
        labels[i] = best(bank[i], centroids)
    return bank, labels


def centroids_of(bank, labels, centroids):
    result = centroids.copy()
    for c in range(len(centroids)):
        members = [bank[i] for i in range(len(bank)) if labels[i] == c]
        if members:
            result[c] = sum(members) / len(members)
    return result


def emptied(bank, labels, centroids, min_cluster):
    """Labels once the small clusters are given up, and the numbers of those."""
    counts = [sum(1 for label in labels if label == c) for c in range(len(centroids))]
    normal = [c for c, count in enumerate(counts) if count >= min_cluster]
    small = [c for c, count in enumerate(counts) if count < min_cluster]
    result = labels.copy()
    for i, label in enumerate(labels):
        if label in small:
            result[i] = normal[best(bank[i], [centroids[c] for c in normal])]
    return result, small


def class_weights(labels, clusters, power):
    raw = [(sum(1 for label in labels if label == c) + 1e-5) ** -power for c in range(clusters)]
    return [value / sum(raw) for value in raw]


def weighted_mixed_ce(logits, labels, shares, weights):
    """logits (B, C), labels and shares (B, k), all lists."""
    top, bottom = 0.0, 0.0
    for row, ys, lams in zip(logits, labels, shares, strict=True):
        log_sum = math.log(sum(math.exp(v) for v in row))
        for y, lam in zip(ys, lams, strict=True):
            top += lam * weights[y] * (log_sum - row[y])
            bottom += lam * weights[y]
    return top / bottom


def pair_bce(logits, labels, partners, lams):
    """Mean over the pairs of different clusters."""
    found = []
    for row, a, b, lam in zip(logits, labels, partners, lams, strict=True):
        if a != b:
            p = math.exp(row[a]) / (math.exp(row[a]) + math.exp(row[b]))
            found.append(-lam * math.log(p) - (1 - lam) * math.log(1 - p))
    return sum(found) / len(found) if found else 0.0


def check(clusters):
    """What holds before and after every operation: counts, range of labels, length of rows."""
    counts = np.bincount(clusters.labels.numpy(), minlength=clusters.options.clusters)
    assert counts.sum() == clusters.images
    assert len(counts) == clusters.options.clusters
    assert (counts == clusters.counts().numpy()).all()
    lengths = np.linalg.norm(clusters.bank.numpy(), axis=1)
    assert np.allclose(lengths, 1.0, atol=1e-5)
