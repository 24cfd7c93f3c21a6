"""The command line of ``samix compare`` as a plan: mixups with their options, and the recipe of each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args, get_type_hints

import yaml
from tyro.conf import OmitArgPrefixes as Group

from samix.cli.options import HELP_ALL, UsageError, generator_of, options_type, read, read_known
from samix.cli.recipe_options import COMMON as RUN_COMMON
from samix.cli.recipe_options import Choice, RecipeArguments
from samix.compare.ablations import ABLATION, Variant, expand
from samix.compare.controls import CONTROL, control_of
from samix.compare.cost import equal_time
from samix.compare.plan import CompareOptions, Entry, Plan, order_jobs
from samix.compare.tasks import LABELLED, ScoredTask, task_of
from samix.recipes import Recipe, read_config, with_model
from samix.recipes.build import MIXER, check_names
from samix.recipes.files import typed, wanted
from samix.recipes.pretrain_recipe import PretrainRecipe, ViewFields
from samix.recipes.recipe import with_fields
from samix.runtime.checks import Options, Values
from samix.runtime.registry import allow_typed
from samix.train.options import short_name

FIXED = ("mixup", "mixup_options", "seed")  # recipe fields that a comparison decides itself
FIELD = "recipe."  # and a field of the recipe, among a mixup's options
SPEC = re.compile(r"(.+?)(?::((?:recipe\.)?[A-Za-z_][\w-]*=.*))?")  # NAME or NAME:option=value,...
COMMON = (*RUN_COMMON, "seeds", "jobs", "read", "publish")


@dataclass(frozen=True)
class CompareArguments(RecipeArguments):
    """Trains mixups under one recipe with the same seeds, and writes report.html, table.md, table.csv and results.json.
    The same command may be given again: it reads finished runs and continues interrupted ones. For example: samix
    compare vanilla mixup cutmix samix:mask_weight=2,alpha=1 mixer:runs/NAME/mixer --seeds 3 --recipe digits-quick.
    `recipe.FIELD=value` among a mixup's options changes a field of its recipe. ablation:NAME compares the variants of
    a published ablation. control:NAME is the control of a mixup: a learned one with every mask held at lam, a hand-made
    one with a clean loss and a running average. All options outside the group `run` are fields of the recipe, and hold
    for all mixups.
    """  # noqa: D205

    run: Group[CompareOptions]


@dataclass(frozen=True)
class ComparePretraining(CompareArguments):
    """Compares mixups without labels.

    Args:
        method: name of the method that learns features without labels.
    """

    method: str
    views: Group[ViewFields]


def read_plan(arguments: Sequence[str]) -> Plan:
    """Returns the plan of a command line: mixups first, then options."""
    count = next((n for n, a in enumerate(arguments) if a.startswith("-")), len(arguments))
    specs, words = arguments[:count], arguments[count:]
    choice, flags = read_known(Choice, words, "samix compare")
    check_choice(choice, flags)
    if not specs and not {"-h", "--help", HELP_ALL} & set(flags):
        raise UsageError("name the mixups first: samix compare vanilla mixup samix --seeds 3")
    ablations = tuple(spec.removeprefix(ABLATION) for spec in specs if spec.startswith(ABLATION))
    values = file_values(choice.config or "")
    task = task_of(expand(ablations[0]).recipe) if ablations else LABELLED
    usual = task.task.usual(choice.data or str(values.get("data", "")))
    name = choice.recipe or str(values.get("name", usual))
    task = task_of(name)
    variants = read_variants(specs or ["vanilla"])
    allow_typed(*map(mixup_of, variants))
    parsed = [(v, *read_recipe(mixup_of(v), name, task, choice, values, flags)) for v in variants]
    options, entries = parsed[0][2], tuple(new_entry(v, recipe, task) for v, recipe, _ in parsed)
    if options.equal_time:
        if task is not LABELLED:
            raise UsageError("--equal-time is for recipes with labels")
        entries = equal_time(entries)
    overrides = overridden([recipe for _, recipe, _ in parsed], task)
    plan = Plan(name, entries, overrides, options, (), ablations)
    return dataclasses.replace(plan, jobs=order_jobs(plan))


def check_choice(choice: Choice, flags: Sequence[str]) -> None:
    """Raises UsageError for options of `samix train` that do not hold for several mixups and seeds."""
    if choice.mixup or choice.mixup_preset or any(flag.startswith("--mixup.") for flag in flags):
        raise UsageError("--mixup: name mixups first, with their options: samix compare vanilla samix:alpha=1")
    if choice.resume is not None:
        raise UsageError("a comparison continues by itself: give the same command again, without --resume")
    if any(flag.partition("=")[0] == "--seed" for flag in flags):
        raise UsageError("a comparison takes --seeds N, which runs seeds 0 to N - 1, not --seed")


def file_values(path: str) -> Values:
    """Returns the fields in the file of ``--config``."""
    values = read_config(path, PretrainRecipe)
    decided = sorted(set(values) & set(FIXED))
    if decided:
        raise ValueError(f"the file of --config sets {', '.join(decided)}, which a comparison decides itself")
    return values


def read_variants(specs: Sequence[str]) -> list[Variant]:
    """Returns the rows that are asked for; of an ablation all of them, but for those that are there already."""
    variants: list[Variant] = []
    for spec in specs:
        if spec.startswith(ABLATION):
            variants += [v for v in expand(spec.removeprefix(ABLATION)).variants if v not in variants]
        elif spec.startswith(CONTROL):
            of = spec.removeprefix(CONTROL)
            name, given = split_spec(of)
            variants.append(control_of(label_of(of), name, ",".join(f"{key}={value}" for key, value in given.items())))
        else:
            variants.append(Variant(label_of(spec), spec))
    labels = [variant.label for variant in variants]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"{label} is given twice; name each mixup once, or with other options: {label}:alpha=1")
    return variants


def mixup_of(variant: Variant) -> str:
    """Returns the name of a row's mixup; a placeholder for a Mixer that is not trained yet."""
    name = split_spec(variant.spec)[0]
    return f"{MIXER}{variant.mixer_of}" if variant.mixer_of else name


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Splits ``samix:mask_weight=1,alpha=2`` into name and options; ``mixer:PATH`` is a name."""
    match = SPEC.fullmatch(spec)
    if match is None:
        raise ValueError(f"a mixup is NAME or NAME:option=value,option=value, got {spec!r}")
    pairs = [text.partition("=") for text in (match[2] or "").split(",") if text]
    return match[1], {key.strip().replace("-", "_"): value.strip() for key, _, value in pairs}


def label_of(spec: str) -> str:
    """Returns a row's label: the mixup's name, or the end of its path, and the options."""
    name, options = split_spec(spec)
    options_text = ",".join(f"{k}={v}" for k, v in options.items())
    return (short_name(name) if name.startswith(MIXER) else name) + (f":{options_text}" if options else "")


def read_recipe(
    mixup: str, name: str, scored: ScoredTask, choice: Choice, values: Options, flags: Sequence[str]
) -> tuple[Recipe, CompareOptions]:
    """Returns the recipe of a mixup, changed by the file and the flags, and the options of the comparison."""
    task = scored.task
    if choice.method and "method" not in task.groups:
        raise UsageError(f"--method is for recipes without labels, and {name} has labels")
    recipe: Recipe = task.resolve({**choice.named, "recipe": name, "mixup": mixup}, values, choice.presets)
    cls, own = CompareArguments if scored is LABELLED else ComparePretraining, Values(run=CompareOptions())
    if cls is ComparePretraining:
        own["method"] = choice.named.get("method", "moco")
    description = CompareArguments.__doc__
    given = read(
        cls, flags, "samix compare", description=description, default=cls.at(recipe, choice, own), common=COMMON
    )
    return with_fields(recipe, given.changes()), given.run


def new_entry(variant: Variant, recipe: Recipe, scored: ScoredTask) -> Entry:
    """Returns the row of a mixup."""
    given, name = split_spec(variant.spec)[1], mixup_of(variant)
    group = scored.task.groups["mixup"]
    changes = {key.removeprefix(FIELD): text for key, text in given.items() if key.startswith(FIELD)}
    own = {key: text for key, text in given.items() if not key.startswith(FIELD)}
    try:
        hints = get_type_hints(group.owner(name))
        group.resolve(name, own)  # refuses unknown options
        options = {**recipe.mixup_options, **{k: option_value(k, hints[k], v) for k, v in own.items()}}
        if "preset" in own:
            options = {**scored.task.with_preset("mixup", name, recipe, own["preset"]), **options}
        resolved = group.resolve(name, options)
        if not name.startswith(MIXER):
            owner = options_type(group.owner(name))
            owner(**resolved, **generator_of(owner))  # refuses values out of range
        fields = field_values(changes, recipe, scored)
        base = with_model(recipe, fields["model"]) if "model" in fields else recipe
        changed = dataclasses.replace(base, mixup_options=options, seed=0, **fields)
        check_names(changed)
    except ValueError as error:
        raise ValueError(f"{variant.label}: {error}") from None
    as_named = not changes and resolved == group.resolve(name, recipe.mixup_options)
    return Entry(variant.label, name, changed, variant, scored.published(recipe.name).get(name) if as_named else None)


def field_values(changes: Mapping[str, str], recipe: Recipe, scored: ScoredTask) -> Values:
    """Returns the fields of the recipe that a row changes."""
    hints = get_type_hints(type(recipe))
    free = [name for name in hints if name not in (*FIXED, *scored.skipped, "name", "method")]
    for name in changes:
        if name not in free:
            raise ValueError(f"a mixup cannot change {FIELD}{name}; it can change {', '.join(free)}")
    return {name: option_value(name, hints[name], text) for name, text in changes.items()}


def option_value(key: str, hint: object, text: str) -> object:
    """Returns the text of an option as its field's type."""
    choices = get_args(hint)
    if text in choices or (str in (choices or (hint,)) and text not in ("null", "none")):
        return text
    try:
        return typed(key, hint, None if text == "none" else yaml.safe_load(text))
    except (ValueError, yaml.YAMLError):
        raise ValueError(f"{key} must be {wanted(hint)}, got {text!r}") from None


def overridden(recipes: Sequence[Recipe], scored: ScoredTask) -> Values:
    """Returns fields in which any of the recipes differs from the named one, with the first value that does."""
    changed: Values = {}
    for recipe in recipes:
        own = recipe.to_dict()
        named = {"recipe": recipe.name, "mixup": recipe.mixup, **({"method": own["method"]} if "method" in own else {})}
        base = scored.task.resolve(named).to_dict()
        for key, value in own.items():
            if key not in (*FIXED, *scored.skipped, "name") and base[key] != value:
                changed.setdefault(key, value)
    return changed
