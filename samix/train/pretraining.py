"""A run without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, NoReturn

import torch
from torch import Tensor

from samix.data import EvalBatches, TrainBatches
from samix.methods.base import Method
from samix.methods.contrastive.base import ViewMethod
from samix.recipes.build import build_augment
from samix.recipes.build_pretraining import build_pretraining
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.runtime.checks import Values
from samix.train.batches import batch_of_pass
from samix.train.options import short_name
from samix.train.trainer import Run

if TYPE_CHECKING:
    from tqdm import tqdm

Evaluator = Callable[["PretrainRun"], dict[str, float]]


def numbered(batches: EvalBatches) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches of images, and their rows (B,) of the split."""
    rows = iter(batches.rows)
    for images, _ in batches.batches():
        readable = (row for row in rows if row not in batches.bad)
        yield images, torch.tensor(list(islice(readable, len(images))))


def counted(batches: Iterable[tuple[Tensor, Tensor]], bar: tqdm[NoReturn]) -> Iterator[tuple[Tensor, Tensor]]:
    """Passes batches on, and counts them on a bar."""
    for batch in batches:
        yield batch
        bar.update(1)


class PretrainRun(Run):
    """A run without labels: a batch holds two views of each image. Arguments as of :class:`Run`."""

    score: ClassVar[str] = "knn"
    headline: ClassVar[tuple[str, ...]] = ("knn", "loss")
    recipe: PretrainRecipe
    evaluator: Evaluator | None = None  # measures the features after an epoch, see samix.eval.monitor.knn_of_run

    def check_data(self) -> None:
        if len(self.data.train) < 2:
            raise ValueError(f"{self.data.name} has one image only; learning without labels compares images")

    def default_name(self) -> str:
        """Returns the run's folder where no name is given; MoCo is the method of the recipes' names."""
        method = "" if self.recipe.method == "moco" else f"-{self.recipe.method}"
        return f"{self.recipe.name}{method}-{short_name(self.recipe.mixup)}-s{self.recipe.seed}"

    def make_batches(self) -> tuple[TrainBatches, EvalBatches]:
        """Returns two views of training images, and held-out images."""
        recipe, common = self.recipe, self.batch_options()
        size = batch_of_pass(recipe, self.world_size)
        train = TrainBatches(self.data, batch_size=size, seed=recipe.seed, views=recipe.view_augment(), **common)
        return train, EvalBatches(self.data, batch_size=200, augment=build_augment(recipe, self.data), **common)

    def make_method(self) -> Method:
        network = None if self.make_network is None else self.make_network(self, 0)
        return build_pretraining(self.recipe, len(self.data.train), (self.data.mean, self.data.std), network)

    def start(self, there: bool) -> None:
        """Starts the run, and makes the first clusters where no warm-up brings them."""
        super().start(there)
        self.make_first_clusters()

    def make_first_clusters(self) -> None:
        """Passes once over the training images, each process over its share, unless the run has its clusters."""
        assert isinstance(self.method, ViewMethod)
        clusters, teacher = self.method.clusters, self.method.teacher
        if clusters is None or not clusters.awaited:
            return
        batches = self.plain_batches()
        with self.accelerator.autocast(), self.bar(len(batches), "features for the first clusters", "batch") as bar:
            clusters.initialise_from(teacher, counted(numbered(batches), bar))

    def measure(self) -> Callable[[], dict[str, float]]:
        """Calls the evaluator; every process measures all images, so nothing is left to join."""
        metrics = {} if self.evaluator is None else self.evaluator(self)
        return lambda: metrics

    def task(self) -> str:
        mixed = "" if self.recipe.mixup == "vanilla" else f" + {self.recipe.mixup}"
        return f"{self.recipe.method}{mixed} on {self.recipe.data}, without labels"

    def next_command(self) -> str:
        return f"samix train --data DIR --init {self.folder}   or   samix evaluate {self.folder}"

    def figures(self, summary: Values) -> list[str]:
        return [*([f"kNN {summary['knn']:.2f} %"] if "knn" in summary else []), f"loss {summary['loss']:.4f} nats"]
