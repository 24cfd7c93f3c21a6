"""``samix show --html``: a page on which two images are mixed by every mixup at once, with a slider for lambda."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from tyro.conf import Positional

from samix.batch import MixedBatch
from samix.data import load_images, normalize
from samix.hub.checkpoints import load_method
from samix.mixers.pretrained import DEFAULT
from samix.mixups import MIXUPS
from samix.recipes.build import METHODS, MIXER, is_mixup_name
from samix.runtime.checks import IMAGE_SIDE, Range
from samix.runtime.typed_options import CheckedOptions, Seed
from samix.train.options import short_name
from samix.viz.mixes import PHOTO_MEAN, PHOTO_STD, mixup_at, named_mixup, title_of
from samix.viz.playground_page import TRIES, Scale, Sheet, new_sheet, playground_page
from samix.viz.webpage import write_page

PAIR = torch.tensor([1, 0])  # each is the other's partner


@dataclass(frozen=True)
class Playground(CheckedOptions):
    """Writes a page on which two images are mixed by every mixup, side by side with the masks, with a slider.

    Args:
        images: two image files, image A and image B.
        html: the page to write; a folder gets playground.html.
        also: checkpoints of learned mixups (``runs/NAME/best.pt``, or the run's folder) and trained Mixers
            (``mixer:PATH``, or the Mixer's folder), to be shown beside the others.
        mixups: names of those to show; empty takes all that make a picture.
        frames: steps of lambda from 0 to 1.
        size: side in pixels at which images are mixed; checkpoints take their own.
        seed: of a mixup's further draws, such as the place of a box.
    """

    images: Positional[tuple[Path, ...]] = ()
    html: Path = Path("playground.html")
    also: tuple[str, ...] = ()
    mixups: tuple[str, ...] = ()
    frames: Annotated[int, Range(2, 101)] = 21
    size: Annotated[int, Range(8, IMAGE_SIDE.high)] = 224
    seed: Seed = 0

    def write(self) -> str:
        """Writes the page and says where it is, and what is not shown.

        Raises:
            FileNotFoundError, ValueError: not two images, unknown mixups, or options out of range.
        """
        self.check()
        path = self.html if self.html.suffix in (".html", ".htm") else self.html / "playground.html"
        outcomes = [self.sheet(source) for source in self.sources()]
        sheets, left_out = [s for s in outcomes if isinstance(s, Sheet)], [s for s in outcomes if isinstance(s, str)]
        if not sheets:
            raise ValueError(f"nothing to show: {'; '.join(left_out)}")
        pair = load_images(self.images, max(self.size, TRIES[0][0])).float() / 255
        text = playground_page(pair, [path.name for path in self.images], self.lams(), sheets, left_out)
        write_page(path, text)
        notes = "".join(f"\nnot shown: {line}" for line in left_out)
        return f"{path}: {len(sheets)} mixups, {self.frames} lambdas, {len(text) / 1e6:.1f} MB{notes}"

    def check(self) -> None:
        """Raises ValueError for options that make no page."""
        if len(self.images) != 2:
            raise ValueError(f"the page mixes two images, got {len(self.images)}: samix show --html OUT a.jpg b.jpg")
        unknown = [name for name in self.mixups if name not in MIXUPS]
        if unknown:
            known = ", ".join(MIXUPS)
            trained = " (trained ones are given by --also)" if set(unknown) & set(METHODS) else ""
            raise ValueError(f"unknown mixup {', '.join(unknown)}{trained}; choose of {known}")

    def lams(self) -> list[float]:
        """Returns the lambdas of the frames."""
        return [n / (self.frames - 1) for n in range(self.frames)]

    def sources(self) -> list[str]:
        """Returns the mixups to show, the trained ones first."""
        default = [f"{MIXER}default"] if DEFAULT.is_dir() and not self.mixups else []
        return [*[find_source(source) for source in self.also], *default, *(self.mixups or MIXUPS)]

    def sheet(self, source: str) -> Sheet | str:
        """Returns all frames of a mixup, or the reason why there are none."""
        try:
            title, family, mix, scale = self.mix_of(source)
            batches = [mix(lam) for lam in self.lams()]
            if any(batch is None for batch in batches):
                return f"{source}: it trains without mixing images"
            return new_sheet(title, family, [b for b in batches if b is not None], scale)
        except (ValueError, RuntimeError, OSError) as error:
            return f"{source}: {error}"

    def mix_of(self, source: str) -> tuple[str, str, Callable[[float], MixedBatch | None], Scale]:
        """Returns title, family, the function from lam to the mix, and mean and std of the images."""
        if is_mixup_name(source):
            scale: Scale = (PHOTO_MEAN, PHOTO_STD)
            images, labels = self.pair(self.size, scale)
            mixup = named_mixup(source, scale)
            family = mixup.family
            mix = mixup_at(mixup, images, labels, PAIR, self.seed, mixup.preview_guide(images, labels))
            title = title_of(source, mixup).replace("each column", "each λ")
            if source.startswith(MIXER):
                title = f"{short_name(source)}: {title}"
            return title, family, mix, scale
        method, recipe, described = load_method(Path(source))
        scale = (tuple(described["mean"]), tuple(described["std"]))
        images, labels = self.pair(recipe.size, scale)
        title = f"{recipe.mixup}: {Path(source).parent.name}, trained on {recipe.data}"
        return title, "Learned", lambda lam: method.preview(images, labels, lam, PAIR), scale

    def pair(self, size: int, scale: Scale) -> tuple[Tensor, Tensor]:
        """Returns the images as a network sees them, grey where it was trained on one channel, and labels 0 and 1."""
        images = load_images(self.images, size)
        if len(scale[0]) == 1:
            images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
        return normalize(images, *scale), torch.tensor([0, 1])


def find_source(source: str) -> str:
    """Returns a checkpoint's path, or mixer:PATH, of a file, or a run's or Mixer's folder, in ``--also``."""
    path = Path(source)
    if source.startswith(MIXER) or path.is_file():
        return f"{MIXER}{source}" if path.suffix == ".safetensors" else source
    for name in ("best.pt", "last.pt"):
        if (path / name).is_file():
            return str(path / name)
    if (path / "model.safetensors").is_file():
        return f"{MIXER}{source}"
    raise ValueError(f"--also {source}: neither a checkpoint, a run's folder, nor a Mixer")
