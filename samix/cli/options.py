"""Command lines that are made of dataclasses.

That of a run has every field of its recipe, and every option of what the recipe names. What a recipe names (a mixup, a
method) decides which options there are, and the recipe decides their defaults; so both are looked for first, and then
the whole command line is read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from samix.recipes import Recipe, from_dict, read_recipe_file, with_model
from samix.recipes.option_groups import Part


@dataclass(frozen=True)
class Command:
    """A command that runs a recipe.

    Args:
        prog: as it is typed.
        description: for its help.
        recipes: the named recipes: (name, what the parts are called) -> recipe.
        usual: the name of the recipe that is taken for some data where none is named.
        kind: type of the recipes.
        parts: what a recipe names, by field.
        fallback: what the parts are called where nothing says it; a function is given what the parts before it are
            called.
    """

    prog: str
    description: str
    recipes: Mapping[str, Callable[[Mapping[str, str]], Recipe]]
    usual: Callable[[str | None], str]
    kind: type[Recipe]
    parts: Mapping[str, Part]
    fallback: Mapping[str, str | Callable[[Mapping[str, str]], str]]

    def called(self, arguments: Sequence[str], values: Mapping[str, Any]) -> dict[str, str]:
        """What the parts are called: by the command line, else by the file's values, else by the fallback."""
        called = {"recipe": self.recipe_name(arguments, values)}
        for part in self.parts:
            found, fallback = peek(arguments, f"--{part}", values.get(part)), self.fallback[part]
            if found is None:
                found = fallback if isinstance(fallback, str) else fallback(called)
            called[part] = found
        return {part: called[part] for part in self.parts}

    def recipe_name(self, arguments: Sequence[str], values: Mapping[str, Any]) -> str:
        """The recipe: that of the command line, else of the file, else the usual one of the data."""
        named = peek(arguments, "--recipe", values.get("name"))
        return str(self.usual(peek(arguments, "--data", values.get("data"))) if named is None else named)

    def named(self, name: str, called: Mapping[str, str]) -> Recipe:
        """The recipe of that name.

        Raises:
            ValueError: unknown name; the message lists the known ones.
        """
        if name not in self.recipes:
            raise ValueError(f"unknown recipe {name!r}; choose one of {', '.join(self.recipes)}")
        return self.recipes[name](called)


def parse_run(command: Command, arguments: list[str]) -> tuple[Recipe, Any]:
    """The recipe and the run options of a command line.

    Precedence, weakest first: the named recipe, the file of ``--config``, the command line. A network that is named
    comes without the arguments of the one that it takes the place of.

    Raises:
        ValueError: unknown names or fields.
    """
    import tyro

    from samix.train import RunOptions

    values = read_config(peek(arguments, "--config"), command.kind)
    called = command.called(arguments, values)
    for part, name in called.items():
        if values.get(part, name) != name:
            values.pop(f"{part}_options", None)  # the file's options are those of its own mixup
    recipe_name = command.recipe_name(arguments, values)
    recipe = with_values(command.named(recipe_name, called), {**values, "name": recipe_name, **called}, arguments)
    fields = recipe_fields(recipe, command)
    names, groups = [], []
    for part, name in called.items():
        kind = command.parts[part]
        given = dict(getattr(recipe, f"{part}_options"))
        preset = peek(arguments, f"--{part}.preset", given.get("preset"))
        options = kind.chosen(name, given, preset)  # refuses unknown names
        group = options_type(f"{part}-options", kind.owner(name), options)
        names.append(described(part, kind.help, name))
        groups.append(
            (f"{part}_options", Annotated[group, tyro.conf.arg(name=part)], dataclasses.field(default=group()))
        )
    whole = dataclasses.make_dataclass(
        "Run",
        [
            described("recipe", f"named recipe: {', '.join(command.recipes)}", recipe.name),
            described("config", "file of recipe fields, .json or .yaml", ""),
            *names,
            *fields,
            *groups,
            ("run_options", Annotated[RunOptions, tyro.conf.arg(name="")], dataclasses.field(default=RunOptions())),
        ],
    )
    chosen: Any = tyro.cli(whole, args=arguments, prog=command.prog, description=command.description)
    own = {name: getattr(chosen, name) for name, *_ in fields}
    for part, name in called.items():
        options = dataclasses.asdict(getattr(chosen, f"{part}_options"))
        base = command.parts[part].defaults(name, options.get("preset"))
        own[part] = name
        own[f"{part}_options"] = {k: v for k, v in options.items() if k == "preset" or base[k] != v}
    return dataclasses.replace(recipe, **own), chosen.run_options


def with_values(named: Recipe, values: Mapping[str, Any], arguments: Sequence[str]) -> Recipe:
    """A named recipe with the values of a file, and with the network of the command line.

    Raises:
        ValueError: unknown fields.
    """
    recipe = with_model(named, str(values["model"])) if "model" in values else named
    recipe = from_dict(values, recipe)
    model = peek(arguments, "--model")
    return recipe if model is None else with_model(recipe, model)


