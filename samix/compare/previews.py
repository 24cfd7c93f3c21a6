"""Pictures of the mixing of a trained method for the report, and how its masks follow lambda."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from samix.batch import MixedBatch
from samix.data import ImageData, denormalize, load_data
from samix.hub.checkpoints import load_method
from samix.methods.base import Method
from samix.recipes import Recipe
from samix.runtime.atomic_files import write_text, write_whole
from samix.viz.callbacks import preview_pairs
from samix.viz.mixes import mask_statistics
from samix.viz.webpage import to_picture

MASKS = "masks.json"
STRIPS = ("strip-0.png", "strip-1.png")  # two pairs
SWEEP = tuple(n / 20 for n in range(1, 20))  # lambdas of the statistics
SHOWN = SWEEP[1::4]  # of a strip: 0.1, 0.3, 0.5, 0.7, 0.9
SIDE = 96  # of an image at most, pixels; small ones are enlarged to about half of it
GAP = 3  # pixels between images


def write_previews(method: Method, recipe: Recipe, data: ImageData, folder: Path) -> None:
    """Writes ``masks.json`` and two strips of mixed held-out images into a run's folder; the method is not changed."""
    if bool((data.val.labels < 0).all()):  # no labels to choose pairs by
        write_text(folder / MASKS, json.dumps({}))
        return
    images, labels, index = preview_pairs(data, recipe, next(method.parameters()).device)
    with same_draws(method):
        batches = {lam: method.preview(images, labels, lam, index) for lam in SWEEP}
    mixed = {lam: batch for lam, batch in batches.items() if batch is not None}
    statistics = sweep(mixed)
    if mixed:

        def pixels(batch: Tensor, row: int) -> Tensor:
            return denormalize(batch, data.mean, data.std)[row]

        shown = [mixed[lam] for lam in SHOWN if lam in mixed]
        for row, name in enumerate(STRIPS):
            between = [pixels(batch.images, row) for batch in shown]
            masks = [batch.mask[row] for batch in shown if statistics and batch.mask is not None]
            picture = strip([pixels(images[index], row), *between, pixels(images, row)], masks)
            write_whole(folder / name, partial(picture.save, format="PNG"))
    write_text(folder / MASKS, json.dumps(statistics))  # last: it marks the previews as complete


@contextmanager
def same_draws(method: Method) -> Iterator[None]:
    """Fixes further draws, such as the place of a box; afterwards the method's generators are as before."""
    before = [generator.get_state() for generator in method.generators()]
    for generator in method.generators():
        generator.manual_seed(0)
    try:
        yield
    finally:
        for generator, state in zip(method.generators(), before, strict=True):
            generator.set_state(state)


def preview_again(folder: Path, data_root: str) -> None:
    """Writes the previews of a run that was trained elsewhere, from its checkpoint."""
    method, recipe, _ = load_method(folder / "last.pt")
    write_previews(method, recipe, load_data(recipe.data, root=data_root), folder)


def sweep(batches: Mapping[float, MixedBatch]) -> dict[str, float]:
    """Measures how masks follow lambda; empty where no mask varies within an image.

    Returns:
        ``std`` within a mask, ``correlation`` of the masks' means with lambda, ``error`` the mean of
        |mean of a mask - lambda|.
    """
    masked = {lam: batch for lam, batch in batches.items() if batch.mask is not None}
    spreads = [float(batch.mask.float().flatten(1).std(1).max()) for batch in masked.values() if batch.mask is not None]
    return mask_statistics(list(masked.values()), list(masked)) if max(spreads, default=0.0) >= 1e-6 else {}


def strip(columns: Sequence[Tensor], masks: Sequence[Tensor]) -> Image.Image:
    """Puts images side by side, with the masks under the mixed ones.

    Args:
        columns: (C, H, W) in [0, 1]: image B, the mixed images, image A.
        masks: (1, h, w) of the mixed images; empty leaves the line out.
    """
    tiles = [enlarged(to_picture(column, SIDE)) for column in columns]
    width, height = tiles[0].size
    size = ((width + GAP) * len(tiles) - GAP, (height + GAP) * (2 if masks else 1) - GAP)
    whole = Image.new("RGBA", size, (0, 0, 0, 0))  # the page shows between them
    for number, tile in enumerate(tiles):
        whole.paste(tile, (number * (width + GAP), 0))
    for number, mask in enumerate(masks):
        shown = to_picture(mask).resize((width, height), Image.Resampling.BOX)
        ImageDraw.Draw(shown).rectangle((0, 0, width - 1, height - 1), outline=(150, 150, 150))  # white on a white page
        whole.paste(shown, ((number + 1) * (width + GAP), height + GAP))
    return whole


def enlarged(picture: Image.Image) -> Image.Image:
    """Shows each pixel of a small picture as a square."""
    times = max(SIDE // (2 * min(picture.size)), 1)
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
