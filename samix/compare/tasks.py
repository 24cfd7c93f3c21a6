"""What a comparison needs to know of its recipes: with labels, or without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from samix.cli.options import peek
from samix.recipes import RECIPES, Recipe, build, named_recipe, usual_recipe

METRICS = {"top1": "top1", "top5": "top5", "nll": "nll", "ece": "ece"}  # ours: a run's


@dataclass(frozen=True)
class Kind:
    """Recipes of one kind.

    Args:
        recipe: their type.
        recipes: their names.
        usual: data or None -> the name of the recipe where none is named.
        mixups: that can be named, beside ``mixer:PATH``.
        named: (recipe, mixup, method or None) -> recipe.
        owner: mixup -> the class whose fields are its options.
        resolve: (mixup, options) -> all its options; raises ValueError for unknown ones.
        metrics: ours to those in a run's log; ``top1`` is the score.
        score: what it is called.
        skipped: fields that are no options of the command line.
        published: recipe -> score by mixup.
    """

    recipe: type[Recipe]
    recipes: Sequence[str]
    usual: Callable[[str | None], str]
    mixups: Sequence[str]
    named: Callable[[str, str, str | None], Recipe]
    owner: Callable[[str], type[Any]]
    resolve: Callable[[str, Mapping[str, Any]], dict[str, Any]]
    metrics: Mapping[str, str]
    score: str
    skipped: Sequence[str]
    published: Callable[[str], Mapping[str, float]]


LABELLED = Kind(
    recipe=Recipe,
    recipes=tuple(RECIPES),
    usual=usual_recipe,
    mixups=build.NAMES,
    named=lambda name, mixup, method: named_recipe(name, mixup),
    owner=build.options_owner,
    resolve=build.resolve_options,
    metrics=METRICS,
    score="top-1",
    skipped=(),
    published=lambda name: RECIPES[name].published,
)


@cache
def unlabelled() -> Kind:
    """Recipes of ``samix pretrain``, scored by the nearest neighbours."""
    from samix.recipes.build_pretraining import MIXUP_NAMES, MIXUP_PART
    from samix.recipes.pretrain_named import PRETRAIN_COMMAND, PRETRAIN_RECIPES, usual_pretrain_recipe
    from samix.recipes.pretrain_recipe import PretrainRecipe

    def named(name: str, mixup: str, method: str | None) -> Recipe:
        words = ["--recipe", name, "--mixup", mixup, *(["--method", method] if method else [])]
        return PRETRAIN_COMMAND.named(name, PRETRAIN_COMMAND.called(words, {}))

    def resolve(mixup: str, options: Mapping[str, Any]) -> dict[str, Any]:
        return MIXUP_PART.chosen(mixup, options, options.get("preset"))

    return Kind(
        recipe=PretrainRecipe,
        recipes=tuple(PRETRAIN_RECIPES),
        usual=usual_pretrain_recipe,
        mixups=MIXUP_NAMES,
        named=named,
        owner=MIXUP_PART.owner,
        resolve=resolve,
        metrics={"top1": "knn", "loss": "loss"},
        score="kNN",
        skipped=("method_options",),
        published=lambda name: {},
    )


def kind_of(recipe: str) -> Kind:
    """The kind of a recipe, by its name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if recipe in RECIPES:
        return LABELLED
    if recipe in unlabelled().recipes:
        return unlabelled()
    raise ValueError(f"unknown recipe {recipe!r}; choose one of {', '.join([*RECIPES, *unlabelled().recipes])}")


def method_of(flags: Sequence[str], values: Mapping[str, Any]) -> str | None:
    """The method that the command line or the file names; None where none does."""
    found = peek(flags, "--method", values.get("method"))
    return None if found is None else str(found)
