"""The kinds of labels, and the loss that fits each."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.runtime.checks import check_choice

# class: (B,) integer class ids. soft: (B, K) one-hot rows, or others that sum to 1. multilabel: (B, K) rows of 0 and 1
# with any sum. value: (B,) or (B, K) numbers to regress. pixel: (B, H, W) class ids or numbers at each pixel.
TargetKind = Literal["class", "soft", "multilabel", "value", "pixel"]

VALUES = "these labels are values, not classes: train on batch.values, e.g. by F.mse_loss"


def target_kind(labels: Tensor, targets: TargetKind | None = None, *, read: bool = False) -> TargetKind | None:
    """Tells the kind of unmixed labels.

    Shape and type tell (B,) and (B, H, W). The values tell (B, K): rows that sum to 1 (within 0.01) are soft, other
    rows of 0 and 1 are multilabel, rows with numbers outside [0, 1] are values.

    Args:
        labels: (B,), (B, K) or (B, H, W).
        targets: the kind where the caller knows it.
        read: look at values on an accelerator too, which waits for it.

    Returns:
        The kind; None for (B, K) rows of other numbers in [0, 1], and on an accelerator unless ``read``.
    """
    if targets is not None:
        check_choice("targets", targets, get_args(TargetKind))
        dims = {"class": (1,), "soft": (2,), "multilabel": (2,), "value": (1, 2), "pixel": (3,)}[targets]
        if labels.dim() not in dims or (targets == "class" and labels.is_floating_point()):
            got = f"{labels.dtype} {tuple(labels.shape)}"
            raise ValueError(f'targets="{targets}" does not fit labels {got}; leave targets away, or give other labels')
        return targets
    if labels.dim() != 2:
        return "pixel" if labels.dim() == 3 else "value" if labels.is_floating_point() else "class"
    if labels.device.type != "cpu" and not read:
        return None
    soft, binary, inside = (bool(flag) for flag in _row_flags(labels))
    return "soft" if soft else "multilabel" if binary else None if inside else "value"


def _row_flags(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether all rows (N, K) sum to 1 over several classes, are of 0 and 1, and lie in [0, 1]; scalars, no sync."""
    values = rows.float()
    inside = ((values >= 0.0) & (values <= 1.0)).all()
    soft = inside & ((values.sum(1) - 1.0).abs() <= 0.01).all() & (rows.shape[1] > 1)
    return soft, ((values == 0.0) | (values == 1.0)).all(), inside


def as_targets(labels: Tensor, targets: TargetKind | None = None) -> Tensor:
    """Returns class ids as int64, and (B, K) and values as floating point."""
    if labels.is_floating_point():
        return labels
    return labels.float() if labels.dim() == 2 or targets == "value" else labels.long()


def target_loss(logits: Tensor, targets: Tensor, kind: TargetKind | None, *, reduction: str = "mean") -> Tensor:
    """Computes the loss that fits unmixed labels, or mixed targets of this kind.

    Args:
        logits: (B, K) or (B, K, H, W); predicted values (B,), (B, 1) or (B, K).
        targets: (B,), (B, K) or (B, H, W).
        reduction: ``mean`` or ``sum``.
    """
    logits = logits.float()
    if kind is None:
        return undecided_loss(logits, targets, targets, reduction=reduction)
    if kind == "value" and logits.dim() == targets.dim() + 1 and logits.shape[1] == 1:
        logits = logits.squeeze(1)
    if kind in ("value", "multilabel", "soft") and logits.shape != targets.shape:
        hint = "; for another loss train on batch.values" if kind == "value" else ""
        raise ValueError(
            f"labels {tuple(targets.shape)} of kind {kind!r} do not fit logits {tuple(logits.shape)}{hint}"
        )
    if kind == "value":
        return F.mse_loss(logits, targets.float(), reduction=reduction)
    if kind == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, targets.float().clamp(max=1.0), reduction=reduction)
    if kind == "pixel" and targets.is_floating_point():
        raise ValueError(VALUES)
    try:
        return F.cross_entropy(logits, targets.float() if kind == "soft" else targets.long(), reduction=reduction)
    except (IndexError, RuntimeError) as error:  # torch's, of class ids out of range or of another shape
        what = f"labels {tuple(targets.shape)} do not fit logits {tuple(logits.shape)}"
        raise ValueError(f"{what}: {' '.join(str(error).split())}") from error


def undecided_loss(logits: Tensor, targets: Tensor, rows: Tensor, *, reduction: str = "mean") -> Tensor:
    """The loss for (B, K) targets of a kind that the values of the unmixed ``rows`` (N, K) decide.

    On an accelerator both losses are computed and the device chooses, so nothing waits; NaN where neither fits.
    """
    if rows.device.type == "cpu":
        raise ValueError(
            f"labels {tuple(rows.shape)} are neither rows that sum to 1 nor rows of 0 and 1, so the loss is not clear; "
            'say targets="soft", "multilabel" or "value", as in CutMix(targets="value") or Supervised(targets=...)'
        )
    soft, binary, _ = _row_flags(rows)
    one = target_loss(logits, targets, "soft", reduction=reduction)
    several = target_loss(logits, targets, "multilabel", reduction=reduction)
    return torch.where(soft, one, torch.where(binary, several, torch.nan))
