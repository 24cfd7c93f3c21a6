"""The same pairs mixed at any lambda, by name or by a trained method, and how the masks follow lambda."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from samix.batch import MixedBatch
from samix.mixers.pretrained import Mixer
from samix.mixups.base import Augmentation
from samix.recipes.build import build_mixup

Normalization = tuple[Sequence[float], Sequence[float]]  # mean and std by channel
PHOTO_MEAN, PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def named_mixup(name: str, normalization: Normalization, options: Mapping[str, object] | None = None) -> Augmentation:
    """Builds a mixup that knows how the pixels are scaled."""
    mixup = build_mixup(name, options)
    mixup.set_normalization(*normalization)
    return mixup


def mixup_at(
    mixup: Augmentation, images: Tensor, labels: Tensor, index: Tensor, seed: int, guide: Tensor | None
) -> Callable[[float], MixedBatch]:
    """Makes the function from lam to the mixed pairs, with the same further draws each time.

    A choice between mixups draws another one at each lam, so that all are seen.
    """
    given = {} if guide is None else {"guide": guide}

    def mix(lam: float) -> MixedBatch:
        mixup.generator.manual_seed(seed + (round(10 * lam) if len(mixup.members) > 1 else 0))
        return mixup(images, labels, lam=lam, index=index, **given)  # type: ignore[arg-type]

    return mix


def title_of(name: str, mixup: Augmentation) -> str:
    """Describes a mixup by name above its picture."""
    note = mixup.describe()
    return note if isinstance(mixup, Mixer) else f"{name}: {note}" if note else name


def select_rows(batch: MixedBatch, rows: Tensor) -> MixedBatch:
    """Selects rows (n,) of a mixed batch, in their order."""
    return dataclasses.replace(
        batch,
        images=batch.images[rows],
        labels=batch.labels[rows],
        weights=batch.weights[rows],
        index=batch.index[rows],
        mask=None if batch.mask is None else batch.mask[rows],
        target=None if batch.target is None else batch.target[rows],
    )


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
