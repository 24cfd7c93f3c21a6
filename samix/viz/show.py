"""``samix show``: pairs of images by lambda as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tyro.conf import Positional

from samix.batch import MixedBatch
from samix.data import denormalize, load_data, load_images, normalize
from samix.data.spec import Channels
from samix.hub.checkpoints import load_method
from samix.recipes import Recipe
from samix.recipes.build import METHODS, MIXER, is_mixup_name, mixup_names
from samix.runtime.atomic_files import refuse_foreign
from samix.runtime.typed_options import CheckedOptions, ImageSideOr0, Seed, Share
from samix.viz.callbacks import preview_pairs
from samix.viz.figures import PNG_METADATA
from samix.viz.mixes import (
    PHOTO_MEAN,
    PHOTO_STD,
    mask_statistics,
    mixup_at,
    named_mixup,
    select_rows,
    title_of,
)
from samix.viz.pictures import Mix, mix_grid, source_grid


@dataclass(frozen=True)
class Show(CheckedOptions):
    """Draws pairs of images over lambda: the mixed image and, below it, the mask.

    ``samix show --html page.html a.jpg b.jpg`` writes a page instead: every mixup side by side, with a slider for
    lambda; ``samix show --html page.html --help`` lists its options.

    Args:
        source: a checkpoint of a learned mixup (``runs/NAME/best.pt``), or the name of a mixup.
        images: two or more image files, in pairs of image A and image B. Empty takes held-out images of the
            checkpoint's data, or digits.
        out: PNG file to write.
        size: side of the images in pixels; 0 takes the checkpoint's, or 224.
        lams: shares of image A.
        seed: seed of a mixup's other draws, such as the position of a box.
        data_root: folder of torchvision's data sets.
    """

    source: Positional[str]
    images: Positional[tuple[Path, ...]] = ()
    out: Path = Path("mixed.png")
    size: ImageSideOr0 = 0
    lams: tuple[Share, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    seed: Seed = 0
    data_root: str = "data"

    def write(self, *, options: Mapping[str, object] | None = None, dpi: int = 110) -> str:
        """Draws pairs by lambda, or two batches of a mixup of more than two images; returns the line to print.

        Args:
            options: of a mixup by name.
            dpi: of the PNG.

        Raises:
            FileNotFoundError, ValueError: no such source, one image only, or a mixup that makes no picture.
        """
        self.check()
        refuse_foreign(self.out, PNG_METADATA["Software"], "give another file with --out")
        source, files, lams = self.source, self.images, self.lams
        method, recipe, described = (None, None, None) if is_mixup_name(source) else load_method(Path(source))
        mean, std = (described["mean"], described["std"]) if described else (PHOTO_MEAN, PHOTO_STD)
        if files:
            images = normalize(load_images(files, self.size or (recipe.size if recipe else 224)), mean, std)
            labels, (rows, index) = torch.zeros(len(images), dtype=torch.long), pairs_of(len(images))
        else:
            images, labels, index, mean, std = held_out(recipe, self.size, self.data_root)
            rows = torch.arange(min(len(images), 4))
        guide: Tensor | None = None
        mixes: list[Mix]
        if method is None or recipe is None:
            mixup = named_mixup(source, (mean, std), options)
            guide, title = mixup.preview_guide(images, labels), title_of(source, mixup)
            mixes = [mixup_at(mixup, images, labels, index, self.seed + n, guide) for n in (0, 1)]
        else:
            mixes, title = [lambda lam: method.preview(images, labels, lam, index)], recipe.mixup
        first = [batch for mix in mixes if (batch := mix(lams[0])) is not None]
        if not first:
            raise ValueError(f"{source} makes no picture: it trains without mixing images")
        pixels = partial(denormalize, mean=mean, std=std)
        if first[0].labels.shape[1] > 2:
            source_grid(self.out, images, first, pixels, title, dpi)
        else:
            maps = None if guide is None else (guide[rows], guide[index[rows]])

            def mix(lam: float) -> MixedBatch | None:
                batch = mixes[0](lam)
                return None if batch is None else select_rows(batch, rows)

            mix_grid(self.out, images[rows], images[index[rows]], mix, lams, pixels, title, guides=maps, dpi=dpi)
        masked = [batch for batch in map(mixes[0], lams) if batch is not None and batch.mask is not None]
        numbers = mask_statistics(masked) if masked else {"std": 0.0, "correlation": 0.0}
        return (
            f"{self.out}: spread within a mask {numbers['std']:.3f}, correlation of its mean with lambda "
            f"{numbers['correlation']:.3f}"
        )

    def check(self) -> None:
        """Raises ValueError unless this can be drawn; of a checkpoint only whether it is there."""
        if len(self.images) == 1:
            raise ValueError("samix show needs at least two images to mix, got one")
        if not self.lams:
            raise ValueError("lams must be one or more numbers")
        if self.size == 1:
            raise ValueError("--size must be at least 2 pixels, or 0 for the checkpoint's or 224, got 1")
        if not is_mixup_name(self.source) and not Path(self.source).exists():
            raise ValueError(
                f"{self.source!r} is neither a run nor a mixup; the mixups are {', '.join(mixup_names())}, "
                f"{MIXER}PATH, or your own as package.module:Name"
            )
        if self.source in METHODS:
            raise ValueError(
                f"{self.source} must be trained before it can be shown: give a checkpoint, runs/NAME/best.pt"
            )


def pairs_of(count: int) -> tuple[Tensor, Tensor]:
    """Returns which of ``count`` files are drawn, at most four (rows), and the partner of each file (count,).

    An even number, four or more: the first with the second, the third with the fourth. Otherwise each with the next.
    """
    at = torch.arange(count)
    if count >= 4 and count % 2 == 0:
        return at[::2][:4], at + 1 - 2 * (at % 2)
    return at[: 1 if count == 2 else 4], at.roll(-1)


def held_out(recipe: Recipe | None, size: int, data_root: str) -> tuple[Tensor, Tensor, Tensor, Channels, Channels]:
    """Returns held-out pairs of the recipe's data, or digits: images, labels, index, mean, std."""
    recipe = recipe or Recipe(data="digits", size=16)
    data = load_data(recipe.data, root=data_root)
    if size:
        recipe = dataclasses.replace(recipe, size=size)
    return (*preview_pairs(data, recipe), data.mean, data.std)
