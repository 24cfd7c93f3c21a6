"""Filters and patterns of which corruptions are made; all of images (N, C, H, W)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Blurs by a Gaussian cut off at four sigmas; the border's pixels are repeated."""
    from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped, unused-ignore]

    return torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4.0))


def motion(x: Tensor, radius: int, sigma: float, angle: Tensor) -> Tensor:
    """Averages by half a Gaussian along lines of (N,) angles, 2 radius + 1 pixels long, as ImageMagick does."""
    (height, width), steps = x.shape[2:], torch.arange(2 * radius + 1).float()
    weights = torch.exp(-(steps**2) / (2.0 * sigma**2))
    right, down = ((f(angle)[:, None] * steps - 0.5).ceil().long() for f in (torch.cos, torch.sin))
    moved, n = torch.zeros_like(x), torch.arange(len(x))[:, None, None]
    for step, weight in enumerate((weights / weights.sum()).tolist()):
        row = (torch.arange(height)[None] + down[:, step, None]).clamp(0, height - 1)
        column = (torch.arange(width)[None] + right[:, step, None]).clamp(0, width - 1)
        moved += weight * x.permute(0, 2, 3, 1)[n, row[:, :, None], column[:, None]].permute(0, 3, 1, 2)
    return moved


def zoomed(x: Tensor, factor: float) -> Tensor:
    """Enlarges the middle of (N, C, H, W) linearly, corners stay corners, and cuts it to H x W."""
    height, width = x.shape[2:]
    high, wide = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - high) // 2, (width - wide) // 2
    part = x[:, :, top : top + high, left : left + wide]
    size = (max(round(high * factor), height), max(round(wide * factor), width))
    large = F.interpolate(part, size, mode="bilinear", align_corners=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[:, :, top : top + height, left : left + width]


def plasma(side: int, decay: float, generator: Generator) -> Tensor:
    """Draws a height map (side, side) in [0, 1] by the diamond-square algorithm that wraps around; side is 2^n."""
    heights = torch.zeros(side, side, dtype=torch.float64)
    step, wobble = side, 100.0

    def mean(total: Tensor) -> Tensor:
        draw = torch.rand(total.shape, generator=generator, dtype=torch.float64) * 2.0 - 1.0
        return total / 4.0 + wobble * wobble * draw

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        total = corners + corners.roll(-1, 0)
        heights[half::step, half::step] = mean(total + total.roll(-1, 1))
        middles, corners = heights[half::step, half::step], heights[::step, ::step]
        heights[::step, half::step] = mean(middles + middles.roll(1, 0) + corners + corners.roll(-1, 1))
        heights[half::step, ::step] = mean(middles + middles.roll(1, 1) + corners + corners.roll(-1, 0))
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return (heights / heights.max().clamp(min=1e-12)).float()


def plasmas(x: Tensor, decay: float, generator: Generator) -> Tensor:
    """Draws a height map (N, 1, H, W) for each image of a batch."""
    side = 1 << (max(x.shape[2:]) - 1).bit_length()
    return torch.stack([plasma(side, decay, generator) for _ in range(len(x))])[:, None, : x.shape[2], : x.shape[3]]


# Of single 8-bit images, by OpenCV's definitions ----------------------------------------------------------------------


def canny(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Finds edges (H, W) bool of (H, W) uint8 by Canny (1986) as OpenCV does: Sobel gradients, |dx| + |dy|, thinned.

    Edges are followed above the strength ``low``, from where they exceed ``high``.
    """
    from scipy.ndimage import label, sobel

    grey = image.astype(np.int32)
    dx, dy = (sobel(grey, axis=axis, mode="nearest") for axis in (1, 0))
    strength = np.pad(np.abs(dx) + np.abs(dy), 1)
    height, width = grey.shape

    def near(down: int, right: int) -> np.ndarray:
        return strength[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    own, flat = near(0, 0), np.abs(dy) < np.abs(dx) * math.tan(math.pi / 8)
    steep = np.abs(dy) > np.abs(dx) * math.tan(3 * math.pi / 8)
    along = (own > near(0, -1)) & (own >= near(0, 1))
    across = (own > near(-1, 0)) & (own >= near(1, 0))
    falling = (own > near(-1, -1)) & (own > near(1, 1))
    rising = (own > near(-1, 1)) & (own > near(1, -1))
    slanted = np.where((dx < 0) != (dy < 0), rising, falling)
    thin = (own > low) & np.where(flat, along, np.where(steep, across, slanted))
    parts, count = label(thin, np.ones((3, 3)))
    strong = np.zeros(count + 1, dtype=bool)
    strong[parts[thin & (own > high)]] = True
    return np.asarray(strong[parts])


def equalised(image: np.ndarray) -> np.ndarray:
    """Equalises the histogram of (H, W) uint8, as OpenCV does: the lowest level becomes 0."""
    counts = np.bincount(image.ravel(), minlength=256)
    first = int(counts.nonzero()[0][0])
    others = image.size - counts[first]
    if others == 0:
        return image.copy()
    counts[first] = 0
    levels = np.clip(np.rint(np.cumsum(counts) * np.float32(255.0 / others)), 0, 255).astype(np.uint8)
    return np.asarray(levels[image])