def parse(kind: type[Any], arguments: list[str], prog: str) -> Any:
    """Reads a dataclass from a command line; fields marked "positional" come without a flag."""
    import tyro

    hints = get_type_hints(kind, include_extras=True)
    help_of = docstring_arguments(kind)
    fields: list[Any] = []
    for f in dataclasses.fields(kind):
        hint = hints[f.name]
        positional = get_origin(hint) is Annotated and "positional" in get_args(hint)
        bare: Any = get_args(hint)[0] if positional else hint
        note = tyro.conf.arg(help=help_of.get(f.name, ""))
        typed = Annotated[bare, tyro.conf.Positional, note] if positional else Annotated[bare, note]
        default = {} if f.default is dataclasses.MISSING else {"default": f.default}
        fields.append((f.name, typed, dataclasses.field(**default)))
    described = (kind.__doc__ or "").partition("Args:")[0].strip()
    chosen: Any = tyro.cli(
        dataclasses.make_dataclass(kind.__name__, fields), args=arguments, prog=prog, description=described
    )
    return kind(**dataclasses.asdict(chosen))


def described(name: str, text: str, default: str) -> tuple[str, Any, Any]:
    """A text field of the command line with its help."""
    import tyro

    return name, Annotated[str, tyro.conf.arg(help=text)], dataclasses.field(default=default)


def read_config(path: str | None, kind: type[Recipe]) -> dict[str, Any]:
    """The fields in the file of ``--config``, each of its field's type; none without a file.

    Raises:
        FileNotFoundError, ValueError: no such file, not readable, or a value of another type.
    """
    from yaml import YAMLError

    if path is None:
        return {}
    try:
        values = read_recipe_file(Path(path))
    except (json.JSONDecodeError, YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    hints = get_type_hints(kind)
    return {str(k): typed(str(k), hints[k], v) if k in hints else v for k, v in values.items()}


def typed(name: str, hint: Any, value: Any) -> Any:
    """A value of a file as its field's type; whole numbers will do for floats, and YAML reads 1e-3 as text.

    Raises:
        ValueError: another type, or none of the values allowed.
    """
    choices = get_args(hint)
    if get_origin(hint) is Literal and value in choices:
        return value
    kinds = [kind for kind in choices or (hint,) if isinstance(kind, type)]
    if value is None and type(None) in kinds:
        return None
    if get_origin(hint) is Mapping and isinstance(value, Mapping):
        return dict(value)
    if float in kinds and isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError):
            return float(value)
    elif type(value) in kinds:
        return value
    wanted = ", ".join(map(repr, choices)) if get_origin(hint) is Literal else str(getattr(hint, "__name__", hint))
    raise ValueError(f"{name} must be {wanted}, got {value!r} in the file of --config")


def peek(arguments: Sequence[str], flag: str, default: Any = None) -> Any:
    """The value of a flag that must be known before the rest can be read: the last one given, or the default."""
    found = default
    for number, argument in enumerate(arguments):
        if argument == flag and number + 1 < len(arguments):
            found = arguments[number + 1]
        elif argument.startswith(flag + "="):
            found = argument.partition("=")[2]
    return found


def options_type(title: str, owner: type[Any], defaults: Mapping[str, Any]) -> type[Any]:
    """A dataclass of the options of ``owner`` with these defaults, for the command line."""
    import tyro

    hints, help_of = get_type_hints(owner), docstring_arguments(owner)
    fields = [
        (k, Annotated[hints[k], tyro.conf.arg(help=help_of.get(k, ""))], dataclasses.field(default=v))
        for k, v in defaults.items()
    ]
    return dataclasses.make_dataclass(title, fields, frozen=True)


def recipe_fields(recipe: Recipe, command: Command) -> list[Any]:
    """Every plain field of a recipe, with its help from the docstring and this recipe's value as default."""
    import tyro

    hints, help_of = get_type_hints(type(recipe)), docstring_arguments(type(recipe))
    skip = {"name", *command.parts, *(f"{part}_options" for part in command.parts)}
    return [
        (
            f.name,
            Annotated[hints[f.name], tyro.conf.arg(help=help_of.get(f.name, ""))],
            dataclasses.field(default=getattr(recipe, f.name)),
        )
        for f in dataclasses.fields(recipe)
        if f.name not in skip
    ]


def docstring_arguments(owner: type[Any]) -> dict[str, str]:
    """The Args sections of a class and of those it inherits from, by name."""
    found: dict[str, str] = {}
    for kind in reversed(owner.__mro__):
        found.update(arguments_of(kind))
    return found


def arguments_of(owner: Any) -> dict[str, str]:
    """The Args section of a docstring, by name."""
    lines = (owner.__doc__ or "").partition("Args:")[2].splitlines()
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        text = line.strip()
        if line.startswith("        ") and not line.startswith("         ") and ": " in text:
            name, _, found_text = text.partition(": ")
            found[name] = found_text
        elif text and name:
            found[name] += " " + text
    return found
