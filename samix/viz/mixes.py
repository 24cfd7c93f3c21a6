"""A mixup over lambda: the same pairs mixed at any lambda, by name or by a trained method, and how its masks behave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from samix.batch import MixedBatch
from samix.methods.base import Method
from samix.mixers.pretrained import Mixer
from samix.mixups.base import Augmentation
from samix.recipes.build import build_mixup

Normalization = tuple[Sequence[float], Sequence[float]]  # mean and std by channel
PHOTO_MEAN, PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def trained_at(method: Method, images: Tensor, labels: Tensor, index: Tensor) -> Callable[[float], MixedBatch | None]:
    """Lam -> the pairs as a trained method mixes them."""
    return lambda lam: method.preview(images, labels, lam, index)


def named_mixup(name: str, normalization: Normalization, options: Mapping[str, Any] | None = None) -> Augmentation:
    """A mixup that knows how the pixels are scaled."""
    mixup = build_mixup(name, options)
    mixup.set_normalization(*normalization)
    return mixup


def mixup_at(
    mixup: Augmentation, images: Tensor, labels: Tensor, index: Tensor, seed: int, guide: Tensor | None
) -> Callable[[float], MixedBatch]:
    """Lam -> the pairs as a mixup mixes them, with the same further draws each time.

    Of a choice between mixups, each lam is another draw, so that all are seen.
    """
    given: dict[str, Any] = {"index": index} if guide is None else {"index": index, "guide": guide}

    def mix(lam: float) -> MixedBatch:
        mixup.generator.manual_seed(seed + (round(10 * lam) if len(mixup.members) > 1 else 0))
        return mixup(images, labels, lam=lam, **given)

    return mix


def guide_of(mixup: Augmentation, images: Tensor, labels: Tensor) -> Tensor | None:
    """The maps that a guided mixup is shown with: its own, or, where these are the network's, spectral residuals."""
    return mixup.preview_guide(images, labels)


def title_of(name: str, mixup: Augmentation) -> str:
    """What a picture of a mixup by name shows."""
    note = mixup.describe()
    return note if isinstance(mixup, Mixer) else f"{name}: {note}" if note else name


@torch.no_grad()
def mask_statistics(batches: Sequence[MixedBatch], lams: Sequence[float] | None = None) -> dict[str, float]:
    """Measures how masks follow lambda.

    Args:
        batches: previews of the same pairs, each at one lambda; all have masks.
        lams: of the batches, to compare with; None takes the share of image A in the labels.

    Returns:
        ``std``: standard deviation within a mask, averaged; ``correlation`` of the masks' means with lambda, 0 where
        either is constant; ``error``: mean of |mean of a mask - lambda|.
    """
    masks = [batch.mask.float().cpu() for batch in batches if batch.mask is not None]
    means = torch.cat([mask.mean(dim=(1, 2, 3)) for mask in masks]).double()
    if lams is None:
        wanted = torch.cat([batch.lam for batch in batches]).double().cpu()
    else:
        wanted = torch.cat([torch.full((len(mask),), lam) for mask, lam in zip(masks, lams, strict=True)]).double()
    vary = len(means) > 1 and bool(means.std() > 0) and bool(wanted.std() > 0)
    return {
        "std": float(torch.cat([mask.flatten(1).std(1) for mask in masks]).mean()),
        "correlation": float(torch.corrcoef(torch.stack([means, wanted]))[0, 1]) if vary else 0.0,
        "error": float((means - wanted).abs().mean()),
    }
