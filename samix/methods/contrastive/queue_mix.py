"""MoCo's step for methods that fix how images are mixed: i-Mix, Un-Mix, MixCo, BSIM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.losses.contrastive import mixed_info_nce
from samix.methods.base import choose_options, detached
from samix.methods.contrastive.base import spread
from samix.methods.contrastive.mixup import AugmentationMixup, Views, check_views
from samix.methods.contrastive.moco import MoCo, MoCoOptions
from samix.mixups.base import Augmentation


class QueueMixOptions(MoCoOptions):
    """MoCo's options of a method that says how images are mixed."""

    def build_mixup(self) -> Augmentation:
        """The mixup of images."""
        raise NotImplementedError


def check_even(rows: int, method: str, pairs: str) -> None:
    """Raises ValueError for an odd number of rows; ``pairs`` says what the method does with them."""
    if rows % 2:
        raise ValueError(f"{method} {pairs}, which takes an even batch, got {rows}; change batch_size")


class QueueMix(MoCo):
    """MoCo in which a view is contrasted in another way; a subclass writes :meth:`terms`.

    Args:
        options: of the method, or the name of a preset; None is the first preset.
        mixup: None; the method mixes by itself.
    """

    fixed_mixing = "it fixes how images are mixed"
    trains_mixer = False

    presets: ClassVar[Mapping[str, QueueMixOptions]]
    mixup: AugmentationMixup

    def __init__(
        self,
        model: nn.Module,
        options: QueueMixOptions | str | None = None,
        *,
        mixup: Augmentation | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        chosen: QueueMixOptions = choose_options(options, self.presets)
        image_mix = chosen.build_mixup()
        super().__init__(model, chosen, mixup=mixup, generator=generator)
        self.mixup = AugmentationMixup(image_mix, self.generator)

    def training_step(self, batch: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the loss of one direction, or the mean over both; the queue takes in the keys of clean views."""
        view_q, view_k, _ = check_views(batch)
        negatives = self.queue.snapshot()
        directions = [(view_q, self.keys(view_k))]
        if self.options.symmetric:
            directions.append((view_k, self.keys(view_q)))
        results = [self.terms(view, key, negatives) for view, key in directions]
        loss = torch.stack([loss for loss, _ in results]).mean()
        parts = {name: torch.stack([terms[name] for _, terms in results]).mean() for name in results[0][1]}
        if self.training:
            for _, key in directions:
                self.queue.enqueue(key)
        parts["key_std"] = spread(directions[0][1])
        return loss, detached(parts)

    def terms(self, view: Tensor, key: Tensor, negatives: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one direction, and its parts.

        Args:
            view: (B, C, H, W) the view that is mixed.
            key: (B, D) unit keys of the other view, without gradient.
            negatives: (K, D).
        """
        raise NotImplementedError

    def separate(self, z: Tensor, mixed: MixedBatch, key: Tensor, negatives: Tensor) -> Tensor:
        """The mean loss of mixes z (B, D), a softmax for each source."""
        keys = key[mixed.index]  # (B, k, D)
        return mixed_info_nce(z, keys, mixed.weights, negatives, self.options.temperature).mean()

    def beside_clean(
        self, mixed: Tensor, clean_weight: float, view: Tensor, key: Tensor, negatives: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum with the clean loss; with a clean weight of 0 there is no clean pass."""
        loss, parts = self.options.mixed_weight * mixed, {"mixed": mixed}
        if clean_weight:
            nce = self.contrast(view, key, negatives)
            loss, parts = loss + clean_weight * nce, {"nce": nce, **parts}
        return loss, parts
