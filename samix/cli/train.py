"""``samix train`` and ``samix pretrain``."""

from __future__ import annotations

from collections.abc import Sequence

from samix.cli.recipe_options import read_run
from samix.cli.run import build_run
from samix.recipes import TRAINING, Recipe
from samix.recipes.pretrain_named import PRETRAINING
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.runtime.console import say, tell
from samix.train import Interrupted, Run, RunOptions


def train(arguments: Sequence[str]) -> int:
    """``samix train``."""
    recipe, options = parse_train(arguments)
    return execute(build_run(recipe, options), options.quiet)


def pretrain(arguments: Sequence[str]) -> int:
    """``samix pretrain``."""
    recipe, options = parse_pretrain(arguments)
    return execute(build_run(recipe, options), options.quiet)


def parse_train(arguments: Sequence[str]) -> tuple[Recipe, RunOptions]:
    """The recipe and run options of ``samix train``.

    Raises:
        ValueError: unknown names or fields.
    """
    return read_run(TRAINING, arguments, "samix train")


def parse_pretrain(arguments: Sequence[str]) -> tuple[PretrainRecipe, RunOptions]:
    """The recipe and run options of ``samix pretrain``.

    Raises:
        ValueError: unknown names or fields.
    """
    return read_run(PRETRAINING, arguments, "samix pretrain")


def execute(run: Run, quiet: bool) -> int:
    """Trains, and prints a line about the run before and after."""
    first = run.accelerator.is_main_process
    if first and not quiet:
        say(run.describe())
    try:
        summary = run.fit()
    except Interrupted as stop:
        tell(f"samix: {stop}")
        return 130
    if first:
        say(run.conclude(summary))
        say(f"pictures, checkpoints, export and summary: {run.folder}")
    return 0
