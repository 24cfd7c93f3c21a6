"""The two tasks, training with labels and without: their named recipes, and the options of what a recipe names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic

from samix.data import DatasetSpec, find_dataset
from samix.recipes.recipe import AnyRecipe, Recipe, from_dict, with_fields, with_model
from samix.runtime.checks import Options, Values, suggest
from samix.runtime.registry import Registry

Names = Mapping[str, str]  # the names of the mixup and of the method, by field


@dataclass(frozen=True)
class OptionGroup:
    """Something that a recipe names in a field, with options in the field ``NAME_options``."""

    names: Callable[[], tuple[str, ...]]  # all names, for help and messages
    # (name, preset or "") -> all its options, plain values; raises ValueError for unknown ones
    defaults: Callable[[str, str], Values]
    owner: Callable[[str], type[object]]  # name -> the dataclass whose fields the options are

    def resolve(self, name: str, given: Options) -> Values:
        """Returns all options of ``name``: those given, over its defaults or those of the preset that is given."""
        defaults = self.defaults(name, str(given.get("preset") or ""))
        unknown = sorted(set(given) - set(defaults))
        if unknown:
            raise ValueError(
                f"{name} has no option {', '.join(unknown)}; it has {', '.join(defaults)}"
                f"{suggest(unknown[0], defaults)}"
            )
        return {**defaults, **given}

    def differing(self, name: str, options: Options) -> Values:
        """Returns the options that differ from the defaults, or from those of their preset, which is among them."""
        base = self.defaults(name, str(options.get("preset") or ""))
        return {k: v for k, v in options.items() if k == "preset" or base[k] != v}


@dataclass(frozen=True)
class NamedRecipe(Generic[AnyRecipe]):
    """A recipe by name: plain values, and what differs by mixup.

    Args:
        text: what it is, for ``samix recipes``.
        recipe: the values that hold for every mixup; its method is taken where none is named.
        mixup_options: options by mixup.
        changes: other fields of the recipe, by mixup.
        presets: options by mixup and preset, where a preset differs on these data: ``{("samix", "paper"): {...}}``.
        published: published top-1 in percent, by mixup.
        cost: rough cost of a run.
        function: makes the recipe instead of these values, from the mixup's name, or from all names without
            labels.
    """

    text: str
    recipe: AnyRecipe
    mixup_options: Mapping[str, Options] = field(default_factory=dict)
    changes: Mapping[str, Options] = field(default_factory=dict)
    presets: Mapping[tuple[str, str], Options] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    cost: str = ""
    function: Callable[..., AnyRecipe] | None = None

    def build(self, names: Names) -> AnyRecipe:
        """Returns the recipe for this mixup, and this method without labels."""
        mixup = names["mixup"]
        if self.function is not None:
            return self.function(names if "method" in names else mixup)
        options = self.mixup_options.get(mixup, self.recipe.mixup_options)
        values = {**self.changes.get(mixup, {}), **names, "mixup_options": dict(options)}
        return dataclasses.replace(self.recipe, **values)

    def describe(self) -> str:
        """Returns the text, with the published figures."""
        figures = ", ".join(f"{mixup} {top1:.2f}" for mixup, top1 in self.published.items())
        return f"{self.text}\n\nPublished top-1: {figures}." if figures else self.text


@dataclass(frozen=True)
class Task(Generic[AnyRecipe]):
    """Training with labels, or without."""

    recipe: type[AnyRecipe]  # type of its recipes
    recipes: Registry[NamedRecipe[AnyRecipe]]  # the named ones
    usual_of: Callable[[DatasetSpec], str]  # data set -> the name of its usual recipe
    groups: Mapping[str, OptionGroup]  # what a recipe names, by field: ``method`` without labels, and ``mixup``

    def usual(self, data: str) -> str:
        """Returns the name of the usual recipe of data such as ``cifar10`` or ``folder:DIR``; empty is the digits."""
        return self.usual_of(find_dataset(data or "digits")[0])

    def named(self, name: str) -> NamedRecipe[AnyRecipe]:
        """Returns the recipe of that name, or the user's own, named as ``package.module:Name``."""
        given: object = self.recipes.resolve(name, trusted=False)
        if isinstance(given, NamedRecipe) and type(given.recipe) is self.recipe:
            return given
        if isinstance(given, self.recipe) and type(given) is self.recipe:
            return NamedRecipe("", given)
        if callable(given):
            return NamedRecipe(given.__doc__ or "", self.recipe(), function=given)
        expected = self.recipe.__name__
        raise ValueError(f"{name} must be a samix.recipes.{expected}, or a function that returns one, got {given!r}")

    def default_name(self, group: str, recipe: str, names: Names) -> str:
        """Returns the usual method or mixup: SAMix with labels and beside MoCo, none beside others."""
        if group == "mixup":
            return "samix" if names.get("method", "moco") == "moco" else "vanilla"
        return str(getattr(self.named(recipe).recipe, group))

    def resolve(self, given: Names, values: Options | None = None, presets: Names | None = None) -> AnyRecipe:
        """Returns the recipe of these names, with the values of a file over it.

        The only place where defaults are decided. Weakest first: defaults of the mixup or its preset, the named
        recipe, the file. A preset that the user names wins over the recipe's options; a network that is named comes
        without the arguments of the one it replaces.

        Args:
            given: ``recipe``, ``data``, ``model``, and the groups' names, where the user named them.
            values: fields from a file.
            presets: presets that the user named, by group.
        """
        values, presets = dict(values or {}), dict(presets or {})
        name = str(given.get("recipe") or values.get("name") or self.usual(given.get("data") or values.get("data", "")))
        names: dict[str, str] = {}
        for group in self.groups:
            names[group] = str(given.get(group) or values.get(group) or self.default_name(group, name, names))
            if values.get(group, names[group]) != names[group]:
                values.pop(f"{group}_options", None)  # the file's options are those of its own mixup
        recipe = self.named(name).build(names)
        for group, chosen in names.items():
            own = values.pop(f"{group}_options", {})
            preset = presets.get(group) or str(own.get("preset") or "")
            options = {**self.with_preset(group, chosen, recipe, preset), **own}
            if preset:
                options["preset"] = preset
            self.groups[group].resolve(chosen, options)  # refuses unknown options
            recipe = with_fields(recipe, {f"{group}_options": options})
        if "model" in values:
            recipe = with_model(recipe, str(values["model"]))
        recipe = from_dict({**values, "name": name, **names}, recipe)
        if given.get("model"):
            recipe = with_model(recipe, given["model"])
        return dataclasses.replace(recipe, data=given["data"]) if given.get("data") else recipe

    def with_preset(self, group: str, name: str, recipe: Recipe, preset: str) -> Values:
        """Returns the recipe's options of a group where this preset is named; the values that the preset chooses win.

        Recipes are written for the first preset, so a preset chooses the values in which it differs from that one.
        """
        options, defaults = dict(getattr(recipe, f"{group}_options")), self.groups[group].defaults
        chosen = defaults(name, preset)  # refuses unknown names
        if not preset or options.get("preset") == preset:
            return options
        first = defaults(name, str(options.get("preset") or ""))
        kept = {k: v for k, v in options.items() if chosen[k] == first[k]}
        return {**kept, **self.named(recipe.name).presets.get((name, preset), {})}
