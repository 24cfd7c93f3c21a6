"""Checks of what goes into a mixup: shapes and types; values only where they lie on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from samix.runtime.checks import check_number


def check_smoothing(smoothing: float) -> None:
    """Raises ValueError unless smoothing is in [0, 1)."""
    check_number("smoothing", smoothing, 0, 1, open_high=True)


def labelled_batch(batch: object) -> tuple[Tensor, Tensor]:
    """Returns both parts of a batch; raises ValueError unless it has two."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    got = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
    raise ValueError(
        f"a batch is (images, labels), got {got}; call method(images, labels). Images without labels are trained on by "
        "a method of two views, as samix.MoCo"
    )


def check_images(images: Tensor) -> None:
    """Raises unless images are floating point, (B, C, H, W), and not empty.

    Square images with three channels in the last axis, (B, H, H, 3), are refused too: no network takes H channels of
    three columns, and a box or a mask across such axes would be wrong without a word.
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
    """Raises unless labels fit this batch: (B,) class ids or values, (B, K) targets, or (B, H, W) at each pixel.

    The range of class ids is checked only where it costs nothing: on the CPU, when num_classes is known.

    Args:
        labels: what came.
        batch_size: B.
        num_classes: K, or None where it is not known.
        size: (H, W) of the images where labels at each pixel are let in; None refuses them.
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
    if labels.dim() == 2 and not labels.is_floating_point() and labels.device.type == "cpu" and not _binary(labels):
        raise ValueError(
            f"integer labels of shape (B, num_classes) must be one-hot or multi-hot, of 0 and 1; got values up to "
            f"{int(labels.max())}; use .float() for values"
        )
    if num_classes is not None:
        _check_classes(labels, num_classes)


def _binary(labels: Tensor) -> bool:
    """Whether all labels are 0 or 1."""
    return bool(((labels == 0) | (labels == 1)).all())


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
