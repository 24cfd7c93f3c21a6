"""Augmentations of a single image, by torchvision, and the scale of pixels.

The kinds are those of the published recipes: CIFAR-10 (zero padding), CIFAR-100 (reflected padding), Tiny-ImageNet,
ImageNet, CUB and Aircraft (OpenMixup's configurations), and DeiT (Touvron et al. 2021, arXiv:2012.12877) with
RandAugment (Cubuk et al. 2020, arXiv:1909.13719) and random erasing (Zhong et al. 2020, arXiv:1708.04896).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from samix.data.dataset import ImageData
from samix.data.images import Picture, bound_aspect, fit_square, to_uint8
from samix.data.spec import DATASETS, Channels
from samix.runtime.checks import Range
from samix.runtime.typed_options import CheckedOptions, PositiveShare, Share

Kind = Literal["none", "digits", "crop-flip", "crop-flip-reflect", "resized-crop-full", "resized-crop", "fine-grained"]
Transform = Callable[[Picture], Tensor]
Step = Callable[[Any], Picture]  # one takes images, another tensors

CROP_KINDS = ("digits", "crop-flip", "crop-flip-reflect")
RESIZED_KINDS = ("resized-crop-full", "resized-crop", "fine-grained")


@dataclass(frozen=True)
class Augment(CheckedOptions):
    """How images are varied in training and cut in testing, at a side of `size` pixels.

    | kind | training | testing |
    |---|---|---|
    | `none` | as testing | whole image |
    | `digits` | zero padding of size / 8, random crop | whole image |
    | `crop-flip` | the same and flip (CIFAR-10: padding 4) | whole image |
    | `crop-flip-reflect` | the same with reflected padding (CIFAR-100) | whole image |
    | `resized-crop-full` | random resized crop, bicubic, flip (Tiny-ImageNet) | whole image |
    | `resized-crop` | the same (ImageNet, iNaturalist, Places) | short side to size * 256 / 224, centre |
    | `fine-grained` | short side to size * 256 / 224, random resized crop, flip (CUB, Aircraft) | the same, centre |

    "Whole image" resizes the short side to `size` and cuts the centre, which changes nothing at the right size.

    Args:
        kind: a row of the table.
        min_scale: least share of the area that a random resized crop takes; None is 0.5 for `fine-grained`, else 0.08.
        randaugment: magnitude 0..30 of two RandAugment operations after flip (DeiT: 9); None for none.
        random_erasing: probability of replacing a box by noise (DeiT: 0.25).
    """

    kind: Kind = "resized-crop"
    min_scale: PositiveShare | None = None
    randaugment: Annotated[int, Range(0, 30)] | None = None
    random_erasing: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_scale is not None and self.kind not in RESIZED_KINDS:
            raise ValueError(f"min_scale belongs to {', '.join(RESIZED_KINDS)}, not to {self.kind!r}")

    @property
    def flips(self) -> bool:
        """Whether half of the training images are mirrored; digits would become other signs."""
        return self.kind not in ("none", "digits")

    @property
    def scale(self) -> tuple[float, float]:
        """Share of the area that a random resized crop takes, from and to."""
        if self.min_scale is not None:
            return self.min_scale, 1.0
        return (0.5, 1.0) if self.kind == "fine-grained" else (0.08, 1.0)

    @property
    def interpolation(self) -> InterpolationMode:
        """Bicubic; bilinear for `fine-grained`, whose recipes name none, so that torchvision's default holds."""
        return InterpolationMode.BILINEAR if self.kind == "fine-grained" else InterpolationMode.BICUBIC

    def short_side(self, size: int) -> int:
        """Returns the length of the short side before testing cuts the centre."""
        return round(size * 256 / 224) if self.kind in ("resized-crop", "fine-grained") else size


def default_augment(data: ImageData) -> Augment:
    """Returns the published augmentation; for other data, shifts up to 40 pixels' side and resized crops above."""
    return usual_augment(data.name, data.native_size)


def usual_augment(name: str, native_size: int | None) -> Augment:
    """Does the same for the name of a data set and the side of its images."""
    if name in DATASETS and (kind := DATASETS[name].augment):
        return Augment(kind)  # type: ignore[arg-type]  # which is checked there
    return Augment("crop-flip" if native_size is not None and native_size <= 40 else "resized-crop")


