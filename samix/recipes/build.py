"""Names into objects: the only file that turns a recipe's words into data, networks and methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast, get_args

import torch
from torch import nn

from samix.data import Augment, ImageData
from samix.data.transforms import Kind, usual_augment
from samix.losses.supervised import LOSSES
from samix.methods.adautomix import AdAutoMix
from samix.methods.automix import AutoMix
from samix.methods.averaged import Averaged
from samix.methods.base import Method
from samix.methods.learned import LearnedMixup
from samix.methods.options import StepOptions
from samix.methods.samix import SAMix
from samix.methods.score import ScoreMix
from samix.methods.supervised import Loss, Supervised
from samix.mixers.pretrained import Mixer
from samix.mixups import MIXUPS
from samix.mixups.base import Augmentation
from samix.networks.create import check_name, create_network
from samix.recipes.recipe import Recipe
from samix.recipes.task import OptionGroup
from samix.runtime.checks import Options, Values, check_choice, suggest
from samix.runtime.registry import MODULE_NAME, Registry

T = TypeVar("T")
METHODS: Registry[type[LearnedMixup[Any]]] = Registry(
    "learned_mixups", {"automix": AutoMix, "samix": SAMix, "adautomix": AdAutoMix, "score": ScoreMix}
)
NAMES = (*MIXUPS, *METHODS)
MIXER = "mixer:"  # and a path: a frozen Mixer


def mixup_names() -> tuple[str, ...]:
    """Returns all mixups by name, also those of installed packages."""
    return (*MIXUPS.names(), *METHODS.names())


def is_mixup_name(word: str) -> bool:
    """Returns whether a word names a mixup, not a file: a known name, ``mixer:PATH``, ``package.module:Name``."""
    return word in mixup_names() or word.startswith(MIXER) or MODULE_NAME.fullmatch(word) is not None


def named_mixup(name: str) -> type[Augmentation] | type[LearnedMixup[Any]]:
    """Returns the class of a mixup by name, or of the method that trains it; ``mixer:PATH`` is a frozen Mixer."""
    if name.startswith(MIXER):
        return Mixer
    registry = METHODS if name in METHODS.names() else MIXUPS
    if name not in registry.names() and not MODULE_NAME.fullmatch(name):
        known = mixup_names()
        raise ValueError(
            f"unknown mixup {name!r}; choose one of {', '.join(known)}, {MIXER}PATH, or your own as "
            f"package.module:Name{suggest(name, known)}"
        )
    cls: object = registry.resolve(name, trusted=False)
    if not isinstance(cls, type) or not issubclass(cls, Augmentation | LearnedMixup):
        raise ValueError(f"{name} must be a subclass of samix.Augmentation or samix.AutoMix, got {cls!r}")
    return cls


def mixup_class(name: str) -> type[Augmentation]:
    """Returns the class of a mixup that needs no method of its own."""
    cls = named_mixup(name)
    if not issubclass(cls, Augmentation):
        raise ValueError(f"{name} is trained with the network, so it cannot be called as other mixups are")
    return cls


def options_class(presets: Mapping[str, T]) -> type[T]:
    """Returns the class of these presets."""
    return type(next(iter(presets.values())))


def options_owner(name: str) -> type[object]:
    """Returns the class whose fields are the options of a mixup."""
    cls = named_mixup(name)
    return cls if issubclass(cls, Augmentation) else options_class(cls.presets)


def mixup_defaults(name: str, preset: str = "") -> Values:
    """Returns the options of a mixup as plain values, at their defaults or at a preset's."""
    cls = named_mixup(name)
    if not issubclass(cls, Augmentation):
        return preset_values(name, cls.presets, preset)
    if preset:
        raise ValueError(f"{name} has no presets; those that have are {', '.join(METHODS)}")
    return cls(generator=torch.Generator()).options()  # no draw of the global generator


def preset_values(name: str, presets: Options, preset: str) -> Values:
    """Returns the options of a preset as plain values, of the first one where none is named."""
    if preset and preset not in presets:
        raise ValueError(
            f"unknown preset {preset!r} of {name}; choose one of {', '.join(presets)}{suggest(preset, presets)}"
        )
    return dataclasses.asdict(presets[preset or next(iter(presets))])


