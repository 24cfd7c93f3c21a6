"""What a run left behind: its method or network read back from a checkpoint or an export, and measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samix.data import EvalBatches, load_data
from samix.methods.base import Method
from samix.recipes import Recipe
from samix.recipes.build import MIXER, build_augment, build_method, build_mixup, build_network
from samix.recipes.build_pretraining import build_pretraining
from samix.recipes.pretrain_recipe import PretrainRecipe, recipe_of, without_labels
from samix.runtime.environment import check_device
from samix.train.checkpoint import load_checkpoint, load_into, newest_of
from samix.train.metrics import classification_metrics


def load_method(path: Path) -> tuple[Method, Recipe, dict[str, Any]]:
    """The method of a checkpoint in eval mode, its recipe, and what it remembers of its data.

    Raises:
        FileNotFoundError, ValueError: no checkpoint, a damaged one, or weights of another network.
    """
    state = load_checkpoint(path)
    recipe = recipe_of(state["recipe"])
    data = state["data"]
    plain = without_paths(recipe)
    normalization = (data["mean"], data["std"])
    if isinstance(plain, PretrainRecipe):
        method = build_pretraining(plain, int(data["images"]), normalization)
    else:
        method = build_method(plain, len(data["classes"]), normalization)
    load_into(method, state["method"], path)
    return method.eval(), recipe, data


def without_paths(recipe: Recipe) -> Recipe:
    """The recipe without what was only needed to start its run, and may be gone: weights to begin with, a Mixer."""
    options = {k: v for k, v in recipe.mixup_options.items() if k != "init"}
    plain = dataclasses.replace(recipe, pretrained=False, mixup_options=options)
    if recipe.mixup.startswith(MIXER):
        try:
            build_mixup(recipe.mixup)
        except (FileNotFoundError, ValueError):
            return dataclasses.replace(plain, mixup="vanilla", mixup_options={})
    return plain


def load_export(folder: Path) -> tuple[nn.Module, Recipe, dict[str, Any]]:
    """An exported network in eval mode, its recipe and its data's description.

    Raises:
        FileNotFoundError, ValueError: not an export of samix.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config_path, weights = folder / "config.json", folder / "model.safetensors"
    if not config_path.is_file() or not weights.is_file():
        raise FileNotFoundError(
            f"{folder} is no export (config.json, model.safetensors) and no run (last.pt); give one of them"
        )
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        values, classes, cfg = config["samix"]["recipe"], config["samix"]["class_names"], config["pretrained_cfg"]
        state = load_file(weights)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"{folder} is damaged, or was not exported by samix ({type(error).__name__}: {error})"
        ) from None
    recipe = recipe_of({**values, "pretrained": False})
    network = build_network(recipe, 0 if without_labels(recipe) else len(classes))
    load_into(network, state, weights)
    return network.eval(), recipe, {"classes": classes, "mean": cfg["mean"], "std": cfg["std"]}


def evaluate_path(path: Path, data: str, data_root: str, batch_size: int, device: str) -> dict[str, dict[str, float]]:
    """Metrics by classifier of a checkpoint or an export folder.

    Args:
        path: a run's folder, a ``.pt`` file or an export folder.
        data: a data set, or empty for the one of the recipe.
        data_root: where torchvision's data sets lie.
        batch_size: images per pass.
        device: auto, cpu or cuda.

    Raises:
        FileNotFoundError, ValueError: wrong path, or data with other classes.
    """
    check_device(device)
    place = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    predict: Callable[[Tensor], dict[str, Tensor]]
    path = newest_of(path)
    if path.is_dir():
        network, recipe, described = load_export(path)
        network.to(place)
        predict = lambda x: {"export": network(x)}  # noqa: E731  # one expression each
    else:
        method, recipe, described = load_method(path)
        predict = method.to(place).predict
    images = load_data(data or recipe.data, root=data_root)
    if list(images.class_names) != list(described["classes"]):
        raise ValueError(
            f"{images.name} has {images.num_classes} classes, {list(images.class_names)[:3]}..., but the network was "
            f"trained on {len(described['classes'])}, {described['classes'][:3]}...; evaluate on the same classes"
        )
    # Pixels are scaled as in training, also where this data set has a mean of its own.
    images = dataclasses.replace(images, mean=tuple(described["mean"]), std=tuple(described["std"]))
    batches = EvalBatches(
        images, batch_size=batch_size, size=recipe.size, augment=build_augment(recipe, images), device=place
    )
    return classification_metrics(predict, batches.batches(), images.num_classes, place)