@dataclass(frozen=True)
class Fit:
    """Image to the uint8 square (3, size, size), by `fit_square`."""

    size: int
    short: int
    interpolation: InterpolationMode = InterpolationMode.BICUBIC

    def __call__(self, image: Picture) -> Tensor:
        """Returns (3, size, size) uint8."""
        return to_uint8(fit_square(image, self.size, self.short, self.interpolation))


def test_transform(augment: Augment, size: int) -> Fit:
    """Makes the transform of an image to (3, size, size) uint8 for testing, without randomness."""
    return Fit(size, augment.short_side(size), augment.interpolation)


test_transform.__test__ = False  # type: ignore[attr-defined]  # the name must not make pytest run it


def train_transform(augment: Augment, size: int, mean: Channels, std: Channels) -> Transform:
    """Makes the transform of an image to (3, size, size) uint8, varied by draws from torch's global generator."""
    steps: list[Step] = []
    if augment.kind in RESIZED_KINDS:
        mode = augment.interpolation
        if augment.kind == "fine-grained":
            steps.append(bound_aspect)
            steps.append(v2.Resize(augment.short_side(size), mode, antialias=True))
        steps.append(v2.RandomResizedCrop(size, scale=augment.scale, interpolation=mode, antialias=True))
    else:
        steps.append(Fit(size, size))
    if augment.kind in CROP_KINDS:
        padding_mode = "reflect" if augment.kind == "crop-flip-reflect" else "constant"
        steps.append(v2.RandomCrop(size, padding=crop_padding(size), padding_mode=padding_mode))
    if augment.flips:
        steps.append(v2.RandomHorizontalFlip())
    if augment.randaugment is not None:
        fill = [round(255 * value) for value in mean]
        steps.append(v2.RandAugment(2, augment.randaugment, interpolation=InterpolationMode.BILINEAR, fill=fill))
    steps.append(to_uint8)
    if augment.random_erasing > 0:
        steps.append(NoiseErasing(augment.random_erasing, mean, std))
    return Chain(tuple(steps))


@dataclass(frozen=True)
class Chain:
    """Transforms one after the other; plain callables, which torchvision's Compose would wrap."""

    steps: tuple[Step, ...]

    def __call__(self, image: Picture) -> Tensor:
        """Applies all steps in order."""
        result = image
        for step in self.steps:
            result = step(result)
        assert isinstance(result, Tensor)
        return result


@dataclass(frozen=True)
class NoiseErasing:
    """Random erasing of a uint8 image with one normal draw per pixel, of the data set's mean and spread.

    torchvision's own noise is for normalised floats; this is the same noise before normalisation, cut to 0..255.
    """

    p: float
    mean: Channels
    std: Channels

    def __call__(self, image: Tensor) -> Tensor:
        """Returns (3, H, W) uint8, a new tensor if a box is erased."""
        if torch.rand(()) >= self.p:
            return image
        box = v2.RandomErasing(scale=(0.02, 1 / 3), value="random").make_params([image])
        if box["v"] is None:
            return image
        noise = box["v"] * torch.tensor(self.std)[:, None, None] + torch.tensor(self.mean)[:, None, None]
        erased = image.clone()
        region = (slice(None), slice(box["i"], box["i"] + box["h"]), slice(box["j"], box["j"] + box["w"]))
        erased[region] = noise.mul(255).round().clamp(0, 255).to(torch.uint8)
        return erased


def crop_padding(size: int) -> int:
    """Returns the padding before a random crop in pixels: 4 at 32 pixels, in proportion elsewhere, at least 1."""
    return max(1, size // 8)


@lru_cache(maxsize=64)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Makes (C, 1, 1) float32; cached, as making it anew on a GPU would wait for a copy at each step."""
    return torch.tensor(values, device=device)[:, None, None]


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scales pixels to zero mean and unit standard deviation.

    Args:
        images: (..., 3, H, W), uint8 in 0..255 or floating in [0, 1].
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].

    Returns:
        (..., 3, H, W) float32, on the device of images.
    """
    middle, spread = _channels(tuple(mean), images.device), _channels(tuple(std), images.device)
    if images.dtype == torch.uint8:
        return images.float().div_(255).sub_(middle).div_(spread)  # in place: new memory costs more than the sums
    return images.float().sub(middle).div_(spread)


def denormalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Inverts `normalize`: (..., 3, H, W) float32 in [0, 1], for pictures."""
    pixels = images.float() * _channels(tuple(std), images.device) + _channels(tuple(mean), images.device)
    return pixels.clamp(0, 1)
