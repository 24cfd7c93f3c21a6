"""A run's checkpoint read back: its training method, or the network that it reports."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path

from torch import nn

from samix.hub.export import config_of
from samix.hub.network_config import NetworkConfig
from samix.methods.base import Method
from samix.mixers.pretrained import SHIPPED
from samix.recipes import Recipe
from samix.recipes.build import MIXER, build_method, build_mixup
from samix.recipes.build_pretraining import build_pretraining
from samix.recipes.pretrain_recipe import PretrainRecipe, recipe_of
from samix.runtime.checks import Values
from samix.train.checkpoint import load_checkpoint, load_into
from samix.train.folder import check_sizes


def load_method(path: Path) -> tuple[Method, Recipe, Values]:
    """Returns the method of a checkpoint in eval mode, its recipe, and what it remembers of its data."""
    state = load_checkpoint(path)
    recipe = recipe_of(state["recipe"])
    data = state["data"]
    plain = without_paths(recipe)
    check_sizes(plain, state, path)
    normalization = (data["mean"], data["std"])
    method: Method
    if isinstance(plain, PretrainRecipe):
        method = build_pretraining(plain, int(data["images"]), normalization)
    else:
        method = build_method(plain, len(data["classes"]), normalization)
    load_into(method, state["method"], path)
    return method.eval(), recipe, data


def without_paths(recipe: Recipe) -> Recipe:
    """Returns the recipe without what only started its run and may be gone: weights to begin with, a Mixer."""
    options = {k: v for k, v in recipe.mixup_options.items() if k != "init"}
    plain = dataclasses.replace(recipe, pretrained=False, mixup_options=options)
    if not recipe.mixup.startswith(MIXER):
        return plain
    source = recipe.mixup[len(MIXER) :]
    if source in SHIPPED or Path(source).exists():  # a file does not ask the hub
        with suppress(FileNotFoundError, ValueError):
            build_mixup(recipe.mixup)
            return plain
    return dataclasses.replace(plain, mixup="vanilla", mixup_options={})


def load_export_of(path: Path) -> tuple[nn.Module, NetworkConfig, Values]:
    """Returns the network that a run reports, in eval mode, with its config and its recipe's values."""
    method, recipe, data = load_method(path)
    return method.export(), config_of(recipe, data), recipe.to_dict()
