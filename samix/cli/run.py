"""A run with everything that the commands put around it: pictures, exports, logs, warnings, the kNN monitor."""

from __future__ import annotations

from samix.eval.monitor import knn_of_run
from samix.hub.callbacks import ExportMixer, ExportNetwork
from samix.recipes import Recipe
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.train import Callback, Run, RunOptions
from samix.train.callbacks import TimeEstimate, Trackers, Warnings
from samix.train.pretraining import PretrainRun
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


def build_run(recipe: Recipe, options: RunOptions, callbacks: list[Callback] | None = None) -> Run:
    """The run of a recipe, with or without labels.

    Args:
        recipe: what to train.
        options: where and how.
        callbacks: None takes the default ones.
    """
    given = default_callbacks(recipe, options) if callbacks is None else callbacks
    if isinstance(recipe, PretrainRecipe):
        return PretrainRun(recipe, options, given, knn_of_run)
    return Run(recipe, options, given)
