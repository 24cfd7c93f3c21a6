"""The batches of a recipe, for one process of a run."""

from __future__ import annotations

from typing import Any

import torch

from samix.data import EvalBatches, ImageData, TrainBatches
from samix.data.replacements import OnBadImage
from samix.recipes import Recipe
from samix.recipes.build import build_augment
from samix.runtime.environment import usable_cores


def build_batches(
    recipe: Recipe,
    data: ImageData,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    on_bad_image: OnBadImage = "stop",
) -> tuple[TrainBatches, EvalBatches]:
    """The training and held-out batches of a recipe, for one rank.

    Raises:
        ValueError: batch_size is not divisible by processes times accumulated passes.
    """
    parts = world_size * recipe.accumulate
    if recipe.batch_size % parts:
        raise ValueError(
            f"batch_size {recipe.batch_size} must be divisible by {parts} ({world_size} processes x accumulate "
            f"{recipe.accumulate})"
        )
    common = common_options(recipe, device, rank, world_size, on_bad_image)
    common["augment"] = build_augment(recipe, data)
    train = TrainBatches(data, batch_size=recipe.batch_size // parts, seed=recipe.seed, **common)
    return train, EvalBatches(data, batch_size=max(recipe.batch_size // parts, 100), **common)


def common_options(
    recipe: Recipe,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    on_bad_image: OnBadImage = "stop",
) -> dict[str, Any]:
    """What training and held-out batches have in common."""
    return {
        "size": recipe.size,
        "rank": rank,
        "world_size": world_size,
        "workers": 0 if recipe.device_data else min(recipe.workers, usable_cores()),
        "device": device,
        "on_device": recipe.device_data,
        "on_bad_image": on_bad_image,
    }


def channels_last(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """The batch with its images in that memory layout."""
    return tuple(
        channels_last(part)
        if isinstance(part, tuple)
        else part.contiguous(memory_format=torch.channels_last)
        if part.dim() == 4
        else part
        for part in batch
    )
