"""Fields of a recipe from a ``.json`` or ``.yaml`` file."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import yaml

from samix.recipes.recipe import Recipe, unique_keys
from samix.runtime.checks import Values


def read_config(path: str, recipe_type: type[Recipe]) -> Values:
    """Returns the fields in a file, each of its field's type.

    Raises:
        FileNotFoundError, ValueError: no such file, not readable, a key that appears twice, or a value of another type.
    """
    if not path:
        return {}
    hints, values = get_type_hints(recipe_type), read_recipe_file(Path(path))
    try:
        return {str(k): typed(str(k), hints[k], v) if k in hints else v for k, v in values.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_recipe_file(path: Path) -> Values:
    """Returns the mapping in a ``.json``, ``.yaml`` or ``.yml`` file."""
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ValueError(f"--config takes a .json or .yaml file, got {str(path)!r}")
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}; --config takes a .json or .yaml file of recipe fields")
    try:
        text = path.read_text(encoding="utf-8")
        values = (
            json.loads(text, object_pairs_hook=unique_keys) if path.suffix == ".json" else yaml.load(text, UniqueKeys)
        )
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of recipe fields, got {type(values).__name__}")
    return values


class UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that appears twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """Returns a mapping, after a check of its keys."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        unique_keys([(str(key), None) for key in keys])
        return super().construct_mapping(node, deep)


def typed(name: str, hint: object, value: object) -> object:
    """Returns a value of a file as its field's type; whole numbers will do for floats, and YAML reads 1e-3 as text."""
    choices = get_args(hint)
    if get_origin(hint) is Literal and value in choices:
        return value
    types = [choice for choice in choices or (hint,) if isinstance(choice, type)]
    if value is None and type(None) in types:
        return None
    if get_origin(hint) is Mapping and isinstance(value, Mapping):
        return dict(value)
    if float in types and isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            return float(value)
    elif type(value) in types:
        return value
    raise ValueError(f"{name} must be {wanted(hint)}, got {value!r}")


def wanted(hint: object) -> str:
    """Names the values that a field's type allows, for messages."""
    if get_origin(hint) is Literal:
        return ", ".join(map(repr, get_args(hint)))
    return str(getattr(hint, "__name__", hint))
