"""The base of every ``samix evaluate KIND``: its options, its images, the line that it prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tyro.conf import Positional

from samix.data import Augment, EvalBatches, ImageData, TrainBatches, default_augment, load_data
from samix.eval.features import Features, extract
from samix.eval.source import Source, load_source, scaled
from samix.runtime.environment import pick_device
from samix.runtime.typed_options import CheckedOptions, CountOr0, ImageSideOr0, Seed, Workers

Numbers = dict[str, float]


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Options of every kind of evaluation.

    Args:
        source: a run's folder or its ``last.pt``, an export's folder, ``timm:NAME`` or ``timm:NAME:pretrained``.
        data: data set, see ``samix.data.load_data``; empty takes the one that the source was trained on.
        data_root: folder of torchvision's data sets.
        size: side of the images in pixels; 0 takes the source's, or 224.
        stem: first layers of ``timm:NAME``: ``default``, ``small`` or ``half``.
        batch_size: images per pass; 0 takes 256, and in training that of the protocol.
        workers: loader processes.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        seed: seed of all random draws.
    """

    source: Positional[str]
    data: str = ""
    data_root: str = "data"
    size: ImageSideOr0 = 0
    stem: Literal["default", "small", "half"] = "default"
    batch_size: CountOr0 = 0
    workers: Workers = 0
    device: str = "auto"
    seed: Seed = 0

    def run(self) -> tuple[Numbers, str]:
        """Returns numbers by name, and the line to print."""
        raise NotImplementedError

    def load(self) -> Source:
        """Returns the source on the device."""
        return load_source(self.source, size=self.size, stem=self.stem, device=self.torch_device)

    def load_images(self, source: Source) -> ImageData:
        """Returns the data set, with pixels scaled as the source was trained."""
        name = self.data or source.data
        if not name:
            raise ValueError(f"{self.source} does not say what it was trained on; give --data")
        return scaled(load_data(name, root=self.data_root), source)

    @property
    def torch_device(self) -> torch.device:
        """The device by its name."""
        return pick_device(self.device)

    def split(self, source: Source, data: ImageData, split: Literal["train", "val"]) -> EvalBatches:
        """Returns a split under the test transform."""
        return EvalBatches(
            data,
            batch_size=self.batch_size or 256,
            size=self.size or source.size or 224,
            augment=default_augment(data),
            split=split,
            workers=self.workers,
            device=self.torch_device,
        )

    def train_batches(self, source: Source, data: ImageData, batch_size: int) -> TrainBatches:
        """Returns the train split under the train transform, in batches of that size or of the whole split."""
        # The probes of STL-10 take crops of at least 0.2 of the area.
        augment = Augment("resized-crop", min_scale=0.2) if data.name == "stl10" else default_augment(data)
        return TrainBatches(
            data,
            batch_size=min(batch_size, len(data.train)),
            size=self.size or source.size or 224,
            augment=augment,
            seed=self.seed,
            workers=self.workers,
            device=self.torch_device,
        )

    def both(self, source: Source, data: ImageData, features: Features) -> list[tuple[Tensor, Tensor]]:
        """Returns features and labels of train and val."""
        return [extract(features, self.split(source, data, split).batches()) for split in ("train", "val")]


def line(kind: str, data: str, numbers: Numbers) -> str:
    """Returns a line such as ``knn on cifar10: k20 78.10  k200 77.42``."""
    return f"{kind} on {data}: " + "  ".join(f"{name} {value:.2f}" for name, value in numbers.items())
