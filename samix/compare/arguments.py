"""The command line of ``samix compare`` as a plan: mixups with their options, and the recipe of each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from samix.cli.options import Command, described, peek, read_config, recipe_fields, typed, with_values
from samix.compare.ablations import ABLATION, ABLATIONS, Variant, expand
from samix.compare.plan import CompareOptions, Entrant, Plan, order_jobs
from samix.compare.tasks import LABELLED, Kind, kind_of, method_of
from samix.recipes import Recipe, with_model
from samix.recipes.build import MIXER
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.train.options import short_name

ABOUT = """Trains mixups under one recipe with the same seeds, and writes report.html, table.md, table.csv and
results.json. Finished runs are read, interrupted ones continued, so the same command may be given again.

samix compare vanilla mixup cutmix samix --seeds 3 --recipe digits-quick --epochs 20

samix compare vanilla samix samix:mask_weight=2,alpha=1 samix:recipe.feature=1 mixer:runs/NAME/mixer

samix compare ablation:modules --seeds 3

Beside --seeds, --out, --jobs, --last, --reuse, --read, --publish and where to run, all options are fields of the recipe
and hold for all mixups."""
FIXED = ("mixup", "mixup_options", "seed")  # recipe fields that a comparison decides itself
FIELD = "recipe."  # and a field of the recipe, among a mixup's options
SPEC = re.compile(r"(.+?)(?::((?:recipe\.)?[A-Za-z_][\w-]*=.*))?")  # NAME or NAME:option=value,...


def read_plan(arguments: list[str]) -> Plan:
    """The plan of a command line: mixups first, then options.

    Raises:
        ValueError: no mixup, unknown names, the same mixup twice, or options that a comparison decides itself.
    """
    count = next((n for n, a in enumerate(arguments) if a.startswith("-")), len(arguments))
    specs, flags = arguments[:count], arguments[count:]
    if not specs and not {"-h", "--help"} & set(flags):
        raise ValueError("name the mixups first: samix compare vanilla mixup samix --seeds 3")
    check_flags(flags)
    names = [spec.removeprefix(ABLATION) for spec in specs if spec.startswith(ABLATION)]
    values = file_values(flags)
    kind = kind_of(expand(names[0]).recipe) if names else LABELLED
    usual = kind.usual(peek(flags, "--data", values.get("data")))
    name = str(peek(flags, "--recipe", values.get("name", usual)))
    kind = kind_of(name)
    variants = read_variants(specs or ["vanilla"])
    check_variants(variants, kind)
    parsed = [(v, *parse_recipe(mixup_of(v), name, kind, values, flags)) for v in variants]
    entrants = tuple(new_entrant(v, recipe, kind) for v, recipe, _ in parsed)
    overrides = overridden([recipe for _, recipe, _ in parsed], kind, method_of(flags, values))
    plan = Plan(name, entrants, overrides, parsed[0][2], (), tuple(names))
    return dataclasses.replace(plan, jobs=order_jobs(plan))


def file_values(flags: Sequence[str]) -> dict[str, Any]:
    """The fields in the file of ``--config``.

    Raises:
        ValueError: some that a comparison decides itself.
    """
    values = read_config(peek(flags, "--config"), PretrainRecipe)
    decided = sorted(set(values) & set(FIXED))
    if decided:
        raise ValueError(f"the file of --config sets {', '.join(decided)}, which a comparison decides itself")
    return values


def read_variants(specs: Sequence[str]) -> list[Variant]:
    """The rows that are asked for; of an ablation all of them, but for those that are there already.

    Raises:
        ValueError: a row is given twice, or an unknown ablation.
    """
    found: list[Variant] = []
    for spec in specs:
        if spec.startswith(ABLATION):
            found += [v for v in expand(spec.removeprefix(ABLATION)).variants if v not in found]
        else:
            found.append(Variant(label_of(spec), spec))
    labels = [variant.label for variant in found]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"{label} is given twice; name each mixup once, or with other options: {label}:alpha=1")
    return found


def mixup_of(variant: Variant) -> str:
    """The name of a row's mixup; of a Mixer that is still to be trained a stand-in."""
    name = split_spec(variant.spec)[0]
    return f"{MIXER}{variant.mixer_of}" if variant.mixer_of else name


def check_variants(variants: Sequence[Variant], kind: Kind) -> None:
    """Raises ValueError for an unknown mixup."""
    for variant in variants:
        name = mixup_of(variant)
        if name not in kind.mixups and not name.startswith(MIXER):
            raise ValueError(
                f"unknown mixup {name!r}; choose one of {', '.join(kind.mixups)}, {MIXER}PATH, or "
                f"{ABLATION}{'|'.join(ABLATIONS)}"
            )


