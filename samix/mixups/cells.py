"""Cells of the patch grid of a transformer, and their pixels.

The grid is given by the side of a patch in pixels, or by the map that guides the mixup; images need not be square, nor
a whole number of patches: the cell of pixel row h is ``floor(h gh / H)``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grid_of(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of whole patches in an image of size (H, W), at least one each."""
    return max(size[0] // patch, 1), max(size[1] // patch, 1)


def to_pixels(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, gh, gw) -> (B, 1, H, W): every pixel gets its cell's value."""
    (height, width), device = size, cells.device
    rows = torch.arange(height, device=device) * cells.shape[1] // height
    columns = torch.arange(width, device=device) * cells.shape[2] // width
    return cells.index_select(1, rows).index_select(2, columns).unsqueeze(1)
