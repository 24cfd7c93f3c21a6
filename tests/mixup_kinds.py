"""Every mixup of the registry, and how the tests make one.

A mixup that is added to the registry is tested without a line here. ``OPTIONS`` is for those that need another network
or size than their defaults are for, ``VARIANTS`` for forms that are a case of their own.
"""

from typing import Any

import pytest
import torch
from tiny_networks import tiny_cnn, tiny_vit
from torch import Tensor

from samix.mixups import MIXUPS
from samix.mixups.base import Augmentation

SIZES = [(32, 32), (24, 40), (33, 17), (7, 7)]

# As the whole batch is to be mixed, on small images, without a network where the mixup can do without.
OPTIONS: dict[str, dict[str, Any]] = {
    "saliencymix": {"prob": 1.0},
    "guidedmixup": {"prob": 1.0, "greedy": False},
    "puzzlemix": {"saliency": "spectral"},
    "comixup": {"saliency": "spectral"},
    "patchcutmix": {"patch": 4},
    "tla": {"patch": 4},
    "tokenmix": {"patch": 4, "switch": 0.0, "maps": "area", "fixed_lam": None, "surplus": 0.0},
    "transmix": {"switch": 0.0},
    "mixpro": {"switch": 0.0},
    "smmix": {"switch": 0.0},
    "sumix": {"alpha": 1.0},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cutmix_whole": ("cutmix", {"clip": False}),
    "fmix_soft": ("fmix", {"max_soft": 0.3}),
    "gridmix_cells": ("gridmix", {"style": "cells"}),
    "saliencymix_fine": ("saliencymix", {"saliency": "fine", "prob": 1.0}),
    "puzzlemix_binary": ("puzzlemix", {"saliency": "spectral", "num_labels": 2}),
}
# Mixups whose labels or sources are not those of a pair by area; each has tests of its own.
APART = {"vanilla", "comixup"}
VIT = {"patchcutmix", "tokenmix", "smmix", "transmix", "mixpro", "tla"}
SOFT = {"mixup", "fmix_soft", "smoothmix", "manifoldmix", "deit", "rsb", "guidedmixup", "puzzlemix", "alignmix"}


def create(name: str, seed: int | None = 0, **options: Any) -> Augmentation:
    """A mixup or variant by name; ``alpha`` is that of both members of a choice of two."""
    kind, given = VARIANTS.get(name, (name, OPTIONS.get(name, {})))
    options = {**given, **options}
    if len(MIXUPS[kind](generator=torch.Generator()).members) > 1 and "alpha" in options:
        options["mixup_alpha"] = options["cutmix_alpha"] = options.pop("alpha")
    generator = {} if seed is None else {"generator": torch.Generator().manual_seed(seed)}
    return MIXUPS[kind](**options, **generator)


def _pairs_by_area(name: str) -> bool:
    """Whether a mixup mixes pairs of images by a mask, from the images alone."""
    needs = create(name).requirements
    return name not in APART and not (needs.model or needs.stateful)


KINDS = [name for name in (*MIXUPS, *VARIANTS) if _pairs_by_area(name)]
BINARY = [name for name in KINDS if name not in SOFT]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_size = pytest.mark.parametrize("size", SIZES, ids=str)
every_mixup = pytest.mark.parametrize("name", MIXUPS)


def make(kind: str, seed: int = 0, **options: Any) -> Augmentation:
    return create(kind, seed, **options)


def network_of(name: str, num_classes: int = 5) -> torch.nn.Module:
    """The small network that a mixup is trained with: a ViT with patches of 8 where it needs one."""
    torch.manual_seed(0)
    return tiny_vit(num_classes) if name in VIT else tiny_cnn(num_classes)


def trainable(name: str, **options: Any) -> Augmentation:
    """A mixup as it is trained with :func:`network_of`: every batch is mixed, patches are the network's."""
    fields = MIXUPS[name](generator=torch.Generator()).options()
    given = {"patch": 8, "prob": 1.0, "switch": 0.0}
    # MaskMix rounds its cell up to a multiple of patch
    return create_plain(name, **{key: value for key, value in given.items() if key in fields}, **options)


def create_plain(name: str, **options: Any) -> Augmentation:
    """A mixup by name with these options only, seeded."""
    return MIXUPS[name](generator=torch.Generator().manual_seed(0), **options)


def batch_of(size: int, shape=(3, 24, 40), dtype=torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(size, *shape).to(dtype), torch.arange(size) % 7
