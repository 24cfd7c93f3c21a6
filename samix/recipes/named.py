"""Recipes by name, with what was published of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from samix.data import find_dataset
from samix.recipes.build import MIXUP_GROUP
from samix.recipes.images import finetune, images
from samix.recipes.published import (
    aircraft_r18,
    cifar10_r18,
    cifar100_r18,
    cifar100_rx50,
    cub_r18,
    in1k_r18,
    in1k_r50,
    tiny_r18,
    tiny_rx50,
)
from samix.recipes.recipe import Recipe
from samix.recipes.small import cifar_few, cifar_slim, digits_quick
from samix.recipes.task import Task
from samix.runtime.registry import Registry


@dataclass(frozen=True)
class Entry:
    """A named recipe, and what ``samix recipes`` says about it.

    Args:
        build: name of the mixup -> recipe.
        published: published top-1 in percent, by mixup.
        cost: rough cost of a run.
        presets: options by mixup and preset, where a preset differs on these data: ``{("samix", "paper"): {...}}``.
    """

    build: Callable[[str], Recipe]
    published: Mapping[str, float]
    cost: str
    presets: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)


# The papers' values where they differ from the preset, and what only the released configs have.
PAPER_LARGE = {("samix", "paper"): {"eta": 0.1, "dropout": 0.0}}
PAPER_FINE = {("samix", "paper"): {"dropout": 0.0}}

RECIPES: Registry[Entry] = Registry(
    "recipes",
    {
        "digits-quick": Entry(digits_quick, {}, "a minute or two, 2 CPU cores"),
        "cifar-slim": Entry(cifar_slim, {}, "some minutes, 2 CPU cores"),
        "cifar-few": Entry(cifar_few, {}, "some minutes, 2 CPU cores"),
        "images": Entry(images, {}, "by the number of images"),
        "finetune": Entry(finetune, {}, "minutes, 2 CPU cores"),
        "cifar10-r18": Entry(
            cifar10_r18,
            {
                "vanilla": 94.87,
                "mixup": 95.70,
                "cutmix": 96.11,
                "manifoldmix": 96.04,
                "fmix": 96.17,
                "resizemix": 96.16,
                "automix": 96.59,
                "samix": 96.67,
            },
            "0.3 to 1.5 GPU-hours",
        ),
        "cifar100-r18": Entry(
            cifar100_r18,
            {
                "vanilla": 76.42,
                "mixup": 78.52,
                "cutmix": 79.45,
                "manifoldmix": 79.18,
                "fmix": 78.91,
                "resizemix": 79.56,
                "automix": 80.12,
                "samix": 81.21,
                "adautomix": 81.55,
            },
            "0.3 to 1.5 GPU-hours",
        ),
        "cifar100-rx50": Entry(
            cifar100_rx50,
            {
                "vanilla": 79.37,
                "mixup": 81.18,
                "cutmix": 81.52,
                "manifoldmix": 81.59,
                "fmix": 79.87,
                "automix": 82.84,
                "samix": 83.81,
                "adautomix": 84.40,
            },
            "1 to 5 GPU-hours",
        ),
        "tiny-r18": Entry(
            tiny_r18,
            {
                "vanilla": 61.68,
                "mixup": 63.86,
                "cutmix": 65.53,
                "manifoldmix": 64.15,
                "fmix": 63.47,
                "resizemix": 63.74,
                "automix": 67.33,
                "samix": 68.89,
                "adautomix": 69.19,
            },
            "2 to 6 GPU-hours",
        ),
        "tiny-rx50": Entry(
            tiny_rx50,
            {
                "vanilla": 65.04,
                "mixup": 66.36,
                "cutmix": 66.47,
                "manifoldmix": 67.30,
                "fmix": 65.08,
                "resizemix": 65.87,
                "automix": 70.72,
                "samix": 72.18,
                "adautomix": 72.89,
            },
            "10 to 40 GPU-hours",
        ),
        "in1k-r18": Entry(
            in1k_r18,
            {
                "vanilla": 70.04,
                "mixup": 69.98,
                "cutmix": 68.95,
                "manifoldmix": 69.98,
                "automix": 70.50,
                "samix": 70.83,
                "adautomix": 70.86,
            },
            "20 to 80 GPU-hours",
            PAPER_LARGE,
        ),
        "in1k-r50": Entry(
            in1k_r50,
            {
                "vanilla": 76.83,
                "mixup": 77.12,
                "cutmix": 77.17,
                "manifoldmix": 77.01,
                "automix": 77.91,
                "samix": 78.14,
                "adautomix": 78.04,
            },
            "60 to 200 GPU-hours",
            PAPER_LARGE,
        ),
        "cub-r18": Entry(
            cub_r18,
            {
                "vanilla": 77.68,
                "mixup": 78.39,
                "cutmix": 78.40,
                "manifoldmix": 79.76,
                "fmix": 77.28,
                "resizemix": 78.50,
                "automix": 79.87,
                "samix": 81.11,
                "adautomix": 80.88,
            },
            "0.5 to 1.5 GPU-hours",
            PAPER_FINE,
        ),
        "aircraft-r18": Entry(
            aircraft_r18,
            {
                "vanilla": 80.23,
                "mixup": 79.52,
                "cutmix": 78.84,
                "manifoldmix": 80.68,
                "fmix": 79.36,
                "resizemix": 78.10,
                "automix": 81.37,
                "samix": 82.15,
                "adautomix": 81.73,
            },
            "0.5 to 1.5 GPU-hours",
            PAPER_FINE,
        ),
    },
)


def usual_recipe(data: str) -> str:
    """The name of the recipe that is taken for data, such as ``cifar10`` or ``folder:DIR``; empty is the digits.

    Raises:
        ValueError, FileNotFoundError: no such data set.
    """
    return find_dataset(data or "digits")[0].recipe


def recipe_entry(name: str) -> Entry:
    """The recipe of that name, or the user's own, named as ``package.module:Name``.

    Raises:
        ValueError: unknown name, or something else than a recipe.
    """
    entry: object = RECIPES.resolve(name, trusted=False)
    if isinstance(entry, Entry):
        return entry
    if isinstance(entry, Recipe):
        own = entry
        return Entry(lambda mixup: dataclasses.replace(own, mixup=mixup), {}, "")
    if callable(entry):
        return Entry(entry, {}, "")
    raise ValueError(f"{name} must be a samix.recipes.Recipe, or a function of a mixup's name, got {entry!r}")


def named_recipe(name: str, mixup: str = "samix", preset: str = "") -> Recipe:
    """The recipe of that name for that mixup, and for a preset of it.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    return TRAINING.resolve({"recipe": name, "mixup": mixup}, presets={"mixup": preset})


TRAINING: Task[Recipe] = Task(
    recipe=Recipe,
    recipes=RECIPES.names,
    build=lambda name, names: recipe_entry(name).build(names["mixup"]),
    usual=usual_recipe,
    groups={"mixup": MIXUP_GROUP},
    fallback=lambda field, recipe, names: "samix",
    preset_options=lambda recipe, mixup, preset: recipe_entry(recipe).presets.get((mixup, preset), {}),
)
