"""Features of a split, computed once: the network is frozen, in eval mode, and looked at without a gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.networks.inference import evaluating

Features = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> (B, F)


def frozen(backbone: nn.Module) -> Features:
    """Makes a function of images from a backbone (B, C, H, W) -> (B, F): eval mode, no gradient, and the mode restored.

    The function raises ValueError where the backbone does not give (B, F).
    """

    def features(images: Tensor) -> Tensor:
        with evaluating(backbone):
            output = backbone(images)
        return checked(output, len(images))

    return features


def checked(output: object, count: int) -> Tensor:
    """Returns the features, or raises ValueError if they are not (count, F)."""
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != count:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"features must be ({count}, F), one vector an image, got {got}; give the pooled features")
    return output


def headless(network: nn.Module) -> nn.Module:
    """Copies a timm network so that it gives pooled features (B, F) instead of logits.

    Raises:
        ValueError: not a timm network; give a module that maps images to (B, F) instead.
    """
    reset = getattr(network, "reset_classifier", None)
    if reset is None:
        raise ValueError(
            f"{type(network).__name__} has no reset_classifier, so it is not a timm network; take its classifier away "
            "yourself and give what maps (B, C, H, W) to (B, F)"
        )
    backbone = copy.deepcopy(network)
    backbone.reset_classifier(0)  # type: ignore[operator]
    return backbone


def stage_features(network: nn.Module, stage: int, target: int = 9000) -> Features:
    """Makes features after an inner stage of a timm network, pooled to a square of cells so that F is about ``target``.

    The size is that of Goyal et al. 2019 (arXiv:1905.01235), who compare stages at about nine thousand numbers each: a
    ResNet-50 gives 12 x 12 x 64, 6 x 6 x 256, 4 x 4 x 512, 3 x 3 x 1024 and 2 x 2 x 2048.

    Args:
        network: a timm network.
        stage: as timm counts its intermediates; negative counts from the end.
        target: numbers wanted; at least one cell is kept.

    Returns:
        Function of images (B, C, H, W) to (B, D * s * s), with s = round(sqrt(target / D)).

    Raises:
        ValueError: no timm network, or no such stage.
    """
    model: Any = network
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"{type(network).__name__} is not a timm network, so its stages are unknown")
    count = len(model.feature_info)
    if not -count <= stage < count:
        raise ValueError(f"stage must be in {-count}..{count - 1} for this network, got {stage}")

    def features(images: Tensor) -> Tensor:
        with evaluating(network):
            maps = model.forward_intermediates(
                images, indices=[stage], stop_early=True, output_fmt="NCHW", intermediates_only=True
            )[-1]
        side = max(1, round((target / maps.shape[1]) ** 0.5))
        return F.adaptive_avg_pool2d(maps.float(), side).flatten(1)

    return features


@torch.no_grad()
def extract(features: Features, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Computes features (N, F) float32 and labels (N,) int64 of all batches, in their order and on their device.

    Args:
        features: images (B, C, H, W) to (B, F), see :func:`frozen`.
        batches: (images, labels (B,)) pairs, such as ``EvalBatches(...).batches()``.

    Raises:
        ValueError: no batches, features of another shape, or features that are not finite.
    """
    parts: list[Tensor] = []
    labels: list[Tensor] = []
    for images, batch_labels in batches:
        parts.append(checked(features(images), len(images)).float())
        labels.append(batch_labels)
    if not parts:
        raise ValueError("nothing to take features of: the split is empty")
    joined = torch.cat(parts)
    broken = int((~joined.isfinite()).any(1).sum())
    if broken:
        raise ValueError(f"the features of {broken} of {len(joined)} images are not finite; the network is broken")
    return joined, torch.cat(labels).to(joined.device)