MIXUP_GROUP = OptionGroup(mixup_names, mixup_defaults, options_owner)
resolve_options = MIXUP_GROUP.resolve


def build_mixup(name: str, options: Options | None = None) -> Augmentation:
    """Returns a mixup by name: any but those that are trained, which are methods."""
    cls = mixup_class(name)
    values = resolve_options(name, options or {})
    return Mixer.from_pretrained(name[len(MIXER) :], **values) if cls is Mixer else cls(**values)


def build_augment(recipe: Recipe, data: ImageData) -> Augment:
    """Returns the recipe's augmentation; ``auto`` is the published one of the data."""
    return augment_of(recipe, data.name, data.native_size)


def augment_of(recipe: Recipe, data: str, native_size: int | None) -> Augment:
    """Returns the same for the name of a data set, and the side of its images."""
    if recipe.augment == "auto":
        return usual_augment(data, native_size)
    return Augment(recipe.augment)  # type: ignore[arg-type]  # which is checked there


def check_names(recipe: Recipe, own_network: bool = False) -> None:
    """Checks the names in a recipe that are looked up late, before data are read."""
    from timm.optim import list_optimizers

    check_choice("augment", recipe.augment, ("auto", *get_args(Kind)))
    check_choice("optimizer", recipe.optimizer, list_optimizers())
    if not own_network:
        check_name(recipe.model)
        _ = recipe.model_kwargs  # reads them


def build_network(recipe: Recipe, num_classes: int) -> nn.Module:
    """Returns the timm network of a recipe."""
    how: Values = {"size": recipe.size, "stem": recipe.stem, "pretrained": recipe.pretrained}
    return create_network(recipe.model, num_classes, recipe.model_kwargs, **how)


def build_method(
    recipe: Recipe,
    num_classes: int,
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    network: nn.Module | None = None,
) -> Method:
    """Returns the training method of a recipe, with a new network or the one given."""
    options = resolve_options(recipe.mixup, recipe.mixup_options)
    network = build_network(recipe, num_classes) if network is None else network
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    cls = named_mixup(recipe.mixup)
    if not issubclass(cls, Augmentation):
        if recipe.loss != "ce":
            raise ValueError(f"{recipe.mixup} trains on its own losses, so loss must be ce, got {recipe.loss}")
        if recipe.clean_weight:
            raise ValueError(
                f"{recipe.mixup} has a clean loss of its own, so clean_weight must be 0, got {recipe.clean_weight}"
            )
        if recipe.clean_share:
            raise ValueError(
                f"{recipe.mixup} has a clean share of its own (--mixup.clean-share), so the recipe's clean_share must "
                f"be 0, got {recipe.clean_share}"
            )
        if recipe.ema_decay:
            raise ValueError(
                f"{recipe.mixup} averages its network by its own options (--mixup.ema-decay), so the recipe's "
                f"ema_decay must be 0, got {recipe.ema_decay}"
            )
        if "smoothing" not in recipe.mixup_options:
            options["smoothing"] = recipe.smoothing
        chosen = cast(StepOptions, options_owner(recipe.mixup)(**options))
        return cls(network, num_classes, chosen, feature=recipe.feature)
    mixup = build_mixup(recipe.mixup, options)
    if normalization is not None:
        mixup.set_normalization(*normalization)
    common: Values = {
        "num_classes": num_classes,
        "smoothing": recipe.smoothing,
        "loss": build_loss(recipe),
        "clean_weight": recipe.clean_weight,
        "clean_share": recipe.clean_share,
    }
    if recipe.ema_decay:
        return Averaged(network, mixup, ema_decay=recipe.ema_decay, **common)
    return Supervised(network, mixup, **common)


def build_loss(recipe: Recipe) -> Loss | None:
    """Returns the recipe's loss of (logits, batch), with its options; None for mixed cross-entropy, the default."""
    if recipe.loss == "ce":
        return None
    options: Values = {"smoothing": recipe.smoothing}
    if recipe.loss == "bce":
        options["threshold"] = recipe.bce_threshold
    if recipe.loss == "decoupled":
        options |= {"eta": recipe.decoupled_eta, "mode": recipe.decoupled_mode}
    return partial(LOSSES[recipe.loss], **options)
