"""The batch that comes out of a mixup, what its labels have become, and the checks of what goes in.

Labels may be class ids, float targets (one-hot, multi-hot, regression values), or a value at each pixel (segmentation,
depth), which are mixed by the mask that mixed the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Mixed(NamedTuple):
    """What a policy returns: mixed images (B, C, H, W), lam (B,), mask (B, 1, H, W); all shares of the own image."""

    images: Tensor
    lam: Tensor
    mask: Tensor


@dataclass(frozen=True)
class MixedBatch:
    """A mixed batch and what its labels have become.

    Args:
        images: (B, C, H, W) mixed images, or a hidden feature map.
        labels: of the k sources: (B, k) int64 class ids; (B, k, K) float targets (one-hot, multi-hot, several values);
            (B, k) float values; or at each pixel, (B, k, H, W) int64 class ids or float values.
        weights: (B, k) float32 share of each source in the label; rows sum to 1 for all but SnapMix and TokenMix.
        index: (B, k) int64 row of each source; column 0 is the own row.
        mask: (B, 1, H, W) float32 share of the own image at each pixel, or None where there is no such thing.
        target: (B, K) dense target that replaces labels and weights, or None.
        extra: further terms of the loss that a mixup asks for, already weighed; :meth:`loss` adds them.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    index: Tensor
    mask: Tensor | None = None
    target: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

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
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
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
            ValueError: smoothing outside [0, 1), dense targets of another width, or labels that are single values.
        """
        check_smoothing(smoothing)
        total = self.weights.sum(1, keepdim=True)
        if self.target is not None:
            mixed, total = self.target.float(), self.target.float().sum(1, keepdim=True)
        elif self.labels.is_floating_point():
            if self.labels.dim() != 3:
                raise ValueError("these labels are values, not classes: train on batch.values, e.g. by F.mse_loss")
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
        """Cross-entropy against the mixed label, each sample weighed by its own lam before the mean, plus ``extra``.

        Args:
            logits: (B, K), or (B, K, H, W) for class ids at each pixel; any float type, computed in float32.
            smoothing: label smoothing in [0, 1).
            ignore_index: class id of pixels that do not count; for labels at each pixel only.

        Returns:
            Scalar, in nats.

        Raises:
            ValueError: labels that are values (use ``batch.values``), or logits of another shape.
        """
        return self.cross_entropy(logits, smoothing, ignore_index) + self.extra_loss

    def cross_entropy(self, logits: Tensor, smoothing: float = 0.0, ignore_index: int = -100) -> Tensor:
        """:meth:`loss` without the further terms."""
        if self.dense:
            return self._pixel_loss(logits, smoothing, ignore_index)
        if self.target is None and not self.labels.is_floating_point() and smoothing == 0.0:
            check_range(self.labels, logits.shape[1])
            log_p = F.log_softmax(logits.float(), dim=1)
            return -(self.weights * log_p.gather(1, self.labels)).sum(1).mean()
        return F.cross_entropy(logits.float(), self.soft_targets(logits.shape[1], smoothing))

    @property
    def extra_loss(self) -> Tensor:
        """The sum of the further terms, a scalar; 0 without any."""
        return sum(self.extra.values(), self.weights.new_zeros(()))

    def _pixel_loss(self, logits: Tensor, smoothing: float, ignore_index: int) -> Tensor:
        """Cross-entropy at each pixel, of each source by its share there; pixels to be ignored are left out."""
        check_smoothing(smoothing)
        if self.labels.is_floating_point():
            raise ValueError("these labels are values, not classes: train on batch.values, e.g. by F.mse_loss")
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


def check_smoothing(smoothing: float) -> None:
    """Raises ValueError unless smoothing is in [0, 1)."""
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")


def pair_batch(mixed: Mixed, labels: Tensor, index: Tensor) -> MixedBatch:
    """Puts labels to a pairwise mix: weights (lam, 1 - lam).

    Rows that are paired with themselves, as in a batch of one, are unmixed whatever was drawn: their lam is 1.
    """
    rows = torch.arange(len(index), device=index.device)
    pairs = torch.stack([rows, index], dim=1)
    lam = mixed.lam.masked_fill(index == rows, 1.0)
    labels = labels if labels.is_floating_point() else labels.long()
    return MixedBatch(
        images=mixed.images,
        labels=labels[pairs],
        weights=torch.stack([lam, 1.0 - lam], dim=1),
        index=pairs,
        mask=mixed.mask,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Checks at the border. Nothing here reads values on the device: shapes and types only.


def check_images(images: Tensor) -> None:
    """Raises unless images are floating point, (B, C, H, W), and not empty.

    Square images with three channels in the last axis, (B, H, H, 3), are refused too: no network takes H channels of
    three columns, and a box or a mask across such axes would be wrong without a word.

    Raises:
        TypeError: not a tensor.
        ValueError: integer pixels, another number or order of axes, or an empty axis.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}; use torch.as_tensor")
    if not images.is_floating_point():
        raise ValueError(
            f"images must be floating point, got {images.dtype}; convert and normalise first: images.float() / 255"
        )
    if images.dim() != 4 or 0 in images.shape:
        raise ValueError(f"images must have shape (B, C, H, W), none of them 0, got {tuple(images.shape)}")
    if images.shape[3] == 3 and images.shape[1] == images.shape[2] >= 8:
        raise ValueError(f"images look like (B, H, W, C), got {tuple(images.shape)}; use images.permute(0, 3, 1, 2)")


