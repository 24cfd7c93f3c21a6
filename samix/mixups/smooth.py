"""SmoothMix: a soft, round window on the partner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samix.batch import Mixed
from samix.mixups.base import Augmentation, blend, take_rows, to_device
from samix.runtime.typed_options import Positive


def smoothmix(x: Tensor, partner: Tensor, centre: Tensor, sigma: Tensor, *, isotropic: bool = False) -> Mixed:
    """Lets each partner shine through a soft, round window.

    SmoothMix (Lee et al. 2020, CVPR Workshops), the circular form: ``G(h, w) = exp(-((h - cy)^2 + (w - cx)^2) /
    (2 sigma^2))`` is the partner's share. OpenMixup gives mean(G) to the *own* label, which swaps the labels; here the
    own label gets 1 - mean(G).

    Args:
        x: (B, C, H, W) images. Not modified.
        partner: (B, C, H, W).
        centre: (B, 2) in [0, 1), row and column of the pixel at the window's centre, as shares of H and W.
        sigma: (B,) >= 0, width of the window as a share of the side; 0 gives x, infinity gives partner.
        isotropic: one width, sigma * min(H, W), for both axes; otherwise sigma * H and sigma * W.

    Returns:
        Mixed; lam is the mask's mean.

    Raises:
        ValueError: x and partner, or sigma, differ in shape.
    """
    if x.shape != partner.shape:
        raise ValueError(f"partner must have x's shape {tuple(x.shape)}, got {tuple(partner.shape)}")
    if sigma.shape != x.shape[:1]:
        raise ValueError(f"sigma must have shape ({len(x)},), got {tuple(sigma.shape)}")
    rows, columns = _window(centre, sigma, x.shape, isotropic)
    mask = (1.0 - rows.unsqueeze(2) * columns.unsqueeze(1)).unsqueeze(1)
    return Mixed(blend(x, partner, mask), mask.mean(dim=(1, 2, 3)), mask)


def _window(centre: Tensor, sigma: Tensor, shape: Sequence[int], isotropic: bool) -> tuple[Tensor, Tensor]:
    """SmoothMix's Gaussian along each side: (B, H) and (B, W); their outer product is the partner's share."""
    profiles = []
    for axis, size in enumerate(shape[-2:]):
        width = (sigma * (min(shape[-2:]) if isotropic else size)).unsqueeze(1)
        at = torch.arange(size, device=sigma.device) - torch.floor(centre[:, axis : axis + 1] * size)
        profile = torch.exp(-0.5 * (at / width) ** 2)
        profiles.append(torch.where(width > 0.0, profile, 0.0))
    return profiles[0], profiles[1]


def solve_sigma(lam: Tensor, centre: Tensor, shape: Sequence[int], *, isotropic: bool = False) -> Tensor:
    """The sigma at which SmoothMix's mask has the mean lam, by bisection of log sigma.

    Args:
        lam: (B,) in [0, 1].
        centre: (B, 2) as :func:`smoothmix` takes it.
        shape: (B, C, H, W) of the images.

    Returns:
        (B,) share of the side; 0 for lam = 1 and infinity for lam = 0. As the window shows at least its centre pixel, a
        lam between 1 - 1 / (H W) and 1 is met only to within 1 / (H W).
    """
    low, high = torch.full_like(lam, math.log(1e-4)), torch.full_like(lam, math.log(1e4))
    for _ in range(40):
        middle = 0.5 * (low + high)
        rows, columns = _window(centre, middle.exp(), shape, isotropic)
        too_wide = rows.mean(1) * columns.mean(1) > 1.0 - lam
        low, high = torch.where(too_wide, low, middle), torch.where(too_wide, middle, high)
    sigma = torch.where(lam <= 0.0, torch.inf, low.exp())
    return torch.where(lam >= 1.0, 0.0, sigma)


@dataclass
class SmoothMix(Augmentation):
    """Shows image B through a Gaussian window, see :func:`smoothmix`.

    Its lam follows from the window. The width is ``sigma_min + (sigma_max - sigma_min) * u`` with
    u ~ Beta(alpha, alpha): alpha = 1 is the uniform width of OpenMixup. A lam given by the caller takes the width at
    which the mask's mean is that lam, in these bounds or not.

    Args:
        sigma_min: smallest width, as a share of the side, > 0.
        sigma_max: largest.
        isotropic: a round window, not an elliptic one, in images that are not square.

    Example:
        >>> batch = samix.SmoothMix()(images, labels)
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "smoothmix"

    sigma_min: Positive = 0.25
    sigma_max: Positive = 0.5
    isotropic: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min > self.sigma_max:
            raise ValueError(f"sigma_min must be at most sigma_max, got {self.sigma_min} and {self.sigma_max}")

    def mix(
        self, images: Tensor, lam: Tensor | float | None = None, index: Tensor | None = None
    ) -> tuple[Mixed, Tensor]:
        drawn, index = self.draw(images, lam, index)
        centre = to_device(torch.rand(len(images), 2, generator=self.generator), images.device)
        if lam is None:
            sigma = self.sigma_max - (self.sigma_max - self.sigma_min) * drawn
            sigma = torch.where(drawn < 1.0, sigma, 0.0)
        else:
            sigma = solve_sigma(drawn, centre, images.shape, isotropic=self.isotropic)
        return smoothmix(images, take_rows(images, index), centre, sigma, isotropic=self.isotropic), index
