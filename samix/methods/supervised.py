"""Supervised training with any hand-made or hidden mixup, or with none."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch, TargetKind, check_images, check_labels, check_smoothing, labelled_batch, unmixed
from samix.methods.base import Batch, Method, settled_kind
from samix.mixups.base import Augmentation
from samix.networks.ema import untracked_batchnorm
from samix.networks.inference import evaluating
from samix.runtime.checks import check_number

Loss = Callable[[Tensor, MixedBatch], Tensor]  # (logits (B, K), batch) -> scalar


class Supervised(Method):
    """Trains a network with any mixup: the interface of a method, with smoothing, losses and a clean loss.

    Args:
        model: any classifier, (B, C, H, W) -> (B, K).
        mixup: an augmentation object.
        num_classes: K, to check labels and for mixups that train a head of their own; None checks shapes only.
        smoothing: label smoothing in [0, 1), of the default loss.
        loss: (logits, batch) -> scalar, see :mod:`samix.losses.supervised`; None is the mixed cross-entropy.
        targets: kind of the labels, see :data:`samix.batch.TargetKind`; None reads it from the labels. Multi-hot labels
            that happen to have one class each look like one-hot ones: say ``"multilabel"``.
        clean_weight: weight of the same loss on the images as they are, beside the mixed one; above 0 it costs a
            further pass.
        clean_share: share of a batch, its first images, that the clean loss sees; the others are mixed with each other,
            so that each image is shown once and the step costs what a plain one costs. 0 shows all of them both ways.

    Raises:
        ValueError: smoothing, clean_weight or clean_share out of range, clean_share without clean_weight, or a mixup
            that adds a clean loss of its own too.

    Example:
        >>> model = timm.create_model("test_resnet", num_classes=10)
        >>> method = samix.Supervised(model, samix.CutMix(), num_classes=10, smoothing=0.1)
        >>> images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
        >>> loss, parts = method(images, labels)
    """

    def __init__(
        self,
        model: nn.Module,
        mixup: Augmentation,
        *,
        num_classes: int | None = None,
        smoothing: float = 0.0,
        loss: Loss | None = None,
        targets: TargetKind | None = None,
        clean_weight: float = 0.0,
        clean_share: float = 0.0,
    ) -> None:
        super().__init__()
        if targets is not None:
            mixup.set_targets(targets)
        self.seen_kind: TargetKind | None = None
        check_smoothing(smoothing)
        check_clean_weight(clean_weight, mixup)
        check_number("clean_share", clean_share, 0, 1, open_high=True)
        if clean_share and not clean_weight:
            raise ValueError(
                f"clean_share is of the clean loss, which has no weight; set clean_weight=1, too, got {clean_share}"
            )
        self.model, self.mixup, self.num_classes, self.smoothing = model, mixup, num_classes, smoothing
        self.loss, self.clean_weight, self.clean_share = loss, clean_weight, clean_share
        self.heads = None if num_classes is None else mixup.attach(model, num_classes)

    def compile_parts(self, **options: object) -> None:
        """Compiles the network's pass, and those of networks that the mixup has of its own, as a frozen Mixer's.

        Raises:
            ValueError: a mixup that acts inside the network, where a compiled pass would not see it.
        """
        self.mixup.compile_parts(**options)
        if self.heads is not None:
            raise ValueError(f"{self.mixup.name} trains a head inside the network's pass; leave --compile out")
        self.model.compile(**options)

    @property
    def loss_parts(self) -> tuple[str, ...]:  # type: ignore[override]  # depends on the mixup
        """The mixed loss, the mixup's own terms, and the clean loss; see :class:`Method`."""
        clean = ("clean",) if self.clean_weight else ()
        return ("mixed", *self.mixup.requirements.own_losses, *clean)

    def training_step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """``loss(model(mix(images)), mixed labels)``, and the further terms that a mixup asks for.

        With ``clean_weight``, ``+ clean_weight * loss(model(images), labels)``: control experiments of methods that
        have such a term, as AutoMix. With ``clean_share`` each image is in one of the two terms.

        Raises:
            ValueError: images or labels of the wrong type, shape or range.
        """
        images, labels = labelled_batch(batch)
        check_images(images)
        check_labels(labels, len(images), self.num_classes, size=tuple(images.shape[2:]))
        self.settle_targets(labels)
        first = round(self.clean_share * len(images)) if self.clean_share else 0
        logits, mixed = self.forward_mixed(images[first:], labels[first:])
        main = self.loss_of(logits, mixed)
        total, parts = main + mixed.extra_loss, {"mixed": main, **mixed.extra}
        if self.clean_weight:
            images, labels = images[: first or None], labels[: first or None]
            clean = self.loss_of(self.model(images), unmixed(images, labels, self.mixup.targets))
            total, parts = total + self.clean_weight * clean, {**parts, "clean": clean}
        return total, {name: part.detach() for name, part in parts.items()}

    def forward_mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        """Mixes a batch and runs the network on it; with a clean share, statistics are of the clean images only."""
        with untracked_batchnorm(self.model) if self.clean_share else nullcontext():
            return self.mixup.forward_through(self.model, images, labels)

    def settle_targets(self, labels: Tensor) -> None:
        """Settles the kind of (B, K) labels by the first batch, so that all batches get one loss.

        Raises:
            ValueError: a multi-hot batch after others whose rows sum to 1.
        """
        if self.mixup.targets is None:
            self.seen_kind = settled_kind(self.seen_kind, labels)
            if self.seen_kind == "multilabel":
                self.mixup.set_targets(self.seen_kind)

    def loss_of(self, logits: Tensor, batch: MixedBatch) -> Tensor:
        """The loss of a batch, mixed or not, without further terms."""
        return batch.label_loss(logits, self.smoothing) if self.loss is None else self.loss(logits, batch)

    def start_epoch(self) -> None:
        self.mixup.reset()

    def extra_state(self) -> dict[str, Tensor]:
        return self.mixup.state_dict()

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        self.mixup.load_state_dict(state)

    def generators(self) -> list[torch.Generator]:
        return [self.mixup.generator]

    def predict(self, images: Tensor) -> dict[str, Tensor]:
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


def check_clean_weight(weight: float, mixup: Augmentation) -> None:
    """Raises ValueError unless this is a weight of the clean loss, and the only one."""
    check_number("clean_weight", weight, 0)
    for member in mixup.members:
        if weight and "clean" in member.requirements.own_losses:
            raise ValueError(
                f"the clean loss would count twice: clean_weight is {weight}, and {member.name} has one of its own; "
                "set one of them to 0"
            )
