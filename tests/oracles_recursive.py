"""RecursiveMix, AlignMix's transport, Adversarial AutoMix's masks and GridMix's cells in plain loops over NumPy."""

import math

import numpy as np

F32 = np.float32


# RecursiveMix --------------------------------------------------------------------------------------------------------


def recursive_box(size, lam, centre):
    """(top, bottom, left, right) of the box, cut by the border."""
    if lam == 0:
        return 0, size[0], 0, size[1]
    bounds = []
    for side, share in zip(size, centre, strict=True):
        half = math.floor(F32(side) * np.sqrt(F32(1) - F32(lam))) // 2
        middle = math.floor(F32(share) * F32(side))
        bounds += [max(middle - half, 0), min(middle + half, side)]
    return tuple(bounds)


def recursive_image(x, earlier, box):
    """(C, H, W) with the earlier image, nearest pixel by nearest pixel, inside the box; and the own mask."""
    top, bottom, left, right = box
    mixed, mask = x.copy(), np.ones(x.shape[1:])
    for h in range(top, bottom):
        for w in range(left, right):
            row = (h - top) * earlier.shape[1] // (bottom - top)
            column = (w - left) * earlier.shape[2] // (right - left)
            mixed[:, h, w] = earlier[:, row, column]
            mask[h, w] = 0
    return mixed, mask


def bilinear(plane, y, x):
    """(h, w) at a fractional place, clamped at the border; 0 more than one cell outside."""
    h, w = plane.shape
    if y < -1 or y > h or x < -1 or x > w:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), h - 1), min(int(x), w - 1)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    dy = 0.0 if top == h - 1 else y - top
    dx = 0.0 if left == w - 1 else x - left
    upper = plane[top, left] * (1 - dx) + plane[top, right] * dx
    lower = plane[bottom, left] * (1 - dx) + plane[bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def box_features(maps, box, size):
    """(D, h, w) -> (D,): RoIAlign of the whole box to one cell, with as many samples a side as it covers cells."""
    top, bottom, left, right = box
    down, across = maps.shape[1] / size[0], maps.shape[2] / size[1]
    y0, height = top * down - 0.5, (bottom - top) * down
    x0, width = left * across - 0.5, (right - left) * across
    rows, columns = math.ceil(height), math.ceil(width)
    out = np.zeros(len(maps))
    for d in range(len(maps)):
        total = 0.0
        for i in range(rows):
            for j in range(columns):
                total += bilinear(maps[d], y0 + (i + 0.5) * height / rows, x0 + (j + 0.5) * width / columns)
        out[d] = total / max(rows * columns, 1)
    return out


# AlignMix ------------------------------------------------------------------------------------------------------------


def transport(x, y, epsilon, iterations):
    """(C, r) and (C, r) -> r times the Sinkhorn plan (r, r), by scaling rows and columns in turn."""
    r = x.shape[1]
    cost = np.array([[((x[:, i] - y[:, j]) ** 2).sum() for j in range(r)] for i in range(r)])
    kernel = np.exp(-cost / epsilon)
    column = np.ones(r)
    for _ in range(iterations):
        row = (1 / r) / (kernel @ column)
        column = (1 / r) / (kernel.T @ row)
    return r * row[:, None] * kernel * column[None, :]


def aligned(x, y, lam, plan, keep_own):
    """(C, r): each cell with the partner's cells it was matched to."""
    out = np.zeros_like(x)
    r = x.shape[1]
    for i in range(r):
        if keep_own:
            out[:, i] = lam * x[:, i] + (1 - lam) * sum(plan[i, j] * y[:, j] for j in range(r))
        else:
            out[:, i] = lam * sum(plan[j, i] * x[:, j] for j in range(r)) + (1 - lam) * y[:, i]
    return out


# GridMix -------------------------------------------------------------------------------------------------------------


def cell_loss(logits, mask, labels):
    """Mean over samples and cells of -log p of the label of the image that the cell shows."""
    batch, _, down, across = logits.shape
    height, width = mask.shape[1:]
    total = 0.0
    for b in range(batch):
        for i in range(down):
            for j in range(across):
                pixel = next(
                    (h, w)
                    for h in range(height)
                    for w in range(width)
                    if h * down // height == i and w * across // width == j
                )
                z = logits[b, :, i, j]
                label = labels[b][0] if mask[b][pixel] == 1 else labels[b][1]
                total += math.log(np.exp(z - z.max()).sum()) + z.max() - z[label]
    return total / (batch * down * across)
