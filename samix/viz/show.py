"""``samix show``: pairs of images by lambda, painted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from samix.batch import MixedBatch
from samix.data import denormalize, load_data, load_images, normalize
from samix.hub.checkpoints import load_method
from samix.recipes import Recipe
from samix.recipes.build import METHODS, MIXER, mixup_names
from samix.runtime.atomic_files import refuse_foreign
from samix.runtime.registry import MODULE_NAME
from samix.viz.callbacks import preview_pairs
from samix.viz.mixes import (
    PHOTO_MEAN,
    PHOTO_STD,
    guide_of,
    mask_statistics,
    mixup_at,
    named_mixup,
    title_of,
    trained_at,
)


def show_mixup(
    source: str,
    files: Sequence[Path],
    out: Path,
    size: int,
    lams: Sequence[float],
    seed: int,
    data_root: str,
    *,
    options: Mapping[str, Any] | None = None,
    dpi: int = 110,
) -> str:
    """Paints pairs by lambda and says where; of a mixup of more than two images, two batches.

    Args:
        source: a checkpoint's path or a mixup's name.
        files: images, paired as :func:`pairs_of` says; empty takes held-out images.
        out: the PNG.
        size: side in pixels, 0 for the checkpoint's or 224.
        lams: shares of the own image, in [0, 1].
        seed: of further draws.
        data_root: where torchvision's data sets lie.
        options: of a mixup by name.
        dpi: of the PNG.

    Raises:
        FileNotFoundError, ValueError: no such source, one image only, or a mixup that makes no picture.
    """
    check_show(source, files, size, lams)
    from samix.viz.pictures import PNG_METADATA

    refuse_foreign(out, PNG_METADATA["Software"], "give another file with --out")
    named = is_name(source)
    method, recipe, described = (None, None, None) if named else load_method(Path(source))
    mean, std = (described["mean"], described["std"]) if described else (PHOTO_MEAN, PHOTO_STD)
    if files:
        side = size or (recipe.size if recipe else 224)
        images = normalize(load_images(files, side), mean, std)
        labels, (rows, index) = torch.zeros(len(images), dtype=torch.long), pairs_of(len(images))
    else:
        images, labels, index, mean, std = held_out(recipe, size, data_root)
        rows = torch.arange(min(len(images), 4))
    shown = Shown(images, index, rows, (mean, std))
    mixes: list[Callable[[float], MixedBatch | None]]
    if method is None:
        mixup = named_mixup(source, (mean, std), options)
        guide = guide_of(mixup, images, labels)
        mixes = [mixup_at(mixup, images, labels, index, seed + n, guide) for n in (0, 1)]
        paint(out, shown, mixes, lams, title_of(source, mixup), guide, dpi)
    else:
        mixes = [trained_at(method, images, labels, index)]
        if mixes[0](lams[0]) is None:
            raise ValueError(f"{source} makes no picture: it trains without mixing images")
        assert recipe is not None
        paint(out, shown, mixes, lams, recipe.mixup, dpi=dpi)
    found = [batch for batch in map(mixes[0], lams) if batch is not None and batch.mask is not None]
    told = mask_statistics(found) if found else {"std": 0.0, "correlation": 0.0}
    return (
        f"{out}: spread within a mask {told['std']:.3f}, correlation of its mean with lambda {told['correlation']:.3f}"
    )


def check_show(source: str, files: Sequence[Path], size: int, lams: Sequence[float]) -> None:
    """Raises ValueError unless this can be painted; of a checkpoint only whether it is there."""
    if len(files) == 1:
        raise ValueError("samix show needs at least two images to mix, got one")
    if any(not 0.0 <= lam <= 1.0 for lam in lams) or not lams:
        raise ValueError(f"--lams must be in [0, 1], got {lams}")
    if size < 0 or size == 1:
        raise ValueError(f"--size must be at least 2 pixels, or 0 for the checkpoint's or 224, got {size}")
    if not is_name(source) and not Path(source).exists():
        raise ValueError(
            f"{source!r} is neither a run nor a mixup; the mixups are {', '.join(mixup_names())}, {MIXER}PATH, or your "
            "own as package.module:Name"
        )
    if source in METHODS:
        raise ValueError(f"{source} must be trained before it can be shown: give a checkpoint, runs/NAME/best.pt")


def is_name(source: str) -> bool:
    """Whether this is a mixup's name, not a checkpoint's path."""
    return source in mixup_names() or source.startswith(MIXER) or bool(MODULE_NAME.fullmatch(source))


def pairs_of(count: int) -> tuple[Tensor, Tensor]:
    """Which of ``count`` files are painted, at most four (rows), and the partner of each file (count,).

    An even number, four or more: the first with the second, the third with the fourth. Otherwise each with the next.
    """
    at = torch.arange(count)
    if count >= 4 and count % 2 == 0:
        return at[::2][:4], at + 1 - 2 * (at % 2)
    return at[: 1 if count == 2 else 4], at.roll(-1)


class Shown(NamedTuple):
    """What is to be painted: images (B, C, H, W), their partners' rows (B,), rows to show, and (mean, std)."""

    images: Tensor
    partner: Tensor
    rows: Tensor
    normalization: Any


def paint(
    out: Path,
    shown: Shown,
    mixes: Sequence[Callable[[float], MixedBatch | None]],
    lams: Sequence[float],
    title: str,
    guide: Tensor | None = None,
    dpi: int = 110,
) -> None:
    """Writes the picture: pairs by lam, or, where more than two images are mixed, the first batch of each mix."""
    from samix.viz.pictures import mix_grid, source_grid

    images, partner, rows = shown.images, shown.partner, shown.rows
    pixels = lambda x: denormalize(x, *shown.normalization)  # noqa: E731  # one expression
    first = [batch for mix in mixes if (batch := mix(lams[0])) is not None]
    if first and first[0].labels.shape[1] > 2:
        source_grid(out, images, first, pixels, title, dpi)
        return
    maps = None if guide is None else (guide[rows], guide[partner[rows]])
    mix_grid(
        out,
        images[rows],
        images[partner[rows]],
        lambda lam: take(mixes[0](lam), rows),
        lams,
        pixels,
        title,
        guides=maps,
        dpi=dpi,
    )


def take(batch: MixedBatch | None, rows: Tensor) -> MixedBatch | None:
    """Some rows of a batch, for a picture."""
    if batch is None:
        return None
    mask = None if batch.mask is None else batch.mask[rows]
    weights, index = batch.weights[rows], batch.index[rows]
    return dataclasses.replace(
        batch, images=batch.images[rows], labels=batch.labels[rows], weights=weights, index=index, mask=mask
    )


def held_out(recipe: Recipe | None, size: int, data_root: str) -> tuple[Tensor, Tensor, Tensor, Any, Any]:
    """Held-out pairs of the recipe's data, or digits: images, labels, index, mean, std."""
    recipe = recipe or Recipe(data="digits", size=16)
    data = load_data(recipe.data, root=data_root)
    if size:
        recipe = dataclasses.replace(recipe, size=size)
    return (*preview_pairs(data, recipe), data.mean, data.std)
