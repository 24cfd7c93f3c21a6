"""Passes of a network over many images, in eval mode and without a trace."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from samix.networks.inference import evaluating

Predict = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> logits (B, K)


def predictor(network: nn.Module, batch_size: int = 100) -> Predict:
    """A network as a function of any number of images, run in batches, without a gradient and in eval mode.

    Args:
        network: maps (B, C, H, W) to logits (B, K), or to features (B, F); left in the mode it had.
        batch_size: images in a pass.

    Raises:
        ValueError: batch_size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    def predict(images: Tensor) -> Tensor:
        with evaluating(network):
            return torch.cat([network(part).float() for part in torch.split(images, batch_size)])

    return predict


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 in percent of logits (N, K) against labels (N,)."""
    return 100.0 * float((logits.argmax(1) == labels).float().mean())


def check_classified(images: Tensor, labels: Tensor) -> None:
    """Raises ValueError unless there is one class id for each of at least one image."""
    if len(images) == 0 or labels.shape != images.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels must be class ids ({len(images)},) of at least one image, got {labels.dtype} "
            f"{tuple(labels.shape)} for images {tuple(images.shape)}"
        )
