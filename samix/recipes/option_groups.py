"""What a recipe names, as a command line knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """Something that a recipe names in a field, with options in the field ``NAME_options``: a mixup, a method.

    Args:
        help: of ``--NAME``.
        defaults: (name, preset or None) -> all its options, plain values; raises ValueError for unknown ones.
        owner: name -> the class whose fields the options are.
    """

    help: str
    defaults: Callable[[str, str | None], dict[str, Any]]
    owner: Callable[[str], type[Any]]

    def chosen(self, name: str, given: Mapping[str, Any], preset: str | None) -> dict[str, Any]:
        """All options of ``name``, with those given over the defaults.

        Raises:
            ValueError: unknown name, preset or option.
        """
        defaults = self.defaults(name, preset)
        unknown = sorted(set(given) - set(defaults))
        if unknown:
            raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(defaults)}")
        return {**defaults, **given}
