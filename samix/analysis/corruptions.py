"""Common corruptions by the definitions of CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv:1903.12261).

The constants are those of the authors' published code for 32 x 32 images, at severities 1 to 5; lengths are in pixels,
so on larger images blurs are weaker than ImageNet-C's. Results are rounded down to whole grey levels, as in the files.

All 19 are here. Ours differ from the files in the draws; in JPEG, by today's PIL; in motion blur and snow, which have
ImageMagick's formula in floating point; in spatter, whose distances are exact; and **in frost, whose six photographs
are replaced by drawn crystals**. Glass blur copies a near pixel, as the files have it: the published code means to swap
the two, but swaps views of one array.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from samix.analysis.filters import blurred, motion, zoomed
from samix.analysis.weather import fog, frost, snow, spatter

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[Tensor, Any, Generator], Tensor]  # pixels (N, 3, H, W) in [0, 1], constants, draws


def corrupt(pixels: Tensor, name: str, severity: int, *, seed: int = 0) -> Tensor:
    """Corrupts images: (N, 3, H, W) float32 on the CPU, whole grey levels in [0, 1].

    Args:
        pixels: (N, 3, H, W) in [0, 1]. Not modified.
        name: one of CORRUPTIONS.
        severity: 1 to 5.
        seed: of the draws; each corruption and severity has draws of its own.

    Raises:
        ValueError: unknown corruption or severity, or other shapes.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; choose one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1 to 5, got {severity}")
    if pixels.dim() != 4 or pixels.shape[1] != 3:
        raise ValueError(f"pixels must be (N, 3, H, W) in [0, 1], got {tuple(pixels.shape)}")
    change, constants = CORRUPTIONS[name]
    generator = torch.Generator().manual_seed(seed * 1000 + 10 * list(CORRUPTIONS).index(name) + severity)
    exact = (pixels.detach().cpu().float() * 255.0).round() / 255.0  # what a file of these images holds
    changed = change(exact.clone(), constants[severity - 1], generator).clamp(0.0, 1.0)
    return (changed * 255.0 + 1e-4).floor() / 255.0


# Noise ----------------------------------------------------------------------------------------------------------------


def _gaussian_noise(x: Tensor, c: float, g: Generator) -> Tensor:
    return x + c * torch.randn(x.shape, generator=g)


def _shot_noise(x: Tensor, c: float, g: Generator) -> Tensor:
    return torch.poisson(x * c, generator=g) / c


def _impulse_noise(x: Tensor, c: float, g: Generator) -> Tensor:
    hit, salt = (torch.rand(x.shape, generator=g) for _ in range(2))
    return torch.where(hit < c, (salt < 0.5).float(), x)


def _speckle_noise(x: Tensor, c: float, g: Generator) -> Tensor:
    return x + x * c * torch.randn(x.shape, generator=g)


# Blur -----------------------------------------------------------------------------------------------------------------


def _gaussian_blur(x: Tensor, c: float, g: Generator) -> Tensor:
    return blurred(x, c)


def _defocus_blur(x: Tensor, c: tuple[float, float], g: Generator) -> Tensor:
    """Averages over a disk of this radius, its edge blurred by three taps."""
    radius, alias = c
    at = torch.arange(-8, 9).float()
    disk = (at[:, None] ** 2 + at[None] ** 2 <= radius**2).float()
    tap = math.exp(-1.0 / (2.0 * alias**2))
    line = torch.tensor([tap, 1.0, tap]) / (1.0 + 2.0 * tap)
    kernel = F.conv2d((disk / disk.sum())[None, None], (line[:, None] * line)[None, None], padding=1)
    kernel = kernel[:, :, 5:12, 5:12]  # the rest is 0
    padded = F.pad(x, (3, 3, 3, 3), mode="reflect")
    return F.conv2d(padded.flatten(0, 1)[:, None], kernel).view_as(x)


def _glass_blur(x: Tensor, c: tuple[float, int, int], g: Generator) -> Tensor:
    """Blurs, puts a near pixel in the place of each, from the lower right to the upper left, and blurs again."""
    sigma, reach, rounds = c
    x = (blurred(x, sigma) * 255.0).floor() / 255.0
    rows, (height, width) = torch.arange(len(x)), x.shape[2:]
    for _ in range(rounds):
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                dx, dy = torch.randint(-reach, reach, (2, len(x)), generator=g)
                x[:, :, row, column] = x[rows, :, row + dy, column + dx]
    return blurred(x, sigma)


def _motion_blur(x: Tensor, c: tuple[int, float], g: Generator) -> Tensor:
    """Averages by half a Gaussian along a line of a random direction within 45 degrees of the horizontal."""
    return motion(x, *c, (torch.rand(len(x), generator=g) - 0.5) * math.pi / 2.0)


def _zoom_blur(x: Tensor, c: float, g: Generator) -> Tensor:
    """Averages the image and its zooms by 1, 1.01, ... below c."""
    zooms = [zoomed(x, float(factor)) for factor in np.arange(1, c, 0.01)]
    return (x + sum(zooms)) / (len(zooms) + 1)


# Light ----------------------------------------------------------------------------------------------------------------


