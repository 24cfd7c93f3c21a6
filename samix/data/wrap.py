"""Datasets of the user's own, as PyTorch and Hugging Face have them, as `ImageData`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from samix.data.dataset import ImageData
from samix.data.decode import UnreadableImage, to_rgb
from samix.data.folders import divide
from samix.data.spec import IMAGENET_MEAN, IMAGENET_STD, Channels

IMAGE_KEYS = ("image", "img", "pixel_values", "images")
LABEL_KEYS = ("label", "labels", "fine_label", "target")


class MapDataset(Protocol):
    """A map-style dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> object: ...


class DatasetImages:
    """The images of a map-style dataset, decoded by it when one is asked for.

    Args:
        dataset: `dataset[i]` is (image, label), or a mapping such as {"image": ..., "label": ...}. An image is a PIL
            image, a uint8 tensor or array, or a floating tensor in [0, 1]; 1 or 3 channels.
        labels: (N,) int64.
        rows: (N,) int64, of the dataset; None takes all.
    """

    def __init__(self, dataset: MapDataset, labels: Tensor, rows: Tensor | None = None) -> None:
        self.dataset, self.labels = dataset, labels
        self.rows = torch.arange(len(labels)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Image.Image | Tensor:
        """Returns an RGB PIL image or uint8 tensor (3, H, W)."""
        row = int(self.rows[index])
        try:
            image = _part(self.dataset[row], 0, IMAGE_KEYS)
            return to_rgb(image) if isinstance(image, Image.Image) else _pixels(image, row)
        except OSError as error:  # Pillow's own errors among them
            raise UnreadableImage(f"image {row} of the dataset cannot be read ({error}); leave it out") from error

    def subset(self, rows: Tensor) -> DatasetImages:
        """Selects the images at `rows`."""
        return DatasetImages(self.dataset, self.labels[rows], self.rows[rows])


def wrap_dataset(
    train: object,
    val: object = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "dataset",
    mean: Channels = IMAGENET_MEAN,
    std: Channels = IMAGENET_STD,
) -> ImageData:
    """Makes `ImageData` of datasets with labels, for training with everything the commands have.

    samix augments and normalises itself, so give datasets without random transforms and without `Normalize`.

    Args:
        train: map-style torch `Dataset`, Hugging Face `Dataset`, or sequence of samples, see `DatasetImages`; of a
            `DataLoader` the dataset is taken, and its batch size, sampler and collation are not used.
        val: the same, to test on; None holds out a fifth of each class, chosen by position.
        class_names: one per label; None takes those of the dataset (`.classes`, or `.features` of Hugging Face), else
            the numbers.
        name: for messages, and for the default augmentation if it is that of a known data set.
        mean: of the three channels, with pixels in [0, 1].
        std: of the three channels, with pixels in [0, 1].

    Raises:
        TypeError: a dataset that is not map-style.
        ValueError: labels that are not whole numbers in range, or a class without images.

    Example:
        >>> import torch
        >>> from samix.data import wrap_dataset
        >>> samples = [(torch.zeros(3, 8, 8), i % 2) for i in range(20)]
        >>> wrap_dataset(samples).describe()
        '16 images of 2 classes, 4 held out; without val, a fifth of each class is held out by position'
    """
    images = _images(train)
    names = tuple(class_names or _class_names(images.dataset) or ())
    if not names:
        largest = max(int(images.labels.max()), 0)
        if largest >= len(images):
            raise ValueError(f"{name}: label {largest}, but {len(images)} images; number the classes from 0")
        names = tuple(map(str, range(largest + 1)))
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= len(names):
        raise ValueError(f"{name}: the labels of train must be in 0..{len(names) - 1}, got {low}..{high}")
    if val is not None:
        return ImageData(name, images, _images(val), names, mean, std)
    note = "without val, a fifth of each class is held out by position"
    splits = divide(images, [str(row) for row in range(len(images))], names, name, (note,))
    return ImageData(name, splits.train, splits.val, names, mean, std, notes=splits.notes)


def _images(source: object) -> DatasetImages:
    dataset = source.dataset if isinstance(source, DataLoader) else source
    if (
        isinstance(dataset, IterableDataset | Mapping | str)
        or not hasattr(dataset, "__getitem__")
        or not hasattr(dataset, "__len__")
    ):
        raise TypeError(
            f"{type(dataset).__name__} is not a map-style dataset; give one with __len__ and __getitem__, such as "
            "list(dataset)"
        )
    if len(dataset) == 0:
        raise ValueError(f"{type(dataset).__name__} holds no samples; check how it was made")
    return DatasetImages(dataset, _labels(dataset))


def _labels(dataset: Any) -> Tensor:
    """Reads the labels, (N,) int64, without decoding images where the dataset keeps them."""
    if isinstance(dataset, Subset):
        return _labels(dataset.dataset)[torch.as_tensor(list(dataset.indices))]
    columns = getattr(dataset, "column_names", None)
    values: object = None
    if isinstance(columns, list):
        key = next((key for key in LABEL_KEYS if key in columns), None)
        values = None if key is None else list(dataset[key])
    for attribute in ("targets", "labels", "_labels"):
        kept = getattr(dataset, attribute, None)
        if values is None and isinstance(kept, Sequence | np.ndarray | Tensor) and len(kept) == len(dataset):
            values = kept
    if values is None:
        values = [_part(dataset[row], 1, LABEL_KEYS) for row in range(len(dataset))]
    labels = torch.as_tensor(np.asarray(values))
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"the labels of {type(dataset).__name__} must be one whole number an image, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}; for other targets write your own training loop"
        )
    return labels.long()


def _class_names(dataset: object) -> Sequence[str] | None:
    """Returns the names of the classes that a dataset knows; None without."""
    if isinstance(dataset, Subset):
        return _class_names(dataset.dataset)
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        return next((names for key in LABEL_KEYS if (names := getattr(features.get(key), "names", None))), None)
    classes = getattr(dataset, "classes", None)
    return [str(name) for name in classes] if isinstance(classes, Sequence) else None


def _part(sample: object, position: int, keys: Sequence[str]) -> object:
    """Returns the image or the label of a sample."""
    if isinstance(sample, Mapping):
        key = next((key for key in keys if key in sample), None)
        if key is None:
            raise ValueError(f"a sample has the keys {', '.join(map(str, sample))}; expected one of {', '.join(keys)}")
        return sample[key]
    if isinstance(sample, Sequence) and len(sample) > position:
        return sample[position]
    raise ValueError(f"a sample must be (image, label) or a mapping with both, got {type(sample).__name__}")


def _pixels(image: object, row: int) -> Tensor:
    """Converts a tensor (C, H, W), or an array (H, W, C), to uint8 (3, H, W)."""
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.array(image))  # a copy, as PIL lends its memory
        image = image.permute(2, 0, 1) if image.ndim == 3 else image
    if not isinstance(image, Tensor):
        raise ValueError(f"image {row} of the dataset is a {type(image).__name__}; expected a PIL image or a tensor")
    image = image[None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"image {row} of the dataset must be (3, H, W) or (1, H, W), got {tuple(image.shape)}")
    if image.is_floating_point():
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"image {row} of the dataset has values from {low:.3g} to {high:.3g}, expected [0, 1]; leave out "
                "Normalize, as samix normalises with mean and std"
            )
        image = image.mul(255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise ValueError(f"image {row} of the dataset is {image.dtype}; expected uint8, or floats in [0, 1]")
    pixels: Tensor = image.expand(3, -1, -1)
    return pixels
