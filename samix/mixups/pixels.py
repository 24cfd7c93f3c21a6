"""How pixels of two images become one: a sum by a soft mask, or a choice by a binary one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samix.batch import Mixed


def blend(x: Tensor, partner: Tensor, mask: Tensor) -> Tensor:
    """Mixes by a mask: ``mask * x + (1 - mask) * partner``, exact where mask is 0 or 1 and where x equals partner.

    Args:
        x: (B, C, H, W). Not modified.
        partner: (B, C, H, W).
        mask: broadcastable to x, float32, share of x in [0, 1].

    Returns:
        (B, C, H, W) in x's type, computed in float32, or in float64 for float64 images.

    Example:
        >>> mask = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3)
        >>> samix.blend(torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1, 3), mask).flatten()
        tensor([0.0000, 0.5000, 1.0000])
    """
    dtype = torch.promote_types(x.dtype, mask.dtype)
    return torch.lerp(partner.to(dtype), x.to(dtype), mask.to(dtype)).to(x.dtype)


def choose(x: Tensor, partner: Tensor, mask: Tensor) -> Mixed:
    """The mix by a binary mask: pixels are chosen, not added, so a NaN pixel stays where it is shown.

    Args:
        x: (B, C, H, W). Not modified.
        partner: (B, C, H, W).
        mask: (B, 1, H, W) float32, 0 or 1.

    Returns:
        Mixed; lam is the exact share of pixels left to x.
    """
    lam = mask.sum(dim=(1, 2, 3)) / (mask.shape[2] * mask.shape[3])
    own = mask.bool()
    if x.device.type == "cpu" and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        own = own.expand_as(x).contiguous(memory_format=torch.channels_last)  # else an inner loop over channels: slow
    return Mixed(torch.where(own, x, partner), lam, mask)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]``, faster on the CPU for plain layouts; channels-last stays channels-last."""
    return x.index_select(0, index) if x.is_contiguous() else x[index]


def on_host(x: Tensor) -> bool:
    """Whether rows of x can be written one by one at little cost: a plain CPU tensor, with no graph to be recorded."""
    if type(x) is not Tensor or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not (x.requires_grad and torch.is_grad_enabled())


def as_array(x: Tensor) -> NDArray[np.generic]:
    """The memory of a CPU tensor as an array of whole numbers of the same width, to copy bits from and to."""
    return x.detach().view(_WHOLE[x.element_size()]).numpy()


_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_map(lam: Tensor, x: Tensor) -> Tensor:
    """A constant mask (B, 1, H, W) of lam (B,), over x (B, C, H, W); a view, no copy."""
    return lam.view(-1, *[1] * (x.dim() - 1)).expand(-1, 1, *x.shape[2:])
