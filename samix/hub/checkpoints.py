"""A run's checkpoint read back: its training method, or the network that it reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from samix.hub.export import config_of
from samix.hub.network_config import CUSTOM, NetworkConfig
from samix.methods.base import Method
from samix.mixers.pretrained import SHIPPED
from samix.networks.untrusted import LARGEST_NUMBER, check_parameters
from samix.recipes import Recipe
from samix.recipes.build import MIXER, build_method, build_mixup, build_network
from samix.recipes.build_pretraining import build_pretraining
from samix.recipes.pretrain_recipe import PretrainRecipe, recipe_of
from samix.runtime.checks import Values
from samix.train.checkpoint import load_checkpoint, load_into

SIZES = ("queue", "dim", "hidden", "clusters", "prototypes")  # options that tensors are made by


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


def check_sizes(recipe: Recipe, state: Mapping[str, Any], path: Path) -> None:
    """Refuses a recipe that needs more memory than its checkpoint's weights are worth, before anything is built.

    Raises:
        ValueError: a network of more parameters than the file has values, or an option that asks for a longer queue or
            more features than any of its tensors has.
    """
    held = state["method"]
    classes = 0 if isinstance(recipe, PretrainRecipe) else len(state["data"]["classes"])
    if recipe.model != CUSTOM:
        check_parameters(lambda: build_network(recipe, classes), held, str(path))
    longest = max((max(tensor.shape, default=0) for tensor in held.values()), default=0)
    groups = (recipe.mixup_options, recipe.method_options if isinstance(recipe, PretrainRecipe) else {})
    for name, value in ((name, value) for group in groups for name, value in group.items()):
        if name in SIZES and isinstance(value, int) and value > max(longest, LARGEST_NUMBER):
            raise ValueError(f"{path} sets {name} to {value}, and none of its tensors is that long; it is damaged")


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
    """The network that a run reports, from its checkpoint: in eval mode, with its config and its recipe's values."""
    method, recipe, data = load_method(path)
    return method.export(), config_of(recipe, data), recipe.to_dict()
