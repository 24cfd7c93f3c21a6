"""Batches of images with boxes, that a detector is trained on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from samix.data import open_image
from samix.data.images import to_uint8
from samix.data.order import epoch_order, stream_seed
from samix.eval.boxes import BoxSplit, Objects, outline_mask
from samix.eval.detector import DetectionProtocol

BoxBatch = tuple[list[Tensor], list[dict[str, Tensor]]]  # images and targets


class BoxImages(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Maps (iteration, position, index) to an image (3, H, W) uint8 and its target; mirrors half of them."""

    def __init__(self, split: BoxSplit, masks: bool, seed: int) -> None:
        self.split, self.masks, self.seed = split, masks, seed

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        iteration, position, index = key
        image = to_uint8(open_image(self.split.files[index], exif_rotation=False))
        target = training_target(self.split.objects[index], image, self.masks)
        generator = torch.Generator().manual_seed(stream_seed("mirror", self.seed, iteration, position))
        if torch.rand((), generator=generator) < 0.5:
            image = image.flip(2)
            x0, y0, x1, y1 = target["boxes"].unbind(1)
            target["boxes"] = torch.stack([image.shape[2] - x1, y0, image.shape[2] - x0, y1], dim=1)
            if self.masks:
                target["masks"] = target["masks"].flip(2)
        return image, target


def training_target(objects: Objects, image: Tensor, masks: bool) -> dict[str, Tensor]:
    """Returns the target of torchvision's detectors: boxes, labels, and masks; crowds and empty boxes are left out."""
    rows = objects.trained_on
    target = {"boxes": objects.boxes[rows], "labels": objects.labels[rows]}
    if masks:
        target["masks"] = object_masks(objects, image)[rows].to(torch.uint8)
    return target


def object_masks(objects: Objects, image: Tensor) -> Tensor:
    """Returns masks (n, H, W) bool; raises ValueError where the objects have no outlines."""
    height, width = image.shape[1:]
    if len(objects.outlines) != len(objects.labels):
        raise ValueError("masks need outlines, which this data set has not; choose a protocol without masks")
    masks = [outline_mask(outline, height, width) for outline in objects.outlines]
    return torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)


def with_objects(split: BoxSplit) -> BoxSplit:
    """Returns the images that have an object to learn from."""
    rows = [row for row, objects in enumerate(split.objects) if bool(objects.trained_on.any())]
    return BoxSplit(tuple(split.files[row] for row in rows), tuple(split.objects[row] for row in rows))


def batch_keys(count: int, batch_size: int, iterations: int, seed: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yields (iteration, position, index) of each image of each batch; epochs follow one another without a gap."""
    order, epoch = torch.empty(0, dtype=torch.int64), -1
    for iteration in range(iterations):
        keys = []
        for position in range(batch_size):
            now, row = divmod(iteration * batch_size + position, count)
            if now != epoch:
                order, epoch = epoch_order(count, seed, now), now
            keys.append((iteration, position, int(order[row])))
        yield keys


def box_batches(
    split: BoxSplit, protocol: DetectionProtocol, iterations: int, seed: int, device: torch.device, workers: int
) -> Iterator[BoxBatch]:
    """Yields training batches on the device: images (3, H, W) float32 in [0, 1], and targets."""
    split = with_objects(split)
    loader: DataLoader[tuple[Tensor, dict[str, Tensor]]] = DataLoader(
        BoxImages(split, protocol.masks, seed),
        batch_sampler=list(batch_keys(len(split), protocol.batch_size, iterations, seed)),
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        images = [image.to(device).float() / 255 for image, _ in batch]
        yield images, [{key: value.to(device) for key, value in target.items()} for _, target in batch]
