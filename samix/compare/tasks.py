"""What a comparison must know about its recipes: with labels, or without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samix.recipes.named import RECIPES, TRAINING
from samix.recipes.pretrain_named import PRETRAIN_RECIPES, PRETRAINING
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.recipes.task import NamedRecipe, Task
from samix.runtime.checks import suggest
from samix.runtime.registry import MODULE_NAME


@dataclass(frozen=True)
class ScoredTask:
    """A task with the metrics of its runs."""

    task: Task[Any]  # with labels, or without
    metrics: Mapping[str, str]  # our names to those in a run's log; ``top1`` is the score
    score: str  # what it is called
    skipped: Sequence[str]  # fields that are not options of the command
    published: Callable[[str], Mapping[str, float]]  # recipe -> published score by mixup


LABELLED = ScoredTask(
    task=TRAINING,
    metrics={name: name for name in ("top1", "top5", "nll", "ece")},
    score="top-1",
    skipped=(),
    published=lambda name: TRAINING.named(name).published,
)
UNLABELLED = ScoredTask(
    task=PRETRAINING,
    metrics={"top1": "knn", "loss": "loss"},
    score="kNN",
    skipped=("method_options",),
    published=lambda name: {},
)


def task_of(recipe: str) -> ScoredTask:
    """Returns the task of a recipe, by its name."""
    if recipe in RECIPES.names():
        return LABELLED
    if recipe in PRETRAIN_RECIPES.names():
        return UNLABELLED
    if MODULE_NAME.fullmatch(recipe):
        entry: object = RECIPES.resolve(recipe, trusted=False)
        values = entry.recipe if isinstance(entry, NamedRecipe) else entry
        return UNLABELLED if isinstance(values, PretrainRecipe) else LABELLED
    known = [*RECIPES.names(), *PRETRAIN_RECIPES.names()]
    raise ValueError(f"unknown recipe {recipe!r}; choose one of {', '.join(known)}{suggest(recipe, known)}")
