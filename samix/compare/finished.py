"""Finds runs of a comparison that are finished already, in its folder or in another."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from samix.compare.plan import Job, Plan, move_source
from samix.recipes.build import resolve_options
from samix.recipes.pretrain_recipe import recipe_of

Values = Mapping[str, object]  # of a recipe


def find_finished(plan: Plan) -> Plan:
    """Replaces jobs that were run in the folder of ``--reuse`` by these runs.

    Raises:
        ValueError: no such folder, or a folder of this comparison holds another run.
    """
    elsewhere = finished_runs(Path(plan.options.reuse)) if plan.options.reuse else {}
    jobs: list[Job] = []
    moved: dict[Path, Path] = {}
    for planned in plan.jobs:
        job = move_source(planned, moved)
        check_folder(job)
        folder = elsewhere.get(as_text(with_all_options(job.recipe.to_dict())))
        if folder is not None and not (job.folder / "summary.json").is_file():
            moved[job.folder] = folder
            job = dataclasses.replace(job, folder=folder)
        jobs.append(job)
    return dataclasses.replace(plan, jobs=tuple(jobs))


def finished_runs(folder: Path) -> dict[str, Path]:
    """Returns the finished runs in a folder, by their recipe."""
    if not folder.is_dir():
        raise ValueError(f"--reuse {folder}: no such folder; it holds runs, as samix train --out leaves them")
    runs = {}
    for path in sorted(folder.glob("*/summary.json")):
        recipe = json.loads(path.read_text(encoding="utf-8")).get("recipe")
        runs[as_text(with_all_options(completed(recipe)))] = path.parent
    return runs


def completed(values: Values) -> Values:
    """Gives fields that are newer than a run their defaults."""
    try:
        return recipe_of(values).to_dict()
    except (TypeError, ValueError):  # of another task, or of a later version
        return values


def with_all_options(values: Values) -> Values:
    """Writes every option of the mixup out, so that a default and the same value given are equal."""
    try:
        options = resolve_options(values["mixup"], values["mixup_options"])  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):  # without labels, options are another class's; or of a later version
        return values
    return {**values, "mixup_options": options}


def as_text(recipe: Values) -> str:
    """Writes a recipe's values as text that is equal for equal recipes."""
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