def check_flags(flags: Sequence[str]) -> None:
    """Raises ValueError for options of `samix train` that do not hold for several mixups and seeds."""
    for flag in flags:
        if flag == "--seed" or flag.startswith("--seed="):
            raise ValueError("a comparison takes --seeds N, which runs seeds 0 to N - 1, not --seed")
        if flag.partition("=")[0] == "--mixup" or flag.startswith("--mixup."):
            raise ValueError(f"{flag}: name mixups first, with their options: samix compare vanilla samix:alpha=1")


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """``samix:mask_weight=1,alpha=2`` as name and options; ``mixer:PATH`` is a name."""
    found = SPEC.fullmatch(spec)
    if found is None:
        raise ValueError(f"a mixup is NAME or NAME:option=value,option=value, got {spec!r}")
    pairs = [text.partition("=") for text in (found[2] or "").split(",") if text]
    return found[1], {key.strip().replace("-", "_"): value.strip() for key, _, value in pairs}


def label_of(spec: str) -> str:
    """What tables call it: the name, of a path what tells it apart, and the options."""
    name, options = split_spec(spec)
    told = ",".join(f"{k}={v}" for k, v in options.items())
    return (short_name(name) if name.startswith(MIXER) else name) + (f":{told}" if told else "")


def parse_recipe(
    mixup: str, name: str, kind: Kind, values: Mapping[str, Any], flags: list[str]
) -> tuple[Recipe, CompareOptions]:
    """The recipe of a mixup with what the file and the flags change in it, and the options of the comparison.

    Raises:
        ValueError: unknown recipe or fields.
    """
    import tyro

    recipe = with_values(kind.named(name, mixup, method_of(flags, values)), {**values, "name": name}, flags)
    command = Command("samix compare", ABOUT, {}, kind.usual, kind.recipe, {}, {})
    fields = [field for field in recipe_fields(recipe, command) if field[0] not in (*FIXED, *kind.skipped)]
    whole = dataclasses.make_dataclass(
        "Compare",
        [
            described("recipe", f"named recipe: {', '.join(kind.recipes)}", recipe.name),
            described("config", "file of recipe fields, .json or .yaml", ""),
            ("options", Annotated[CompareOptions, tyro.conf.arg(name="")], dataclasses.field(default=CompareOptions())),
            *fields,
        ],
    )
    chosen: Any = tyro.cli(whole, args=flags, prog=command.prog, description=command.description)
    return dataclasses.replace(recipe, **{name: getattr(chosen, name) for name, *_ in fields}), chosen.options


def new_entrant(variant: Variant, recipe: Recipe, kind: Kind) -> Entrant:
    """The entrant; wrong options are kept as its error, so that the others can run."""
    given, name = split_spec(variant.spec)[1], mixup_of(variant)
    changes = {key.removeprefix(FIELD): text for key, text in given.items() if key.startswith(FIELD)}
    try:
        hints = get_type_hints(kind.owner(name))
        chosen = {k: option_value(k, hints.get(k, str), v) for k, v in given.items() if not k.startswith(FIELD)}
        own = {**recipe.mixup_options, **chosen}
        as_named = kind.resolve(name, own) == kind.resolve(name, recipe.mixup_options) and not changes
        fields = field_values(changes, recipe, kind)
        base = with_model(recipe, fields["model"]) if "model" in fields else recipe
        changed = dataclasses.replace(base, mixup_options=own, seed=0, **fields)
    except ValueError as error:
        return Entrant(variant.label, name, None, variant, str(error))
    published = kind.published(recipe.name).get(name) if as_named else None
    return Entrant(variant.label, name, changed, variant, "", published)


def field_values(changes: Mapping[str, str], recipe: Recipe, kind: Kind) -> dict[str, Any]:
    """What a row changes in the recipe.

    Raises:
        ValueError: no such field, one that a comparison decides itself, or a value of another type.
    """
    hints = get_type_hints(type(recipe))
    free = [name for name in hints if name not in (*FIXED, *kind.skipped, "name", "method")]
    for name in changes:
        if name not in free:
            raise ValueError(f"a mixup cannot change {FIELD}{name}; it can change {', '.join(free)}")
    return {name: option_value(name, hints[name], text) for name, text in changes.items()}


def option_value(key: str, hint: Any, text: str) -> Any:
    """The text of an option as its field's type.

    Raises:
        ValueError: another type, or none of the values allowed.
    """
    if get_origin(hint) is Literal and text in get_args(hint):
        return text
    if str in (get_args(hint) or (hint,)) and text not in ("null", "none"):
        return text
    try:
        return typed(key, hint, None if text == "none" else yaml.safe_load(text))
    except (ValueError, yaml.YAMLError):
        wanted = (
            ", ".join(map(repr, get_args(hint))) if get_origin(hint) is Literal else getattr(hint, "__name__", hint)
        )
        raise ValueError(f"{key} must be {wanted}, got {text!r}") from None


def overridden(recipes: Sequence[Recipe], kind: Kind, method: str | None) -> dict[str, Any]:
    """Fields in which any of the recipes differs from the named one, with the first value that does."""
    found: dict[str, Any] = {}
    for recipe in recipes:
        base, own = kind.named(recipe.name, recipe.mixup, method).to_dict(), recipe.to_dict()
        for key, value in own.items():
            if key not in (*FIXED, *kind.skipped, "name") and base[key] != value:
                found.setdefault(key, value)
    return found
