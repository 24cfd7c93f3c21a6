"""``samix recipes``: the named recipes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tyro.conf import Positional

from samix.cli.options import read
from samix.recipes.named import RECIPES, TRAINING
from samix.recipes.pretrain_named import PRETRAIN_RECIPES, PRETRAINING
from samix.runtime.registry import allow_typed

COLUMNS = ("vanilla", "mixup", "cutmix", "automix", "samix")


@dataclass(frozen=True)
class Recipes:
    """Lists the named recipes, or prints one as JSON, for ``--config``: samix recipes [NAME [MIXUP]].

    Args:
        name: name of a recipe; empty lists all.
        mixup: the mixup that the recipe is for; empty is samix.
        preset: preset of the mixup.
    """

    name: Positional[str] = ""
    mixup: Positional[str] = ""
    preset: str = ""


def recipes(arguments: Sequence[str]) -> int:
    """Runs ``samix recipes``."""
    given = read(Recipes, arguments, "samix recipes")
    allow_typed(given.name, given.mixup)
    if not given.name:
        print("\n".join(listed()))
        return 0
    names = {"recipe": given.name, **({"mixup": given.mixup} if given.mixup else {})}
    presets = {"mixup": given.preset}
    if given.name in PRETRAIN_RECIPES:
        text, recipe = PRETRAINING.named(given.name).describe(), PRETRAINING.resolve(names, presets=presets).to_dict()
    else:
        text, recipe = TRAINING.named(given.name).describe(), TRAINING.resolve(names, presets=presets).to_dict()
    print(f"{text}\n{json.dumps(recipe, indent=1)}")
    return 0


def listed() -> list[str]:
    """Returns the recipes with their published top-1 in percent by mixup, and a rough cost."""
    lines = [f"{'recipe':15}" + "".join(f"{c:>9}" for c in COLUMNS) + "   epochs   rough cost"]
    for name in RECIPES.names():
        entry = TRAINING.named(name)
        cells = "".join(f"{entry.published[c]:9.2f}" if c in entry.published else f"{'-':>9}" for c in COLUMNS)
        lines.append(f"{name:15}{cells}   {entry.build({'mixup': 'samix'}).epochs:6}   {entry.cost}")
    lines += [
        "",
        "Published top-1 in percent, from OpenMixup's benchmark tables.",
        "",
        "Without labels (samix pretrain):",
    ]
    for name in PRETRAIN_RECIPES.names():
        lines.append(f"  {name:17} {PRETRAINING.named(name).text.partition(chr(10))[0]}")
    return [*lines, "", "samix recipes NAME [MIXUP] prints one in full."]
