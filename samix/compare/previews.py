"""What a trained method's mixing looks like: pictures for the report, and how its masks follow lambda."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from samix.batch import MixedBatch
from samix.data import ImageData, denormalize, load_data
from samix.hub.checkpoints import load_method
from samix.methods.base import Method
from samix.recipes import Recipe
from samix.runtime.atomic_files import write_text
from samix.viz.callbacks import preview_pairs
from samix.viz.webpage import to_picture

MASKS = "masks.json"
STRIPS = ("strip-0.png", "strip-1.png")  # two pairs
SWEEP = tuple(n / 20 for n in range(1, 20))  # lambdas of the statistics
SHOWN = SWEEP[1::4]  # of a strip: 0.1, 0.3, 0.5, 0.7, 0.9
SIDE = 96  # of a picture at most, pixels; small ones are enlarged to about half of it
GAP = 3  # pixels between pictures


def look_at(method: Method, recipe: Recipe, data: ImageData, folder: Path) -> None:
    """Writes ``masks.json`` and two strips of pictures into a run's folder.

    Args:
        method: trained; its state is left as it was.
        recipe: of the run.
        data: of the run; held-out images are mixed, the same for every method.
        folder: of the run.
    """
    device = next(method.parameters()).device
    if bool((data.val.labels < 0).all()):  # nothing to choose pairs by
        write_text(folder / MASKS, json.dumps({}))
        return
    images, labels, index = preview_pairs(data, recipe, device)
    with same_draws(method):
        found = {lam: method.preview(images, labels, lam, index) for lam in SWEEP}
    mixed = {lam: batch for lam, batch in found.items() if batch is not None}
    told = sweep(mixed)
    if mixed:
        save_strips(folder, images, index, mixed, data, bool(told))
    write_text(folder / MASKS, json.dumps(told))  # last: it says that all is there


def save_strips(
    folder: Path,
    images: Tensor,
    index: Tensor,
    mixed: Mapping[float, MixedBatch],
    data: ImageData,
    with_masks: bool,
) -> None:
    """Writes the two strips."""
    pixels = denormalize(images, data.mean, data.std)
    for number, name in enumerate(STRIPS):
        between = [denormalize(mixed[lam].images, data.mean, data.std)[number] for lam in SHOWN if lam in mixed]
        columns = [pixels[index][number], *between, pixels[number]]
        masks = [mask[number] for lam in SHOWN if lam in mixed and (mask := mixed[lam].mask) is not None]
        strip(columns, masks if with_masks else []).save(folder / name)


@contextmanager
def same_draws(method: Method) -> Iterator[None]:
    """Further draws, such as the place of a box, are the same in every run; the method's own go on as before."""
    before = [generator.get_state() for generator in method.generators()]
    for generator in method.generators():
        generator.manual_seed(0)
    try:
        yield
    finally:
        for generator, state in zip(method.generators(), before, strict=True):
            generator.set_state(state)


def look_again(folder: Path, data_root: str) -> None:
    """The same for a run that was trained elsewhere, from its checkpoint."""
    method, recipe, _ = load_method(folder / "last.pt")
    look_at(method, recipe, load_data(recipe.data, root=data_root), folder)


def sweep(batches: Mapping[float, MixedBatch]) -> dict[str, float]:
    """How masks follow lambda; nothing where no mask varies within an image.

    Args:
        batches: the same pairs, by the lambda that was asked for.

    Returns:
        ``std`` within a mask, ``correlation`` of the masks' means with lambda, ``error`` the mean of
        |mean of a mask - lambda|.
    """
    masks = {lam: batch.mask.float().cpu() for lam, batch in batches.items() if batch.mask is not None}
    if not masks:
        return {}
    spread = torch.cat([mask.flatten(1).std(dim=1) for mask in masks.values()])
    if float(spread.max()) < 1e-6:
        return {}
    means = torch.cat([mask.mean(dim=(1, 2, 3)) for mask in masks.values()]).double()
    lams = torch.cat([torch.full((len(mask),), lam) for lam, mask in masks.items()]).double()
    vary = float(means.std()) > 0
    return {
        "std": float(spread.mean()),
        "correlation": float(torch.corrcoef(torch.stack([means, lams]))[0, 1]) if vary else 0.0,
        "error": float((means - lams).abs().mean()),
    }


def strip(columns: Sequence[Tensor], masks: Sequence[Tensor]) -> Image.Image:
    """Pictures side by side, the masks under those that are mixed.

    Args:
        columns: (C, H, W) in [0, 1]: the partner, the mixed ones, the own image.
        masks: (1, h, w) of the mixed ones; empty leaves the line out.
    """
    tiles = [enlarged(to_picture(column, SIDE)) for column in columns]
    width, height = tiles[0].size
    lines = 2 if masks else 1
    size = ((width + GAP) * len(tiles) - GAP, (height + GAP) * lines - GAP)
    whole = Image.new("RGBA", size, (0, 0, 0, 0))  # the page shows between them
    for number, tile in enumerate(tiles):
        whole.paste(tile, (number * (width + GAP), 0))
    for number, mask in enumerate(masks):
        shown = to_picture(mask).resize((width, height), Image.Resampling.BOX)
        ImageDraw.Draw(shown).rectangle((0, 0, width - 1, height - 1), outline=(150, 150, 150))  # white on a white page
        whole.paste(shown, ((number + 1) * (width + GAP), height + GAP))
    return whole


def enlarged(picture: Image.Image) -> Image.Image:
    """A small picture with each pixel as a square, so that it can be seen."""
    times = max(SIDE // (2 * min(picture.size)), 1)
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
