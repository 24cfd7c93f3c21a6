"""Supervised training with any hand-made or hidden mixup, or with none."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch, check_images, check_labels, check_smoothing
from samix.methods.base import Batch, Method
from samix.mixing import Augmentation
from samix.networks.modes import evaluating

Loss = Callable[[Tensor, MixedBatch], Tensor]  # (logits (B, K), batch) -> scalar


class Supervised(Method):
    """One network, one mixup, and a loss against the mixed labels.

    Args:
        model: any classifier, (B, C, H, W) -> (B, K).
        mixup: an augmentation object.
        num_classes: K, to check labels and for mixups that train a head of their own; None checks shapes only.
        smoothing: label smoothing in [0, 1), of the default loss.
        loss: (logits, batch) -> scalar, see :mod:`samix.losses`; None is the mixed cross-entropy.
    """

    def __init__(
        self,
        model: nn.Module,
        mixup: Augmentation,
        *,
        num_classes: int | None = None,
        smoothing: float = 0.0,
        loss: Loss | None = None,
    ) -> None:
        super().__init__()
        check_smoothing(smoothing)
        self.model, self.mixup, self.num_classes, self.smoothing = model, mixup, num_classes, smoothing
        self.loss = loss
        self.heads = None if num_classes is None else mixup.attach(model, num_classes)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """``loss(model(mix(images)), mixed labels)``, and the further terms that a mixup asks for.

        Raises:
            ValueError: images or labels of the wrong type, shape or range.
        """
        images, labels = batch
        check_images(images)
        check_labels(labels, len(images), self.num_classes, size=tuple(images.shape[2:]))
        logits, mixed = self.mixup.forward_through(self.model, images, labels)
        main = mixed.cross_entropy(logits, self.smoothing) if self.loss is None else self.loss(logits, mixed)
        parts = {"mixed": main, **mixed.extra}
        return main + mixed.extra_loss, {name: part.detach() for name, part in parts.items()}

    def start_epoch(self) -> None:
        """Mixups that remember batches forget them."""
        self.mixup.reset()

    def extra_state(self) -> dict[str, Tensor]:
        """What the mixup remembers of earlier batches."""
        return self.mixup.state_dict()

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Gives it back."""
        self.mixup.load_state_dict(state)

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
                return self.mixup(images, labels, lam=lam, index=index, model=self.model)
        finally:
            self.mixup.generator.set_state(state)

    def export(self) -> nn.Module:
        """A copy of the network, in eval mode."""
        return copy.deepcopy(self.model).eval()
