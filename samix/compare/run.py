"""A run with everything that the commands put around it: weights to start from, pictures, exports, logs, warnings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import nn

from samix.data import ImageData
from samix.eval.monitor import knn_of_run
from samix.eval.probe_head import linear_classifier, start_head
from samix.hub.callbacks import ExportMixer, ExportNetwork
from samix.hub.init import load_init
from samix.hub.source import read_source
from samix.networks.freeze import freeze_backbone, freeze_norms
from samix.recipes import Recipe
from samix.recipes.build import build_network, check_names
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.runtime.console import say
from samix.train import Callback, Run, RunOptions
from samix.train.batches import load_recipe_data
from samix.train.callbacks import TimeEstimate, Trackers, Warnings
from samix.train.checkpoint import LAST, kept_files
from samix.train.pretraining import PretrainRun
from samix.train.steps import Training
from samix.viz.callbacks import Pictures


def default_callbacks(options: RunOptions) -> list[Callback]:
    """Returns the callbacks of ``samix train`` and ``samix pretrain``, in the order of their calls."""
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
    callbacks: Iterable[Callback] | None = None,
    data: ImageData | None = None,
    network: nn.Module | None = None,
) -> Run:
    """Returns the run of a recipe, with or without labels.

    Args:
        recipe: what to train, and the weights to start from.
        options: where and how.
        callbacks: what happens around the steps; None takes those of ``samix train``.
        data: instead of the recipe's.
        network: instead of the recipe's; trained in place.
    """
    check_names(recipe, own_network=network is not None)
    source = read_source(recipe.init) if recipe.init else None
    if source is not None and source.config is not None:  # pixels are scaled as the weights know them
        read = load_recipe_data(recipe, options) if data is None else data
        mean, std = source.config.normalization()
        data = dataclasses.replace(read, mean=mean, std=std)

    def make_network(run: Training, classes: int) -> nn.Module:
        made = build_network(run.recipe, classes) if network is None else network
        resumed = options.resume and any(path.is_file() for path in kept_files(run.folder / LAST))
        if source is not None and not resumed:  # a resumed run has its weights in its checkpoint
            report = load_init(made, source, class_names=run.data.class_names if classes else ())
            if run.accelerator.is_main_process and not options.quiet:
                say(str(report))
        if recipe.probe_head and classes and not resumed:
            start_head(made, run.plain_batches().batches(), run.device)
        if recipe.freeze == "backbone":
            freeze_backbone(made, linear_classifier(made))
        elif recipe.freeze == "norms":
            freeze_norms(made)
        return made

    callbacks = default_callbacks(options) if callbacks is None else callbacks
    if isinstance(recipe, PretrainRecipe):
        run = PretrainRun(recipe, options, callbacks, data, make_network)
        run.evaluator = knn_of_run
        return run
    return Run(recipe, options, callbacks, data, make_network)
