"""Augmentation of whole batches on their own device: a whole split decoded once, and crops without a loop over samples.

The random numbers are drawn on the CPU, (B, 23) in [0, 1), and handed over; nothing here waits for the device.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

from samix.data.decode import UNREADABLE
from samix.data.images import ArrayImages, ImageSet
from samix.data.transforms import CROP_KINDS, RESIZED_KINDS, Augment, Fit, crop_padding

TRIES = 10  # boxes that a random resized crop tries before it takes the whole image, as torchvision
DRAWS = 3 + 2 * TRIES  # columns: flip, position down and across, TRIES areas, TRIES aspect ratios


def stored_size(augment: Augment, size: int, native_size: int | None) -> int:
    """Returns the side at which a split is kept: more than `size` where resized crops can use it."""
    if augment.kind not in RESIZED_KINDS:
        return size
    largest = round(size * 256 / 224)
    if native_size is not None:
        return max(size, min(native_size, largest))
    return max(augment.short_side(size), size)


def decode_all(images: ImageSet, fit: Fit, device: torch.device, bad: set[int] | None = None) -> Tensor:
    """Decodes a set of N images to (N, 3, fit.size, fit.size) uint8, in threads; images of that form are not copied.

    Rows that cannot be read are put into ``bad`` and left black; None raises the first one's error.

    Raises:
        ValueError: an image cannot be read, or the result is larger than the free memory of a CUDA device.
    """
    if device.type == "cuda":
        needed, free = len(images) * 3 * fit.size**2, torch.cuda.mem_get_info(device)[0]
        if needed > free:
            raise ValueError(
                f"on_device needs {needed / 2**30:.1f} GiB for {len(images)} images of {fit.size} pixels, "
                f"{free / 2**30:.1f} GiB are free; set on_device=False"
            )
    if isinstance(images, ArrayImages) and images.images.shape[-2:] == (fit.size, fit.size) and fit.short == fit.size:
        return images.images.to(device)
    result = torch.zeros(len(images), 3, fit.size, fit.size, dtype=torch.uint8)

    def decode(rows: range) -> None:
        for row in rows:
            try:
                result[row] = fit(images.image(row))
            except UNREADABLE:
                if bad is None:
                    raise
                bad.add(row)

    chunks = [range(first, min(first + 256, len(images))) for first in range(0, len(images), 256)]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, chunks):  # raises the first error, and cancels what has not begun
            pass
    return result.to(device)


def check_on_device(augment: Augment) -> None:
    """Refuses what only the worker loading can do."""
    if augment.randaugment is not None or augment.random_erasing > 0:
        raise ValueError("on_device has no RandAugment and no random erasing; set on_device=False or leave them out")


def augment_batch(images: Tensor, draws: Tensor, augment: Augment, size: int) -> Tensor:
    """Applies the training augmentation of `augment.kind` to images (B, 3, S, S) uint8, by draws (B, 23) in [0, 1).

    The result is (B, 3, size, size): uint8 for shifts, whose S is size, and float32 in [0, 1] for resized crops.
    """
    if augment.kind in RESIZED_KINDS:
        return resized_crop(images, draws, augment.scale, size)
    if augment.kind in CROP_KINDS:
        reflect = augment.kind == "crop-flip-reflect"
        return padded_crop(images, draws, crop_padding(size), reflect=reflect, flip=augment.flips)
    return images


def padded_crop(images: Tensor, draws: Tensor, padding: int, *, reflect: bool, flip: bool) -> Tensor:
    """Shifts images (B, C, S, S) of any type by up to `padding` < S pixels; with `flip`, mirrors half of them.

    Of the draws (B, >= 3) in [0, 1), column 0 below 1/2 flips, and 1 and 2 choose the position. The border is filled by
    zeros, or with `reflect` by reflection.
    """
    count, channels, side, _ = images.shape
    position = torch.arange(side, device=images.device)
    across = position.expand(count, side)  # (B, S) column of the crop that each result column shows
    if flip:
        across = torch.where(draws[:, :1] < 0.5, side - 1 - across, across)
    shift = (draws[:, 1:3] * (2 * padding + 1)).long() - padding  # (B, 2) down, across
    rows, columns = position + shift[:, :1], across + shift[:, 1:]  # (B, S) each, -padding .. S - 1 + padding
    if reflect:
        rows, columns = _reflect(rows, side), _reflect(columns, side)
    inside = _within(rows, side)[:, :, None] & _within(columns, side)[:, None, :]  # (B, S, S)
    source = rows.clamp(0, side - 1)[:, :, None] * side + columns.clamp(0, side - 1)[:, None, :]
    source = source.view(count, 1, side * side).expand(count, channels, side * side)
    cropped = images.flatten(2).gather(2, source).view_as(images)
    return cropped if reflect else cropped * inside[:, None]


def _reflect(position: Tensor, side: int) -> Tensor:
    """Folds places outside 0..side - 1 back; the border pixel itself is not repeated."""
    return (side - 1) - ((side - 1) - position.abs()).abs()


def _within(position: Tensor, side: int) -> Tensor:
    return (position >= 0) & (position < side)


def crop_boxes(draws: Tensor, side: int, scale: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Chooses boxes of random resized crops of squares, by torchvision's rule: the first of ten tries that fits.

    Area share uniform in `scale`, log aspect ratio uniform between log 3/4 and log 4/3 (Szegedy et al. 2015,
    arXiv:1409.4842, section 6). If no try fits, the whole image.

    The draws (B, 23) are in [0, 1), and ``side`` in pixels. Returns top, left, height and width, (B, 1) int64 each.
    """
    areas, ratios = draws[:, 3 : 3 + TRIES], draws[:, 3 + TRIES :]
    area = (scale[0] + areas * (scale[1] - scale[0])) * side**2  # (B, TRIES)
    root = torch.exp((ratios * 2 - 1) * (math.log(4 / 3) / 2))  # square root of width / height
    width, height = (area.sqrt() * root).round().long(), (area.sqrt() / root).round().long()
    fits = (width >= 1) & (width <= side) & (height >= 1) & (height <= side)
    first = fits.int().argmax(1, keepdim=True)  # (B, 1), 0 where none fits
    any_fits = fits.gather(1, first)
    width = torch.where(any_fits, width.gather(1, first), side)
    height = torch.where(any_fits, height.gather(1, first), side)
    top = (draws[:, 1:2] * (side - height + 1)).long()
    left = (draws[:, 2:3] * (side - width + 1)).long()
    return top, left, height, width


