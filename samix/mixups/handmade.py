"""The hand-made mixups, by one import; MixUp, no mixup, and several at random are written here.

Each is a policy, a plain function that is given its draws, and an object that draws. The policies hold no state, read
no value on the host, write to no input and compile as one graph. Every draw is per sample.

What all policies share:

- ``lam`` = 1 gives ``x`` and ``lam`` = 0 gives ``partner``, bit by bit.
- Masks and lam are float32; images keep their type and memory format.
- A policy with a binary mask *chooses* pixels, so a NaN or infinite pixel stays where it is shown and harms no other.
  One with a soft mask (:func:`mixup`, :func:`smoothmix`, ``fmix`` with ``max_soft``) is a sum, in which such a pixel of
  either image spoils the mixed pixel, even where its share is 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_pair
from samix.mixups.base import Augmentation, Guides, Requirements, as_map, blend, take_rows
from samix.mixups.boxes import CutMix, ResizeMix, cutmix, resizemix
from samix.mixups.fourier import FMix, fmix
from samix.mixups.grid import GridMix, gridmix_cells, gridmix_holes
from samix.mixups.smooth import SmoothMix, smoothmix

__all__ = [
    "CutMix",
    "FMix",
    "GridMix",
    "MixUp",
    "NoMixup",
    "RandomChoice",
    "ResizeMix",
    "SmoothMix",
    "cutmix",
    "fmix",
    "gridmix_cells",
    "gridmix_holes",
    "mixup",
    "resizemix",
    "smoothmix",
]


def mixup(x: Tensor, partner: Tensor, lam: Tensor) -> Mixed:
    """Adds images pixel by pixel: ``lam * x + (1 - lam) * partner``.

    mixup (Zhang et al. 2018, arXiv:1710.09412), section 2.

    Args:
        x: (B, C, H, W) images, or hidden activations (B, ...). Not modified.

    Returns:
        Mixed; the mask is the constant lam.
    """
    check_pair(x, partner, lam)
    mask = as_map(lam, x)
    return Mixed(blend(x, partner, mask), lam, mask)


@dataclass
class NoMixup(Augmentation):
    """Does not mix: returns the batch unchanged, with lam 1. The baseline of every comparison.

    The batch's ``images`` are the very tensor that came in, not a copy.

    Example:
        >>> batch = samix.NoMixup()(images, labels)
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "vanilla"

    def mix(
        self, images: Tensor, lam: Tensor | float | None = None, index: Tensor | None = None
    ) -> tuple[Mixed, Tensor]:
        own = torch.arange(len(images), device=images.device) if index is None else index
        _, own = self.draw(images, 1.0, own)
        ones = torch.ones(len(images), device=images.device)
        return Mixed(images, ones, as_map(ones, images)), own


@dataclass
class MixUp(Augmentation):
    """Adds two images, ``lam * A + (1 - lam) * B``, see :func:`mixup`.

    Published alphas: 1 (CIFAR), 0.2 (ImageNet, CNNs; Zhang et al. 2018, arXiv:1710.09412), 0.8 (DeiT), 0.1 (RSB).

    Example:
        >>> mix = samix.MixUp(alpha=0.2)
        >>> batch = mix(torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]))
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "mixup"

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        return mixup(x, partner, lam)

    def apply_rows(self, x: Tensor, index: Tensor, lam: Tensor, **extras: Tensor) -> Mixed:
        if x.dtype not in (torch.float32, torch.float64) or type(self).apply is not MixUp.apply:
            return super().apply_rows(x, index, lam, **extras)
        mask = as_map(lam, x)
        return Mixed(take_rows(x, index).lerp_(x, mask.to(x.dtype)), lam, mask)


@dataclass(init=False)
class RandomChoice(Augmentation):
    """Mixes each batch by one of several mixups, drawn at random.

    All draws come from one generator, this object's: the mixups are copied and given it. For batches that stay unmixed,
    make :class:`NoMixup` one of the choices.

    Args:
        choices: the mixups.
        weights: how often each is taken, relative to the others; None takes all alike.
        generator: CPU generator of every draw; None makes one from torch's seed.

    Example:
        >>> batch = samix.RandomChoice([samix.MixUp(alpha=0.8), samix.CutMix()], weights=[1, 2])(images, labels)
        >>> loss = batch.loss(model(batch.images))
    """

    name: ClassVar[str] = "random_choice"

    choices: tuple[Augmentation, ...] = ()
    weights: tuple[float, ...] = ()

    def __init__(
        self,
        choices: Sequence[Augmentation],
        weights: Sequence[float] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(generator=generator)  # type: ignore[arg-type]  # None makes one
        self.weights = tuple(float(weight) for weight in ([1.0] * len(choices) if weights is None else weights))
        if not choices or len(self.weights) != len(choices):
            raise ValueError(f"RandomChoice needs one weight per mixup, got {len(choices)} and {len(self.weights)}")
        if not all(0.0 <= weight < math.inf for weight in self.weights) or sum(self.weights) == 0.0:
            raise ValueError(f"weights must be finite, at least 0, and not all 0, got {self.weights}")
        self.choices = tuple(dataclasses.replace(choice, generator=self.generator) for choice in choices)

    @property
    def requirements(self) -> Requirements:
        return Requirements.joined([choice.requirements for choice in self.choices])

    @property
    def members(self) -> tuple[Augmentation, ...]:
        return self.choices

    parts = members

    def with_generator(self, generator: torch.Generator) -> Augmentation:
        return RandomChoice(self.choices, self.weights, generator=generator)

    def describe(self) -> str:
        return f"each column is a batch of its own, mixed by {' or '.join(one.name for one in self.choices)}"

    def choose(self) -> Augmentation:
        """Draws the mixup of this batch."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return self.choices[int(torch.multinomial(weights, 1, generator=self.generator))]

    def mix(
        self, images: Tensor, lam: Tensor | float | None = None, index: Tensor | None = None
    ) -> tuple[Mixed, Tensor]:
        return self.choose().mix(images, lam, index)

    def __call__(self, images: Tensor, labels: Tensor, **given: Any) -> MixedBatch:
        return self.choose()(images, labels, **given)

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        return self.choose().forward_through(model, images, labels)

    def attach(self, model: nn.Module, num_classes: int) -> nn.Module | None:
        made = [choice.attach(model, num_classes) for choice in self.choices]
        return nn.ModuleList([m for m in made if m is not None]) if any(m is not None for m in made) else None

    def options(self) -> dict[str, object]:
        choices = [{"name": choice.name, **choice.options()} for choice in self.choices]
        return {"choices": choices, "weights": list(self.weights)}
