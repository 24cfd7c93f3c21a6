"""Accuracy and calibration of a trained classifier on held-out images, or on a folder of classes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tyro.conf import Positional

from samix.data import Augment, EvalBatches, ImageData, load_data, load_labelled_folder
from samix.data.replacements import OnBadImage
from samix.hub.load import load_trained
from samix.hub.network_config import NetworkConfig
from samix.runtime.environment import pick_device
from samix.runtime.typed_options import CheckedOptions, Count
from samix.train.metrics import classification_metrics


@dataclass(frozen=True)
class HeldOutResult:
    """How well a classifier does."""

    # ``top1``, ``top5``, ``nll``, ``ece`` by classifier; the one that is exported first
    metrics: dict[str, dict[str, float]]
    images: int  # number of images that were evaluated
    unreadable: int  # number of images that could not be read and were left out
    data: str  # what was evaluated, in words


@dataclass(frozen=True)
class Evaluate(CheckedOptions):
    """Top-1, top-5, NLL and calibration error of a checkpoint or an exported network on held-out images.

    Args:
        path: a run's folder, a checkpoint of it (``last.pt``, ``best.pt``), its ``export`` folder, or a hub id.
        data: data set, or a folder of class folders, all images of which are evaluated; empty takes the data that the
            network was trained on.
        data_root: folder of torchvision's data sets.
        batch_size: images per pass.
        device: auto, cpu, cuda, cuda:N or mps.
        on_bad_image: stop at an image that cannot be read, or skip it.
    """

    path: Positional[str]
    data: str = ""
    data_root: str = "data"
    batch_size: Count = 100
    device: str = "auto"
    on_bad_image: OnBadImage = "stop"

    def run(self) -> HeldOutResult:
        """Evaluates every classifier of a run, or the one of an export.

        Images are prepared as in training, also where the data set has a mean, a deviation or an augmentation of its
        own. The classes of a folder are matched by name.

        Raises:
            FileNotFoundError, ValueError: wrong path, a network without classes, or data with other classes.
        """
        device, trained = pick_device(self.device), load_trained(self.path)
        config, trained_on = trained.config, trained.recipe.data if trained.recipe else ""
        if config.num_classes == 0:
            raise ValueError(
                f"{self.path} gives features and has no classes; evaluate the features: samix evaluate knn "
                f"{self.path}, or linear"
            )
        images = self.load_images(trained_on, config)
        network = (trained.method or trained.network).to(device)

        def predict(pixels: Tensor) -> dict[str, Tensor]:
            return trained.method.predict(pixels) if trained.method else {"export": network(pixels)}

        mean, std = config.normalization()
        batches = EvalBatches(
            dataclasses.replace(images, mean=mean, std=std),
            batch_size=self.batch_size,
            size=config.size,
            augment=evaluation_augment(config),
            device=device,
            on_bad_image=self.on_bad_image,
        )
        metrics = classification_metrics(predict, batches.batches(), config.num_classes, device)
        bad = len(batches.bad)
        return HeldOutResult(metrics, len(images.val) - bad, bad, f"{self.data or trained_on} ({images.describe()})")

    def load_images(self, trained_on: str, config: NetworkConfig) -> ImageData:
        """Returns the data, whose classes are those of the network."""
        if not (self.data or trained_on):
            raise ValueError("this network does not say what it was trained on; give --data")
        folder = self.data.removeprefix("folder:")
        if self.data and Path(folder).expanduser().is_dir():
            return load_labelled_folder(folder, config.class_names)
        try:
            images = load_data(self.data or trained_on, root=self.data_root)
        except FileNotFoundError as error:
            if self.data:
                raise
            raise FileNotFoundError(f"the network was trained on {trained_on}: {error}; give --data") from None
        if tuple(images.class_names) != config.class_names:
            raise ValueError(
                f"{images.name} has {images.num_classes} classes, {list(images.class_names)[:3]}..., but the network "
                f"was trained on {config.num_classes}, {list(config.class_names)[:3]}...; evaluate on the same classes"
            )
        return images


def evaluation_augment(config: NetworkConfig) -> Augment:
    """Returns the augmentation whose test transform prepares images as a network's config says."""
    if config.resize == config.size:
        return Augment("none")
    return Augment("fine-grained" if config.interpolation == "bilinear" else "resized-crop")
