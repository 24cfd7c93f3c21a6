"""Names into objects: the only file that turns a recipe's words into data, networks and methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from samix.data import Augment, ImageData, default_augment
from samix.methods.automix import AUTOMIX_PRESETS, AutoMix
from samix.methods.base import Method
from samix.methods.samix import SAMIX_PRESETS, SAMix
from samix.methods.supervised import Supervised
from samix.mixing import Augmentation
from samix.mixups import MIXUPS
from samix.networks.create import create_network
from samix.recipes import Recipe

PRESETS: dict[str, Mapping[str, Any]] = {"automix": AUTOMIX_PRESETS, "samix": SAMIX_PRESETS}
METHODS: dict[str, type[AutoMix]] = {"automix": AutoMix, "samix": SAMix}
NAMES = (*MIXUPS, *METHODS)


def mixup_defaults(name: str, preset: str | None = None) -> dict[str, Any]:
    """The options of a mixup as plain values, at their defaults or at a preset's.

    Raises:
        ValueError: unknown name or preset; the message lists the known ones.
    """
    if name in MIXUPS:
        if preset is not None:
            raise ValueError(f"{name} has no presets; automix and samix have: reference, paper")
        return MIXUPS[name]().options()
    if name not in METHODS:
        raise ValueError(f"unknown mixup {name!r}; choose one of {', '.join(NAMES)}")
    presets = PRESETS[name]
    if preset is not None and preset not in presets:
        raise ValueError(f"unknown preset {preset!r} of {name}; choose one of {', '.join(presets)}")
    return dataclasses.asdict(presets[preset or "reference"])


def resolve_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a mixup, given those that differ from its defaults or its preset.

    Raises:
        ValueError: an option the mixup does not have.
    """
    defaults = mixup_defaults(name, options.get("preset"))
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(defaults)}")
    return {**defaults, **options}


def build_mixup(name: str, options: Mapping[str, Any] | None = None) -> Augmentation:
    """A hand-made or hidden mixup by name.

    Raises:
        ValueError: unknown name or option, or a value out of range.
    """
    if name not in MIXUPS:
        raise ValueError(f"unknown mixup {name!r}; choose one of {', '.join(MIXUPS)}")
    return MIXUPS[name](**resolve_options(name, options or {}))


def build_augment(recipe: Recipe, data: ImageData) -> Augment:
    """The recipe's augmentation; ``auto`` is the published one of the data."""
    return default_augment(data) if recipe.augment == "auto" else Augment(recipe.augment)  # type: ignore[arg-type]


def build_network(recipe: Recipe, num_classes: int) -> nn.Module:
    """The timm network of a recipe.

    Raises:
        ValueError: unknown name or arguments, or no small stem for it.
    """
    return create_network(
        recipe.model,
        num_classes,
        recipe.model_kwargs,
        size=recipe.size,
        stem=recipe.stem,
        pretrained=recipe.pretrained,
    )


def build_method(
    recipe: Recipe, num_classes: int, normalization: tuple[Sequence[float], Sequence[float]] | None = None
) -> Method:
    """The training method of a recipe, with a new network.

    Args:
        recipe: the run.
        num_classes: of the data.
        normalization: mean and std by channel, for mixups that look at pixels.

    Raises:
        ValueError: whatever is wrong with the recipe's network, mixup or options.
    """
    options = resolve_options(recipe.mixup, recipe.mixup_options)
    network = build_network(recipe, num_classes)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if recipe.mixup in METHODS:
        if "smoothing" not in recipe.mixup_options:
            options["smoothing"] = recipe.smoothing
        kind = type(PRESETS[recipe.mixup]["reference"])
        return METHODS[recipe.mixup](network, num_classes, kind(**options), feature=recipe.feature)
    mixup = build_mixup(recipe.mixup, options)
    if normalization is not None:
        mixup.set_normalization(*normalization)
    return Supervised(network, mixup, num_classes=num_classes, smoothing=recipe.smoothing)
