"""Two or more views of each image for training without labels: the published recipes, and their form for one image.

MoCo v1 (He et al. 2020, arXiv:1911.05722), MoCo v2 (Chen et al. 2020, arXiv:2003.04297), SimCLR (Chen et al. 2020,
arXiv:2002.05709), BYOL (Grill et al. 2020, arXiv:2006.07733), SwAV (Caron et al. 2020, arXiv:2006.09882), and the CIFAR
recipe of MoCo's authors. Whole batches on the device are in `samix.data.on_device_views`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from samix.data.images import Picture, to_uint8
from samix.data.transforms import Chain, Step, Transform
from samix.runtime.typed_options import AtLeast2, CheckedOptions, CountOr0

ViewKind = Literal["moco-v1", "moco-v2", "simclr", "byol", "cifar", "swav"]
ViewStep = Literal["crop", "flip", "jitter", "grey", "blur", "solarise"]
BLUR_SIGMA = (0.1, 2.0)  # in pixels of the result, uniform
SOLARISE_FROM = 128  # the upper half of 0..255 is inverted
SMALL_FROM = 0.05  # least share of the area that SwAV's small crops take


@dataclass(frozen=True)
class ViewRecipe:
    """The steps that make one view; every step but the crop has a probability."""

    scale: tuple[float, float]  # least and largest share of the area that the random resized crop takes
    # spread of brightness, contrast and saturation around 1, and of hue around 0 in turns
    jitter: tuple[float, float, float, float]
    jitter_p: float  # probability of colour jitter; its four operations come in random order
    blur_p: float  # probability of a Gaussian blur
    solarise_p: float  # probability that the upper half of the range is inverted
    steps: tuple[ViewStep, ...]  # their order
    interpolation: InterpolationMode = InterpolationMode.BILINEAR  # of the crop; always with antialiasing
    grey_p: float = 0.2  # probability of a grey image


_MOCO: tuple[ViewStep, ...] = ("crop", "jitter", "grey", "blur", "flip")
_SIMCLR: tuple[ViewStep, ...] = ("crop", "flip", "jitter", "grey", "blur")
_BYOL: tuple[ViewStep, ...] = ("crop", "jitter", "grey", "blur", "solarise", "flip")
_STRONG, _MILD, _BYOL_JITTER = (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.4, 0.1), (0.4, 0.4, 0.2, 0.1)
_BICUBIC = InterpolationMode.BICUBIC

# The recipe of each view; the last one is that of all further views.
RECIPES: dict[str, tuple[ViewRecipe, ...]] = {
    "moco-v1": (ViewRecipe((0.2, 1.0), (0.4, 0.4, 0.4, 0.4), 1.0, 0.0, 0.0, ("crop", "grey", "jitter", "flip")),),
    "moco-v2": (ViewRecipe((0.2, 1.0), _MILD, 0.8, 0.5, 0.0, _MOCO),),
    "simclr": (ViewRecipe((0.08, 1.0), _STRONG, 0.8, 0.5, 0.0, _SIMCLR, _BICUBIC),),
    "byol": (
        ViewRecipe((0.08, 1.0), _BYOL_JITTER, 0.8, 1.0, 0.0, _BYOL, _BICUBIC),
        ViewRecipe((0.08, 1.0), _BYOL_JITTER, 0.8, 0.1, 0.2, _BYOL, _BICUBIC),
    ),
    "cifar": (ViewRecipe((0.08, 1.0), _MILD, 0.8, 0.0, 0.0, ("crop", "flip", "jitter", "grey")),),
    "swav": (
        ViewRecipe((0.14, 1.0), _STRONG, 0.8, 0.5, 0.0, _SIMCLR),
        ViewRecipe((0.14, 1.0), _STRONG, 0.8, 0.5, 0.0, _SIMCLR),
        ViewRecipe((SMALL_FROM, 0.14), _STRONG, 0.8, 0.5, 0.0, _SIMCLR),
    ),
}


@dataclass(frozen=True)
class ViewAugment(CheckedOptions):
    """How the views of an image are made for training without labels.

    | kind | crop | jitter, p | blur, p | solarise, p | order |
    |---|---|---|---|---|---|
    | `moco-v1` | 0.2-1 | .4 .4 .4 .4, 1 | - | - | crop, grey, jitter, flip |
    | `moco-v2` (SimSiam, SAMix) | 0.2-1 | .4 .4 .4 .1, 0.8 | 0.5 | - | crop, jitter, grey, blur, flip |
    | `simclr` | 0.08-1, bicubic | .8 .8 .8 .2, 0.8 | 0.5 | - | crop, flip, jitter, grey, blur |
    | `byol`, first view | 0.08-1, bicubic | .4 .4 .2 .1, 0.8 | 1 | - | crop, jitter, grey, blur, solarise, flip |
    | `byol`, second view (Barlow Twins, MoCo v3) | the same | the same | 0.1 | 0.2 | the same |
    | `cifar` | 0.08-1 | .4 .4 .4 .1, 0.8 | - | - | crop, flip, jitter, grey |
    | `swav` | two of 0.14-1, small ones of 0.05-0.14 | .8 .8 .8 .2, 0.8 | 0.5 | - | as simclr |

    Grey has probability 0.2, flip 0.5, in every kind. Not for signs and digits, which a flip turns into others.

    Args:
        kind: a row of the table.
        min_scale: least share of the area that a crop takes; None is the kind's. In `swav` that of the large crops, up
            to which the small ones reach.
        strength: factor of the four jitter spreads (SimCLR on CIFAR-10: 0.5).
        small_crops: number of further, small views; `swav` only, None is 6.
        small_size: their side in pixels; None is 3/7 of the large one's (96 at 224), below 128 pixels half of it.

    Raises:
        ValueError: unknown kind, a number out of range, or small crops of a kind that has none.
    """

    kind: ViewKind = "moco-v2"
    min_scale: float | None = None
    strength: float = 1.0
    small_crops: CountOr0 | None = None
    small_size: AtLeast2 | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        least = SMALL_FROM if self.kind == "swav" else 0.0
        if self.min_scale is not None and not least < self.min_scale <= 1:
            raise ValueError(f"min_scale of {self.kind} must be in ({least:g}, 1], got {self.min_scale}")
        largest = 0.5 / max(recipe.jitter[3] for recipe in RECIPES[self.kind])
        if not 0 <= self.strength <= largest:
            raise ValueError(
                f"strength of {self.kind} must be in [0, {largest:g}], where hue turns by up to half, "
                f"got {self.strength}"
            )
        if self.kind != "swav" and not (self.small_crops is None and self.small_size is None):
            raise ValueError(f"small_crops and small_size belong to swav, not to {self.kind!r}; leave them out")

    @property
    def count(self) -> int:
        """Views of an image: two, and the small ones."""
        if self.kind != "swav":
            return 2
        return 2 + (6 if self.small_crops is None else self.small_crops)

    def size(self, view: int, size: int) -> int:
        """Returns the side of view 0, 1, ... in pixels, where the first two have `size`."""
        if view < 2:
            return size
        if self.small_size is not None:
            return self.small_size
        return round(size * 3 / 7) if size >= 128 else max(2, size // 2)

    def recipe(self, view: int) -> ViewRecipe:
        """Returns the recipe of view 0, 1, ..., with min_scale and strength in it."""
        kept = RECIPES[self.kind]
        recipe = kept[min(view, len(kept) - 1)]
        low, high = recipe.scale
        if self.min_scale is not None:
            low, high = (low, self.min_scale) if view >= 2 else (self.min_scale, high)
        brightness, contrast, saturation, hue = (self.strength * spread for spread in recipe.jitter)
        return replace(recipe, scale=(low, high), jitter=(brightness, contrast, saturation, hue))


def view_transforms(views: ViewAugment, size: int) -> tuple[Transform, ...]:
    """Makes the transform of each view to (3, side, side) uint8, varied by draws from torch's global generator.

    Every image becomes a PIL image first, as in the published code, so that a data set in memory and one in files are
    treated alike.
    """
    return tuple(_transform(views.recipe(view), views.size(view, size)) for view in range(views.count))


def _transform(recipe: ViewRecipe, size: int) -> Chain:
    makers: dict[str, Step] = {
        "crop": v2.RandomResizedCrop(size, scale=recipe.scale, interpolation=recipe.interpolation, antialias=True),
        "flip": v2.RandomHorizontalFlip(),
        "jitter": v2.RandomApply([v2.ColorJitter(*recipe.jitter)], p=recipe.jitter_p),
        "grey": v2.RandomGrayscale(recipe.grey_p),
        "blur": PilBlur(recipe.blur_p),
        "solarise": v2.RandomSolarize(SOLARISE_FROM, recipe.solarise_p),
    }
    return Chain((to_pil, *(makers[step] for step in recipe.steps), to_uint8))


def to_pil(image: Picture) -> Image.Image:
    """Makes a PIL image of a uint8 tensor (3, H, W)."""
    if isinstance(image, Image.Image):
        return image
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


@dataclass(frozen=True)
class PilBlur:
    """Gaussian blur of a PIL image with PIL's radius = sigma, which needs no size of a kernel."""

    p: float

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns the image, or a blurred copy."""
        if torch.rand(()) >= self.p:
            return image
        low, high = BLUR_SIGMA
        return image.filter(ImageFilter.GaussianBlur(low + (high - low) * float(torch.rand(()))))
