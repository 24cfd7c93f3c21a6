"""Fog, frost, snow and spatter, by the definitions of CIFAR-10-C's published code (arXiv:1903.12261).

Each takes pixels (N, 3, H, W) in [0, 1], the constants of a severity, and a generator of its draws.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor

from samix.analysis.filters import blurred, canny, equalised, motion, plasmas, zoomed

GREY = (0.299, 0.587, 0.114)  # of red, green and blue, as OpenCV weighs them
WATER, MUD = (175, 238, 238), (63, 42, 20)  # of 255
ICE = (0.86, 0.95, 1.0)  # of frost's brightness, by channel
ICE_MEAN = 0.45  # brightness of frost


def fog(x: Tensor, c: tuple[float, float], g: Generator) -> Tensor:
    """Adds a plasma fractal, one for each image."""
    strength, decay = c
    top = x.amax((1, 2, 3), keepdim=True)
    return (x + strength * plasmas(x, decay, g)) * top / (top + strength)


# Frost ----------------------------------------------------------------------------------------------------------------


def frost(x: Tensor, c: tuple[float, float], g: Generator) -> Tensor:
    """Adds a picture of frost by the published weights.

    The picture is drawn, see :func:`crystals`, where the published code has photographs.
    """
    return c[0] * x + c[1] * crystals(x, g)


def crystals(x: Tensor, g: Generator) -> Tensor:
    """Draws frost for each image of a batch: needles in some directions over the ridges of a fractal, bluish white."""
    ridges = 1.0 - (2.0 * plasmas(x, 1.7, g) - 1.0).abs()
    needles = torch.zeros_like(ridges)
    for _ in range(6):
        seeds = (torch.rand(ridges.shape, generator=g) < 0.04).float()
        angle = torch.rand(len(x), generator=g) * 2.0 * math.pi
        needles = torch.maximum(needles, motion(seeds, max(min(x.shape[2:]) // 4, 1), min(x.shape[2:]) / 6.0, angle))
    needles = needles / needles.amax((2, 3), keepdim=True).clamp(min=1e-6)
    ice = 0.55 * ridges**3 + needles
    ice = ice * (ICE_MEAN / ice.mean((2, 3), keepdim=True).clamp(min=1e-6))
    return (ice * torch.tensor(ICE).view(1, 3, 1, 1)).clamp(0.0, 1.0)


# Snow -----------------------------------------------------------------------------------------------------------------


def snow(x: Tensor, c: tuple[float, float, float, float, int, float, float], g: Generator) -> Tensor:
    """Draws flakes that fall in two opposite directions over a paler image.

    The constants: mean and deviation of the flakes' noise, its zoom, the level that is cut off, radius and sigma of the
    fall, and the weight of the image beside its paler self.
    """
    level, spread, zoom, floor, radius, sigma, weight = c
    noise = level + spread * torch.randn(len(x), 1, *x.shape[2:], generator=g)
    flakes = zoomed(noise, zoom)
    flakes = torch.where(flakes < floor, 0.0, flakes.clamp(0.0, 1.0))
    angle = -math.pi * (0.25 + 0.5 * torch.rand(len(x), generator=g))
    falling = (motion((flakes * 255.0).floor() / 255.0, radius, sigma, angle) * 255.0).round() / 255.0
    grey = (x * torch.tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    pale = weight * x + (1.0 - weight) * torch.maximum(x, 1.5 * grey + 0.5)
    return pale + falling + falling.rot90(2, (2, 3))


# Spatter --------------------------------------------------------------------------------------------------------------


def spatter(x: Tensor, c: tuple[float, float, float, float, float, str], g: Generator) -> Tensor:
    """Draws drops of water on the lens, which shine at their rims, or spots of mud, which cover.

    The constants: mean and deviation of the liquid's noise, sigma of its blur, the level that is cut off, the water's
    strength or the sigma of the mud's edge, and ``water`` or ``mud``.
    """
    level, spread, sigma, floor, strength, substance = c
    noise = level + spread * torch.randn(len(x), 1, *x.shape[2:], generator=g)
    liquid = blurred(noise, sigma)
    liquid = torch.where(liquid < floor, 0.0, liquid)
    if substance == "mud":
        cover = blurred((liquid > floor).float(), strength)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return x * (1.0 - cover) + cover * colour(MUD)
    shine = torch.stack([torch.from_numpy(water(one[0].numpy())) for one in liquid])[:, None]
    return x + strength * shine * colour(WATER)


def colour(levels: tuple[int, int, int]) -> Tensor:
    """Returns a colour of 0..255 as (1, 3, 1, 1) in [0, 1]."""
    return torch.tensor(levels).view(1, 3, 1, 1) / 255.0


def water(liquid: np.ndarray) -> np.ndarray:
    """Computes the shine (H, W) of drops by OpenCV's filters: by distance from their edges, levelled and embossed."""
    from scipy import ndimage  # type: ignore[import-untyped, unused-ignore]

    levels = (liquid * 255.0).astype(np.int64).astype(np.uint8)  # whole levels; above 255 they wrap, as there
    edges = canny(levels, 50, 150)
    away = ndimage.distance_transform_edt(~edges) if edges.any() else np.full(liquid.shape, 20.0)
    smooth = ndimage.uniform_filter(np.minimum(away, 20.0).astype(np.float32), 3, mode="mirror").astype(np.uint8)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    raised = np.clip(ndimage.correlate(equalised(smooth).astype(np.int32), emboss, mode="mirror"), 0, 255)
    rims = np.rint(ndimage.uniform_filter(raised.astype(np.float64), 3, mode="mirror"))
    shine = (levels * rims).astype(np.float32)
    return np.asarray(shine / max(float(shine.max()), 1e-12))
