"""Batches of a data set: random ones to train on, all in order to test on; by worker processes or on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from samix.data.images import ImageSet
from samix.data.names import ImageData
from samix.data.on_device import DRAWS, augment_batch, check_on_device, decode_all, stored_size
from samix.data.order import EpochSampler, epoch_order, rank_rows, stream_seed
from samix.data.transforms import Augment, Fit, Transform, normalize, test_transform, train_transform

Batch = tuple[Tensor, Tensor]


class TrainBatches:
    """Endless supply of training batches; batch s of epoch e is a pure function of (seed, e, s).

    Worker loading decodes and augments one image after the other in `workers` processes (0: in this one); its batches
    do not depend on their number. `on_device` decodes the split once, keeps it there as uint8 and augments whole
    batches; resized crops are then bilinear, and images that are no squares lose their margins. In both, W ranks with
    B / W images each see together what one rank sees with B. What is left over at the end of an epoch is dropped.

    Args:
        data: the data set; its train split is used.
        batch_size: images per step on this rank.
        size: side of the images in pixels.
        augment: how to vary them.
        seed: of order and augmentation.
        rank: this process, 0..world_size - 1.
        world_size: number of processes.
        workers: worker processes; not used on_device.
        device: where the batches are wanted.
        on_device: keep the split on the device and augment there.

    Raises:
        ValueError: a batch larger than the data, numbers out of range, or an augmentation that on_device lacks.
    """

    def __init__(
        self,
        data: ImageData,
        *,
        batch_size: int,
        size: int,
        augment: Augment,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        device: torch.device | str = "cpu",
        on_device: bool = False,
    ) -> None:
        _check(batch_size, size, rank, world_size, workers)
        if batch_size * world_size > len(data.train):
            raise ValueError(
                f"a batch of {batch_size} on {world_size} rank(s) is larger than the {len(data.train)} training "
                f"images of {data.name}; lower batch_size"
            )
        self.data, self.batch_size, self.size, self.augment, self.seed = data, batch_size, size, augment, seed
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)
        self._sampler = EpochSampler(len(data.train), batch_size, seed, rank, world_size)
        self._loader: DataLoader[Any] | None = None
        if on_device:
            check_on_device(augment)
            stored = stored_size(augment, size, data.native_size)
            self._images = decode_all(data.train, Fit(stored, stored, augment.interpolation), self.device)
            self._labels = data.train.labels.to(self.device)
        else:
            images = TrainImages(data.train, train_transform(augment, size, data.mean, data.std), seed)
            self._loader = _loader(images, self._sampler, workers, self.device)

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self._sampler)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches start_step, start_step + 1, ... of an epoch; the ones before are not decoded.

        One epoch at a time: with workers, starting another ends the one before.

        Returns:
            Iterator of images (B, 3, size, size), float32 and normalised, and labels (B,), int64, on the device.

        Raises:
            ValueError: a negative epoch, or start_step outside 0..len(self).
        """
        if epoch < 0 or not 0 <= start_step <= len(self):
            raise ValueError(
                f"epoch must be >= 0 and start_step in 0..{len(self)}, got epoch {epoch}, start_step {start_step}"
            )
        if self._loader is None:
            return self._epoch_on_device(epoch, start_step)
        self._sampler.epoch, self._sampler.start_step = epoch, start_step
        return _move(iter(self._loader), self.data, self.device)

    def _epoch_on_device(self, epoch: int, start_step: int) -> Iterator[Batch]:
        order = epoch_order(len(self.data.train), self.seed, epoch).to(self.device)
        for step in range(start_step, len(self)):
            rows = rank_rows(order, step, self.batch_size, self.rank, self.world_size)
            images = augment_batch(self._images[rows], self._draws(epoch, step), self.augment, self.size)
            yield normalize(images, self.data.mean, self.data.std), self._labels[rows]

    def _draws(self, epoch: int, step: int) -> Tensor:
        """(B, 23) of this rank, cut from the draws of all ranks so that their number does not matter."""
        generator = torch.Generator().manual_seed(stream_seed("batch", self.seed, epoch, step))
        draws = torch.rand(self.world_size * self.batch_size, DRAWS, generator=generator)
        draws = draws[self.rank * self.batch_size :][: self.batch_size]
        if self.device.type == "cuda":
            return draws.pin_memory().to(self.device, non_blocking=True)
        return draws.to(self.device)


