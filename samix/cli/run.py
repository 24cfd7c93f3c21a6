"""A run with everything that the commands put around it: weights to start from, pictures, exports, logs, warnings."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from samix.data import ImageData
from samix.eval.monitor import knn_of_run
from samix.hub.callbacks import ExportMixer, ExportNetwork
from samix.hub.init import load_init
from samix.recipes import Recipe
from samix.recipes.build import build_network
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.runtime.console import say
from samix.train import Callback, Run, RunOptions
from samix.train.callbacks import TimeEstimate, Trackers, Warnings
from samix.train.checkpoint import LAST, kept_files
from samix.train.pretraining import PretrainRun
from samix.train.steps import Training
from samix.viz.callbacks import Pictures


def default_callbacks(recipe: Recipe, options: RunOptions) -> list[Callback]:
    """The callbacks of ``samix train`` and ``samix pretrain``, in the order of their calls."""
    callbacks: list[Callback] = [Warnings()]
    if not options.quiet:
        callbacks.append(TimeEstimate())
    if options.trackers:
        callbacks.append(Trackers(options.trackers))
    if options.pictures:
        callbacks.append(Pictures())
    return [*callbacks, ExportNetwork(), ExportMixer()]


def build_run(
    recipe: Recipe,
    options: RunOptions,
    callbacks: Iterable[Callback] = (),
    data: ImageData | None = None,
    network: nn.Module | None = None,
) -> Run:
    """The run of a recipe, with or without labels.

    Args:
        recipe: what to train.
        options: where and how.
        callbacks: besides the default ones, and after them.
        data: in the place of the recipe's.
        network: in the place of the recipe's.
    """

    def make_network(run: Training, classes: int) -> nn.Module:
        made = build_network(run.recipe, classes) if network is None else network
        resumed = options.resume and any(path.is_file() for path in kept_files(run.folder / LAST))
        if recipe.init and not resumed:  # a resumed run has its weights in its checkpoint
            report = load_init(made, recipe.init, class_names=run.data.class_names if classes else ())
            if run.accelerator.is_main_process and not options.quiet:
                say(str(report))
        return made

    called = [*default_callbacks(recipe, options), *callbacks]
    if isinstance(recipe, PretrainRecipe):
        return PretrainRun(recipe, options, called, knn_of_run, data, make_network)
    return Run(recipe, options, called, data, make_network)