def resized_crop(images: Tensor, draws: Tensor, scale: tuple[float, float], size: int) -> Tensor:
    """Crops, resizes and mirrors at random; bilinear without antialiasing (worker loading is bicubic with it).

    Equal to cutting the box and `F.interpolate(..., mode="bilinear", align_corners=False)`. Maps (B, C, S, S) uint8 to
    (B, C, size, size) float32 in [0, 1], by draws (B, 23) in [0, 1): flip, position down and across, ten areas, ten
    ratios.
    """
    side = images.shape[-1]
    top, left, height, width = crop_boxes(draws, side, scale)
    position = torch.arange(size, device=images.device)
    across = torch.where(draws[:, :1] < 0.5, size - 1 - position, position)  # (B, size)
    ys = _source(position, top, height, size)
    xs = _source(across, left, width, size)
    unit = 2 / max(side - 1, 1)  # pixels to grid_sample's -1..1
    grid = torch.stack(
        [
            (xs * unit - 1)[:, None, :].expand(-1, size, -1),
            (ys * unit - 1)[:, :, None].expand(-1, -1, size),
        ],
        dim=-1,
    )  # (B, size, size, 2), x before y
    return F.grid_sample(images.float().div_(255), grid, mode="bilinear", padding_mode="border", align_corners=True)


def _source(position: Tensor, start: Tensor, length: Tensor, size: int) -> Tensor:
    """Returns the source coordinate of each result pixel, (B, size), clamped to the box."""
    inside = (position + 0.5) * (length / size) - 0.5
    return start + torch.minimum(inside.clamp(min=0), length - 1.0)
