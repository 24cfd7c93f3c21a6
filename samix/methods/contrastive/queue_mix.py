"""MoCo's step for methods that say themselves how images are mixed: i-Mix, Un-Mix, MixCo, BSIM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.losses.contrastive import mixed_info_nce
from samix.methods.contrastive.base import detached, spread
from samix.methods.contrastive.mixup import AugmentationMixup, check_views
from samix.methods.contrastive.moco import MoCo, MoCoOptions
from samix.mixers.learned import MaskGenerator
from samix.mixups.base import Augmentation
from samix.mixups.handmade import NoMixup


def refuse_mixup(mixup: Augmentation | MaskGenerator | None, method: str) -> None:
    """Raises ValueError for a mixup beside a method that says itself how it mixes; None and no mixup are let in."""
    if mixup is not None and not isinstance(mixup, NoMixup):
        raise ValueError(
            f"{method} fixes how images are mixed, so it takes no mixup, got {type(mixup).__name__}; leave it out "
            "(samix pretrain: --mixup vanilla), or give the mixup to moco, simclr, byol or mocov3"
        )


def check_even(rows: int, method: str, pairs: str) -> None:
    """Raises ValueError for an odd number of rows."""
    if rows % 2:
        raise ValueError(f"{method} {pairs}, which takes an even batch, got {rows}; change batch_size")


class QueueMix(MoCo):
    """MoCo in which a view is contrasted in another way; a subclass gives :meth:`terms`.

    Args:
        model: maps (B, C, H, W) to features (B, F), as for :class:`samix.MoCo`; trained in place.
        options: of the method, or the name of a preset.
        image_mix: what mixes images.
        mixup: None; the method mixes by itself.
        generator: CPU generator of all draws; None makes one from torch's seed.

    Raises:
        ValueError: unknown preset, a network that cannot be used, or a mixup.
    """

    mixing: AugmentationMixup

    def __init__(
        self,
        model: nn.Module,
        options: MoCoOptions,
        image_mix: Augmentation,
        *,
        mixup: Augmentation | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        refuse_mixup(mixup, type(self).__name__)
        super().__init__(model, options, generator=generator)
        self.mixing = AugmentationMixup(image_mix, self.generator)

    def forward(self, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One step: the loss of a direction, or the mean over both; keys of clean views are put into the queue.

        Args:
            batch: two views (B, C, H, W) of the same images, normalised.

        Returns:
            Loss, and its parts: ``nce`` where there is a clean loss, ``mixed``, and ``key_std``, the keys' spread (1 is
            healthy, 0 collapsed).

        Raises:
            ValueError: one view only, views of another shape, or a batch that cannot be paired.
        """
        view_q, view_k, _ = check_views(batch)
        negatives = self.queue.snapshot()
        directions = [(view_q, self.keys(view_k))]
        if self.options.symmetric:
            directions.append((view_k, self.keys(view_q)))
        found = [self.terms(view, key, negatives) for view, key in directions]
        loss = torch.stack([loss for loss, _ in found]).mean()
        parts = {name: torch.stack([terms[name] for _, terms in found]).mean() for name in found[0][1]}
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
        """The weighed sum with the clean loss; without a weight of its own there is no clean pass."""
        loss, parts = self.options.mixed_weight * mixed, {"mixed": mixed}
        if clean_weight:
            nce = self.contrast(view, key, negatives)
            loss, parts = loss + clean_weight * nce, {"nce": nce, **parts}
        return loss, parts
