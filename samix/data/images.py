"""Sets of images, which decode an image when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.v2 import functional as F

from samix.data.decode import open_image, read_header

Picture = Image.Image | Tensor  # RGB, or uint8 (3, H, W)
MAX_ASPECT = 16  # of an image that is resized as a whole: one of 20000 x 1 would need gigabytes


class ImageSet(Protocol):
    """N images; `image(i)` is an RGB PIL image or a uint8 tensor (3, H, W)."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64 class ids, or all -1 where there are no labels."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Picture:
        """Decodes image `index`."""

    def subset(self, rows: Tensor) -> ImageSet:
        """Selects the images at `rows`, (M,) int64, in that order."""


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images that are in memory already.

    Raises:
        ValueError: wrong type or shape, or images and labels differ in number.
    """

    images: Tensor  # (N, 3, H, W) uint8
    labels: Tensor  # (N,) int64

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
            raise ValueError(f"images must be uint8 of shape (N, 3, H, W), got {self.images.dtype} {shape}")
        _check_labels(self.labels, len(self.images))

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Tensor:
        """Returns (3, H, W) uint8, a view."""
        return self.images[index]

    def subset(self, rows: Tensor) -> ArrayImages:
        """Copies the images at `rows`."""
        return ArrayImages(self.images[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images in files. The names are in one fixed-width array, which forked workers share instead of copying."""

    root: Path  # folder that the names are relative to
    names: npt.NDArray[np.bytes_]  # (N,) array of bytes, as `file_names` makes it
    labels: Tensor  # (N,) int64
    # turn images upright as their EXIF data say; the readers of published sets leave them as stored
    exif_rotation: bool = True

    def __post_init__(self) -> None:
        _check_labels(self.labels, len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """Returns the file of image `index`."""
        return self.root / os.fsdecode(bytes(self.names[index]))

    def image(self, index: int) -> Image.Image:
        """Decodes image `index` to RGB; the errors are those of `open_image`."""
        return open_image(self.path(index), exif_rotation=self.exif_rotation)

    def header(self, index: int) -> tuple[int, int, bool]:
        """Reads width and height of image `index`, before any rotation, and whether its end is there."""
        return read_header(self.path(index), str(self.path(index)))

    def subset(self, rows: Tensor) -> FileImages:
        """Selects the images at `rows`."""
        return FileImages(self.root, self.names[rows.numpy()], self.labels[rows], self.exif_rotation)


def _check_labels(labels: Tensor, count: int) -> None:
    if labels.dtype != torch.int64 or tuple(labels.shape) != (count,):
        raise ValueError(f"labels must be int64 of shape ({count},), got {labels.dtype} {tuple(labels.shape)}")


def none_of(images: ImageSet) -> ImageSet:
    """Returns the empty set of these images."""
    return images.subset(torch.zeros(0, dtype=torch.int64))


def no_labels(count: int) -> Tensor:
    """Makes labels of images that have none: (count,) int64, all -1."""
    return torch.full((count,), -1)


def file_names(names: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Packs names into one compact array of bytes, (N,)."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def to_uint8(image: Picture) -> Tensor:
    """Makes a uint8 tensor (3, H, W) of a PIL image; such a tensor is returned as is."""
    if isinstance(image, Tensor):
        return image
    tensor: Tensor = F.pil_to_tensor(image)
    return tensor


def bound_aspect(image: Picture) -> Picture:
    """Cuts the middle out of an image whose long side is more than 16 times the short one; others are unchanged."""
    height, width = F.get_size(image)
    longest = MAX_ASPECT * min(height, width)
    if max(height, width) <= longest:
        return image
    middle: Picture = F.center_crop(image, [min(height, longest), min(width, longest)])
    return middle


def fit_square(image: Picture, size: int, short: int, interpolation: InterpolationMode) -> Picture:
    """Resizes the short side to `short` pixels and cuts the `size` x `size` centre; of that size already: unchanged.

    Of very long images only the middle is resized, see `bound_aspect`.

    Args:
        image: PIL image, or uint8 tensor (3, H, W).
        size: side of the square.
        short: length of the short side before the cut, >= size.
        interpolation: how to resize; always with antialiasing.
    """
    if short == size and F.get_size(image) == [size, size]:
        return image
    resized = F.resize(bound_aspect(image), [short], interpolation, antialias=True)
    square: Picture = F.center_crop(resized, [size, size])
    return square


def load_images(paths: Sequence[Path], size: int) -> Tensor:
    """Reads files to one batch: short side resized to `size` (bicubic), centre cut.

    Returns:
        (B, 3, size, size) uint8, RGB.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no paths, or a file that is not an image.
    """
    if not paths:
        raise ValueError("load_images needs at least one path, got none")
    mode = InterpolationMode.BICUBIC
    return torch.stack([to_uint8(fit_square(open_image(Path(path)), size, size, mode)) for path in paths])