class EvalBatches:
    """Every image of a split once, in order, with the test transform; the last batch may be short.

    The ranks take neighbouring blocks of the split, so that their results joined in order of rank are in its order;
    the blocks may differ by one image.

    Args:
        data: the data set.
        split: `val`, or `train` to test on the training images.
        batch_size: images per step on this rank.
        size: side of the images in pixels.
        augment: names the test transform.
        rank: this process, 0..world_size - 1.
        world_size: number of processes.
        workers: worker processes; not used on_device.
        device: where the batches are wanted.
        on_device: decode this rank's images once and keep them on the device as uint8.

    Raises:
        ValueError: unknown split, or numbers out of range.
    """

    def __init__(
        self,
        data: ImageData,
        *,
        batch_size: int,
        size: int,
        augment: Augment,
        split: Literal["train", "val"] = "val",
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        device: torch.device | str = "cpu",
        on_device: bool = False,
    ) -> None:
        _check(batch_size, size, rank, world_size, workers)
        if split not in ("train", "val"):
            raise ValueError(f"split must be 'train' or 'val', got {split!r}")
        images = data.train if split == "train" else data.val
        self.data, self.batch_size, self.device = data, batch_size, torch.device(device)
        first, end = (len(images) * r // world_size for r in (rank, rank + 1))
        self.rows = range(first, end)
        self._steps = [range(s, min(s + batch_size, end)) for s in range(first, end, batch_size)]
        self._loader: DataLoader[Any] | None = None
        fit = test_transform(augment, size)
        if on_device:
            mine = images if world_size == 1 else images.subset(torch.arange(first, end))
            self._images, self._labels = decode_all(mine, fit, self.device), mine.labels.to(self.device)
        else:
            self._loader = _loader(EvalImages(images, fit), [list(step) for step in self._steps], workers, self.device)

    def __len__(self) -> int:
        """Steps on this rank."""
        return len(self._steps)

    def batches(self) -> Iterator[Batch]:
        """One pass over `self.rows`.

        Returns:
            Iterator of images (<= batch_size, 3, size, size), float32 and normalised, and labels, int64, on the device.
        """
        if self._loader is not None:
            return _move(iter(self._loader), self.data, self.device)
        chunks = (slice(step.start - self.rows.start, step.stop - self.rows.start) for step in self._steps)
        return ((normalize(self._images[c], self.data.mean, self.data.std), self._labels[c]) for c in chunks)


class TrainImages(Dataset[tuple[Tensor, int]]):
    """(epoch, index) to an augmented image and its label; each pair seeds its own draws.

    Args:
        images: the train split.
        transform: to a uint8 tensor (3, size, size).
        seed: of the run.
    """

    def __init__(self, images: ImageSet, transform: Transform, seed: int) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        image = self.images.image(index)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would reset the generators of the GPUs as well.
            torch.default_generator.manual_seed(stream_seed("image", self.seed, epoch, index))
            return self.transform(image), int(self.images.labels[index])


class EvalImages(Dataset[tuple[Tensor, int]]):
    """Index to an image and its label.

    Args:
        images: a split.
        transform: to a uint8 tensor (3, size, size).
    """

    def __init__(self, images: ImageSet, transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images.image(index)), int(self.images.labels[index])


def _loader(images: Dataset[Any], batch_sampler: Any, workers: int, device: torch.device) -> DataLoader[Any]:
    return DataLoader(
        images,
        batch_sampler=batch_sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        # DataLoader draws a seed for its workers at each pass; a generator of its own keeps the caller's untouched.
        generator=torch.Generator().manual_seed(0),
    )


def _move(batches: Iterator[Any], data: ImageData, device: torch.device) -> Iterator[Batch]:
    """uint8 over the wire, floats on the device only."""
    for images, labels in batches:
        moved = images.to(device, non_blocking=True)
        yield normalize(moved, data.mean, data.std), labels.to(device, non_blocking=True)


def _check(batch_size: int, size: int, rank: int, world_size: int, workers: int) -> None:
    if batch_size < 1 or size < 2 or workers < 0:
        raise ValueError(f"batch_size must be >= 1, size >= 2 and workers >= 0, got {batch_size}, {size} and {workers}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..world_size - 1, got rank {rank} of {world_size}")
