"""The two tasks, training with labels and without: their recipes, and what these name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from samix.recipes.option_groups import OptionGroup, over_preset
from samix.recipes.recipe import AnyRecipe, Recipe, from_dict, with_fields, with_model
from samix.runtime.checks import suggest

Names = Mapping[str, str]  # what the mixup and the method are called, by field


@dataclass(frozen=True)
class Task(Generic[AnyRecipe]):
    """Training with labels, or without.

    Args:
        recipe: type of its recipes.
        recipes: names of the recipes.
        build: (recipe, names of mixup and method) -> recipe; raises ValueError for unknown ones.
        usual: data or "" -> the name of the recipe for these data.
        groups: what a recipe names, by field: ``mixup``, and ``method`` without labels.
        fallback: (field, recipe, names so far) -> the name where none is given.
        preset_options: (recipe, mixup, preset) -> options of the preset that are different in this recipe.
    """

    recipe: type[AnyRecipe]
    recipes: Callable[[], Sequence[str]]
    build: Callable[[str, Names], AnyRecipe]
    usual: Callable[[str], str]
    groups: Mapping[str, OptionGroup]
    fallback: Callable[[str, str, Names], str]
    preset_options: Callable[[str, str, str], Mapping[str, Any]] = lambda recipe, name, preset: {}

    def resolve(
        self, given: Mapping[str, str], values: Mapping[str, Any] | None = None, presets: Names | None = None
    ) -> AnyRecipe:
        """The recipe of these names, with the values of a file over it.

        The only place where defaults are decided. Weakest first: defaults of the mixup or its preset, the named
        recipe, the file. A preset that the user names wins over the recipe's options; a network that is named comes
        without the arguments of the one it replaces.

        Args:
            given: ``recipe``, ``data``, ``model``, and the groups' names, where the user named them.
            values: fields from a file.
            presets: presets that the user named, by group.

        Raises:
            ValueError: unknown names or fields.
        """
        values = dict(values or {})
        presets = dict(presets or {})
        name = given.get("recipe") or values.get("name") or self.usual(given.get("data") or values.get("data", ""))
        names: dict[str, str] = {}
        for group in self.groups:
            names[group] = str(given.get(group) or values.get(group) or self.fallback(group, str(name), names))
            if values.get(group, names[group]) != names[group]:
                values.pop(f"{group}_options", None)  # the file's options are those of its own mixup
        recipe = self.build(str(name), names)
        for group, called in names.items():
            own = values.pop(f"{group}_options", {})
            preset = presets.get(group) or str(own.get("preset") or "")
            options = {**self.with_preset(group, called, recipe, preset), **own}
            if preset:
                options["preset"] = preset
            self.groups[group].resolve(called, options)  # refuses unknown options
            recipe = with_fields(recipe, {f"{group}_options": options})
        if "model" in values:
            recipe = with_model(recipe, str(values["model"]))
        recipe = from_dict({**values, "name": str(name), **names}, recipe)
        if given.get("model"):
            recipe = with_model(recipe, given["model"])
        return dataclasses.replace(recipe, data=given["data"]) if given.get("data") else recipe

    def with_preset(self, group: str, called: str, recipe: Recipe, preset: str) -> dict[str, Any]:
        """The recipe's options of a group where this preset is named; what the preset itself chooses wins."""
        named = dict(getattr(recipe, f"{group}_options"))
        defaults = self.groups[group].defaults
        if not preset or named.get("preset") == preset:
            defaults(called, preset)  # refuses unknown names
            return named
        kept = over_preset(named, defaults(called, preset), defaults(called, str(named.get("preset") or "")))
        return {**kept, **self.preset_options(recipe.name, called, preset)}


def unknown_recipe(name: str, known: Sequence[str]) -> ValueError:
    """The error about a recipe that does not exist."""
    return ValueError(f"unknown recipe {name!r}; choose one of {', '.join(known)}{suggest(name, known)}")