def check_labels(
    labels: Tensor, batch_size: int, num_classes: int | None = None, *, size: tuple[int, ...] | None = None
) -> None:
    """Raises unless labels fit this batch: (B,) class ids or values, (B, K) float targets, or (B, H, W) at each pixel.

    The range of class ids is checked only where it costs nothing: on the CPU, when num_classes is known.

    Args:
        labels: what came.
        batch_size: B.
        num_classes: K, or None where it is not known.
        size: (H, W) of the images where labels at each pixel are let in; None refuses them.

    Raises:
        TypeError: not a tensor.
        ValueError: wrong length, shape, type or range.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a torch.Tensor, got {type(labels).__name__}; use torch.as_tensor")
    if labels.dtype in (torch.bool, torch.uint8):
        raise ValueError(
            f"labels must be int64 class ids or float targets, got {labels.dtype}; use .long() or .float()"
        )
    if size is not None and labels.shape == (batch_size, *size):
        return
    if labels.dim() not in (1, 2) or len(labels) != batch_size:
        dense = "" if size is None else f", or {(batch_size, *size)} for labels at each pixel"
        raise ValueError(
            f"labels must have shape ({batch_size},) or ({batch_size}, num_classes){dense}, got {tuple(labels.shape)}"
        )
    if labels.dim() == 2 and not labels.is_floating_point():
        raise ValueError(f"labels of shape (B, num_classes) must be floating point, got {labels.dtype}; use .float()")
    if num_classes is not None:
        _check_classes(labels, num_classes)


def _check_classes(labels: Tensor, num_classes: int) -> None:
    """Raises ValueError unless labels (B,) are class ids below num_classes, or (B, K) have as many columns."""
    if labels.dim() == 2 and labels.shape[1] != num_classes:
        raise ValueError(f"labels have {labels.shape[1]} columns, the network has {num_classes} classes")
    if labels.dim() == 1 and labels.is_floating_point():
        raise ValueError(f"class ids must be integers, got {labels.dtype}; use .long()")
    if labels.dim() == 1:
        check_range(labels, num_classes)


def check_range(labels: Tensor, num_classes: int) -> None:
    """Raises ValueError unless class ids are in [0, num_classes); looked at where it costs nothing, on the CPU only."""
    if labels.device.type != "cpu" or labels.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = torch.aminmax(labels)
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must be in [0, {num_classes - 1}], got values from {int(low)} to {int(high)}; "
            "check num_classes and whether your labels start at 0"
        )


def check_pair(x: Tensor, partner: Tensor, lam: Tensor) -> None:
    """Raises ValueError unless x and partner agree in shape and lam is (B,)."""
    if x.shape != partner.shape:
        raise ValueError(f"partner must have x's shape {tuple(x.shape)}, got {tuple(partner.shape)}")
    if lam.shape != x.shape[:1]:
        raise ValueError(f"lam must have shape ({len(x)},), got {tuple(lam.shape)}; use sample_lam")
