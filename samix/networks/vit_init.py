"""What keeps a ViT steady without labels: positions that are given, and a patch projection that is never trained.

MoCo v3 (Chen et al. 2021, arXiv:2104.02057), sections 4 and 5. The rest of its initialisation is timm's
``weight_init="moco"``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from samix.networks.attention import as_vit


def is_vit(model: nn.Module) -> bool:
    """Whether this is one of timm's ViTs with a learned position for each token."""
    return isinstance(getattr(model, "pos_embed", None), nn.Parameter) and hasattr(model, "patch_embed")


def sine_positions(rows: int, columns: int, dim: int, temperature: float = 10000.0) -> Tensor:
    """Positions of a grid: a quarter of the channels each for sine and cosine of the column, and of the row.

    Args:
        rows: h.
        columns: w.
        dim: D, a multiple of 4.
        temperature: ratio of the longest wave to the shortest.

    Returns:
        (h w, D) in [-1, 1], tokens row by row.
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions of two axes need a width that is a multiple of 4, got {dim}")
    omega = temperature ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    across, down = (at.reshape(-1, 1) * omega for at in (column, row))  # (h w, D / 4)
    return torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1).float()


@torch.no_grad()
def fix_positions(model: nn.Module) -> None:
    """Gives a ViT sine-cosine positions that are not trained; those of its class token are 0."""
    vit = as_vit(model)
    (rows, columns), positions = vit.patch_embed.grid_size, vit.pos_embed
    grid = sine_positions(rows, columns, positions.shape[2])
    positions.zero_()
    positions[0, positions.shape[1] - len(grid) :] = grid.to(positions)
    positions.requires_grad_(False)


@torch.no_grad()
def freeze_patches(model: nn.Module) -> None:
    """Draws a ViT's patch projection anew, as one linear layer from a patch (Xavier), and stops its training."""
    projection = as_vit(model).patch_embed.proj
    bound = math.sqrt(6.0 / (projection.weight[0].numel() + projection.out_channels))
    nn.init.uniform_(projection.weight, -bound, bound)
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
    projection.requires_grad_(False)
