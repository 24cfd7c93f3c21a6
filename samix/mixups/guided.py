"""What mixups share that look at a map of each image before they mix: where it comes from, and when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch, pair_batch
from samix.mixups.base import Augmentation, Guides, as_lam, take_rows
from samix.mixups.saliency import spectral_residual
from samix.networks.inference import plain_errors


@dataclass
class GuidedAugmentation(Augmentation):
    """Base of mixups guided by a map (B, h, w) of each image: saliency, attention, activation.

    A subclass gives :meth:`look`, which makes the maps of a batch, and :meth:`apply`, its policy, which is given them
    as ``guides``. The map may have any resolution; it is at least 0. A caller who has maps hands them in as ``guide``,
    and no model is needed.

    Args:
        mean: by channel, with which the images were normalised; None scales each image by its own range instead.
        std: as mean.
    """

    family: ClassVar[str] = "Guided by maps"

    mean: tuple[float, ...] | None = field(default=None, kw_only=True)
    std: tuple[float, ...] | None = field(default=None, kw_only=True)

    def look(self, images: Tensor, labels: Tensor, model: nn.Module | None) -> Tensor:
        """The map of each image, (B, h, w) float32, at least 0; leaves the model as it was."""
        raise NotImplementedError

    def draw_index(self, guide: Tensor) -> Tensor | None:
        """(B,) partners that the maps ask for, or None to draw them as ``pairing`` says."""
        return None

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        lam: Tensor | float | None = None,
        index: Tensor | None = None,
        model: nn.Module | None = None,
        guide: Tensor | None = None,
    ) -> MixedBatch:
        """Mixes a batch; where none of its rows is to be mixed (``prob``), nothing is looked at.

        Args:
            model: the network in training, for mixups that look at it; left as it was.
            guide: (B, h, w) maps made before, float, at least 0; then no model is needed.

        Returns:
            MixedBatch.
        """
        self.check_batch(images, labels)
        if guide is None and model is None and self.requirements.model:
            raise ValueError(
                f"{type(self).__name__} looks at the network: give model=, or the maps (B, h, w) as guide=; in a loop, "
                "mix(images, labels, model=model)"
            )
        lam = self.draw_lam(len(images)) if lam is None else as_lam(lam, len(images))
        if guide is None and len(images) > 1 and not (lam.device.type == "cpu" and bool((lam == 1).all())):
            with plain_errors(images, model) if model is not None else nullcontext():
                guide = self.look(images, labels, model)
        if guide is None:  # nothing is to be mixed
            guide = torch.ones(len(images), 1, 1, device=images.device)
            index = torch.arange(len(images)) if index is None else index
        check_guide(guide, images)
        return self.mix_guided(images, labels, guide.float(), lam, index)

    def mix_guided(
        self, images: Tensor, labels: Tensor, guide: Tensor, lam: Tensor, index: Tensor | None
    ) -> MixedBatch:
        """Draws pairs, applies the policy, and puts labels to it."""
        lam, index = self.draw(images, lam, self.draw_index(guide) if index is None else index)
        rows = take_rows(images, index)
        mixed = self.apply(images, rows, lam, (guide, guide[index]), **self.extras_for(images))
        return pair_batch(mixed, labels, index, self.targets)

    def describe(self) -> str:
        if self.requirements.model:
            return "by spectral residuals in place of the network's maps"
        return {"spectral": "by spectral residuals", "fine": "by fine-grained saliency"}.get(
            str(self.options().get("saliency")), "by maps"
        )

    def preview_guide(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Returns its own maps, or spectral residuals where its own are read from the network."""
        if self.requirements.model:
            return spectral_residual(images, self.mean, self.std)
        return self.look(images, labels, None)

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if self.mean is None:
            self.mean, self.std = tuple(mean), tuple(std)


def check_guide(guide: Tensor, images: Tensor) -> None:
    """Raises unless guide is a float map (B, h, w) of these images."""
    if not isinstance(guide, Tensor):
        raise TypeError(f"guide must be a torch.Tensor, got {type(guide).__name__}; use torch.as_tensor")
    if guide.dim() != 3 or len(guide) != len(images) or not guide.is_floating_point() or 0 in guide.shape:
        raise ValueError(
            f"guide must be a float map ({len(images)}, h, w) of each image, got {guide.dtype} {tuple(guide.shape)}"
        )
    if guide.device != images.device:
        raise ValueError(f"guide is on {guide.device}, the images on {images.device}; move it with guide.to(...)")


def need_guides(guides: Guides | None) -> Guides:
    """Returns the guides, or raises ValueError where there are none."""
    if guides is None:
        raise ValueError("this mixup needs a map of each image: call mix(images, labels, model=model), or give guide=")
    return guides
