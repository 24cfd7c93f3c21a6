"""Saliency maps, and mixups that they guide, in plain loops, one sample at a time, given the draws; 1 keeps own."""

import math

import numpy as np
from oracles_handmade import F32, cutmix_mask


def resized(grid, size):
    """Bilinear, pixel centres at halves, the border repeated."""
    out = np.empty(size)
    for h, w in np.ndindex(*size):
        corners = []
        for at, old, new in ((h, grid.shape[0], size[0]), (w, grid.shape[1], size[1])):
            place = min(max((at + 0.5) * old / new - 0.5, 0), old - 1)
            low = math.floor(place)
            corners.append((low, min(low + 1, old - 1), place - low))
        (top, bottom, v), (left, right, u) = corners
        upper = grid[top, left] * (1 - u) + grid[top, right] * u
        lower = grid[bottom, left] * (1 - u) + grid[bottom, right] * u
        out[h, w] = upper * (1 - v) + lower * v
    return out


def mirrored(at, size):
    while not 0 <= at < size:
        at = -at if at < 0 else 2 * (size - 1) - at
        if size == 1:
            return 0
    return at


def blurred(grid, kernel):
    """The product kernel, mirrored at the border."""
    reach, out = len(kernel) // 2, np.zeros_like(grid)
    for h, w in np.ndindex(*grid.shape):
        for i, a in enumerate(kernel):
            for j, b in enumerate(kernel):
                y, x = mirrored(h + i - reach, grid.shape[0]), mirrored(w + j - reach, grid.shape[1])
                out[h, w] += a * b * grid[y, x]
    return out


def gaussian(width, sigma):
    values = np.array([math.exp(-((i - width // 2) ** 2) / (2 * sigma**2)) for i in range(width)])
    return values / values.sum()


def spectral_residual(grey, size, style):
    """Of whole grey levels (H, W); the transform is NumPy's."""
    shrink = min(1.0, size / max(grey.shape))
    inner = (size, size) if style == "opencv" else tuple(max(1, round(side * shrink)) for side in grey.shape)
    spectrum = np.fft.fft2(np.floor(resized(grey, inner) + 0.5))
    log = np.log1p(np.abs(spectrum))
    residual = np.exp(log - blurred(log, [1 / 3] * 3))
    found = np.abs(np.fft.ifft2(residual * np.exp(1j * np.angle(spectrum))))
    found = blurred(found, gaussian(5, 8)) ** 2 if style == "opencv" else blurred(found, gaussian(7, 3))
    found = resized(found / found.max(), grey.shape)
    return found / found.max()


def fine_grained(grey, radii=(12, 24, 48, 28, 56, 112)):
    """Of whole grey levels (H, W)."""
    for _ in range(2):
        grey = np.floor(blurred(grey, [0.25, 0.5, 0.25]) + 0.5)
    brighter, darker = np.zeros_like(grey), np.zeros_like(grey)
    for radius in radii:
        for h, w in np.ndindex(*grey.shape):
            top, left = max(h - radius + 1, 0), max(w - radius + 1, 0)
            window = grey[top : h + radius + 1, left : w + radius + 1]
            surround = (window.sum() - grey[h, w]) / max(window.size - 1, 1)
            brighter[h, w] += max(grey[h, w] - surround, 0)
            darker[h, w] += max(surround - grey[h, w], 0)
    both = sum(part / part.max() if part.max() > 0 else part for part in (brighter, darker))
    return both / both.max()


def saliencymix_mask(size, lam, saliency, centre):
    """The box of CutMix around the first largest pixel of the partner's map (h, w)."""
    best, at = -math.inf, None
    for h, w in np.ndindex(*saliency.shape):
        if saliency[h, w] > best:
            best, at = saliency[h, w], (h, w)
    if saliency.min() < saliency.max():
        centre = [(F32(i) + F32(0.5)) / F32(side) for i, side in zip(at, saliency.shape, strict=True)]
    return cutmix_mask(size, lam, centre)


def guidedmixup_mask(own, other, lam=0.5):
    """Of two maps at the size of the images."""
    maps = [m / m.sum() if m.sum() > 0 else np.full(m.shape, 1 / m.size) for m in (own, other)]
    mask = np.empty(own.shape)
    for h, w in np.ndindex(*own.shape):
        a, b = lam * maps[0][h, w], (1 - lam) * maps[1][h, w]
        mask[h, w] = a / (a + b) if a + b > 0 else lam
    return mask


def farthest_cycle(maps):
    maps = [m.ravel() / m.sum() for m in maps]
    size = len(maps)
    far = [[float(np.linalg.norm(a - b)) for b in maps] for a in maps]
    start = max(((i, j) for i in range(size) for j in range(size) if i != j), key=lambda p: far[p[0]][p[1]])
    order = list(start)
    while len(order) < size:
        order.append(max((j for j in range(size) if j not in order), key=lambda j: far[order[-1]][j]))
    index = [0] * size
    for position, row in enumerate(order):
        index[row] = order[(position + 1) % size]
    return index


def pixels_of(cells, size):
    """Every pixel of (H, W) gets the value of its cell of (gh, gw)."""
    out = np.empty(size)
    for h, w in np.ndindex(*size):
        out[h, w] = cells[h * cells.shape[0] // size[0], w * cells.shape[1] // size[1]]
    return out


def grafting(size, lam, own, other, chance, temperature=0.2, norm=2):
    """(mask, lam) of maps that have the shape of the grid."""
    exponents = np.exp(other / other.max() / temperature)
    weights = exponents / exponents.sum()
    mask = np.ones(size)
    for h, w in np.ndindex(*size):
        cell = (h * own.shape[0] // size[0], w * own.shape[1] // size[1])
        if weights[cell] >= weights.mean() - 1e-9 and chance[cell] >= lam:
            mask[h, w] = 0
    own, other = pixels_of(own, size), pixels_of(other, size)
    kept = np.linalg.norm((own * mask).ravel(), norm) / np.linalg.norm(own.ravel(), norm)
    taken = np.linalg.norm((other * (1 - mask)).ravel(), norm) / np.linalg.norm(other.ravel(), norm)
    return mask, kept / (kept + taken)


def attentivemix_mask(size, count, scores):
    ranked = np.argsort(-scores.ravel(), kind="stable")
    own = np.zeros(scores.size)
    own[ranked[:count]] = 1
    return pixels_of(own.reshape(scores.shape), size)


def snapmix_box(size, lam, centre):
    """(top, bottom, left, right)."""
    ratio, bounds = np.sqrt(F32(1) - F32(lam)), []
    for side, share in zip(size, centre, strict=True):
        cut, middle = math.floor(F32(side) * ratio), math.floor(F32(share) * F32(side))
        bounds += [max(middle - cut // 2, 0), min(middle + cut // 2, side)]
    return bounds


def percent_map(cam, size):
    wide = resized(cam, size)
    wide = wide - wide.min()
    return wide / wide.sum() if wide.sum() > 0 else np.full(size, 1 / wide.size)


def snapmix(x, partner, box, source, cam, partner_cam):
    """(images, own share, partner share) of (C, H, W)."""
    top, bottom, left, right = box
    first, last, west, east = source
    if top >= bottom or left >= right or first >= last or west >= east:
        return x, 1.0, 0.0
    mixed = x.copy()
    for c in range(len(x)):
        mixed[c, top:bottom, left:right] = resized(partner[c, first:last, west:east], (bottom - top, right - left))
    own, other = (percent_map(m, x.shape[1:]) for m in (cam, partner_cam))
    return mixed, 1 - own[top:bottom, left:right].sum(), other[first:last, west:east].sum()
