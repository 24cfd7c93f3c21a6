"""The named recipes with labels. Those without are in :mod:`samix.recipes.pretrain_named`."""

from __future__ import annotations

from samix.recipes.build import MIXUP_GROUP
from samix.recipes.published import PUBLISHED
from samix.recipes.recipe import Recipe
from samix.recipes.small import SMALL
from samix.recipes.task import NamedRecipe, Task
from samix.runtime.registry import Registry

RECIPES: Registry[NamedRecipe[Recipe]] = Registry(
    "recipes", {entry.recipe.name: entry for entry in (*SMALL, *PUBLISHED)}
)
TRAINING: Task[Recipe] = Task(Recipe, RECIPES, lambda dataset: dataset.recipe, {"mixup": MIXUP_GROUP})


def named_recipe(name: str, mixup: str = "samix", preset: str = "") -> Recipe:
    """Returns the recipe of that name for that mixup, and for a preset of it."""
    return TRAINING.resolve({"recipe": name, "mixup": mixup}, presets={"mixup": preset})
