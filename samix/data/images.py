"""Sets of images that decode nothing until an image is asked for, and the one place that opens a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.v2 import functional

F: Any = functional  # torchvision re-exports its functions in a way that strict mypy does not follow
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


class UnreadableImage(ValueError):
    """A file that is no image, is damaged, or is too large."""


UNREADABLE = (UnreadableImage, FileNotFoundError)  # what `ImageSet.image` raises of an image that is not to be had


class ImageSet(Protocol):
    """N images; `image(i)` is an RGB PIL image or a uint8 tensor (3, H, W)."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64 class ids, or all -1 where there are no labels."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image | Tensor:
        """Image `index`, decoded now."""

    def subset(self, rows: Tensor) -> ImageSet:
        """The images at `rows`, (M,) int64, in that order."""


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images that are in memory already.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.

    Raises:
        ValueError: wrong type or shape, or as many labels as images are not there.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
            raise ValueError(f"images must be uint8 of shape (N, 3, H, W), got {self.images.dtype} {shape}")
        _check_labels(self.labels, len(self.images))

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Tensor:
        """(3, H, W) uint8, a view."""
        return self.images[index]

    def subset(self, rows: Tensor) -> ArrayImages:
        """The images at `rows`, copied."""
        return ArrayImages(self.images[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images in files. The names lie in one fixed-width array, which forked workers share instead of copying.

    Args:
        root: folder that the names are relative to.
        names: (N,) array of bytes, as `file_names` makes it.
        labels: (N,) int64.

    Raises:
        ValueError: as many labels as names are not there.
    """

    root: Path
    names: npt.NDArray[np.bytes_]
    labels: Tensor

    def __post_init__(self) -> None:
        _check_labels(self.labels, len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """File of image `index`."""
        return self.root / os.fsdecode(bytes(self.names[index]))

    def image(self, index: int) -> Image.Image:
        """RGB image; the errors are those of `open_image`."""
        return open_image(self.path(index))

    def subset(self, rows: Tensor) -> FileImages:
        """The images at `rows`."""
        return FileImages(self.root, self.names[rows.numpy()], self.labels[rows])


def _check_labels(labels: Tensor, count: int) -> None:
    if labels.dtype != torch.int64 or tuple(labels.shape) != (count,):
        raise ValueError(f"labels must be int64 of shape ({count},), got {labels.dtype} {tuple(labels.shape)}")


def no_labels(count: int) -> Tensor:
    """Labels of images that have none: (count,) int64, all -1."""
    return torch.full((count,), -1)


def file_names(names: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Names as one compact array of bytes, (N,)."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def open_image(path: Path) -> Image.Image:
    """Reads a file as RGB: grey is repeated, a palette looked up, CMYK converted, transparency dropped.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableImage: the file cannot be decoded, or has more pixels than PIL's `Image.MAX_IMAGE_PIXELS`.
    """
    return decode_image(path, str(path))


def decode_image(source: Path | BinaryIO, name: str) -> Image.Image:
    """Reads a file, or bytes that were read, as `open_image` does; `name` is for the errors, which are the same."""
    try:
        with Image.open(source) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            return _to_rgb(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"image {name} is missing; restore it or read the data set's folder again") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(
            f"image {name} has more than {Image.MAX_IMAGE_PIXELS} pixels, PIL's limit against decompression bombs; "
            "shrink it, or remove it if you do not know it"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders stumble over broken files in many ways, struct.error among them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"image {name} cannot be read ({reason}); replace or remove it") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # PIL would clip 16-bit grey at 255 instead of scaling it
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:  # PIL warns when such a palette becomes RGB in one step
        return image.convert("RGBA").convert("RGB")
    image.load()  # all of it: the file will be closed
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


def to_uint8(image: Image.Image | Tensor) -> Tensor:
    """(3, H, W) uint8 tensor of a PIL image or of such a tensor."""
    if isinstance(image, Tensor):
        return image
    tensor: Tensor = F.pil_to_tensor(image)
    return tensor


def fit_square(image: Any, size: int, short: int, interpolation: InterpolationMode) -> Any:
    """Resizes the short side to `short` pixels and cuts the `size` x `size` centre; of that size already: unchanged.

    Args:
        image: PIL image, or uint8 tensor (3, H, W).
        size: side of the square.
        short: length of the short side before the cut, >= size.
        interpolation: how to resize; always with antialiasing.
    """
    if short == size and F.get_size(image) == [size, size]:
        return image
    return F.center_crop(F.resize(image, [short], interpolation, antialias=True), [size, size])


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
