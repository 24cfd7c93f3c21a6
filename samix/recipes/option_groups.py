"""What a recipe names, with options of its own: a mixup, a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from samix.runtime.checks import suggest


@dataclass(frozen=True)
class OptionGroup:
    """Something that a recipe names in a field, with options in the field ``NAME_options``.

    Args:
        names: all names, for help and messages.
        defaults: (name, preset or "") -> all its options, plain values; raises ValueError for unknown ones.
        owner: name -> the dataclass whose fields the options are.
    """

    names: Callable[[], tuple[str, ...]]
    defaults: Callable[[str, str], dict[str, Any]]
    owner: Callable[[str], type[Any]]

    def resolve(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options of ``name``: those given, over its defaults or those of the preset that is given.

        Raises:
            ValueError: unknown name, preset or option.
        """
        defaults = self.defaults(name, str(given.get("preset") or ""))
        unknown = sorted(set(given) - set(defaults))
        if unknown:
            raise ValueError(
                f"{name} has no option {', '.join(unknown)}; it has {', '.join(defaults)}"
                f"{suggest(unknown[0], defaults)}"
            )
        return {**defaults, **given}

    def differing(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that differ from the defaults, or from those of their preset, which is among them."""
        base = self.defaults(name, str(options.get("preset") or ""))
        return {k: v for k, v in options.items() if k == "preset" or base[k] != v}


def over_preset(named: Mapping[str, Any], preset: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's options where the user names a preset: what the preset itself chooses wins.

    Args:
        named: the options of the recipe.
        preset: the options of the preset.
        first: the options of the first preset, which recipes are written for.
    """
    return {k: v for k, v in named.items() if preset[k] == first[k]}
