"""A run without labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from samix.data import EvalBatches, TrainBatches, denormalize
from samix.data.images import no_labels
from samix.hub.export import export_network
from samix.methods.base import Method
from samix.recipes.build import build_augment
from samix.recipes.build_pretraining import build_pretraining
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.runtime.atomic_files import writing
from samix.train import Run
from samix.train.batches import common_options
from samix.train.options import short_name

VIEWED = 8  # images in views.png


def numbered(batches: EvalBatches) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images, and the rows (B,) of the split that they are."""
    rows = iter(batches.rows)
    for images, _ in batches.batches():
        readable = (row for row in rows if row not in batches.bad)
        yield images, torch.tensor(list(islice(readable, len(images))))


def counted(batches: Iterable[tuple[Tensor, Tensor]], bar: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Passes batches on, and counts them on a bar."""
    for batch in batches:
        yield batch
        bar.update(1)


class PretrainRun(Run):
    """A run without labels: two views for a batch, a kNN monitor for an evaluation."""

    score: ClassVar[str] = "knn"
    headline: ClassVar[tuple[str, ...]] = ("knn", "loss")
    recipe: PretrainRecipe

    def check_data(self) -> None:
        """Any images will do, if there are at least two."""
        if len(self.data.train) < 2:
            raise ValueError(f"{self.data.name} has one image only; learning without labels compares images")

    def default_name(self) -> str:
        """The run's folder where no name is given; MoCo is the method of the recipes' names."""
        method = "" if self.recipe.method == "moco" else f"-{self.recipe.method}"
        return f"{self.recipe.name}{method}-{short_name(self.recipe.mixup)}-s{self.recipe.seed}"

    def make_batches(self) -> tuple[TrainBatches, EvalBatches]:
        """Two views of training images, and held-out images."""
        recipe, on_bad = self.recipe, self.options.on_bad_image
        common = common_options(recipe, self.device, self.rank, self.world_size, on_bad)
        parts = self.world_size * recipe.accumulate
        if recipe.batch_size % parts:
            raise ValueError(f"batch_size {recipe.batch_size} must be divisible by {parts}, processes x accumulate")
        train = TrainBatches(
            self.data,
            batch_size=recipe.batch_size // parts,
            seed=recipe.seed,
            views=recipe.view_augment(),
            **common,
        )
        augment = build_augment(recipe, self.data)
        return train, EvalBatches(self.data, batch_size=200, augment=augment, **common)

    def start(self) -> None:
        """Also paints the views, and makes the first clusters where no warm-up is to bring them."""
        super().start()
        if self.accelerator.is_main_process:
            with writing(self.folder / "views.png"):
                self.draw_views()
        self.make_first_clusters()

    def make_first_clusters(self) -> None:
        """One pass over the training images, each process over its share; nothing for a run that has its clusters."""
        method: Any = self.method
        clusters = getattr(getattr(method, "mixing", None), "clusters", None)
        if clusters is None or clusters.options.warmup_epochs or bool(clusters.started):
            return
        common = common_options(self.recipe, self.device, self.rank, self.world_size, self.options.on_bad_image)
        augment = build_augment(self.recipe, self.data)
        batches = EvalBatches(self.data, split="train", batch_size=200, augment=augment, **common)
        with self.accelerator.autocast(), self.bar(len(batches), "features for the first clusters", "batch") as bar:
            clusters.initialise_from(method.momentum, counted(numbered(batches), bar))

    def draw_views(self) -> None:
        """Paints two views of some training images, once."""
        if (self.folder / "views.png").exists():
            return
        from samix.viz.pictures import view_grid

        rows = torch.linspace(0, len(self.data.train) - 1, min(len(self.data.train), VIEWED)).long()
        chosen: Any = self.data.train.subset(rows)
        chosen = dataclasses.replace(chosen, labels=no_labels(len(rows)))  # some classes may have none of these
        some = dataclasses.replace(self.data, train=chosen, labelled=None)
        common = common_options(self.recipe, self.device, on_bad_image=self.options.on_bad_image) | {"workers": 0}
        views = TrainBatches(
            some, batch_size=len(rows), seed=self.recipe.seed, views=self.recipe.view_augment(), **common
        )
        view_q, view_k, ids, *_ = next(views.epoch(0))
        as_they_are = EvalBatches(
            some, split="train", batch_size=len(rows), augment=build_augment(self.recipe, self.data), **common
        )
        originals = torch.cat([images for images, _ in as_they_are.batches()])

        def pixels(images: Tensor) -> Tensor:
            return denormalize(images, self.data.mean, self.data.std)

        unread = bool(as_they_are.bad)  # others stand in for such images: there is nothing to paint above them
        view_grid(self.folder / "views.png", view_q, view_k, pixels, None if unread else pixels(originals[ids]))

    def make_method(self) -> Method:
        """The method, with a new network."""
        return build_pretraining(self.recipe, len(self.data.train), (self.data.mean, self.data.std))

    def evaluate(self) -> dict[str, float]:
        """Top-1 of the nearest neighbours among the training images, by the features; nothing without labels."""
        data = self.data.with_labels() if self.recipe.knn else None
        if data is None or data.num_classes < 2:
            return {}
        from samix.eval.knn import knn_monitor
        from samix.networks.inference import evaluating

        self.share_buffers()
        common = common_options(self.recipe, self.device, on_bad_image=self.options.on_bad_image)
        augment = build_augment(self.recipe, data)
        bank = EvalBatches(data, split="train", batch_size=200, augment=augment, **common)
        held_out = EvalBatches(data, batch_size=200, augment=augment, **common)
        method: Any = self.method
        with evaluating(self.method), self.accelerator.autocast():
            return knn_monitor(
                method.features,
                bank.batches(),
                held_out.batches(),
                data.num_classes,
                k=self.recipe.knn,
                temperature=self.recipe.knn_temperature,
            )

    def describe(self) -> str:
        """What this run is, for the terminal."""
        recipe = self.recipe
        mixed = "" if recipe.mixup == "vanilla" else f" + {recipe.mixup}"
        return (
            f"{recipe.method}{mixed} on {recipe.data}, without labels ({self.count_images()}): recipe {recipe.name}, "
            f"{recipe.model} at {recipe.size} px, {recipe.epochs} epochs of {self.steps_per_epoch} steps, on "
            f"{self.device} -> {self.folder}"
        )

    def conclude(self, summary: dict[str, Any]) -> str:
        """What came of it."""
        knn = f"kNN {summary['knn']:.2f} %   " if "knn" in summary else ""
        return (
            f"{knn}loss {summary['loss']:.4f} nats   {summary['seconds']:.0f} s, "
            f"{summary['images_per_second']:.0f} images/s"
        )

    def write_export(self, final: dict[str, float]) -> None:
        """Writes the backbone, and the Mixer where one was trained."""
        export_network(self.folder / "export", self.method.export(), self.recipe, self.data, final.get("knn"))
