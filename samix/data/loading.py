"""Images through worker processes: what each index loads, and how batches are moved and normalised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from samix.data.dataset import ImageData
from samix.data.decode import UNREADABLE
from samix.data.images import ImageSet, Picture
from samix.data.order import stream_seed
from samix.data.replacements import read_image
from samix.data.transforms import Transform, normalize

Sample = Any  # of a loader: (image, label) or (views, row), and with skip the row that could not be read, or -1
Collate = Callable[[list[Sample]], object] | None


class TrainImages(Dataset[Sample]):
    """(epoch, index) to an augmented image and its label; each pair seeds its own draws.

    With `skip` another image replaces one that cannot be read, and a third value is the index of the unreadable one,
    or -1.
    """

    def __init__(self, images: ImageSet, transforms: tuple[Transform, ...], seed: int, skip: bool = False) -> None:
        self.images, self.transforms, self.seed, self.skip = images, transforms, seed, skip

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        image, used = read_image(self.images, self.seed, epoch, index, self.skip)
        sample = self.vary(image, epoch, index, used)
        return (*sample, index if used != index else -1) if self.skip else sample

    def vary(self, image: Picture, epoch: int, index: int, used: int) -> Sample:
        """Returns the augmented image, and the label of the image that was read."""
        return self.draw(self.transforms[0], image, "image", epoch, index), int(self.images.labels[used])

    def draw(self, transform: Transform, image: Picture, purpose: str, *parts: int) -> Tensor:
        """Applies a transform with draws that are a function of the seed, the purpose and the parts."""
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would reset the generators of the GPUs as well.
            torch.default_generator.manual_seed(stream_seed(purpose, self.seed, *parts))
            return transform(image)


class ViewImages(TrainImages):
    """(epoch, index) to the views of an image and the row of the image that was read."""

    def vary(self, image: Picture, epoch: int, index: int, used: int) -> Sample:
        """Returns the views, each with its own draws."""
        views = [self.draw(t, image, "view", epoch, index, view) for view, t in enumerate(self.transforms)]
        return tuple(views), used


class EvalImages(Dataset[Sample]):
    """Index to an image and its label; with `skip`, to the index alone where the image cannot be read."""

    def __init__(self, images: ImageSet, transform: Transform, skip: bool = False) -> None:
        self.images, self.transform, self.skip = images, transform, skip

    def __getitem__(self, index: int) -> tuple[Tensor, int] | int:
        try:
            image = self.images.image(index)
        except UNREADABLE:
            if self.skip:
                return index
            raise
        return self.transform(image), int(self.images.labels[index])


def join_readable(samples: list[Sample]) -> tuple[Sample, list[int]]:
    """Joins the images that could be read to a batch, None without any; and returns the indices of the others."""
    good = [sample for sample in samples if not isinstance(sample, int)]
    return default_collate(good) if good else None, [sample for sample in samples if isinstance(sample, int)]


def plain_errors(batches: Iterator[Sample]) -> Iterator[Sample]:
    """Passes batches on; an error of a worker process is raised again without that process's traceback."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (ValueError, OSError) as error:
            lines = str(error).strip().splitlines()
            if len(lines) > 1 and lines[0].startswith("Caught "):
                raise type(error)(lines[-1].partition(": ")[2]) from error
            raise
        yield batch


def make_loader(
    images: Dataset[Sample],
    batch_sampler: Iterable[list[Sample]],
    workers: int,
    device: torch.device,
    collate: Collate = None,
) -> DataLoader[Sample]:
    """Makes a loader whose workers, if any, live on over the epochs."""
    return DataLoader(
        images,
        batch_sampler=batch_sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        # DataLoader draws a seed for its workers at each pass; a generator of its own keeps the caller's untouched.
        generator=torch.Generator().manual_seed(0),
    )


def moved(batches: Iterator[Sample], device: torch.device) -> Iterator[Sample]:
    """Moves images or views, and labels or row numbers, to the device."""
    for images, numbers in batches:
        tensors = [images] if isinstance(images, Tensor) else images
        moved = [tensor.to(device, non_blocking=True) for tensor in tensors]
        yield moved[0] if isinstance(images, Tensor) else moved, numbers.to(device, non_blocking=True)


def normalized(batches: Iterator[Sample], data: ImageData) -> Iterator[Sample]:
    """Makes (images, labels), or (view_q, view_k, rows) and a tuple of further views where there are some."""
    for images, numbers in batches:
        if isinstance(images, Tensor):
            yield normalize(images, data.mean, data.std), numbers
            continue
        view_q, view_k, *extra_views = (normalize(view, data.mean, data.std) for view in images)
        yield (view_q, view_k, numbers, tuple(extra_views)) if extra_views else (view_q, view_k, numbers)
