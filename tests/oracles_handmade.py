"""The hand-made mixups' masks in plain loops, one sample at a time, given the draws; and the labels' arithmetic.

A mask is (H, W), 1 where the own pixel stays. Where a side is rounded down the product before it is float32, as a pixel
may hang on it.
"""

import cmath
import math

import numpy as np

F32 = np.float32


def mix(x, partner, mask):
    """mask * x + (1 - mask) * partner, pixel by pixel, of (C, H, W)."""
    mixed = np.empty_like(x)
    for c, h, w in np.ndindex(*x.shape):
        mixed[c, h, w] = mask[h, w] * x[c, h, w] + (1 - mask[h, w]) * partner[c, h, w]
    return mixed


def rectangle(size, top, bottom, left, right):
    mask = np.ones(size)
    for h in range(top, bottom):
        for w in range(left, right):
            mask[h, w] = 0
    return mask


def cutmix_mask(size, lam, centre, clip=True):
    if lam == 0:
        return np.zeros(size)
    ratio = np.sqrt(F32(1) - F32(lam))
    bounds = []
    for side, share in zip(size, centre, strict=True):
        cut = math.floor(F32(side) * ratio)
        if clip:
            middle = math.floor(F32(share) * F32(side))
            bounds += [max(middle - cut // 2, 0), min(middle + cut // 2, side)]
        else:
            start = math.floor(F32(share) * F32(side - cut + 1))
            bounds += [start, start + cut]
    return rectangle(size, *bounds)


def resizemix_patch(size, lam, centre):
    """(top, left, rows, columns) of the patch; None where there is none."""
    if lam == 1:
        return None
    scale = np.sqrt(F32(1) - F32(lam))
    starts, lengths = [], []
    for side, share in zip(size, centre, strict=True):
        length = max(math.floor(F32(side) * scale), 1)
        start = math.floor(F32(share) * F32(side)) - length // 2
        starts.append(min(max(start, 0), side - length))
        lengths.append(length)
    return (*starts, *lengths)


def smoothmix_mask(size, centre, sigma, isotropic=False):
    height, width = size
    cy, cx = math.floor(F32(centre[0]) * F32(height)), math.floor(F32(centre[1]) * F32(width))
    sigma_y, sigma_x = (sigma * min(size),) * 2 if isotropic else (sigma * height, sigma * width)
    mask = np.empty(size)
    for h, w in np.ndindex(*size):
        mask[h, w] = 1 - math.exp(-((h - cy) ** 2) / (2 * sigma_y**2) - (w - cx) ** 2 / (2 * sigma_x**2))
    return mask


def fourier_map(noise, size, decay_power):
    """The inverse discrete Fourier transform, term by term, of the weighed half spectrum (H, W // 2 + 1, 2)."""
    height, width = size
    grey = np.zeros(size)
    for u, v in np.ndindex(height, width // 2 + 1):
        fy, fx = (u if u <= (height - 1) // 2 else u - height) / height, v / width
        weight = 1 / max(math.hypot(fy, fx), 1 / max(size)) ** decay_power
        z = complex(*noise[u, v]) * weight
        alone = v == 0 or 2 * v == width  # columns without a mirror image in the other half: of each pair of waves
        # (u, v) and (-u, v) only the mean survives, with half the power
        for h, w in np.ndindex(*size):
            term = (z * cmath.exp(2j * math.pi * (u * h / height + v * w / width))).real
            grey[h, w] += math.sqrt(2) * term if alone else 2 * term
    return grey / (height * width)


def fmix_mask(noise, size, lam, coin, decay_power=3.0, max_soft=0.0):
    count = size[0] * size[1]
    wanted = F32(lam) * F32(count)
    kept = math.floor(wanted) if coin < 0.5 else math.ceil(wanted)
    soft = min(round(min(max_soft, lam, 1 - lam) * count), kept, count - kept)
    ranked = np.argsort(-fourier_map(noise, size, decay_power).ravel())
    mask = np.zeros(count)
    mask[ranked[: kept - soft]] = 1
    mask[ranked[kept - soft : kept + soft]] = np.linspace(1, 0, 2 * soft)
    return mask.reshape(size)


def gridmix_holes_mask(size, lam, cells, area, aspect, place):
    height, width = size
    if lam == 0:
        return np.zeros(size)
    crop_w = min(max(math.floor(np.sqrt(F32(area) * F32(height * width) / F32(aspect))), 1), width)
    crop_h = min(max(math.floor(F32(crop_w) * F32(aspect)), 1), height)
    across = max(min(int(cells), crop_w // 2), 1)
    cell = math.ceil(crop_w / across)
    hole = min(max(math.floor(F32(cell) * np.sqrt(F32(1) - F32(lam))), 1), cell - 1) if lam < 1 else 0
    top = math.floor(F32(place[0]) * F32(height - crop_h + 1))
    left = math.floor(F32(place[1]) * F32(width - crop_w + 1))
    mask = np.ones(size)
    for corner_y in range(0, crop_h, cell):
        for corner_x in range(0, crop_w, cell):
            for y in range(corner_y, min(corner_y + hole, crop_h)):
                for x in range(corner_x, min(corner_x + hole, crop_w)):
                    mask[top + y, left + x] = 0
    return mask


def gridmix_cells_mask(size, lam, scores):
    down, across = scores.shape
    own = set(np.argsort(scores.ravel())[: round(float(lam) * down * across)].tolist())
    mask = np.zeros(size)
    for h, w in np.ndindex(*size):
        cell = (h * down // size[0]) * across + w * across // size[1]
        mask[h, w] = cell in own
    return mask


def soft_targets(labels, weights, num_classes, smoothing=0.0):
    """Each source's smoothed one-hot label, weighed and added."""
    targets = np.zeros((len(labels), num_classes))
    for i, (row, shares) in enumerate(zip(labels, weights, strict=True)):
        for label, share in zip(row, shares, strict=True):
            for c in range(num_classes):
                targets[i, c] += share * ((1 - smoothing) * (c == label) + smoothing / num_classes)
    return targets


def cross_entropy(logits, targets):
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        log_sum = math.log(sum(math.exp(z) for z in row))
        total -= sum(t * (z - log_sum) for z, t in zip(row, target, strict=True))
    return total / len(logits)


def accuracy(logits, labels, weights):
    total = 0.0
    for row, names, shares in zip(logits, labels, weights, strict=True):
        total += sum(share for name, share in zip(names, shares, strict=True) if name == int(np.argmax(row)))
    return total / len(logits)
