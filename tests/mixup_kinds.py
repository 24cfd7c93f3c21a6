"""Every mixup under a short name, and how the tests make one: seeded, in every form that is a case of its own."""

import pytest
import torch
from torch import Tensor

from samix.mixups.align import AlignMix
from samix.mixups.choice import DeiTMix
from samix.mixups.handmade import CutMix, FMix, GridMix, MixUp, ResizeMix, SmoothMix
from samix.mixups.hidden import ManifoldMix
from samix.mixups.maskmix import MaskMix
from samix.mixups.patch_cutmix import PatchCutMix
from samix.mixups.puzzle import PuzzleMix
from samix.mixups.salient import GuidedMixup, SaliencyMix
from samix.mixups.sumix import SUMix
from samix.mixups.token_align import TokenLabelAlign
from samix.mixups.transmix import TransMix

SIZES = [(32, 32), (24, 40), (33, 17), (7, 7)]


def deit(alpha: float | None = None, **options):
    """Both of its mixups with one alpha."""
    return DeiTMix(mixup_alpha=alpha, cutmix_alpha=alpha, **options)


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
    "deit": deit,
    "saliencymix": lambda **kw: SaliencyMix(**{"prob": 1.0, **kw}),
    "saliencymix_fine": lambda **kw: SaliencyMix(saliency="fine", **{"prob": 1.0, **kw}),
    "guidedmixup": lambda **kw: GuidedMixup(greedy=False, **{"prob": 1.0, **kw}),
    "puzzlemix": lambda **kw: PuzzleMix(saliency="spectral", **kw),
    "puzzlemix_binary": lambda **kw: PuzzleMix(saliency="spectral", num_labels=2, **kw),
    "alignmix": AlignMix,
    "patchcutmix": lambda **kw: PatchCutMix(patch=4, **kw),
    "maskmix": MaskMix,
    "transmix": lambda **kw: TransMix(switch=0.0, **kw),
    "tla": lambda **kw: TokenLabelAlign(patch=4, **kw),
    "sumix": lambda **kw: SUMix(**{"alpha": 1.0, **kw}),
}
SOFT = ("mixup", "fmix_soft", "smoothmix", "manifoldmix", "deit", "guidedmixup", "puzzlemix", "alignmix")
BINARY = [name for name in KINDS if name not in SOFT]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def make(kind: str, seed: int = 0, **options):
    return KINDS[kind](generator=torch.Generator().manual_seed(seed), **options)


def batch_of(size: int, shape=(3, 24, 40), dtype=torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(size, *shape).to(dtype), torch.arange(size) % 7
