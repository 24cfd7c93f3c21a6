"""Passes of a network over many images, in eval mode and without a gradient, and mixing of many images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from samix.batch import MixedBatch
from samix.networks.inference import evaluating

Predict = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> logits (B, K)
Mix = Callable[[Tensor, Tensor, float, Tensor], MixedBatch]  # images, labels, lam, partners' rows


def predictor(network: nn.Module, batch_size: int = 100) -> Predict:
    """Makes a function of any number of images (N, C, H, W), which runs the network in batches; its mode is kept."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    def predict(images: Tensor) -> Tensor:
        with evaluating(network):
            return torch.cat([network(part).float() for part in torch.split(images, batch_size)])

    return predict


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Returns top-1 in percent of logits (N, K) against labels (N,)."""
    return 100.0 * float((logits.argmax(1) == labels).float().mean())


def check_classified(images: Tensor, labels: Tensor) -> None:
    """Raises ValueError unless there is one class id for each of at least one image."""
    if len(images) == 0 or labels.shape != images.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels must be class ids ({len(images)},) of at least one image, got {labels.dtype} "
            f"{tuple(labels.shape)} for images {tuple(images.shape)}"
        )


def mixed_in_parts(
    mix: Mix, images: Tensor, labels: Tensor, index: Tensor, batch_size: int
) -> Callable[[float], MixedBatch]:
    """Makes a function of lam that mixes all pairs in parts of ``batch_size`` images; partners lie in the same part."""

    def at(lam: float) -> MixedBatch:
        slices = [slice(start, start + batch_size) for start in range(0, len(images), batch_size)]
        parts = [mix(images[rows], labels[rows], lam, index[rows] - rows.start) for rows in slices]
        masks = [part.mask for part in parts if part.mask is not None]
        return MixedBatch(
            torch.cat([part.images for part in parts]),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.weights for part in parts]),
            torch.cat([part.index + n * batch_size for n, part in enumerate(parts)]),
            torch.cat(masks) if len(masks) == len(parts) else None,
        )

    return at


def partners_within(count: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Draws (count,) partners, each another image of the same part; the image of a part of one is its own partner."""
    parts = []
    for start in range(0, count, batch_size):
        order = torch.randperm(min(batch_size, count - start), generator=generator)
        parts.append(start + torch.empty_like(order).scatter_(0, order, order.roll(-1)))
    return torch.cat(parts)
