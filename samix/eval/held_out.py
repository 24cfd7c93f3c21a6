"""Accuracy and calibration of a trained classifier on held-out images, or on a folder of classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from samix.data import EvalBatches, load_data
from samix.hub.checkpoints import load_method
from samix.hub.load import load_export
from samix.recipes.build import build_augment
from samix.runtime.environment import check_device
from samix.train.checkpoint import newest_of
from samix.train.metrics import classification_metrics


def evaluate_path(path: Path, data: str, data_root: str, batch_size: int, device: str) -> dict[str, dict[str, float]]:
    """Metrics by classifier of a checkpoint or an export folder.

    Args:
        path: a run's folder, a ``.pt`` file or an export folder.
        data: a data set, or empty for the one of the recipe.
        data_root: where torchvision's data sets lie.
        batch_size: images per pass.
        device: auto, cpu or cuda.

    Raises:
        FileNotFoundError, ValueError: wrong path, or data with other classes.
    """
    check_device(device)
    place = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    predict: Callable[[Tensor], dict[str, Tensor]]
    path = newest_of(path)
    if path.is_dir():
        network, recipe, described = load_export(path)
        network.to(place)
        predict = lambda x: {"export": network(x)}  # noqa: E731  # one expression each
    else:
        method, recipe, described = load_method(path)
        predict = method.to(place).predict
    images = load_data(data or recipe.data, root=data_root)
    if list(images.class_names) != list(described["classes"]):
        raise ValueError(
            f"{images.name} has {images.num_classes} classes, {list(images.class_names)[:3]}..., but the network was "
            f"trained on {len(described['classes'])}, {described['classes'][:3]}...; evaluate on the same classes"
        )
    # Pixels are scaled as in training, also where this data set has a mean of its own.
    images = dataclasses.replace(images, mean=tuple(described["mean"]), std=tuple(described["std"]))
    batches = EvalBatches(
        images, batch_size=batch_size, size=recipe.size, augment=build_augment(recipe, images), device=place
    )
    return classification_metrics(predict, batches.batches(), images.num_classes, place)
