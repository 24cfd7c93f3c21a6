"""Names of methods and mixups without labels, into objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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
from samix.recipes.build import MIXER, build_mixup, build_network, mixup_class, options_class, preset_values
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.recipes.task import OptionGroup
from samix.runtime.checks import Options, Values, suggest
from samix.runtime.registry import MODULE_NAME

LEARNED: dict[str, Options] = {"samix": SAMIX_I_PRESETS, "samix-c": SAMIX_C_PRESETS}
# Mixups of labelled images that take clusters for classes; their options are their own and those of the clusters.
BY_CLUSTERS: dict[str, type[Augmentation]] = {"interintra": InterIntraMix, "puzzlemix": PuzzleMix}
MIXUP_NAMES = (*MIXUPS, *(name for name in BY_CLUSTERS if name not in MIXUPS), *LEARNED)


def method_class(name: str) -> type[ViewMethod]:
    """Returns the self-supervised method of this name."""
    return SSL_METHODS.resolve(name, trusted=False)


def view_mixup_names() -> tuple[str, ...]:
    """Returns the mixups without labels by name, also those of installed packages."""
    return (*MIXUP_NAMES, *(name for name in MIXUPS.names() if name not in MIXUP_NAMES))


def view_mixup_defaults(name: str, preset: str = "") -> Values:
    """Returns the options of a mixup without labels as plain values."""
    if name in LEARNED:
        return preset_values(name, LEARNED[name], preset)
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


def view_mixup_owner(name: str) -> type[object]:
    """Returns the class whose fields are the options of a mixup without labels."""
    if name in LEARNED:
        return options_class(LEARNED[name])
    if name in BY_CLUSTERS:
        return type(name, (BY_CLUSTERS[name], PseudoLabelOptions), {})  # for types and help; none is ever made
    return mixup_class(name)


METHOD_GROUP = OptionGroup(
    SSL_METHODS.names,
    lambda name, preset: preset_values(name, method_class(name).presets, preset),
    lambda name: options_class(method_class(name).presets),
)
MIXUP_GROUP = OptionGroup(view_mixup_names, view_mixup_defaults, view_mixup_owner)


def build_pretraining(
    recipe: PretrainRecipe,
    images: int,
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    network: nn.Module | None = None,
) -> ViewMethod:
    """Returns the method of a recipe, with a new network."""
    cls = method_class(recipe.method)
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
    return cls(network, options, **given)


def mixup_arguments(recipe: PretrainRecipe, options: Values, network: nn.Module, images: int) -> Values:
    """Returns the arguments of a method about its mixup, and what the mixup needs to be trained or clustered."""
    name = recipe.mixup
    if name == "vanilla":
        return {}
    if name in LEARNED:
        check_beside_moco(recipe)
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
            raise ValueError(
                f"{name} with saliency spectral has no clusters, so {', '.join(changed)} would have no effect"
            )
        return {"mixup": mixup}
    check_beside_moco(recipe)
    return {"mixup": mixup, "mixup_options": chosen, "images": images}


def check_beside_moco(recipe: PretrainRecipe) -> None:
    """Raises ValueError unless the method trains Mixers and keeps clusters, as MoCo does."""
    if not method_class(recipe.method).trains_mixer:
        raise ValueError(f"{recipe.mixup} without labels needs method moco, got {recipe.method}")
