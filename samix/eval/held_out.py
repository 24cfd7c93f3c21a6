"""Accuracy and calibration of a trained classifier on held-out images, or on a folder of classes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor

from samix.data import Augment, EvalBatches, ImageData, load_data, load_labelled_folder
from samix.data.replacements import OnBadImage
from samix.data.spec import Channels
from samix.hub.load import load_trained
from samix.hub.network_config import NetworkConfig
from samix.runtime.environment import pick_device
from samix.train.metrics import classification_metrics


@dataclass(frozen=True)
class HeldOutResult:
    """How well a classifier does.

    Args:
        metrics: ``top1``, ``top5``, ``nll``, ``ece`` by classifier; the one that is exported first.
        images: number of images that were evaluated.
        unreadable: number of images that could not be read and were left out.
        data: what was evaluated, in words.
    """

    metrics: dict[str, dict[str, float]]
    images: int
    unreadable: int
    data: str


def evaluate_path(
    path: str | Path,
    data: str = "",
    data_root: str = "data",
    batch_size: int = 100,
    device: str = "auto",
    on_bad_image: OnBadImage = "stop",
) -> HeldOutResult:
    """Evaluates a checkpoint or an export.

    Images are prepared as in training, also where the data set has a mean, a deviation or an augmentation of its own.

    Args:
        path: a run's folder or a checkpoint, which give every classifier of the run; or an export's folder, a timm
            name or a hub id as for :func:`samix.load`.
        data: a data set, whose held-out images are taken; a folder of class folders, of which every image is taken and
            whose classes are matched by name; empty for the data that the network was trained on.
        data_root: where torchvision's data sets lie.
        batch_size: images per pass.
        device: auto, cpu, cuda, cuda:N or mps.
        on_bad_image: ``stop`` or ``skip`` at an image that cannot be read.

    Raises:
        FileNotFoundError, ValueError: wrong path, a network without classes, or data with other classes.
    """
    place = pick_device(device)
    trained = load_trained(path)
    config, trained_on = trained.config, trained.recipe.data if trained.recipe else ""
    if config.num_classes == 0:
        raise ValueError(
            f"{path} gives features and has no classes; evaluate the features: samix evaluate knn {path}, or linear"
        )
    images = _images(data, trained_on, data_root, config)
    network = (trained.method or trained.network).to(place)

    def predict(pixels: Tensor) -> dict[str, Tensor]:
        return trained.method.predict(pixels) if trained.method else {"export": network(pixels)}

    mean, std = cast(Channels, config.mean), cast(Channels, config.std)
    images = dataclasses.replace(images, mean=mean, std=std)
    batches = EvalBatches(
        images,
        batch_size=batch_size,
        size=config.size,
        augment=evaluation_augment(config),
        device=place,
        on_bad_image=on_bad_image,
    )
    metrics = classification_metrics(predict, batches.batches(), config.num_classes, place)
    bad = len(batches.bad)
    return HeldOutResult(metrics, len(images.val) - bad, bad, f"{data or trained_on} ({images.describe()})")


def evaluation_augment(config: NetworkConfig) -> Augment:
    """Returns the augmentation whose test transform prepares images as a network's config says."""
    if config.resize == config.size:
        return Augment("none")
    return Augment("fine-grained" if config.interpolation == "bilinear" else "resized-crop")


def _images(data: str, trained_on: str, data_root: str, config: NetworkConfig) -> ImageData:
    if not (data or trained_on):
        raise ValueError("this network does not say what it was trained on; give --data")
    folder = data.removeprefix("folder:")
    if data and Path(folder).expanduser().is_dir():
        return load_labelled_folder(folder, config.class_names)
    try:
        images = load_data(data or trained_on, root=data_root)
    except FileNotFoundError as error:
        if data:
            raise
        raise FileNotFoundError(f"the network was trained on {trained_on}: {error}; give --data") from None
    if tuple(images.class_names) != config.class_names:
        raise ValueError(
            f"{images.name} has {images.num_classes} classes, {list(images.class_names)[:3]}..., but the network was "
            f"trained on {config.num_classes}, {list(config.class_names)[:3]}...; evaluate on the same classes"
        )
    return images
