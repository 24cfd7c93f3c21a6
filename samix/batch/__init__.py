"""The mixed batch, the kinds of its labels, its loss, and the checks of images and labels.

Labels are of one of five kinds, see :data:`TargetKind`. :func:`target_kind` tells the kind from type, shape and values;
``CutMix(targets="multilabel")`` and ``Supervised(..., targets="multilabel")`` say it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.batch.checks import check_images, check_labels, check_pair, check_range, check_smoothing, labelled_batch
from samix.batch.targets import VALUES, TargetKind, as_targets, target_kind, target_loss, undecided_loss

__all__ = [
    "Mixed",
    "MixedBatch",
    "TargetKind",
    "as_targets",
    "check_images",
    "check_labels",
    "check_pair",
    "check_range",
    "check_smoothing",
    "labelled_batch",
    "pair_batch",
    "target_kind",
    "target_loss",
    "unmixed",
]


class Mixed(NamedTuple):
    """What a policy returns: mixed images (B, C, H, W), lam (B,) and mask (B, 1, H, W). Both are shares of image A.

    Example:
        >>> from samix.mixups.handmade import mixup
        >>> a, b = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
        >>> mixed = mixup(a, b, lam=torch.tensor([0.25, 1.0]))
        >>> float(mixed.images[0].mean()), mixed.lam.tolist()
        (0.75, [0.25, 1.0])
    """

    images: Tensor
    lam: Tensor
    mask: Tensor


@dataclass(frozen=True)
class MixedBatch:
    """A mixed batch: images, the labels of their sources, and the weight of each.

    Args:
        images: (B, C, H, W) mixed images, or a hidden feature map.
        labels: of the k sources: (B, k) int64 class ids; (B, k, K) float targets; (B, k) float values; or at each
            pixel, (B, k, H, W) int64 class ids or float values.
        weights: (B, k) float32 share of each source in the label; rows sum to 1 for all but SnapMix and TokenMix.
        index: (B, k) int64 row of each source; column 0 is the own row.
        mask: (B, 1, H, W) float32 share of the own image at each pixel, or None where there is no such thing.
        target: (B, K) dense target that replaces labels and weights, or None.
        extra: further terms of the loss that a mixup asks for, already weighed; :meth:`loss` adds them.
        kind: of the labels; None where :func:`target_kind` cannot tell.

    Example:
        >>> images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
        >>> batch = samix.MixUp()(images, labels, lam=0.7, index=torch.tensor([1, 0, 3, 2]))
        >>> batch.labels.tolist()
        [[3, 1], [1, 3], [4, 1], [1, 4]]
        >>> batch.soft_targets(num_classes=5)[0]
        tensor([0.0000, 0.3000, 0.0000, 0.7000, 0.0000])
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    index: Tensor
    mask: Tensor | None = None
    target: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    kind: TargetKind | None = None

    def __post_init__(self) -> None:
        if self.kind is None:
            labels = self.labels.flatten(0, 1)  # one row per source
            kind = "soft" if self.target is not None else target_kind(labels)
            object.__setattr__(self, "kind", kind)

    @property
    def lam(self) -> Tensor:
        """(B,) share of the own label."""
        return self.weights[:, 0]

    @property
    def partner_labels(self) -> Tensor:
        """(B,), (B, K) or (B, H, W): the label of the second source."""
        return self.labels[:, 1]

    @property
    def dense(self) -> bool:
        """Whether there is a label at each pixel."""
        return self.labels.dim() == 4

    @property
    def shares(self) -> Tensor:
        """The weight of each source where its label is: (B, k), or (B, 2, H, W) for labels at each pixel."""
        if not self.dense:
            return self.weights
        if self.mask is None:
            raise ValueError("labels at each pixel need a mask, and this mixup has none; use one that masks pixels")
        return torch.cat([self.mask, 1.0 - self.mask], dim=1).expand_as(self.labels)

    @property
    def values(self) -> Tensor:
        """Float labels, mixed: (B,), (B, K) or (B, H, W) float32; what a regression is trained on.

        Raises:
            ValueError: the labels are class ids, whose mean has no meaning.
        """
        if not self.labels.is_floating_point():
            raise ValueError(f"values are for float labels, these are {self.labels.dtype} class ids; use soft_targets")
        shares = self.shares
        shares = shares.reshape(*shares.shape, *[1] * (self.labels.dim() - shares.dim()))
        return (shares * self.labels.float()).sum(1)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MixedBatch:
        """This batch on another device."""
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> MixedBatch:
        """This batch in pinned memory, from where it moves to a GPU without waiting; a DataLoader calls this."""
        return self._each(lambda part: (part.contiguous() if 0 in part.stride() else part).pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> MixedBatch:
        """This batch with each of its tensors changed."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("extra", "kind")}
        changed: dict[str, Any] = {name: None if part is None else change(part) for name, part in parts.items()}
        return replace(self, **changed, extra={name: change(term) for name, term in self.extra.items()})

    def soft_targets(self, num_classes: int, smoothing: float = 0.0) -> Tensor:
        """The dense target, float32.

        Smoothing commutes with mixing: the result is ``(1 - smoothing) * mixed + smoothing / num_classes``, the second
        term times the sum of the weights where that is not 1.

        Args:
            num_classes: K, at least one more than the largest label.
            smoothing: label smoothing in [0, 1).

        Returns:
            (B, K), or (B, K, H, W) for class ids at each pixel; rows sum to 1 when labels are class ids and weights do.

        Raises:
            ValueError: smoothing outside [0, 1), dense targets of another width, or labels that are values.
        """
        check_smoothing(smoothing)
        if self.kind == "value":
            raise ValueError(VALUES)
        total = self.weights.sum(1, keepdim=True)
        if self.target is not None:
            mixed, total = self.target.float(), self.target.float().sum(1, keepdim=True)
        elif self.labels.is_floating_point():
            if self.labels.dim() != 3:
                raise ValueError(VALUES)
            mixed, total = self.values, torch.ones_like(total)  # multi-hot rows have any sum: smoothed as a whole
        else:
            check_range(self.labels, num_classes)
            shares = self.shares
            mixed = torch.zeros(len(self.labels), num_classes, *self.labels.shape[2:], device=shares.device)
            mixed = mixed.scatter_add(1, self.labels, shares)
            total = shares.sum(1, keepdim=True)
        if mixed.shape[1] != num_classes:
            raise ValueError(f"targets have {mixed.shape[1]} columns, expected num_classes = {num_classes}")
        return mixed * (1.0 - smoothing) + total * (smoothing / num_classes) if smoothing else mixed

    def loss(self, logits: Tensor, smoothing: float = 0.0, ignore_index: int = -100) -> Tensor:
        """Loss against the mixed label, each sample weighed by its own lam before the mean, plus ``extra``.

        Cross-entropy for one class per image or pixel, binary cross-entropy (the mean over classes) for several classes
        per image, the squared error for values.

        Args:
            logits: (B, K); (B, K, H, W) for class ids at each pixel; the predicted values, (B,), (B, 1) or (B, K), for
                values. Any float type, computed in float32.
            smoothing: label smoothing in [0, 1); not for values.
            ignore_index: class id of pixels that do not count; for labels at each pixel only.

        Returns:
            Scalar; in nats, but for values.

        Raises:
            ValueError: labels whose kind is not known, numbers at each pixel, or logits of another shape.
        """
        return self.label_loss(logits, smoothing, ignore_index) + self.extra_loss

    def label_loss(self, logits: Tensor, smoothing: float = 0.0, ignore_index: int = -100) -> Tensor:
        """Computes :meth:`loss` without the further terms."""
        if self.dense:
            return self._pixel_loss(logits, smoothing, ignore_index)
        if self.target is None and not self.labels.is_floating_point() and smoothing == 0.0:
            check_range(self.labels, logits.shape[1])
            log_p = F.log_softmax(logits.float(), dim=1)
            return -(self.weights * log_p.gather(1, self.labels)).sum(1).mean()
        if self.kind == "value":
            if smoothing:
                raise ValueError(
                    f"label smoothing is for classes and these labels are values; set it to 0, got {smoothing}"
                )
            return target_loss(logits, self.values, "value")
        targets = self.soft_targets(logits.shape[1], smoothing)
        if self.kind is None:  # the kind is read from the labels as they were before mixing
            return undecided_loss(logits, targets, self.labels.flatten(0, 1))
        return target_loss(logits, targets, "multilabel" if self.kind == "multilabel" else "soft")

    @property
    def extra_loss(self) -> Tensor:
        """The sum of the further terms, a scalar; 0 without any."""
        return sum(self.extra.values(), self.weights.new_zeros(()))

    def _pixel_loss(self, logits: Tensor, smoothing: float, ignore_index: int) -> Tensor:
        """Cross-entropy at each pixel, of each source by its share there; pixels to be ignored are left out."""
        check_smoothing(smoothing)
        if self.labels.is_floating_point():
            raise ValueError(VALUES)
        if logits.dim() != 4 or logits.shape[2:] != self.labels.shape[2:]:
            raise ValueError(
                f"labels at each pixel need logits (B, K, {self.labels.shape[2]}, {self.labels.shape[3]}), "
                f"got {tuple(logits.shape)}; resize the logits first"
            )
        log_p = F.log_softmax(logits.float(), dim=1)
        counted = self.labels != ignore_index
        labels = torch.where(counted, self.labels, 0)
        check_range(labels, logits.shape[1])
        picked = log_p.gather(1, labels)
        nll = -(1.0 - smoothing) * picked - smoothing * log_p.mean(1, keepdim=True)
        shares = self.shares * counted
        return (shares * nll).sum() / shares.sum().clamp(min=1e-12)

    def accuracy(self, logits: Tensor) -> Tensor:
        """Share of the label's weight that the top prediction collects, averaged over the batch (and its pixels).

        Args:
            logits: (B, K), or (B, K, H, W).

        Returns:
            Scalar in [0, 1]; plain accuracy when lam is 1. For multi-hot targets, the share of top predictions that
            are among the labels, by weight.
        """
        best = logits.argmax(1, keepdim=True)
        if self.target is not None or self.labels.is_floating_point():
            return self.soft_targets(logits.shape[1]).gather(1, best).mean()
        return (self.shares * (self.labels == best)).sum(1).mean()


def pair_batch(mixed: Mixed, labels: Tensor, index: Tensor, targets: TargetKind | None = None) -> MixedBatch:
    """Puts labels to a pairwise mix: weights (lam, 1 - lam).

    Rows that are paired with themselves, as in a batch of one, are unmixed whatever was drawn: their lam is 1.
    """
    kind, labels = target_kind(labels, targets), as_targets(labels, targets)
    rows = torch.arange(len(index), device=index.device)
    pairs = torch.stack([rows, index], dim=1)
    lam = mixed.lam.masked_fill(index == rows, 1.0)
    return MixedBatch(
        images=mixed.images,
        labels=labels[pairs],
        weights=torch.stack([lam, 1.0 - lam], dim=1),
        index=pairs,
        mask=mixed.mask,
        kind=kind,
    )


def unmixed(images: Tensor, labels: Tensor, targets: TargetKind | None = None) -> MixedBatch:
    """Returns the batch of images (B, C, H, W) that are left as they are: lam 1, partners themselves."""
    ones, rows = torch.ones(len(images), device=images.device), torch.arange(len(images), device=images.device)
    mask = ones.view(-1, 1, 1, 1).expand(-1, 1, *images.shape[2:])
    return pair_batch(Mixed(images, ones, mask), labels, rows, targets)
