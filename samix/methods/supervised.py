"""Supervised training with any hand-made or hidden mixup, or with none."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from samix.methods.base import Batch, Method, evaluating
from samix.mixing import Augmentation, MixedBatch, check_images, check_labels


class Supervised(Method):
    """One network, one mixup, cross-entropy against the mixed labels.

    Args:
        model: any classifier, (B, C, H, W) -> (B, K).
        mixup: an augmentation object.
        num_classes: K, to check labels; None checks their shape only.
        smoothing: label smoothing in [0, 1).
    """

    def __init__(
        self, model: nn.Module, mixup: Augmentation, *, num_classes: int | None = None, smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.model, self.mixup, self.num_classes, self.smoothing = model, mixup, num_classes, smoothing

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """``CE(model(mix(images)), mixed labels)``.

        Raises:
            ValueError: images or labels of the wrong type, shape or range.
        """
        images, labels = batch
        check_images(images)
        check_labels(labels, len(images), self.num_classes)
        logits, mixed = self.mixup.forward_through(self.model, images, labels)
        loss = mixed.loss(logits, self.smoothing)
        return loss, {"mixed": loss.detach()}

    def generators(self) -> list[torch.Generator]:
        """The mixup's generator."""
        return [self.mixup.generator]

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) of the network."""
        return {"network": self.model(images)}

    def preview(self, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor) -> MixedBatch | None:
        """The mixup of these pairs; its draws beyond lam are new each time but do not move the run's generator."""
        state = self.mixup.generator.get_state()
        try:
            with evaluating(self):
                return self.mixup(images, labels, lam=lam, index=index)
        finally:
            self.mixup.generator.set_state(state)

    def export(self) -> nn.Module:
        """A copy of the network, in eval mode."""
        return copy.deepcopy(self.model).eval()
