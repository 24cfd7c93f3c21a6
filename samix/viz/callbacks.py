"""The pictures that a run draws of its course, its mixed images and its views."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from samix.batch import MixedBatch
from samix.data import EvalBatches, ImageData, TrainBatches, denormalize
from samix.data.images import no_labels
from samix.recipes import Recipe
from samix.recipes.build import build_augment
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.train.batches import common_options
from samix.train.callbacks import Callback
from samix.train.steps import Training
from samix.viz.mixes import select_rows
from samix.viz.pictures import mix_grid, plot_curves, view_grid

PREVIEW_LAMS = (0.1, 0.3, 0.5, 0.7, 0.9)
TIMES = 12  # that a run draws its pictures
VIEWED = 8  # images in views.png
Preview = Callable[[Tensor, Tensor, float, Tensor], MixedBatch | None]  # images, labels, lam, partners' rows


class Pictures(Callback):
    """Draws ``curves.png`` and ``mixed.png``, and ``views.png`` for a run without labels.

    Args:
        times: during the run, beside the end; 0 draws at the end only.
    """

    def __init__(self, times: int = TIMES) -> None:
        self.times = times

    def on_fit_start(self, run: Training) -> None:
        """Draws the views, once."""
        path = run.folder / "views.png"
        if isinstance(run.recipe, PretrainRecipe) and not path.exists():
            draw_views(path, run.data, run.recipe, run.device)

    def on_epoch_end(self, run: Training, row: Mapping[str, float]) -> None:
        due = self.times and int(row["epoch"]) % max(run.recipe.epochs // self.times, 1) == 0
        if due and row["epoch"] < run.recipe.epochs:
            self.draw(run)

    def on_fit_end(self, run: Training, summary: Mapping[str, object]) -> None:
        self.draw(run)

    def draw(self, run: Training) -> None:
        """Refreshes ``curves.png`` and ``mixed.png``."""

        def preview(images: Tensor, labels: Tensor, lam: float, index: Tensor) -> MixedBatch | None:
            with run.accelerator.autocast():
                return run.method.preview(images, labels, lam, index)

        plot_curves(run.folder / "curves.png", run.rows)
        title = f"{run.recipe.mixup}, epoch {int(run.rows[-1]['epoch'])}"
        draw_mixed(run.folder / "mixed.png", run.data, run.recipe, run.device, preview, title)


def preview_pairs(data: ImageData, recipe: Recipe, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Returns up to eight images of different classes: images, labels, and partners half a round away.

    Args:
        data: its held-out images are taken, or its training images where none are held out. Images that cannot be
            read are left out.
        recipe: gives size and augmentation.
        device: of the result.
    """
    split = data.val if len(data.val) else data.train
    labels = split.labels
    classes = labels[labels >= 0].bincount().nonzero().squeeze(1).tolist()
    rows = [int((labels == c).nonzero()[0]) for c in classes[:8]]
    rows += [row for row in range(min(len(labels), 16)) if row not in rows][: 8 - len(rows)]
    batches = EvalBatches(
        dataclasses.replace(data, val=split.subset(torch.tensor(rows))),
        batch_size=len(rows),
        size=recipe.size,
        augment=build_augment(recipe, data),
        device=device,
        on_bad_image="skip",
    )
    for images, labels in batches.batches():
        return images, labels, torch.arange(len(images)).roll(-max(len(images) // 2, 1)).to(images.device)
    raise ValueError("no image of the preview can be read")


def draw_mixed(path: Path, data: ImageData, recipe: Recipe, device: torch.device, preview: Preview, title: str) -> None:
    """Draws up to four pairs of images at five lam; nothing for a method that mixes no images."""
    images, labels, index = preview_pairs(data, recipe, device)
    if preview(images, labels, 0.5, index) is None:
        return

    def mix(lam: float) -> MixedBatch | None:
        batch = preview(images, labels, lam, index)
        return None if batch is None else select_rows(batch, torch.arange(min(len(images), 4)))

    pixels = partial(denormalize, mean=data.mean, std=data.std)
    mix_grid(path, images[:4], images[index][:4], mix, PREVIEW_LAMS, pixels, title)


def draw_views(path: Path, data: ImageData, recipe: PretrainRecipe, device: torch.device) -> None:
    """Draws two views of some training images, and the images."""
    rows = torch.linspace(0, len(data.train) - 1, min(len(data.train), VIEWED)).long()
    # without labels: some classes may have none of these images
    chosen = dataclasses.replace(data.train.subset(rows), labels=no_labels(len(rows)))  # type: ignore[type-var]
    some = dataclasses.replace(data, train=chosen, labelled=None)
    common = common_options(recipe, device, on_bad_image="skip") | {"workers": 0}
    views = TrainBatches(some, batch_size=len(rows), seed=recipe.seed, views=recipe.view_augment(), **common)
    view_q, view_k, ids, *_ = next(views.epoch(0))
    plain = EvalBatches(some, split="train", batch_size=len(rows), augment=build_augment(recipe, data), **common)
    originals = torch.cat([images for images, _ in plain.batches()])
    pixels = partial(denormalize, mean=data.mean, std=data.std)
    shown = None if plain.bad else pixels(originals[ids])  # others replace images that cannot be read
    view_grid(path, view_q, view_k, pixels, shown)
