"""What is to be run: mixups with their options, the recipe of each, and a job for each mixup and seed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from samix.build import MIXER, NAMES, options_owner, resolve_options
from samix.engine import short_name
from samix.options import Command, described, peek, read_config, recipe_fields, typed
from samix.recipes import RECIPES, Recipe, from_dict, named_recipe

ABOUT = """Trains mixups under one recipe with the same seeds, and writes report.html, table.md, table.csv and
results.json. Finished runs are read, interrupted ones continued, so the same command may be given again.

samix compare vanilla mixup cutmix samix --seeds 3 --recipe digits-quick --epochs 20

samix compare vanilla samix samix:mask_weight=2,alpha=1 mixer:runs/NAME/mixer

Beside --seeds, --out, --jobs, --last, --reuse, --read, --publish and where to run, all options are fields of the recipe
and hold for all mixups."""
FIXED = ("mixup", "mixup_options", "seed")  # recipe fields that a comparison decides itself
IMAGENET = ("imagenet", "inat", "places")
SPEC = re.compile(r"(.+?)(?::([A-Za-z_][\w-]*=.*))?")  # NAME or NAME:option=value,...


@dataclass(frozen=True)
class CompareOptions:
    """How a comparison is run; nothing here changes a run's result.

    Args:
        seeds: runs of each mixup, with seeds 0, 1, ...
        out: folder of the comparison; empty is runs/compare-RECIPE.
        jobs: runs side by side; 0 takes one for each CPU core, or one on a GPU.
        last: epochs at the end over whose evaluations the median is taken; 0 takes 5 for ImageNet, iNaturalist and
            Places in up to 100 epochs, else 10.
        reuse: folder of runs, as ``samix train --out`` leaves them; those of exactly the same recipe are read.
        read: trains nothing: what is finished in ``out`` is read, also while another comparison works there.
        publish: path without ending, also to write the results to: PATH.md, PATH.json and PATH.png.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_root: where torchvision's data sets lie.
        download: fetch those that are missing.
        quiet: no table while it runs.
    """

    seeds: int = 3
    out: str = ""
    jobs: int = 0
    last: int = 0
    reuse: str = ""
    read: bool = False
    publish: str = ""
    device: str = "auto"
    data_root: str = "data"
    download: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        for name in ("jobs", "last"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Entrant:
    """One of the mixups compared.

    Args:
        label: as tables name it.
        mixup: its name, or mixer:PATH.
        recipe: with seed 0; None where the options are wrong.
        error: what is wrong with its options.
    """

    label: str
    mixup: str
    recipe: Recipe | None
    error: str = ""


@dataclass(frozen=True, eq=False)  # known by being the same object
class Job:
    """One run: an entrant with a seed, and where it lies."""

    label: str
    seed: int
    recipe: Recipe
    folder: Path


@dataclass(frozen=True)
class Plan:
    """A comparison: who, under which recipe, how, and the jobs in the order in which they start.

    ``overrides`` are the recipe's fields that differ from the named recipe.
    """

    recipe_name: str
    entrants: tuple[Entrant, ...]
    overrides: dict[str, Any]
    options: CompareOptions
    jobs: tuple[Job, ...]

    @property
    def out(self) -> Path:
        """The folder of the comparison."""
        return Path(self.options.out or f"runs/compare-{self.recipe_name}")

    @property
    def last(self) -> int:
        """Evaluations at the end of a run over which the median is taken."""
        recipe = next((e.recipe for e in self.entrants if e.recipe is not None), Recipe())
        return self.options.last or median_epochs(recipe)


def median_epochs(recipe: Recipe) -> int:
    """The published rule: 5 for ImageNet, iNaturalist and Places in up to 100 epochs, else 10."""
    return 5 if recipe.data.startswith(IMAGENET) and recipe.epochs <= 100 else 10


def read_plan(arguments: list[str]) -> Plan:
    """The plan of a command line: mixups first, then options.

    Raises:
        ValueError: no mixup, unknown names, the same mixup twice, or options that a comparison decides itself.
    """
    count = next((n for n, a in enumerate(arguments) if a.startswith("-")), len(arguments))
    specs, flags = arguments[:count], arguments[count:]
    if not specs and not {"-h", "--help"} & set(flags):
        raise ValueError("name the mixups first: samix compare vanilla mixup samix --seeds 3")
    check_specs(specs)
    check_flags(flags)
    parsed = [(spec, *parse_recipe(split_spec(spec)[0], flags)) for spec in specs or ["vanilla"]]
    options = parsed[0][2]
    entrants = tuple(new_entrant(spec, recipe) for spec, recipe, _ in parsed)
    names = peek(flags, "--recipe") or parsed[0][1].name
    overrides = overridden([recipe for _, recipe, _ in parsed])
    plan = Plan(names, entrants, overrides, options, ())
    return dataclasses.replace(plan, jobs=order_jobs(plan))


def check_specs(specs: Sequence[str]) -> None:
    """Raises ValueError for an unknown mixup, or one that is given twice."""
    labels = [label_of(spec) for spec in specs]
    for spec, label in zip(specs, labels, strict=True):
        name = split_spec(spec)[0]
        if name not in NAMES and not name.startswith(MIXER):
            raise ValueError(f"unknown mixup {name!r}; choose one of {', '.join(NAMES)}, or {MIXER}PATH")
        if labels.count(label) > 1:
            raise ValueError(f"{label} is given twice; name each mixup once, or with other options: {label}:alpha=1")


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


def parse_recipe(mixup: str, flags: list[str]) -> tuple[Recipe, CompareOptions]:
    """The recipe of a mixup with what the flags change in it, and the options of the comparison.

    Raises:
        ValueError: unknown recipe or fields.
    """
    import tyro

    values = read_config(peek(flags, "--config"), Recipe)
    decided = sorted(set(values) & set(FIXED))
    if decided:
        raise ValueError(f"the file of --config sets {', '.join(decided)}, which a comparison decides itself")
    name = peek(flags, "--recipe", values.get("name", next(iter(RECIPES))))
    recipe = from_dict({**values, "name": name}, named_recipe(name, mixup))
    command = Command("samix compare", ABOUT, {}, Recipe, {}, {})
    fields = [field for field in recipe_fields(recipe, command) if field[0] not in FIXED]
    whole = dataclasses.make_dataclass(
        "Compare",
        [
            described("recipe", f"named recipe: {', '.join(RECIPES)}", recipe.name),
            described("config", "file of recipe fields, .json or .yaml", ""),
            ("options", Annotated[CompareOptions, tyro.conf.arg(name="")], dataclasses.field(default=CompareOptions())),
            *fields,
        ],
    )
    chosen: Any = tyro.cli(whole, args=flags, prog=command.prog, description=command.description)
    return dataclasses.replace(recipe, **{name: getattr(chosen, name) for name, *_ in fields}), chosen.options


def new_entrant(spec: str, recipe: Recipe) -> Entrant:
    """The entrant; wrong options are kept as its error, so that the others can run."""
    name, given = split_spec(spec)
    try:
        hints = get_type_hints(options_owner(name))
        values = {key: option_value(key, hints.get(key, str), text) for key, text in given.items()}
        own = {**recipe.mixup_options, **values}
        resolve_options(name, own)
    except ValueError as error:
        return Entrant(label_of(spec), name, None, str(error))
    return Entrant(label_of(spec), name, dataclasses.replace(recipe, mixup_options=own, seed=0))


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


def overridden(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """Fields in which any of the recipes differs from the named one, with the first value that does."""
    found: dict[str, Any] = {}
    for recipe in recipes:
        base, own = named_recipe(recipe.name, recipe.mixup).to_dict(), recipe.to_dict()
        for key, value in own.items():
            if key not in (*FIXED, "name") and base[key] != value:
                found.setdefault(key, value)
    return found


def order_jobs(plan: Plan) -> tuple[Job, ...]:
    """Seed by seed; within a seed learned mixups first, since they take longest and would otherwise end alone."""
    from samix.build import METHODS

    jobs = []
    for seed in range(plan.options.seeds):
        for entrant in sorted(plan.entrants, key=lambda e: e.mixup not in METHODS):
            if entrant.recipe is not None:
                folder = plan.out / f"{re.sub(r'[^A-Za-z0-9_.=,-]+', '-', entrant.label)}-s{seed}"
                jobs.append(Job(entrant.label, seed, dataclasses.replace(entrant.recipe, seed=seed), folder))
    return tuple(jobs)


def find_finished(plan: Plan) -> Plan:
    """The plan with the folders of ``--reuse`` in place of jobs that were run there.

    Raises:
        ValueError: no such folder, or a folder of this comparison holds another run.
    """
    elsewhere = finished_runs(Path(plan.options.reuse)) if plan.options.reuse else {}
    jobs = []
    for job in plan.jobs:
        check_folder(job)
        found = elsewhere.get(as_text(job.recipe.to_dict()))
        own = (job.folder / "summary.json").is_file()
        jobs.append(dataclasses.replace(job, folder=found) if found is not None and not own else job)
    return dataclasses.replace(plan, jobs=tuple(jobs))


def finished_runs(folder: Path) -> dict[str, Path]:
    """The finished runs in a folder, by their recipe.

    Raises:
        ValueError: no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"--reuse {folder}: no such folder; it holds runs, as samix train --out leaves them")
    found = {}
    for path in sorted(folder.glob("*/summary.json")):
        recipe = json.loads(path.read_text(encoding="utf-8")).get("recipe")
        found[as_text(completed(recipe))] = path.parent
    return found


def completed(values: Any) -> Any:
    """A run's recipe; fields that are newer than the run were then what their defaults are."""
    try:
        return from_dict(values).to_dict()
    except (TypeError, ValueError):  # of another kind, or of a later version
        return values


def as_text(recipe: Any) -> str:
    """A recipe's values as text that is equal for equal ones."""
    return json.dumps(recipe, sort_keys=True)


def check_folder(job: Job) -> None:
    """Raises ValueError where the job's folder holds a run of another recipe."""
    path = job.folder / "recipe.json"
    if not path.is_file():
        return
    old, new = (json.loads(as_text(v)) for v in (completed(json.loads(path.read_text("utf-8"))), job.recipe.to_dict()))
    differing = [f"{k} was {old.get(k)!r}, is {new[k]!r}" for k in new if old.get(k) != new[k]]
    if differing:
        raise ValueError(
            f"{job.folder} is of another recipe ({'; '.join(differing)}); compare with the same options, or choose "
            "another --out"
        )


def side_by_side(options: CompareOptions) -> int:
    """How many runs go on at a time."""
    import torch

    on_gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    return options.jobs or (1 if on_gpu else cores())


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
