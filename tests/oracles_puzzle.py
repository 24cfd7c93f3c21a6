"""PuzzleMix's and Co-Mixup's energies in plain loops, one sample at a time, and their minima by trying everything."""

import itertools
import math

import numpy as np


def energy(unary, below, right, z):
    """Energy of one mask z (nh, nw); unary (L, nh, nw)."""
    top, (height, width) = len(unary) - 1, z.shape
    total = 0.0
    for r, c in np.ndindex(height, width):
        total += unary[round(z[r, c] * top), r, c]
        if r + 1 < height:
            total += below[r, c] * (z[r, c] - z[r + 1, c]) ** 2
        if c + 1 < width:
            total += right[r, c] * (z[r, c] - z[r, c + 1]) ** 2
    return total


def least_energy(unary, below, right):
    """The least energy of all masks, by trying each."""
    levels, height, width = unary.shape
    masks = itertools.product(range(levels), repeat=height * width)
    return min(energy(unary, below, right, np.array(mask).reshape(height, width) / (levels - 1)) for mask in masks)


def puzzle_energy(z, saliency, pixels, lam, beta, gamma, eta, num_labels, neigh):
    """PuzzleMix's E(z) for sides divisible by blocks and blocks by neigh; saliency and pixels are (own, partner)."""
    height, width = z.shape
    n, top = math.sqrt(height * width), num_labels - 1
    strength = beta / (16 * n)
    pooled = [mean_pool(image, neigh) for image in pixels]
    k = pooled[0].shape[1] // height
    total = 0.0
    for r, c in np.ndindex(height, width):
        total += z[r, c] * saliency[1][r, c] + (1 - z[r, c]) * saliency[0][r, c]
        count = round(z[r, c] * top)
        chance = math.comb(top, count) * lam**count * (1 - lam) ** (top - count)
        total -= eta / (height * width) * math.log(chance + 1e-8)
        for dr, dc in ((1, 0), (0, 1)):
            if r + dr >= height or c + dc >= width:
                continue
            step = {}
            for a, b in itertools.product((0, 1), repeat=2):  # 0: own, 1: partner
                differences = []
                for along in range(k):
                    if dr:
                        first = pooled[a][:, (r + 1) * k - 1, c * k + along]
                        second = pooled[b][:, (r + 1) * k, c * k + along]
                    else:
                        first = pooled[a][:, r * k + along, (c + 1) * k - 1]
                        second = pooled[b][:, r * k + along, (c + 1) * k]
                    differences.append(np.abs(first - second).mean())
                step[a, b] = strength * gamma * np.mean(differences)
            i, j = z[r, c], z[r + dr, c + dc]
            total += i * (step[0, 1] + step[0, 0]) / 2 + (1 - i) * (step[1, 0] + step[1, 1]) / 2
            total += j * (step[1, 0] + step[0, 0]) / 2 + (1 - j) * (step[0, 1] + step[1, 1]) / 2
            total += (strength + (step[0, 1] + step[1, 0] - step[0, 0] - step[1, 1]) / 2) * (i - j) ** 2
    return total


def mean_pool(image, size):
    channels, height, width = image.shape
    out = np.empty((channels, height // size, width // size))
    for c, r, q in np.ndindex(*out.shape):
        out[c, r, q] = image[c, r * size : (r + 1) * size, q * size : (q + 1) * size].mean()
    return out


def transport_cost(saliency, wanted, t_eps):
    """(N blocks, N places) of one image."""
    height, width = saliency.shape
    places = list(np.ndindex(height, width))
    cost = np.empty((len(places), len(places)))
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            far = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
            cost[i, j] = t_eps * far / max(height - 1, width - 1, 1) ** 2 - saliency[a] * wanted[b]
    return cost


def moved(image, plan, size):
    """Blocks of size x size pixels, moved: the block at each place is the one the plan says."""
    out = np.empty_like(image)
    width = image.shape[2] // size
    for place, block in enumerate(plan):
        (pr, pc), (br, bc) = divmod(place, width), divmod(int(block), width)
        out[:, pr * size : (pr + 1) * size, pc * size : (pc + 1) * size] = image[
            :, br * size : (br + 1) * size, bc * size : (bc + 1) * size
        ]
    return out


def co_objective(z, unary, likeness, grid, beta, gamma, threshold):
    """Co-Mixup's objective of one partition; z and unary are (m outputs, N, m inputs)."""
    outputs, nodes, inputs = z.shape
    width, total = grid[1], 0.0
    for j in range(outputs):
        for i in range(nodes):
            total += sum(unary[j, i, k] * z[j, i, k] for k in range(inputs))
            for other in ([i + 1] if (i + 1) % width else []) + ([i + width] if i + width < nodes else []):
                total += beta / 2 * ((z[j, i] - z[j, other]) ** 2).sum()
        for k in range(inputs):
            around = sum(
                likeness[k, q] * z[other, i, q]
                for other in range(outputs)
                if other != j
                for i in range(nodes)
                for q in range(inputs)
            )
            if around > threshold:
                total += gamma * z[j, :, k].sum() * around
    return total
