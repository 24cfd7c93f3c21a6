"""Names of methods and mixups without labels, into objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from samix.methods.contrastive import SSL_METHODS
from samix.methods.contrastive.base import ViewMethod
from samix.methods.contrastive.clustering import ClusterOptions
from samix.methods.contrastive.moco import MoCoOptions
from samix.methods.contrastive.pseudo_labels import PseudoLabelOptions
from samix.methods.contrastive.samix_c import SAMIX_C_PRESETS
from samix.methods.contrastive.samix_i import SAMIX_I_PRESETS
from samix.mixups import MIXUPS
from samix.mixups.base import Augmentation
from samix.mixups.inter_intra import InterIntraMix
from samix.mixups.puzzle import PuzzleMix
from samix.networks.encoder import Encoder
from samix.networks.queue import check_queue
from samix.recipes.build import MIXER, build_mixup, build_network, check_preset, mixup_class
from samix.recipes.option_groups import OptionGroup
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.runtime.checks import suggest
from samix.runtime.registry import MODULE_NAME

LEARNED: dict[str, Mapping[str, Any]] = {"samix": SAMIX_I_PRESETS, "samix-c": SAMIX_C_PRESETS}
# Mixups of labelled images that take clusters for classes; their options are their own and those of the clusters.
BY_CLUSTERS: dict[str, type[Augmentation]] = {"interintra": InterIntraMix, "puzzlemix": PuzzleMix}
MIXUP_NAMES = (*MIXUPS, *(name for name in BY_CLUSTERS if name not in MIXUPS), *LEARNED)


def method_class(name: str) -> type[ViewMethod]:
    """The self-supervised method of this name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    return SSL_METHODS.resolve(name, trusted=False)


def method_defaults(name: str, preset: str = "") -> dict[str, Any]:
    """The options of a method as plain values, at its first preset or at the one named.

    Raises:
        ValueError: unknown name or preset; the message lists the known ones.
    """
    return dataclasses.asdict(check_preset(name, method_class(name).presets, preset))


def view_mixup_names() -> tuple[str, ...]:
    """The mixups without labels by name, also those of installed packages."""
    return (*MIXUP_NAMES, *(name for name in MIXUPS.names() if name not in MIXUP_NAMES))


def view_mixup_defaults(name: str, preset: str = "") -> dict[str, Any]:
    """The options of a mixup without labels as plain values.

    Raises:
        ValueError: unknown name or preset; the message lists the known ones.
    """
    if name in LEARNED:
        return dataclasses.asdict(check_preset(name, LEARNED[name], preset))
    known = view_mixup_names()
    if name not in known and not name.startswith(MIXER) and not MODULE_NAME.fullmatch(name):
        raise ValueError(
            f"unknown mixup {name!r} without labels; choose one of {', '.join(known)}, {MIXER}PATH, or your own as "
            f"package.module:Name{suggest(name, known)}"
        )
    if preset:
        raise ValueError(f"{name} has no presets; {', '.join(LEARNED)} has: {', '.join(SAMIX_I_PRESETS)}")
    cls = BY_CLUSTERS[name] if name in BY_CLUSTERS else mixup_class(name)
    options = cls(generator=torch.Generator()).options()  # no draw of the global generator
    return {**options, **dataclasses.asdict(PseudoLabelOptions())} if name in BY_CLUSTERS else options


def view_mixup_owner(name: str) -> type[Any]:
    """The class whose fields are the options of a mixup without labels."""
    if name in LEARNED:
        return options_class(LEARNED[name])
    if name in BY_CLUSTERS:
        return type(name, (BY_CLUSTERS[name], PseudoLabelOptions), {})  # for types and help; none is ever made
    return mixup_class(name)


def options_class(presets: Mapping[str, Any]) -> type[Any]:
    """The class of these presets."""
    return type(next(iter(presets.values())))


METHOD_GROUP = OptionGroup(SSL_METHODS.names, method_defaults, lambda name: options_class(method_class(name).presets))
MIXUP_GROUP = OptionGroup(view_mixup_names, view_mixup_defaults, view_mixup_owner)


def build_pretraining(
    recipe: PretrainRecipe,
    images: int,
    normalization: tuple[Any, Any] | None = None,
    network: nn.Module | None = None,
) -> ViewMethod:
    """The method of a recipe, with a new network.

    Args:
        recipe: the run.
        images: number of training images.
        normalization: mean and std by channel, for mixups that read pixels.
        network: to train, in the place of the recipe's.

    Raises:
        ValueError: a network, method, mixup or option of the recipe that cannot be used.
    """
    cls: Any = method_class(recipe.method)
    values = METHOD_GROUP.resolve(recipe.method, recipe.method_options)
    mixup_values = MIXUP_GROUP.resolve(recipe.mixup, recipe.mixup_options)
    if network is None:
        network = build_network(recipe, 0)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    options = options_class(cls.presets)(**values)
    if isinstance(options, MoCoOptions):
        check_queue(options.queue, images)
    given = mixup_arguments(recipe, mixup_values, network, images)
    if normalization is not None and isinstance(given.get("mixup"), Augmentation):
        given["mixup"].set_normalization(*normalization)
    method: ViewMethod = cls(network, options, **given)
    return method


def mixup_arguments(recipe: PretrainRecipe, options: dict[str, Any], network: nn.Module, images: int) -> dict[str, Any]:
    """The arguments of a method about its mixup: the mixup, and what it needs to be trained or to have clusters.

    Args:
        recipe: names mixup and method.
        options: all of the mixup's.
        network: to be trained.
        images: number of training images.

    Raises:
        ValueError: a mixup that needs MoCo beside another method, or options out of range or without effect.
    """
    name = recipe.mixup
    if name == "vanilla":
        return {}
    if name in LEARNED:
        check_beside_moco(recipe, "is trained")
        chosen = options_class(LEARNED[name])(**options)
        dim = Encoder(network, lambda width: nn.Identity(), recipe.feature).dim
        given = {"mixup": chosen.build_mixer(dim), "mixup_options": chosen, "feature": recipe.feature}
        return {**given, "images": images} if isinstance(chosen, ClusterOptions) else given
    if name not in BY_CLUSTERS:
        return {"mixup": build_mixup(name, options)}
    of_clusters = dataclasses.asdict(PseudoLabelOptions())
    mixup = BY_CLUSTERS[name](**{key: value for key, value in options.items() if key not in of_clusters})
    chosen = PseudoLabelOptions(**{key: options[key] for key in of_clusters})
    if not (mixup.requirements.model or mixup.requirements.classes):  # it reads the pixels: nothing needs classes
        changed = [key for key, value in of_clusters.items() if options[key] != value]
        if changed:
            raise ValueError(f"{name} with saliency spectral has no clusters, so {', '.join(changed)} would do nothing")
        return {"mixup": mixup}
    check_beside_moco(recipe, "takes its clusters from keys and runs")
    return {"mixup": mixup, "mixup_options": chosen, "images": images}


def check_beside_moco(recipe: PretrainRecipe, what: str) -> None:
    """Raises ValueError unless the method trains Mixers and keeps clusters, as MoCo does."""
    if not method_class(recipe.method).trains_mixer:
        raise ValueError(f"{recipe.mixup} without labels {what} beside moco, not {recipe.method}")