def _brightness(x: Tensor, c: float, g: Generator) -> Tensor:
    """Adds c to the value of HSV: each colour is scaled; black becomes grey."""
    value = x.amax(1, keepdim=True)
    bright = (value + c).clamp(0.0, 1.0)
    return torch.where(value > 0.0, x * bright / value.clamp(min=1e-12), bright)


def _saturate(x: Tensor, c: tuple[float, float], g: Generator) -> Tensor:
    """Scales the saturation of HSV by c0 and adds c1; greys count as red and turn red where c1 > 0, as in the files."""
    value = x.amax(1, keepdim=True)
    spread = value - x.amin(1, keepdim=True)
    old = spread / value.clamp(min=1e-12)
    new = (old * c[0] + c[1]).clamp(0.0, 1.0)
    red = torch.cat([value, value * (1.0 - new), value * (1.0 - new)], dim=1)
    return torch.where(spread > 0.0, value - (value - x) * new / old.clamp(min=1e-12), red)


def _contrast(x: Tensor, c: float, g: Generator) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * c + mean


# Digital --------------------------------------------------------------------------------------------------------------


def _by_pil(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Changes each image by PIL."""
    arrays = (x * 255.0).round().byte().permute(0, 2, 3, 1).numpy()
    changed = np.stack([np.asarray(change(Image.fromarray(array)).convert("RGB")) for array in arrays])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).float() / 255.0


def _jpeg(x: Tensor, c: int, g: Generator) -> Tensor:
    def change(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=c)
        return Image.open(stream, formats=("JPEG",))

    return _by_pil(x, change)


def _pixelate(x: Tensor, c: float, g: Generator) -> Tensor:
    height, width = x.shape[2:]
    small = (max(int(width * c), 1), max(int(height * c), 1))
    box = Image.Resampling.BOX
    return _by_pil(x, lambda image: image.resize(small, box).resize((width, height), box))


def _elastic(x: Tensor, c: tuple[float, float, float], g: Generator) -> Tensor:
    """Applies a small affine map, then smooth shifts; lengths are parts of the image's shorter side."""
    from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped, unused-ignore]

    side = float(min(x.shape[2:]))
    strength, sigma, jitter = (value * side for value in c)
    x = _affine(x, jitter, side, g)
    noise = torch.rand(2, len(x), *x.shape[2:], generator=g) * 2.0 - 1.0
    shifts = [torch.from_numpy(gaussian_filter(n.numpy(), (0, sigma, sigma), truncate=3.0)) * strength for n in noise]
    rows, columns = torch.meshgrid(*[torch.arange(n).float() for n in x.shape[2:]], indexing="ij")
    return _sampled(x, rows + shifts[1], columns + shifts[0], half=True)


def _affine(x: Tensor, jitter: float, side: float, g: Generator) -> Tensor:
    """Moves three points around the middle by up to ``jitter`` pixels each way."""
    middle = torch.tensor([x.shape[3] // 2, x.shape[2] // 2]).double()
    reach = float(side // 3)
    old = middle + reach * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]).double()
    new = old + (torch.rand(len(x), 3, 2, generator=g).double() * 2.0 - 1.0) * jitter
    ones = torch.ones(len(x), 3, 1).double()
    inverse = torch.linalg.solve(torch.cat([new, ones], dim=2), old.expand(len(x), 3, 2))  # (N, 3, 2): new to old
    rows, columns = torch.meshgrid(*[torch.arange(n).double() for n in x.shape[2:]], indexing="ij")
    at = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1) @ inverse[:, None]
    return _sampled(x, at[..., 1].float(), at[..., 0].float(), half=False)


def _sampled(x: Tensor, rows: Tensor, columns: Tensor, *, half: bool) -> Tensor:
    """Samples images at positions (N, H, W), bilinear, mirrored at the border; ``half`` repeats the edge pixel."""
    height, width = x.shape[2:]
    if half:
        grid = torch.stack([(2.0 * columns + 1.0) / width - 1.0, (2.0 * rows + 1.0) / height - 1.0], dim=-1)
    else:
        grid = torch.stack([2.0 * columns / (width - 1) - 1.0, 2.0 * rows / (height - 1) - 1.0], dim=-1)
    return F.grid_sample(x, grid.float(), mode="bilinear", padding_mode="reflection", align_corners=not half)


# The benchmark's own mean leaves these four out: they were made for validation (arXiv:1903.12261, section 4.1).
EXTRA = ("speckle_noise", "gaussian_blur", "saturate", "spatter")
CORRUPTIONS: dict[str, tuple[Corruption, tuple[Any, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500.0, 250.0, 100.0, 75.0, 50.0)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle_noise": (_speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
    "glass_blur": (_glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": (_motion_blur, ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))),
    "zoom_blur": (_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "fog": (fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturate": (_saturate, ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))),
    "elastic": (
        _elastic,
        ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
    "frost": (frost, ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "snow": (
        snow,
        (
            (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
            (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
        ),
    ),
    "spatter": (
        spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, "water"),
            (0.65, 0.1, 0.8, 0.7, 0.5, "water"),
            (0.65, 0.3, 1.0, 0.69, 0.5, "water"),
            (0.65, 0.1, 0.7, 0.69, 0.6, "mud"),
            (0.65, 0.1, 0.5, 0.68, 0.6, "mud"),
        ),
    ),
}
