"""``samix recipes``: the named recipes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tyro.conf import Positional

from samix.cli.options import read
from samix.recipes.named import RECIPES, named_recipe, recipe_entry
from samix.recipes.pretrain_named import PRETRAIN_RECIPES, PRETRAINING, pretrain_entry
from samix.runtime.registry import MODULE_NAME, allow

COLUMNS = ("vanilla", "mixup", "cutmix", "automix", "samix")


@dataclass(frozen=True)
class Recipes:
    """Lists the named recipes, or prints one as JSON, which ``--config`` takes: samix recipes [NAME [MIXUP]].

    Args:
        name: a recipe; empty lists all.
        mixup: for which mixup; empty is samix.
        preset: preset of the mixup.
    """

    name: Positional[str] = ""
    mixup: Positional[str] = ""
    preset: str = ""


def recipes(arguments: Sequence[str]) -> int:
    """``samix recipes``."""
    given = read(Recipes, arguments, "samix recipes")
    for word in (given.name, given.mixup):
        if MODULE_NAME.fullmatch(word):
            allow(word)
    if not given.name:
        print("\n".join(listed()))
    elif given.name in PRETRAIN_RECIPES:
        names = {"recipe": given.name, **({"mixup": given.mixup} if given.mixup else {})}
        recipe = PRETRAINING.resolve(names, presets={"mixup": given.preset})
        print(pretrain_entry(given.name).build.__doc__ or "")
        print(json.dumps(recipe.to_dict(), indent=1))
    else:
        labelled = named_recipe(given.name, given.mixup or "samix", given.preset)
        print(recipe_entry(given.name).build.__doc__ or "")
        print(json.dumps(labelled.to_dict(), indent=1))
    return 0


def listed() -> list[str]:
    """The recipes with their published top-1 in percent by mixup, and a rough cost."""
    lines = [f"{'recipe':15}" + "".join(f"{c:>9}" for c in COLUMNS) + "   epochs   rough cost"]
    for name in RECIPES.names():
        entry = recipe_entry(name)
        cells = "".join(f"{entry.published[c]:9.2f}" if c in entry.published else f"{'-':>9}" for c in COLUMNS)
        lines.append(f"{name:15}{cells}   {entry.build('samix').epochs:6}   {entry.cost}")
    lines += [
        "",
        "Published top-1 in percent, from OpenMixup's benchmark tables.",
        "",
        "Without labels (samix pretrain):",
    ]
    for name in PRETRAIN_RECIPES.names():
        lines.append(f"  {name:17} {(pretrain_entry(name).build.__doc__ or '').partition(chr(10))[0]}")
    return [*lines, "", "samix recipes NAME [MIXUP] prints one in full."]
