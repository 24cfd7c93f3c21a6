"""Draws of lam and of pairs.

All come from a CPU generator and move to the device afterwards: the same on every device, and no sync.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from samix.runtime import distributed

Pairing = Literal["randperm", "cycle", "flip", "roll"]


def new_generator() -> torch.Generator:
    """A generator seeded once from torch's global one (so ``torch.manual_seed`` decides), different on every rank."""
    seed = torch.randint(2**62, (1,)) + 7919 * distributed.rank()
    return torch.Generator().manual_seed(int(seed))


def check_alpha(alpha: float, name: str = "alpha") -> None:
    """Raises ValueError unless alpha is a finite number; Beta(alpha, alpha) is drawn for alpha > 0 only."""
    if not isinstance(alpha, (int, float, np.number)) or not math.isfinite(alpha):
        raise ValueError(f"{name} must be a finite number, got {alpha!r}; at most 0 switches mixing off")


def sample_lam(
    alpha: float, batch_size: int, *, per_sample: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Draws lam ~ Beta(alpha, alpha), exact for small alpha too.

    Args:
        alpha: > 0; alpha <= 0 gives 1 (no mixing).
        batch_size: B.
        per_sample: one draw per sample; otherwise one draw, repeated.
        generator: CPU generator; None takes torch's global one.

    Returns:
        (B,) float32 on the CPU, in [0, 1].

    Raises:
        ValueError: alpha is not a finite number.

    Example:
        >>> lam = samix.sample_lam(0.2, 4, per_sample=True)
        >>> lam.shape, bool(((lam >= 0) & (lam <= 1)).all())
        (torch.Size([4]), True)
    """
    check_alpha(alpha)
    if alpha <= 0:
        return torch.ones(batch_size)
    count = batch_size if per_sample else 1
    if alpha == 1:  # uniform; this is the most used, and saves a third of the time of all draws
        lam = torch.rand(count, generator=generator)
    else:
        # torch has no public Beta with a generator; NumPy's is exact down to alpha = 0.001. The seed is an array.
        rng = np.random.default_rng(torch.randint(2**62, (2,), generator=generator).numpy())
        lam = torch.from_numpy(rng.beta(alpha, alpha, size=count).astype(np.float32))
    return lam if per_sample else lam.repeat(batch_size)


def sample_partners(
    batch_size: int, pairing: Pairing = "randperm", *, generator: torch.Generator | None = None
) -> Tensor:
    """Draws the partner of each image.

    Args:
        batch_size: B.
        pairing: ``randperm`` a uniform permutation (one fixed point on average); ``cycle`` one random cycle, no fixed
            point for B >= 2; ``flip`` i -> B - 1 - i (timm); ``roll`` i -> i - 1 (torchvision).
        generator: CPU generator; None takes torch's global one.

    Returns:
        (B,) int64 permutation on the CPU.

    Raises:
        ValueError: unknown pairing.

    Example:
        >>> samix.sample_partners(4, "flip")
        tensor([3, 2, 1, 0])
    """
    if pairing == "randperm":
        return torch.randperm(batch_size, generator=generator)
    if pairing == "cycle":
        order = torch.randperm(batch_size, generator=generator)
        return torch.empty_like(order).scatter_(0, order, order.roll(-1))
    if pairing == "flip":
        return torch.arange(batch_size).flip(0)
    if pairing == "roll":
        return torch.arange(batch_size).roll(1)
    raise ValueError(f"unknown pairing {pairing!r}; choose randperm, cycle, flip or roll")


def to_device(draw: Tensor, device: torch.device) -> Tensor:
    """Moves a small CPU draw without waiting for the device."""
    return draw if draw.device == device else draw.to(device, non_blocking=True)


def check_index(index: Tensor, batch_size: int) -> None:
    """Raises unless index (B,) names rows of this batch; its values are looked at on the CPU only."""
    if not isinstance(index, Tensor):
        raise TypeError(f"index must be a torch.Tensor, got {type(index).__name__}; use torch.as_tensor")
    if index.shape != (batch_size,) or index.dtype != torch.int64:
        raise ValueError(
            f"index must be int64 of shape ({batch_size},), got {index.dtype} {tuple(index.shape)}; use sample_partners"
        )
    if index.device.type == "cpu" and not bool(((index >= 0) & (index < batch_size)).all()):
        raise ValueError(
            f"index must name rows 0 to {batch_size - 1}, got values from {int(index.min())} to {int(index.max())}"
        )


def as_lam(lam: Tensor | float, batch_size: int) -> Tensor:
    """The lam that a caller gave, as (B,) float32."""
    if not isinstance(lam, Tensor | int | float | np.number):
        raise TypeError(f"lam must be a number or a torch.Tensor, got {type(lam).__name__}; use torch.as_tensor")
    if not isinstance(lam, Tensor):
        if not 0.0 <= lam <= 1.0:
            raise ValueError(f"lam must be in [0, 1], got {lam}")
        return torch.full((batch_size,), float(lam))
    if lam.shape != (batch_size,):
        raise ValueError(f"lam must be a number or have shape ({batch_size},), got {tuple(lam.shape)}; use sample_lam")
    if lam.device.type == "cpu" and not bool(((lam >= 0) & (lam <= 1)).all()):
        raise ValueError(f"lam must be in [0, 1], got values from {float(lam.min())} to {float(lam.max())}")
    return lam.float()
