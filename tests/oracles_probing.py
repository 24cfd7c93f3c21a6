"""Evaluation in plain Python loops, one image after the other, written from the definitions."""

import math


def knn(bank, bank_labels, queries, k, temperature, num_classes):
    """Class of each query by a loop over all pairs."""

    def unit(row):
        norm = math.sqrt(sum(v * v for v in row))
        return [v / norm for v in row]

    bank = [unit(row) for row in bank.tolist()]
    found = []
    for query in map(unit, queries.tolist()):
        similarity = [sum(a * b for a, b in zip(query, row, strict=True)) for row in bank]
        nearest = sorted(range(len(bank)), key=lambda i: -similarity[i])[:k]
        votes = [0.0] * num_classes
        for i in nearest:
            votes[int(bank_labels[i])] += math.exp(similarity[i] / temperature)
        found.append(votes.index(max(votes)))
    return found


def envelope_area(targets, scores):
    """Average precision: at each positive, the best precision at its rank or later; scores without ties."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    precision, hits = [], 0
    for rank, i in enumerate(order, start=1):
        hits += bool(targets[i])
        precision.append(hits / rank)
    total = sum(max(precision[rank:]) for rank, i in enumerate(order) if targets[i])
    return total / hits


def overlap(a, b):
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def voc_ap(found, truth, label, threshold):
    """VOC07's 11-point average precision of one class, by its rule, or None without an object that counts.

    found: by image, lists of (box, label, score). truth: by image, lists of (box, label, difficult).
    """
    detections = sorted(
        ((score, image, box) for image, rows in enumerate(found) for box, own, score in rows if own == label),
        key=lambda d: -d[0],
    )
    wanted = sum(own == label and not difficult for rows in truth for _, own, difficult in rows)
    if not wanted:
        return None
    taken, curve, right, wrong = set(), [], 0, 0
    for _, image, box in detections:
        mine = [(n, other, difficult) for n, (other, own, difficult) in enumerate(truth[image]) if own == label]
        best = max(mine, key=lambda m: overlap(box, m[1]), default=None)
        if best is None or overlap(box, best[1]) <= threshold:
            wrong += 1
        elif best[2]:
            continue
        elif (image, best[0]) in taken:
            wrong += 1
        else:
            taken.add((image, best[0]))
            right += 1
        curve.append((right / wanted, right / (right + wrong)))
    points = [max((p for r, p in curve if r >= i / 10 - 1e-12), default=0.0) for i in range(11)]
    return sum(points) / 11
