"""A recipe that learns without labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeGuard

from samix.data.views import ViewAugment, ViewKind
from samix.recipes.recipe import Recipe, from_dict
from samix.runtime.checks import Options
from samix.runtime.typed_options import CountOr0, Positive


@dataclass(frozen=True)
class ViewFields:
    """The views of each image, and the kNN monitor.

    Args:
        views: kind of the views, see ``samix.data.views.ViewAugment``.
        min_scale: smallest share of the area that a view's crop takes; None takes that of the kind.
        strength: factor of the colour jitter.
        small_crops: number of additional small views; ``swav`` only.
        knn: neighbours of the kNN monitor, at most the number of training images; 0 switches it off.
        knn_temperature: temperature of their weights.
    """

    views: ViewKind = "moco-v2"
    min_scale: float | None = None
    strength: float = 1.0
    small_crops: int | None = None
    knn: CountOr0 = 200
    knn_temperature: Positive = 0.1


@dataclass(frozen=True)
class PretrainRecipe(ViewFields, Recipe):
    """One run of learning without labels: a recipe, whose ``augment`` is that of the evaluation, and further fields.

    Args:
        method: ``moco``, ``mocov3``, ``simclr``, ``byol``, ``simsiam``, ``swav``, ``barlow``, or one that mixes by
            itself: ``imix``, ``unmix``, ``mixco``, ``bsim``, ``dacl``, ``sdmp``, ``mochi``.
        method_options: its options that differ from its preset.
        mixup: name of the mixup; ``samix`` trains a Mixer beside MoCo (SAMix-I), ``samix-c`` by clusters;
            ``interintra`` and ``puzzlemix`` use clusters as classes; ``mixer:PATH`` uses a trained Mixer.
    """

    method: str = "moco"
    method_options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clean_weight:
            raise ValueError(
                f"clean_weight is for learning with labels, got {self.clean_weight}; without them the method's clean "
                "loss is always there, and --method.mixed-weight weighs the mixed one"
            )
        if self.ema_decay:
            raise ValueError(
                f"ema_decay is for learning with labels, got {self.ema_decay}; without them the method has an average "
                "of its own"
            )
        self.view_augment()

    def view_augment(self) -> ViewAugment:
        """Returns how the views are made."""
        return ViewAugment(self.views, self.min_scale, self.strength, self.small_crops)


def recipe_of(values: Options) -> Recipe:
    """Returns a recipe from its plain values: without labels where they name a method."""
    return from_dict(values, PretrainRecipe() if "method" in values else Recipe())


def without_labels(recipe: Recipe) -> TypeGuard[PretrainRecipe]:
    """Returns whether a recipe learns without labels."""
    return isinstance(recipe, PretrainRecipe)
