"""Batches of a data set: random ones, all in order to test on; by worker processes or on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from samix.data.dataset import ImageData
from samix.data.loading import (
    EvalImages,
    Sample,
    TrainImages,
    ViewImages,
    join_readable,
    make_loader,
    moved,
    normalized,
    plain_errors,
)
from samix.data.on_device import DRAWS, augment_batch, check_on_device, decode_all, stored_size
from samix.data.on_device_views import VIEW_DRAWS, view_stored_size, views_of
from samix.data.order import EpochSampler, rank_rows, stream_seed
from samix.data.replacements import OnBadImage, with_replacements
from samix.data.transforms import Augment, Fit, test_transform, train_transform
from samix.data.views import ViewAugment, view_transforms
from samix.runtime.checks import check_choice

Batch = tuple[Tensor, Tensor]


class TrainBatches:
    """Training batches, epoch by epoch; batch s of epoch e is a pure function of (seed, e, s).

    Worker loading decodes and augments one image after the other in `workers` processes (0: in this one); its batches
    do not depend on their number. `on_device` decodes the split once, keeps it there as uint8 and augments whole
    batches; resized crops are then bilinear, and images that are not square lose their margins. In both, W ranks with
    B / W images each see together what one rank sees with B. What is left over at the end of an epoch is dropped.

    With `views`, a batch holds differently varied views of each image, and the images' row numbers instead of labels.

    Args:
        data: the data set; its train split is used.
        batch_size: images per step on this rank.
        size: side of the images in pixels; of the first two views.
        augment: how to vary them; not used, and not needed, with views.
        seed: of order and augmentation.
        views: how to make views, for training without labels; None for labelled batches.
        rank: this process, 0..world_size - 1.
        world_size: number of processes.
        workers: worker processes; not used on_device.
        device: where the batches are wanted.
        on_device: keep the split on the device and augment there.
        on_bad_image: what to do about an image that cannot be read: ``stop`` with its name, or ``skip`` it: another
            one replaces it, by `samix.data.replacements`, and its row is put into `bad`.
        balanced: draw every class equally often; rare ones repeat.

    Raises:
        ValueError: a batch larger than the data, numbers out of range, an augmentation that on_device lacks, neither
            augment nor views, or labelled batches of data without labels.
    """

    def __init__(
        self,
        data: ImageData,
        *,
        batch_size: int,
        size: int,
        augment: Augment | None = None,
        views: ViewAugment | None = None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        device: torch.device | str = "cpu",
        on_device: bool = False,
        on_bad_image: OnBadImage = "stop",
        balanced: bool = False,
    ) -> None:
        _check(batch_size, size, rank, world_size, workers, on_bad_image)
        if batch_size * world_size > len(data.train):
            raise ValueError(
                f"the batch of {batch_size * world_size} is larger than the {len(data.train)} training images; give "
                f"batch_size (--batch-size) of at most {len(data.train)}"
            )
        self.data, self.batch_size, self.size, self.seed = data, batch_size, size, seed
        self.augment, self.views = augment, views
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)
        labels = data.train.labels if balanced else None
        self._sampler = EpochSampler(len(data.train), batch_size, seed, rank, world_size, labels)
        self.bad: set[int] = set()  # rows of the images that could not be read; the caller may empty it
        self._loader: DataLoader[Sample] | None = None
        skip = on_bad_image == "skip"
        images: Dataset[Sample]
        if views is not None:
            fit = Fit(*2 * (view_stored_size(size, data.native_size),))
            images = ViewImages(data.train, view_transforms(views, size), seed, skip)
        elif augment is not None:
            data.require_labels()
            if on_device:
                check_on_device(augment)
            fit = Fit(*2 * (stored_size(augment, size, data.native_size),), augment.interpolation)
            images = TrainImages(data.train, (train_transform(augment, size, data.mean, data.std),), seed, skip)
        else:
            raise ValueError("training batches need augment, or views for training without labels; got neither")
        if on_device:
            self._unreadable: set[int] = set()
            self._images = decode_all(data.train, fit, self.device, self._unreadable if skip else None)
            self._labels = data.train.labels.to(self.device)
        else:
            self._loader = make_loader(images, self._sampler, workers, self.device)

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self._sampler)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Sample]:
        """Yields batches start_step, start_step + 1, ... of an epoch; earlier ones are not decoded.

        One epoch at a time: with workers, starting another ends the one before.

        Returns:
            Iterator of batches on the device, float32 and normalised: images (B, 3, size, size) and labels (B,), int64.
            With views: view_q and view_k (B, 3, size, size), ids (B,), int64, the images' rows of the train split, and,
            where there are more than two views, a tuple of the others.
        """
        if epoch < 0 or not 0 <= start_step <= len(self):
            raise ValueError(
                f"epoch must be >= 0 and start_step in 0..{len(self)}, got epoch {epoch}, start_step {start_step}"
            )
        if self._loader is None:
            return normalized(self._epoch_on_device(epoch, start_step), self.data)
        self._sampler.epoch, self._sampler.start_step = epoch, start_step
        # Now, not when the first batch is asked for: the sampler may have been set to another epoch by then.
        batches = self._noting(plain_errors(iter(self._loader)))
        return normalized(moved(batches, self.device), self.data)

    def rows(self, epoch: int, step: int) -> Tensor:
        """Returns the rows of the train split of a step on this rank, (batch_size,) int64, before replacements."""
        order = self._sampler.order(epoch)
        return rank_rows(order, step, self.batch_size, self.rank, self.world_size)

    def _noting(self, batches: Iterator[Sample]) -> Iterator[Sample]:
        """Records the rows of images that could not be read, where batches name them."""
        for first, second, *bad in batches:
            for rows in bad:
                self.bad.update(row for row in rows.tolist() if row >= 0)
            yield first, second

    def _epoch_on_device(self, epoch: int, start_step: int) -> Iterator[Sample]:
        order = self._sampler.order(epoch)
        order = with_replacements(order, self._unreadable, self.seed, epoch).to(self.device)
        for step in range(start_step, len(self)):
            if self._unreadable:
                self.bad.update(self._unreadable & set(self.rows(epoch, step).tolist()))
            rows = rank_rows(order, step, self.batch_size, self.rank, self.world_size)
            images = self._images[rows]
            if self.views is not None:
                draws = self._draws("views", epoch, step, (self.views.count, VIEW_DRAWS))
                yield views_of(images, draws, self.views, self.size), rows
            elif self.augment is not None:
                draws = self._draws("batch", epoch, step, (DRAWS,))
                yield augment_batch(images, draws, self.augment, self.size), self._labels[rows]

    def _draws(self, purpose: str, epoch: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """Returns this rank's part, (B, *shape), of the draws of all ranks, so that their number does not matter."""
        generator = torch.Generator().manual_seed(stream_seed(purpose, self.seed, epoch, step))
        draws = torch.rand(self.world_size * self.batch_size, *shape, generator=generator)
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
        on_bad_image: what to do about an image that cannot be read: ``stop`` with its name, or ``skip``: it is left
            out, and its row is put into `bad`.

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
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        _check(batch_size, size, rank, world_size, workers, on_bad_image)
        check_choice("split", split, ("train", "val"))
        images = data.train if split == "train" else data.val
        self.data, self.batch_size, self.device = data, batch_size, torch.device(device)
        first, end = (len(images) * r // world_size for r in (rank, rank + 1))
        self.rows = range(first, end)
        self._steps = [range(s, min(s + batch_size, end)) for s in range(first, end, batch_size)]
        self.bad: set[int] = set()  # rows of the images that could not be read
        self._loader: DataLoader[Sample] | None = None
        fit = test_transform(augment, size)
        skip = on_bad_image == "skip"
        if on_device:
            mine = images if world_size == 1 else images.subset(torch.arange(first, end))
            unreadable: set[int] | None = set() if skip else None
            self._images, self._labels = decode_all(mine, fit, self.device, unreadable), mine.labels.to(self.device)
            self.bad = {first + row for row in unreadable or ()}
            self._chunks = [self._chunk(step) for step in self._steps]
        else:
            chosen = [list(step) for step in self._steps]
            self._loader = make_loader(EvalImages(images, fit, skip), chosen, workers, self.device, join_readable)

    def __len__(self) -> int:
        """Steps on this rank."""
        return len(self._steps)

    def batches(self) -> Iterator[Batch]:
        """Passes once over `self.rows`.

        Returns:
            Iterator of images (<= batch_size, 3, size, size), float32 and normalised, and labels, int64, on the device.
        """
        if self._loader is not None:
            return normalized(moved(self._noting(plain_errors(iter(self._loader))), self.device), self.data)
        chunks = (chunk for chunk in self._chunks if not isinstance(chunk, Tensor) or len(chunk) > 0)
        return normalized(((self._images[c], self._labels[c]) for c in chunks), self.data)

    def _chunk(self, step: range) -> slice | Tensor:
        """Returns the positions of a step's readable images among those of this rank."""
        first = self.rows.start
        if self.bad.isdisjoint(step):
            return slice(step.start - first, step.stop - first)
        return torch.tensor([row - first for row in step if row not in self.bad], device=self.device)

    def _noting(self, batches: Iterator[Sample]) -> Iterator[Batch]:
        """Records the rows of images that could not be read; leaves out a batch that has no others."""
        for batch, bad in batches:
            self.bad.update(bad)
            if batch is not None:
                yield batch


def _check(batch_size: int, size: int, rank: int, world_size: int, workers: int, on_bad_image: OnBadImage) -> None:
    check_choice("on_bad_image", on_bad_image, get_args(OnBadImage))
    if batch_size < 1 or size < 2 or workers < 0:
        raise ValueError(f"batch_size must be >= 1, size >= 2 and workers >= 0, got {batch_size}, {size} and {workers}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..world_size - 1, got rank {rank} of {world_size}")
