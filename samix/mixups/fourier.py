"""FMix: masks of any shape, cut from low-frequency noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from samix.batch import Mixed, check_pair
from samix.mixups.base import Augmentation, Guides, blend, choose
from samix.runtime.checks import Range
from samix.runtime.typed_options import Weight


def fourier_map(noise: Tensor, size: tuple[int, int], decay_power: float) -> Tensor:
    """Turns white noise into a grey map whose amplitude falls as frequency^-decay_power, alike in all directions.

    FMix (Harris et al. 2020, arXiv:2002.12047). The released code and OpenMixup take real and imaginary part along the
    wrong axis, which leaves two horizontal frequencies in their masks. This is the map that the paper describes. The
    columns without a mirror image in the half spectrum lose half of their power in the transform, which would favour
    vertical edges; sqrt(2) makes up for it.

    Args:
        noise: (B, H, W // 2 + 1, 2) standard normal, real and imaginary part.
        size: (H, W).
        decay_power: delta of the paper; larger makes larger blobs.

    Returns:
        (B, H, W) float32; only its order matters.
    """
    height, width = size
    along_y = torch.fft.fftfreq(height, device=noise.device).unsqueeze(1)  # cycles per pixel
    along_x = torch.fft.rfftfreq(width, device=noise.device).unsqueeze(0)
    frequency = torch.sqrt(along_y**2 + along_x**2).clamp(min=1.0 / max(height, width))
    column = torch.arange(width // 2 + 1, device=noise.device)
    alone = torch.where((column == 0) | (2 * column == width), 2.0**0.5, 1.0)
    spectrum = torch.complex(noise[..., 0], noise[..., 1]) * (alone / frequency**decay_power)
    grey: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    return grey


def fmix(
    x: Tensor,
    partner: Tensor,
    lam: Tensor,
    noise: Tensor,
    coin: Tensor,
    *,
    decay_power: float = 3.0,
    max_soft: float = 0.0,
) -> Mixed:
    """Keeps x where low-frequency noise is high: a share lam of the pixels, in a few blobs of random shape.

    FMix (Harris et al. 2020, arXiv:2002.12047). The n highest pixels of :func:`fourier_map` keep x, n being lam H W
    rounded up or down with even odds. The released code draws one mask per batch, we one per sample.

    Args:
        noise: (B, H, W // 2 + 1, 2) standard normal.
        coin: (B,) in [0, 1); below 1/2 rounds n down.
        max_soft: s >= 0; the mask falls evenly from 1 to 0 over round(min(s, lam, 1 - lam) H W) ranks on both sides of
            the n-th. 0 is a binary mask.

    Returns:
        Mixed; lam is the mask's mean, within 1 / (H W) of the one wanted.
    """
    check_pair(x, partner, lam)
    batch, _, height, width = x.shape
    if noise.shape != (batch, height, width // 2 + 1, 2):
        raise ValueError(f"noise must have shape {(batch, height, width // 2 + 1, 2)}, got {tuple(noise.shape)}")
    count = height * width
    wanted = (lam * count).unsqueeze(1)
    kept = torch.where(coin.unsqueeze(1) < 0.5, torch.floor(wanted), torch.ceil(wanted))
    soft = torch.round(torch.minimum(lam, 1.0 - lam).clamp(max=max_soft) * count).unsqueeze(1)
    soft = torch.minimum(soft, torch.minimum(kept, count - kept)).clamp(min=1.0)  # one rank each side: a hard edge
    rank = torch.arange(count, device=x.device)
    profile = ((kept + soft - 1.0 - rank) / (2.0 * soft - 1.0)).clamp(0.0, 1.0)  # (B, HW), share of the r-th highest
    order = fourier_map(noise, (height, width), decay_power).flatten(1).argsort(dim=1, descending=True)
    mask = torch.zeros_like(profile).scatter(1, order, profile).view(batch, 1, height, width)
    if max_soft == 0.0:
        return choose(x, partner, mask)
    return Mixed(blend(x, partner, mask), mask.mean(dim=(1, 2, 3)), mask)


@dataclass
class FMix(Augmentation):
    """Mixes two images by a mask of random blobs from low-frequency noise, see :func:`fmix`.

    Published (Harris et al. 2020, arXiv:2002.12047): alpha 1; OpenMixup's tables use 0.2.

    Args:
        decay_power: how fast the noise falls with frequency, >= 0; larger makes larger blobs.
        max_soft: width of a soft edge, as a share of the image, in [0, 0.5]; 0 is a hard edge.

    Example:
        >>> mix = samix.FMix(alpha=1.0)
        >>> batch = mix(torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]))
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "fmix"

    decay_power: Weight = 3.0
    max_soft: Annotated[float, Range(0, 0.5)] = 0.0

    def draw_extras(self, shape: torch.Size) -> dict[str, Tensor]:
        """The noise (B, H, W // 2 + 1, 2) and the coins (B,)."""
        batch, _, height, width = shape
        noise = torch.randn(batch, height, width // 2 + 1, 2, generator=self.generator)
        return {"noise": noise, "coin": torch.rand(batch, generator=self.generator)}

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return fmix(
            x,
            partner,
            lam,
            extras["noise"],
            extras["coin"],
            decay_power=self.decay_power,
            max_soft=self.max_soft,
        )
