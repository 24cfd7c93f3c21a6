"""Which runs of a comparison are there already, in its folder or in another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from samix.compare.plan import Job, Plan, move_source
from samix.recipes.build import resolve_options
from samix.recipes.pretrain_recipe import recipe_of


def find_finished(plan: Plan) -> Plan:
    """The plan with the folders of ``--reuse`` in place of jobs that were run there.

    Raises:
        ValueError: no such folder, or a folder of this comparison holds another run.
    """
    elsewhere = finished_runs(Path(plan.options.reuse)) if plan.options.reuse else {}
    jobs: list[Job] = []
    moved: dict[Path, Path] = {}
    for planned in plan.jobs:
        job = move_source(planned, moved)
        check_folder(job)
        found = elsewhere.get(as_text(with_all_options(job.recipe.to_dict())))
        if found is not None and not (job.folder / "summary.json").is_file():
            moved[job.folder] = found
            job = dataclasses.replace(job, folder=found)
        jobs.append(job)
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
        found[as_text(with_all_options(completed(recipe)))] = path.parent
    return found


def completed(values: Any) -> Any:
    """A run's recipe; fields that are newer than the run were then what their defaults are."""
    try:
        return recipe_of(values).to_dict()
    except (TypeError, ValueError):  # of another kind, or of a later version
        return values


def with_all_options(values: Any) -> Any:
    """A recipe's values with every option of its mixup: what is said and what is left to a default are then equal."""
    try:
        options = resolve_options(values["mixup"], values["mixup_options"])
    except (KeyError, TypeError, ValueError):  # without labels, options are another class's; or of a later version
        return values
    return {**values, "mixup_options": options}


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
