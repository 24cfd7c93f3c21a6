"""The frames of a mixup on the playground's page: two pictures mixed at each lambda."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from samix.batch import MixedBatch
from samix.data import denormalize

Scale = tuple[Any, Any]  # mean and std by channel
FAMILIES = ("Learned", "Hand-made", "Guided by maps", "By patches", "In hidden layers", "On the label's side")


@dataclass(frozen=True)
class Sheet:
    """The frames of a mixup."""

    title: str  # its name, and what it goes by
    family: str  # heading under which it stands
    mixed: Tensor  # (F, C, H, W) in [0, 1]
    masks: Tensor | None  # (F, 1, H, W), or None
    shares: list[tuple[float, float]]  # of own and partner in the label, by frame

    def same_pictures(self, other: Sheet) -> bool:
        """Whether no frame differs."""
        return self.mixed.shape == other.mixed.shape and torch.equal(self.mixed, other.mixed)


def new_sheet(title: str, family: str, batches: Sequence[MixedBatch], scale: Scale) -> Sheet:
    """The first pair of each batch."""
    masks = [b.mask[0].float().cpu() for b in batches if b.mask is not None]
    shape = batches[0].images.shape[2:]
    return Sheet(
        title,
        family,
        torch.stack([denormalize(b.images[:1], *scale)[0].float().cpu().clamp(0, 1) for b in batches]),
        torch.stack([mask.expand(1, *shape) for mask in masks]) if len(masks) == len(batches) else None,
        [share_of(b) for b in batches],
    )


def share_of(batch: MixedBatch) -> tuple[float, float]:
    """What own and partner have in the label of the first row, which may be mixed of more than two."""
    pairs = list(zip(batch.labels[0].tolist(), batch.weights[0].tolist(), strict=True))
    own, partner = (sum(weight for label, weight in pairs if label == wanted) for wanted in (0, 1))
    return round(own, 3), round(partner, 3)
