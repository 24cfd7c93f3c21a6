"""Mixups on the patch grid and label-side methods in plain loops, one sample at a time, given the draws."""

import math

import numpy as np


def softmax(values):
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def unit(values):
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def patch_box(grid, lam, centre, clip):
    """(gh, gw), 1 where the own patch stays."""
    cells = np.ones(grid)
    bounds = []
    for side, share in zip(grid, centre, strict=True):
        cut = math.floor(side * math.sqrt(1 - lam) + 0.5)
        if lam == 0:
            start = 0
        elif clip:
            start = math.floor(share * side) - cut // 2
        else:
            start = math.floor(share * (side - cut + 1))
        bounds.append(range(max(start, 0), min(start + cut, side)))
    for r in bounds[0]:
        for c in bounds[1]:
            cells[r, c] = 0
    return cells


def maskmix_mask(size, lam, scores, cell):
    columns = math.ceil(size[1] / cell)
    count = math.ceil(np.float32(lam) * np.float32(len(scores)))
    own = sorted(range(len(scores)), key=lambda i: scores[i])[:count]
    mask = np.zeros(size)
    for h, w in np.ndindex(*size):
        mask[h, w] = (h // cell) * columns + w // cell in own
    return mask


def tokenmix_pair(own_map, partner_map, cells):
    """The two weights, for maps on the grid; cells are 1 where the partner shows."""
    kept = pasted = 0.0
    for r, c in np.ndindex(*cells.shape):
        if cells[r, c]:
            pasted += partner_map[r, c] / partner_map.sum()
        else:
            kept += own_map[r, c] / own_map.sum()
    return kept, pasted


def window_side(side, lam, low=0.25, high=0.75):
    ratio = math.sqrt(1 - lam)
    if not low - 1e-6 <= ratio <= high + 1e-6:
        return math.floor(ratio * side)
    first, last = math.floor(low * side), math.floor(high * side)
    place = math.floor((ratio - low) / (high - low) * (last - first + 1))
    return min(max(first + place, first), last)


def best_window(guide, tall, wide, least):
    best, at = None, None
    for top in range(guide.shape[0] - tall + 1):
        for left in range(guide.shape[1] - wide + 1):
            total = guide[top : top + tall, left : left + wide].sum()
            if best is None or (total < best if least else total > best):
                best, at = total, (top, left)
    return at


def smmix_image(x, partner, lam, own_map, partner_map):
    """(C, H, W) mixed, and its mask (H, W); for sides that the grid divides."""
    height, width = x.shape[1] // own_map.shape[0], x.shape[2] // own_map.shape[1]  # of a patch
    tall, wide = window_side(own_map.shape[0], lam), window_side(own_map.shape[1], lam)
    top, left = best_window(own_map, tall, wide, least=True)
    from_top, from_left = best_window(partner_map, tall, wide, least=False)
    mixed, mask = x.copy(), np.ones(x.shape[1:])
    for h in range(tall * height):
        for w in range(wide * width):
            mixed[:, top * height + h, left * width + w] = partner[:, from_top * height + h, from_left * width + w]
            mask[top * height + h, left * width + w] = 0
    return mixed, mask


def attention_share(attention, mask):
    """Of (gh, gw) attention, what falls on own pixels of (H, W), looked at in each patch's first pixel."""
    kept = 0.0
    for r, c in np.ndindex(*attention.shape):
        h, w = r * mask.shape[0] // attention.shape[0], c * mask.shape[1] // attention.shape[1]
        kept += attention[r, c] * mask[h, w]
    return kept / attention.sum()


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def aligned(attentions, labels):
    """Y <- (Y + A Y) / 2 for one sample: lists of (T, T), and (T, k)."""
    tokens, columns = labels.shape
    for attention in attentions:
        step = np.zeros_like(labels)
        for t in range(tokens):
            for k in range(columns):
                step[t, k] = (labels[t, k] + sum(attention[t, s] * labels[s, k] for s in range(tokens))) / 2
        labels = step
    return labels


def sumix_distance(clean, mixed, own, other):
    p, q = softmax(clean), softmax(mixed)
    if own != other:
        p[other] = 0.0
    return unit(softmax([b - a for a, b in zip(p, q, strict=True)]))


def sumix_lam(lam, own_distance, partner_distance, own, other, kappa):
    if own == other:
        return lam
    a, b = math.exp(-kappa * own_distance[own]), math.exp(-kappa * partner_distance[other])
    return lam * a / (lam * a + (1 - lam) * b)


def uncertainty_term(distance, u, u_mixed, label, kappa):
    """Cross-entropy of exp(-(u + u_mixed + kappa d)), taken as logits."""
    values = [math.exp(-(a + b + kappa * d)) for a, b, d in zip(u, u_mixed, distance, strict=True)]
    return -math.log(softmax(values)[label])
