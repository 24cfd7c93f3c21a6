"""The pictures that a run paints as it goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samix.data import EvalBatches, ImageData, denormalize
from samix.recipes import Recipe
from samix.recipes.build import build_augment

PREVIEW_LAMS = (0.1, 0.3, 0.5, 0.7, 0.9)


def preview_pairs(data: ImageData, recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Eight held-out images of different classes to look at: images, labels, and partners half a round away.

    Args:
        data: its held-out split is used; the first image of each of eight classes, or more of them where there are
        fewer.
        recipe: gives size and augmentation.
        device: where they are wanted.
    """
    labels = data.val.labels
    rows = [int((labels == c).nonzero()[0]) for c in range(min(data.num_classes, 8)) if bool((labels == c).any())]
    rows += [row for row in range(len(labels)) if row not in rows][: 8 - len(rows)]
    chosen = dataclasses.replace(data, val=data.val.subset(torch.tensor(rows)))
    batches = EvalBatches(
        chosen, batch_size=len(rows), size=recipe.size, augment=build_augment(recipe, data), device=device
    )
    images, labels = next(iter(batches.batches()))
    return images, labels, torch.arange(len(rows)).roll(-max(len(rows) // 2, 1)).to(images.device)


def first_rows(batch: Any, count: int) -> Any:
    """The first samples of a mixed batch, for a picture."""
    mask = None if batch.mask is None else batch.mask[:count]
    return dataclasses.replace(batch, images=batch.images[:count], mask=mask)


def draw_mixed(
    path: Path, data: ImageData, recipe: Recipe, device: torch.device, preview: Callable[..., Any], title: str
) -> None:
    """Paints four pairs of held-out images at five lam; nothing for a method that mixes no images.

    Args:
        path: of the PNG.
        data: whose held-out images are shown.
        recipe: gives size and augmentation.
        device: of the network.
        preview: ``Method.preview``: (images, labels, lam, index) to a mixed batch or None.
        title: above it.

    Raises:
        CannotWrite: the disk refuses.
    """
    from samix.viz.pictures import mix_grid

    images, labels, index = preview_pairs(data, recipe, device)
    if preview(images, labels, 0.5, index) is None:
        return
    mix_grid(
        path,
        images[:4],
        images[index][:4],
        lambda lam: first_rows(preview(images, labels, lam, index), 4),
        PREVIEW_LAMS,
        lambda x: denormalize(x, data.mean, data.std),
        title,
    )
