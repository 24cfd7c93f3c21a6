"""Every mixup under a short name, and how the tests make one: seeded, in every form that is a case of its own."""

import pytest
import torch
from torch import Tensor

from samix.mixups.handmade import CutMix, FMix, GridMix, MixUp, ResizeMix, SmoothMix
from samix.mixups.hidden import ManifoldMix

SIZES = [(32, 32), (24, 40), (33, 17), (7, 7)]

KINDS = {
    "mixup": MixUp,
    "cutmix": CutMix,
    "cutmix_whole": lambda **kw: CutMix(clip=False, **kw),
    "resizemix": ResizeMix,
    "fmix": FMix,
    "fmix_soft": lambda **kw: FMix(max_soft=0.3, **kw),
    "gridmix_holes": GridMix,
    "gridmix_cells": lambda **kw: GridMix(style="cells", **kw),
    "smoothmix": SmoothMix,
    "manifoldmix": ManifoldMix,
}
BINARY = [name for name in KINDS if name not in ("mixup", "fmix_soft", "smoothmix", "manifoldmix")]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def make(kind: str, seed: int = 0, **options):
    return KINDS[kind](generator=torch.Generator().manual_seed(seed), **options)


def batch_of(size: int, shape=(3, 24, 40), dtype=torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(size, *shape).to(dtype), torch.arange(size) % 7
