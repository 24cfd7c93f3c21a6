"""``samix train`` and ``samix pretrain``."""

from __future__ import annotations

from collections.abc import Sequence

from samix.cli.fit import run_recipe
from samix.cli.recipe_options import read_run
from samix.recipes import TRAINING, Recipe
from samix.recipes.pretrain_named import PRETRAINING
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.runtime.console import tell
from samix.train import Interrupted, RunOptions


def train(arguments: Sequence[str]) -> int:
    """Runs ``samix train``."""
    return execute(*parse_train(arguments))


def pretrain(arguments: Sequence[str]) -> int:
    """Runs ``samix pretrain``."""
    return execute(*parse_pretrain(arguments))


def parse_train(arguments: Sequence[str]) -> tuple[Recipe, RunOptions]:
    """Returns the recipe and run options of ``samix train``."""
    return read_run(TRAINING, arguments, "samix train")


def parse_pretrain(arguments: Sequence[str]) -> tuple[PretrainRecipe, RunOptions]:
    """Returns the recipe and run options of ``samix pretrain``."""
    return read_run(PRETRAINING, arguments, "samix pretrain")


def execute(recipe: Recipe, options: RunOptions) -> int:
    """Trains a recipe; returns the exit status."""
    try:
        run_recipe(recipe, options)
    except Interrupted as stop:
        tell(f"samix: {stop}")
        return 130
    return 0
