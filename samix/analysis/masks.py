"""How masks follow lambda, and how this comes about in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from samix.batch import MixedBatch
from samix.viz.mixes import mask_statistics


@dataclass(frozen=True)
class MaskNumbers:
    """How masks follow lambda.

    Args:
        spread: standard deviation within a mask, averaged over masks: 0 is plain mixup, 0.5 a binary mask of half.
        correlation: of the masks' means with lambda, 0 where either is constant.
        error: mean of |mean of a mask - lambda|.
        lams: lambda asked for.
        means: mean of all masks at each lambda.
    """

    spread: float
    correlation: float
    error: float
    lams: tuple[float, ...]
    means: tuple[float, ...]


@dataclass(frozen=True)
class MaskHistory:
    """Mask statistics by epoch, as a run has logged them on its training batches or previews.

    Args:
        epochs: with a log.
        spread: standard deviation within a mask.
        error: |mean of a mask - lambda|.
    """

    epochs: tuple[int, ...]
    spread: tuple[float, ...]
    error: tuple[float, ...]


@torch.no_grad()
def mask_numbers(mix: Callable[[float], MixedBatch | None], lams: Sequence[float]) -> MaskNumbers:
    """Statistics of the masks of fixed pairs at several lambdas.

    Args:
        mix: lam to the mixed batch.
        lams: in [0, 1], one or more.

    Raises:
        ValueError: no lambda, or a mixup without masks.
    """
    batches = [mix(float(lam)) for lam in lams]
    masked = [batch for batch in batches if batch is not None and batch.mask is not None]
    if not masked or len(masked) < len(batches):
        raise ValueError("this mixup gives no masks to measure; choose one that does, such as --mixup cutmix")
    told = mask_statistics(masked)
    means = [batch.mask.float().mean((1, 2, 3)) for batch in masked if batch.mask is not None]
    errors = torch.cat([(mean - float(lam)).abs() for mean, lam in zip(means, lams, strict=True)])
    return MaskNumbers(
        told["std"],
        told["correlation"],
        float(errors.mean()),
        tuple(map(float, lams)),
        tuple(float(mean.mean()) for mean in means),
    )


def mask_history(rows: Sequence[Mapping[str, float]]) -> MaskHistory:
    """What ``metrics.jsonl`` says of the masks; empty where nothing was logged.

    Args:
        rows: one mapping for each epoch, in order.
    """
    logged = [row for row in rows if "mask_std" in row and "mask_error" in row]
    return MaskHistory(
        tuple(int(row["epoch"]) for row in logged),
        tuple(float(row["mask_std"]) for row in logged),
        tuple(float(row["mask_error"]) for row in logged),
    )
